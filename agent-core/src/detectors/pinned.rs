//! Pinned connections: a client process sends nearly all its calls to a destination over one connection that has been open
//! for long, although the destination has more backends. Load is balanced when connections are made, and not for each call.
//!
//! Judged for each client process and destination (`:authority`) over a window, by the calls that began in it: a long stream
//! counts once, when it starts, however many messages it carries, so what streams put on a connection is more than is
//! claimed. Calls of well-known services (checklist X2) do not count.
//!
//! Firing: one connection carries nearly all, and open connections of this or other clients on the node show at least two
//! backends. Undecided, as `suspected`: a single old connection, and no other backend to be seen from this node; nearly every
//! client of a service with one backend looks like this, so it is no alarm. Undecided also where bytes were missed, or calls of
//! the process go to a destination that is not known and may be the same.
//! Silent: behind a proxy that shows itself, or is seen to hand on; connections that are ending; recordings, which have no
//! processes.

use std::fmt;

use super::About;
use super::balance::{Group, shown};
use super::finding::{Claims, Name, Value, Verdict, seconds};
use crate::input::Timestamp;
use crate::observation::Side;

/// When to speak.
#[derive(Clone, Debug, PartialEq)]
pub struct Thresholds {
    /// How far back calls are counted; also how long a connection must have been open. At least 12 s: detectors look once a
    /// second, and the window moves on by a twelfth.
    pub window_ns: u64,
    /// Fewer calls in a window say nothing about how they are spread.
    pub calls_min: u64,
    /// The share of the calls that makes a connection the only one that matters. With two backends half is right.
    pub share_min: f64,
    /// A single connection is suspected when it is older: long enough for a scale-up to have passed it by.
    pub suspected_age_ns: u64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Thresholds {
            window_ns: 60_000_000_000,
            calls_min: 100,
            share_min: 0.8,
            suspected_age_ns: 300_000_000_000,
        }
    }
}

/// Why the calls are where they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// All connections of the client lead to one address: it was resolved to one, or it is virtual.
    SingleAddress,
    /// The client has connections to several, and uses one.
    Uneven,
    /// There is one connection, and nobody on this node shows that there are more backends.
    Suspected,
}

/// How the client seems to balance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// Not at all.
    None,
    /// It has connections to several addresses of the destination.
    ClientSide,
    /// It asks a balancer (`grpc.lb.v1.LoadBalancer`).
    Lookaside,
    /// It listens to a control plane (`envoy.service.discovery.v3.AggregatedDiscoveryService`).
    Xds,
    /// Not at all, or by a stream that began before it could be seen.
    Unknown,
}

impl Strategy {
    /// `none`, `client_side`, `lookaside`, `xds`, `unknown`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Strategy::None => "none",
            Strategy::ClientSide => "client_side",
            Strategy::Lookaside => "lookaside",
            Strategy::Xds => "xds",
            Strategy::Unknown => "unknown",
        }
    }
}

/// What is claimed of a client and a destination.
#[derive(Clone, Debug, PartialEq)]
pub struct Claim {
    /// Why.
    pub cause: Cause,
    /// How the client seems to balance.
    pub strategy: Strategy,
    /// Length of the window.
    pub window_ns: u64,
    /// Calls that began in it.
    pub calls: u64,
    /// Those on the busiest connection.
    pub busiest_calls: u64,
    /// Open connections of the client to the destination.
    pub connections: u32,
    /// Backends that are known.
    pub backends: u32,
    /// For how long the busiest connection has been seen.
    pub age_ns: u64,
    /// Connections of the client to the destination that the server has ended gracefully, since they are watched: none
    /// means that nothing ever makes the client connect anew.
    pub recycled: u64,
}

impl Claim {
    fn share(&self) -> f64 {
        self.busiest_calls as f64 / self.calls.max(1) as f64
    }
}

impl Claims for Claim {
    fn name(&self) -> Name {
        Name::PinnedConnection
    }

    fn cause(&self) -> Option<&'static str> {
        Some(match self.cause {
            Cause::SingleAddress => "single_address",
            Cause::Uneven => "uneven",
            Cause::Suspected => "suspected",
        })
    }

    fn evidence(&self, number: &mut dyn FnMut(&'static str, Value)) {
        number("window_seconds", Value::Ns(self.window_ns));
        number("calls", Value::Count(self.calls));
        number("busiest_connection_ratio", Value::Ratio(self.share()));
        number("connections", Value::Count(u64::from(self.connections)));
        number("backends", Value::Count(u64::from(self.backends)));
        number("connection_age_seconds", Value::Ns(self.age_ns));
        number("recycled_connections", Value::Count(self.recycled));
        number("strategy", Value::Word(self.strategy.as_str()));
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = (100.0 * self.share()).floor();
        let (window, age) = (seconds(self.window_ns), seconds(self.age_ns));
        write!(f, "sent {percent} % of {} calls in {window} over one connection, {age} old", self.calls)?;
        match self.cause {
            Cause::SingleAddress => {
                write!(f, ", and has none to another of at least {} backends", self.backends)
            }
            Cause::Uneven => write!(f, ", though {} backends are known", self.backends),
            Cause::Suspected => f.write_str(", its only one: a backend that is added gets nothing"),
        }
    }
}

/// Judges the calls of a client to a destination.
pub(super) fn judge(
    thresholds: &Thresholds,
    window_ns: u64,
    group: &Group<'_>,
    now: Timestamp,
) -> Option<(Verdict, About, super::Claim)> {
    let busiest = group.busiest()?;
    let age_ns = busiest.age_ns(now);
    let calls = group.calls();
    let is_nearly_all = |calls: u64| busiest.calls as f64 >= thresholds.share_min * calls as f64;
    if calls < thresholds.calls_min || !is_nearly_all(calls) || busiest.is_draining() || age_ns < window_ns {
        return None;
    }
    let others = group.members().filter(|member| member.peer() != busiest.peer() && !member.is_draining());
    let other_age_ns = others.map(|member| member.age_ns(now)).max();
    let is_alone = group.members.len() == 1;
    let (cause, verdict) = match (group.backends, other_age_ns) {
        (0 | 1, _) if group.destination.is_none() && is_alone => (Cause::Suspected, Verdict::Undecided),
        (0 | 1, _) if is_alone && age_ns >= thresholds.suspected_age_ns => {
            (Cause::Suspected, Verdict::Undecided)
        }
        (0 | 1, _) => return None,
        (2.., None) => (Cause::SingleAddress, Verdict::Firing),
        // It has just connected to others: the window is about the time before.
        (2.., Some(age_ns)) if age_ns < window_ns => return None,
        (2.., Some(_)) => (Cause::Uneven, Verdict::Firing),
    };
    let is_certain = group.destination.is_some()
        && is_nearly_all(calls + group.stray_calls)
        && !group.members().any(|member| member.is_doubtful());
    let verdict = if is_certain { verdict } else { Verdict::Undecided };
    let claim = Claim {
        cause,
        strategy: group.strategy,
        window_ns,
        calls,
        busiest_calls: busiest.calls,
        connections: group.members.len().try_into().unwrap_or(u32::MAX),
        backends: group.backends,
        age_ns,
        recycled: group.recycled,
    };
    let about = About {
        owner: Some(group.owner.clone()),
        connection: Some(busiest.watched.connection),
        side: Some(Side::Client),
        peer: group.destination.and_then(shown),
        ..About::default()
    };
    Some((verdict, about, claim.into()))
}
