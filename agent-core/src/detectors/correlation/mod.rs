//! Which outbound call of a process belongs to which of its inbound calls.
//!
//! ```text
//!   inbound call (server side) ──┐
//!                                ├─ same process, by trace, thread, or as the only one ─► link
//!   outbound call (client side) ─┘
//! ```
//!
//! Evidence, best first; a link is never a guess, and what contradicts it takes it away:
//! - `trace`: both requests carry the same trace id, or without any the same `x-request-id`, and no other inbound call does that is
//!   open, ended a moment ago, or was given up. With several (retries, several calls of one trace) the next evidence decides. What begins after its
//!   only call has ended belongs to nothing: nobody waits for it any more, and its deadline is its own.
//! - `thread`: the outbound request was written by the thread that read the end of the inbound one, and no other since, in a
//!   process whose threads have one call each ([`threads`]).
//! - `sole`: the inbound call is the only one of the process that is open or was given up a moment ago, while no call of
//!   the infrastructure is open.
//!
//! Where the traces of both are known and differ, neither `thread` nor `sole` is believed. Nor are they for methods that the
//! process also calls when nothing is open: what it does on its own account falls into inbound calls by chance. One inbound call
//! that was given up is the sole candidate only for methods that were called for inbound calls before.
//!
//! `thread` and `sole` ask for all inbound calls to be known, so they are undecided while the process has a connection that was
//! joined late or lost bytes, and for a while after. A trace is undecided while another call of the same trace may be open whose
//! trace was not read.
//!
//! Calls of the infrastructure (checklist X2) belong to nothing, and nothing belongs to them. Streams that are meant to stay open are
//! not counted as open.

mod given_up;
mod process;
mod tables;
mod threads;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::quality::RandomState;

use super::uncancelled::Cause;
use super::{Party, ProcessId, Watched};
use crate::WellKnown;
use crate::input::{ConnectionId, Timestamp};
use crate::observation::{Call, CallStarted, EndedBy, Side, Sync, TraceHash};

use process::ByTrace;
pub(super) use process::{Inbound, Outbound, Process, State};
pub(crate) use tables::Key;
use tables::{OpenCalls, Tracked};

/// Processes that are remembered at once.
const PROCESSES: usize = 4_096;

/// A call that is told of with so much delay may have begun among others than those that are open now: more than
/// records of several processors are ever apart.
const TOLD_IN_TIME_NS: u64 = 100_000_000;

/// How long calls are remembered, and when they are doubted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// The trace of a call that ended is remembered for so long at least, for outbound calls of its trace that begin after it:
    /// they belong to nothing that is open.
    pub ended_ns: u64,
    /// A call that was given up is remembered for so long after its last outbound call, since its handler may go on.
    pub given_up_ns: u64,
    /// After a process has called a method while nothing was open, its calls of that method belong to nobody for so long, but
    /// by their trace.
    pub own_account_ns: u64,
    /// So long after a connection was joined late, or lost bytes, an inbound call may be open that was not seen.
    pub unseen_ns: u64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Thresholds {
            ended_ns: 1_000_000_000,
            given_up_ns: 10_000_000_000,
            own_account_ns: 600_000_000_000,
            unseen_ns: 60_000_000_000,
        }
    }
}

/// How it is known that an outbound call belongs to an inbound one, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Evidence {
    /// Both requests carry the same trace id, and no other inbound call of the process does.
    Trace,
    /// The thread that wrote the outbound request had read the end of the inbound one, and no other since.
    Thread,
    /// The inbound call was the only one that was open in the process.
    Sole,
}

impl Evidence {
    /// `trace`, `thread`, `sole`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Evidence::Trace => "trace",
            Evidence::Thread => "thread",
            Evidence::Sole => "sole",
        }
    }
}

/// What is known of an outbound call's origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Correlation {
    /// It belongs to an inbound call.
    Linked(Evidence),
    /// There are inbound calls that it may belong to, and nothing tells which, or whether.
    Ambiguous,
    /// There is none: it is a root.
    None,
    /// Inbound calls may have been missed.
    Undecided,
}

impl Correlation {
    /// The evidence, or `ambiguous`, `none`, `undecided`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Correlation::Linked(evidence) => evidence.as_str(),
            Correlation::Ambiguous => "ambiguous",
            Correlation::None => "none",
            Correlation::Undecided => "undecided",
        }
    }
}

/// What was found out about an outbound call when it began. Said of every one, but for those of the infrastructure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Correlated {
    /// The outbound call's connection.
    pub connection: ConnectionId,
    /// Its stream.
    pub stream: u32,
    /// When it began.
    pub time: Timestamp,
    /// Whether it belongs to an inbound call, and how that is known.
    pub correlation: Correlation,
    /// The inbound call's connection and stream.
    pub inbound: Option<(ConnectionId, u32)>,
    /// What became of the inbound call's deadline, if it has one.
    pub propagation: Option<super::propagation::Propagation>,
}

