//! Streams that stay: one side has ended and the other does not, or nothing happens at all (checklist D7).
//!
//! Evidence: how the calls that are open stand now ([`OpenCall`](crate::observation::OpenCall)), and when a PING last went over
//! their connection. Undecided for a call of which bytes may have been lost, since it may have ended unseen, and for one whose
//! method is not known: it may be a long-lived stream of the infrastructure (checklist X2), of which nothing is said. Calls that
//! end with their connection are in [`abrupt_end`](super::abrupt_end).

use std::collections::HashMap;
use std::fmt;

use foldhash::quality::RandomState;

use super::finding::{Claims, Name, Value, Verdict, seconds};
use super::lasting::Lasting;
use super::{Connections, Out, Watched};
use crate::grpc::well_known::WellKnown;
use crate::input::{ConnectionId, Timestamp};
use crate::observation::{OpenCall, Side};

/// When to speak.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// One side of a call has ended, and the other one sent nothing for this long: five minutes are longer than anybody waits
    /// for the rest of a call.
    pub half_closed_ns: u64,
    /// No frame of a call, and no keepalive PING on its connection, for this long: what stands between the ends may have
    /// forgotten the connection (ten minutes, above the idle timeouts of the usual load balancers).
    pub idle_ns: u64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Thresholds { half_closed_ns: 300_000_000_000, idle_ns: 600_000_000_000 }
    }
}

/// What is claimed of a call that is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// One side has ended, and the other one is silent.
    HalfClosed {
        /// Who has ended its side.
        ended: Side,
        /// Since the end, or the last frame from the other side after it.
        silent_ns: u64,
        /// Complete messages from the server so far; `None` where some may not have been seen.
        responses: Option<u64>,
    },
    /// Nothing happens.
    Idle {
        /// Since the last frame of either side.
        silent_ns: u64,
    },
}

impl Claims for Claim {
    fn name(&self) -> Name {
        match self {
            Claim::HalfClosed { .. } => Name::HalfClosedLeak,
            Claim::Idle { .. } => Name::IdleStream,
        }
    }

    fn cause(&self) -> Option<&'static str> {
        match self {
            Claim::HalfClosed { ended: Side::Client, .. } => Some("server_silent"),
            Claim::HalfClosed { ended: Side::Server, .. } => Some("client_open"),
            Claim::Idle { .. } => None,
        }
    }

    fn evidence(&self, number: &mut dyn FnMut(&'static str, Value)) {
        match *self {
            Claim::HalfClosed { silent_ns, responses, .. } => {
                number("silent_seconds", Value::Ns(silent_ns));
                if let Some(responses) = responses {
                    number("response_messages", Value::Count(responses));
                }
            }
            Claim::Idle { silent_ns } => number("silent_seconds", Value::Ns(silent_ns)),
        }
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Claim::HalfClosed { ended: Side::Client, silent_ns, .. } => {
                write!(f, "waits for its server, which has sent nothing for {}", seconds(silent_ns))
            }
            Claim::HalfClosed { ended: Side::Server, silent_ns, .. } => {
                write!(f, "was answered {} ago, and its client does not end it", seconds(silent_ns))
            }
            Claim::Idle { silent_ns } => {
                let silent = seconds(silent_ns);
                write!(f, "has had no frame for {silent}, and its connection no keepalive PING")
            }
        }
    }
}

/// What was said of calls that are open.
#[derive(Debug, Default)]
pub(super) struct Lifecycle {
    told: HashMap<(ConnectionId, u32), Told, RandomState>,
    looked: Option<Timestamp>,
    /// Calls of which nothing was said, since too many are spoken of already.
    pub(super) forgotten: u64,
}

/// Calls that are spoken of at once.
const TOLD: usize = 4_096;

#[derive(Debug, Default)]
struct Told {
    lasting: Lasting,
    /// It was still so when the calls were last looked at.
    holds: bool,
}

