//! How the calls of clients are spread over connections, and how many the servers get: what [`pinned`](super::pinned) and
//! [`starved`](super::starved) judge, and what is exported as numbers.
//!
//! A call costs one step of a counter in [`Load`]. The window is cut into slots; at the end of each, all connections are
//! looked at once and put together into groups: one for each client process and destination (`:authority`), one for each
//! server process. What outlives a look (calls of connections that have ended, what was said) is in [`Balance`], with a bound.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::lasting::Lasting;
use super::{End, Out, Owner, ProcessId, TICK_NS, Watched, pinned, starved};
use crate::WellKnown;
use crate::input::{Flow, Timestamp};
use crate::observation::{
    Call, CallStarted, ConnectionStatus, ConnectionSummary, EndedBy, Goaway, GoawayReason, Side, Sync,
};

/// Parts of the window. It moves on by one at a time, so a window is exact to a twelfth.
const SLOTS: usize = 12;
/// Shortest window: detectors look once a second.
const WINDOW_NS_MIN: u64 = SLOTS as u64 * TICK_NS;
/// Most groups, and most server processes, that are remembered. Those beyond are not judged; [`Balance::refused`] counts them.
const GROUPS_MAX: usize = 4_096;

/// The calls of a connection, and what else of it says where they go.
#[derive(Debug, Default)]
pub(crate) struct Load {
    /// Since the end of the last slot.
    calls: u32,
    slots: [u32; SLOTS],
    /// When it was recognised.
    pub(super) opened: Option<Timestamp>,
    /// It was seen from its first byte.
    pub(super) from_start: bool,
    /// Bytes were missed, so calls, names and proxies may have been.
    doubtful: bool,
    authority: Destination,
    intermediary: bool,
    /// Either end has said that it will end.
    draining: bool,
    /// The server has said so, and not because of what the client did.
    pub(super) graceful: bool,
    /// Something was answered on it.
    pub(super) answered: bool,
    /// A stream to a balancer, or of a control plane, was seen on it.
    lookaside: bool,
    xds: bool,
}

/// Whom the client of a connection asks for.
#[derive(Debug, Default)]
enum Destination {
    #[default]
    Unknown,
    Known(Arc<str>),
    /// Several: the connection is shared, and whose its calls are is not followed.
    Several,
}

impl Load {
    pub(super) fn handle_status(&mut self, status: &ConnectionStatus) {
        let synced = status.sync == Sync::Synced;
        if self.opened.is_none() {
            self.opened = Some(status.time);
            self.from_start = synced;
        }
        self.doubtful |= !synced;
    }

    /// In the path of every call.
    pub(super) fn handle_call_started(&mut self, call: &CallStarted) {
        match call.well_known() {
            None => self.calls = self.calls.saturating_add(1),
            Some(WellKnown::LoadBalancer) => self.lookaside = true,
            Some(WellKnown::Discovery) => self.xds = true,
            Some(
                WellKnown::Health
                | WellKnown::HealthWatch
                | WellKnown::Reflection
                | WellKnown::Channelz
                | WellKnown::LoadReporting
                | WellKnown::LoadMetrics
                | WellKnown::Handshaker
                | WellKnown::Telemetry,
            ) => {}
        }
    }

    /// Something was answered on it, if the server has ended the call.
    pub(super) fn handle_call_ended(&mut self, call: &Call) {
        self.answered |= call.ended_by == Some(EndedBy::Server);
    }

    pub(super) fn handle_exchange_ended(&mut self) {
        self.answered = true;
    }

    pub(super) fn handle_authority(&mut self, authority: &Arc<str>) {
        match &self.authority {
            Destination::Unknown => self.authority = Destination::Known(Arc::clone(authority)),
            Destination::Known(known) if known == authority => {}
            Destination::Known(_) | Destination::Several => self.authority = Destination::Several,
        }
    }

    pub(super) fn handle_goaway(&mut self, goaway: &Goaway, side: Option<Side>) {
        self.draining = true;
        let by_server = match (side, goaway.flow) {
            (Some(Side::Client), Flow::Received) | (Some(Side::Server), Flow::Sent) => true,
            (Some(Side::Client), Flow::Sent) | (Some(Side::Server), Flow::Received) | (None, _) => false,
        };
        self.graceful |= by_server
            && match goaway.reason {
                GoawayReason::GracefulNotice
                | GoawayReason::Graceful
                | GoawayReason::MaxAge
                | GoawayReason::MaxIdle => true,
                GoawayReason::TooManyPings | GoawayReason::TooManyResets | GoawayReason::Error => false,
            };
    }

