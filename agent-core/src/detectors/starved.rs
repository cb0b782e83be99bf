//! Starved backends: a server has had no call for a window, while its siblings had many. After a scale-up this is what pinned
//! clients do to the new one.
//!
//! What one node can say for certain is said of its own servers: a server process has open connections, by a name
//! (`:authority`) that clients use for its siblings too (other processes of the same workload on this node), and no call began on
//! any of them. It covers a backend that somebody connects to, be it for a health check by that name; one that nobody
//! connects to cannot be told from one that does not exist. Over the nodes of a cluster see `deploy/prometheus`.
//!
//! Undecided, as `other_clients_unseen`: a client on this node has connections without calls to some addresses of a
//! destination that it calls at others. Whether those backends get calls from elsewhere is not known.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::About;
use super::balance::{Facts, Group, ServedBy, Server, shown};
use super::finding::{Claims, Name, Value, Verdict, seconds};
use crate::input::Timestamp;
use crate::observation::Side;

/// When to speak. The window is that of [`pinned`](super::pinned::Thresholds).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Siblings with fewer calls in the window do not show that there was anything to get.
    pub sibling_calls_min: u64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Thresholds { sibling_calls_min: 100 }
    }
}

/// Who says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The server: it has connections, and no calls.
    UnusedConnections,
    /// A client: it has connections that it does not use. The server may get calls from elsewhere.
    OtherClientsUnseen,
}

/// What is claimed of a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Who says so.
    pub cause: Cause,
    /// Length of the window.
    pub window_ns: u64,
    /// Siblings: other servers, or the other addresses that the client uses.
    pub siblings: u32,
    /// Calls that began on them in the window.
    pub sibling_calls: u64,
    /// Open connections without a call.
    pub connections: u32,
    /// Age of the oldest of these.
    pub age_ns: u64,
    /// Age of the oldest connection on which the siblings get their calls: older than the backend means that its client
    /// has not connected anew since.
    pub sibling_age_ns: u64,
}

impl Claims for Claim {
    fn name(&self) -> Name {
        Name::StarvedBackend
    }

    fn cause(&self) -> Option<&'static str> {
        Some(match self.cause {
            Cause::UnusedConnections => "unused_connections",
            Cause::OtherClientsUnseen => "other_clients_unseen",
        })
    }

    fn evidence(&self, number: &mut dyn FnMut(&'static str, Value)) {
        number("window_seconds", Value::Ns(self.window_ns));
        number("siblings", Value::Count(u64::from(self.siblings)));
        number("sibling_calls", Value::Count(self.sibling_calls));
        number("connections", Value::Count(u64::from(self.connections)));
        number("connection_age_seconds", Value::Ns(self.age_ns));
        number("sibling_connection_age_seconds", Value::Ns(self.sibling_age_ns));
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (window, age) = (seconds(self.window_ns), seconds(self.sibling_age_ns));
        let (calls, siblings) = (self.sibling_calls, self.siblings);
        match self.cause {
            Cause::UnusedConnections => write!(
                f,
                "had no call for {window}, while {siblings} other(s) of its kind had {calls}, on connections up to {age} old"
            ),
            Cause::OtherClientsUnseen => write!(
                f,
                "sent no call for {window} over {} of its connections, and {calls} to {siblings} other address(es) of the \
                 same destination",
                self.connections
            ),
        }
    }
}

/// What servers got by the names that they share with their siblings.
pub(super) struct Siblings<'a>(BTreeMap<Kind<'a>, Vec<&'a ServedBy>>);

/// Workload and destination.
type Kind<'a> = (&'a str, &'a str);

