//! Which shard has which connection: all of a process's connections are in one, and a connection stays where its first
//! process is, whoever uses its socket later.

use agent_core::ConnectionId;
use foldhash::{HashMap, HashMapExt as _};

use crate::capture::kernel::Captured;

/// Connections that were used last and are remembered for certain; of up to as many again that were used before. Beyond it those
/// that were used least recently are forgotten: their shard is found by their process again, which is the same unless their
/// socket was handed on.
const CONNECTIONS: usize = 1 << 17;

/// Processes that are given to the shard that has least to do. Further ones are spread by their numbers, so that their shard is
/// the same for ever with nothing remembered.
const PROCESSES: usize = 1 << 16;

/// After so many events what a shard had to do counts half.
const RECENT: u64 = 1 << 16;

#[derive(Debug)]
pub(super) struct Routes {
    recent: HashMap<ConnectionId, u8>,
    before: HashMap<ConnectionId, u8>,
    processes: HashMap<u32, u8>,
    /// The last one that was asked for: records of a connection come in a row.
    last: Option<(ConnectionId, u8)>,
    shards: Vec<Load>,
    events: u64,
}

/// What a shard has to do.
#[derive(Clone, Copy, Debug, Default)]
struct Load {
    events: u64,
    processes: u64,
}

/// Where something belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) shard: usize,
    /// The connection was not known.
    pub(super) is_new: bool,
}

impl Routes {
    /// For so many shards, at most 256.
    pub(super) fn new(shards: usize) -> Routes {
        Routes {
            recent: HashMap::new(),
            before: HashMap::new(),
            processes: HashMap::new(),
            last: None,
            shards: vec![Load::default(); shards.clamp(1, 256)],
            events: 0,
        }
    }

    /// Where this belongs. Nowhere, if it is of a connection that no shard has seen, and shows nothing of it.
    pub(super) fn route(&mut self, captured: &Captured<'_>) -> Option<Route> {
        let connection = captured.connection();
        let pid = match *captured {
            Captured::Open { pid, .. } | Captured::Chunk { pid, .. } => Some(pid),
            Captured::LeftOut { .. }
            | Captured::Close { .. }
            | Captured::Moved { .. }
            | Captured::Lost { .. } => None,
        };
        let (shard, is_new) = match self.known(connection) {
            Some(shard) => (shard, false),
            None => (self.of_process(pid?), true),
        };
        if let Captured::Close { is_final: true, .. } = captured {
            self.recent.remove(&connection);
            self.before.remove(&connection);
            self.last = None;
        } else {
            if is_new {
                self.remember(connection, shard);
            }
            self.last = Some((connection, shard));
        }
        self.count(shard);
        Some(Route { shard: usize::from(shard), is_new })
    }

    fn known(&mut self, connection: ConnectionId) -> Option<u8> {
        if let Some((last, shard)) = self.last
            && last == connection
        {
            return Some(shard);
        }
        if let Some(shard) = self.recent.get(&connection) {
            return Some(*shard);
        }
        let shard = self.before.remove(&connection)?;
        self.remember(connection, shard);
        Some(shard)
    }

    fn remember(&mut self, connection: ConnectionId, shard: u8) {
        if self.recent.len() >= CONNECTIONS {
            self.before = std::mem::take(&mut self.recent);
        }
        self.recent.insert(connection, shard);
    }

    fn of_process(&mut self, pid: u32) -> u8 {
        if let Some(shard) = self.processes.get(&pid) {
            return *shard;
        }
        if self.processes.len() >= PROCESSES {
            return (pid as usize % self.shards.len()) as u8;
        }
        let least = self.shards.iter().enumerate().min_by_key(|(_, load)| (load.events, load.processes));
        let shard = least.map_or(0, |(at, _)| at);
        self.shards[shard].processes += 1;
        self.processes.insert(pid, shard as u8);
        shard as u8
    }

