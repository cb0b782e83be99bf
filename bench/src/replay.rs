//! The recording played to an observer, on many connections at once.

use agent_core::{ConnectionId, Limits, Observation, Observer, Timestamp};

use crate::recording::{Piece, Recording};

/// An observer, and what it said.
pub struct Replay<'a> {
    recording: &'a Recording,
    observer: Observer,
    connections: std::ops::Range<u64>,
    begin: Timestamp,
    /// Calls that were said to have started.
    pub started: u64,
    /// Calls that were said to have ended.
    pub ended: u64,
}

impl<'a> Replay<'a> {
    /// An observer without connections, with the agent's limits but for these connections: it may follow so many,
    /// and use as much memory for them as that takes.
    pub fn new(recording: &'a Recording, connections_max: usize) -> Self {
        let agent = Limits::default();
        let limits = if connections_max == 0 {
            agent
        } else {
            let connections = agent.connections.max(connections_max);
            Limits { connections, state_bytes: usize::MAX, ..agent }
        };
        Replay {
            recording,
            observer: Observer::new(limits),
            connections: 0..0,
            begin: Timestamp(1_000_000_000),
            started: 0,
            ended: 0,
        }
    }

    /// Begins `count` new connections, after those that there were have ended.
    pub fn connect(&mut self, count: u64) {
        let now = self.begin.plus(self.recording.duration_ns);
        for connection in self.connections.clone() {
            self.observer.handle_end(ConnectionId(connection), now);
        }
        self.begin = now.plus(1_000_000_000);
        self.observer.handle_timeout(self.begin);
        self.drain();
        self.connections = self.connections.end..self.connections.end + count;
    }

    /// Plays pieces on all connections: one piece on each of them, then the next.
    pub fn play<'p>(&mut self, pieces: impl IntoIterator<Item = &'p Piece>) {
        for piece in pieces {
            for connection in self.connections.clone() {
                self.observer.handle_chunk(self.recording.chunk(piece, ConnectionId(connection), self.begin));
                self.drain();
            }
        }
    }

    fn drain(&mut self) {
        while let Some(observation) = self.observer.poll_observation() {
            match observation {
                Observation::CallStarted(_) => self.started += 1,
                Observation::CallEnded(_) => self.ended += 1,
                Observation::Anomaly(anomaly) => panic!("the recording has no such thing: {anomaly:?}"),
                _ => {}
            }
        }
    }
}
