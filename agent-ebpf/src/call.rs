//! One socket call: from "some socket moved bytes" to a walk that is ready, and after the walk to records.

use core::ffi::c_void;
use core::hint::cold_path;
use core::ptr::null_mut;

use agent_common::counter::Counter;
use agent_common::flow::{
    Connection, Flow, PHASE_HEADER, PHASE_PREFACE, PHASE_START, PHASE_UNSYNCED, STOP_BAD_FRAME, STOP_FAULT,
    STOP_NOT_HTTP2, STOP_SHORT, Walk,
};
use agent_common::ring::{
    FLAG_FINAL, FLAG_TENTATIVE, FLOW_RECEIVED, FLOW_SENT, KIND_CLOSE, KIND_DATA, KIND_OPEN, KIND_UNSEEN,
    RECOGNISED_CHAIN, RECOGNISED_PREFACE, RecordHeader, SHED_CONNECTIONS, SHED_DATA, UNKNOWN_START,
};
use agent_common::walk;
use aya_ebpf::helpers::generated::bpf_ktime_get_ns;

use crate::buffers;
use crate::fields::{get, set};
use crate::kernel;
use crate::maps::{self, CLASS_HTTP2, CLASS_LEFT_OUT, CLASS_NEW, CLASS_OTHER, Class};
use crate::recognise::{TRIES, give_up, recognise};
use crate::socket::{self, Sock};

/// Calls after which a socket that was given up is looked at again.
const RETRY_CALLS: u32 = 4096;

/// What the hook says about the call.
#[derive(Clone, Copy)]
pub struct Call {
    /// The socket.
    pub sk: Sock,
    /// Bytes moved.
    pub moved: u64,
    /// `FLOW_` constant.
    pub flow: u32,
    /// Use the message; otherwise the registers of the system call. A constant in each program, since old
    /// kernels refuse programs with helpers that they do not have.
    pub by_message: bool,
    /// The message, where the hook has one.
    pub message: u64,
    /// Reads of eight iovecs to go back over at most.
    pub back_steps: u64,
}

/// A walk that is ready; null pointers if there is nothing to walk.
#[derive(Clone, Copy)]
pub struct Ready {
    /// Claimed scratch memory.
    pub walk: *mut Walk,
    /// The flow, in the connection's storage.
    pub flow: *mut Flow,
    /// The connection.
    pub connection: *mut Connection,
    /// The socket's class.
    pub class: *mut Class,
}

/// Nothing to walk.
pub const NOTHING: Ready =
    Ready { walk: null_mut(), flow: null_mut(), connection: null_mut(), class: null_mut() };

/// The flow of a connection.
#[inline(always)]
pub unsafe fn flow_of(connection: *mut Connection, flow: u32) -> *mut Flow {
    // SAFETY: `flow` is a constant 0 or 1.
    unsafe { (&raw mut (*connection).flows).cast::<Flow>().add(flow as usize) }
}

