//! Deadlines across a hop: whether an outbound call has what is left of the deadline of the inbound call that it belongs to.
//!
//! A deadline is a budget for the whole tree of calls. Evidence: a link ([`super::correlation`]), `grpc-timeout` of both requests
//! (gRPC over HTTP/2, "Timeout"), and when both were seen at the sockets.
//!
//! What is left is counted from the inbound request's last octet to the outbound one's first. A server counts from a little later,
//! and writes a little after it has encoded; encoders round up (checklist D2: C-core by up to 1 %, and a millisecond; grpc-js to
//! whole milliseconds; grpc-go and tonic to the unit that fits eight digits; grpc-java down). The tolerance is for that. On a busy
//! machine requests wait for longer between being read and being handled, and no bound of it is visible (an event loop that has
//! read five hundred requests at once begins the last of them more than a second later). So only a timeout that is longer than
//! the one that came in has certainly been set anew; one that is not, and yet later than what is left, is undecided. A constant that
//! is set for each call whatever came in is told without a link ([`super::fixed`]).
//!
//! An inbound call without a deadline, or with one beyond [`Thresholds::unlimited_ns`], has nothing to hand on. A shorter timeout
//! than what is left is as good as handed on.

use std::fmt;

use super::correlation::{Evidence, Inbound};
use super::finding::{Claims, Name, Value, seconds};
use super::{Out, Watched};
use crate::observation::{CallStarted, Timeout};

/// When to speak.
#[derive(Clone, Debug, PartialEq)]
pub struct Thresholds {
    /// An outbound deadline may be this much later than the inbound one.
    pub tolerance_ns: u64,
    /// Or this part of its timeout, whichever is more.
    pub tolerance_ratio: f64,
    /// An outbound call that begins more than this after the inbound deadline began when nothing was left: so close to it the
    /// server's own clock may have something left.
    pub waiting_ns: u64,
    /// More than this left is no limit to hand on.
    pub unlimited_ns: u64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Thresholds {
            tolerance_ns: 5_000_000,
            tolerance_ratio: 0.02,
            waiting_ns: 25_000_000,
            unlimited_ns: 3_600_000_000_000,
        }
    }
}

/// What became of an inbound call's deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Propagation {
    /// The outbound call ends no later.
    Propagated,
    /// It has a later deadline.
    Reset,
    /// It has none.
    Dropped,
    /// It began when nothing was left.
    Exhausted,
    /// One of the timeouts is not known, or the difference is too small to tell.
    Undecided,
}

impl Propagation {
    /// Its name as a label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Propagation::Propagated => "propagated",
            Propagation::Reset => "reset",
            Propagation::Dropped => "dropped",
            Propagation::Exhausted => "exhausted",
            Propagation::Undecided => "undecided",
        }
    }
}

/// What is claimed of an outbound call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Its deadline is later than that of the inbound call.
    Reset {
        /// As sent.
        timeout_ns: u64,
        /// Of the inbound call's timeout, when the outbound call began.
        left_ns: u64,
        /// How it is known to which inbound call it belongs.
        link: Evidence,
    },
    /// It has no deadline.
    Dropped {
        /// Of the inbound call's timeout, when the outbound call began.
        left_ns: u64,
        /// How it is known to which inbound call it belongs.
        link: Evidence,
    },
    /// It began when nothing was left.
    Exhausted {
        /// From the inbound call's deadline to the outbound call's beginning.
        past_ns: u64,
        /// As sent, if it has one.
        timeout_ns: Option<u64>,
        /// How it is known to which inbound call it belongs.
        link: Evidence,
    },
}

impl Claims for Claim {
    fn name(&self) -> Name {
        match self {
            Claim::Reset { .. } => Name::DeadlineReset,
            Claim::Dropped { .. } => Name::DeadlineDropped,
            Claim::Exhausted { .. } => Name::DeadlineExhausted,
        }
    }

    fn link(&self) -> Option<Evidence> {
        match *self {
            Claim::Reset { link, .. } | Claim::Dropped { link, .. } | Claim::Exhausted { link, .. } => {
                Some(link)
            }
        }
    }

