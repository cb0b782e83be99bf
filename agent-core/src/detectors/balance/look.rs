//! All connections at one moment, put together: by client process and destination, and by server process; and what they
//! show together of backends and of how clients choose among them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::destination::is_local;
use super::facts::{Asked, Facts, ServedBy};
use crate::detectors::{End, Owner, ProcessId, Watched, pinned};
use crate::input::Timestamp;
use crate::observation::Side;

/// The open connections of a client process to a destination.
pub(in crate::detectors) struct Group<'a> {
    pub(in crate::detectors) owner: &'a Arc<Owner>,
    /// `None`: those whose destination is not known.
    pub(in crate::detectors) destination: Option<&'a Arc<str>>,
    pub(in crate::detectors) members: Vec<&'a Watched>,
    /// Calls on connections of the same process of which nobody knows the destination.
    pub(in crate::detectors) stray_calls: u64,
    /// Calls on connections that ended during the window.
    pub(in crate::detectors) ended_calls: u64,
    pub(in crate::detectors) recycled: u64,
    pub(in crate::detectors) backends: u32,
    pub(in crate::detectors) strategy: pinned::Strategy,
}

impl Group<'_> {
    pub(in crate::detectors) fn calls(&self) -> u64 {
        self.members.iter().map(|member| member.load.calls()).sum::<u64>() + self.ended_calls
    }

    pub(in crate::detectors) fn busiest(&self) -> Option<Member<'_>> {
        self.members().max_by_key(|member| (member.calls, Reverse(member.watched.connection)))
    }

    pub(in crate::detectors) fn members(&self) -> impl Iterator<Item = Member<'_>> {
        self.members.iter().map(|watched| Member { watched, calls: watched.load.calls() })
    }
}

/// A connection of a group.
#[derive(Clone, Copy)]
pub(in crate::detectors) struct Member<'a> {
    pub(in crate::detectors) watched: &'a Watched,
    /// Of the window.
    pub(in crate::detectors) calls: u64,
}

impl Member<'_> {
    pub(in crate::detectors) fn age_ns(&self, now: Timestamp) -> u64 {
        self.watched.load.age_ns(now)
    }

    pub(in crate::detectors) fn is_draining(&self) -> bool {
        self.watched.load.draining
    }

    /// Calls, and what stands in between, may have been missed.
    pub(in crate::detectors) fn is_doubtful(&self) -> bool {
        self.watched.load.doubtful
    }

    pub(in crate::detectors) fn peer(&self) -> Option<SocketAddr> {
        peer(self.watched)
    }
}

/// A process with the connections on which it is the server.
pub(in crate::detectors) struct Server<'a> {
    pub(in crate::detectors) owner: &'a Arc<Owner>,
    pub(in crate::detectors) members: Vec<&'a Watched>,
}

impl Server<'_> {
    pub(in crate::detectors) fn members(&self) -> impl Iterator<Item = Member<'_>> {
        self.members.iter().map(|watched| Member { watched, calls: watched.load.calls() })
    }

    pub(in crate::detectors) fn calls(&self) -> u64 {
        self.members().map(|member| member.calls).sum()
    }

    /// Names by which clients ask for it, without those that mean something else to each of them.
    pub(in crate::detectors) fn destinations(&self) -> BTreeSet<&Arc<str>> {
        let names = self.members.iter().filter_map(|member| member.load.destination());
        names.filter(|name| !is_local(name)).collect()
    }
}

/// All connections at one moment, put together.
pub(super) struct Look<'a> {
    pub(super) groups: BTreeMap<(ProcessId, Option<&'a str>), Group<'a>>,
    pub(super) servers: BTreeMap<ProcessId, Server<'a>>,
}

