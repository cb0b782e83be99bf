//! What is remembered of a process: its inbound calls, its outbound calls that belong to one, and the methods that it calls.

use std::collections::hash_map::{Entry, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::given_up::GivenUp;
use super::tables::{Key, Recent, Set, Slab};
use super::threads::Threads;
use super::{Evidence, Thresholds};
use crate::detectors::fixed;
use crate::detectors::uncancelled::Cause;
use crate::input::{ConnectionId, Timestamp};
use crate::observation::{Timeout, TraceHash, Traces};

/// Inbound calls of a process that are remembered at once.
pub(super) const INBOUND: usize = 16_384;
/// Outbound calls of a process that belong to one of these, and are open.
const OUTBOUND: usize = 16_384;
/// Of the inbound calls, those that were given up are no more than so many.
const GIVEN_UP: usize = 1_024;
/// Methods that a process calls and that are told apart.
const METHODS: usize = 256;

/// A process with connections.
///
/// In the order of use: what every call needs stands in front, in four cache lines.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub(crate) struct Process {
    /// Calls that may be worked on: those that are open, and those that were given up a moment ago.
    pub(super) candidates: Set,
    /// Short calls of the infrastructure that are open.
    pub(super) infrastructure: u32,
    /// Open inbound calls beyond the bound.
    pub(super) beyond: u32,
    /// Open inbound calls that may have a trace which could not be read.
    pub(super) without_trace: u32,
    /// Connections on which an inbound call may be open that was not seen.
    pub(super) blind: u32,
    /// Of them, those of which nothing is understood now.
    pub(super) desynced: u32,
    pub(super) connections: u32,
    /// Until then such a call may be open.
    pub(super) doubted_until: Timestamp,
    /// Until then such a call may be open that began within the time for which calls are remembered.
    pub(super) traces_doubted_until: Timestamp,
    /// When the last outbound call began.
    pub(super) latest: Timestamp,
    pub(super) threads: Threads,
    /// Traces of calls that ended a moment ago.
    ended: Recent,
    /// Address and place of the method that was looked for last: most calls are of the same as the one before.
    last_method: (usize, usize),
    methods: Vec<Method>,
    traces: HashMap<u64, Set, OfHashes>,
    given_up: GivenUp,
    /// Deadlines of its inbound calls.
    pub(in crate::detectors) deadlines: fixed::Inbound,
    pub(super) inbound: Slab<Inbound>,
    /// Their places, by the address of the name: the core keeps each name once.
    method_places: HashMap<usize, usize, RandomState>,
    pub(super) outbound: Slab<Outbound>,
}

const _: () = {
    let line = 64;
    assert!(std::mem::offset_of!(Process, ended) == line);
    assert!(std::mem::offset_of!(Process, traces) == 2 * line);
    assert!(std::mem::offset_of!(Process, inbound) + size_of::<Slab<Inbound>>() == 4 * line);
};

/// An inbound call. What its end needs stands in front, in one cache line.
#[derive(Debug)]
#[repr(C)]
pub(in crate::detectors) struct Inbound {
    pub(in crate::detectors) state: State,
    pub(in crate::detectors) traces: Traces,
    pub(super) thread: u32,
    pub(super) may_have_unread_trace: bool,
    pub(super) is_candidate: bool,
    /// The weakest evidence for an outbound call that belongs to it and is open.
    pub(in crate::detectors) weakest: Evidence,
    pub(in crate::detectors) connection: ConnectionId,
    /// Address of its method's name, which the core keeps once each.
    pub(in crate::detectors) method: usize,
    pub(in crate::detectors) timeout: Timeout,
    pub(in crate::detectors) started: Timestamp,
    pub(in crate::detectors) stream: u32,
    pub(in crate::detectors) previous_attempts: u32,
    /// Outbound calls that belong to it and are open.
    pub(in crate::detectors) open_outbound: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::detectors) enum State {
    Open,
    /// Its caller has gone, or its deadline has passed.
    GivenUp(Timestamp, Cause),
}