    fn evidence(&self, number: &mut dyn FnMut(&'static str, Value)) {
        match *self {
            Claim::Reset { timeout_ns, left_ns, .. } => {
                number("timeout_seconds", Value::Ns(timeout_ns));
                number("inbound_left_seconds", Value::Ns(left_ns));
            }
            Claim::Dropped { left_ns, .. } => number("inbound_left_seconds", Value::Ns(left_ns)),
            Claim::Exhausted { past_ns, timeout_ns, .. } => {
                number("past_inbound_deadline_seconds", Value::Ns(past_ns));
                if let Some(timeout_ns) = timeout_ns {
                    number("timeout_seconds", Value::Ns(timeout_ns));
                }
            }
        }
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Claim::Reset { timeout_ns, left_ns, .. } => {
                let (timeout, left) = (seconds(timeout_ns), seconds(left_ns));
                write!(f, "was given {timeout}, although {left} were left of the inbound call's deadline")
            }
            Claim::Dropped { left_ns, .. } => {
                let left = seconds(left_ns);
                write!(f, "has no deadline, although {left} were left of the inbound call's")
            }
            Claim::Exhausted { past_ns, .. } => {
                write!(f, "began {} after the inbound call's deadline", seconds(past_ns))
            }
        }
    }
}

/// Judges an outbound call that belongs to an inbound one. `None` if that has nothing to hand on.
pub(super) fn handle_linked(
    thresholds: &Thresholds,
    connection: &Watched,
    call: &CallStarted,
    inbound: &Inbound,
    link: Evidence,
    out: &mut Out,
) -> Option<Propagation> {
    let inbound_timeout = match inbound.timeout {
        Timeout::Ns(timeout) => timeout,
        Timeout::Absent | Timeout::Invalid => return None,
        Timeout::Unknown => return Some(Propagation::Undecided),
    };
    let deadline = inbound.started.plus(inbound_timeout);
    let left_ns = deadline.since(call.time);
    if left_ns > thresholds.unlimited_ns {
        return None;
    }
    let timeout_ns = match call.timeout {
        Timeout::Ns(timeout) => Some(timeout),
        Timeout::Absent | Timeout::Invalid | Timeout::Unknown => None,
    };
    let past_ns = call.time.since(deadline);
    let waiting_ns = thresholds.waiting_ns.max(thresholds.tolerance_ns);
    if past_ns > waiting_ns {
        out.fire(connection.call(call), call.time, Claim::Exhausted { past_ns, timeout_ns, link });
        return Some(Propagation::Exhausted);
    }
    let Some(timeout_ns) = timeout_ns else {
        let claim = Claim::Dropped { left_ns, link };
        if call.timeout == Timeout::Unknown {
            out.leave_undecided(connection.call(call), call.time, claim);
            return Some(Propagation::Undecided);
        }
        out.fire(connection.call(call), call.time, claim);
        return Some(Propagation::Dropped);
    };
    // A ratio of a time is one, and below it.
    let tolerance_ns = thresholds.tolerance_ns.max((timeout_ns as f64 * thresholds.tolerance_ratio) as u64);
    let claim = Claim::Reset { timeout_ns, left_ns, link };
    if call.time.plus(timeout_ns) <= deadline.plus(tolerance_ns) {
        return Some(Propagation::Propagated);
    }
    // Whatever waited, nobody hands on more than came in.
    if timeout_ns <= inbound_timeout.saturating_add(tolerance_ns) {
        out.leave_undecided(connection.call(call), call.time, claim);
        return Some(Propagation::Undecided);
    }
    out.fire(connection.call(call), call.time, claim);
    Some(Propagation::Reset)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detectors::hops_scene::{Ends, Hop, SERVED, at, trace};
    use crate::detectors::synthetic::ms;
    use crate::input::Flow;
    use crate::observation::Sync;

    /// An outbound call begins `after` milliseconds after an inbound one: what became of the deadline, and what is said.
    fn judged(inbound: Timeout, after: u64, outbound: Timeout) -> (Option<Propagation>, Vec<String>) {
        let mut hop = Hop::new();
        hop.inbound(1, at(0), |call| (call.timeout, call.traces) = (inbound, trace(1)));
        let found = hop.outbound(1, at(after), |call| (call.timeout, call.traces) = (outbound, trace(1)));
        (found.propagation, hop.said())
    }

    fn timeout(milliseconds: u64) -> Timeout {
        Timeout::Ns(ms(milliseconds))
    }

    #[test]
    fn what_is_left_is_handed_on_within_what_encoders_and_clocks_add() {
        for (inbound, after, outbound) in [
            // To the microsecond, as grpc-go and tonic write it.
            (timeout(500), 100, Timeout::Ns(399_987_000)),
            // Rounded up to a millisecond, as grpc-js and C-core do.
            (timeout(500), 100, timeout(401)),
            // Rounded up by a fiftieth at most, as C-core does with long ones.
            (timeout(60_000), 1_000, timeout(60_000)),
            // A little later than it was encoded.
            (timeout(500), 100, timeout(405)),
            // Shorter on purpose.
            (timeout(500), 100, timeout(50)),
            (timeout(500), 499, Timeout::Ns(0)),
        ] {
            let case = format!("{inbound:?} {after} {outbound:?}");
            assert_eq!(judged(inbound, after, outbound), (Some(Propagation::Propagated), vec![]), "{case}");
        }
    }

    #[test]
    fn a_deadline_that_starts_anew_is_told() {
        for (inbound, after, outbound) in [
            (timeout(500), 100, timeout(600)),
            (timeout(500), 1, timeout(2_000)),
            (timeout(500), 1, timeout(516)),
            (timeout(100), 90, timeout(140)),
        ] {
            let case = format!("{inbound:?} {after} {outbound:?}");
            let said = vec!["firing deadline_reset trace".to_owned()];
            assert_eq!(judged(inbound, after, outbound), (Some(Propagation::Reset), said), "{case}");
        }
    }

    /// Hops that handed on what their own clocks said was left were told to have reset it: each had read a batch of
    /// requests, and handled the last of them up to 1.3 seconds later.
    #[test]
    fn too_late_but_no_longer_than_what_came_in_may_have_waited() {
        for (inbound, after, outbound) in
            [(500, 20, 500), (500, 100, 500), (100, 90, 40), (20_100, 1_310, 20_100)]
        {
            let found = judged(timeout(inbound), after, timeout(outbound));
            let said = vec!["undecided deadline_reset trace".to_owned()];
            assert_eq!(found, (Some(Propagation::Undecided), said), "{inbound} {after} {outbound}");
        }
    }

    #[test]
    fn a_call_without_deadline_under_one_that_has_one_is_told() {
        let said = vec!["firing deadline_dropped trace".to_owned()];
        assert_eq!(judged(timeout(500), 100, Timeout::Absent), (Some(Propagation::Dropped), said.clone()));
        assert_eq!(judged(timeout(500), 100, Timeout::Invalid), (Some(Propagation::Dropped), said));
    }

    #[test]
    fn timeouts_that_are_not_known_leave_it_undecided() {
        let said = vec!["undecided deadline_dropped trace".to_owned()];
        assert_eq!(judged(timeout(500), 100, Timeout::Unknown), (Some(Propagation::Undecided), said));
        assert_eq!(judged(Timeout::Unknown, 100, Timeout::Absent), (Some(Propagation::Undecided), vec![]));
    }

    #[test]
    fn a_call_that_begins_after_the_deadline_is_told_whatever_it_has() {
        let said = vec!["firing deadline_exhausted trace".to_owned()];
        for outbound in [Timeout::Absent, timeout(1), timeout(1_000), Timeout::Unknown] {
            assert_eq!(judged(timeout(500), 526, outbound), (Some(Propagation::Exhausted), said.clone()));
        }
        // So close to it the server's own clock may have something left.
        assert_eq!(judged(timeout(500), 504, timeout(1)), (Some(Propagation::Propagated), vec![]));
    }

    #[test]
    fn nothing_is_handed_on_where_there_is_nothing_to_hand_on() {
        for inbound in [Timeout::Absent, Timeout::Invalid, timeout(100 * 3_600_000)] {
            assert_eq!(judged(inbound, 100, Timeout::Absent), (None, vec![]));
        }
    }

    #[test]
    fn without_a_link_nothing_is_said() {
        let mut hop = Hop::new();
        hop.inbound(1, at(0), |_| {});
        hop.inbound(3, at(0), |_| {});
        assert_eq!(hop.outbound(1, at(1), |call| call.timeout = Timeout::Absent).propagation, None);
        assert_eq!(hop.said(), Vec::<String>::new());
    }

    #[test]
    fn the_evidence_of_the_link_is_part_of_the_finding() {
        let mut hop = Hop::new();
        hop.inbound(1, at(0), |_| {});
        hop.outbound(1, at(1), |call| call.timeout = Timeout::Absent);
        assert_eq!(hop.said(), ["firing deadline_dropped sole"]);
    }

    #[test]
    fn joined_late_or_with_a_hole_nothing_is_said() {
        for sync in [Sync::Late, Sync::Desynced] {
            let mut hop = Hop::new();
            hop.status(SERVED, Flow::Received, sync, at(0));
            hop.inbound(1, at(1), |call| call.traces = trace(1));
            hop.outbound(1, at(2), |call| (call.timeout, call.traces) = (Timeout::Absent, trace(1)));
            assert_eq!(hop.said(), Vec::<String>::new(), "{sync:?}");
        }
    }

    #[test]
    fn after_its_caller_has_gone_a_call_is_judged_by_the_same_deadline() {
        let mut hop = Hop::new();
        hop.inbound(1, at(0), |call| call.traces = trace(1));
        hop.end(SERVED, 1, at(1_000), &Ends::Deadline);
        let found = hop.outbound(1, at(1_100), |call| call.traces = trace(1));
        assert_eq!(found.propagation, Some(Propagation::Exhausted));
    }
}
