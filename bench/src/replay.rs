//! The recording played to an observer, on many connections at once; also with all detectors behind it.

use std::sync::Arc;

use agent_core::detectors::{Detectors, End, Owner, Party, ProcessId, Thresholds};
use agent_core::{Chunk, ConnectionId, Limits, Observation, Observer, Timestamp};

use crate::recording::{Piece, Recording};

/// An observer, and what it said.
pub struct Replay<'a> {
    recording: &'a Recording,
    observer: Observer,
    detectors: Option<Box<Detectors>>,
    /// Every other connection is played as its server sees it.
    has_servers: bool,
    connections: std::ops::Range<u64>,
    begin: Timestamp,
    /// Calls that were said to have started.
    pub started: u64,
    /// Calls that were said to have ended.
    pub ended: u64,
    /// What detectors found.
    pub findings: u64,
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
            detectors: None,
            has_servers: false,
            connections: 0..0,
            begin: Timestamp(1_000_000_000),
            started: 0,
            ended: 0,
            findings: 0,
        }
    }

    /// Two connections a process: it is the client on one of them and the server on the other, so that there is something
    /// to correlate. With all detectors, or with none.
    pub fn of_processes(recording: &'a Recording, detectors: bool) -> Self {
        let detectors = detectors.then(|| Box::new(Detectors::new(Thresholds::default())));
        Replay { detectors, has_servers: true, ..Replay::new(recording, 0) }
    }

    /// What is played.
    pub fn recording(&self) -> &'a Recording {
        self.recording
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
        let (connections, Some(detectors)) = (self.connections.clone(), &mut self.detectors) else { return };
        for connection in connections {
            let owner = Owner { process: ProcessId(connection / 2), workload: Arc::from("bench") };
            let end = |host: u8, port: u16| End::Address(([10, 0, 0, host], port).into());
            let (local, server) = (connection as u16, self.recording.server_port);
            let ends = match is_server(connection) {
                true => (end(1, server), end(2, local)),
                false => (end(1, local), end(3, server)),
            };
            let party = Party { owner: Some(Arc::new(owner)), ends: Some(ends) };
            detectors.handle_connection(ConnectionId(connection), party);
        }
    }

    /// Plays pieces on all connections: one piece on each of them, then the next.
    pub fn play<'p>(&mut self, pieces: impl IntoIterator<Item = &'p Piece>) {
        for piece in pieces {
            for connection in self.connections.clone() {
                let chunk = self.recording.chunk(piece, ConnectionId(connection), self.begin);
                let flow = match self.has_servers && is_server(connection) {
                    true => chunk.flow.opposite(),
                    false => chunk.flow,
                };
                self.observer.handle_chunk(Chunk { flow, ..chunk });
                let look_due = self.detectors.as_ref().and_then(|detectors| detectors.poll_timeout());
                let is_look_due = look_due.is_some_and(|due| due <= chunk.time);
                if is_look_due || self.observer.is_drain_due() {
                    self.drain();
                }
                if is_look_due && let Some(detectors) = &mut self.detectors {
                    detectors.handle_timeout(&self.observer, chunk.time);
                }
            }
        }
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(observation) = self.observer.poll_observation() {
            if let Some(detectors) = &mut self.detectors {
                detectors.handle_observation(&observation);
                while detectors.poll_finding().is_some() {
                    self.findings += 1;
                }
            }
            match observation {
                Observation::CallStarted(_) => self.started += 1,
                Observation::CallEnded(_) => self.ended += 1,
                Observation::Anomaly(anomaly) => panic!("the recording has no such thing: {anomaly:?}"),
                _ => {}
            }
        }
    }
}

/// The connection is played as its server sees it.
fn is_server(connection: u64) -> bool {
    connection % 2 == 1
}
