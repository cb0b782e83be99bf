//! What detectors know of connections, and how it is found.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use super::{
    About, OfCall, Party, balance, connection_health, correlation, flow_control, retry_storm, stream_limit,
};
use crate::bytes;
use crate::input::ConnectionId;
use crate::observation::{Side, Sync};

/// What detectors know of a connection.
///
/// In the order of use: what the calls of every connection need is in the first two cache lines, and the end of a call
/// needs the first alone. Among many connections each line has to be fetched, and that is most of what detectors cost.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct Watched {
    pub(super) correlation: correlation::OfConnection,
    pub(super) side: Option<Side>,
    pub(super) sync: Sync,
    /// Something was answered on it, or may have been.
    pub(super) answered: bool,
    // The second line ends with the counter that `load` begins with.
    pub(super) retry_storm: retry_storm::OfConnection,
    pub(super) load: balance::Load,
    pub(super) connection: ConnectionId,
    pub(super) party: Party,
    pub(super) stream_limit: stream_limit::OfConnection,
    pub(super) health: connection_health::OfConnection,
    /// Set by the first stall.
    pub(super) flow_control: Option<Box<flow_control::Remembered>>,
}

const _: () = {
    let line = 64;
    assert!(std::mem::offset_of!(Watched, answered) < line);
    assert!(std::mem::offset_of!(Watched, retry_storm) == line);
    assert!(std::mem::offset_of!(Watched, load) + size_of::<u32>() <= 2 * line);
};

impl Watched {
    pub(super) fn new(connection: ConnectionId, party: Party) -> Watched {
        Watched {
            connection,
            party,
            side: None,
            sync: Sync::Synced,
            answered: false,
            load: balance::Load::default(),
            stream_limit: stream_limit::OfConnection::default(),
            health: connection_health::OfConnection::default(),
            retry_storm: retry_storm::OfConnection::default(),
            flow_control: None,
            correlation: correlation::OfConnection::default(),
        }
    }

    /// This connection, as what a finding is about.
    pub(super) fn about(&self) -> About {
        About {
            owner: self.party.owner.clone(),
            connection: Some(self.connection),
            side: self.side,
            ..About::default()
        }
    }

    /// A call of this connection, as what a finding is about.
    pub(super) fn call(&self, call: &impl OfCall) -> About {
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

/// The connections that are watched, side by side. What is searched is a table of their places, which is so small that
/// it stays in the caches.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    places: HashMap<ConnectionId, u32, RandomState>,
    all: Vec<Watched>,
}

impl Connections {
    /// Watches a connection. The one that had its id before, if there is any.
    pub(super) fn insert(&mut self, watched: Watched) -> Option<Watched> {
        let id = watched.connection;
        if let Some(before) = self.get_mut(id) {
            return Some(std::mem::replace(before, watched));
        }
        // There is no memory for more.
        let place = u32::try_from(self.all.len()).ok()?;
        self.places.insert(id, place);
        self.all.push(watched);
        None
    }

    pub(super) fn get(&self, id: ConnectionId) -> Option<&Watched> {
        self.all.get(*self.places.get(&id)? as usize)
    }

    pub(super) fn get_mut(&mut self, id: ConnectionId) -> Option<&mut Watched> {
        self.all.get_mut(*self.places.get(&id)? as usize)
    }

    pub(super) fn remove(&mut self, id: ConnectionId) -> Option<Watched> {
        let place = self.places.remove(&id)?;
        let removed = self.all.swap_remove(place as usize);
        if let Some(moved) = self.all.get(place as usize) {
            self.places.insert(moved.connection, place);
        }
        if bytes::is_mostly_empty(self.all.len(), self.all.capacity()) {
            self.all.shrink_to(2 * self.all.len());
            self.places.shrink_to(2 * self.all.len());
        }
        Some(removed)
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut Watched> {
        self.all.iter_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watched(id: u64) -> Watched {
        Watched::new(ConnectionId(id), Party { owner: None, ends: None })
    }

    #[test]
    fn connections_are_found_whichever_ended_before() {
        let mut connections = Connections::default();
        for id in 0..1_000 {
            assert!(connections.insert(watched(id)).is_none());
        }
        for id in (0..1_000).filter(|id| id % 100 != 7) {
            assert_eq!(connections.remove(ConnectionId(id)).map(|removed| removed.connection.0), Some(id));
            assert!(connections.remove(ConnectionId(id)).is_none());
        }
        for id in 0..1_000 {
            let found = connections.get(ConnectionId(id)).map(|watched| watched.connection.0);
            assert_eq!(found, (id % 100 == 7).then_some(id));
        }
        assert!(connections.all.capacity() < 100, "what many took is given back");
    }

    #[test]
    fn a_connection_that_is_announced_again_takes_the_place_of_the_one_before() {
        let mut connections = Connections::default();
        let mut before = watched(1);
        before.answered = true;
        connections.insert(before);
        assert!(connections.insert(watched(1)).is_some_and(|before| before.answered));
        assert!(connections.get(ConnectionId(1)).is_some_and(|watched| !watched.answered));
        assert_eq!(connections.values_mut().count(), 1);
    }
}