impl Lifecycle {
    /// Looks at the calls that are open, if it is time to; `visit` shows each of them.
    pub(super) fn handle_timeout(
        &mut self,
        thresholds: &Thresholds,
        connections: &Connections,
        visit: impl FnOnce(&mut dyn FnMut(&OpenCall)),
        now: Timestamp,
        out: &mut Out,
    ) {
        // A hundredth of what is measured is exact enough; every call is looked at.
        let interval_ns = thresholds.half_closed_ns.min(thresholds.idle_ns) / 100;
        if self.looked.is_some_and(|looked| now.since(looked) < interval_ns) {
            return;
        }
        self.looked = Some(now);
        visit(&mut |call| {
            // Whether something happens is not known: nothing is said, nor that it is over.
            if call.left_out_until.is_some_and(|until| until > now) {
                if let Some(told) = self.told.get_mut(&(call.connection, call.stream)) {
                    told.holds = true;
                }
                return;
            }
            if let Some(connection) = connections.get(call.connection)
                && let Some(claim) = judge(thresholds, connection, call, now)
            {
                self.speak(connection, call, claim, now, out);
            }
        });
        self.told.retain(|_, told| {
            if !told.holds {
                told.lasting.end(now, out);
            }
            std::mem::take(&mut told.holds)
        });
    }

    fn speak(&mut self, connection: &Watched, call: &OpenCall, claim: Claim, now: Timestamp, out: &mut Out) {
        let verdict = match &call.method {
            Some(method) if WellKnown::of(method).is_some_and(WellKnown::is_long_lived) => return,
            Some(_) if !call.uncertain => Verdict::Firing,
            Some(_) | None => Verdict::Undecided,
        };
        let key = (call.connection, call.stream);
        if self.told.len() >= TOLD && !self.told.contains_key(&key) {
            self.forgotten = self.forgotten.saturating_add(1);
            return;
        }
        let told = self.told.entry(key).or_default();
        told.holds = true;
        told.lasting.handle(Some((verdict, connection.call(call), claim.into())), now, out);
    }
}

/// What can be claimed of a call by its times alone; the half-closed one is the stronger claim.
fn judge(thresholds: &Thresholds, connection: &Watched, call: &OpenCall, now: Timestamp) -> Option<Claim> {
    let half_closed = match (call.client_ended, call.server_ended) {
        (Some(ended), None) => {
            let last = call.last_from_server.max(call.left_out_until);
            Some((Side::Client, last.map_or(ended, |last| last.max(ended))))
        }
        (None, Some(ended)) => Some((Side::Server, ended)),
        (None, None) | (Some(_), Some(_)) => None,
    };
    if let Some((ended, since)) = half_closed
        && now.since(since) >= thresholds.half_closed_ns
    {
        return Some(Claim::HalfClosed {
            ended,
            silent_ns: now.since(since),
            responses: call.response.exact.then_some(call.response.count),
        });
    }
    // What was left out may have been a frame at any time until then.
    let last = call.last_from_client.max(call.last_from_server).max(call.started).max(call.left_out_until)?;
    let looked_after = connection.health.last_keepalive.map_or(last, |ping| ping.max(last));
    (now.since(looked_after) >= thresholds.idle_ns).then(|| Claim::Idle { silent_ns: now.since(last) })
}

