//! Connections that are not followed, since the agent is over its budgets when they begin.
//!
//! Their ids are remembered, so that each is counted once however much it moves. When the agent is within its budgets again they are
//! forgotten: those that are still open are then followed like any that was joined late, without addresses, since the kernel side
//! has told of these already.

use agent_core::ConnectionId;
use foldhash::HashSet;

/// New connections that are not followed, and how many there were.
#[derive(Debug)]
pub(super) struct LeftOut {
    /// `None` while all are followed.
    ids: Option<HashSet<ConnectionId>>,
    ids_max: usize,
    total: u64,
}

impl LeftOut {
    /// All are followed. Of `ids_max` connections that are open at once it is known that they were counted; further ones are counted
    /// again with each of their records, and so too often.
    pub(super) fn new(ids_max: usize) -> LeftOut {
        LeftOut { ids: None, ids_max, total: 0 }
    }

    /// Connections that are new are not followed from now on.
    pub(super) fn begin(&mut self) {
        self.ids.get_or_insert_default();
    }

    /// All are followed again.
    pub(super) fn end(&mut self) {
        self.ids = None;
    }

    /// Whether connections that are new are not followed.
    pub(super) fn sheds(&self) -> bool {
        self.ids.is_some()
    }

    /// Something of a connection was captured that is not followed.
    pub(super) fn insert(&mut self, connection: ConnectionId) {
        let Some(ids) = &mut self.ids else { return };
        let is_new =
            if ids.len() < self.ids_max { ids.insert(connection) } else { !ids.contains(&connection) };
        self.total += u64::from(is_new);
    }

    /// A connection has ended.
    pub(super) fn remove(&mut self, connection: ConnectionId) {
        if let Some(ids) = &mut self.ids {
            ids.remove(&connection);
        }
    }

    /// How many were not followed so far.
    pub(super) fn total(&self) -> u64 {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_connection_is_counted_once_while_it_is_open() {
        let mut left_out = LeftOut::new(2);
        left_out.insert(ConnectionId(1));
        assert_eq!((left_out.total(), left_out.sheds()), (0, false));
        left_out.begin();
        for id in [1, 2, 1, 2, 1] {
            left_out.insert(ConnectionId(id));
        }
        assert_eq!((left_out.total(), left_out.sheds()), (2, true));
        left_out.insert(ConnectionId(3));
        left_out.insert(ConnectionId(1));
        assert_eq!(left_out.total(), 3, "beyond the bound they are counted and not remembered");
        left_out.remove(ConnectionId(1));
        left_out.insert(ConnectionId(4));
        left_out.insert(ConnectionId(4));
        assert_eq!(left_out.total(), 4);
        left_out.end();
        left_out.begin();
        left_out.insert(ConnectionId(4));
        assert_eq!(left_out.total(), 5, "it shows itself in another time over budget");
    }
}
