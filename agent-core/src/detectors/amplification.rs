//! Retries that add to the load that they suffer from: a new attempt of a call arrives while an earlier one is still worked on.
//!
//! Evidence: the earlier attempt was given up by its client, and outbound calls that belong to it are still open
//! ([`super::correlation`]). That both are attempts of one call is known by
//! - the trace: the same trace id and method, arriving after the other was given up; or
//! - `grpc-previous-rpc-attempts` of n without a trace: the same connection and method, where exactly n calls were given up.
//!
//! With both, an earlier attempt that is still open also counts, on the same connection and if it is the only one of its trace.
//! Calls of one trace that are merely open at once are no attempts, and say nothing.

use std::fmt;

use super::correlation::{Evidence, Inbound, Process, State, address};
use super::finding::{Claims, Name, Value, seconds};
use super::{Out, Watched};
use crate::observation::CallStarted;

/// Calls that were given up and are looked at, the last ones first.
const LOOKED_AT: usize = 64;

/// What is claimed of a call that arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// As sent.
    pub previous_attempts: Option<u32>,
    /// From the beginning of the earlier attempt.
    pub earlier_began_ns: u64,
    /// Outbound calls of the earlier attempt that are open.
    pub open_outbound: u32,
    /// How it is known that they belong to it; `None` if it is open itself.
    pub link: Option<Evidence>,
}

impl Claims for Claim {
    fn name(&self) -> Name {
        Name::RetryAmplification
    }

    fn cause(&self) -> Option<&'static str> {
        Some(if self.link.is_some() { "outbound" } else { "open" })
    }

    fn link(&self) -> Option<Evidence> {
        self.link
    }

    fn evidence(&self, number: &mut dyn FnMut(&'static str, Value)) {
        if let Some(attempts) = self.previous_attempts {
            number("previous_attempts", Value::Count(u64::from(attempts)));
        }
        number("earlier_began_seconds", Value::Ns(self.earlier_began_ns));
        number("open_outbound_calls", Value::Count(u64::from(self.open_outbound)));
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let earlier = seconds(self.earlier_began_ns);
        match self.open_outbound {
            0 => write!(f, "is tried again while the attempt of {earlier} before is still open"),
            open => {
                write!(f, "is tried again while {open} calls of the attempt of {earlier} before still run")
            }
        }
    }
}

/// Judges an inbound call, before it is remembered itself.
pub(super) fn handle_inbound_started(
    process: &Process,
    connection: &Watched,
    call: &CallStarted,
    out: &mut Out,
) {
    let attempts = call.previous_attempts.unwrap_or_default();
    let has_trace = call.traces.trace.is_some() || call.traces.request.is_some();
    if call.method.is_none() || attempts == 0 && !has_trace {
        return;
    }
    let same_method = |earlier: &&Inbound| earlier.method == address(call.method.as_ref());
    let given_up = || process.given_up().take(LOOKED_AT).filter(same_method);
    let goes_on = |earlier: &&Inbound| earlier.open_outbound > 0 && was_before(earlier, call);
    let earlier = if has_trace {
        given_up().filter(|earlier| same_trace(earlier, call)).find(goes_on)
    } else {
        let on_it = || given_up().filter(|earlier| earlier.connection == call.connection);
        let all = on_it().count() == attempts as usize;
        on_it().find(goes_on).filter(|_| all)
    };
    // Nearly all calls are first attempts: nothing is searched for them.
    let open = || {
        let only = if attempts == 1 { process.only_of_trace(call.traces) } else { None };
        only.filter(|earlier| earlier.connection == call.connection)
            .filter(|earlier| earlier.state == State::Open && earlier.previous_attempts == 0)
            .filter(same_method)
    };
    if let Some(earlier) = earlier.or_else(open) {
        let claim = Claim {
            previous_attempts: call.previous_attempts,
            earlier_began_ns: call.time.since(earlier.started),
            open_outbound: earlier.open_outbound,
            link: (earlier.state != State::Open).then_some(earlier.weakest),
        };
        out.fire(connection.call(call), call.time, claim);
    }
}

fn was_before(earlier: &Inbound, call: &CallStarted) -> bool {
    matches!(earlier.state, State::GivenUp(at, _) if at <= call.time)
}

/// One of the ids is in both requests, and none differs.
fn same_trace(earlier: &Inbound, call: &CallStarted) -> bool {
    let (ours, theirs) = (call.traces, earlier.traces);
    match (ours.trace.zip(theirs.trace), ours.request.zip(theirs.request)) {
        (Some((one, other)), _) | (None, Some((one, other))) => one == other,
        (None, None) => false,
    }
}

#[cfg(test)]
mod tests {
    use crate::detectors::hops_scene::{CALLS, Ends, Hop, SERVED, at, trace};
    use crate::input::Flow;
    use crate::observation::{CallStarted, Sync, Traces};

    const FIRED: &str = "firing retry_amplification outbound trace";

