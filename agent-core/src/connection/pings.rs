//! PING round trips, by the payload that comes back (RFC 9113 §6.7; checklist L4).
//!
//! A round trip is claimed only if its PING cannot be mistaken for another: payloads repeat (grpc-go's probes all have the same), so
//! after PINGs that may have been missed nothing is claimed until these must have been answered.

use std::collections::VecDeque;

use super::Connection;
use super::flow::index;
use crate::http2::frame::{self, FrameHeader};
use crate::input::{Chunk, Flow, Timestamp};
use crate::observation::{Observation, PingAnswered, PingKind};
use crate::observer::Shared;

/// PINGs of one connection that were not answered yet, by the flow that they were sent in.
#[derive(Debug, Default)]
pub(super) struct Pings {
    senders: [Outstanding; 2],
}

#[derive(Debug, Default)]
struct Outstanding {
    pings: VecDeque<([u8; 8], Timestamp)>,
    /// PINGs from before this time may have been missed.
    trusted_from: Timestamp,
}

/// PINGs in flight that are remembered; with more than these nothing is claimed for a while.
const REMEMBERED: usize = 16;

/// A PING without an answer for so long has none: gRPC's default keepalive timeout.
const ANSWERED_NS: u64 = 20_000_000_000;

impl Pings {
    /// Heap bytes that are held now.
    pub(super) fn heap_bytes(&self) -> usize {
        self.senders.iter().map(|sender| sender.pings.capacity() * size_of::<([u8; 8], Timestamp)>()).sum()
    }

    /// Frames of `flow` were missed: PINGs of its sender, and answers to the other's.
    pub(super) fn handle_loss(&mut self, flow: Flow, time: Timestamp) {
        self.senders[index(flow)].distrust(time);
        self.senders[index(flow.opposite())].distrust(time);
    }
}

impl Outstanding {
    fn distrust(&mut self, time: Timestamp) {
        self.pings.clear();
        self.trusted_from = time.plus(ANSWERED_NS);
    }

    fn handle_ping(&mut self, payload: [u8; 8], time: Timestamp) {
        if time < self.trusted_from {
            return;
        }
        if self.pings.len() >= REMEMBERED {
            self.distrust(time);
            return;
        }
        self.pings.push_back((payload, time));
    }

    fn handle_answer(&mut self, payload: [u8; 8]) -> Option<Timestamp> {
        let at = self.pings.iter().position(|(sent, _)| *sent == payload)?;
        self.pings.remove(at).map(|(_, time)| time)
    }
}

impl Connection {
    pub(super) fn handle_ping(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
        chunk: &Chunk<'_>,
        shared: &mut Shared,
    ) {
        let Some(payload) = payload.first_chunk::<8>().copied() else {
            self.pings.handle_loss(chunk.flow, chunk.time);
            return;
        };
        if !header.has(frame::ACK) {
            self.pings.senders[index(chunk.flow)].handle_ping(payload, chunk.time);
            self.remembered_changed = true;
            return;
        }
        let sender = chunk.flow.opposite();
        if let Some(sent) = self.pings.senders[index(sender)].handle_answer(payload) {
            self.stall_notes.round_trips.note(sender, chunk.time.since(sent));
            shared.observations.push_back(Observation::PingAnswered(PingAnswered {
                connection: self.id,
                flow: sender,
                kind: PingKind::of(payload),
                round_trip_ns: chunk.time.since(sent),
                time: chunk.time,
            }));
        }
    }
}
