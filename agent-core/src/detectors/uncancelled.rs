//! Work for a caller that has gone: outbound calls of an inbound call that was given up, and what a server still sends on a stream
//! that its client has reset.
//!
//! A call is given up when its client resets it, when its deadline passes, or when its connection is lost. Whatever goes on then is
//! for nobody. Evidence: the end of the inbound call, a link ([`super::correlation`]), and the times of the outbound call. A
//! handler needs a moment to hear of the end, so that calls which end within [`Thresholds::grace_ns`] say nothing, whenever they
//! began.
//!
//! One finding a call: when it ends, with how long it ran on; or, if it still goes on after [`Thresholds::goes_on_ns`], then, and not
//! again at its end. Undecided where the outbound call's end was not seen. How long all of them run on together is added up
//! by [`super::wasted`].

use std::fmt;

use super::correlation::{Evidence, Outbound, Processes, State};
use super::finding::{About, Claims, Name, Value, seconds};
use super::{Connections, Out, Watched, wasted};
use crate::input::Timestamp;
use crate::observation::{Call, EndedBy, LateWork, Outcome, Side};

/// When to speak.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// What ends within this after the end of the inbound call was told in time.
    pub grace_ns: u64,
    /// An outbound call that is still open so long after the end of the inbound call is told of before it ends.
    pub goes_on_ns: u64,
}

impl Default for Thresholds {
    fn default() -> Self {
        // Ten seconds: nearly all calls have ended by then, so that nearly all are told of with how long they ran on.
        Thresholds { grace_ns: 100_000_000, goes_on_ns: 10_000_000_000 }
    }
}

/// Why nobody waits for an inbound call any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cause {
    /// Its client reset it before the deadline.
    Cancelled,
    /// Its deadline passed.
    Deadline,
    /// Its connection was lost.
    ConnectionLost,
    /// Its client reset it, at a time or with a code that does not say which it was.
    Reset,
}

/// What is claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// An outbound call went on, or began, after the inbound call that it belongs to was given up.
    Outbound {
        /// Why that was given up.
        why: Cause,
        /// From that to its beginning, for one that began later.
        began_after_ns: Option<u64>,
        /// From that, or from its beginning, to its end or until now.
        ran_on_ns: u64,
        /// It goes on.
        is_open: bool,
        /// Messages of the call, both ways, if it has ended and all of them were seen.
        bytes: Option<u64>,
        /// How it is known to which inbound call it belongs.
        link: Evidence,
    },
    /// A server went on sending on a stream that its client has reset.
    AfterEnd {
        /// From the reset to the last frame.
        ran_on_ns: u64,
        /// DATA payload after it.
        bytes: u64,
        /// It sent its trailers all the same.
        trailers: bool,
    },
}

impl Claims for Claim {
    fn name(&self) -> Name {
        match self {
            Claim::Outbound { .. } => Name::UncancelledCall,
            Claim::AfterEnd { .. } => Name::WorkAfterEnd,
        }
    }