/// What is remembered of a connection.
#[derive(Debug, Default)]
#[repr(C)]
pub(super) struct OfConnection {
    calls: OpenCalls,
    /// Its place; a process with connections keeps it.
    pub(super) process: Option<u32>,
    is_blind: bool,
    is_desynced: bool,
}

/// All processes.
#[derive(Debug, Default)]
pub(super) struct Processes {
    by_id: HashMap<ProcessId, u32, RandomState>,
    all: Vec<Option<Box<Process>>>,
    /// Places of `all` that are not used.
    free: Vec<u32>,
    /// Processes and calls that were left out, or forgotten early, since a bound was reached.
    forgotten: u64,
}

impl Processes {
    /// A connection of a process is announced.
    pub(super) fn enter(&mut self, party: &Party) -> Option<u32> {
        let id = party.owner.as_ref()?.process;
        if !self.by_id.contains_key(&id) {
            if self.by_id.len() >= PROCESSES {
                self.drop_idle();
            }
            if self.by_id.len() >= PROCESSES {
                self.forgotten += 1;
                return None;
            }
            let place = match self.free.pop() {
                Some(place) => place,
                None => {
                    self.all.push(None);
                    u32::try_from(self.all.len() - 1).ok()?
                }
            };
            *self.all.get_mut(place as usize)? = Some(Box::default());
            self.by_id.insert(id, place);
        }
        let place = *self.by_id.get(&id)?;
        of_place(&mut self.all, Some(place))?.connections += 1;
        Some(place)
    }

    /// A connection has ended, or will never be heard of.
    pub(super) fn leave(&mut self, connection: &mut Watched) {
        let of = &mut connection.correlation;
        let Some(process) = of_place(&mut self.all, of.process.take()) else { return };
        process.connections = process.connections.saturating_sub(1);
        process.blind -= u32::from(std::mem::take(&mut of.is_blind)).min(process.blind);
        process.desynced -= u32::from(std::mem::take(&mut of.is_desynced)).min(process.desynced);
        for tracked in of.calls.drain() {
            match tracked {
                Tracked::Inbound(key) => process.forget(key),
                Tracked::Infrastructure => process.infrastructure = process.infrastructure.saturating_sub(1),
                Tracked::Beyond => process.beyond = process.beyond.saturating_sub(1),
                Tracked::Outbound(key) => {
                    process.unlink(key);
                }
            }
        }
    }

    /// Processes without connections make room for others.
    fn drop_idle(&mut self) {
        self.by_id.retain(|_, place| {
            let Some(process) = self.all.get_mut(*place as usize) else { return false };
            let is_idle = process.as_ref().is_none_or(|process| process.connections == 0);
            if is_idle {
                *process = None;
                self.free.push(*place);
            }
            !is_idle
        });
    }

    pub(super) fn of(&mut self, connection: &Watched) -> Option<&mut Process> {
        of_place(&mut self.all, connection.correlation.process)
    }

