//! The constants of the kernel programs (`agent-ebpf/src/config.rs`) for the running kernel.

use super::btf::{Btf, BtfError};

/// Name and value of each constant that depends on the kernel.
pub type Constants = Vec<(&'static str, u64)>;

/// Structures that all ways in need.
pub fn common(btf: &Btf<'_>) -> Result<Constants, BtfError> {
    let mut all = Constants::new();
    for (constant, structure, member, size) in [
        ("SOCK_PROTOCOL", "sock", "sk_protocol", 2),
        ("SOCK_TYPE", "sock", "sk_type", 2),
        ("SOCK_ERR", "sock", "sk_err", 4),
        ("SKC_FAMILY", "sock_common", "skc_family", 2),
        ("SKC_NUM", "sock_common", "skc_num", 2),
        ("SKC_DPORT", "sock_common", "skc_dport", 2),
        ("SKC_DADDR", "sock_common", "skc_daddr", 4),
        ("SKC_RCV_SADDR", "sock_common", "skc_rcv_saddr", 4),
        ("SKC_V6_DADDR", "sock_common", "skc_v6_daddr", 16),
        ("SKC_V6_RCV_SADDR", "sock_common", "skc_v6_rcv_saddr", 16),
        ("SKC_NET", "sock_common", "skc_net", 8),
        ("NET_INUM", "net", "ns.inum", 4),
        ("TCP_WRITE_SEQ", "tcp_sock", "write_seq", 4),
        ("TCP_COPIED_SEQ", "tcp_sock", "copied_seq", 4),
        ("TCP_RCV_NXT", "tcp_sock", "rcv_nxt", 4),
        ("TCP_SND_UNA", "tcp_sock", "snd_una", 4),
        ("TCP_BYTES_RECEIVED", "tcp_sock", "bytes_received", 8),
        ("TCP_BYTES_ACKED", "tcp_sock", "bytes_acked", 8),
        ("ICSK_ULP_OPS", "inet_connection_sock", "icsk_ulp_ops", 8),
        ("SOCKET_TYPE", "socket", "type", 2),
    ] {
        all.push((constant, btf.sized_member(structure, member, size)?));
    }
    // A u8 now, a bit field of eight bits that fills its byte in some kernels.
    all.push(("SOCK_SHUTDOWN", btf.member("sock", "sk_shutdown")?.offset));
    Ok(all)
}

/// What the exits and returns of `inet_sendmsg` and its like need: the message's iterator.
pub fn message(btf: &Btf<'_>) -> Result<Constants, BtfError> {
    let mut all = vec![
        ("MSG_ITER", btf.member("msghdr", "msg_iter")?.offset),
        ("ITER_OFFSET", btf.sized_member("iov_iter", "iov_offset", 8)?),
    ];
    // Renamed in 6.4.
    let iovecs =
        btf.sized_member("iov_iter", "__iov", 8).or_else(|_| btf.sized_member("iov_iter", "iov", 8))?;
    all.push(("ITER_IOV", iovecs));
    match btf.sized_member("iov_iter", "iter_type", 1) {
        Ok(offset) => {
            all.push(("ITER_TYPE", offset));
            all.push(("ITER_IS_IOVEC", btf.enumerator("iter_type", "ITER_IOVEC")?));
        }
        Err(_) => {
            // Before 5.14 the kind is one bit of `type`, whose lowest bit is the direction.
            all.push(("ITER_TYPE", btf.sized_member("iov_iter", "type", 4)?));
            all.push(("ITER_TYPE_MASK", 0xfe));
            all.push(("ITER_IS_IOVEC", btf.enumerator("iter_type", "ITER_IOVEC")?));
        }
    }
    all.push(("ITER_IS_BVEC", btf.enumerator("iter_type", "ITER_BVEC")?));
    all.push(("ITER_IS_KVEC", btf.enumerator("iter_type", "ITER_KVEC")?));
    // Since 6.0.
    let single = btf.enumerator("iter_type", "ITER_UBUF").ok().zip(btf.member("iov_iter", "ubuf").ok());
    all.push(("ITER_IS_UBUF", single.map_or(255, |(value, _)| value)));
    all.push(("ITER_UBUF", single.map_or(0, |(_, member)| member.offset)));
    for (_, offset) in all.iter().filter(|(name, _)| name.starts_with("ITER_") && !name.contains("_IS_")) {
        if *offset != 0xfe && *offset > 40 {
            return Err(BtfError::NoMember("iov_iter within 48 bytes".into()));
        }
    }
    let socket = btf.sized_member("socket", "sk", 8)?;
    if socket != 24 {
        // A literal in the programs, see `socket_of` there.
        return Err(BtfError::Size("offset of socket.sk".into(), socket, 24));
    }
    for (function, parameters) in [
        ("inet_sendmsg", 3),
        ("inet6_sendmsg", 3),
        ("unix_stream_sendmsg", 3),
        ("inet_recvmsg", 4),
        ("inet6_recvmsg", 4),
        ("unix_stream_recvmsg", 4),
    ] {
        let found = btf.parameters(function)?;
        if found != parameters {
            return Err(BtfError::Size(format!("parameters of {function}"), found.into(), parameters.into()));
        }
    }
    Ok(all)
}

/// What the tracepoints need: the registers of the system call, and its number for each kind.
pub fn registers(btf: &Btf<'_>) -> Result<Constants, BtfError> {
    for tracepoint in ["sock_send_length", "sock_recv_length"] {
        if !btf.has_tracepoint(tracepoint) {
            return Err(BtfError::NoType(format!("tracepoint {tracepoint} (Linux 6.3)")));
        }
    }
    #[cfg(target_arch = "x86_64")]
    let mut all = vec![
        (
            "REGS_NUMBER",
            btf.sized_member("pt_regs", "orig_ax", 8)
                .or_else(|_| btf.sized_member("pt_regs", "orig_rax", 8))?,
        ),
        ("REGS_SECOND", btf.sized_member("pt_regs", "si", 8)?),
        ("REGS_THIRD", btf.sized_member("pt_regs", "dx", 8)?),
        ("TASK_STATUS", btf.sized_member("task_struct", "thread_info.status", 4)?),
        // TS_COMPAT, arch/x86/include/asm/thread_info.h.
        ("TASK_STATUS_COMPAT", 0x2),
    ];
    #[cfg(target_arch = "aarch64")]
    let mut all = vec![
        // struct pt_regs { u64 regs[31]; … s32 syscallno; } with user_pt_regs in front.
        ("REGS_NUMBER", btf.member("pt_regs", "syscallno")?.offset),
        ("REGS_SECOND", btf.member("pt_regs", "regs")?.offset + 8),
        ("REGS_THIRD", btf.member("pt_regs", "regs")?.offset + 16),
        ("TASK_STATUS", btf.member("task_struct", "thread_info.flags")?.offset),
        // TIF_32BIT, arch/arm64/include/asm/thread_info.h.
        ("TASK_STATUS_COMPAT", 1 << 22),
    ];
    all.push(("TASK_PID", btf.sized_member("task_struct", "pid", 4)?));
    all.push(("TASK_TGID", btf.sized_member("task_struct", "tgid", 4)?));
    all.extend(
        [
            ("NR_READ", libc::SYS_read),
            ("NR_WRITE", libc::SYS_write),
            ("NR_READV", libc::SYS_readv),
            ("NR_WRITEV", libc::SYS_writev),
            ("NR_PREADV2", libc::SYS_preadv2),
            ("NR_PWRITEV2", libc::SYS_pwritev2),
            ("NR_SENDTO", libc::SYS_sendto),
            ("NR_RECVFROM", libc::SYS_recvfrom),
            ("NR_SENDMSG", libc::SYS_sendmsg),
            ("NR_RECVMSG", libc::SYS_recvmsg),
            ("NR_SENDMMSG", libc::SYS_sendmmsg),
            ("NR_RECVMMSG", libc::SYS_recvmmsg),
            ("NR_SPLICE", libc::SYS_splice),
            ("NR_SENDFILE", libc::SYS_sendfile),
            ("NR_IO_URING_ENTER", libc::SYS_io_uring_enter),
        ]
        .map(|(name, number)| (name, number as u64)),
    );
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_running_kernel_has_every_structure() {
        let Ok(bytes) = std::fs::read("/sys/kernel/btf/vmlinux") else {
            eprintln!("SKIPPED: this kernel has no /sys/kernel/btf/vmlinux");
            return;
        };
        let btf = Btf::parse(&bytes).expect("the kernel's own BTF parses");
        let common = common(&btf).expect("every kernel since 5.10 has these");
        assert!(common.iter().all(|(_, offset)| *offset < 1 << 16), "{common:?}");
        message(&btf).expect("every kernel since 5.10 has these");
        if btf.has_tracepoint("sock_send_length") {
            registers(&btf).expect("every kernel since 6.3 has these");
        }
    }
}
