//! Deadlines of single calls: missing, absurd, exceeded, and calls that their server completed too late.
//!
//! A call without a deadline can hang for ever; a deadline that has passed means that the client has got an error, whatever
//! the server did since. Evidence: `grpc-timeout` of the request (gRPC over HTTP/2, "Timeout"), and the call's end as the core
//! judged it (checklist D3–D6). Undecided where the request's fields are not known. Long-lived streams of the infrastructure
//! (checklist X2) have no deadline by design and are left out.

use std::fmt;

use super::finding::{Claims, Name, Value, seconds};
use super::{Out, Watched};
use crate::observation::{Call, CallStarted, CallType, EndedBy, Outcome, Timeout};

/// When to speak.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// A unary call with a longer timeout has no deadline to speak of.
    pub absurd_ns: u64,
    /// A completion is late when it comes more than this after the deadline: what the client's clock, and the time between
    /// writing and being seen to write, may account for.
    pub late_ns: u64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Thresholds { absurd_ns: 3_600_000_000_000, late_ns: 5_000_000 }
    }
}

/// What is claimed of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// The request has no valid `grpc-timeout`.
    Missing {
        /// It has one that is not by the grammar.
        invalid: bool,
    },
    /// The timeout is zero, or too long to be one.
    Absurd {
        /// As sent.
        timeout_ns: u64,
    },
    /// The deadline passed before the call had completed.
    Exceeded {
        /// As sent.
        timeout_ns: u64,
        /// From the request to the call's end, if both were seen.
        after_ns: Option<u64>,
        /// Who ended it; the connection's end decides nothing.
        by: Option<EndedBy>,
    },
    /// The server completed the call after its deadline.
    LateCompletion {
        /// As sent.
        timeout_ns: u64,
        /// From the deadline to the completion.
        past_ns: u64,
    },
}

impl Claims for Claim {
    fn name(&self) -> Name {
        match self {
            Claim::Missing { .. } => Name::DeadlineMissing,
            Claim::Absurd { .. } => Name::DeadlineAbsurd,
            Claim::Exceeded { .. } => Name::DeadlineExceeded,
            Claim::LateCompletion { .. } => Name::DeadlineLateCompletion,
        }
    }

    fn cause(&self) -> Option<&'static str> {
        match self {
            Claim::Missing { invalid: false } => Some("absent"),
            Claim::Missing { invalid: true } => Some("invalid"),
            Claim::Absurd { timeout_ns: 0 } => Some("zero"),
            Claim::Absurd { .. } => Some("too_long"),
            Claim::Exceeded { by: Some(EndedBy::Client), .. } => Some("client"),
            Claim::Exceeded { by: Some(EndedBy::Server), .. } => Some("server"),
            Claim::Exceeded { by: Some(EndedBy::Connection) | None, .. } | Claim::LateCompletion { .. } => {
                None
            }
        }
    }

    fn evidence(&self, number: &mut dyn FnMut(&'static str, Value)) {
        match *self {
            Claim::Missing { .. } => {}
            Claim::Absurd { timeout_ns } => number("timeout_seconds", Value::Ns(timeout_ns)),
            Claim::Exceeded { timeout_ns, after_ns, .. } => {
                number("timeout_seconds", Value::Ns(timeout_ns));
                if let Some(after_ns) = after_ns {
                    number("ended_after_seconds", Value::Ns(after_ns));
                }
            }
            Claim::LateCompletion { timeout_ns, past_ns } => {
                number("timeout_seconds", Value::Ns(timeout_ns));
                number("past_deadline_seconds", Value::Ns(past_ns));
            }
        }
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Claim::Missing { invalid: false } => f.write_str("has no deadline: it can hang for ever"),
            Claim::Missing { invalid: true } => {
                f.write_str("has a grpc-timeout that is not by the grammar, and so no deadline")
            }
            Claim::Absurd { timeout_ns: 0 } => f.write_str("was sent with a timeout of zero"),
            Claim::Absurd { timeout_ns } => {
                write!(f, "has a timeout of {}, which is none", seconds(timeout_ns))
            }
            Claim::Exceeded { timeout_ns, after_ns, .. } => {
                write!(f, "exceeded its timeout of {}", seconds(timeout_ns))?;
                after_ns.map_or(Ok(()), |after_ns| write!(f, ", ended after {}", seconds(after_ns)))
            }
            Claim::LateCompletion { timeout_ns, past_ns } => {
                let (past, timeout) = (seconds(past_ns), seconds(timeout_ns));
                write!(f, "was completed {past} after its deadline of {timeout}")
            }
        }
    }
}

/// Judges a request.
pub(super) fn handle_call_started(connection: &Watched, call: &CallStarted, out: &mut Out) {
    match call.timeout {
        Timeout::Ns(0) => out.fire(connection.call(call), call.time, Claim::Absurd { timeout_ns: 0 }),
        Timeout::Ns(_) => {}
        Timeout::Absent | Timeout::Invalid | Timeout::Unknown
            if call.well_known().is_some_and(crate::WellKnown::is_long_lived) => {}
        Timeout::Absent => out.fire(connection.call(call), call.time, Claim::Missing { invalid: false }),
        Timeout::Invalid => out.fire(connection.call(call), call.time, Claim::Missing { invalid: true }),
        Timeout::Unknown => {
            out.leave_undecided(connection.call(call), call.time, Claim::Missing { invalid: false });
        }
    }
}

/// Judges a call that ended.
pub(super) fn handle_call_ended(thresholds: &Thresholds, connection: &Watched, call: &Call, out: &mut Out) {
    let Timeout::Ns(timeout_ns) = call.timeout else { return };
    let time = call.ended.unwrap_or(call.first_seen);
    if call.call_type == CallType::Unary && timeout_ns > thresholds.absurd_ns {
        out.fire(connection.call(call), time, Claim::Absurd { timeout_ns });
    }
    let after_ns = call.started.zip(call.ended).map(|(started, ended)| ended.since(started));
    if call.outcome == Outcome::Deadline {
        let by = call.ended_by.filter(|by| *by != EndedBy::Connection);
        out.fire(connection.call(call), time, Claim::Exceeded { timeout_ns, after_ns, by });
    }
    // The server's own end at the deadline is no completion.
    if matches!(call.outcome, Outcome::Ok | Outcome::Error)
        && call.ended_by == Some(EndedBy::Server)
        && let Some(past_ns) = after_ns.and_then(|after_ns| after_ns.checked_sub(timeout_ns))
        && past_ns > thresholds.late_ns
    {
        out.fire(connection.call(call), time, Claim::LateCompletion { timeout_ns, past_ns });
    }
}