    /// An attempt with an outbound call, given up after 50 ms.
    fn given_up(change: impl FnOnce(&mut CallStarted)) -> Hop {
        let mut hop = Hop::new();
        hop.inbound(1, at(0), change);
        hop.outbound(1, at(10), |call| call.traces = trace(1));
        hop.end(SERVED, 1, at(50), &Ends::Cancelled);
        hop
    }

    #[test]
    fn an_attempt_of_the_same_trace_while_the_first_one_still_calls_is_told() {
        let mut hop = given_up(|call| call.traces = trace(1));
        hop.inbound(3, at(60), |call| call.traces = trace(1));
        assert_eq!(hop.said(), [FIRED]);
    }

    #[test]
    fn an_attempt_after_everything_of_the_first_one_has_ended_is_none() {
        let mut hop = given_up(|call| call.traces = trace(1));
        hop.end(CALLS, 1, at(55), &Ends::Cancelled);
        hop.inbound(3, at(60), |call| call.traces = trace(1));
        assert_eq!(hop.said(), Vec::<String>::new());
    }

    #[test]
    fn another_trace_or_another_method_is_another_call() {
        let mut hop = given_up(|call| call.traces = trace(1));
        hop.inbound(3, at(60), |call| call.traces = trace(3));
        hop.begin(SERVED, 5, "/shop.Orders/Cancel", at(61), |call| call.traces = trace(1));
        assert_eq!(hop.said(), Vec::<String>::new());
    }

    #[test]
    fn calls_of_one_trace_that_are_open_at_once_are_no_attempts() {
        let mut hop = Hop::new();
        hop.inbound(1, at(0), |call| call.traces = trace(1));
        hop.outbound(1, at(10), |call| call.traces = trace(1));
        hop.inbound(3, at(20), |call| call.traces = trace(1));
        assert_eq!(hop.said(), Vec::<String>::new());
    }

    #[test]
    fn the_first_attempt_may_be_open_where_the_second_says_that_it_is_one() {
        let mut hop = Hop::new();
        hop.inbound(1, at(0), |call| call.traces = trace(1));
        hop.inbound(3, at(20), |call| (call.traces, call.previous_attempts) = (trace(1), Some(1)));
        assert_eq!(hop.said(), ["firing retry_amplification open"]);
        // The third may be one of either.
        hop.inbound(5, at(30), |call| (call.traces, call.previous_attempts) = (trace(1), Some(1)));
        assert_eq!(hop.said(), Vec::<String>::new());
    }

    #[test]
    fn without_a_trace_the_number_of_attempts_must_be_the_number_that_was_given_up() {
        let begin = |hop: &mut Hop, stream, time, attempts| {
            hop.inbound(stream, at(time), |call| call.previous_attempts = attempts);
        };
        let mut hop = Hop::new();
        begin(&mut hop, 1, 0, None);
        hop.outbound(1, at(10), |_| {});
        hop.end(SERVED, 1, at(50), &Ends::Cancelled);
        begin(&mut hop, 3, 60, Some(2));
        begin(&mut hop, 5, 61, None);
        assert_eq!(hop.said(), Vec::<String>::new());
        begin(&mut hop, 7, 62, Some(1));
        assert_eq!(hop.said(), ["firing retry_amplification outbound sole"]);
    }

    #[test]
    fn the_attempts_of_another_connection_are_those_of_another_client() {
        let mut hop = Hop::new();
        hop.connect(3, Some(1), Flow::Received, Sync::Synced, at(0));
        hop.inbound(1, at(0), |_| {});
        hop.outbound(1, at(10), |_| {});
        hop.end(SERVED, 1, at(50), &Ends::Cancelled);
        hop.begin(3, 1, "/shop.Orders/Place", at(60), |call| call.previous_attempts = Some(1));
        assert_eq!(hop.said(), Vec::<String>::new());
    }

    #[test]
    fn joined_late_or_with_a_hole_nothing_is_said() {
        for sync in [Sync::Late, Sync::Desynced] {
            let mut hop = Hop::new();
            hop.status(SERVED, Flow::Received, sync, at(0));
            hop.inbound(1, at(0), |call| call.traces = trace(1));
            hop.outbound(1, at(10), |call| call.traces = trace(1));
            hop.end(SERVED, 1, at(50), &Ends::Cancelled);
            hop.inbound(3, at(60), |call| call.traces = trace(1));
            assert_eq!(hop.said(), Vec::<String>::new(), "{sync:?}");
        }
    }

    #[test]
    fn a_request_id_that_differs_is_another_call() {
        let id = |request| Traces { request: Some(crate::observation::TraceHash(request)), trace: None };
        let mut hop = given_up(|call| call.traces = Traces { request: id(7).request, ..trace(1) });
        hop.inbound(3, at(60), |call| call.traces = id(8));
        assert_eq!(hop.said(), Vec::<String>::new());
        hop.inbound(5, at(61), |call| call.traces = id(7));
        assert_eq!(hop.said(), [FIRED]);
    }
}
