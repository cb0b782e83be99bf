//! The frame walker: follows 9-byte frame headers over the buffers of a socket call and copies everything
//! but the payload of DATA, of which it copies gRPC's 5-byte message prefixes.
//!
//! The same code runs in the kernel and, against plain memory, in tests. It decides what is left out and
//! nothing else: a wrong decision costs bytes, never truth, since user space parses what was copied again.
//! It is written for the kernel's verifier: one step at a time, all state in map values behind raw pointers,
//! and every decision written to memory and read back before it is used.
#![expect(unsafe_code, reason = "map values are raw pointers that only the kernel's verifier can vouch for")]
#![expect(unused_unsafe, reason = "the field macros stand inside and outside of unsafe blocks")]
#![expect(clippy::missing_safety_doc, reason = "one contract for all: see `Memory`")]

use crate::flow::{
    Flow, IOVECS, NO_CHUNK, PHASE_COPY, PHASE_DATA, PHASE_HEADER, PHASE_PAD, PHASE_PREFACE, PHASE_SKIP,
    PHASE_UNSYNCED, STOP_BAD_FRAME, STOP_FAULT, STOP_NOT_HTTP2, STOP_SHORT, STOP_UNCONFIRMED, StreamState,
    Walk,
};
use crate::frame::{
    CONTINUATION, DATA, END_STREAM, FrameHeader, HEADER_BYTES, PADDED, PREFACE, PREFACE_BYTES, RST_STREAM,
    SETTINGS,
};
use crate::ring::CHUNK_BOUNDARY;

/// What the walker needs from where it runs.
///
/// # Safety
///
/// Callers of this module's functions pass pointers to a [`Walk`] and a [`Flow`] that nobody else uses
/// meanwhile; implementors may rely on it and get the same pointers handed on.
pub unsafe trait Memory {
    /// Copies `bytes` of the observed process at `from`; negative if that is not possible.
    unsafe fn read(to: *mut u8, bytes: u64, from: u64) -> i64;
    /// Copies `bytes` of iovecs from `walk.iovec_next` to `walk.iovecs`.
    unsafe fn read_iovecs(walk: *mut Walk, bytes: u64) -> i64;
    /// Copies `bytes` inside of `walk.out`, to a lower address; up to `to + room` may be overwritten.
    unsafe fn shift(to: *mut u8, bytes: u64, from: *const u8, room: u64);
    /// Eight bytes, big-endian, at any alignment.
    unsafe fn load(from: *const u8) -> u64;
    /// Sends the record in `walk`; more of the same call follow.
    unsafe fn flush(walk: *mut Walk, flow: *mut Flow);
    /// Keeps `walk.stream_state` under `walk.stream_key`; false if it could not.
    unsafe fn keep_stream(walk: *mut Walk) -> bool;
    /// Takes out what is kept under `walk.stream_key`, into `walk.stream_state`; false if there is nothing.
    unsafe fn take_stream(walk: *mut Walk) -> bool;
}

/// Return value of [`step`]: call it again.
pub const AGAIN: u64 = 0;
/// Return value of [`step`]: the call's bytes are walked, or `walk.stop` says why not.
pub const DONE: u64 = 1;

/// Bytes read at once where a frame header is expected: the frames of a usual call, HEADERS, DATA and
/// trailers, come with one read.
const WINDOW_BYTES: u64 = 512;
/// Largest copy of a frame that lies whole in what was read.
const FRAME_MASK: u64 = 1023;
/// Bytes copied at once of a payload that is shipped whole.
const COPY_BYTES: u64 = 4032;
/// Chunks are sent when this much of `out` is used; a window behind it stays within the position mask.
const FLUSH_AT: u64 = 7424;
/// Where chunks may begin; `out` is larger, so that one step more always fits.
const POSITION_MASK: u64 = 8191;
/// End of a message prefix that follows its frame header at once.
const PREFIX_END: u64 = HEADER_BYTES + 5;
/// Largest single copy.
const COPY_MASK: u64 = 4095;

