//! Takes chunks, keeps the connections, hands out observations.

use std::collections::VecDeque;

use crate::input::{Chunk, ConnectionId, Flow, Timestamp};
use crate::limits::Limits;
use crate::observation::Observation;

/// Follows any number of connections.
///
/// After each `handle_…` call, drain [`Observer::poll_observation`], then ask [`Observer::poll_timeout`].
#[derive(Debug)]
pub struct Observer {
    limits: Limits,
    observations: VecDeque<Observation>,
    trace_frames: bool,
}

impl Observer {
    /// An observer that has seen nothing yet.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Observer { limits, observations: VecDeque::new(), trace_frames: false }
    }

    /// Reports every frame as well ([`Observation::Frame`]).
    pub fn trace_frames(&mut self, on: bool) {
        self.trace_frames = on;
    }

    /// Takes a piece of a flow.
    pub fn handle_chunk(&mut self, chunk: Chunk<'_>) {
        let _ = (chunk, self.trace_frames, &self.limits);
    }

    /// One end of a connection was closed: `flow` will carry nothing more. `reset` says that it was not
    /// orderly, so neither flow will.
    pub fn handle_close(&mut self, connection: ConnectionId, flow: Flow, reset: bool, time: Timestamp) {
        let _ = (connection, flow, reset, time);
    }

    /// Both ends are closed and everything was delivered: the connection is forgotten.
    pub fn handle_end(&mut self, connection: ConnectionId, time: Timestamp) {
        let _ = (connection, time);
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        let _ = now;
    }

    /// Ends every connection, as at the end of a recording: open calls are reported as open.
    pub fn finish(&mut self, now: Timestamp) {
        let _ = now;
    }

    /// The next observation, oldest first.
    pub fn poll_observation(&mut self) -> Option<Observation> {
        self.observations.pop_front()
    }

    /// When [`Observer::handle_timeout`] wants to be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        None
    }
}