    fn cause(&self) -> Option<&'static str> {
        match self {
            Claim::Outbound { why: Cause::Cancelled, .. } => Some("cancelled"),
            Claim::Outbound { why: Cause::Deadline, .. } => Some("deadline"),
            Claim::Outbound { why: Cause::ConnectionLost, .. } => Some("connection_lost"),
            Claim::Outbound { why: Cause::Reset, .. } => Some("reset"),
            Claim::AfterEnd { .. } => None,
        }
    }

    fn link(&self) -> Option<Evidence> {
        match *self {
            Claim::Outbound { link, .. } => Some(link),
            Claim::AfterEnd { .. } => None,
        }
    }

    fn evidence(&self, number: &mut dyn FnMut(&'static str, Value)) {
        let octets = |bytes: u64| Value::Bytes(i64::try_from(bytes).unwrap_or(i64::MAX));
        match *self {
            Claim::Outbound { began_after_ns, ran_on_ns, is_open, bytes, .. } => {
                number("ran_on_seconds", Value::Ns(ran_on_ns));
                if let Some(began_after_ns) = began_after_ns {
                    number("began_after_seconds", Value::Ns(began_after_ns));
                }
                if is_open {
                    number("state", Value::Word("open"));
                } else if let Some(bytes) = bytes {
                    number("call_bytes", octets(bytes));
                }
            }
            Claim::AfterEnd { ran_on_ns, bytes, trailers } => {
                number("ran_on_seconds", Value::Ns(ran_on_ns));
                number("after_end_bytes", octets(bytes));
                number("trailers", Value::Word(if trailers { "sent" } else { "not_sent" }));
            }
        }
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Claim::Outbound { why, began_after_ns, ran_on_ns, is_open, .. } => {
                let why = match why {
                    Cause::Cancelled => "was cancelled",
                    Cause::Deadline => "ran out of time",
                    Cause::ConnectionLost => "lost its connection",
                    Cause::Reset => "was reset",
                };
                let ran_on = seconds(ran_on_ns);
                match began_after_ns {
                    Some(after_ns) => {
                        let after = seconds(after_ns);
                        write!(f, "began {after} after its inbound call {why}, and ran for {ran_on}")?;
                    }
                    None => write!(f, "ran on for {ran_on} after its inbound call {why}")?,
                }
                f.write_str(if is_open { ", so far" } else { "" })
            }
            Claim::AfterEnd { ran_on_ns, bytes, trailers } => {
                let (ran_on, trailers) =
                    (seconds(ran_on_ns), if trailers { " and its trailers" } else { "" });
                write!(f, "went on for {ran_on} after its client had reset it, with {bytes} B{trailers}")
            }
        }
    }
}

/// When a call was given up and why, if it was.
pub(super) fn given_up(call: &Call) -> Option<(Timestamp, Cause)> {
    let by_client = call.ended_by == Some(EndedBy::Client);
    let cause = match call.outcome {
        Outcome::Deadline => Cause::Deadline,
        Outcome::Cancelled if by_client => Cause::Cancelled,
        Outcome::Aborted => Cause::ConnectionLost,
        // RST_STREAM(NO_ERROR) says that the client has seen the end of the response (RFC 9113 §8.1).
        Outcome::Error | Outcome::Unknown if by_client && call.rst_code.is_some_and(|code| code != 0) => {
            Cause::Reset
        }
        Outcome::Ok
        | Outcome::Error
        | Outcome::Cancelled
        | Outcome::Refused
        | Outcome::Open
        | Outcome::Unknown => return None,
    };
    Some((call.ended?, cause))
}

/// Judges an outbound call that has ended, and belonged to an inbound one.
pub(super) fn handle_outbound_ended(
    thresholds: &Thresholds,
    connection: &Watched,
    call: &Call,
    link: &Outbound,
    inbound: State,
    out: &mut Out,
) {
    let State::GivenUp(at, why) = inbound else { return };
    if link.said || call.outcome == Outcome::Open {
        return;
    }
    let is_exact = call.request.exact && call.response.exact;
    let bytes = is_exact.then(|| call.request.bytes.saturating_add(call.response.bytes));
    match call.ended {
        Some(ended) if ended.since(at) > thresholds.grace_ns => {
            let claim = claim(link, at, why, ended, Some(bytes));
            out.fire(connection.call(call), ended, claim);
        }
        Some(_) => {}
        None => {
            let claim = claim(link, at, why, link.started.max(at), Some(bytes));
            out.leave_undecided(connection.call(call), link.started.max(at), claim);
        }
    }
}

/// Of a call that has ended: its messages in bytes, where they are known. `None` of one that goes on.
type Ended = Option<Option<u64>>;

fn claim(link: &Outbound, at: Timestamp, why: Cause, until: Timestamp, ended: Ended) -> Claim {
    Claim::Outbound {
        why,
        began_after_ns: (link.started > at).then(|| link.started.since(at)),
        ran_on_ns: until.since(at.max(link.started)),
        is_open: ended.is_none(),
        bytes: ended.flatten(),
        link: link.evidence,
    }
}