/// Reads a field so that neither compiler nor verifier carries over what it was.
macro_rules! get {
    ($p:ident . $field:ident) => {
        // SAFETY: the module's contract: `$p` points to a whole, aligned value that is ours.
        unsafe { core::ptr::read_volatile(&raw const (*$p).$field) }
    };
}
/// Writes a field likewise.
macro_rules! set {
    ($p:ident . $field:ident = $value:expr) => {{
        let value = $value;
        // SAFETY: the module's contract: `$p` points to a whole, aligned value that is ours.
        unsafe { core::ptr::write_volatile(&raw mut (*$p).$field, value) }
    }};
}

/// Makes `walk` ready for a call whose buffers are described already.
#[inline(always)]
pub unsafe fn begin(walk: *mut Walk, probing: bool) {
    set!(walk.at = 0);
    set!(walk.position = 0);
    set!(walk.window = 0);
    set!(walk.ahead = 0);
    set!(walk.chunk = 0);
    set!(walk.chunk_len = 0);
    set!(walk.chunk_end = NO_CHUNK);
    set!(walk.frames = 0);
    set!(walk.data_ended = 0);
    set!(walk.stop = 0);
    set!(walk.steps = 0);
    set!(walk.probing = u64::from(probing));
}

/// Bytes of chunks in `out`: a chunk that was begun and got nothing does not count.
#[inline(always)]
#[must_use]
pub unsafe fn payload(walk: *mut Walk) -> u64 {
    if get!(walk.chunk_len) == 0 { get!(walk.chunk) } else { get!(walk.position) }
}

/// Starts `flow` at what may be a frame boundary.
#[inline(always)]
pub unsafe fn at_boundary(flow: *mut Flow) {
    set!(flow.phase = PHASE_HEADER as u8);
    set!(flow.header_have = 0);
    set!(flow.header = 0);
    set!(flow.left = 0);
    set!(flow.message = 0);
    set!(flow.prefix = 0);
    set!(flow.prefix_have = 0);
}

/// `bytes` of the flow were moved without being seen. Inside a payload that leaves the boundary known;
/// anywhere else it is lost. Returns false if it is lost by this.
#[inline(always)]
pub unsafe fn skip_unseen(flow: *mut Flow, bytes: u64) -> bool {
    let phase = u32::from(get!(flow.phase));
    let left = u64::from(get!(flow.left));
    if (phase == PHASE_COPY || phase == PHASE_DATA || phase == PHASE_SKIP) && bytes <= left {
        let message = u64::from(get!(flow.message));
        if phase == PHASE_DATA {
            if bytes <= message {
                set!(flow.message = (message - bytes) as u32);
            } else {
                // A prefix went by unseen: the rest of the frame cannot be read as messages.
                set!(flow.phase = PHASE_SKIP as u8);
                set!(flow.message = 0);
                set!(flow.prefix_have = 0);
                set!(flow.prefix = 0);
            }
        }
        set!(flow.left = (left - bytes) as u32);
        if bytes == left {
            set!(flow.phase = PHASE_HEADER as u8);
            set!(flow.header_have = 0);
        }
        return true;
    }
    let known = (PHASE_PREFACE..=PHASE_SKIP).contains(&phase);
    set!(flow.phase = PHASE_UNSYNCED as u8);
    !known
}

/// Whether a walk that began at a guessed boundary confirms it: three headers that follow each other, or
/// frames that end exactly where the call's bytes end.
#[inline(always)]
#[must_use]
pub unsafe fn is_confirmed(walk: *mut Walk, flow: *mut Flow) -> bool {
    let frames = get!(walk.frames);
    let tiles = u32::from(get!(flow.phase)) == PHASE_HEADER && get!(flow.header_have) == 0;
    get!(walk.stop) == 0 && (frames >= 3 || (frames >= 1 && tiles))
}

