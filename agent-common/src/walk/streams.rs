//! Messages that go on in another frame of their stream, while frames of other streams come between.

use super::Memory;
use crate::flow::{Flow, StreamState, Walk};

/// DATA of stream `walk.found` begins: its message state becomes the flow's.
#[inline(always)]
pub(super) unsafe fn enter_stream<M: Memory>(walk: *mut Walk, flow: *mut Flow) {
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
pub(super) unsafe fn forget_stream<M: Memory>(walk: *mut Walk, flow: *mut Flow) {
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
