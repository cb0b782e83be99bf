//! What the loader sets before the programs are verified: offsets of kernel structures and choices.
//!
//! The verifier takes these for constants, so a branch that is not taken costs nothing and need not even
//! be valid on that kernel. All of them are `u64`; the names are those that the loader knows.

/// The value that the loader set; the compiler must not take the initial one for granted.
#[inline(always)]
pub fn value(constant: &'static u64) -> u64 {
    // SAFETY: a whole, aligned static.
    unsafe { core::ptr::read_volatile(constant) }
}

/// Reads a constant of this module.
macro_rules! config {
    ($name:ident) => {
        $crate::config::value(&$crate::config::$name)
    };
}
pub(crate) use config;

macro_rules! constants {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        $($(#[$doc])* #[unsafe(no_mangle)] pub static $name: u64 = 0;)*
    };
}

constants! {
    /// sock.sk_protocol, u16.
    SOCK_PROTOCOL,
    /// sock.sk_type, u16.
    SOCK_TYPE,
    /// sock.sk_shutdown, u8.
    SOCK_SHUTDOWN,
    /// sock.sk_err, i32.
    SOCK_ERR,
    /// sock_common.skc_family, u16.
    SKC_FAMILY,
    /// sock_common.skc_num, u16.
    SKC_NUM,
    /// sock_common.skc_dport, big-endian u16.
    SKC_DPORT,
    /// sock_common.skc_daddr, 4 bytes.
    SKC_DADDR,
    /// sock_common.skc_rcv_saddr, 4 bytes.
    SKC_RCV_SADDR,
    /// sock_common.skc_v6_daddr, 16 bytes.
    SKC_V6_DADDR,
    /// sock_common.skc_v6_rcv_saddr, 16 bytes.
    SKC_V6_RCV_SADDR,
    /// sock_common.skc_net, pointer.
    SKC_NET,
    /// net.ns.inum, u32.
    NET_INUM,
    /// tcp_sock.write_seq, u32.
    TCP_WRITE_SEQ,
    /// tcp_sock.copied_seq, u32.
    TCP_COPIED_SEQ,
    /// tcp_sock.rcv_nxt, u32.
    TCP_RCV_NXT,
    /// tcp_sock.snd_una, u32.
    TCP_SND_UNA,
    /// tcp_sock.bytes_received, u64.
    TCP_BYTES_RECEIVED,
    /// tcp_sock.bytes_acked, u64.
    TCP_BYTES_ACKED,
    /// inet_connection_sock.icsk_ulp_ops, pointer: not null means kTLS.
    ICSK_ULP_OPS,

    /// msghdr.msg_iter.
    MSG_ITER,
    /// iov_iter.iter_type (u8), or iov_iter.type (u32) before 5.14.
    ITER_TYPE,
    /// Not zero: bits of iov_iter.type, of which these say the kind.
    ITER_TYPE_MASK,
    /// iov_iter.iov_offset, u64.
    ITER_OFFSET,
    /// iov_iter.__iov or .iov, pointer.
    ITER_IOV,
    /// iov_iter.ubuf, pointer.
    ITER_UBUF,
    /// Value of ITER_IOVEC.
    ITER_IS_IOVEC,
    /// Value of ITER_BVEC: pages without an address in user memory (splice, sendfile).
    ITER_IS_BVEC,
    /// Value of ITER_KVEC: a kernel thread's memory.
    ITER_IS_KVEC,
    /// Value of ITER_UBUF; 255 where there is none.
    ITER_IS_UBUF,
    /// socket.type, i16.
    SOCKET_TYPE,

    /// pt_regs: number of the system call, its lower 32 bits.
    REGS_NUMBER,
    /// pt_regs: second argument.
    REGS_SECOND,
    /// pt_regs: third argument.
    REGS_THIRD,
    /// task_struct.pid, i32: the thread.
    TASK_PID,
    /// task_struct.tgid, i32: the process.
    TASK_TGID,
    /// task_struct.thread_info.status or .flags, u32.
    TASK_STATUS,
    /// Bits of it that say: a 32-bit system call.
    TASK_STATUS_COMPAT,
    NR_READ,
    NR_WRITE,
    NR_READV,
    NR_WRITEV,
    NR_PREADV2,
    NR_PWRITEV2,
    NR_SENDTO,
    NR_RECVFROM,
    NR_SENDMSG,
    NR_RECVMSG,
    NR_SENDMMSG,
    NR_RECVMMSG,
    NR_SPLICE,
    NR_SENDFILE,
    NR_IO_URING_ENTER,

    /// Not zero: bpf_sk_storage_get works in tracing programs (5.11); zero: maps keyed by socket address.
    HAVE_SK_STORAGE,
    /// Not zero: bpf_get_socket_cookie works in tracing programs (5.12).
    HAVE_SOCKET_COOKIE,
    /// Steps of one call, or of one program where loops are bounded.
    STEPS,
    /// Not zero: small buffers are put together. Zero where loops are bounded: it would cost the verifier of old kernels
    /// more than half of what it looks at.
    GATHER,
    /// Process whose sockets are not looked at; zero for none.
    IGNORED_PID,
    /// Bytes of records from one scratch memory after which the reader is woken.
    WATERMARK,
}
