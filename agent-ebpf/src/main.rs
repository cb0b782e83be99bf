//! The kernel programs of grpcscope.
//!
//! They see each socket call that moved bytes, recognise HTTP/2, follow its frames and copy everything but
//! the payload of DATA into the ring (`agent-common`). They read only: nothing in the observed process or
//! in its traffic is changed. All programs are in one object; the loader loads those of one way in:
//!
//! - `t_…`: the tracepoints `sock_send_length` and `sock_recv_length` (Linux 6.3), buffers from the
//!   registers of the system call;
//! - `f_…`: the exits of `inet_sendmsg` and its like, buffers from the message's iterator;
//! - `…_loop` with `bpf_loop` (Linux 5.17), `…_bounded` with a bounded loop that goes on by tail calls into
//!   `…_cont`;
//! - `state`: the ends of TCP connections, for all of them.
#![no_std]
#![no_main]
// `asm!` for BPF is not stable; the object is built with RUSTC_BOOTSTRAP (agent/build.rs).
#![feature(asm_experimental_arch)]

mod buffers;
mod call;
mod config;
mod kernel;
mod maps;
mod socket;

use core::ffi::c_void;

use agent_common::flow::{Flow, Walk};
use agent_common::ring::{FLOW_RECEIVED, FLOW_SENT};
use agent_common::walk::{DONE, step};
use aya_ebpf::helpers::generated::{bpf_get_current_pid_tgid, bpf_loop};
use aya_ebpf::macros::{btf_tracepoint, fexit};
use aya_ebpf::programs::{BtfTracePointContext, FExitContext};

use crate::call::{Call, Ready};
use crate::config::config;
use crate::kernel::User;

const MSG_OOB: u64 = 0x1;
const MSG_PEEK: u64 = 0x2;
const MSG_TRUNC: u64 = 0x20;
const MSG_ERRQUEUE: u64 = 0x2000;
const SENT: u32 = FLOW_SENT as u32;
const RECEIVED: u32 = FLOW_RECEIVED as u32;

