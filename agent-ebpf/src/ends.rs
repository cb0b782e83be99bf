//! The ends of connections: what is told to user space when a flow is over or its socket is closed.

use core::ffi::c_void;

use agent_common::flow::{Connection, PHASE_START};
use agent_common::ring::{
    FLAG_FINAL, FLAG_RESET, FLAG_UNSEEN_END, FLOW_RECEIVED, FLOW_SENT, KIND_CLOSE, RECOGNISED_CHAIN,
    RecordHeader,
};
use aya_ebpf::helpers::generated::bpf_ktime_get_ns;

use crate::call::{flow_of, tell_gap};
use crate::config::config;
use crate::fields::{get, set};
use crate::kernel;
use crate::maps::{self, CLASS_HTTP2, CLASS_OTHER};
use crate::socket::{self, Sock};

/// A read of an HTTP/2 socket returned nothing: if the peer closed its end, its flow is over.
#[inline(always)]
pub unsafe fn nothing_read(sk: Sock) {
    // SAFETY: as `call::prepare`.
    unsafe {
        if !socket::peer_closed(sk) {
            return;
        }
        let class = maps::known_class_of(sk.at);
        if class.is_null() || get!(class.class) != CLASS_HTTP2 {
            return;
        }
        let connection = maps::connection_of(sk.at, false);
        if !connection.is_null() {
            close(connection, u32::from(FLOW_RECEIVED), 0);
            if get!(connection.final_pending) != 0 {
                set!(connection.final_pending = 0);
                close_both(sk, connection, FLAG_FINAL);
                if config!(HAVE_SK_STORAGE) == 0 {
                    maps::forget(sk.at, true);
                }
            }
        }
    }
}

/// The state of a TCP socket went to closed. If the process can still read what the peer sent, the end is
/// told when it has.
#[inline(always)]
pub unsafe fn closed(sk: Sock, connection: *mut Connection, orderly: bool) {
    // SAFETY: as `call::prepare`.
    unsafe {
        let flags = if orderly { FLAG_FINAL } else { FLAG_FINAL | FLAG_RESET };
        if orderly && !everything_read(sk, connection) {
            set!(connection.final_pending = 1);
            // On another CPU the last read may have been counted meanwhile, and the process told that nothing follows: then
            // nobody comes any more to tell the end.
            if !everything_read(sk, connection) || get!(connection.final_pending) == 0 {
                return;
            }
            set!(connection.final_pending = 0);
        }
        close_both(sk, connection, flags);
        if config!(HAVE_SK_STORAGE) == 0 {
            // The next socket may get the same address; storage goes with its socket.
            maps::forget(sk.at, true);
            return;
        }
        // Whatever is read after a reset is not followed any more.
        let class = maps::known_class_of(sk.at);
        if !class.is_null() {
            set!(class.class = CLASS_OTHER);
            set!(class.count = 0);
        }
    }
}

/// The socket is closed: tells user space so, and what was not seen at the end of its flows.
#[inline(always)]
unsafe fn close_both(sk: Sock, connection: *mut Connection, flags: u8) {
    // SAFETY: as `call::prepare`.
    unsafe {
        let sent = tell_rest(sk, connection, u32::from(FLOW_SENT), flags);
        let received = tell_rest(sk, connection, u32::from(FLOW_RECEIVED), flags);
        if received != 0 {
            close(connection, u32::from(FLOW_RECEIVED), received);
        }
        close(connection, u32::from(FLOW_SENT), flags | sent);
    }
}

/// The socket is closed: tells user space of bytes at the end of a flow that TCP has counted and no program has seen, which
/// otherwise the next call would show. Returns [`FLAG_UNSEEN_END`] if they, or others, are in doubt, and zero if not.
#[inline(always)]
unsafe fn tell_rest(sk: Sock, connection: *mut Connection, flow: u32, flags: u8) -> u8 {
    // SAFETY: as `call::prepare`.
    unsafe {
        let of = flow_of(connection, flow);
        let mut doubt = 0;
        if get!(of.tentative) != 0 {
            // No certain record follows that would make the last ones count.
            doubt = FLAG_UNSEEN_END;
        }
        let tcp = socket::tcp(sk);
        if tcp.at == 0 || get!(connection.sequenced) == 0 {
            return doubt;
        }
        let is_reset = flags & FLAG_RESET != 0;
        let has_begun = u32::from(get!(of.phase)) != PHASE_START;
        // Not one call of it was seen: of a connection that is older than we are that means nothing.
        if !has_begun && get!(connection.recognised) == RECOGNISED_CHAIN {
            return doubt;
        }
        let end = if is_reset && flow == u32::from(FLOW_RECEIVED) {
            // What had arrived can be read after a reset, and that is not followed.
            if has_begun {
                socket::arrived(tcp).wrapping_sub(get!(of.zero))
            } else {
                socket::received(tcp) as u32
            }
        } else if has_begun {
            socket::sequence_end(sk, tcp, flow).wrapping_sub(get!(of.zero))
        } else {
            socket::stream_end(sk, tcp, flow) as u32
        };
        let missed = end.wrapping_sub(get!(of.next) as u32);
        // What is sent is counted with SYN and FIN, whichever there was; nine bytes of a frame header are more.
        if missed <= 2 || missed >> 31 != 0 {
            return doubt;
        }
        if is_reset {
            // It may have come while the process is inside of a call, so that nothing was missed. It only says that bytes are in
            // doubt.
            return FLAG_UNSEEN_END;
        }
        tell_gap(connection, flow, get!(of.next), u64::from(missed - 1));
        doubt
    }
}

/// Tells user space that a flow ended, once; or, with flags, what more there is to say of its end.
#[inline(always)]
pub unsafe fn close(connection: *mut Connection, flow: u32, flags: u8) {
    // SAFETY: as `call::prepare`.
    unsafe {
        let ended = (&raw mut (*connection).ended).cast::<u8>().add(flow as usize);
        if get!(connection.opened) == 0 || (flags == 0 && ended.read_volatile() != 0) {
            return;
        }
        ended.write_volatile(1);
        let of = flow_of(connection, flow);
        let received = flow_of(connection, u32::from(FLOW_RECEIVED));
        let mut record = RecordHeader {
            time_ns: bpf_ktime_get_ns(),
            connection: get!(connection.id),
            offset: get!(of.next),
            moved: if flags & FLAG_FINAL == 0 { 0 } else { get!(received.sequence) },
            sequence: kernel::next_sequence(of),
            pid: get!(connection.pid),
            thread: 0,
            payload: 0,
            kind: KIND_CLOSE,
            flow: flow as u8,
            flags,
            reserved: 0,
        };
        maps::output((&raw mut record).cast::<c_void>(), size_of::<RecordHeader>() as u64, 0);
    }
}

/// Whether the process has read everything that the peer sent before its FIN.
#[inline(always)]
pub unsafe fn everything_read(sk: Sock, connection: *mut Connection) -> bool {
    // SAFETY: as `call::prepare`.
    unsafe {
        let tcp = socket::tcp(sk);
        let flow = flow_of(connection, u32::from(FLOW_RECEIVED));
        if tcp.at == 0 {
            return true;
        }
        // The FIN counts as a byte.
        if u32::from(get!(flow.phase)) == PHASE_START {
            // No read was seen yet, but one may be on its way, or all of them are still to come.
            return socket::received(tcp) <= 1;
        }
        let arrived = socket::arrived(tcp).wrapping_sub(get!(flow.zero));
        let seen = get!(flow.next) as u32;
        arrived == seen || arrived == seen.wrapping_add(1)
    }
}
