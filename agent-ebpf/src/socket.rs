//! What the kernel knows of a socket: its kind, its place in the streams, its ends.

use agent_common::flow::Walk;
use agent_common::ring::FLOW_SENT;
use aya_ebpf::helpers::generated::{
    bpf_get_current_cgroup_id, bpf_get_smp_processor_id, bpf_get_socket_cookie, bpf_ktime_get_ns,
    bpf_skc_to_tcp_sock,
};

use crate::config::config;
use crate::kernel::{self, read_kernel};

const AF_UNIX: u16 = 1;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const SOCK_STREAM: u16 = 1;
const IPPROTO_TCP: u16 = 6;
const IPPROTO_MPTCP: u16 = 262;
const RCV_SHUTDOWN: u8 = 1;

/// A socket of the kernel. Whether the verifier knows the pointer for one is a constant in each program, so that
/// nothing is left of the other way.
#[derive(Clone, Copy)]
pub struct Sock {
    /// Its address.
    pub at: u64,
    /// The verifier knows it: fields are read as they are, helpers for sockets can be called. Otherwise (kprobes)
    /// fields are copied by a helper.
    pub typed: bool,
}

impl Sock {
    /// A socket from the arguments of a tracepoint or of a function's exit.
    #[inline(always)]
    pub fn typed(at: u64) -> Sock {
        Sock { at, typed: true }
    }

    /// A socket by its address alone.
    #[inline(always)]
    pub fn untyped(at: u64) -> Sock {
        Sock { at, typed: false }
    }

    #[inline(always)]
    unsafe fn field<T: Copy>(self, offset: u64) -> T {
        // SAFETY: the offset is from the kernel's own BTF; what is not typed is read by a helper that checks.
        unsafe { if self.typed { kernel::field(self.at, offset) } else { kernel::copied(self.at, offset) } }
    }
}

/// A stream socket of TCP (v4, v6), MPTCP or Unix.
#[inline(always)]
pub unsafe fn is_stream(sk: Sock) -> bool {
    // SAFETY: `sk` is the socket of the hook.
    unsafe {
        let family: u16 = sk.field(config!(SKC_FAMILY));
        if family == AF_INET || family == AF_INET6 {
            let protocol: u16 = sk.field(config!(SOCK_PROTOCOL));
            return protocol == IPPROTO_TCP || protocol == IPPROTO_MPTCP;
        }
        family == AF_UNIX && sk.field::<u16>(config!(SOCK_TYPE)) == SOCK_STREAM
    }
}

/// The peer has closed its end, and everything it sent was read before.
#[inline(always)]
pub unsafe fn peer_closed(sk: Sock) -> bool {
    // SAFETY: `sk` is the socket of the hook.
    unsafe { sk.field::<u8>(config!(SOCK_SHUTDOWN)) & RCV_SHUTDOWN != 0 }
}

/// The socket ended with an error.
#[inline(always)]
pub unsafe fn has_error(sk: Sock) -> bool {
    // SAFETY: `sk` is the socket of the hook.
    unsafe { sk.field::<u32>(config!(SOCK_ERR)) != 0 }
}

/// The socket as a TCP socket; at zero if it is none, or if its sequence numbers do not count what the
/// process moves (kTLS).
#[inline(always)]
pub unsafe fn tcp(sk: Sock) -> Sock {
    // SAFETY: `sk` is the socket of the hook.
    unsafe {
        if sk.typed {
            return Sock::typed(bpf_skc_to_tcp_sock(sk.at as *mut core::ffi::c_void) as u64);
        }
        let family: u16 = sk.field(config!(SKC_FAMILY));
        let is_tcp = (family == AF_INET || family == AF_INET6)
            && sk.field::<u16>(config!(SOCK_PROTOCOL)) == IPPROTO_TCP;
        Sock::untyped(if is_tcp { sk.at } else { 0 })
    }
}

/// TCP's own count of the bytes that the process moved: sequence number behind the last one.
#[inline(always)]
pub unsafe fn sequence_end(sk: Sock, tcp: Sock, flow: u32) -> u32 {
    // SAFETY: `tcp` is what `tcp` returned.
    unsafe {
        if flow == u32::from(FLOW_SENT) {
            tcp.field(config!(TCP_WRITE_SEQ))
        } else {
            tcp.field::<u32>(config!(TCP_COPIED_SEQ)).wrapping_sub(fin_read(sk, tcp))
        }
    }
}

/// One if the peer's FIN, which counts as a byte, was read along with the data before it.
#[inline(always)]
unsafe fn fin_read(sk: Sock, tcp: Sock) -> u32 {
    // SAFETY: `tcp` is what `tcp` returned for `sk`.
    unsafe {
        let read: u32 = tcp.field(config!(TCP_COPIED_SEQ));
        u32::from(peer_closed(sk) && read == arrived(tcp))
    }
}

/// Bytes that the process moved since the start of the connection, by TCP's own count. What is sent may
/// be one more than true, since an active open counts its SYN as acknowledged.
///
/// The socket is not locked here: an acknowledgement or a segment that arrives meanwhile changes first the
/// total and then the sequence number, and a total taken between the two is too large. So both are read until
/// they stay the same.
#[inline(always)]
pub unsafe fn stream_end(sk: Sock, tcp: Sock, flow: u32) -> u64 {
    // SAFETY: `tcp` is what `tcp` returned.
    unsafe {
        if flow == u32::from(FLOW_SENT) {
            let (total, acknowledged) = settled(tcp, config!(TCP_BYTES_ACKED), config!(TCP_SND_UNA));
            let written: u32 = tcp.field(config!(TCP_WRITE_SEQ));
            total.wrapping_add(u64::from(written.wrapping_sub(acknowledged)))
        } else {
            let (total, arrived) = settled(tcp, config!(TCP_BYTES_RECEIVED), config!(TCP_RCV_NXT));
            let read: u32 = tcp.field(config!(TCP_COPIED_SEQ));
            total.wrapping_sub(u64::from(arrived.wrapping_sub(read))).wrapping_sub(fin_read(sk, tcp).into())
        }
    }
}

