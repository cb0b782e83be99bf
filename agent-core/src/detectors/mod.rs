//! Findings: what breaks gRPC systems, seen in what the core observes.
//!
//! In: [`Observation`]s in the order in which the core says them, whose connections they are ([`Party`]), how open calls stand
//! now and then, and the time. Out: [`Finding`]s, each a claim with its evidence. A detector is one file: what it claims,
//! what it needs to see, when it is silent, and its thresholds. `docs/findings.md` says the same for people.
//!
//! Detectors keep what they remember of a connection in [`Watched`], so that an observation costs one look-up for all of
//! them, and what they remember of processes, destinations and methods in tables of their own with a bound each.

pub mod correlation;
pub mod deadlines;
mod finding;
mod party;

use std::collections::{HashMap, VecDeque};

use foldhash::quality::RandomState;

use crate::input::{ConnectionId, Timestamp};
use crate::observation::{Call, CallStarted, Observation, Side, Sync};
use crate::observer::Observer;

pub use finding::{About, Claims, Finding, Level, Name, Value, Verdict};
pub use party::{End, Owner, Party, ProcessId};

/// What detectors claim; each has its own claims.
#[derive(Clone, Debug, PartialEq)]
pub enum Claim {
    /// Of a call's deadline.
    Deadline(deadlines::Claim),
}

impl Claim {
    /// What it says of itself.
    #[must_use]
    pub fn claims(&self) -> &dyn Claims {
        match self {
            Claim::Deadline(claim) => claim,
        }
    }
}

impl From<deadlines::Claim> for Claim {
    fn from(claim: deadlines::Claim) -> Self {
        Claim::Deadline(claim)
    }
}

/// When each detector speaks.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Thresholds {
    /// Deadlines of single calls.
    pub deadlines: deadlines::Thresholds,
}

/// How often detectors look at what lasts.
const TICK_NS: u64 = 1_000_000_000;

/// All detectors.
///
/// Announce a connection with [`Detectors::handle_connection`] before its first observation; hand on every observation; call
/// [`Detectors::handle_timeout`] when [`Detectors::poll_timeout`] says so. After each, drain [`Detectors::poll_finding`].
#[derive(Debug)]
pub struct Detectors {
    thresholds: Thresholds,
    connections: HashMap<ConnectionId, Watched, RandomState>,
    out: Out,
    /// When to look next; `None` before the first observation.
    tick: Option<Timestamp>,
}

/// What detectors know of a connection.
#[derive(Debug)]
pub(crate) struct Watched {
    connection: ConnectionId,
    party: Party,
    side: Option<Side>,
    sync: Sync,
}

impl Watched {
    fn new(connection: ConnectionId, party: Party) -> Watched {
        Watched { connection, party, side: None, sync: Sync::Synced }
    }

    /// A call of this connection, as what a finding is about.
    fn call(&self, call: &impl OfCall) -> About {
        About {
            owner: self.party.owner.clone(),
            connection: Some(self.connection),
            stream: Some(call.stream()),
            side: self.side,
            method: call.method().cloned(),
            peer: None,
        }
    }
}

/// A call, whatever is known of it.
trait OfCall {
    fn stream(&self) -> u32;
    fn method(&self) -> Option<&std::sync::Arc<str>>;
}

impl OfCall for CallStarted {
    fn stream(&self) -> u32 {
        self.stream
    }

    fn method(&self) -> Option<&std::sync::Arc<str>> {
        self.method.as_ref()
    }
}

impl OfCall for Call {
    fn stream(&self) -> u32 {
        self.stream
    }

    fn method(&self) -> Option<&std::sync::Arc<str>> {
        self.method.as_ref()
    }
}

/// Where detectors put what they find.
#[derive(Debug, Default)]
pub(crate) struct Out {
    findings: VecDeque<Finding>,
}

impl Out {
    /// It holds.
    fn fire(&mut self, about: About, time: Timestamp, claim: impl Into<Claim>) {
        self.push(Verdict::Firing, about, time, claim.into());
    }

    /// Whether it holds cannot be told; the claim has the numbers that are known.
    fn leave_undecided(&mut self, about: About, time: Timestamp, claim: impl Into<Claim>) {
        self.push(Verdict::Undecided, about, time, claim.into());
    }

    fn push(&mut self, verdict: Verdict, about: About, time: Timestamp, claim: Claim) {
        self.findings.push_back(Finding { claim, verdict, about, time });
    }
}

impl Detectors {
    /// Detectors that have seen nothing yet.
    #[must_use]
    pub fn new(thresholds: Thresholds) -> Detectors {
        Detectors { thresholds, connections: HashMap::default(), out: Out::default(), tick: None }
    }

    /// A connection whose observations will follow.
    pub fn handle_connection(&mut self, connection: ConnectionId, party: Party) {
        self.connections.insert(connection, Watched::new(connection, party));
    }

    /// A connection of which nothing was observed has ended.
    pub fn forget(&mut self, connection: ConnectionId) {
        self.connections.remove(&connection);
    }

    /// Takes an observation. Those of connections that were not announced are ignored.
    pub fn handle_observation(&mut self, observation: &Observation) {
        let Some(connection) = self.connections.get_mut(&observation.connection()) else { return };
        let (thresholds, out) = (&self.thresholds, &mut self.out);
        match observation {
            Observation::Connection(status) => {
                connection.side = status.client_flow.map(Side::of).or(connection.side);
                connection.sync = status.sync;
                self.tick.get_or_insert(status.time.plus(TICK_NS));
            }
            Observation::CallStarted(call) => deadlines::handle_call_started(connection, call, out),
            Observation::CallEnded(call) => {
                deadlines::handle_call_ended(&thresholds.deadlines, connection, call, out);
            }
            Observation::ConnectionEnded(summary) => {
                self.connections.remove(&summary.connection);
            }
            Observation::ExchangeEnded(_)
            | Observation::Frame(_)
            | Observation::Anomaly(_)
            | Observation::Goaway(_)
            | Observation::PingAnswered(_)
            | Observation::PingUnanswered(_)
            | Observation::RequestEnded(_)
            | Observation::LateWork(_)
            | Observation::Authority(_)
            | Observation::Intermediary(_)
            | Observation::Stalled(_)
            | Observation::AtStreamLimit(_) => {}
        }
    }

    /// Looks at what lasts, if that is due. `observer` is the one whose observations are handed on: it is asked how its open
    /// calls stand.
    pub fn handle_timeout(&mut self, _observer: &Observer, now: Timestamp) {
        if self.tick.is_some_and(|tick| tick <= now) {
            self.tick = Some(now.plus(TICK_NS));
        }
    }

    /// When [`Detectors::handle_timeout`] wants to be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        self.tick
    }

    /// The next finding, oldest first.
    pub fn poll_finding(&mut self) -> Option<Finding> {
        self.out.findings.pop_front()
    }
}