    /// Forgets what was remembered for long enough in processes in which nothing happens.
    pub(super) fn expire(&mut self, thresholds: &Thresholds, now: Timestamp) {
        for process in self.values_mut() {
            process.expire(thresholds, now);
        }
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut Process> {
        self.all.iter_mut().filter_map(Option::as_deref_mut)
    }

    /// How many calls and processes were left out, or forgotten early, since a bound was reached.
    pub(super) fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// The state of a connection has changed.
    pub(super) fn handle_status(
        &mut self,
        thresholds: &Thresholds,
        connection: &mut Watched,
        now: Timestamp,
    ) {
        let may_be_server = connection.side != Some(Side::Client);
        let is_blind = may_be_server && connection.sync != Sync::Synced;
        let is_desynced = may_be_server && connection.sync == Sync::Desynced;
        let of = &mut connection.correlation;
        let Some(process) = of_place(&mut self.all, of.process) else { return };
        if is_blind || of.is_blind && may_be_server {
            process.doubted_until = process.doubted_until.max(now.plus(thresholds.unseen_ns));
            process.traces_doubted_until = process.traces_doubted_until.max(now.plus(thresholds.given_up_ns));
        }
        adjust(&mut process.blind, &mut of.is_blind, is_blind);
        adjust(&mut process.desynced, &mut of.is_desynced, is_desynced);
    }

    /// An inbound call has begun.
    pub(super) fn handle_inbound_started(
        &mut self,
        thresholds: &Thresholds,
        connection: &mut Watched,
        call: &CallStarted,
    ) {
        let of = &mut connection.correlation;
        let Some(process) = of_place(&mut self.all, of.process) else { return };
        process.expire(thresholds, call.time);
        let tracked = match call.well_known() {
            Some(well_known) if well_known.is_long_lived() => return,
            Some(_) => {
                process.infrastructure += 1;
                Tracked::Infrastructure
            }
            None => {
                process.deadlines.note(call.timeout, call.time);
                let begun = process.begin(Inbound {
                    connection: call.connection,
                    stream: call.stream,
                    method: address(call.method.as_ref()),
                    timeout: call.timeout,
                    started: call.time,
                    previous_attempts: call.previous_attempts.unwrap_or_default(),
                    traces: call.traces,
                    thread: call.thread,
                    may_have_unread_trace: of.is_blind && call.traces.trace.is_none(),
                    is_candidate: true,
                    state: State::Open,
                    open_outbound: 0,
                    weakest: Evidence::Trace,
                });
                match begun {
                    Some(key) => Tracked::Inbound(key),
                    None => {
                        process.beyond += 1;
                        self.forgotten += 1;
                        Tracked::Beyond
                    }
                }
            }
        };
        of.calls.insert(call.stream, tracked);
    }

    /// The end of an inbound request was read apart from its beginning.
    pub(super) fn handle_request_ended(&mut self, connection: &Watched, stream: u32, thread: u32) {
        if let Some(Tracked::Inbound(key)) = connection.correlation.calls.get(stream)
            && let Some(process) = self.of(connection)
        {
            process.request_ended(key, thread);
        }
    }

    /// An inbound call has ended.
    pub(super) fn handle_inbound_ended(
        &mut self,
        thresholds: &Thresholds,
        connection: &mut Watched,
        call: &Call,
        given_up: Option<(Timestamp, Cause)>,
    ) {
        let of = &mut connection.correlation;
        let Some(process) = of_place(&mut self.all, of.process) else { return };
        match of.calls.remove(call.stream) {
            Some(Tracked::Inbound(key)) => {
                let now = call.ended.unwrap_or(call.first_seen);
                self.forgotten += u64::from(process.end(thresholds.given_up_ns, key, now, given_up));
            }
            Some(Tracked::Infrastructure) => {
                process.infrastructure = process.infrastructure.saturating_sub(1);
            }
            Some(Tracked::Beyond) => process.beyond = process.beyond.saturating_sub(1),
            Some(Tracked::Outbound(_)) | None => {}
        }
    }

    /// An outbound call has begun: what it belongs to. `None` for calls of the infrastructure.
    pub(super) fn handle_outbound_started(
        &mut self,
        thresholds: &Thresholds,
        connection: &mut Watched,
        call: &CallStarted,
    ) -> Option<(Correlation, Option<&Inbound>)> {
        if call.method.as_deref().and_then(WellKnown::of).is_some() {
            return None;
        }
        let of = &mut connection.correlation;
        let Some(process) = of_place(&mut self.all, of.process) else {
            return Some((Correlation::Undecided, None));
        };
        process.expire(thresholds, call.time);
        let method = call.method.as_ref().and_then(|name| process.method_at(name));
        self.forgotten += u64::from(call.method.is_some() && method.is_none());
        let origin = origin(thresholds, process, method, call);
        let correlation = match origin {
            Ok((evidence, _)) => Correlation::Linked(evidence),
            Err(unlinked) => unlinked,
        };
        if let Some(method) = method.and_then(|at| process.method(at)) {
            method.for_another |= origin.is_ok();
            method.fixed.note(call.timeout, correlation, connection.party.owner.as_ref(), call.time);
        }
        let Ok((evidence, inbound)) = origin else { return Some((correlation, None)) };
        let link = Outbound {
            connection: call.connection,
            stream: call.stream,
            inbound,
            evidence,
            started: call.time,
            method,
            said: false,
            counted_until: None,
        };
        match process.link(link) {
            Some(key) => of.calls.insert(call.stream, Tracked::Outbound(key)),
            None => self.forgotten += 1,
        }
        Some((correlation, process.inbound.get(inbound)))
    }

    /// An outbound call has ended: the link that it had, and the inbound call if it is still remembered.
    pub(super) fn handle_outbound_ended(
        &mut self,
        connection: &mut Watched,
        call: &Call,
        grace_ns: u64,
    ) -> Option<(Outbound, State)> {
        let of = &mut connection.correlation;
        let Some(Tracked::Outbound(key)) = of.calls.remove(call.stream) else { return None };
        let process = of_place(&mut self.all, of.process)?;
        let (link, inbound) = process.unlink(key)?;
        let inbound = inbound?;
        let (state, open) = (inbound.state, inbound.open_outbound);
        if let State::GivenUp(at, _) = state
            && open == 0
            && call.ended_by == Some(EndedBy::Client)
            && call.ended.is_some_and(|ended| ended.since(at) <= grace_ns)
        {
            // The handler has heard of it.
            process.settle(link.inbound);
        }
        Some((link, state))
    }
}

fn of_place(all: &mut [Option<Box<Process>>], place: Option<u32>) -> Option<&mut Process> {
    all.get_mut(place? as usize)?.as_deref_mut()
}

fn adjust(count: &mut u32, was: &mut bool, is: bool) {
    match (*was, is) {
        (false, true) => *count += 1,
        (true, false) => *count = count.saturating_sub(1),
        (true, true) | (false, false) => {}
    }
    *was = is;
}

/// The address of a name that the core keeps once tells names apart.
pub(super) fn address(method: Option<&Arc<str>>) -> usize {
    method.map_or(0, |name| name.as_ptr().addr())
}

/// The inbound call that an outbound one belongs to, or why there is none.
fn origin(
    thresholds: &Thresholds,
    process: &mut Process,
    method: Option<usize>,
    call: &CallStarted,
) -> Result<(Evidence, Key), Correlation> {
    let now = call.time;
    let by_trace = process.by_trace(call.traces);
    if let ByTrace::Only(key) = by_trace {
        if process.without_trace > 0 || process.desynced > 0 || now < process.traces_doubted_until {
            return Err(Correlation::Undecided);
        }
        if process.threads.call_of(call.thread).is_some_and(|other| other != key) {
            process.threads.refute();
        }
        return Ok((Evidence::Trace, key));
    }
    if matches!(by_trace, ByTrace::Ended) {
        return Err(Correlation::Ambiguous);
    }
    let several = matches!(by_trace, ByTrace::Several);
    // On a connection that was joined late some calls are told of only when they end.
    let is_told_late = now.plus(TOLD_IN_TIME_NS) < process.latest;
    process.latest = process.latest.max(now);
    if process.blind > 0 || process.beyond > 0 || now < process.doubted_until || is_told_late {
        return Err(Correlation::Undecided);
    }
    let nothing_open = process.candidates.len() == 0 && process.infrastructure == 0 && !several;
    let unlinked = if nothing_open { Correlation::None } else { Correlation::Ambiguous };
    // Without its name it may be a call of the infrastructure, or one that the process makes on its own account.
    let Some(at) = method else { return Err(unlinked) };
    let by_thread = process.threads.call_of(call.thread).filter(|_| process.candidates.len() > 0);
    let sole = process.sole().filter(|_| process.infrastructure == 0);
    let Some(method) = process.method(at) else { return Err(unlinked) };
    if nothing_open {
        method.on_its_own = Some(now);
        return Err(unlinked);
    }
    if method.on_its_own.is_some_and(|at| now.since(at) < thresholds.own_account_ns) {
        return Err(unlinked);
    }
    let was_called_for_another = method.for_another;
    let fits = |key: &Key| {
        process.inbound.get(*key).is_some_and(|inbound| {
            let alive = match inbound.state {
                State::Open => true,
                State::GivenUp(..) => was_called_for_another,
            };
            alive && agree(inbound.traces.trace, call.traces.trace)
        })
    };
    match (by_thread.filter(fits), sole.filter(fits)) {
        (Some(key), _) => Ok((Evidence::Thread, key)),
        (None, Some(key)) => Ok((Evidence::Sole, key)),
        (None, None) => Err(unlinked),
    }
}

/// Two trace ids that are both known are the same.
fn agree(one: Option<TraceHash>, other: Option<TraceHash>) -> bool {
    one.is_none() || other.is_none() || one == other
}

/// Processes at most, and their bytes without those of open calls.
#[cfg(test)]
pub(super) fn bytes_of_processes() -> (usize, usize) {
    use super::memory::{of_list, of_table};
    let places = of_table::<(ProcessId, u32)>(PROCESSES) + of_list::<Option<Box<Process>>>(PROCESSES);
    let of_process = size_of::<Process>() + process::bytes_besides_calls();
    (PROCESSES, places + of_list::<u32>(PROCESSES) + PROCESSES * of_process)
}

/// Inbound calls of a process at most; as many outbound ones.
#[cfg(test)]
pub(super) const CALLS_OF_PROCESS: usize = process::INBOUND;

/// Bytes of an open call at most, inbound or outbound, with its place in the list of its connection.
#[cfg(test)]
pub(super) fn bytes_of_call() -> usize {
    process::bytes_of_call() + tables::bytes_of_open_call()
}