/// An outbound call that belongs to an inbound one.
#[derive(Clone, Copy, Debug)]
pub(in crate::detectors) struct Outbound {
    pub(in crate::detectors) connection: ConnectionId,
    pub(in crate::detectors) stream: u32,
    pub(super) inbound: Key,
    pub(in crate::detectors) evidence: Evidence,
    pub(in crate::detectors) started: Timestamp,
    /// Place of its method in the process's list.
    pub(super) method: Option<usize>,
    /// It was said that it goes on.
    pub(in crate::detectors) said: bool,
    /// Until when it was added up how long it runs on for nobody.
    pub(in crate::detectors) counted_until: Option<Timestamp>,
}

/// A method that the process calls. In the order of use, with what each call needs in one cache line.
#[derive(Debug)]
#[repr(C, align(64))]
pub(in crate::detectors) struct Method {
    /// When it was last called while nothing was open: for nobody.
    pub(super) on_its_own: Option<Timestamp>,
    /// It was called for an inbound call.
    pub(super) for_another: bool,
    /// Its timeouts.
    pub(in crate::detectors) fixed: fixed::Outbound,
    pub(in crate::detectors) name: Arc<str>,
}

/// Traces are hashes already, with a secret key.
type OfHashes = BuildHasherDefault<AsItIs>;

#[derive(Debug, Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = self.0.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Keys of a request's traces. Both kinds are hashes with one key; the same text in both fields must not meet.
fn trace_keys(traces: Traces) -> [Option<u64>; 2] {
    let key = |hash: Option<TraceHash>| hash.map(|TraceHash(hash)| hash);
    [key(traces.trace), key(traces.request).map(|hash| hash ^ 0x9e37_79b9_7f4a_7c15)]
}

/// What the traces of an outbound request say.
pub(super) enum ByTrace {
    Only(Key),
    Several,
    /// A call that has ended, and no other.
    Ended,
    Nothing,
}

impl Process {
    pub(super) fn begin(&mut self, call: Inbound) -> Option<Key> {
        let (thread, traces, others) = (call.thread, call.traces, self.candidates.len() > 0);
        let unread = call.may_have_unread_trace;
        let key = self.inbound.insert(call, INBOUND)?;
        self.candidates.add(key);
        self.without_trace += u32::from(unread);
        self.threads.handle_read(thread, key, others);
        for trace in trace_keys(traces).into_iter().flatten() {
            self.traces.entry(trace).or_default().add(key);
        }
        Some(key)
    }

    /// The end of a request was read apart from its beginning.
    pub(super) fn request_ended(&mut self, key: Key, thread: u32) {
        let others = self.candidates.len() > 1;
        let Some(call) = self.inbound.get_mut(key) else { return };
        if call.thread != thread {
            self.threads.handle_done(call.thread, key, true);
            call.thread = thread;
            self.threads.handle_read(thread, key, others);
        }
    }

    /// An inbound call has ended, or was given up. True if a call had to be forgotten for it.
    pub(super) fn end(
        &mut self,
        given_up_ns: u64,
        key: Key,
        now: Timestamp,
        given_up: Option<(Timestamp, Cause)>,
    ) -> bool {
        let Some(call) = self.inbound.get_mut(key) else { return false };
        self.without_trace -=
            u32::from(std::mem::take(&mut call.may_have_unread_trace)).min(self.without_trace);
        let Some((at, cause)) = given_up else {
            let trace = trace_keys(call.traces).into_iter().flatten().next();
            self.forget(key);
            return trace.is_some_and(|trace| self.ended.add(trace));
        };
        call.state = State::GivenUp(at, cause);
        self.threads.handle_given_up(call.thread);
        self.given_up.push_back(now.plus(given_up_ns), key);
        if self.given_up.len() <= GIVEN_UP {
            return false;
        }
        if let Some(oldest) = self.given_up.pop_front() {
            self.forget(oldest);
        }
        true
    }

