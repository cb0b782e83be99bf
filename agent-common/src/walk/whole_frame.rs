//! A frame that lies whole in what was read: one step.

use super::gather::gathered;
use super::{FRAME_MASK, Memory, POSITION_MASK, PREFIX_END, WINDOW_BYTES, fetch, kept, place};
use crate::flow::{Flow, PHASE_DATA, PHASE_HEADER, PHASE_SKIP, Walk};
use crate::frame::{CONTINUATION, DATA, END_STREAM, FrameHeader, HEADER_BYTES, PADDED, RST_STREAM};
use crate::ring::CHUNK_BOUNDARY;

/// Takes a frame that begins here, if all that is kept of it lies in what was read ahead: control frames,
/// and DATA that holds one message, a part of one, or nothing. False if it has to go piece by piece.
///
/// Nearly every frame of a gRPC connection goes this way. One read serves all frames in a window, numbers
/// stay in registers and the state is written once a frame, which halves the cost of a call.
#[inline(always)]
pub(super) unsafe fn whole_frame<M: Memory>(walk: *mut Walk, flow: *mut Flow) -> bool {
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
    // What was gathered is looked at where it is, and copied only as far as it is kept.
    let in_gather = get!(walk.gathered) != 0;
    if !in_gather
        && (get!(walk.window) < PREFIX_END && get!(walk.window) < segment || get!(walk.ahead) < position)
    {
        set!(walk.window = if segment < WINDOW_BYTES { segment } else { WINDOW_BYTES });
        set!(walk.ahead = position);
        let bytes = get!(walk.window) & FRAME_MASK;
        // SAFETY: place and length are masked so that they stay in `out`.
        if unsafe { fetch::<M>(walk, place(walk, get!(walk.ahead)), bytes) } < 0 {
            set!(walk.window = 0);
            return false;
        }
    }
    let window = if in_gather { segment } else { get!(walk.window) };
    // SAFETY: masked; `out` leaves room for these reads behind the mask.
    let frame = unsafe {
        let seen = if in_gather { gathered(walk, get!(walk.cursor)) } else { place(walk, get!(walk.ahead)) };
        set!(walk.found = M::load(seen.add(9)));
        FrameHeader::from_parts(u64::from(seen.read_volatile()), M::load(seen.add(1)))
    };
    let length = u64::from(frame.length);
    let stream = frame.stream & 0x7fff_ffff;
    let mut keep = HEADER_BYTES + length;
    let mut skip = 0;
    if frame.kind == DATA {
        let before = u64::from(get!(flow.message));
        if frame.flags & PADDED != 0
            || stream == 0
            || get!(flow.saved) != 0
            || get!(flow.prefix_have) != 0
            || (before != 0 && stream != get!(flow.stream))
        {
            return false;
        }
        // Without a branch: a message that takes in all frames has no prefix to be shipped.
        let shed = get!(walk.shed);
        let mut message = before | shed;
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
            // PHASE_SKIP where messages are not followed.
            set!(flow.phase = (PHASE_DATA | shed as u32 & PHASE_SKIP) as u8);
        } else {
            set!(walk.data_ended = 1);
            if frame.flags & END_STREAM != 0 {
                message = 0;
            }
        }
        set!(flow.message = (message & !shed) as u32);
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
    let in_gather = get!(walk.gathered) != 0;
    if in_gather {
        // SAFETY: both places and the length are masked; behind `to` there is nothing yet.
        unsafe {
            let from = gathered(walk, get!(walk.cursor));
            M::shift(place(walk, position), keep & FRAME_MASK, from, FRAME_MASK);
        }
    } else if ahead != position {
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
    set!(walk.plain = get!(walk.plain) + frame.is_plain());
    set!(walk.chunk_flags = u64::from(CHUNK_BOUNDARY));
    set!(walk.window = if in_gather { 0 } else { window.saturating_sub(moved) });
    set!(walk.ahead = ahead + moved);
    // SAFETY: the module's contract.
    unsafe { kept(walk, at, len + keep, keep, moved) };
    true
}
