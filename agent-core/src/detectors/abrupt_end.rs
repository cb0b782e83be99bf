//! Abrupt ends: calls were open when their connection was lost, or was closed under them (checklist S4, L5).
//!
//! Evidence: the call's outcome as the core judged it, whether an end had said that it would leave, and when the same process
//! next started a call of the same method (it resumed). A call whose end may have been lost is undecided. A finding waits for the
//! resumption for a while, so that it can tell of it. Long-lived streams of the infrastructure (checklist X2) end so by design.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;

use foldhash::quality::RandomState;

use super::finding::{About, Claims, Name, Value, seconds};
use super::party::ProcessId;
use super::{Out, Watched};
use crate::input::Timestamp;
use crate::observation::{Call, CallStarted, EndedBy, Outcome, Side};

/// When to speak.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// A client that has not opened the same method again by then has not resumed, as far as the finding says. Ten seconds
    /// are some attempts of gRPC's backoff between connections (1 s × 1.6ⁿ).
    pub resume_ns: u64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Thresholds { resume_ns: 10_000_000_000 }
    }
}

/// A call was open when its connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// An end had announced that it would leave, and did not wait for the call.
    pub announced: bool,
    /// From the request to the connection's end, if the request was seen.
    pub open_ns: Option<u64>,
    /// Until the same process started a call of the same method again, if it did within the threshold.
    pub resumed_ns: Option<u64>,
}

impl Claims for Claim {
    fn name(&self) -> Name {
        Name::AbruptEnd
    }

    fn cause(&self) -> Option<&'static str> {
        Some(if self.announced { "after_goaway" } else { "connection_lost" })
    }

    fn evidence(&self, number: &mut dyn FnMut(&'static str, Value)) {
        if let Some(open_ns) = self.open_ns {
            number("open_seconds", Value::Ns(open_ns));
        }
        if let Some(resumed_ns) = self.resumed_ns {
            number("resumed_after_seconds", Value::Ns(resumed_ns));
        }
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.announced {
            "was open when its connection, whose end had been announced, was closed"
        } else {
            "was open when its connection was lost"
        })?;
        if let Some(open_ns) = self.open_ns {
            write!(f, ", after {}", seconds(open_ns))?;
        }
        if let Some(resumed_ns) = self.resumed_ns {
            write!(f, "; the client called again after {}", seconds(resumed_ns))?;
        }
        Ok(())
    }
}

/// Calls of clients that may be resumed.
#[derive(Debug, Default)]
pub(super) struct AbruptEnds {
    waiting: HashMap<(ProcessId, Arc<str>), Vec<Waiting>, RandomState>,
    /// Which of them are due when, the oldest first.
    due: VecDeque<(Timestamp, (ProcessId, Arc<str>))>,
}

/// Calls that wait for their resumption at once; one more is told without waiting.
const WAITING: usize = 1_024;

#[derive(Debug)]
struct Waiting {
    about: About,
    claim: Claim,
    ended: Timestamp,
}

impl AbruptEnds {
    /// Judges a call that ended.
    pub(super) fn handle_call_ended(
        &mut self,
        thresholds: &Thresholds,
        connection: &Watched,
        call: &Call,
        out: &mut Out,
    ) {
        let ended = call.ended.unwrap_or(call.first_seen);
        let claim = || Claim {
            announced: connection.health.is_ending_gracefully(),
            open_ns: call.started.zip(call.ended).map(|(started, ended)| ended.since(started)),
            resumed_ns: None,
        };
        match (call.outcome, call.ended_by) {
            (Outcome::Aborted, _) => {}
            (Outcome::Unknown, Some(EndedBy::Connection)) => {
                out.leave_undecided(connection.call(call), ended, claim());
                return;
            }
            _ => return,
        }
        if call.well_known().is_some_and(crate::WellKnown::is_long_lived) {
            return;
        }
        let about = connection.call(call);
        match (&connection.party.owner, &call.method) {
            (Some(owner), Some(method)) if about.side == Some(Side::Client) && self.due.len() < WAITING => {
                let key = (owner.process, Arc::clone(method));
                self.due.push_back((ended.plus(thresholds.resume_ns), key.clone()));
                self.waiting.entry(key).or_default().push(Waiting { about, claim: claim(), ended });
            }
            _ => out.fire(about, ended, claim()),
        }
    }

    /// A call that may be the resumption of others.
    pub(super) fn handle_call_started(&mut self, connection: &Watched, call: &CallStarted, out: &mut Out) {
        if self.waiting.is_empty() || Side::of(call.client_flow) != Side::Client {
            return;
        }
        let (Some(owner), Some(method)) = (&connection.party.owner, &call.method) else { return };
        let key = (owner.process, Arc::clone(method));
        let Some(waiting) = self.waiting.get_mut(&key) else { return };
        waiting.retain(|waiting| {
            let is_after = call.time >= waiting.ended;
            if is_after {
                let claim =
                    Claim { resumed_ns: Some(call.time.since(waiting.ended)), ..waiting.claim.clone() };
                out.fire(waiting.about.clone(), waiting.ended, claim);
            }
            !is_after
        });
        if waiting.is_empty() {
            self.waiting.remove(&key);
        }
    }

    /// Tells of those that were not resumed by `now`.
    pub(super) fn handle_timeout(&mut self, thresholds: &Thresholds, now: Timestamp, out: &mut Out) {
        while let Some((_, key)) = self.due.pop_front_if(|(due, _)| *due <= now) {
            let Some(waiting) = self.waiting.get_mut(&key) else { continue };
            waiting.retain(|waiting| {
                let is_due = waiting.ended.plus(thresholds.resume_ns) <= now;
                if is_due {
                    out.fire(waiting.about.clone(), waiting.ended, waiting.claim.clone());
                }
                !is_due
            });
            if waiting.is_empty() {
                self.waiting.remove(&key);
            }
        }
    }