/// One step: the next buffer, a whole frame, or one read of at most a window or a piece of payload.
#[inline(always)]
pub unsafe fn step<M: Memory>(walk: *mut Walk, flow: *mut Flow) -> u64 {
    // SAFETY: the module's contract, handed on to each part.
    unsafe {
        if get!(walk.segment_left) == 0 && !next_segment::<M>(walk) {
            return DONE;
        }
        set!(walk.found = u64::from(whole_frame::<M>(walk, flow)));
        if get!(walk.found) == 0 && !piece::<M>(walk, flow) {
            return DONE;
        }
        if get!(walk.position) >= FLUSH_AT {
            if get!(walk.probing) != 0 {
                if get!(walk.frames) < 3 {
                    set!(walk.stop = STOP_UNCONFIRMED);
                    set!(flow.phase = PHASE_UNSYNCED as u8);
                    return DONE;
                }
                set!(walk.probing = 0);
            }
            M::flush(walk, flow);
            set!(walk.position = 0);
            set!(walk.window = 0);
            set!(walk.chunk = 0);
            set!(walk.chunk_len = 0);
            set!(walk.chunk_end = NO_CHUNK);
        }
        if get!(walk.total_left) == 0 { DONE } else { AGAIN }
    }
}

/// Takes a frame that begins here, if all that is kept of it lies in what was read ahead: control frames,
/// and DATA that holds one message, a part of one, or nothing. False if it has to go piece by piece.
///
/// Nearly every frame of a gRPC connection goes this way. One read serves all frames in a window, numbers
/// stay in registers and the state is written once a frame, which halves the cost of a call.
#[inline(always)]
unsafe fn whole_frame<M: Memory>(walk: *mut Walk, flow: *mut Flow) -> bool {
    let starts = u32::from(get!(flow.phase)) == PHASE_HEADER && get!(flow.header_have) == 0;
    let segment = get!(walk.segment_left);
    if !starts || segment < HEADER_BYTES || get!(flow.first) != 0 || get!(walk.probing) != 0 {
        return false;
    }
    let at = get!(walk.at);
    let mut position = get!(walk.position);
    let mut chunk = get!(walk.chunk);
    let mut len = get!(walk.chunk_len);
    if get!(walk.chunk_end) != at || get!(walk.chunk_flags) != u64::from(CHUNK_BOUNDARY) {
        chunk = (position + 7) & POSITION_MASK & !7;
        len = 0;
        position = chunk + 8;
    }
    if get!(walk.window) < PREFIX_END && get!(walk.window) < segment || get!(walk.ahead) < position {
        set!(walk.window = if segment < WINDOW_BYTES { segment } else { WINDOW_BYTES });
        set!(walk.ahead = position);
        let bytes = get!(walk.window) & FRAME_MASK;
        // SAFETY: place and length are masked so that they stay in `out`.
        if unsafe { M::read(place(walk, get!(walk.ahead)), bytes, get!(walk.cursor)) } < 0 {
            set!(walk.window = 0);
            return false;
        }
    }
    let window = get!(walk.window);
    // SAFETY: masked; `out` leaves room for these reads behind the mask.
    let frame = unsafe {
        let seen = place(walk, get!(walk.ahead));
        set!(walk.found = M::load(seen.add(9)));
        FrameHeader::from_parts(u64::from(seen.read_volatile()), M::load(seen.add(1)))
    };
    let length = u64::from(frame.length);
    let stream = frame.stream & 0x7fff_ffff;
    let mut keep = HEADER_BYTES + length;
    let mut skip = 0;
    if frame.kind == DATA {
        let mut message = u64::from(get!(flow.message));
        if frame.flags & PADDED != 0
            || stream == 0
            || get!(flow.saved) != 0
            || get!(flow.prefix_have) != 0
            || (message != 0 && stream != get!(flow.stream))
        {
            return false;
        }
        keep = HEADER_BYTES;
        if message == 0 && length != 0 {
            let prefix = get!(walk.found);
            if length < 5 || window < PREFIX_END || prefix >> 56 > 1 {
                return false;
            }
            message = (prefix >> 24 & 0xffff_ffff) + 5;
            keep = PREFIX_END;
        }
        if length > message {
            return false; // Another message begins in this frame.
        }
        let end = HEADER_BYTES + length;
        skip = end - keep;
        if skip > segment - keep {
            skip = segment - keep;
        }
        let left = end - keep - skip;
        message -= length - left;
        set!(flow.stream = stream);
        set!(flow.kind = DATA as u8);
        set!(flow.flags = frame.flags as u8);
        set!(flow.padding = 0);
        set!(flow.left = left as u32);
        if left != 0 {
            set!(flow.phase = PHASE_DATA as u8);
        } else {
            set!(walk.data_ended = 1);
            if frame.flags & END_STREAM != 0 {
                message = 0;
            }
        }
        set!(flow.message = message as u32);
    } else if keep > window
        || !frame.is_legal()
        || frame.kind > CONTINUATION
        || (frame.kind == RST_STREAM && (stream == get!(flow.stream) || get!(flow.saved) != 0))
    {
        return false;
    }
    set!(walk.chunk = chunk);
    set!(walk.position = position);
    set!(walk.want = keep);
    set!(walk.skip = skip);
    let keep = get!(walk.want);
    let ahead = get!(walk.ahead);
    let position = get!(walk.position);
    if ahead != position {
        // SAFETY: both places and the length are masked so that they stay in `out`.
        unsafe {
            // Up to here the bytes behind `to` are of no use any more.
            let room = ahead - position + keep + get!(walk.skip);
            M::shift(place(walk, position), keep & FRAME_MASK, place(walk, ahead), room);
        }
    }
    let moved = keep + get!(walk.skip);
    let window = get!(walk.window);
    set!(walk.frames = get!(walk.frames) + 1);
    set!(walk.chunk_flags = u64::from(CHUNK_BOUNDARY));
    set!(walk.window = window.saturating_sub(moved));
    set!(walk.ahead = ahead + moved);
    // SAFETY: the module's contract.
    unsafe { kept(walk, at, len + keep, keep, moved) };
    true
}