    pub(super) fn handle_intermediary(&mut self) {
        self.intermediary = true;
    }

    /// Whom its calls go to, if all go to one.
    pub(super) fn destination(&self) -> Option<&Arc<str>> {
        match &self.authority {
            Destination::Known(authority) => Some(authority),
            Destination::Unknown | Destination::Several => None,
        }
    }

    fn end_slot(&mut self, slot: usize) {
        self.slots[slot] = std::mem::take(&mut self.calls);
    }

    /// Calls of the window.
    fn calls(&self) -> u64 {
        self.slots.iter().map(|calls| u64::from(*calls)).sum()
    }

    /// Nanoseconds since it was first seen.
    fn age_ns(&self, now: Timestamp) -> u64 {
        self.opened.map_or(0, |opened| now.since(opened))
    }
}

/// What detectors remember of groups and servers.
#[derive(Debug, Default)]
pub(crate) struct Balance {
    slot: usize,
    slot_ends: Option<Timestamp>,
    groups: BTreeMap<(ProcessId, Arc<str>), GroupState>,
    servers: BTreeMap<ProcessId, ServerState>,
    refused: u64,
    spreads: Vec<Spread>,
    served: Vec<Served>,
}

#[derive(Debug)]
struct GroupState {
    /// When it was first looked at.
    since: Timestamp,
    /// Calls of connections that have ended, by slot.
    ended: [u32; SLOTS],
    /// Connections that the server has ended gracefully.
    recycled: u64,
    pinned: Lasting,
    unused: Lasting,
}

#[derive(Debug)]
struct ServerState {
    since: Timestamp,
    /// End of the last slot with a call.
    last_call: Option<Timestamp>,
    starved: Lasting,
}

/// How the calls of a client process to one destination were spread over its connections during the last window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spread {
    /// The client.
    pub owner: Arc<Owner>,
    /// `:authority` as on the wire: escape it before it is shown. `None` if it is not known, or an address.
    pub destination: Option<Arc<str>>,
    /// Calls of the window.
    pub calls: u64,
    /// Those of its busiest connection.
    pub busiest_calls: u64,
    /// Open connections.
    pub connections: u32,
    /// Backends that open connections of any client on the node lead to.
    pub backends: u32,
    /// Age of the oldest open connection, in nanoseconds; at least, if it was joined late.
    pub oldest_ns: u64,
    /// Whether one connection carries nearly all.
    pub balanced: Balanced,
    /// It is found to be pinned.
    pub is_pinned: bool,
}

/// Over how many connections calls are spread, whatever that means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Balanced {
    /// Too few calls to tell, or not watched for a whole window.
    FewCalls,
    /// One connection carries nearly all ([`pinned::Thresholds::share_min`]).
    OneConnection,
    /// No connection does.
    SeveralConnections,
}

impl Balanced {
    /// `few_calls`, `one_connection`, `several_connections`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Balanced::FewCalls => "few_calls",
            Balanced::OneConnection => "one_connection",
            Balanced::SeveralConnections => "several_connections",
        }
    }
}

/// What a server process got during the last window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// The server.
    pub owner: Arc<Owner>,
    /// Calls of the window.
    pub calls: u64,
    /// Open connections.
    pub connections: u32,
    /// It is found to be starved.
    pub is_starved: bool,
}

/// The open connections of a client process to a destination.
pub(super) struct Group<'a> {
    pub(super) owner: &'a Arc<Owner>,
    /// `None`: those whose destination is not known.
    pub(super) destination: Option<&'a Arc<str>>,
    pub(super) members: Vec<&'a Watched>,
    /// Calls on connections of the same process of which nobody knows the destination.
    pub(super) stray_calls: u64,
    /// Calls on connections that ended during the window.
    pub(super) ended_calls: u64,
    pub(super) recycled: u64,
    pub(super) backends: u32,
    pub(super) strategy: pinned::Strategy,
}

