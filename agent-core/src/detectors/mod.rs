//! Findings: what breaks gRPC systems, seen in what the core observes.
//!
//! In: [`Observation`]s in the order in which the core says them, whose connections they are ([`Party`]), how open calls stand
//! now and then, and the time. Out: [`Finding`]s, each a claim with its evidence. A detector is one file: what it claims,
//! what it needs to see, when it is silent, and its thresholds. `docs/findings.md` says the same for people.
//!
//! Detectors keep what they remember of a connection in [`Watched`], so that an observation costs one look-up for all of
//! them, and what they remember of processes, destinations and methods in tables of their own with a bound each.

mod party;
mod finding;
mod lasting;
mod watched;
mod balance;
pub mod pinned;
pub mod starved;
pub mod reconnects;
pub mod deadlines;
pub mod correlation;
mod hops;
pub mod propagation;
pub mod fixed;
pub mod uncancelled;
mod wasted;
pub mod amplification;
pub mod flow_control;
pub mod stream_limit;
pub mod connection_health;
pub mod retries;
pub mod retry_storm;
pub mod lifecycle;
pub mod abrupt_end;
pub mod errors;
#[cfg(test)]
mod hops_scene;
#[cfg(test)]
mod memory;
#[cfg(test)]
mod synthetic;

use std::collections::VecDeque;
use std::sync::Arc;

use crate::input::{ConnectionId, Timestamp};
use crate::observation::{Call, CallStarted, EndedBy, Observation, OpenCall, Outcome, Side, Sync};
use crate::observer::Observer;

pub use balance::{Balanced, Facts, Served, Spread};
pub use finding::{About, Claims, Finding, Level, Name, Value, Verdict};
pub use party::{End, Owner, Party, ProcessId};
pub use wasted::{Wasted, Work};
pub(crate) use watched::{Connections, Watched};

