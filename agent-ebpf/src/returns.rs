//! Kprobes: the entry of a socket call writes down its arguments by thread, its return walks what was moved.
//!
//! For kernels where neither the tracepoints nor trampolines serve: too old, or preempted in the middle of programs,
//! which kprobes never are. They know no types, so sockets are known by their address, and fields are copied.
//!
//! The kernel keeps return probes for a few threads (ten, or two for each CPU) inside of one function. With more than
//! that, blocked in a read, returns are missed: the thread's next call finds its last one still open, and counts it.

use agent_common::counter::Counter;
use aya_ebpf::helpers::generated::bpf_get_current_pid_tgid;
use aya_ebpf::macros::{kprobe, kretprobe};
use aya_ebpf::programs::{ProbeContext, RetProbeContext};

use crate::body::{BACK_STEPS, RECEIVED, SENT, body_bounded, body_cont, body_loop, matters};
use crate::call::{self, Call};
use crate::fields::{get, set};
use crate::kernel;
use crate::maps::{self, NOT_STREAM};
use crate::socket::{self, Sock};

/// `sock->sk` as in `socket_of`.
const SOCKET_SK: u64 = 24;

/// A thread enters a call.
#[inline(always)]
unsafe fn enter(ctx: &ProbeContext, flow: u32) {
    let (Some(socket), Some(message)) = (ctx.arg::<u64>(0), ctx.arg::<u64>(1)) else { return };
    let flags = if flow == RECEIVED { ctx.arg::<u64>(3).unwrap_or(0) & 0xffff_ffff } else { 0 };
    // SAFETY: `entered` returns null or a whole value; the socket is read by helpers.
    unsafe {
        let place = maps::entered(bpf_get_current_pid_tgid(), flow, true);
        if place.is_null() {
            maps::count(Counter::Storage);
            return;
        }
        let before = get!(place.sk);
        if before > NOT_STREAM {
            maps::count(Counter::MissedReturns);
            call::never_returned(Sock::untyped(before), flow);
        }
        let sk: u64 = kernel::copied(socket, SOCKET_SK);
        let matters = sk != 0 && socket::is_stream(Sock::untyped(sk));
        set!(place.message = message);
        set!(place.flags = flags);
        set!(place.sk = if matters { sk } else { NOT_STREAM });
    }
}

/// The call that a thread returns from; its socket is at zero if there is nothing to walk.
#[inline(always)]
unsafe fn leave(ctx: &RetProbeContext, flow: u32) -> Call {
    let mut call = Call {
        sk: Sock::untyped(0),
        moved: u64::from(ctx.ret::<u32>()),
        flow,
        by_message: true,
        message: 0,
        back_steps: BACK_STEPS,
    };
    // SAFETY: as `enter`.
    unsafe {
        let place = maps::entered(bpf_get_current_pid_tgid(), flow, false);
        if place.is_null() {
            maps::count(Counter::MissedEntries);
            return call;
        }
        let sk = get!(place.sk);
        set!(place.sk = 0);
        if sk == 0 {
            maps::count(Counter::MissedEntries);
            return call;
        }
        set!(place.walked = sk);
        if sk != NOT_STREAM && matters(Sock::untyped(sk), ctx.ret::<i32>(), flow, get!(place.flags)) {
            call.sk.at = sk;
            call.message = get!(place.message);
        }
    }
    call
}

/// The call that the program before this one began to walk.
#[inline(always)]
unsafe fn walked(ctx: &RetProbeContext, flow: u32) -> Call {
    // SAFETY: as `enter`.
    let sk = unsafe {
        let place = maps::entered(bpf_get_current_pid_tgid(), flow, false);
        if place.is_null() { 0 } else { get!(place.walked) }
    };
    Call {
        sk: Sock::untyped(sk),
        moved: u64::from(ctx.ret::<u32>()),
        flow,
        by_message: true,
        message: 0,
        back_steps: BACK_STEPS,
    }
}

macro_rules! call {
    ($flow:expr, $enter:ident, $whole:ident, $bounded:ident, $cont:ident, $array:ident) => {
        /// int f(struct socket *sock, struct msghdr *msg, size_t size[, int flags]) is entered.
        #[kprobe]
        pub fn $enter(ctx: ProbeContext) -> u32 {
            // SAFETY: the arguments are those of the function.
            unsafe { enter(&ctx, $flow) };
            0
        }
        /// It returns.
        #[kretprobe]
        pub fn $whole(ctx: RetProbeContext) -> u32 {
            // SAFETY: what was written down at the entry.
            unsafe {
                let call = leave(&ctx, $flow);
                if call.sk.at != 0 {
                    body_loop!(call);
                }
            }
            0
        }
        /// The same with a bounded loop.
        #[kretprobe]
        pub fn $bounded(ctx: RetProbeContext) -> u32 {
            // SAFETY: what was written down at the entry.
            unsafe {
                let call = leave(&ctx, $flow);
                if call.sk.at != 0 {
                    body_bounded!(ctx, call, $array);
                }
            }
            0
        }
        /// Goes on where the bounded loop stopped.
        #[kretprobe]
        pub fn $cont(ctx: RetProbeContext) -> u32 {
            // SAFETY: what was written down at the entry.
            unsafe {
                let call = walked(&ctx, $flow);
                if call.sk.at != 0 {
                    body_cont!(ctx, call, $array);
                }
            }
            0
        }
    };
}

call!(SENT, k_send_enter, k_send_loop, k_send_bounded, k_send_cont, CONT_K_SEND);
call!(RECEIVED, k_recv_enter, k_recv_loop, k_recv_bounded, k_recv_cont, CONT_K_RECV);

/// void sock_init_data(struct socket *sock, struct sock *sk): whatever is known under this address was of another
/// socket.
#[kprobe]
pub fn k_fresh(ctx: ProbeContext) -> u32 {
    if let Some(sk) = ctx.arg::<u64>(1) {
        // SAFETY: an address to look up.
        unsafe { maps::forget(sk, true) };
    }
    0
}