impl<'a> Siblings<'a> {
    pub(super) fn new(all: &'a [Arc<Facts>]) -> Siblings<'a> {
        let mut siblings: BTreeMap<Kind<'a>, Vec<&'a ServedBy>> = BTreeMap::new();
        for served in all.iter().flat_map(|facts| &facts.served) {
            let key = (served.workload.as_ref(), served.destination.as_ref());
            siblings.entry(key).or_default().push(served);
        }
        Siblings(siblings)
    }
}

/// Judges a server that had no call for a window.
pub(super) fn judge_server(
    thresholds: &Thresholds,
    window_ns: u64,
    server: &Server<'_>,
    siblings: &Siblings<'_>,
    now: Timestamp,
) -> Option<(Verdict, About, super::Claim)> {
    // A server that is going away is not meant to get any.
    if server.members().any(|member| member.is_draining()) {
        return None;
    }
    let mut best: Option<(Claim, &Arc<str>)> = None;
    for name in server.destinations() {
        let Some(sharing) = siblings.0.get(&(server.owner.workload.as_ref(), name)) else { continue };
        let is_other = |sibling: &&&ServedBy| sibling.process != server.owner.process;
        let (mut count, mut calls, mut sibling_age_ns) = (0, 0, 0);
        for sibling in sharing.iter().filter(is_other).filter(|sibling| sibling.calls > 0) {
            count += 1;
            calls += sibling.calls;
            sibling_age_ns = sibling.used_age_ns.max(sibling_age_ns);
        }
        if calls < thresholds.sibling_calls_min
            || best.as_ref().is_some_and(|(best, _)| best.sibling_calls >= calls)
        {
            continue;
        }
        let claim = Claim {
            cause: Cause::UnusedConnections,
            window_ns,
            siblings: count,
            sibling_calls: calls,
            connections: server.members.len().try_into().unwrap_or(u32::MAX),
            age_ns: server.members().map(|member| member.age_ns(now)).max().unwrap_or(0),
            sibling_age_ns,
        };
        best = Some((claim, name));
    }
    let (claim, name) = best?;
    let about = About {
        owner: Some(server.owner.clone()),
        side: Some(Side::Server),
        peer: shown(name),
        ..About::default()
    };
    let is_doubtful = server.members().any(|member| member.is_doubtful());
    let verdict = if is_doubtful { Verdict::Undecided } else { Verdict::Firing };
    Some((verdict, about, claim.into()))
}

/// Judges a client's connections to a destination: it uses some addresses, and has unused connections to others.
pub(super) fn judge_client(
    thresholds: &Thresholds,
    window_ns: u64,
    group: &Group<'_>,
    now: Timestamp,
) -> Option<(Verdict, About, super::Claim)> {
    let destination = group.destination?;
    let mut addresses: BTreeMap<_, Address> = BTreeMap::new();
    for member in group.members() {
        let address = addresses.entry(member.peer()?).or_default();
        address.calls += member.calls;
        address.connections += 1;
        address.is_draining |= member.is_draining();
        address.age_ns = address.age_ns.max(member.age_ns(now));
    }
    let used = || addresses.values().filter(|address| address.calls > 0);
    let is_unused =
        |address: &&Address| address.calls == 0 && !address.is_draining && address.age_ns >= window_ns;
    let unused = || addresses.values().filter(is_unused);
    let sibling_calls = used().map(|address| address.calls).sum();
    if unused().next().is_none() || sibling_calls < thresholds.sibling_calls_min {
        return None;
    }
    let claim = Claim {
        cause: Cause::OtherClientsUnseen,
        window_ns,
        siblings: used().count().try_into().unwrap_or(u32::MAX),
        sibling_calls,
        connections: unused().map(|address| address.connections).sum(),
        age_ns: unused().map(|address| address.age_ns).max().unwrap_or(0),
        sibling_age_ns: used().map(|address| address.age_ns).max().unwrap_or(0),
    };
    let about = About {
        owner: Some(group.owner.clone()),
        side: Some(Side::Client),
        peer: shown(destination),
        ..About::default()
    };
    Some((Verdict::Undecided, about, claim.into()))
}

/// The connections of a client to one address.
#[derive(Default)]
struct Address {
    calls: u64,
    connections: u32,
    is_draining: bool,
    age_ns: u64,
}
