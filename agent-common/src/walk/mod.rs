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

use core::hint::cold_path;

mod gather;
mod pieces;
mod shed;
mod streams;
mod whole_frame;

use crate::flow::{
    Flow, IOVECS, NO_CHUNK, PHASE_COPY, PHASE_DATA, PHASE_HEADER, PHASE_PREFACE, PHASE_SKIP, PHASE_UNSYNCED,
    STOP_FAULT, STOP_SHORT, STOP_UNCONFIRMED, Walk,
};
use crate::frame::HEADER_BYTES;
use gather::{gather, gathered};
use pieces::piece;
pub use shed::{NOT_PLAIN, WHOLE, is_shed, prepare_shedding};
use whole_frame::whole_frame;

/// What the walker needs from where it runs.
///
/// # Safety
///
/// Callers of this module's functions pass pointers to a [`Walk`] and a [`Flow`] that nobody else uses
/// meanwhile; implementors may rely on it and get the same pointers handed on.
pub unsafe trait Memory {
    /// Copies `bytes` of the observed process at `from`; negative if that is not possible.
    unsafe fn read(to: *mut u8, bytes: u64, from: u64) -> i64;
    /// Copies `bytes` inside of the walk's memory; negative if that is not possible.
    unsafe fn copy(to: *mut u8, bytes: u64, from: *const u8) -> i64;
    /// Whether small buffers that follow each other are put together and walked as one.
    fn gathers() -> bool;
    /// Copies `bytes` of iovecs from `walk.iovec_next` to `walk.iovecs`.
    unsafe fn read_iovecs(walk: *mut Walk, bytes: u64) -> i64;
    /// Copies `bytes` to `walk.out`, from `walk.gather` or a higher address in `out`; up to `to + room` may be overwritten.
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
/// Calls over which a guess is carried on at most.
const GUESSES: u64 = 4;
/// A guess is given up where more than this is left of its frame: the default of SETTINGS_MAX_FRAME_SIZE
/// (RFC 9113 §6.5.2). A wrong one would blind the flow for as long.
const GUESS_BYTES: u32 = 16384;

/// Makes `walk` ready for a call whose buffers are described already.
#[inline(always)]
pub unsafe fn begin(walk: *mut Walk, probing: bool) {
    set!(walk.at = 0);
    set!(walk.gathered = 0);
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

/// Whether a walk that began at a guessed boundary and neither confirmed nor refuted it is to go on in the next
/// call: a read that ends inside of a frame, since the reader's buffer was full. Returns what
/// [`Flow::tentative`] has to be then (frames seen, and calls from the fourth bit on), zero if not.
#[inline(always)]
#[must_use]
pub unsafe fn tentative(walk: *mut Walk, flow: *mut Flow) -> u64 {
    let calls = u64::from(get!(flow.tentative) >> 4) + 1;
    let frames = get!(walk.frames);
    let inside = frames != 0 || get!(flow.header_have) != 0;
    if get!(walk.stop) != 0
        || get!(walk.total_left) != 0
        || !inside
        || calls > GUESSES
        || get!(flow.left) > GUESS_BYTES
    {
        return 0;
    }
    calls << 4 | frames & 15
}

/// Takes the guess of the calls before up again; false if there is none.
#[inline(always)]
pub unsafe fn go_on_guessing(walk: *mut Walk, flow: *mut Flow) -> bool {
    let tentative = u64::from(get!(flow.tentative));
    if tentative == 0 {
        return false;
    }
    set!(walk.probing = 1);
    set!(walk.frames = tentative & 15);
    true
}

/// One step: the next buffer, a whole frame, or one read of at most a window or a piece of payload.
#[inline(always)]
pub unsafe fn step<M: Memory>(walk: *mut Walk, flow: *mut Flow) -> u64 {
    // SAFETY: the module's contract, handed on to each part.
    unsafe {
        if get!(walk.segment_left) == 0 {
            if !next_segment::<M>(walk) {
                return DONE;
            }
            gather::<M>(walk);
        }
        set!(walk.found = u64::from(whole_frame::<M>(walk, flow)));
        if get!(walk.found) == 0 {
            cold_path();
            if !piece::<M>(walk, flow) {
                return DONE;
            }
        }
        if get!(walk.position) >= FLUSH_AT {
            cold_path();
            if get!(walk.probing) != 0 {
                if get!(walk.frames) < 3 {
                    set!(walk.stop = STOP_UNCONFIRMED);
                    set!(flow.phase = PHASE_UNSYNCED as u8);
                    return DONE;
                }
                set!(walk.probing = 0);
            }
            M::flush(walk, flow);
            set!(walk.plain = NOT_PLAIN);
            set!(walk.position = 0);
            set!(walk.window = 0);
            set!(walk.chunk = 0);
            set!(walk.chunk_len = 0);
            set!(walk.chunk_end = NO_CHUNK);
        }
        if get!(walk.total_left) == 0 { DONE } else { AGAIN }
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
    set!(walk.gathered = 0);
    set!(walk.segment_left = if len < total { len } else { total });
    set!(walk.window = 0);
    true
}

/// Copies the next `bytes` of the current buffer; negative if that is not possible.
#[inline(always)]
unsafe fn fetch<M: Memory>(walk: *mut Walk, to: *mut u8, bytes: u64) -> i64 {
    let cursor = get!(walk.cursor);
    // SAFETY: the module's contract; the caller's place has room.
    unsafe {
        if get!(walk.gathered) != 0 {
            M::copy(to, bytes, gathered(walk, cursor))
        } else {
            M::read(to, bytes, cursor)
        }
    }
}

/// A place in `out`.
#[inline(always)]
unsafe fn place(walk: *mut Walk, position: u64) -> *mut u8 {
    // SAFETY: the mask keeps it inside `out`.
    unsafe { (&raw mut (*walk).out).cast::<u8>().add((position & POSITION_MASK) as usize) }
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