/// Whether the hook's result is worth a look: bytes were moved, and read for good.
#[inline(always)]
unsafe fn matters(sk: u64, moved: i32, flow: u32, flags: u64) -> bool {
    // SAFETY: `sk` is the trusted socket of the hook.
    unsafe {
        if flow == RECEIVED && flags & (MSG_PEEK | MSG_OOB | MSG_ERRQUEUE | MSG_TRUNC) != 0 {
            return flags & (MSG_PEEK | MSG_OOB | MSG_ERRQUEUE) == 0 && call::truncated(sk, moved);
        }
        if moved <= 0 {
            if moved == 0 && flow == RECEIVED && socket::is_stream(sk) {
                call::nothing_read(sk);
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
unsafe fn walk_whole(ready: Ready) {
    // Nearly every call ends with its first step: one that is not called saves 15 ns.
    // SAFETY: as `one_step`.
    if unsafe { step::<User>(ready.walk, ready.flow) } == DONE {
        return;
    }
    let mut state = Loop { walk: ready.walk, flow: ready.flow };
    let callback: unsafe extern "C" fn(u64, *mut Loop) -> u64 = one_step;
    // SAFETY: helper contract: the callback takes an index and this context.
    unsafe { bpf_loop(config!(STEPS) as u32, callback as *mut c_void, (&raw mut state).cast(), 0) };
}

/// As many steps as the verifier follows; true if the call is done.
#[inline(always)]
unsafe fn walk_some(ready: Ready) -> bool {
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
unsafe fn resume(sk: u64, flow: u32) -> Ready {
    // SAFETY: helpers return null or whole values.
    unsafe {
        let walk = maps::claimed(flow, bpf_get_current_pid_tgid());
        let connection = maps::connection_of(sk, false);
        let class = maps::known_class_of(sk);
        if walk.is_null() || connection.is_null() || class.is_null() {
            return call::NOTHING;
        }
        Ready { walk, flow: call::flow_of(connection, flow), connection, class }
    }
}

macro_rules! body_loop {
    ($call:expr) => {{
        let call: Call = $call;
        let ready = call::prepare(call);
        if !ready.walk.is_null() {
            walk_whole(ready);
            call::finish(ready, call);
        }
    }};
}
macro_rules! body_bounded {
    ($ctx:ident, $call:expr, $cont:ident) => {{
        let call: Call = $call;
        let ready = call::prepare(call);
        if !ready.walk.is_null() {
            if !walk_some(ready) {
                maps::$cont.tail_call(&$ctx, 0);
            }
            call::finish(ready, call);
        }
    }};
}
macro_rules! body_cont {
    ($ctx:ident, $call:expr, $cont:ident) => {{
        let call: Call = $call;
        let ready = resume(call.sk, call.flow);
        if !ready.walk.is_null() {
            if !walk_some(ready) {
                maps::$cont.tail_call(&$ctx, 0);
            }
            call::finish(ready, call);
        }
    }};
}

macro_rules! tracepoint {
    ($function:literal, $flow:expr, $whole:ident, $bounded:ident, $cont:ident, $array:ident) => {
        /// TP_PROTO(struct sock *sk, int ret, int flags)
        #[btf_tracepoint(function = $function)]
        pub fn $whole(ctx: BtfTracePointContext) -> i32 {
            // SAFETY: the arguments are those of the tracepoint.
            unsafe {
                if matters(ctx.arg(0), ctx.arg(1), $flow, u64::from(ctx.arg::<u32>(2))) {
                    body_loop!(tracepoint_call(&ctx, $flow));
                }
            }
            0
        }
        /// The same with a bounded loop.
        #[btf_tracepoint(function = $function)]
        pub fn $bounded(ctx: BtfTracePointContext) -> i32 {
            // SAFETY: the arguments are those of the tracepoint.
            unsafe {
                if matters(ctx.arg(0), ctx.arg(1), $flow, u64::from(ctx.arg::<u32>(2))) {
                    body_bounded!(ctx, tracepoint_call(&ctx, $flow), $array);
                }
            }
            0
        }
        /// Goes on where the bounded loop stopped.
        #[btf_tracepoint(function = $function)]
        pub fn $cont(ctx: BtfTracePointContext) -> i32 {
            // SAFETY: the arguments are those of the tracepoint.
            unsafe { body_cont!(ctx, tracepoint_call(&ctx, $flow), $array) };
            0
        }
    };
}

#[inline(always)]
fn tracepoint_call(ctx: &BtfTracePointContext, flow: u32) -> Call {
    Call {
        sk: ctx.arg(0),
        moved: ctx.arg::<u32>(1).into(),
        flow,
        by_message: false,
        message: 0,
        back_steps: 0,
    }
}

tracepoint!("sock_send_length", SENT, t_send_loop, t_send_bounded, t_send_cont, CONT_T_SEND);
tracepoint!("sock_recv_length", RECEIVED, t_recv_loop, t_recv_bounded, t_recv_cont, CONT_T_RECV);

/// Reads of eight iovecs to go back over: the 1,024 that a call may have, and the one it may end before.
const BACK_STEPS: u64 = 130;

macro_rules! exit {
    ($function:literal, $flow:expr, $ret:literal, $flags:expr, $whole:ident, $bounded:ident, $cont:ident, $array:ident) => {
        /// int f(struct socket *sock, struct msghdr *msg, size_t size[, int flags])
        #[fexit(function = $function)]
        pub fn $whole(ctx: FExitContext) -> i32 {
            // SAFETY: the arguments are those of the function, and its result behind them.
            unsafe {
                let sk = socket_of(&ctx);
                let flags: fn(&FExitContext) -> u64 = $flags;
                if sk != 0 && matters(sk, ctx.arg($ret), $flow, flags(&ctx)) {
                    body_loop!(exit_call(&ctx, sk, $flow, $ret, BACK_STEPS));
                }
            }
            0
        }
        /// The same with a bounded loop.
        #[fexit(function = $function)]
        pub fn $bounded(ctx: FExitContext) -> i32 {
            // SAFETY: the arguments are those of the function, and its result behind them.
            unsafe {
                let sk = socket_of(&ctx);
                let flags: fn(&FExitContext) -> u64 = $flags;
                if sk != 0 && matters(sk, ctx.arg($ret), $flow, flags(&ctx)) {
                    body_bounded!(ctx, exit_call(&ctx, sk, $flow, $ret, BACK_STEPS), $array);
                }
            }
            0
        }
        /// Goes on where the bounded loop stopped.
        #[fexit(function = $function)]
        pub fn $cont(ctx: FExitContext) -> i32 {
            // SAFETY: the arguments are those of the function, and its result behind them.
            unsafe {
                let sk = socket_of(&ctx);
                if sk != 0 {
                    body_cont!(ctx, exit_call(&ctx, sk, $flow, $ret, BACK_STEPS), $array);
                }
            }
            0
        }
    };
}

/// `sock->sk`. The offset has to be a literal for the pointer to keep its type; the loader checks it.
#[inline(always)]
fn socket_of(ctx: &FExitContext) -> u64 {
    // SAFETY: the first argument is a `struct socket`.
    unsafe { core::ptr::read_volatile((ctx.arg::<u64>(0) + 24) as *const u64) }
}

#[inline(always)]
fn exit_call(ctx: &FExitContext, sk: u64, flow: u32, ret: usize, back_steps: u64) -> Call {
    Call { sk, moved: ctx.arg::<u32>(ret).into(), flow, by_message: true, message: ctx.arg(1), back_steps }
}

exit!(
    "inet_sendmsg",
    SENT,
    3,
    |_| 0,
    f_inet_send_loop,
    f_inet_send_bounded,
    f_inet_send_cont,
    CONT_F_INET_SEND
);
exit!(
    "inet6_sendmsg",
    SENT,
    3,
    |_| 0,
    f_inet6_send_loop,
    f_inet6_send_bounded,
    f_inet6_send_cont,
    CONT_F_INET6_SEND
);
exit!(
    "unix_stream_sendmsg",
    SENT,
    3,
    |_| 0,
    f_unix_send_loop,
    f_unix_send_bounded,
    f_unix_send_cont,
    CONT_F_UNIX_SEND
);
exit!(
    "inet_recvmsg",
    RECEIVED,
    4,
    |c| u64::from(c.arg::<u32>(3)),
    f_inet_recv_loop,
    f_inet_recv_bounded,
    f_inet_recv_cont,
    CONT_F_INET_RECV
);
exit!(
    "inet6_recvmsg",
    RECEIVED,
    4,
    |c| u64::from(c.arg::<u32>(3)),
    f_inet6_recv_loop,
    f_inet6_recv_bounded,
    f_inet6_recv_cont,
    CONT_F_INET6_RECV
);
exit!(
    "unix_stream_recvmsg",
    RECEIVED,
    4,
    |c| u64::from(c.arg::<u32>(3)),
    f_unix_recv_loop,
    f_unix_recv_bounded,
    f_unix_recv_cont,
    CONT_F_UNIX_RECV
);

const TCP_ESTABLISHED: i32 = 1;
const TCP_FIN_WAIT1: i32 = 4;
const TCP_CLOSE: i32 = 7;
const TCP_CLOSE_WAIT: i32 = 8;

/// TP_PROTO(const struct sock *sk, const int oldstate, const int newstate)
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn state(ctx: BtfTracePointContext) -> i32 {
    let sk: u64 = ctx.arg(0);
    let before: i32 = ctx.arg(1);
    let now: i32 = ctx.arg(2);
    if now == TCP_ESTABLISHED && config!(HAVE_SK_STORAGE) == 0 {
        // Whatever is known under this address was of another socket.
        // SAFETY: the socket is the tracepoint's.
        unsafe { maps::forget(sk, true) };
        return 0;
    }
    if now != TCP_FIN_WAIT1 && now != TCP_CLOSE_WAIT && now != TCP_CLOSE {
        return 0;
    }
    // SAFETY: the socket is the tracepoint's; its storage is looked up and checked for null.
    unsafe {
        let connection = maps::connection_of(sk, false);
        if !connection.is_null() {
            if now == TCP_FIN_WAIT1 {
                call::close(connection, SENT, 0);
            } else if now == TCP_CLOSE_WAIT {
                // With bytes still unread, the end is told when the process reads it.
                if call::everything_read(sk, connection) {
                    call::close(connection, RECEIVED, 0);
                }
            } else {
                let direct = before == TCP_ESTABLISHED || before == TCP_CLOSE_WAIT || before == TCP_FIN_WAIT1;
                call::closed(sk, connection, !direct && !socket::has_error(sk));
            }
        }
    }
    0
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 4] = *b"GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    // SAFETY: nothing in this crate panics; were it otherwise, the verifier would refuse the program.
    unsafe { core::hint::unreachable_unchecked() }
}