/// Decides whether the call matters, and prepares its walk.
#[inline(always)]
pub unsafe fn prepare(call: Call) -> Ready {
    // SAFETY: pointers come from helpers and are checked for null; what they point to is whole.
    unsafe {
        let class = maps::class_of(call.sk.at);
        if class.is_null() {
            cold_path();
            maps::count(Counter::Storage);
            return NOTHING;
        }
        let mut kind = get!(class.class);
        if kind == CLASS_OTHER {
            let calls = get!(class.count) + 1;
            set!(class.count = calls);
            if calls < RETRY_CALLS {
                return NOTHING;
            }
            cold_path();
            set!(class.class = CLASS_NEW);
            set!(class.count = TRIES - 4);
            kind = CLASS_NEW;
        }
        if kind == CLASS_LEFT_OUT {
            if maps::control() & SHED_CONNECTIONS != 0 {
                return NOTHING;
            }
            taken_up(class, call.sk.at);
            kind = CLASS_NEW;
        }
        let current = if call.by_message { kernel::Task::ids_only() } else { kernel::Task::current() };
        let task = current.ids;
        let walk = maps::claim(call.flow, task);
        if walk.is_null() {
            cold_path();
            if kind == CLASS_HTTP2 {
                maps::count(Counter::SkippedScratchBusy);
                unseen(call);
            }
            return NOTHING;
        }
        let found = if call.by_message {
            buffers::of_message(walk, call.message, call.moved, call.back_steps)
        } else {
            buffers::of_system_call(walk, current.task, call.flow, call.moved)
        };
        set!(walk.found = u64::from(found));
        if get!(walk.found) != u64::from(buffers::FOUND) {
            cold_path();
            if kind == CLASS_HTTP2 {
                skipped(get!(walk.found));
                unseen(call);
            }
            maps::release(walk);
            return NOTHING;
        }
        set!(walk.recognised = 0);
        set!(walk.control = maps::control());
        if kind == CLASS_NEW {
            cold_path();
            if !is_guessed(call) && !recognise(walk, class, call, (task >> 32) as u32) {
                maps::release(walk);
                return NOTHING;
            }
        }
        let connection = maps::connection_of(call.sk.at, true);
        if connection.is_null() {
            cold_path();
            maps::count(Counter::Storage);
            maps::release(walk);
            return NOTHING;
        }
        let flow = flow_of(connection, call.flow);
        locate(walk, connection, flow, call);
        let recognised = get!(walk.recognised) as u32;
        if recognised != 0 && recognised != RECOGNISED_CHAIN {
            cold_path();
            // Last, since the other flow then relies on what `locate` wrote down.
            set!(class.class = CLASS_HTTP2);
        }
        address(walk, connection, flow, call, task);
        Ready { walk, flow, connection, class }
    }
}

/// A socket that was left out is looked at again, to be joined late. Should its other flow have been followed all the same
/// (both were recognised at once), then what passed meanwhile is a gap where TCP counts, and a hole of unknown size elsewhere.
#[inline(never)]
unsafe fn taken_up(class: *mut Class, sk: u64) -> u64 {
    // SAFETY: as `prepare`.
    unsafe {
        let sk = Sock::untyped(sk);
        set!(class.class = CLASS_NEW);
        set!(class.count = 0);
        never_returned(sk, u32::from(FLOW_SENT));
        never_returned(sk, u32::from(FLOW_RECEIVED));
        0
    }
}

/// Counts why a call's buffers were not found.
#[inline(always)]
unsafe fn skipped(reason: u64) {
    // A counter's number, masked to the array.
    let key = reason & (agent_common::counter::COUNTER_SLOTS as u64 - 1);
    // SAFETY: masked.
    unsafe { maps::count_slot(key) };
}

/// A call of an HTTP/2 socket whose bytes cannot be walked: TCP's sequence numbers will say so at the
/// next call; for other sockets it is written down.
#[inline(always)]
unsafe fn unseen(call: Call) {
    // SAFETY: as `prepare`.
    unsafe {
        let connection = maps::connection_of(call.sk.at, false);
        if connection.is_null() {
            return;
        }
        if get!(connection.sequenced) == 0 {
            let flow = flow_of(connection, call.flow);
            set!(flow.unseen = get!(flow.unseen).wrapping_add(call.moved as u32));
        }
    }
}

/// Whether calls before this one began a guess at the flow's place in the frames. A socket that is not
/// classified has a connection only then, or since another call of it is being recognised right now.
#[inline(always)]
unsafe fn is_guessed(call: Call) -> bool {
    // SAFETY: as `prepare`.
    unsafe {
        let connection = maps::connection_of(call.sk.at, false);
        if connection.is_null() {
            return false;
        }
        let flow = flow_of(connection, call.flow);
        get!(flow.tentative) != 0
    }
}

/// A call began whose end was not seen: how much it moved is not known. TCP's sequence numbers will say so; on
/// other sockets the boundary is lost, and a hole of one byte stands for what was missed.
#[inline(always)]
pub unsafe fn never_returned(sk: Sock, flow: u32) {
    // SAFETY: as `prepare`.
    unsafe {
        let connection = maps::connection_of(sk.at, false);
        if connection.is_null() || get!(connection.sequenced) != 0 {
            return;
        }
        let flow = flow_of(connection, flow);
        if u32::from(get!(flow.phase)) != PHASE_START {
            set!(flow.phase = PHASE_UNSYNCED as u8);
            set!(flow.tentative = 0);
            set!(flow.unseen = get!(flow.unseen).wrapping_add(1));
        }
    }
}

