//! How the calls of clients are spread over connections, and how many the servers get: what [`pinned`](super::pinned) and
//! [`starved`](super::starved) judge, and what is exported as numbers.
//!
//! A call costs one step of a counter in [`Load`]. The window is cut into slots; at the end of each, all connections are
//! looked at once and put together into groups: one for each client process and destination (`:authority`), one for each
//! server process. What outlives a look (calls of connections that have ended, what was said) is in [`Balance`], with a bound.

mod load;
mod destination;
mod facts;
mod look;

use std::collections::BTreeMap;
use std::sync::Arc;

use super::lasting::Lasting;
use super::{Out, Owner, ProcessId, TICK_NS, Watched, pinned, starved};
use crate::input::Timestamp;
use crate::observation::{ConnectionSummary, Side};

pub(super) use destination::shown;
pub use facts::Facts;
pub(super) use facts::ServedBy;
pub(crate) use load::Load;
use look::Look;
pub(super) use look::{Group, Server};

/// Parts of the window. It moves on by one at a time, so a window is exact to a twelfth.
const SLOTS: usize = 12;
/// Shortest window: detectors look once a second.
const WINDOW_NS_MIN: u64 = SLOTS as u64 * TICK_NS;
/// Most groups, and most server processes, that are remembered. Those beyond are not judged; [`Balance::refused`] counts them.
const GROUPS_MAX: usize = 4_096;

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

    /// Looks at everything, if a slot is over. `exchange` is given what this look shows of other processes, and has that of all.
    pub(super) fn handle_tick<'a>(
        &mut self,
        connections: impl Iterator<Item = &'a mut Watched>,
        thresholds: &super::Thresholds,
        (now, exchange): (Timestamp, &mut dyn FnMut(Facts) -> Vec<Arc<Facts>>),
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
        let all = exchange(look.facts(now));
        look.take_in(&all);
        self.judge_groups(&mut look, thresholds, now, out);
        self.judge_servers(&look, &all, thresholds, now, out);
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
            });
        }
    }

    fn judge_servers(
        &mut self,
        look: &Look<'_>,
        all: &[Arc<Facts>],
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
        let siblings = starved::Siblings::new(all);
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

/// Groups and servers at most, and their bytes with what is said of them.
#[cfg(test)]
pub(super) fn most_bytes() -> (usize, usize) {
    use super::memory::{of_list, of_tree};
    let remembered = of_tree::<(ProcessId, Arc<str>), GroupState>(GROUPS_MAX)
        + of_tree::<ProcessId, ServerState>(GROUPS_MAX);
    let said = of_list::<Spread>(GROUPS_MAX) + of_list::<Served>(GROUPS_MAX);
    (2 * GROUPS_MAX, remembered + said)
}