macro_rules! claims {
    ($($(#[$doc:meta])* $variant:ident($detector:ident),)*) => {
        /// What detectors claim; each has its own claims.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Claim {
            $($(#[$doc])* $variant($detector::Claim),)*
        }

        impl Claim {
            /// What it says of itself.
            #[must_use]
            pub fn claims(&self) -> &dyn Claims {
                match self {
                    $(Claim::$variant(claim) => claim,)*
                }
            }
        }

        $(impl From<$detector::Claim> for Claim {
            fn from(claim: $detector::Claim) -> Self {
                Claim::$variant(claim)
            }
        })*
    };
}

claims! {
    /// Of a call's deadline.
    Deadline(deadlines),
    /// Of a client whose calls go over one connection.
    Pinned(pinned),
    /// Of a backend that gets no calls.
    Starved(starved),
    /// Of a client that connects again and again.
    Reconnects(reconnects),
    /// Of a client that has as many streams open as it may.
    StreamLimit(stream_limit),
    /// Of a connection's end, and of whether anybody is at its other end.
    ConnectionHealth(connection_health),
    /// Of calls that were tried again.
    Retry(retries),
    /// Of a method that is tried again and again.
    RetryStorm(retry_storm),
    /// Of calls that stay.
    Lifecycle(lifecycle),
    /// Of calls whose connection was lost.
    AbruptEnd(abrupt_end),
    /// Of the status of a call.
    Error(errors),
    /// Of a sender that has to wait.
    FlowControl(flow_control),
    /// Of the deadline of a call that belongs to another.
    Propagation(propagation),
    /// Of timeouts that are always the same.
    Fixed(fixed),
    /// Of work that nobody waits for.
    Uncancelled(uncancelled),
    /// Of attempts that meet earlier ones.
    Amplification(amplification),
}

/// When each detector speaks.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Thresholds {
    /// Deadlines of single calls.
    pub deadlines: deadlines::Thresholds,
    /// Calls on one connection.
    pub pinned: pinned::Thresholds,
    /// Backends without calls.
    pub starved: starved::Thresholds,
    /// Connections that are made again and again.
    pub reconnects: reconnects::Thresholds,
    /// Clients at their stream limit.
    pub stream_limit: stream_limit::Thresholds,
    /// GOAWAY and PING.
    pub connection_health: connection_health::Thresholds,
    /// Attempts after those that failed.
    pub retries: retries::Thresholds,
    /// Methods that are tried again and again.
    pub retry_storm: retry_storm::Thresholds,
    /// Calls that stay.
    pub lifecycle: lifecycle::Thresholds,
    /// Calls whose connection was lost.
    pub abrupt_end: abrupt_end::Thresholds,
    /// Stalls of flow control.
    pub flow_control: flow_control::Thresholds,
    /// Which outbound call belongs to which inbound call.
    pub correlation: correlation::Thresholds,
    /// Deadlines across a hop.
    pub propagation: propagation::Thresholds,
    /// Timeouts that are always the same.
    pub fixed: fixed::Thresholds,
    /// Work that nobody waits for.
    pub uncancelled: uncancelled::Thresholds,
}

/// How often detectors look at what lasts.
const TICK_NS: u64 = 1_000_000_000;

/// All detectors.
///
/// Announce a connection with [`Detectors::handle_connection`] before its first observation; hand on every observation; call
/// [`Detectors::handle_timeout`] when [`Detectors::poll_timeout`] says so. After each, drain [`Detectors::poll_finding`] and
/// [`Detectors::poll_wasted`].
#[derive(Debug)]
pub struct Detectors {
    thresholds: Thresholds,
    balance: balance::Balance,
    reconnects: reconnects::Reconnects,
    connections: Connections,
    notices: connection_health::Notices,
    retries: retries::Retries,
    retry_storms: retry_storm::RetryStorms,
    lifecycle: lifecycle::Lifecycle,
    abrupt_ends: abrupt_end::AbruptEnds,
    hops: hops::Hops,
    out: Out,
    /// When to look next; `None` before the first observation.
    tick: Option<Timestamp>,
}

/// A call, whatever is known of it.
trait OfCall {
    fn stream(&self) -> u32;
    fn method(&self) -> Option<&Arc<str>>;
}

impl OfCall for CallStarted {
    fn stream(&self) -> u32 {
        self.stream
    }

    fn method(&self) -> Option<&Arc<str>> {
        self.method.as_ref()
    }
}

impl OfCall for OpenCall {
    fn stream(&self) -> u32 {
        self.stream
    }

    fn method(&self) -> Option<&Arc<str>> {
        self.method.as_ref()
    }
}

impl OfCall for Call {
    fn stream(&self) -> u32 {
        self.stream
    }

    fn method(&self) -> Option<&Arc<str>> {
        self.method.as_ref()
    }
}

/// Where detectors put what they find.
#[derive(Debug, Default)]
pub(crate) struct Out {
    findings: VecDeque<Finding>,
    wasted: VecDeque<Wasted>,
}

impl Out {
    /// It was done for nobody.
    fn waste(&mut self, wasted: Wasted) {
        self.wasted.push_back(wasted);
    }

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
        Detectors {
            thresholds,
            balance: balance::Balance::default(),
            reconnects: reconnects::Reconnects::default(),
            connections: Connections::default(),
            notices: connection_health::Notices::default(),
            retries: retries::Retries::default(),
            retry_storms: retry_storm::RetryStorms::default(),
            lifecycle: lifecycle::Lifecycle::default(),
            abrupt_ends: abrupt_end::AbruptEnds::default(),
            hops: hops::Hops::default(),
            out: Out::default(),
            tick: None,
        }
    }

    /// A connection whose observations will follow.
    pub fn handle_connection(&mut self, connection: ConnectionId, party: Party) {
        let mut watched = Watched::new(connection, party);
        self.hops.enter(&mut watched);
        if let Some(mut before) = self.connections.insert(watched) {
            self.hops.leave(&mut before);
        }
    }

    /// A connection of which nothing was observed has ended.
    pub fn forget(&mut self, connection: ConnectionId) {
        if let Some(mut connection) = self.connections.remove(connection) {
            self.hops.leave(&mut connection);
        }
    }

    /// Takes an observation. Those of connections that were not announced are ignored.
    pub fn handle_observation(&mut self, observation: &Observation) {
        let Some(connection) = self.connections.get_mut(observation.connection()) else { return };
        let (thresholds, out) = (&self.thresholds, &mut self.out);
        match observation {
            Observation::Connection(status) => {
                connection.side = status.client_flow.map(Side::of).or(connection.side);
                connection.sync = status.sync;
                connection.load.handle_status(status);
                if status.sync != Sync::Synced {
                    self.retries.handle_loss(connection, status.time);
                }
                self.hops.handle_status(thresholds, connection, status);
                self.tick.get_or_insert(status.time.plus(TICK_NS));
            }
            Observation::CallStarted(call) => {
                // A connection's first chunk may hold its first request, and its status is said at the chunk's end.
                connection.side.get_or_insert(Side::of(call.client_flow));
                deadlines::handle_call_started(connection, call, out);
                connection.load.handle_call_started(call);
                self.retry_storms.handle_call_started(connection, call);
                self.abrupt_ends.handle_call_started(connection, call, out);
                self.hops.handle_call_started(thresholds, connection, call, out);
            }
            Observation::CallEnded(call) => {
                // Something was answered on it, if the server has ended the call, or may have.
                connection.answered |=
                    call.ended_by == Some(EndedBy::Server) || call.outcome == Outcome::Unknown;
                deadlines::handle_call_ended(&thresholds.deadlines, connection, call, out);
                stream_limit::handle_call_ended(connection, call, out);
                self.retries.handle_call_ended(connection, call);
                self.abrupt_ends.handle_call_ended(&thresholds.abrupt_end, connection, call, out);
                errors::handle_call_ended(connection, call, out);
                self.hops.handle_call_ended(thresholds, connection, call, out);
            }
            Observation::Goaway(goaway) => {
                connection.load.handle_goaway(goaway, connection.side);
                let (thresholds, notices) = (&thresholds.connection_health, &mut self.notices);
                connection_health::handle_goaway(thresholds, notices, connection, goaway, out);
            }
            Observation::PingAnswered(ping) => {
                connection_health::handle_ping(connection, ping.kind, ping.time);
            }
            Observation::PingUnanswered(ping) => {
                let thresholds = &thresholds.connection_health;
                connection_health::handle_ping_unanswered(thresholds, connection, ping, out);
            }
            Observation::AtStreamLimit(limit) => {
                let (thresholds, now) = (&thresholds.stream_limit, limit.until.unwrap_or(limit.from));
                stream_limit::handle_at_limit(thresholds, connection, limit, now, out);
            }
            Observation::Stalled(stall) => {
                flow_control::handle_stalled(&thresholds.flow_control, connection, stall, out);
            }
            Observation::ConnectionEnded(summary) => {
                self.balance.handle_ended(connection, summary);
                self.reconnects.handle_ended(&thresholds.reconnects, connection, summary);
                self.hops.leave(connection);
                self.retry_storms.handle_connection_ended(
                    &thresholds.retry_storm,
                    connection,
                    summary.closed,
                );
                let thresholds = &thresholds.connection_health;
                connection_health::handle_connection_ended(thresholds, connection, summary.closed, out);
                self.connections.remove(summary.connection);
            }
            Observation::RequestEnded(ended) => self.hops.handle_request_ended(connection, ended),
            Observation::LateWork(work) => self.hops.handle_late_work(thresholds, connection, work, out),
            Observation::ExchangeEnded(_) => connection.answered = true,
            Observation::Authority(authority) => connection.load.handle_authority(&authority.authority),
            Observation::Intermediary(_) => connection.load.handle_intermediary(),
            Observation::Frame(_) | Observation::Anomaly(_) => {}
        }
    }

    /// Looks at what lasts, if that is due. `observer` is the one whose observations are handed on: it is asked how its open
    /// calls stand.
    pub fn handle_timeout(&mut self, observer: &Observer, now: Timestamp) {
        self.handle_timeout_together(observer, now, &mut |facts| vec![Arc::new(facts)]);
    }

    /// Those of a node whose processes are spread over several detectors have begun to look: at the first connection of any of
    /// them, so that all look at the same moments.
    pub fn begin(&mut self, now: Timestamp) {
        self.tick.get_or_insert(now.plus(TICK_NS));
    }

    /// The same as [`Detectors::handle_timeout`], where the processes of the node are spread over several detectors: `exchange`
    /// is called where what others see has to be known, with what these see, and has that of all, these among them. All of them
    /// have to be given the same times.
    pub fn handle_timeout_together(
        &mut self,
        observer: &Observer,
        now: Timestamp,
        exchange: &mut dyn FnMut(Facts) -> Vec<Arc<Facts>>,
    ) {
        if self.tick.is_some_and(|tick| tick <= now) {
            self.tick = Some(now.plus(TICK_NS));
            let (thresholds, connections, out) = (&self.thresholds, &mut self.connections, &mut self.out);
            self.balance.handle_tick(connections.values_mut(), thresholds, (now, exchange), out);
            self.reconnects.handle_tick(&thresholds.reconnects, now, out);
            self.hops.handle_tick(thresholds, connections, observer, now, out);
            let health = &thresholds.connection_health;
            connection_health::handle_timeout(health, &mut self.notices, connections, now, out);
            self.retries.handle_timeout(&thresholds.retries, now, out);
            self.retry_storms.handle_timeout(&thresholds.retry_storm, connections, now, out);
            let visit = |judge: &mut dyn FnMut(&OpenCall)| observer.visit_open_calls(judge);
            self.lifecycle.handle_timeout(&thresholds.lifecycle, connections, visit, now, out);
            self.abrupt_ends.handle_timeout(&thresholds.abrupt_end, now, out);
            observer.visit_stream_limits(|limit| {
                if let Some(connection) = connections.get_mut(limit.connection) {
                    stream_limit::handle_at_limit(&thresholds.stream_limit, connection, &limit, now, out);
                }
            });
            observer.visit_open_stalls(|stall| {
                if let Some(connection) = self.connections.get_mut(stall.connection) {
                    let thresholds = &self.thresholds.flow_control;
                    flow_control::handle_open_stall(thresholds, connection, &stall, now, &mut self.out);
                }
            });
        }
    }

    /// Nothing more will be observed: what waited to be told is told.
    pub fn finish(&mut self) {
        self.retries.finish(&self.thresholds.retries, &mut self.out);
        self.abrupt_ends.finish(&mut self.out);
    }

    /// Calls, attempts and methods that were not judged, since a table was full.
    #[must_use]
    pub fn forgotten(&self) -> u64 {
        let (retries, storms) = (self.retries.forgotten, self.retry_storms.forgotten);
        let counts = [retries, storms, self.lifecycle.forgotten, self.hops.forgotten()];
        counts.into_iter().fold(0, u64::saturating_add)
    }

    /// When [`Detectors::handle_timeout`] wants to be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        self.tick
    }

    /// How the calls of each client process to each destination were spread over its connections, as of the last look.
    #[must_use]
    pub fn spreads(&self) -> &[Spread] {
        self.balance.spreads()
    }

    /// What each server process got, as of the last look.
    #[must_use]
    pub fn served(&self) -> &[Served] {
        self.balance.served()
    }

    /// Times that a group of connections was not judged, since there are too many.
    #[must_use]
    pub fn groups_refused(&self) -> u64 {
        self.balance.refused() + self.reconnects.refused()
    }

    /// What was found out about the origin of an outbound call by the last observation, if that was its start: at most one.
    pub fn take_correlated(&mut self) -> Option<correlation::Correlated> {
        self.hops.take_correlated()
    }

    /// The next amount of work that nobody waited for, oldest first.
    pub fn poll_wasted(&mut self) -> Option<Wasted> {
        self.out.wasted.pop_front()
    }

    /// The next finding, oldest first.
    pub fn poll_finding(&mut self) -> Option<Finding> {
        self.out.findings.pop_front()
    }
}