impl Group<'_> {
    pub(super) fn calls(&self) -> u64 {
        self.members.iter().map(|member| member.load.calls()).sum::<u64>() + self.ended_calls
    }

    pub(super) fn busiest(&self) -> Option<Member<'_>> {
        self.members().max_by_key(|member| (member.calls, Reverse(member.watched.connection)))
    }

    pub(super) fn members(&self) -> impl Iterator<Item = Member<'_>> {
        self.members.iter().map(|watched| Member { watched, calls: watched.load.calls() })
    }
}

/// A connection of a group.
#[derive(Clone, Copy)]
pub(super) struct Member<'a> {
    pub(super) watched: &'a Watched,
    /// Of the window.
    pub(super) calls: u64,
}

impl Member<'_> {
    pub(super) fn age_ns(&self, now: Timestamp) -> u64 {
        self.watched.load.age_ns(now)
    }

    pub(super) fn is_draining(&self) -> bool {
        self.watched.load.draining
    }

    /// Calls, and what stands in between, may have been missed.
    pub(super) fn is_doubtful(&self) -> bool {
        self.watched.load.doubtful
    }

    pub(super) fn peer(&self) -> Option<SocketAddr> {
        peer(self.watched)
    }
}

/// A process with the connections on which it is the server.
pub(super) struct Server<'a> {
    pub(super) owner: &'a Arc<Owner>,
    pub(super) members: Vec<&'a Watched>,
}

impl Server<'_> {
    pub(super) fn members(&self) -> impl Iterator<Item = Member<'_>> {
        self.members.iter().map(|watched| Member { watched, calls: watched.load.calls() })
    }

    pub(super) fn calls(&self) -> u64 {
        self.members().map(|member| member.calls).sum()
    }

    /// Names by which clients ask for it, without those that mean something else to each of them.
    pub(super) fn destinations(&self) -> BTreeSet<&str> {
        let names = self.members.iter().filter_map(|member| member.load.destination());
        names.map(AsRef::as_ref).filter(|name| !is_local(name)).collect()
    }
}

impl Balance {
    /// How the calls of each client process to each destination were spread, as of the last look.
    pub(super) fn spreads(&self) -> &[Spread] {
        &self.spreads
    }

    /// What each server process got, as of the last look.
    pub(super) fn served(&self) -> &[Served] {
        &self.served
    }

    /// Times that a group or a server was not judged, since there are too many.
    pub(super) fn refused(&self) -> u64 {
        self.refused
    }

    /// A connection has ended: its calls stay in the window.
    pub(super) fn handle_ended(&mut self, watched: &Watched, summary: &ConnectionSummary) {
        let (Some(owner), Some(side)) = (&watched.party.owner, watched.side) else { return };
        let load = &watched.load;
        match side {
            Side::Client => {
                let Some(authority) = load.destination() else { return };
                if load.calls == 0 && load.calls() == 0 && !load.graceful {
                    return;
                }
                let key = (owner.process, Arc::clone(authority));
                let new = || GroupState::new(summary.closed);
                let Some(state) = room(&mut self.groups, key, &mut self.refused, new) else { return };
                state.recycled += u64::from(load.graceful);
                for (number, (ended, calls)) in state.ended.iter_mut().zip(load.slots).enumerate() {
                    // The slot that is being filled still has what it had a window ago.
                    let calls = if number == self.slot { load.calls } else { calls };
                    *ended = ended.saturating_add(calls);
                }
            }
            Side::Server => {
                if load.calls > 0
                    && let Some(state) = self.servers.get_mut(&owner.process)
                {
                    state.last_call = Some(summary.closed);
                }
            }
        }
    }