/// A step of a frame that does not lie whole in what was read; false if the walk is over.
#[inline(always)]
unsafe fn piece<M: Memory>(walk: *mut Walk, flow: *mut Flow) -> bool {
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

/// Goes on to the next buffer; false if there is none.
#[inline(always)]
pub unsafe fn next_segment<M: Memory>(walk: *mut Walk) -> bool {
    if get!(walk.total_left) == 0 {
        return false;
    }
    if get!(walk.iovec_index) >= get!(walk.iovec_cached) {
        let left = get!(walk.iovec_left);
        if left == 0 {
            set!(walk.stop = STOP_SHORT);
            return false;
        }
        set!(walk.iovec_cached = if left < IOVECS { left } else { IOVECS });
        set!(walk.iovec_index = 0);
        let count = get!(walk.iovec_cached);
        // SAFETY: the module's contract.
        if unsafe { M::read_iovecs(walk, (count & 15) * 16) } < 0 {
            set!(walk.stop = STOP_FAULT);
            return false;
        }
        set!(walk.iovec_next = get!(walk.iovec_next) + count * 16);
        set!(walk.iovec_left = left - count);
    }
    let index = get!(walk.iovec_index);
    set!(walk.iovec_index = index + 1);
    // SAFETY: the index is masked to the array.
    let (base, len) = unsafe {
        let entry = (&raw const (*walk).iovecs).cast::<u64>().add((index & (IOVECS - 1)) as usize * 2);
        (entry.read_volatile(), entry.add(1).read_volatile())
    };
    let total = get!(walk.total_left);
    set!(walk.cursor = base);
    set!(walk.segment_left = if len < total { len } else { total });
    set!(walk.window = 0);
    true
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
    unsafe { M::read(here(walk), bytes, get!(walk.cursor)) >= 0 }
}

/// The bytes of this step.
#[inline(always)]
unsafe fn here(walk: *mut Walk) -> *mut u8 {
    // SAFETY: the module's contract.
    unsafe { place(walk, get!(walk.position)) }
}

/// A place in `out`.
#[inline(always)]
unsafe fn place(walk: *mut Walk, position: u64) -> *mut u8 {
    // SAFETY: the mask keeps it inside `out`.
    unsafe { (&raw mut (*walk).out).cast::<u8>().add((position & POSITION_MASK) as usize) }
}

/// The step's first `bytes` are part of the chunk: they are kept, and everything moves on.
#[inline(always)]
unsafe fn commit(walk: *mut Walk, bytes: u64) {
    set!(walk.window = get!(walk.window) - bytes);
    set!(walk.ahead = get!(walk.ahead) + bytes);
    // SAFETY: the module's contract.
    unsafe { kept(walk, get!(walk.at), get!(walk.chunk_len) + bytes, bytes, bytes) };
}

/// The chunk grew by `bytes` to `len`, and the walk goes on `moved` bytes behind `at`.
#[inline(always)]
unsafe fn kept(walk: *mut Walk, at: u64, len: u64, bytes: u64, moved: u64) {
    set!(walk.chunk_len = len);
    let end = at + bytes;
    let word = (end - len) & 0xffff_ffff | (len & 0xffff) << 32 | get!(walk.chunk_flags) << 48;
    let chunk = get!(walk.chunk) & POSITION_MASK & !7;
    // SAFETY: the mask keeps it inside `out`, and aligned.
    unsafe { (&raw mut (*walk).out).cast::<u8>().add(chunk as usize).cast::<u64>().write_volatile(word) };
    set!(walk.at = at + moved);
    set!(walk.chunk_end = end);
    set!(walk.position = get!(walk.position) + bytes);
    set!(walk.cursor = get!(walk.cursor) + moved);
    set!(walk.segment_left = get!(walk.segment_left) - moved);
    set!(walk.total_left = get!(walk.total_left) - moved);
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
        set!(walk.stop = STOP_BAD_FRAME);
        set!(flow.phase = PHASE_UNSYNCED as u8);
        return;
    }
    if get!(flow.first) != 0 {
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
    if frame.kind == DATA {
        set!(flow.phase = (if frame.flags & PADDED != 0 { PHASE_PAD } else { PHASE_DATA }) as u8);
        // SAFETY: the module's contract.
        unsafe { enter_stream::<M>(walk, flow) };
    } else if frame.kind <= CONTINUATION {
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

/// DATA of stream `walk.found` begins: its message state becomes the flow's.
#[inline(always)]
unsafe fn enter_stream<M: Memory>(walk: *mut Walk, flow: *mut Flow) {
    let stream = get!(walk.found) as u32;
    let before = get!(flow.stream);
    if stream == before {
        return;
    }
    let flow_bit = get!(walk.flow) << 31;
    if get!(flow.message) != 0 || get!(flow.prefix_have) != 0 {
        let state = StreamState {
            prefix: get!(flow.prefix),
            message: get!(flow.message),
            prefix_have: u32::from(get!(flow.prefix_have)),
        };
        set!(walk.stream_state = state);
        // SAFETY: the module's contract.
        unsafe {
            (&raw mut (*walk).stream_key.stream).write_volatile(u64::from(before) | flow_bit);
            if M::keep_stream(walk) {
                set!(flow.saved = get!(flow.saved).wrapping_add(1));
            }
        }
    }
    set!(flow.stream = stream);
    set!(flow.message = 0);
    set!(flow.prefix = 0);
    set!(flow.prefix_have = 0);
    if get!(flow.saved) != 0 {
        // SAFETY: the module's contract.
        unsafe {
            (&raw mut (*walk).stream_key.stream).write_volatile(u64::from(stream) | flow_bit);
            if M::take_stream(walk) {
                set!(flow.saved = get!(flow.saved).saturating_sub(1));
                let state = get!(walk.stream_state);
                set!(flow.prefix = state.prefix);
                set!(flow.message = state.message);
                set!(flow.prefix_have = (if state.prefix_have < 5 { state.prefix_have } else { 0 }) as u8);
            }
        }
    }
}

/// Stream `walk.found` was reset: its message will not go on.
#[inline(always)]
unsafe fn forget_stream<M: Memory>(walk: *mut Walk, flow: *mut Flow) {
    let stream = get!(walk.found) as u32;
    if stream == get!(flow.stream) {
        set!(flow.message = 0);
        set!(flow.prefix = 0);
        set!(flow.prefix_have = 0);
    } else if get!(flow.saved) != 0 {
        let flow_bit = get!(walk.flow) << 31;
        // SAFETY: the module's contract.
        unsafe {
            (&raw mut (*walk).stream_key.stream).write_volatile(u64::from(stream) | flow_bit);
            if M::take_stream(walk) {
                set!(flow.saved = get!(flow.saved).saturating_sub(1));
            }
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