/// Calls that are spoken of at most, and their bytes.
#[cfg(test)]
pub(super) fn most_bytes() -> (usize, usize) {
    (TOLD, super::memory::of_table::<((ConnectionId, u32), Told)>(TOLD))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::synthetic::{Scene, s};
    use super::*;
    use crate::input::Flow;
    use crate::observation::{Messages, Observation, PingAnswered, PingKind, Timeout};

    /// A call whose request began at 1 s.
    fn open(method: Option<&str>) -> OpenCall {
        OpenCall {
            connection: ConnectionId(1),
            stream: 3,
            method: method.map(Arc::from),
            timeout: Timeout::Absent,
            started: Some(s(1)),
            request: Messages::default(),
            response: Messages::default(),
            client_ended: None,
            server_ended: None,
            last_from_client: Some(s(1)),
            last_from_server: None,
            uncertain: false,
            left_out_until: None,
        }
    }

    /// What is said when the calls stand so.
    fn look(scene: &mut Scene, calls: &[OpenCall], now: Timestamp) -> Vec<String> {
        scene.look_at_calls(calls, now);
        scene.said()
    }

    const WATCH: Option<&str> = Some("/shop.Orders/Follow");

    #[test]
    fn a_server_that_is_silent_after_the_client_has_ended_is_found_until_it_speaks() {
        let mut scene = Scene::client();
        let mut call = open(WATCH);
        (call.client_ended, call.last_from_server) = (Some(s(2)), Some(s(100)));
        assert!(look(&mut scene, std::slice::from_ref(&call), s(399)).is_empty());
        let calls = std::slice::from_ref(&call);
        assert_eq!(look(&mut scene, calls, s(403)), ["firing half_closed_leak server_silent"]);
        assert!(look(&mut scene, calls, s(440)).is_empty());
        assert_eq!(look(&mut scene, calls, s(470)), ["firing half_closed_leak server_silent"]);
        call.last_from_server = Some(s(475));
        assert_eq!(look(&mut scene, &[call], s(480)), ["quiet half_closed_leak server_silent"]);
    }

    #[test]
    fn a_client_that_does_not_end_after_the_server_has_is_found_and_quiet_when_the_call_is_gone() {
        let mut scene = Scene::server();
        let mut call = open(WATCH);
        call.server_ended = Some(s(10));
        assert_eq!(look(&mut scene, &[call], s(310)), ["firing half_closed_leak client_open"]);
        assert_eq!(look(&mut scene, &[], s(320)), ["quiet half_closed_leak client_open"]);
        assert!(look(&mut scene, &[], s(330)).is_empty());
    }

    #[test]
    fn a_stream_on_which_nothing_happens_is_found_unless_somebody_looks_after_its_connection() {
        let call = [open(WATCH)];
        let mut scene = Scene::client();
        assert!(look(&mut scene, &call, s(600)).is_empty());
        assert_eq!(look(&mut scene, &call, s(604)), ["firing idle_stream"]);

        let ping = |kind| {
            Observation::PingAnswered(PingAnswered {
                connection: ConnectionId(1),
                flow: Flow::Sent,
                kind,
                round_trip_ns: 1,
                time: s(300),
            })
        };
        let mut scene = Scene::client();
        scene.observe(&ping(PingKind::Other));
        assert!(look(&mut scene, &call, s(604)).is_empty());
        let mut scene = Scene::client();
        scene.observe(&ping(PingKind::Bandwidth));
        assert_eq!(look(&mut scene, &call, s(604)), ["firing idle_stream"]);
    }

    #[test]
    fn long_lived_streams_of_the_infrastructure_may_be_silent() {
        let mut call = open(Some("/grpc.health.v1.Health/Watch"));
        call.client_ended = Some(s(1));
        assert!(look(&mut Scene::client(), &[call], s(900)).is_empty());
    }

    #[test]
    fn after_a_late_join_the_method_may_be_one_that_is_meant_to_be_silent() {
        let mut call = open(None);
        call.client_ended = Some(s(1));
        let mut scene = Scene::client();
        assert_eq!(look(&mut scene, &[call.clone()], s(400)), ["undecided half_closed_leak server_silent"]);
        assert!(look(&mut scene, &[call], s(450)).is_empty(), "once is enough for a while");
    }

    #[test]
    fn while_data_is_left_out_a_call_is_not_said_to_be_silent_nor_to_be_so_no_more() {
        let mut scene = Scene::client();
        let mut call = open(WATCH);
        (call.client_ended, call.last_from_server) = (Some(s(2)), Some(s(100)));
        let mut look_at = |call: &OpenCall, now| look(&mut scene, std::slice::from_ref(call), now);
        call.left_out_until = Some(Timestamp(u64::MAX));
        assert!(look_at(&call, s(1_000)).is_empty());
        call.left_out_until = Some(s(1_000));
        assert!(look_at(&call, s(1_299)).is_empty());
        assert_eq!(look_at(&call, s(1_303)), ["firing half_closed_leak server_silent"]);
        call.left_out_until = Some(Timestamp(u64::MAX));
        assert!(look_at(&call, s(1_310)).is_empty());
    }

    #[test]
    fn a_call_of_which_bytes_were_lost_may_have_ended() {
        let mut call = open(WATCH);
        (call.client_ended, call.uncertain) = (Some(s(1)), true);
        let mut scene = Scene::client();
        assert_eq!(look(&mut scene, &[call], s(400)), ["undecided half_closed_leak server_silent"]);
        assert!(look(&mut scene, &[], s(410)).is_empty(), "what never fired does not end");
    }

    #[test]
    fn what_is_spoken_of_is_bounded_and_the_rest_is_counted() {
        let mut scene = Scene::client();
        let calls: Vec<OpenCall> = (0..TOLD as u32 + 5)
            .map(|at| OpenCall { stream: 2 * at + 1, client_ended: Some(s(1)), ..open(WATCH) })
            .collect();
        assert_eq!(look(&mut scene, &calls, s(400)).len(), TOLD);
        assert_eq!(scene.detectors.forgotten(), 5);
    }
}
