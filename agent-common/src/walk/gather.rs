//! Small buffers that follow each other are put together and walked as one.
//!
//! C-core writes a call's frames with an iovec for each frame header, each message prefix and each piece of a header block,
//! netty and libuv write frame headers apart from payloads. A step of the walker for each of them costs several times what
//! copying them does.

use super::Memory;
use crate::flow::{GATHER_BYTES, IOVECS, Walk};

/// What is put together at most; also the mask of places and lengths in `walk.gather`, which has room for both.
const MOST: u64 = GATHER_BYTES as u64 / 2 - 1;
/// A first buffer as long as this is worth steps of its own.
const SMALL: u64 = 256;
/// So much is taken of a buffer that does not fit: the message prefix that belongs to the frame header before it.
const PART: u64 = 64;

/// Puts the buffer that begins here and those that follow it together, if it is a small one.
///
/// What cannot be read is left where it is: the step that comes to it will say so.
#[inline(always)]
pub(super) unsafe fn gather<M: Memory>(walk: *mut Walk) {
    let first = get!(walk.segment_left);
    if !M::gathers()
        || first >= SMALL
        || first == get!(walk.total_left)
        || get!(walk.iovec_index) >= get!(walk.iovec_cached)
    {
        return;
    }
    // SAFETY: the module's contract; places and lengths are masked so that they stay in `gather`.
    unsafe {
        if M::read(gathered(walk, 0), first & MOST, get!(walk.cursor)) < 0 {
            return;
        }
        set!(walk.segment_left = first);
        let mut round = 0;
        while round < IOVECS && append::<M>(walk) {
            round += 1;
        }
        set!(walk.cursor = 0);
        set!(walk.gathered = 1);
    }
}

/// A place in `gather`.
#[inline(always)]
pub(super) unsafe fn gathered(walk: *mut Walk, place: u64) -> *mut u8 {
    // SAFETY: the mask keeps it inside, with room for as much behind it.
    unsafe { (&raw mut (*walk).gather).cast::<u8>().add((place & MOST) as usize) }
}

/// Appends the next buffer, or what is to be taken of it, to the `walk.segment_left` bytes that are there; false if that was
/// the last one.
#[inline(always)]
unsafe fn append<M: Memory>(walk: *mut Walk) -> bool {
    let have = get!(walk.segment_left);
    let index = get!(walk.iovec_index);
    let rest = get!(walk.total_left) - have;
    if index >= get!(walk.iovec_cached) || rest == 0 {
        return false;
    }
    // SAFETY: the module's contract; the index is masked to the array, places and lengths so that they stay in `gather`.
    unsafe {
        let entry = (&raw mut (*walk).iovecs).cast::<u64>().add((index & (IOVECS - 1)) as usize * 2);
        let (base, len) = (entry.read_volatile(), entry.add(1).read_volatile());
        let len = if len < rest { len } else { rest };
        let room = MOST - have;
        let whole = len <= room;
        let most = if room < PART { room } else { PART };
        set!(walk.want = if whole { len } else { most });
        let taken = get!(walk.want) & MOST;
        if M::read(gathered(walk, have), taken, base) < 0 {
            return false;
        }
        if whole {
            set!(walk.iovec_index = index + 1);
        } else {
            entry.write_volatile(base + taken);
            entry.add(1).write_volatile(len - taken);
        }
        set!(walk.segment_left = have + taken);
        whole
    }
}
