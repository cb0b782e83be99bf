//! Everything that is not a whole frame in one place: piece by piece, over buffers and calls.

use core::hint::cold_path;

use super::streams::{enter_stream, forget_stream};
use super::{COPY_BYTES, COPY_MASK, Memory, POSITION_MASK, WINDOW_BYTES, at_boundary, fetch, kept, place};
use crate::flow::{
    Flow, PHASE_COPY, PHASE_DATA, PHASE_HEADER, PHASE_PAD, PHASE_PREFACE, PHASE_SKIP, PHASE_UNSYNCED,
    STOP_BAD_FRAME, STOP_FAULT, STOP_NOT_HTTP2, Walk,
};
use crate::frame::{
    CONTINUATION, DATA, END_STREAM, FrameHeader, HEADER_BYTES, PADDED, PREFACE, PREFACE_BYTES, RST_STREAM,
    SETTINGS,
};
use crate::ring::CHUNK_BOUNDARY;

/// A step of a frame that does not lie whole in what was read; false if the walk is over.
#[inline(always)]
pub(super) unsafe fn piece<M: Memory>(walk: *mut Walk, flow: *mut Flow) -> bool {
    // SAFETY: the module's contract, handed on to each part.
    unsafe {
        leave_out(walk, flow);
        if get!(walk.segment_left) == 0 {
            return true;
        }
        if u32::from(get!(flow.phase)) == PHASE_DATA && get!(flow.left) <= u32::from(get!(flow.padding)) {
            // The message goes on in another frame; only padding is left of this one.
            return true;
        }
        decide(walk, flow);
        if !bring::<M>(walk, flow) {
            cold_path();
            set!(walk.stop = STOP_FAULT);
            set!(flow.phase = PHASE_UNSYNCED as u8);
            return false;
        }
        let phase = u32::from(get!(flow.phase));
        if phase == PHASE_HEADER {
            header::<M>(walk, flow);
        } else if phase == PHASE_COPY {
            copy(walk, flow);
        } else if phase == PHASE_DATA {
            prefix::<M>(walk, flow);
        } else if phase == PHASE_PAD {
            pad(walk, flow);
        } else {
            preface::<M>(walk, flow);
        }
        get!(walk.stop) == 0
    }
}

/// Steps over what is not shipped: message bodies, padding, payloads of unknown types.
#[inline(always)]
unsafe fn leave_out(walk: *mut Walk, flow: *mut Flow) {
    let phase = u32::from(get!(flow.phase));
    if phase != PHASE_DATA && phase != PHASE_SKIP {
        return;
    }
    let left = u64::from(get!(flow.left));
    let padding = u64::from(get!(flow.padding));
    let message = u64::from(get!(flow.message));
    let segment = get!(walk.segment_left);
    let in_message = phase == PHASE_DATA && left > padding;
    let mut bytes = left;
    if in_message {
        let body = left - padding;
        bytes = if message < body { message } else { body };
    }
    if bytes > segment {
        bytes = segment;
    }
    set!(walk.want = bytes);
    let bytes = get!(walk.want);
    if bytes == 0 {
        return;
    }
    if in_message {
        set!(flow.message = (message - bytes) as u32);
    }
    set!(flow.left = (left - bytes) as u32);
    set!(walk.window = get!(walk.window).saturating_sub(bytes));
    set!(walk.ahead = get!(walk.ahead) + bytes);
    set!(walk.at = get!(walk.at) + bytes);
    set!(walk.cursor = get!(walk.cursor) + bytes);
    set!(walk.segment_left = segment - bytes);
    set!(walk.total_left = get!(walk.total_left) - bytes);
    if get!(flow.left) == 0 {
        // SAFETY: the module's contract.
        unsafe { end_frame(walk, flow) };
    }
}

/// How many bytes the step wants, and where they go.
#[inline(always)]
unsafe fn decide(walk: *mut Walk, flow: *mut Flow) {
    let phase = u32::from(get!(flow.phase));
    let have = u64::from(get!(flow.header_have));
    let segment = get!(walk.segment_left);
    let left = u64::from(get!(flow.left));
    let mut want = 1;
    let mut starts_frame = false;
    if phase == PHASE_HEADER {
        starts_frame = have == 0;
        want = if have == 0 { WINDOW_BYTES } else { HEADER_BYTES - have };
    } else if phase == PHASE_COPY {
        want = if left < COPY_BYTES { left } else { COPY_BYTES };
    } else if phase == PHASE_DATA {
        let body = left - u64::from(get!(flow.padding));
        want = 5 - u64::from(get!(flow.prefix_have));
        if want > body {
            want = body;
        }
    } else if phase == PHASE_PREFACE && have == 0 && segment >= PREFACE_BYTES {
        want = PREFACE_BYTES;
    }
    set!(walk.want = if want < segment { want } else { segment });
    let adjacent = get!(walk.chunk_end) == get!(walk.at);
    if !adjacent || (starts_frame && get!(walk.chunk_flags) & u64::from(CHUNK_BOUNDARY) == 0) {
        let chunk = (get!(walk.position) + 7) & POSITION_MASK & !7;
        set!(walk.chunk = chunk);
        set!(walk.chunk_len = 0);
        set!(walk.chunk_flags = if starts_frame { u64::from(CHUNK_BOUNDARY) } else { 0 });
        set!(walk.position = chunk + 8);
    }
    if get!(walk.ahead) != get!(walk.position) {
        set!(walk.window = 0);
    }
}