    /// Nothing is worked on for this call, which was given up: those that begin now belong to others.
    pub(super) fn settle(&mut self, key: Key) {
        if let Some(call) = self.inbound.get_mut(key)
            && std::mem::take(&mut call.is_candidate)
        {
            self.candidates.remove(key);
            self.threads.handle_done(call.thread, key, call.state == State::Open);
        }
    }

    /// Forgets what has been remembered for long enough.
    pub(super) fn expire(&mut self, thresholds: &Thresholds, now: Timestamp) {
        let given_up_ns = thresholds.given_up_ns;
        self.ended.expire(now, thresholds.ended_ns);
        while let Some(key) = self.given_up.pop_due(now) {
            if self.inbound.get(key).is_some_and(|call| call.open_outbound > 0) {
                self.given_up.push_back(now.plus(given_up_ns), key);
            } else {
                self.forget(key);
            }
        }
    }

    pub(super) fn forget(&mut self, key: Key) {
        self.settle(key);
        let Some(call) = self.inbound.remove(key) else { return };
        self.without_trace -= u32::from(call.may_have_unread_trace).min(self.without_trace);
        for trace in trace_keys(call.traces).into_iter().flatten() {
            if let Entry::Occupied(mut set) = self.traces.entry(trace) {
                set.get_mut().remove(key);
                if set.get().len() == 0 {
                    set.remove();
                }
            }
        }
    }

    /// The call that shares a trace id with a request, or the request id where there is no trace id. With several of one trace id
    /// that are open the request id may tell.
    pub(super) fn by_trace(&self, traces: Traces) -> ByTrace {
        let mut keys = trace_keys(traces).into_iter().flatten();
        let Some(first) = keys.next() else { return ByTrace::Nothing };
        let of = |key: u64| {
            let calls = self.traces.get(&key)?;
            Some(calls.only().and_then(|index| self.inbound.key_at(index)))
        };
        match (of(first), self.ended.has(first)) {
            (None, false) => ByTrace::Nothing,
            (None, true) => ByTrace::Ended,
            // A request id alone says nothing of a call that has a trace id besides: only the latter is remembered at its end.
            (Some(Some(key)), false) if self.has_first(key, first) => ByTrace::Only(key),
            (Some(None), false) => match keys.next().and_then(of) {
                Some(Some(key)) if self.has_first(key, first) => ByTrace::Only(key),
                Some(_) | None => ByTrace::Several,
            },
            (Some(_), _) => ByTrace::Several,
        }
    }

    fn has_first(&self, key: Key, first: u64) -> bool {
        let traces = self.inbound.get(key).map(|call| trace_keys(call.traces));
        traces.is_some_and(|keys| keys.into_iter().flatten().next() == Some(first))
    }

    /// The only call that may be worked on.
    pub(super) fn sole(&self) -> Option<Key> {
        self.candidates.only().and_then(|index| self.inbound.key_at(index))
    }

    /// Calls that were given up, the last one first.
    pub(in crate::detectors) fn given_up(&self) -> impl Iterator<Item = &Inbound> {
        self.given_up.keys().rev().filter_map(|key| self.inbound.get(key))
    }

    /// The only remembered call of the same trace.
    pub(in crate::detectors) fn only_of_trace(&self, traces: Traces) -> Option<&Inbound> {
        match self.by_trace(traces) {
            ByTrace::Only(key) => self.inbound.get(key),
            ByTrace::Several | ByTrace::Ended | ByTrace::Nothing => None,
        }
    }

    /// An outbound call belongs to an inbound one. `None` at the bound.
    pub(super) fn link(&mut self, call: Outbound) -> Option<Key> {
        let inbound = self.inbound.get_mut(call.inbound)?;
        let key = self.outbound.insert(call, OUTBOUND)?;
        inbound.weakest =
            if inbound.open_outbound == 0 { call.evidence } else { inbound.weakest.max(call.evidence) };
        inbound.open_outbound += 1;
        Some(key)
    }

