//! Retries that should not have been made: after a status that trying again cannot change, and earlier than the server asked for
//! (gRFC A6; checklist R1, R2).
//!
//! The wire shows attempts, not calls. That attempt n follows a certain attempt n-1 is sure only if nothing else fits: of one
//! client process all attempts are seen, so the attempts n-1 of the method that had failed before are all there are; a server sees
//! a part of them, so there the trace must be the same. Where several fit and all of them would make the same claim, it does not
//! matter which it was; where they differ, or where one may have been missed, it is undecided. A call that an application makes
//! again by itself, without `grpc-previous-rpc-attempts`, may as well be another call, and is not judged.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;

use foldhash::quality::RandomState;

use super::finding::{About, Claims, Name, Value, seconds};
use super::party::ProcessId;
use super::{Out, Watched};
use crate::grpc::status;
use crate::input::{ConnectionId, Timestamp};
use crate::observation::{Call, Outcome, RetryPushback, STATUS_NAMES, Side, Sync, TraceHash};

/// When to speak.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// A retry may come this much earlier than the server asked for: its timer ran from when the client read the answer, which
    /// is not when it was seen to.
    pub early_ns: u64,
    /// For how long a failed attempt may be followed by the next one. Two minutes are the most that gRPC waits anywhere by
    /// default (its backoff between connections).
    pub memory_ns: u64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Thresholds { early_ns: 5_000_000, memory_ns: 120_000_000_000 }
    }
}

/// What is claimed of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// The attempt before had failed with a status that trying again cannot change.
    NotRetryable {
        /// That status.
        status: u32,
        /// Attempts before this one.
        previous_attempts: u32,
        /// From the failure to this attempt.
        after_ns: u64,
    },
    /// The server had asked to try later, or not at all.
    PushbackIgnored {
        /// What it asked for.
        pushback: RetryPushback,
        /// Attempts before this one.
        previous_attempts: u32,
        /// From the failure to this attempt.
        after_ns: u64,
    },
}

impl Claims for Claim {
    fn name(&self) -> Name {
        match self {
            Claim::NotRetryable { .. } => Name::RetryNotRetryable,
            Claim::PushbackIgnored { .. } => Name::RetryPushbackIgnored,
        }
    }

    fn cause(&self) -> Option<&'static str> {
        match *self {
            Claim::NotRetryable { status, .. } => not_retryable(status),
            Claim::PushbackIgnored { pushback: RetryPushback::AfterMs(_), .. } => Some("too_early"),
            Claim::PushbackIgnored { pushback: RetryPushback::DoNotRetry, .. } => Some("do_not_retry"),
        }
    }

    fn evidence(&self, number: &mut dyn FnMut(&'static str, Value)) {
        let (previous_attempts, after_ns) = match *self {
            Claim::NotRetryable { status, previous_attempts, after_ns } => {
                number("status", Value::Word(name(status)));
                (previous_attempts, after_ns)
            }
            Claim::PushbackIgnored { pushback, previous_attempts, after_ns } => {
                if let RetryPushback::AfterMs(ms) = pushback {
                    number("pushback_seconds", Value::Ns(u64::from(ms) * MILLISECOND));
                }
                (previous_attempts, after_ns)
            }
        };
        number("previous_attempts", Value::Count(u64::from(previous_attempts)));
        number("retried_after_seconds", Value::Ns(after_ns));
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Claim::NotRetryable { status, after_ns, .. } => {
                let (after, status) = (seconds(after_ns), name(status));
                write!(f, "was tried again {after} after {status}, which trying again cannot change")
            }
            Claim::PushbackIgnored { pushback: RetryPushback::AfterMs(ms), after_ns, .. } => {
                let (after, asked) = (seconds(after_ns), seconds(u64::from(ms) * MILLISECOND));
                write!(f, "was tried again after {after}, although the server had asked for {asked}")
            }
            Claim::PushbackIgnored { pushback: RetryPushback::DoNotRetry, after_ns, .. } => {
                let after = seconds(after_ns);
                write!(f, "was tried again after {after}, although the server had asked not to")
            }
        }
    }
}

const MILLISECOND: u64 = 1_000_000;

fn name(status: u32) -> &'static str {
    usize::try_from(status).ok().and_then(|at| STATUS_NAMES.get(at)).copied().unwrap_or("other")
}

/// The statuses that say that the request, or who makes it, is at fault.
fn not_retryable(status: u32) -> Option<&'static str> {
    match status {
        status::INVALID_ARGUMENT => Some("invalid_argument"),
        status::NOT_FOUND => Some("not_found"),
        status::ALREADY_EXISTS => Some("already_exists"),
        status::PERMISSION_DENIED => Some("permission_denied"),
        status::FAILED_PRECONDITION => Some("failed_precondition"),
        status::UNAUTHENTICATED => Some("unauthenticated"),
        _ => None,
    }
}

/// The trace of a request that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trace {
    Known(Option<TraceHash>),
    /// Not decoded.
    Unknown,
}

impl Trace {
    fn of(call: &Call, sync: Sync) -> Trace {
        match call.traces.trace.or(call.traces.request) {
            None if sync != Sync::Synced => Trace::Unknown,
            trace => Trace::Known(trace),
        }
    }