/// Makes sure that the wanted bytes are at `position`.
#[inline(always)]
unsafe fn bring<M: Memory>(walk: *mut Walk, flow: *mut Flow) -> bool {
    let want = get!(walk.want);
    let window = get!(walk.window);
    let enough =
        if want > HEADER_BYTES && u32::from(get!(flow.phase)) == PHASE_HEADER { HEADER_BYTES } else { want };
    if window >= enough {
        return true;
    }
    set!(walk.window = want);
    set!(walk.ahead = get!(walk.position));
    let bytes = get!(walk.want) & COPY_MASK;
    // SAFETY: position and length are masked so that they stay in `out`.
    unsafe { fetch::<M>(walk, here(walk), bytes) >= 0 }
}

/// The bytes of this step.
#[inline(always)]
unsafe fn here(walk: *mut Walk) -> *mut u8 {
    // SAFETY: the module's contract.
    unsafe { place(walk, get!(walk.position)) }
}

/// The step's first `bytes` are part of the chunk: they are kept, and everything moves on.
#[inline(always)]
unsafe fn commit(walk: *mut Walk, bytes: u64) {
    set!(walk.window = get!(walk.window) - bytes);
    set!(walk.ahead = get!(walk.ahead) + bytes);
    // SAFETY: the module's contract.
    unsafe { kept(walk, get!(walk.at), get!(walk.chunk_len) + bytes, bytes, bytes) };
}

/// Takes bytes of a frame header, and if it is whole and in one piece, the payload that came along.
#[inline(always)]
unsafe fn header<M: Memory>(walk: *mut Walk, flow: *mut Flow) {
    let have = u64::from(get!(flow.header_have));
    let window = get!(walk.window);
    let whole = have == 0 && window >= HEADER_BYTES;
    // SAFETY: the module's contract; `here` leaves room for these reads behind the mask.
    unsafe {
        if whole {
            set!(walk.found = u64::from(here(walk).read_volatile()));
            set!(flow.header = M::load(here(walk).add(1)));
            set!(walk.want = HEADER_BYTES);
        } else {
            let bytes = get!(walk.want) & 15;
            let before = get!(flow.header);
            let piece = M::load(here(walk)) >> ((64 - bytes * 8) & 63);
            set!(walk.found = before >> ((64 - bytes * 8) & 63));
            set!(flow.header = if bytes == 8 { piece } else { before << ((bytes * 8) & 63) | piece });
            set!(flow.header_have = (have + bytes) as u8);
            if have + bytes < HEADER_BYTES {
                commit(walk, bytes);
                return;
            }
        }
    }
    let frame = FrameHeader::from_parts(get!(walk.found), get!(flow.header));
    // Three credible headers in a row are proof enough for what follows them.
    let guessing = get!(walk.probing) != 0 && get!(walk.frames) < 3;
    let legal = if guessing { frame.is_credible() } else { frame.is_legal() };
    set!(walk.found = u64::from(legal));
    if get!(walk.found) == 0 {
        cold_path();
        set!(walk.stop = STOP_BAD_FRAME);
        set!(flow.phase = PHASE_UNSYNCED as u8);
        return;
    }
    if get!(flow.first) != 0 {
        cold_path();
        if frame.kind != SETTINGS {
            set!(walk.stop = STOP_NOT_HTTP2);
            return;
        }
        set!(flow.first = 0);
    }
    set!(flow.header_have = 0);
    set!(flow.kind = frame.kind as u8);
    set!(flow.flags = frame.flags as u8);
    set!(flow.left = frame.length);
    set!(flow.padding = 0);
    set!(walk.frames = get!(walk.frames) + 1);
    set!(walk.found = u64::from(frame.stream & 0x7fff_ffff));
    // A header in pieces was begun in another call, or was shipped with this one.
    if whole {
        set!(walk.plain = get!(walk.plain) + frame.is_plain());
    }
    if frame.kind == DATA && get!(walk.shed) == 0 {
        set!(flow.phase = (if frame.flags & PADDED != 0 { PHASE_PAD } else { PHASE_DATA }) as u8);
        // SAFETY: the module's contract.
        unsafe { enter_stream::<M>(walk, flow) };
    } else if frame.kind != DATA && frame.kind <= CONTINUATION {
        set!(flow.phase = PHASE_COPY as u8);
        if frame.kind == RST_STREAM {
            // SAFETY: the module's contract.
            unsafe { forget_stream::<M>(walk, flow) };
        }
    } else {
        set!(flow.phase = PHASE_SKIP as u8);
    }
    let mut bytes = get!(walk.want);
    let left = u64::from(get!(flow.left));
    if whole && u32::from(get!(flow.phase)) == PHASE_COPY {
        let along = get!(walk.window) - HEADER_BYTES;
        let along = if along < left { along } else { left };
        set!(flow.left = (left - along) as u32);
        bytes += along;
    }
    // SAFETY: the module's contract.
    unsafe {
        commit(walk, bytes);
        if get!(flow.left) == 0 {
            end_frame(walk, flow);
        }
    }
}

