//! Observations on their way out, and when they are to be fetched.
//!
//! What takes them (detectors, metrics) is as much code as what makes them, and the two do not fit into a processor's
//! first-level caches together. Fetched after each chunk they would evict each other each time; fetched together they
//! do once in [`TOGETHER`] chunks.

use std::collections::VecDeque;

use crate::observation::Observation;

/// Chunks, and about as many observations, after which a drain is due. Enough that loading the code of those who take them is
/// shared by many, and so few that what waits stays in the second-level cache and waits for microseconds.
pub(crate) const TOGETHER: usize = 64;

/// Observations in their order.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    observations: VecDeque<Observation>,
    /// Chunks since nothing waited.
    chunks: usize,
    /// A connection has ended: what its id stands for may change.
    has_ends: bool,
}

impl Waiting {
    pub(crate) fn push_back(&mut self, observation: Observation) {
        self.has_ends |= matches!(observation, Observation::ConnectionEnded(_));
        self.observations.push_back(observation);
    }

    pub(crate) fn pop_front(&mut self) -> Option<Observation> {
        let first = self.observations.pop_front();
        if first.is_none() {
            (self.chunks, self.has_ends) = (0, false);
        }
        first
    }

    /// A chunk was taken in.
    pub(crate) fn count_chunk(&mut self) {
        self.chunks += 1;
    }

    pub(crate) fn is_drain_due(&self) -> bool {
        self.chunks >= TOGETHER || self.observations.len() >= TOGETHER || self.has_ends
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::{Chunk, ConnectionId, Flow, Timestamp};
    use crate::limits::Limits;
    use crate::observation::Anomaly;
    use crate::observer::Observer;

    fn anomaly() -> Observation {
        Observation::Anomaly(Anomaly {
            connection: ConnectionId(1),
            stream: 0,
            kind: "test",
            time: Timestamp(0),
        })
    }

    #[test]
    fn a_drain_is_due_after_so_many_chunks_or_observations_and_never_right_after_one() {
        let mut waiting = Waiting::default();
        for _ in 0..3 {
            (1..TOGETHER).for_each(|_| waiting.count_chunk());
            (1..TOGETHER).for_each(|_| waiting.push_back(anomaly()));
            assert!(!waiting.is_drain_due());
            waiting.count_chunk();
            assert!(waiting.is_drain_due());
            while waiting.pop_front().is_some() {}
            assert!(!waiting.is_drain_due());
            (0..TOGETHER).for_each(|_| waiting.push_back(anomaly()));
            assert!(waiting.is_drain_due());
            while waiting.pop_front().is_some() {}
        }
    }

    #[test]
    fn a_drain_is_due_when_a_connection_has_ended() {
        let mut observer = Observer::new(Limits::default());
        let (connection, time) = (ConnectionId(1), Timestamp(1));
        let bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
        let flow = Flow::Sent;
        observer.handle_chunk(Chunk { connection, flow, offset: 0, time, boundary: false, thread: 0, bytes });
        assert!(!observer.is_drain_due());
        observer.finish(time);
        assert!(observer.is_drain_due());
        let mut seen = Vec::new();
        while let Some(observation) = observer.poll_observation() {
            seen.push(observation);
        }
        assert!(matches!(seen.last(), Some(Observation::ConnectionEnded(_))), "{seen:?}");
        assert!(!observer.is_drain_due());
    }
}