    /// An outbound call has ended. The inbound one that it belongs to, if it is still remembered.
    pub(super) fn unlink(&mut self, key: Key) -> Option<(Outbound, Option<&Inbound>)> {
        let call = self.outbound.remove(key)?;
        if let Some(inbound) = self.inbound.get_mut(call.inbound) {
            inbound.open_outbound = inbound.open_outbound.saturating_sub(1);
        }
        Some((call, self.inbound.get(call.inbound)))
    }

    /// Place of a method in the list; `None` beyond the bound. The list holds the name, so that its address stays its own.
    pub(super) fn method_at(&mut self, name: &Arc<str>) -> Option<usize> {
        let address = name.as_ptr().addr();
        if self.last_method.0 == address {
            return Some(self.last_method.1);
        }
        if let Some(at) = self.method_places.get(&address).copied() {
            self.last_method = (address, at);
            return Some(at);
        }
        if self.methods.len() >= METHODS {
            return None;
        }
        self.method_places.insert(address, self.methods.len());
        self.methods.push(Method {
            name: Arc::clone(name),
            on_its_own: None,
            for_another: false,
            fixed: fixed::Outbound::default(),
        });
        Some(self.methods.len() - 1)
    }

    pub(in crate::detectors) fn method(&mut self, at: usize) -> Option<&mut Method> {
        self.methods.get_mut(at)
    }

    /// All methods, the deadlines of the inbound calls, and those that are open.
    pub(in crate::detectors) fn methods_mut(
        &mut self,
    ) -> (&mut [Method], &fixed::Inbound, impl Iterator<Item = &Inbound> + Clone) {
        let open = self.inbound.values().filter(|call| call.state == State::Open);
        (&mut self.methods, &self.deadlines, open)
    }

    /// Every inbound call was seen that has begun within so long, or is open.
    pub(in crate::detectors) fn all_inbound_seen(&self, within_ns: u64, now: Timestamp) -> bool {
        let never = self.doubted_until == Timestamp::default();
        self.blind == 0 && self.beyond == 0 && (never || now >= self.doubted_until.plus(within_ns))
    }

    /// Open outbound calls of inbound calls that were given up: with their method, and when and why those were.
    pub(in crate::detectors) fn visit_going_on(
        &mut self,
        mut visit: impl FnMut(&mut Outbound, Option<&Arc<str>>, Timestamp, Cause),
    ) {
        let is_open = |key: Key| self.inbound.get(key).is_some_and(|call| call.open_outbound > 0);
        if !self.given_up.keys().any(is_open) {
            return;
        }
        for link in self.outbound.values_mut() {
            if let Some(State::GivenUp(at, why)) = self.inbound.get(link.inbound).map(|call| call.state) {
                let method = link.method.and_then(|at| self.methods.get(at)).map(|method| &method.name);
                visit(link, method, at, why);
            }
        }
    }
}

/// Heap bytes of a process at most, with the calls that were given up and without those that are open.
#[cfg(test)]
pub(super) fn bytes_besides_calls() -> usize {
    use crate::detectors::memory::{of_list, of_table};
    of_list::<Method>(METHODS)
        + of_table::<(usize, usize)>(METHODS)
        + super::given_up::bytes(GIVEN_UP)
        + GIVEN_UP * bytes_of_call()
        + super::threads::most_bytes()
        + Recent::MOST_BYTES
}

/// Bytes of a call at most. Lists and tables that have doubled have a place that is empty for each, and an inbound call may have
/// two traces of its own.
#[cfg(test)]
pub(super) fn bytes_of_call() -> usize {
    let place = size_of::<u32>();
    let inbound = Slab::<Inbound>::PLACE_BYTES + place + 2 * 2 * (size_of::<(u64, Set)>() + 1);
    let outbound = Slab::<Outbound>::PLACE_BYTES + place;
    2 * inbound.max(outbound)
}