    /// Looks at everything, if a slot is over.
    pub(super) fn handle_tick<'a>(
        &mut self,
        connections: impl Iterator<Item = &'a mut Watched>,
        thresholds: &super::Thresholds,
        now: Timestamp,
        out: &mut Out,
    ) {
        let slot_ns = thresholds.pinned.window_ns.max(WINDOW_NS_MIN) / SLOTS as u64;
        let ends = *self.slot_ends.get_or_insert(now.plus(slot_ns));
        if now < ends {
            return;
        }
        // Nobody may have looked for a while.
        let over = (now.since(ends) / slot_ns + 1).min(SLOTS as u64) as usize;
        self.slot_ends = Some(now.plus(slot_ns - now.since(ends) % slot_ns));
        let slots: Vec<usize> = (0..over).map(|step| (self.slot + step) % SLOTS).collect();
        let connections: Vec<&Watched> = connections
            .map(|watched| {
                slots.iter().for_each(|slot| watched.load.end_slot(*slot));
                &*watched
            })
            .collect();
        let mut look = Look::new(&connections);
        self.judge_groups(&mut look, thresholds, now, out);
        self.judge_servers(&look, thresholds, now, out);
        self.slot = (self.slot + over) % SLOTS;
        for state in self.groups.values_mut() {
            slots.iter().map(|slot| (slot + 1) % SLOTS).for_each(|slot| state.ended[slot] = 0);
        }
    }

    fn judge_groups(
        &mut self,
        look: &mut Look<'_>,
        thresholds: &super::Thresholds,
        now: Timestamp,
        out: &mut Out,
    ) {
        let window_ns = thresholds.pinned.window_ns.max(WINDOW_NS_MIN);
        self.groups.retain(|(process, name), state| {
            let name = Some(name.as_ref()).filter(|name: &&str| !name.is_empty());
            if look.groups.contains_key(&(*process, name)) {
                return true;
            }
            state.pinned.end(now, out);
            state.unused.end(now, out);
            state.ended.iter().any(|calls| *calls > 0)
        });
        self.spreads.clear();
        for ((process, destination), group) in &mut look.groups {
            // What has no name is one group of its process.
            let name = group.destination.cloned().unwrap_or_default();
            let new = || GroupState::new(now);
            let Some(state) = room(&mut self.groups, (*process, name), &mut self.refused, new) else {
                continue;
            };
            group.ended_calls = state.ended.iter().map(|calls| u64::from(*calls)).sum();
            group.recycled = state.recycled;
            // A group that has just begun would be judged by less than a window.
            let is_whole = now.since(state.since) >= window_ns;
            let judged = is_whole.then(|| pinned::judge(&thresholds.pinned, window_ns, group, now)).flatten();
            let may_be_pinned = judged.is_some();
            state.pinned.handle(judged, now, out);
            let judged = (is_whole && !may_be_pinned)
                .then(|| starved::judge_client(&thresholds.starved, window_ns, group, now))
                .flatten();
            state.unused.handle(judged, now, out);
            let (calls, busiest_calls) = (group.calls(), group.busiest().map_or(0, |busiest| busiest.calls));
            let balanced = if !is_whole || calls < thresholds.pinned.calls_min {
                Balanced::FewCalls
            } else if busiest_calls as f64 >= thresholds.pinned.share_min * calls as f64 {
                Balanced::OneConnection
            } else {
                Balanced::SeveralConnections
            };
            let oldest_ns = group.members().map(|member| member.age_ns(now)).max().unwrap_or(0);
            self.spreads.push(Spread {
                owner: Arc::clone(group.owner),
                destination: destination.and(group.destination).and_then(shown),
                calls,
                busiest_calls,
                connections: group.members.len().try_into().unwrap_or(u32::MAX),
                backends: group.backends,
                oldest_ns,
                balanced,
                is_pinned: state.pinned.is_firing(),
            });
        }
    }

    fn judge_servers(
        &mut self,
        look: &Look<'_>,
        thresholds: &super::Thresholds,
        now: Timestamp,
        out: &mut Out,
    ) {
        let window_ns = thresholds.pinned.window_ns.max(WINDOW_NS_MIN);
        self.servers.retain(|process, state| {
            let is_known = look.servers.contains_key(process);
            if !is_known {
                state.starved.end(now, out);
            }
            is_known
        });
        self.served.clear();
        let siblings = starved::Siblings::new(look.servers.values());
        for (process, server) in &look.servers {
            let new = || ServerState { since: now, last_call: None, starved: Lasting::default() };
            let Some(state) = room(&mut self.servers, *process, &mut self.refused, new) else { continue };
            let calls = server.calls();
            if server.members.iter().any(|watched| watched.load.slots[self.slot] > 0) {
                state.last_call = Some(now);
            }
            let silent_since = state.last_call.unwrap_or(state.since).max(state.since);
            let judged = (calls == 0 && now.since(silent_since) >= window_ns)
                .then(|| starved::judge_server(&thresholds.starved, window_ns, server, &siblings, now))
                .flatten();
            state.starved.handle(judged, now, out);
            self.served.push(Served {
                owner: Arc::clone(server.owner),
                calls,
                connections: server.members.len().try_into().unwrap_or(u32::MAX),
                is_starved: state.starved.is_firing(),
            });
        }
    }
}