/// Finds the call's place in the flow: what was missed since the last call, or where the first one starts.
#[inline(always)]
unsafe fn locate(walk: *mut Walk, connection: *mut Connection, flow: *mut Flow, call: Call) {
    // SAFETY: as `prepare`.
    unsafe {
        let recognised = get!(walk.recognised) as u32;
        let tcp = socket::tcp(call.sk);
        if get!(connection.id) == 0 {
            cold_path();
            // The id last: whoever sees it, on the other flow at the same time, takes the rest for decided.
            if tcp.at != 0 && !socket::has_upper_protocol(tcp) {
                set!(connection.sequenced = 1);
            }
            set!(connection.id = socket::identity(call.sk));
        }
        if recognised != 0 {
            set!(connection.recognised = recognised);
        }
        let sequenced = tcp.at != 0 && get!(connection.sequenced) != 0;
        let phase = u32::from(get!(flow.phase));
        if phase == PHASE_START {
            cold_path();
            // Both flows may be recognised at the same time, each by its own first bytes.
            let opened_by = if recognised != 0 { recognised } else { get!(connection.recognised) };
            let mut start = 0;
            if sequenced {
                start = socket::stream_end(call.sk, tcp, call.flow).wrapping_sub(call.moved);
                if start == 1 && call.flow != u32::from(FLOW_RECEIVED) {
                    start = 0;
                }
                let end = (start + call.moved) as u32;
                set!(flow.zero = socket::sequence_end(call.sk, tcp, call.flow).wrapping_sub(end));
            } else if opened_by == RECOGNISED_CHAIN {
                start = UNKNOWN_START;
            }
            set!(flow.next = start);
            set!(flow.unseen = 0);
            if start != 0 || opened_by == RECOGNISED_CHAIN {
                set!(flow.phase = PHASE_UNSYNCED as u8);
            } else {
                // The client's flow starts with the preface, the server's with SETTINGS.
                let by_this_flow = recognised != 0;
                let client = (opened_by == RECOGNISED_PREFACE) == by_this_flow;
                set!(flow.first = 1);
                set!(flow.header_have = 0);
                set!(flow.phase = (if client { PHASE_PREFACE } else { PHASE_HEADER }) as u8);
            }
        } else {
            let mut gap = get!(flow.unseen);
            set!(flow.unseen = 0);
            if sequenced {
                let start = socket::sequence_end(call.sk, tcp, call.flow)
                    .wrapping_sub(get!(flow.zero))
                    .wrapping_sub(call.moved as u32);
                gap = start.wrapping_sub(get!(flow.next) as u32);
            }
            set!(walk.want = u64::from(gap));
            let gap = get!(walk.want);
            if gap != 0 {
                cold_path();
                set!(flow.tentative = 0);
                // What was left out and what was missed would be one hole.
                set!(flow.shed = 0);
            }
            if gap >> 31 != 0 {
                cold_path();
                maps::count(Counter::Backwards);
                set!(flow.next = get!(flow.next).wrapping_add(gap | 0xffff_ffff_0000_0000));
                set!(flow.phase = PHASE_UNSYNCED as u8);
            } else if gap != 0 {
                cold_path();
                tell_gap(connection, call.flow, get!(flow.next), gap);
                set!(flow.next = get!(flow.next) + gap);
                walk::skip_unseen(flow, gap);
            }
        }
        let probing = u32::from(get!(flow.phase)) == PHASE_UNSYNCED;
        walk::begin(walk, probing);
        if probing {
            cold_path();
            set!(flow.tentative = 0);
            set!(flow.shed = 0);
            walk::at_boundary(flow);
        } else {
            walk::go_on_guessing(walk, flow);
        }
        walk::prepare_shedding(walk, flow, get!(walk.control) & SHED_DATA != 0);
    }
}