    fn count(&mut self, shard: u8) {
        self.shards[usize::from(shard)].events += 1;
        self.events += 1;
        if self.events >= RECENT {
            self.events = 0;
            self.shards.iter_mut().for_each(|load| load.events /= 2);
        }
    }
}

#[cfg(test)]
mod tests {
    use agent_core::{Chunk, Flow, Timestamp};

    use super::*;

    fn chunk(connection: u64, pid: u32) -> Captured<'static> {
        let (connection, time) = (ConnectionId(connection), Timestamp(1));
        let chunk =
            Chunk { connection, flow: Flow::Sent, offset: 0, time, boundary: true, thread: 0, bytes: &[] };
        Captured::Chunk { pid, moved: 0, chunk }
    }

    fn close(connection: u64, is_final: bool) -> Captured<'static> {
        let (connection, flow, time) = (ConnectionId(connection), Flow::Sent, Timestamp(1));
        Captured::Close { connection, flow, reset: false, is_final, unseen: false, time }
    }

    fn shard(routes: &mut Routes, captured: &Captured<'_>) -> Option<usize> {
        routes.route(captured).map(|route| route.shard)
    }

    #[test]
    fn a_socket_that_is_handed_on_stays_with_its_first_process() {
        let mut routes = Routes::new(2);
        assert_eq!(routes.route(&chunk(1, 10)), Some(Route { shard: 0, is_new: true }));
        assert_eq!(routes.route(&chunk(2, 20)), Some(Route { shard: 1, is_new: true }));
        assert_eq!(routes.route(&chunk(1, 20)), Some(Route { shard: 0, is_new: false }));
        assert_eq!(shard(&mut routes, &close(1, false)), Some(0));
        assert_eq!(shard(&mut routes, &close(1, true)), Some(0));
        // It is another one from then on.
        assert_eq!(routes.route(&chunk(1, 20)), Some(Route { shard: 1, is_new: true }));
        assert_eq!(shard(&mut routes, &chunk(3, 10)), Some(0));
        assert_eq!(routes.route(&close(99, true)), None);
    }

    #[test]
    fn new_processes_go_where_least_is_to_do() {
        let mut routes = Routes::new(3);
        assert_eq!(shard(&mut routes, &chunk(1, 10)), Some(0));
        for _ in 0..100 {
            routes.route(&chunk(1, 10));
        }
        let others: Vec<_> = (2..8).map(|id| shard(&mut routes, &chunk(id, 10 + id as u32))).collect();
        assert_eq!(others, [1, 2, 1, 2, 1, 2].map(Some));
    }

    #[test]
    fn connections_that_are_used_are_not_forgotten_and_there_is_a_bound() {
        let mut routes = Routes::new(2);
        assert_eq!(shard(&mut routes, &chunk(0, 10)), Some(0));
        assert_eq!(shard(&mut routes, &chunk(1, 20)), Some(1));
        for id in 2..3 * CONNECTIONS as u64 {
            routes.route(&chunk(id, 10));
            if id % 1_000 == 0 {
                // Its socket is used by the other process now.
                assert_eq!(shard(&mut routes, &chunk(1, 10)), Some(1));
            }
        }
        assert!(routes.recent.len() <= CONNECTIONS && routes.before.len() <= CONNECTIONS);
    }

    #[test]
    fn processes_beyond_the_bound_have_a_shard_for_ever() {
        let mut routes = Routes::new(2);
        for pid in 0..2 * PROCESSES as u32 {
            routes.route(&chunk(u64::from(pid), pid));
            routes.route(&close(u64::from(pid), true));
        }
        assert_eq!(routes.processes.len(), PROCESSES);
        for pid in 0..2 * PROCESSES as u32 {
            let (one, two) = (u64::from(pid) << 32, u64::from(pid) << 32 | 1);
            assert_eq!(shard(&mut routes, &chunk(one, pid)), shard(&mut routes, &chunk(two, pid)), "{pid}");
            routes.route(&close(one, true));
            routes.route(&close(two, true));
        }
    }
}