impl<'a> Look<'a> {
    pub(super) fn new(connections: &[&'a Watched]) -> Look<'a> {
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
        Look { groups, servers }
    }

    /// What this look shows that counts for connections of other processes.
    pub(super) fn facts(&self, now: Timestamp) -> Facts {
        let mut facts = Facts::default();
        for (process, server) in &self.servers {
            for watched in &server.members {
                let Some(address) = local(watched) else { continue };
                facts.listeners.insert((address, *process));
                // Whoever asks for the same destination as its own clients hands on what they ask.
                if let Some(name) = watched.load.destination()
                    && self.groups.contains_key(&(*process, Some(name.as_ref())))
                {
                    facts.proxies.insert((address, Arc::clone(name)));
                }
            }
            let used = server.members().filter(|member| member.calls > 0);
            let used_age_ns = used.map(|member| member.age_ns(now)).max().unwrap_or(0);
            let calls = server.calls();
            facts.served.extend(server.destinations().into_iter().map(|destination| ServedBy {
                process: *process,
                workload: Arc::clone(&server.owner.workload),
                destination: Arc::clone(destination),
                calls,
                used_age_ns,
            }));
        }
        for group in self.groups.values() {
            let Some(destination) = group.destination.filter(|name| !is_local(name)) else { continue };
            if group.members.iter().any(|watched| watched.load.intermediary) {
                continue;
            }
            let mut asked = Asked { destination: Arc::clone(destination), peers: BTreeMap::new() };
            for watched in &group.members {
                let Some(peer) = peer(watched) else { continue };
                *asked.peers.entry(peer).or_default() |= !watched.load.draining;
            }
            facts.asked.push(asked);
        }
        facts
    }

    /// Takes in what all looks at this moment show, this one's among them: it leaves out groups that talk to a proxy, and finds
    /// how many backends are known for each destination, and how clients choose among them.
    pub(super) fn take_in(&mut self, all: &[Arc<Facts>]) {
        self.find_backends(all);
        self.find_strategies();
    }

    /// Backends are peers of open connections that are no proxies.
    fn find_backends(&mut self, all: &[Arc<Facts>]) {
        let mut at_address: BTreeMap<SocketAddr, Option<ProcessId>> = BTreeMap::new();
        for (address, process) in all.iter().flat_map(|facts| &facts.listeners) {
            at_address
                .entry(*address)
                .and_modify(|one| *one = one.filter(|one| one == process))
                .or_insert(Some(*process));
        }
        let process_at = |peer: &SocketAddr| at_address.get(peer).copied().flatten();
        let proxies = all.iter().flat_map(|facts| &facts.proxies);
        let proxies: BTreeSet<(SocketAddr, &str)> =
            proxies.map(|(address, name)| (*address, name.as_ref())).collect();
        let mut backends: BTreeMap<&str, Backends> = BTreeMap::new();
        for asked in all.iter().flat_map(|facts| &facts.asked) {
            let name = asked.destination.as_ref();
            if asked.peers.keys().any(|peer| proxies.contains(&(*peer, name))) {
                continue;
            }
            let found = backends.entry(name).or_default();
            for (peer, _) in asked.peers.iter().filter(|(_, goes_on)| **goes_on) {
                found.insert(*peer, process_at(peer));
            }
        }
        for ((_, name), group) in &mut self.groups {
            let Some(name) = *name else { continue };
            // A proxy's clients are spread as the proxy spreads their calls, which is seen at the proxy.
            let is_proxied = |watched: &Watched| {
                watched.load.intermediary || peer(watched).is_some_and(|peer| proxies.contains(&(peer, name)))
            };
            if group.members.iter().any(|watched| is_proxied(watched)) {
                group.members.clear();
            }
            if !is_local(name) {
                group.backends = backends.get(name).map_or(0, Backends::count);
                continue;
            }
            let mut own = Backends::default();
            for watched in group.members.iter().filter(|watched| !watched.load.draining) {
                if let Some(peer) = peer(watched) {
                    own.insert(peer, process_at(&peer));
                }
            }
            group.backends = own.count();
        }
        self.groups.retain(|_, group| !group.members.is_empty());
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

#[cfg(test)]
mod tests {
    use super::*;

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