impl GroupState {
    fn new(since: Timestamp) -> GroupState {
        GroupState {
            since,
            ended: [0; SLOTS],
            recycled: 0,
            pinned: Lasting::default(),
            unused: Lasting::default(),
        }
    }
}

/// What is remembered under a key, if it is there or there is room for it.
fn room<'a, K: Ord, V>(
    table: &'a mut BTreeMap<K, V>,
    key: K,
    refused: &mut u64,
    new: impl FnOnce() -> V,
) -> Option<&'a mut V> {
    if table.len() >= GROUPS_MAX && !table.contains_key(&key) {
        *refused += 1;
        return None;
    }
    Some(table.entry(key).or_insert_with(new))
}

/// All connections at one moment, put together.
struct Look<'a> {
    groups: BTreeMap<(ProcessId, Option<&'a str>), Group<'a>>,
    servers: BTreeMap<ProcessId, Server<'a>>,
}

impl<'a> Look<'a> {
    fn new(connections: &[&'a Watched]) -> Look<'a> {
        let mut groups: BTreeMap<(ProcessId, Option<&'a str>), Group<'a>> = BTreeMap::new();
        let mut servers: BTreeMap<ProcessId, Server<'a>> = BTreeMap::new();
        for watched in connections {
            let Some(owner) = &watched.party.owner else { continue };
            match watched.side {
                Some(Side::Client) => {
                    let destination = watched.load.destination();
                    let group =
                        groups.entry((owner.process, destination.map(AsRef::as_ref))).or_insert_with(|| {
                            Group {
                                owner,
                                destination,
                                members: Vec::new(),
                                stray_calls: 0,
                                ended_calls: 0,
                                recycled: 0,
                                backends: 0,
                                strategy: pinned::Strategy::None,
                            }
                        });
                    group.members.push(watched);
                }
                Some(Side::Server) => {
                    let server =
                        servers.entry(owner.process).or_insert_with(|| Server { owner, members: Vec::new() });
                    server.members.push(watched);
                }
                None => {}
            }
        }
        let mut look = Look { groups, servers };
        look.find_backends();
        look.find_strategies();
        look
    }

    /// How many backends are known for each destination: peers of open connections that are no proxies.
    /// Groups that talk to a proxy are left out.
    fn find_backends(&mut self) {
        let mut at_address: BTreeMap<SocketAddr, Option<ProcessId>> = BTreeMap::new();
        let mut proxies: BTreeSet<(SocketAddr, &str)> = BTreeSet::new();
        for (process, server) in &self.servers {
            for watched in &server.members {
                let Some(address) = local(watched) else { continue };
                at_address
                    .entry(address)
                    .and_modify(|one| *one = one.filter(|one| one == process))
                    .or_insert(Some(*process));
                // Whoever asks for the same destination as its own clients hands on what they ask.
                if let Some(name) = watched.load.destination()
                    && self.groups.contains_key(&(*process, Some(name.as_ref())))
                {
                    proxies.insert((address, name.as_ref()));
                }
            }
        }
        let mut backends: BTreeMap<&str, Backends> = BTreeMap::new();
        let mut own: BTreeMap<(ProcessId, &str), Backends> = BTreeMap::new();
        for ((process, name), group) in &mut self.groups {
            let Some(name) = *name else { continue };
            // A proxy's clients are spread as the proxy spreads their calls, which is seen at the proxy.
            let is_proxied = |watched: &Watched| {
                watched.load.intermediary || peer(watched).is_some_and(|peer| proxies.contains(&(peer, name)))
            };
            if group.members.iter().any(|watched| is_proxied(watched)) {
                group.members.clear();
            }
            for watched in group.members.iter().filter(|watched| !watched.load.draining) {
                let Some(peer) = peer(watched) else { continue };
                let found = if is_local(name) {
                    own.entry((*process, name)).or_default()
                } else {
                    backends.entry(name).or_default()
                };
                found.insert(peer, at_address.get(&peer).copied().flatten());
            }
        }
        self.groups.retain(|_, group| !group.members.is_empty());
        for ((process, name), group) in &mut self.groups {
            let Some(name) = *name else { continue };
            let found = if is_local(name) { own.get(&(*process, name)) } else { backends.get(name) };
            group.backends = found.map_or(0, Backends::count);
        }
    }

    fn find_strategies(&mut self) {
        let mut processes: BTreeMap<ProcessId, (bool, bool, bool, u64)> = BTreeMap::new();
        for ((process, name), group) in &self.groups {
            let (lookaside, xds, doubtful, stray_calls) = processes.entry(*process).or_default();
            for member in group.members() {
                *lookaside |= member.watched.load.lookaside;
                *xds |= member.watched.load.xds;
                *doubtful |= member.is_doubtful();
                *stray_calls += if name.is_none() { member.calls } else { 0 };
            }
        }
        for ((process, name), group) in &mut self.groups {
            let Some((lookaside, xds, doubtful, stray_calls)) = processes.get(process) else { continue };
            group.stray_calls = if name.is_some() { *stray_calls } else { 0 };
            let peers: BTreeSet<SocketAddr> = group
                .members()
                .filter(|member| !member.is_draining())
                .filter_map(|member| member.peer())
                .collect();
            group.strategy = match (xds, lookaside, peers.len()) {
                (true, _, _) => pinned::Strategy::Xds,
                (false, true, _) => pinned::Strategy::Lookaside,
                (false, false, 2..) => pinned::Strategy::ClientSide,
                (false, false, _) if *doubtful => pinned::Strategy::Unknown,
                (false, false, _) => pinned::Strategy::None,
            };
        }
    }
}

/// Backends by what is certain of them: two addresses of one family are two, unless one process on this node serves both;
/// an address of each family may be one.
#[derive(Debug, Default)]
struct Backends {
    processes: BTreeSet<ProcessId>,
    v4: BTreeSet<SocketAddr>,
    v6: BTreeSet<SocketAddr>,
}

impl Backends {
    fn insert(&mut self, address: SocketAddr, process: Option<ProcessId>) {
        match (process, address.ip()) {
            (Some(process), _) => {
                self.processes.insert(process);
            }
            (None, IpAddr::V4(_)) => {
                self.v4.insert(address);
            }
            (None, IpAddr::V6(_)) => {
                self.v6.insert(address);
            }
        }
    }

    fn count(&self) -> u32 {
        let addresses = self.v4.len().max(self.v6.len());
        (self.processes.len() + addresses).try_into().unwrap_or(u32::MAX)
    }
}

fn peer(watched: &Watched) -> Option<SocketAddr> {
    address(watched.party.ends?.1)
}

fn local(watched: &Watched) -> Option<SocketAddr> {
    address(watched.party.ends?.0)
}

fn address(end: End) -> Option<SocketAddr> {
    match end {
        End::Address(address) => Some(address),
        End::Unix => None,
    }
}

/// The host of an `:authority` (RFC 3986 §3.2), without its port.
fn host(authority: &str) -> &str {
    match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((v6, _)) => v6,
        None => authority.rsplit_once(':').map_or(authority, |(host, _)| host),
    }
}

/// A name that means another place for each network namespace.
fn is_local(authority: &str) -> bool {
    let host = host(authority);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// A destination as findings and metrics may name it: by a name, not by an address.
pub(super) fn shown(authority: &Arc<str>) -> Option<Arc<str>> {
    let is_address = authority.parse::<IpAddr>().is_ok() || host(authority).parse::<IpAddr>().is_ok();
    (!is_address && !authority.is_empty()).then(|| Arc::clone(authority))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_not_shown() {
        for address in ["10.0.0.1", "10.0.0.1:80", "[fd00::1]:80", "fd00::1", "[::1]", ""] {
            assert_eq!(shown(&Arc::from(address)), None, "{address}");
        }
        for name in ["shop", "shop:80", "shop.svc.cluster.local:50051", "10.0.0.1.example:80"] {
            assert_eq!(shown(&Arc::from(name)).as_deref(), Some(name));
        }
    }

    #[test]
    fn a_backend_with_an_address_of_each_family_is_one() {
        let mut backends = Backends::default();
        backends.insert("10.0.0.1:80".parse().expect("one"), None);
        backends.insert("[fd00::1]:80".parse().expect("one"), None);
        assert_eq!(backends.count(), 1);
        backends.insert("10.0.0.2:80".parse().expect("one"), None);
        assert_eq!(backends.count(), 2);
        // One process serves both.
        backends.insert("10.0.0.3:80".parse().expect("one"), Some(ProcessId(1)));
        backends.insert("10.0.0.4:80".parse().expect("one"), Some(ProcessId(1)));
        assert_eq!(backends.count(), 3);
    }
}