/// A total of bytes and the sequence number that belongs to it.
#[inline(always)]
unsafe fn settled(tcp: Sock, total_at: u64, sequence_at: u64) -> (u64, u32) {
    // SAFETY: `tcp` is what `tcp` returned.
    unsafe {
        let mut total: u64 = tcp.field(total_at);
        let mut sequence: u32 = tcp.field(sequence_at);
        let mut tries = 0;
        while tries < 4 {
            let (total_now, sequence_now): (u64, u32) = (tcp.field(total_at), tcp.field(sequence_at));
            if total_now == total && sequence_now == sequence {
                break;
            }
            total = total_now;
            sequence = sequence_now;
            tries += 1;
        }
        (total, sequence)
    }
}

/// Sequence number behind the last byte that arrived in order, a FIN included.
#[inline(always)]
pub unsafe fn arrived(tcp: Sock) -> u32 {
    // SAFETY: `tcp` is what `tcp` returned.
    unsafe { tcp.field(config!(TCP_RCV_NXT)) }
}

/// Bytes that arrived in order since the start of the connection, a FIN included.
#[inline(always)]
pub unsafe fn received(tcp: Sock) -> u64 {
    // SAFETY: `tcp` is what `tcp` returned.
    unsafe { tcp.field(config!(TCP_BYTES_RECEIVED)) }
}

/// kTLS: the socket's own sequence numbers count ciphertext.
#[inline(always)]
pub unsafe fn has_upper_protocol(tcp: Sock) -> bool {
    // SAFETY: `tcp` is what `tcp` returned.
    unsafe { tcp.field::<u64>(config!(ICSK_ULP_OPS)) != 0 }
}

/// A name for the connection that is not used again.
#[inline(always)]
pub unsafe fn identity(sk: Sock) -> u64 {
    // SAFETY: `sk` is the socket of the hook.
    unsafe {
        if config!(HAVE_SOCKET_COOKIE) != 0 {
            bpf_get_socket_cookie(sk.at as *mut core::ffi::c_void)
        } else {
            // Two sockets first seen in the same nanosecond were seen on different CPUs.
            bpf_ktime_get_ns() << 8 | u64::from(bpf_get_smp_processor_id() & 0xff)
        }
    }
}

/// Writes both ends of the connection to `walk.open`.
#[inline(always)]
pub unsafe fn describe(walk: *mut Walk, sk: Sock) {
    // SAFETY: as the two.
    unsafe {
        if sk.typed {
            describe_typed(walk, sk.at)
        } else {
            describe_untyped(walk, sk.at)
        };
    }
}

#[inline(never)]
unsafe fn describe_typed(walk: *mut Walk, sk: u64) -> u64 {
    // SAFETY: `walk` is a map value that the caller owns; `sk` is the socket of the hook.
    unsafe { describe_ends(walk, Sock::typed(sk)) }
}

#[inline(never)]
unsafe fn describe_untyped(walk: *mut Walk, sk: u64) -> u64 {
    // SAFETY: `walk` is a map value that the caller owns; `sk` is the socket of the hook.
    unsafe { describe_ends(walk, Sock::untyped(sk)) }
}

#[inline(always)]
unsafe fn describe_ends(walk: *mut Walk, sk: Sock) -> u64 {
    // SAFETY: `walk` is a map value that the caller owns; `sk` is the socket of the hook.
    unsafe {
        let ends = &raw mut (*walk).open.endpoints;
        let family: u16 = sk.field(config!(SKC_FAMILY));
        let words = ends.cast::<u64>();
        words.write_volatile(0);
        words.add(1).write_volatile(0);
        words.add(2).write_volatile(0);
        words.add(3).write_volatile(0);
        (*ends).local_port = 0;
        (*ends).peer_port = 0;
        (*ends).family = family;
        (*ends).reserved = 0;
        let local = (&raw mut (*ends).local_address).cast::<u8>();
        let peer = (&raw mut (*ends).peer_address).cast::<u8>();
        if family == AF_INET {
            let mapped = 0xffff_0000u32; // ::ffff:0:0/96 on a little-endian machine
            local.add(8).cast::<u32>().write_volatile(mapped);
            peer.add(8).cast::<u32>().write_volatile(mapped);
            local.add(12).cast::<u32>().write_volatile(sk.field(config!(SKC_RCV_SADDR)));
            peer.add(12).cast::<u32>().write_volatile(sk.field(config!(SKC_DADDR)));
        } else if family == AF_INET6 {
            read_kernel(local, 16, sk.at + config!(SKC_V6_RCV_SADDR));
            read_kernel(peer, 16, sk.at + config!(SKC_V6_DADDR));
        }
        if family != AF_UNIX {
            (*ends).local_port = sk.field(config!(SKC_NUM));
            (*ends).peer_port = u16::from_be(sk.field(config!(SKC_DPORT)));
        }
        let mut namespace = 0u64;
        read_kernel((&raw mut namespace).cast(), 8, sk.at + config!(SKC_NET));
        (*ends).network_namespace = 0;
        read_kernel((&raw mut (*ends).network_namespace).cast(), 4, namespace + config!(NET_INUM));
        (*ends).cgroup = bpf_get_current_cgroup_id();
        let comm: unsafe extern "C" fn(*mut u8, u64) -> i64 = core::mem::transmute(16usize);
        comm((&raw mut (*ends).comm).cast(), 16);
        0
    }
}