/// Tells of the calls that go on.
pub(super) fn handle_tick(
    thresholds: &Thresholds,
    processes: &mut Processes,
    connections: &Connections,
    now: Timestamp,
    out: &mut Out,
) {
    for process in processes.values_mut() {
        process.visit_going_on(|link, method, at, why| {
            if link.said || now.since(at) < thresholds.goes_on_ns {
                return;
            }
            link.said = true;
            let Some(connection) = connections.get(link.connection) else { return };
            let about = About { stream: Some(link.stream), method: method.cloned(), ..connection.about() };
            // What a connection in doubt does with its call is not known.
            if connection.sync == crate::observation::Sync::Desynced {
                out.leave_undecided(about, now, claim(link, at, why, now, None));
            } else {
                out.fire(about, now, claim(link, at, why, now, None));
            }
        });
    }
}

/// Judges what was sent on a stream after its end.
pub(super) fn handle_late_work(
    thresholds: &Thresholds,
    connection: &Watched,
    work: &LateWork,
    out: &mut Out,
) {
    let ran_on_ns = work.last.since(work.ended);
    if connection.side == Some(Side::Server) && ran_on_ns > thresholds.grace_ns {
        let method = work.method.clone();
        let about = About { stream: Some(work.stream), method, ..connection.about() };
        let claim = Claim::AfterEnd { ran_on_ns, bytes: work.bytes, trailers: work.trailers };
        out.fire(about, work.last, claim);
        wasted::handle_late_work(work, ran_on_ns, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detectors::hops_scene::{CALLS, Ends, Hop, SERVED, at, trace};
    use crate::detectors::synthetic::ms;
    use crate::input::{ConnectionId, Flow};
    use crate::observation::Sync;

    /// An inbound call with an outbound one of the same trace, and the inbound one ends after 50 ms.
    fn ended(how: &Ends) -> Hop {
        let mut hop = Hop::new();
        hop.inbound(1, at(0), |call| call.traces = trace(1));
        hop.outbound(1, at(10), |call| call.traces = trace(1));
        hop.end(SERVED, 1, at(50), how);
        hop
    }

    #[test]
    fn a_call_that_runs_on_after_its_caller_has_gone_is_told_at_its_end() {
        for (how, cause) in
            [(Ends::Cancelled, "cancelled"), (Ends::Deadline, "deadline"), (Ends::Lost, "connection_lost")]
        {
            let mut hop = ended(&how);
            hop.tick(at(1_100));
            assert_eq!(hop.said(), Vec::<String>::new());
            hop.end(CALLS, 1, at(1_150), &Ends::Ok);
            assert_eq!(hop.said(), [format!("firing uncancelled_call {cause} trace")]);
        }
    }

    #[test]
    fn a_call_that_ends_within_the_grace_is_no_finding() {
        let mut hop = ended(&Ends::Cancelled);
        hop.end(CALLS, 1, at(150), &Ends::Cancelled);
        hop.outbound(3, at(60), |call| call.traces = trace(1));
        hop.end(CALLS, 3, at(150), &Ends::Ok);
        assert_eq!(hop.said(), Vec::<String>::new());
        hop.outbound(5, at(149), |call| call.traces = trace(1));
        hop.end(CALLS, 5, at(151), &Ends::Ok);
        assert_eq!(hop.said(), ["firing uncancelled_call cancelled trace"]);
    }

    #[test]
    fn a_call_under_one_that_was_answered_may_run_on() {
        for how in [Ends::Ok, Ends::Unseen] {
            let mut hop = ended(&how);
            hop.end(CALLS, 1, at(5_000), &Ends::Ok);
            assert_eq!(hop.said(), Vec::<String>::new());
        }
    }

    #[test]
    fn a_call_that_begins_after_the_end_says_how_long_after() {
        let mut hop = ended(&Ends::Cancelled);
        hop.outbound(3, at(250), |call| call.traces = trace(1));
        hop.end(CALLS, 3, at(350), &Ends::Ok);
        let found = hop.detectors.poll_finding().map(|finding| finding.claim);
        let claim = Claim::Outbound {
            why: Cause::Cancelled,
            began_after_ns: Some(ms(200)),
            ran_on_ns: ms(100),
            is_open: false,
            bytes: Some(20),
            link: Evidence::Trace,
        };
        assert_eq!(found, Some(claim.into()));
    }

    /// Messages that were seen in part were said to be those of the call.
    #[test]
    fn of_a_call_whose_messages_were_not_all_seen_no_bytes_are_told_and_it_is_not_said_to_be_open() {
        let mut hop = ended(&Ends::Cancelled);
        hop.messages.exact = false;
        hop.end(CALLS, 1, at(5_000), &Ends::Ok);
        let found = hop.detectors.poll_finding().map(|finding| finding.claim);
        let claim = Claim::Outbound {
            why: Cause::Cancelled,
            began_after_ns: None,
            ran_on_ns: ms(4_950),
            is_open: false,
            bytes: None,
            link: Evidence::Trace,
        };
        assert_eq!(found, Some(claim.into()));
        let mut numbers = Vec::new();
        claim.evidence(&mut |name, _| numbers.push(name));
        assert_eq!(numbers, ["ran_on_seconds"]);
        assert!(!claim.to_string().contains("so far"), "{claim}");
    }

    #[test]
    fn a_call_that_goes_on_is_told_once() {
        let mut hop = ended(&Ends::Cancelled);
        hop.tick(at(9_000));
        assert_eq!(hop.said(), Vec::<String>::new());
        hop.tick(at(10_051));
        assert_eq!(hop.said(), ["firing uncancelled_call cancelled trace"]);
        hop.tick(at(60_000));
        hop.end(CALLS, 1, at(61_000), &Ends::Ok);
        assert_eq!(hop.said(), Vec::<String>::new());
    }

    #[test]
    fn a_call_whose_end_was_not_seen_is_undecided() {
        let mut hop = ended(&Ends::Cancelled);
        hop.end(CALLS, 1, at(5_000), &Ends::Unseen);
        assert_eq!(hop.said(), ["undecided uncancelled_call cancelled trace"]);
        let mut hop = ended(&Ends::Cancelled);
        hop.status(CALLS, Flow::Sent, Sync::Desynced, at(60));
        hop.tick(at(10_051));
        assert_eq!(hop.said(), ["undecided uncancelled_call cancelled trace"]);
    }

    #[test]
    fn joined_late_nothing_is_said_since_nothing_is_linked() {
        let mut hop = Hop::new();
        hop.status(SERVED, Flow::Received, Sync::Late, at(0));
        hop.inbound(1, at(1), |_| {});
        hop.outbound(1, at(10), |_| {});
        hop.end(SERVED, 1, at(50), &Ends::Cancelled);
        hop.end(CALLS, 1, at(5_000), &Ends::Ok);
        assert_eq!(hop.said(), Vec::<String>::new());
    }

    fn late_work(connection: u64, last: u64) -> crate::Observation {
        crate::Observation::LateWork(LateWork {
            connection: ConnectionId(connection),
            stream: 1,
            method: Some("/shop.Orders/Place".into()),
            ended: at(0),
            last: at(last),
            bytes: 30,
            trailers: true,
        })
    }

    #[test]
    fn a_server_that_goes_on_sending_after_the_reset_is_told_and_what_was_on_its_way_is_not() {
        let mut hop = Hop::new();
        hop.observe(late_work(SERVED, 100));
        assert_eq!(hop.said(), Vec::<String>::new());
        hop.observe(late_work(SERVED, 101));
        assert_eq!(hop.said(), ["firing work_after_end"]);
        // At the client's end frames arrive for as long as the network takes.
        hop.observe(late_work(CALLS, 5_000));
        assert_eq!(hop.said(), Vec::<String>::new());
    }
}
