//! What every hook does with a socket call: whether it matters, the walk in one of two loops, and its end.

use core::ffi::c_void;
use core::hint::cold_path;

use agent_common::flow::{Flow, Walk};
use agent_common::ring::{FLOW_RECEIVED, FLOW_SENT};
use agent_common::walk::{DONE, step};
use aya_ebpf::helpers::generated::{bpf_get_current_pid_tgid, bpf_loop};

use crate::call::{self, Ready};
use crate::config::config;
use crate::ends;
use crate::kernel::User;
use crate::maps;
use crate::socket::{self, Sock};

/// Reads of eight iovecs to go back over: the 1,024 that a call may have, and the one it may end before.
pub const BACK_STEPS: u64 = 130;

const MSG_OOB: u64 = 0x1;
const MSG_PEEK: u64 = 0x2;
const MSG_TRUNC: u64 = 0x20;
const MSG_ERRQUEUE: u64 = 0x2000;
pub const SENT: u32 = FLOW_SENT as u32;
pub const RECEIVED: u32 = FLOW_RECEIVED as u32;

/// Whether the hook's result is worth a look: bytes were moved, and read for good.
#[inline(always)]
pub unsafe fn matters(sk: Sock, moved: i32, flow: u32, flags: u64) -> bool {
    // SAFETY: `sk` is the socket of the hook.
    unsafe {
        if flow == RECEIVED && flags & (MSG_PEEK | MSG_OOB | MSG_ERRQUEUE | MSG_TRUNC) != 0 {
            cold_path();
            return flags & (MSG_PEEK | MSG_OOB | MSG_ERRQUEUE) == 0 && call::truncated(sk, moved);
        }
        if moved <= 0 {
            if moved == 0 && flow == RECEIVED && socket::is_stream(sk) {
                ends::nothing_read(sk);
            }
            return false;
        }
        socket::is_stream(sk)
    }
}

/// What the loop's steps work on.
#[repr(C)]
struct Loop {
    walk: *mut Walk,
    flow: *mut Flow,
}

/// One step, as `bpf_loop` calls it and as the bounded loop does.
#[inline(never)]
unsafe extern "C" fn one_step(_index: u64, state: *mut Loop) -> u64 {
    // SAFETY: both pointers are map values that this run of the program owns.
    unsafe { step::<User>((*state).walk, (*state).flow) }
}

/// All steps of a call, by the kernel's loop.
#[inline(always)]
pub unsafe fn walk_whole(ready: Ready) {
    let mut state = Loop { walk: ready.walk, flow: ready.flow };
    let callback: unsafe extern "C" fn(u64, *mut Loop) -> u64 = one_step;
    // SAFETY: helper contract: the callback takes an index and this context.
    unsafe { bpf_loop(config!(STEPS) as u32, callback as *mut c_void, (&raw mut state).cast(), 0) };
}

/// As many steps as the verifier follows; true if the call is done.
#[inline(always)]
pub unsafe fn walk_some(ready: Ready) -> bool {
    let mut state = Loop { walk: ready.walk, flow: ready.flow };
    let mut index = 0;
    while index < config!(STEPS) {
        // SAFETY: as `one_step`.
        if unsafe { one_step(index, &raw mut state) } == DONE {
            return true;
        }
        index += 1;
    }
    false
}

/// A continued call: the walk is where it was left.
#[inline(always)]
pub unsafe fn resume(sk: Sock, flow: u32) -> Ready {
    // SAFETY: helpers return null or whole values.
    unsafe {
        let walk = maps::claimed(flow, bpf_get_current_pid_tgid());
        let connection = maps::connection_of(sk.at, false);
        let class = maps::known_class_of(sk.at);
        if walk.is_null() || connection.is_null() || class.is_null() {
            return call::NOTHING;
        }
        Ready { walk, flow: call::flow_of(connection, flow), connection, class }
    }
}

/// A call, by the kernel's loop.
macro_rules! body_loop {
    ($call:expr) => {{
        let call: $crate::call::Call = $call;
        let ready = $crate::call::prepare(call);
        if !ready.walk.is_null() {
            $crate::body::walk_whole(ready);
            $crate::call::finish(ready, call);
        }
    }};
}
/// A call, by a bounded loop that goes on in the program of `$cont`.
macro_rules! body_bounded {
    ($ctx:ident, $call:expr, $cont:ident) => {{
        let call: $crate::call::Call = $call;
        let ready = $crate::call::prepare(call);
        if !ready.walk.is_null() {
            if !$crate::body::walk_some(ready) {
                $crate::maps::$cont.tail_call(&$ctx, 0);
            }
            $crate::call::finish(ready, call);
        }
    }};
}
/// The rest of a call, after a tail call.
macro_rules! body_cont {
    ($ctx:ident, $call:expr, $cont:ident) => {{
        let call: $crate::call::Call = $call;
        let ready = $crate::body::resume(call.sk, call.flow);
        if !ready.walk.is_null() {
            if !$crate::body::walk_some(ready) {
                $crate::maps::$cont.tail_call(&$ctx, 0);
            }
            $crate::call::finish(ready, call);
        }
    }};
}
pub(crate) use {body_bounded, body_cont, body_loop};