/// Fills in the header of the call's records.
#[inline(always)]
unsafe fn address(walk: *mut Walk, connection: *mut Connection, flow: *mut Flow, call: Call, task: u64) {
    // SAFETY: as `prepare`.
    unsafe {
        set!(connection.pid = (task >> 32) as u32);
        let id = get!(connection.id);
        set!(walk.flow = u64::from(call.flow));
        (&raw mut (*walk).stream_key.connection).write_volatile(id);
        let header = &raw mut (*walk).header;
        let words = header.cast::<u64>();
        words.write_volatile(bpf_ktime_get_ns());
        words.add(1).write_volatile(id);
        words.add(2).write_volatile(get!(flow.next));
        words.add(3).write_volatile(call.moved);
        words.add(4).write_volatile(task.rotate_left(32));
        words.add(5).write_volatile(u64::from(KIND_DATA) << 32 | u64::from(call.flow) << 40);
        let opened = get!(connection.opened) != 0;
        set!(walk.open_pending = u64::from(!opened));
        if !opened {
            cold_path();
            let open = (&raw mut (*walk).open.header).cast::<u64>();
            open.write_volatile(words.read_volatile());
            open.add(1).write_volatile(id);
            open.add(2).write_volatile(get!(flow.next));
            open.add(3).write_volatile(0);
            open.add(4).write_volatile(task.rotate_left(32));
            open.add(5).write_volatile(72 | u64::from(KIND_OPEN) << 32 | u64::from(call.flow) << 40);
            (*walk).open.endpoints.recognised = get!(connection.recognised);
            socket::describe(walk, call.sk);
        }
    }
}

/// After the walk: what stopped it, and the last record of the call.
#[inline(always)]
pub unsafe fn finish(ready: Ready, call: Call) {
    // SAFETY: as `prepare`.
    unsafe {
        let Ready { walk, flow, connection, class } = ready;
        let stop = get!(walk.stop);
        let probing = get!(walk.probing) != 0;
        if stop == 0 && get!(walk.total_left) != 0 {
            cold_path();
            maps::count(Counter::OutOfSteps);
            set!(flow.phase = PHASE_UNSYNCED as u8);
        } else if stop == STOP_FAULT {
            cold_path();
            maps::count(Counter::Fault);
            set!(flow.phase = PHASE_UNSYNCED as u8);
        } else if stop == STOP_SHORT {
            cold_path();
            maps::count(Counter::ShortBuffers);
            set!(flow.phase = PHASE_UNSYNCED as u8);
        } else if stop == STOP_BAD_FRAME && !probing {
            cold_path();
            maps::count(Counter::BadFrame);
        } else if stop == STOP_NOT_HTTP2 {
            cold_path();
            if get!(connection.sequenced) != 0 || u32::from(get!(flow.phase)) == PHASE_PREFACE {
                revoke(walk, flow, connection, class);
                maps::release(walk);
                maps::forget(call.sk.at, false);
                return;
            }
            // Without sequence numbers the flow may have begun before it was seen.
            set!(flow.first = 0);
            set!(flow.phase = PHASE_UNSYNCED as u8);
        }
        if probing {
            cold_path();
            if !walk::is_confirmed(walk, flow) {
                set!(walk.want = walk::tentative(walk, flow));
                let tentative = get!(walk.want);
                set!(flow.tentative = tentative as u8);
                if tentative != 0 {
                    set!(walk.open_pending = 0);
                    kernel::send(walk, flow, FLAG_TENTATIVE);
                    set!(flow.next = get!(flow.next) + call.moved);
                    maps::release(walk);
                    return;
                }
                set!(flow.phase = PHASE_UNSYNCED as u8);
                if get!(class.class) == CLASS_NEW {
                    set!(flow.phase = PHASE_START as u8);
                    let tries = get!(class.count) + 1;
                    set!(class.count = tries);
                    if tries >= TRIES {
                        give_up(class);
                    }
                } else {
                    maps::count(Counter::Unsynced);
                    tell_unseen(connection, call.flow.into(), get!(flow.next), call.moved);
                }
                set!(flow.next = get!(flow.next) + call.moved);
                maps::release(walk);
                return;
            }
            set!(flow.tentative = 0);
            if get!(class.class) == CLASS_NEW {
                set!(class.class = CLASS_HTTP2);
                maps::count(Counter::ClassChain);
            } else {
                maps::count(Counter::Resynced);
            }
        }
        if !probing && get!(walk.open_pending) == 0 && walk::is_shed(walk, flow) {
            maps::count(Counter::ShedCalls);
            maps::add(Counter::ShedBytes, call.moved);
            maps::add(Counter::ShedFrames, get!(walk.frames));
            set!(flow.shed = 1);
        } else if walk::payload(walk) != 0 || get!(walk.data_ended) != 0 {
            kernel::send(walk, flow, 0);
        }
        if get!(walk.open_pending) == 0 {
            set!(connection.opened = 1);
        }
        let left = get!(walk.total_left);
        if left != 0 {
            cold_path();
            tell_unseen(connection, call.flow.into(), get!(flow.next) + call.moved - left, left);
        }
        // Last: once everything that came is counted as read, the end of the connection is told
        // (`everything_read`), perhaps on another CPU, and nothing may follow that.
        set!(flow.next = get!(flow.next) + call.moved);
        maps::release(walk);
    }
}

