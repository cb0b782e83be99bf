//! The kernel programs of grpcscope.
//!
//! They see each socket call that moved bytes, recognise HTTP/2, follow its frames and copy everything but
//! the payload of DATA into the ring (`agent-common`). They read only: nothing in the observed process or
//! in its traffic is changed. All programs are in one object; the loader loads those of one way in:
//!
//! - `t_…`: the tracepoints `sock_send_length` and `sock_recv_length` (Linux 6.3), buffers from the
//!   registers of the system call;
//! - `f_…`: the exits of `inet_sendmsg` and its like, buffers from the message's iterator;
//! - `k_…`: the entries and returns of the same functions by kprobes, buffers likewise (`returns.rs`);
//! - `…_loop` with `bpf_loop` (Linux 5.17), `…_bounded` with a bounded loop that goes on by tail calls into
//!   `…_cont`;
//! - `state`: the ends of TCP connections, for all of them; `…_fresh`: new sockets, where they are known by their
//!   address.
#![no_std]
#![no_main]
// `asm!` for BPF is not stable; the object is built with RUSTC_BOOTSTRAP (agent/build.rs).
#![feature(asm_experimental_arch)]

mod body;
mod buffers;
mod call;
mod config;
mod ends;
mod fields;
mod kernel;
mod maps;
mod recognise;
mod returns;
mod socket;

use aya_ebpf::macros::{btf_tracepoint, fexit};
use aya_ebpf::programs::{BtfTracePointContext, FExitContext};

use crate::body::{BACK_STEPS, RECEIVED, SENT, body_bounded, body_cont, body_loop, matters};
use crate::call::Call;
use crate::config::config;
use crate::socket::Sock;

macro_rules! tracepoint {
    ($function:literal, $flow:expr, $whole:ident, $bounded:ident, $cont:ident, $array:ident) => {
        /// TP_PROTO(struct sock *sk, int ret, int flags)
        #[btf_tracepoint(function = $function)]
        pub fn $whole(ctx: BtfTracePointContext) -> i32 {
            // SAFETY: the arguments are those of the tracepoint.
            unsafe {
                if matters(Sock::typed(ctx.arg(0)), ctx.arg(1), $flow, u64::from(ctx.arg::<u32>(2))) {
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
                if matters(Sock::typed(ctx.arg(0)), ctx.arg(1), $flow, u64::from(ctx.arg::<u32>(2))) {
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
        sk: Sock::typed(ctx.arg(0)),
        moved: ctx.arg::<u32>(1).into(),
        flow,
        by_message: false,
        message: 0,
        back_steps: 0,
    }
}

tracepoint!("sock_send_length", SENT, t_send_loop, t_send_bounded, t_send_cont, CONT_T_SEND);
tracepoint!("sock_recv_length", RECEIVED, t_recv_loop, t_recv_bounded, t_recv_cont, CONT_T_RECV);

macro_rules! exit {
    ($function:literal, $flow:expr, $ret:literal, $flags:expr, $whole:ident, $bounded:ident, $cont:ident, $array:ident) => {
        /// int f(struct socket *sock, struct msghdr *msg, size_t size[, int flags])
        #[fexit(function = $function)]
        pub fn $whole(ctx: FExitContext) -> i32 {
            // SAFETY: the arguments are those of the function, and its result behind them.
            unsafe {
                let sk = socket_of(&ctx);
                let flags: fn(&FExitContext) -> u64 = $flags;
                if sk.at != 0 && matters(sk, ctx.arg($ret), $flow, flags(&ctx)) {
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
                if sk.at != 0 && matters(sk, ctx.arg($ret), $flow, flags(&ctx)) {
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
                if sk.at != 0 {
                    body_cont!(ctx, exit_call(&ctx, sk, $flow, $ret, BACK_STEPS), $array);
                }
            }
            0
        }
    };
}

/// `sock->sk`. The offset has to be a literal for the pointer to keep its type; the loader checks it.
#[inline(always)]
fn socket_of(ctx: &FExitContext) -> Sock {
    // SAFETY: the first argument is a `struct socket`.
    Sock::typed(unsafe { core::ptr::read_volatile((ctx.arg::<u64>(0) + 24) as *const u64) })
}

#[inline(always)]
fn exit_call(ctx: &FExitContext, sk: Sock, flow: u32, ret: usize, back_steps: u64) -> Call {
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

/// void sock_init_data(struct socket *sock, struct sock *sk), where sockets are known by their address: whatever is
/// known under this one was of another.
#[fexit(function = "sock_init_data")]
pub fn f_fresh(ctx: FExitContext) -> i32 {
    // SAFETY: the second argument is a socket.
    unsafe { maps::forget(ctx.arg(1), true) };
    0
}

const TCP_ESTABLISHED: i32 = 1;
const TCP_FIN_WAIT1: i32 = 4;
const TCP_CLOSE: i32 = 7;
const TCP_CLOSE_WAIT: i32 = 8;

/// TP_PROTO(const struct sock *sk, const int oldstate, const int newstate)
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn state(ctx: BtfTracePointContext) -> i32 {
    let sk = Sock::typed(ctx.arg(0));
    let before: i32 = ctx.arg(1);
    let now: i32 = ctx.arg(2);
    if now == TCP_ESTABLISHED && config!(HAVE_SK_STORAGE) == 0 {
        // Whatever is known under this address was of another socket.
        // SAFETY: the socket is the tracepoint's.
        unsafe { maps::forget(sk.at, true) };
        return 0;
    }
    if now != TCP_FIN_WAIT1 && now != TCP_CLOSE_WAIT && now != TCP_CLOSE {
        return 0;
    }
    // SAFETY: the socket is the tracepoint's; its storage is looked up and checked for null.
    unsafe {
        let connection = maps::connection_of(sk.at, false);
        if !connection.is_null() {
            if now == TCP_FIN_WAIT1 {
                ends::close(connection, SENT, 0);
            } else if now == TCP_CLOSE_WAIT {
                // With bytes still unread, the end is told when the process reads it.
                if ends::everything_read(sk, connection) {
                    ends::close(connection, RECEIVED, 0);
                }
            } else {
                let direct = before == TCP_ESTABLISHED || before == TCP_CLOSE_WAIT || before == TCP_FIN_WAIT1;
                ends::closed(sk, connection, !direct && !socket::has_error(sk));
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