/// The current frame is complete.
#[inline(always)]
unsafe fn end_frame(walk: *mut Walk, flow: *mut Flow) {
    if u32::from(get!(flow.kind)) == DATA {
        set!(walk.data_ended = 1);
        if u32::from(get!(flow.flags)) & END_STREAM != 0 {
            set!(flow.message = 0);
            set!(flow.prefix = 0);
            set!(flow.prefix_have = 0);
        }
    }
    set!(flow.phase = PHASE_HEADER as u8);
    set!(flow.header_have = 0);
}

/// A piece of a payload that is shipped whole.
#[inline(always)]
unsafe fn copy(walk: *mut Walk, flow: *mut Flow) {
    let bytes = get!(walk.want);
    set!(flow.left = get!(flow.left) - bytes as u32);
    // SAFETY: the module's contract.
    unsafe {
        commit(walk, bytes);
        if get!(flow.left) == 0 {
            end_frame(walk, flow);
        }
    }
}

/// Bytes of a message prefix: compressed flag and length (gRPC over HTTP/2, Length-Prefixed-Message).
#[inline(always)]
unsafe fn prefix<M: Memory>(walk: *mut Walk, flow: *mut Flow) {
    let bytes = get!(walk.want) & 7;
    let have = get!(flow.prefix_have);
    // SAFETY: the module's contract; `here` leaves room for the read behind the mask.
    let piece = unsafe { M::load(here(walk)) } >> ((64 - bytes * 8) & 63);
    let value = get!(flow.prefix) << ((bytes * 8) & 63) | piece;
    set!(flow.left = get!(flow.left) - bytes as u32);
    set!(walk.found = value);
    if u64::from(have) + bytes < 5 {
        set!(flow.prefix = value);
        set!(flow.prefix_have = have + bytes as u8);
    } else {
        let value = get!(walk.found);
        set!(flow.prefix = 0);
        set!(flow.prefix_have = 0);
        if value >> 32 > 1 {
            // Not a gRPC message: nothing in this frame can be counted.
            set!(flow.phase = PHASE_SKIP as u8);
        } else {
            set!(flow.message = value as u32);
        }
    }
    // SAFETY: the module's contract.
    unsafe {
        commit(walk, bytes);
        if get!(flow.left) == 0 {
            end_frame(walk, flow);
        }
    }
}

/// The pad length octet of DATA (RFC 9113 §6.1).
#[inline(always)]
unsafe fn pad(walk: *mut Walk, flow: *mut Flow) {
    let left = get!(flow.left) - 1;
    // SAFETY: the module's contract.
    let octet = u32::from(unsafe { here(walk).read_volatile() });
    set!(flow.padding = (if octet < left { octet } else { left }) as u8);
    set!(flow.left = left);
    set!(flow.phase = PHASE_DATA as u8);
    // SAFETY: the module's contract.
    unsafe {
        commit(walk, 1);
        if left == 0 {
            end_frame(walk, flow);
        }
    }
}

/// Bytes of the client preface.
#[inline(always)]
unsafe fn preface<M: Memory>(walk: *mut Walk, flow: *mut Flow) {
    let have = u64::from(get!(flow.header_have));
    let bytes = get!(walk.want);
    // SAFETY: the module's contract; `here` leaves room for the reads, the index is masked to the array.
    let same = unsafe {
        let seen = here(walk);
        if bytes == PREFACE_BYTES {
            M::load(seen) == u64::from_be_bytes(*b"PRI * HT")
                && M::load(seen.add(8)) == u64::from_be_bytes(*b"TP/2.0\r\n")
                && M::load(seen.add(16)) == u64::from_be_bytes(*b"\r\nSM\r\n\r\n")
        } else {
            seen.read_volatile()
                == (&raw const PREFACE).cast::<u8>().add((have & 31) as usize).read_volatile()
        }
    };
    set!(walk.found = u64::from(same));
    if get!(walk.found) == 0 {
        set!(walk.stop = STOP_NOT_HTTP2);
        return;
    }
    let have = have + bytes;
    set!(flow.header_have = have as u8);
    // SAFETY: the module's contract.
    unsafe {
        commit(walk, bytes);
        if have >= PREFACE_BYTES {
            at_boundary(flow);
        }
    }
}
