//! What is left out where the agent has to save: message prefixes, and calls that moved nothing but DATA and WINDOW_UPDATE.
//!
//! The walk itself goes on as ever, so that the place in the frames stays known, and whatever begins or ends a call is shipped.
//! While it saves, a flow has no message state: the payload of DATA is stepped over like that of a frame of unknown type. The
//! header of DATA is shipped with whatever else its call moved: nine octets there save neither a record nor a chunk.

use crate::flow::{Flow, PHASE_DATA, PHASE_HEADER, PHASE_PAD, PHASE_SKIP, Walk};
use crate::frame::{DATA, END_STREAM};

/// [`Walk::shed`] while DATA is left out: as a message's length it takes in every frame, as bits it takes away all.
pub const WHOLE: u64 = 0xffff_ffff;

/// More than a call has frames: in it is something that has to be told.
pub const NOT_PLAIN: u64 = 1 << 32;

/// Before the walk of a call, after [`begin`](super::begin).
#[inline(always)]
pub unsafe fn prepare_shedding(walk: *mut Walk, flow: *mut Flow, sheds: bool) {
    set!(walk.shed = if sheds { WHOLE } else { 0 });
    set!(walk.plain = NOT_PLAIN);
    if !sheds {
        return;
    }
    // Where messages begin is not known any more. What the stream map still has is forgotten by it: those streams were open when
    // this began, and of their messages user space says nothing until they end.
    set!(flow.message = 0);
    set!(flow.prefix = 0);
    set!(flow.prefix_have = 0);
    set!(flow.saved = 0);
    let phase = u32::from(get!(flow.phase));
    if phase == PHASE_DATA || phase == PHASE_PAD {
        set!(flow.phase = PHASE_SKIP as u8);
    }
    // The end of a frame with END_STREAM is told, although its header was told before.
    let tells_end = u32::from(get!(flow.kind)) == DATA && u32::from(get!(flow.flags)) & END_STREAM != 0;
    let phase = u32::from(get!(flow.phase));
    if (phase == PHASE_HEADER && get!(flow.header_have) == 0)
        || (phase == PHASE_SKIP && u32::from(get!(flow.kind)) == DATA && !tells_end)
    {
        set!(walk.plain = 0);
    }
}

/// Whether the call that was walked makes no record, since it moved nothing that has to be told; to be asked of walks that were
/// not probing.
#[inline(always)]
#[must_use]
pub unsafe fn is_shed(walk: *mut Walk, flow: *mut Flow) -> bool {
    if get!(walk.shed) == 0 || get!(walk.plain) != get!(walk.frames) {
        return false;
    }
    let phase = u32::from(get!(flow.phase));
    let between = phase == PHASE_HEADER && get!(flow.header_have) == 0;
    let inside = phase == PHASE_SKIP && u32::from(get!(flow.kind)) == DATA;
    (between || inside) && get!(walk.stop) == 0 && get!(walk.total_left) == 0
}