/// Counts bytes of a flow that TCP has counted and no program has seen, and tells user space of them.
#[inline(always)]
pub unsafe fn tell_gap(connection: *mut Connection, flow: u32, offset: u64, bytes: u64) {
    // SAFETY: as `prepare`.
    unsafe {
        maps::count(Counter::Gaps);
        let of_flow =
            if flow == u32::from(FLOW_SENT) { Counter::GapBytesSent } else { Counter::GapBytesReceived };
        maps::add(of_flow, bytes);
        tell_unseen(connection, flow.into(), offset, bytes);
    }
}

/// Tells user space of bytes that moved and were not walked, if it knows of the connection.
#[inline(never)]
unsafe fn tell_unseen(connection: *mut Connection, flow: u64, offset: u64, bytes: u64) -> u64 {
    // SAFETY: as `prepare`; `flow` is 0 or 1.
    unsafe {
        if get!(connection.opened) == 0 {
            return 0;
        }
        let of = flow_of(connection, (flow & 1) as u32);
        let mut record = RecordHeader {
            time_ns: bpf_ktime_get_ns(),
            connection: get!(connection.id),
            offset,
            moved: bytes as u32,
            sequence: kernel::next_sequence(of),
            pid: get!(connection.pid),
            thread: 0,
            payload: 0,
            kind: KIND_UNSEEN,
            flow: (flow & 1) as u8,
            flags: 0,
            reserved: 0,
        };
        maps::output((&raw mut record).cast::<c_void>(), size_of::<RecordHeader>() as u64, 0);
        0
    }
}

/// What was taken for HTTP/2 is not: user space is told that nothing follows.
#[inline(always)]
unsafe fn revoke(walk: *mut Walk, flow: *mut Flow, connection: *mut Connection, class: *mut Class) {
    // SAFETY: as `prepare`.
    unsafe {
        maps::count(Counter::ClassRevoked);
        give_up(class);
        if get!(connection.opened) == 0 {
            return;
        }
        let header = &raw mut (*walk).header;
        (*header).moved = 0;
        (*header).payload = 0;
        (*header).sequence = kernel::next_sequence(flow);
        (*header).kind = KIND_CLOSE;
        (*header).flags = FLAG_FINAL;
        maps::output(header.cast::<c_void>(), size_of::<RecordHeader>() as u64, 0);
    }
}

/// A read with MSG_TRUNC: TCP throws the bytes away, so there is nothing to walk and a gap follows; Unix
/// sockets ignore the flag. True if the call is to be walked.
#[inline(always)]
pub unsafe fn truncated(sk: Sock, moved: i32) -> bool {
    // SAFETY: as `prepare`.
    unsafe {
        if moved <= 0 || !socket::is_stream(sk) {
            return false;
        }
        if socket::tcp(sk).at == 0 {
            return true;
        }
        let class = maps::known_class_of(sk.at);
        if !class.is_null() && get!(class.class) == CLASS_HTTP2 {
            maps::count(Counter::SkippedTruncated);
        }
        false
    }
}