    /// Attempts of one call have the same trace.
    fn may_be(self, other: Trace) -> bool {
        match (self, other) {
            (Trace::Known(one), Trace::Known(other)) => one == other,
            (Trace::Unknown, _) | (_, Trace::Unknown) => true,
        }
    }

    fn is(self, other: Trace) -> bool {
        matches!((self, other), (Trace::Known(Some(one)), Trace::Known(Some(other))) if one == other)
    }
}

/// Attempts that have failed, and those that may be the next ones.
#[derive(Debug, Default)]
pub(super) struct Retries {
    processes: HashMap<(ProcessId, Side), Failures, RandomState>,
    /// Attempts that are judged when all that ended before them has been reported, the oldest first.
    waiting: VecDeque<Retry>,
    swept: Option<Timestamp>,
    /// What was not judged, since a table was full.
    pub(super) forgotten: u64,
}

/// Processes whose failed attempts are remembered.
const PROCESSES: usize = 1_024;
/// Failed attempts of a process that are remembered.
const FAILURES: usize = 256;
/// Attempts that wait to be judged at once.
const WAITING: usize = 4_096;
/// An end is reported at most this long after it was seen, if the core is not behind.
const REPORTED_NS: u64 = 500_000_000;

/// The failed attempts of a process on one side.
#[derive(Debug, Default)]
struct Failures {
    attempts: VecDeque<Failed>,
    /// An attempt that ended then was not remembered, or may have been missed.
    missed: Option<Timestamp>,
}

#[derive(Debug)]
struct Failed {
    connection: ConnectionId,
    method: Option<Arc<str>>,
    /// Attempts before it, if it is known.
    previous: Option<u32>,
    trace: Trace,
    status: Option<u32>,
    pushback: Option<RetryPushback>,
    ended: Timestamp,
}

/// An attempt that is not the first.
#[derive(Debug)]
struct Retry {
    about: About,
    process: (ProcessId, Side),
    previous: u32,
    trace: Trace,
    started: Timestamp,
    ended: Timestamp,
    /// Its client gave it up: as a hedge it may have raced with the attempt before it, and not followed it.
    is_cancelled: bool,
}

impl Retries {
    /// Calls of a connection may have been missed.
    pub(super) fn handle_loss(&mut self, connection: &Watched, time: Timestamp) {
        let Some(owner) = &connection.party.owner else { return };
        for side in [Side::Client, Side::Server] {
            if connection.side.is_none_or(|of| of == side)
                && let Some(failures) = self.failures((owner.process, side))
            {
                failures.missed = failures.missed.max(Some(time));
            }
        }
    }

    /// Remembers a call that failed, and one that is a retry.
    pub(super) fn handle_call_ended(&mut self, connection: &Watched, call: &Call) {
        let previous = call.previous_attempts.unwrap_or_default();
        let has_failed = !matches!(call.outcome, Outcome::Ok | Outcome::Open);
        if !has_failed && previous == 0 {
            return;
        }
        let (Some(owner), Some(side)) = (&connection.party.owner, connection.side) else { return };
        let process = (owner.process, side);
        let ended = call.ended.unwrap_or(call.first_seen);
        let trace = Trace::of(call, connection.sync);
        if previous > 0
            && let Some(started) = call.started
        {
            if self.waiting.len() >= WAITING {
                self.forgotten = self.forgotten.saturating_add(1);
            } else {
                self.waiting.push_back(Retry {
                    about: connection.call(call),
                    process,
                    previous,
                    trace,
                    started,
                    ended,
                    is_cancelled: call.outcome == Outcome::Cancelled,
                });
            }
        }
        if has_failed && let Some(failures) = self.failures(process) {
            failures.remember(Failed {
                connection: connection.connection,
                method: call.method.clone(),
                previous: (call.previous_attempts.is_some() || connection.sync == Sync::Synced)
                    .then_some(previous),
                trace,
                status: call.status,
                pushback: call.retry_pushback,
                ended,
            });
        }
    }

    /// Judges what can be judged by `now`, and forgets what is too old.
    pub(super) fn handle_timeout(&mut self, thresholds: &Thresholds, now: Timestamp, out: &mut Out) {
        while let Some(retry) = self.waiting.pop_front_if(|retry| retry.ended.plus(REPORTED_NS) <= now) {
            self.judge(thresholds, &retry, out);
        }
        if self.swept.is_none_or(|swept| now.since(swept) >= SWEEP_NS) {
            self.swept = Some(now);
            self.processes.retain(|_, failures| {
                while let Some(old) =
                    failures.attempts.pop_front_if(|failed| now.since(failed.ended) > thresholds.memory_ns)
                {
                    failures.missed = failures.missed.max(Some(old.ended));
                }
                // An attempt that goes on for as long as is remembered is the exception.
                let is_of_use = |missed| now.since(missed) <= 2 * thresholds.memory_ns;
                !failures.attempts.is_empty() || failures.missed.is_some_and(is_of_use)
            });
        }
    }