    /// Tells of all, since nothing more will be observed.
    pub(super) fn finish(&mut self, out: &mut Out) {
        for (_, key) in self.due.drain(..) {
            for Waiting { about, claim, ended } in self.waiting.remove(&key).unwrap_or_default() {
                out.fire(about, ended, claim);
            }
        }
    }
}

/// Calls that wait at most, and their bytes: each for another method.
#[cfg(test)]
pub(super) fn most_bytes() -> (usize, usize) {
    use super::memory::{of_list, of_table};
    type Key = (ProcessId, Arc<str>);
    let lists = WAITING * of_list::<Waiting>(4);
    let bytes = of_table::<(Key, Vec<Waiting>)>(WAITING) + lists + of_list::<(Timestamp, Key)>(WAITING);
    (WAITING, bytes)
}

#[cfg(test)]
mod tests {
    use super::super::synthetic::{Scene, ms, s};
    use super::*;
    use crate::input::{ConnectionId, Flow};
    use crate::observation::{Goaway, GoawayReason, Observation, Sync};

    const FOLLOW: &str = "/shop.Orders/Follow";

    /// A call of connection 1 from 1 s on, which the connection's end at 5 s left so.
    fn lost(scene: &mut Scene, method: &str, outcome: Outcome) {
        let mut call = scene.call(3, method, s(1), s(5));
        (call.outcome, call.ended_by) = (outcome, Some(EndedBy::Connection));
        (call.status, call.http_status) = (None, None);
        scene.observe(&Observation::CallEnded(Box::new(call)));
    }

    #[test]
    fn a_call_on_a_lost_connection_is_found_with_the_time_until_it_was_resumed() {
        let mut scene = Scene::client();
        lost(&mut scene, FOLLOW, Outcome::Aborted);
        scene.end(s(5));
        scene.connect(2);
        let mut other = scene.started(1, "/shop.Orders/Get", s(6));
        other.connection = ConnectionId(2);
        scene.observe(&Observation::CallStarted(other.clone()));
        assert!(scene.said().is_empty());
        other.method = Some(FOLLOW.into());
        other.time = s(7);
        scene.observe(&Observation::CallStarted(other));
        let found = scene.found();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].time, s(5));
        assert_eq!(
            found[0].claim.claims().to_string(),
            "was open when its connection was lost, after 4.000 s; the client called again after 2.000 s"
        );
        scene.tick(s(60));
        assert!(scene.said().is_empty());
    }

    #[test]
    fn a_call_that_is_not_resumed_is_found_when_the_wait_is_over_or_at_the_end_of_the_observation() {
        let mut scene = Scene::client();
        lost(&mut scene, FOLLOW, Outcome::Aborted);
        scene.tick(s(5).plus(ms(9_999)));
        assert!(scene.said().is_empty());
        scene.tick(s(16));
        assert_eq!(scene.said(), ["firing abrupt_end connection_lost"]);

        let mut scene = Scene::client();
        lost(&mut scene, FOLLOW, Outcome::Aborted);
        scene.detectors.finish();
        assert_eq!(scene.said(), ["firing abrupt_end connection_lost"]);
    }

    #[test]
    fn a_server_does_not_wait_for_a_resumption() {
        let mut scene = Scene::server();
        lost(&mut scene, FOLLOW, Outcome::Aborted);
        assert_eq!(scene.said(), ["firing abrupt_end connection_lost"]);
    }

    #[test]
    fn a_server_that_leaves_and_does_not_wait_for_its_calls_is_told_apart() {
        let mut scene = Scene::server();
        scene.observe(&Observation::Goaway(Goaway {
            connection: ConnectionId(1),
            flow: Flow::Sent,
            last_stream: 3,
            code: 0,
            reason: GoawayReason::Graceful,
            time: s(4),
        }));
        lost(&mut scene, FOLLOW, Outcome::Aborted);
        assert_eq!(scene.said(), ["firing abrupt_end after_goaway"]);
    }

    #[test]
    fn calls_that_end_before_their_connection_and_streams_of_the_infrastructure_are_no_finding() {
        let mut scene = Scene::server();
        let call = scene.call(3, FOLLOW, s(1), s(4));
        scene.observe(&Observation::CallEnded(Box::new(call)));
        lost(&mut scene, FOLLOW, Outcome::Refused);
        lost(&mut scene, "/grpc.health.v1.Health/Watch", Outcome::Aborted);
        scene.end(s(5));
        assert!(scene.said().is_empty());
    }

    #[test]
    fn after_a_late_join_the_call_was_open_all_the_same() {
        let mut scene = Scene::client();
        scene.status(Sync::Late, s(0));
        let mut call = scene.call(3, FOLLOW, s(1), s(5));
        (call.outcome, call.ended_by) = (Outcome::Aborted, Some(EndedBy::Connection));
        (call.method, call.started) = (None, None);
        scene.observe(&Observation::CallEnded(Box::new(call)));
        let found = scene.found();
        assert_eq!(found.len(), 1, "without its method no resumption can be seen, so nothing waits");
        assert_eq!(found[0].claim.claims().to_string(), "was open when its connection was lost");
    }

    #[test]
    fn a_call_whose_end_may_have_been_lost_is_undecided() {
        let mut scene = Scene::client();
        scene.status(Sync::Desynced, s(0));
        lost(&mut scene, FOLLOW, Outcome::Unknown);
        assert_eq!(scene.said(), ["undecided abrupt_end connection_lost"]);
    }
}