    /// Judges what waits, since nothing more will be observed.
    pub(super) fn finish(&mut self, thresholds: &Thresholds, out: &mut Out) {
        while let Some(retry) = self.waiting.pop_front() {
            self.judge(thresholds, &retry, out);
        }
    }

    fn failures(&mut self, process: (ProcessId, Side)) -> Option<&mut Failures> {
        if self.processes.len() >= PROCESSES && !self.processes.contains_key(&process) {
            self.forgotten = self.forgotten.saturating_add(1);
            return None;
        }
        Some(self.processes.entry(process).or_default())
    }

    fn judge(&mut self, thresholds: &Thresholds, retry: &Retry, out: &mut Out) {
        let Some(failures) = self.processes.get_mut(&retry.process) else { return };
        let (mut latest, mut same_trace) = (None, true);
        let (mut not_retryable, mut ignored) = (Fitting::default(), Fitting::default());
        let previous_attempts = retry.previous;
        for (at, failed) in failures.attempts.iter().enumerate() {
            if !failed.fits(thresholds, retry) {
                continue;
            }
            let after_ns = retry.started.since(failed.ended);
            let status = failed.status.filter(|status| self::not_retryable(*status).is_some());
            not_retryable.add(status.map(|status| Claim::NotRetryable {
                status,
                previous_attempts,
                after_ns,
            }));
            let pushback = failed.pushback.filter(|pushback| match *pushback {
                RetryPushback::DoNotRetry => true,
                RetryPushback::AfterMs(ms) => {
                    after_ns.saturating_add(thresholds.early_ns) < u64::from(ms) * MILLISECOND
                }
            });
            ignored.add(pushback.map(|pushback| Claim::PushbackIgnored {
                pushback,
                previous_attempts,
                after_ns,
            }));
            same_trace &= failed.trace.is(retry.trace);
            latest = Some(at);
        }
        let Some(at) = latest else { return };
        let is_remembered = |missed: Timestamp| {
            missed <= retry.started && retry.started.since(missed) <= thresholds.memory_ns
        };
        let is_complete = match retry.process.1 {
            Side::Client => {
                !failures.missed.is_some_and(is_remembered) && (same_trace || !retry.is_cancelled)
            }
            Side::Server => same_trace,
        };
        // It was one of them, and they say the same: one of them is not to fit again.
        if not_retryable.is_one_answer() && ignored.is_one_answer() {
            failures.attempts.remove(at);
        }
        not_retryable.say(is_complete, retry, out);
        ignored.say(is_complete, retry, out);
    }
}

/// How often what is too old is forgotten.
const SWEEP_NS: u64 = 10_000_000_000;

impl Failures {
    fn remember(&mut self, failed: Failed) {
        if self.attempts.len() >= FAILURES
            && let Some(oldest) = self.attempts.pop_front()
        {
            self.missed = self.missed.max(Some(oldest.ended));
        }
        self.attempts.push_back(failed);
    }
}

impl Failed {
    /// It may be the attempt before this one.
    fn fits(&self, thresholds: &Thresholds, retry: &Retry) -> bool {
        let is_before =
            self.ended <= retry.started && retry.started.since(self.ended) <= thresholds.memory_ns;
        let same_method = match (&self.method, &retry.about.method) {
            (Some(one), Some(other)) => one == other,
            (None, _) | (_, None) => true,
        };
        // A server sees other clients' attempts too, and not all of this one's.
        let may_be_seen = retry.process.1 == Side::Client
            || self.trace.is(retry.trace)
            || retry.about.connection == Some(self.connection);
        is_before
            && same_method
            && self.previous.is_none_or(|previous| previous.saturating_add(1) == retry.previous)
            && self.trace.may_be(retry.trace)
            && may_be_seen
    }
}

/// How many of the attempts that fit make a claim.
#[derive(Debug, Default)]
struct Fitting {
    all: usize,
    claiming: usize,
    /// What the latest of them claims: another one's numbers would not bear it out.
    claim: Option<Claim>,
}

impl Fitting {
    fn add(&mut self, claim: Option<Claim>) {
        self.all += 1;
        self.claiming += usize::from(claim.is_some());
        self.claim = claim.or(self.claim.take());
    }

    fn is_one_answer(&self) -> bool {
        self.claiming == 0 || self.claiming == self.all
    }

    fn say(self, is_complete: bool, retry: &Retry, out: &mut Out) {
        let Some(claim) = self.claim else { return };
        if is_complete && self.claiming == self.all {
            out.fire(retry.about.clone(), retry.started, claim);
        } else {
            out.leave_undecided(retry.about.clone(), retry.started, claim);
        }
    }
}

#[cfg(test)]
mod tests;

/// Failed attempts and waiting ones at most, and their bytes.
#[cfg(test)]
pub(super) fn most_bytes() -> (usize, usize) {
    use super::memory::{of_list, of_table};
    let failed =
        of_table::<((ProcessId, Side), Failures)>(PROCESSES) + PROCESSES * of_list::<Failed>(FAILURES);
    (PROCESSES * FAILURES + WAITING, failed + of_list::<Retry>(WAITING))
}
