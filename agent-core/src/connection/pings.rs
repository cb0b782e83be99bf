//! PING round trips, by the payload that comes back (RFC 9113 §6.7; checklist L4).
//!
//! A round trip is claimed only if its PING cannot be mistaken for another: payloads repeat (grpc-go's probes all have the same), so
//! after PINGs that may have been missed nothing is claimed until these must have been answered.
//!
//! That a PING has no answer is claimed once it is 20 s old, or when the connection ends before that and it has been under way
//! for a second and for ten of the connection's own shortest round trips: at the end of a connection PINGs are under
//! way that would have been answered. Not claimed where a loss may have eaten the answer; a loss that nothing has told of yet
//! cannot be owned up to.

use std::collections::VecDeque;

use super::Connection;
use super::flow::index;
use crate::http2::frame::{self, FrameHeader};
use crate::input::{Chunk, Flow, Timestamp};
use crate::observation::{Observation, PingAnswered, PingKind, PingUnanswered};
use crate::observer::{Shared, Timer};

/// PINGs of one connection that were not answered yet, by the flow that they were sent in.
#[derive(Debug, Default)]
pub(super) struct Pings {
    senders: [Outstanding; 2],
    /// Shortest round trip, in nanoseconds.
    shortest_ns: Option<u64>,
    /// There is a timer: one for all PINGs.
    has_timer: bool,
}

#[derive(Debug, Default)]
struct Outstanding {
    pings: VecDeque<Sent>,
    /// PINGs from before this time may have been missed.
    trusted_from: Timestamp,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    payload: [u8; 8],
    time: Timestamp,
    /// It was said to have no answer. It stays, so that an answer that comes later belongs to it.
    is_given_up: bool,
}

/// PINGs in flight that are remembered; with more than these nothing is claimed for a while.
const REMEMBERED: usize = 16;

/// A PING without an answer for so long has none: gRPC's default keepalive timeout.
const ANSWERED_NS: u64 = 20_000_000_000;

/// At the end of a connection a PING that was sent later is still under way.
const UNDER_WAY_NS: u64 = 1_000_000_000;
/// The same in round trips of the connection.
const UNDER_WAY_ROUND_TRIPS: u64 = 10;

impl Pings {
    /// Heap bytes that are held now.
    pub(super) fn heap_bytes(&self) -> usize {
        self.senders.iter().map(|sender| sender.pings.capacity() * size_of::<Sent>()).sum()
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

    /// Says if it is remembered.
    fn handle_ping(&mut self, payload: [u8; 8], time: Timestamp) -> bool {
        if time < self.trusted_from {
            return false;
        }
        if self.pings.len() >= REMEMBERED {
            self.distrust(time);
            return false;
        }
        self.pings.push_back(Sent { payload, time, is_given_up: false });
        true
    }

    fn handle_answer(&mut self, payload: [u8; 8]) -> Option<Timestamp> {
        let at = self.pings.iter().position(|sent| sent.payload == payload)?;
        self.pings.remove(at).map(|sent| sent.time)
    }

    /// Gives up PINGs that are as old as this; the oldest comes first.
    fn give_up(&mut self, now: Timestamp, age_ns: u64) -> impl Iterator<Item = Sent> {
        let is_old = move |sent: &&mut Sent| !sent.is_given_up && now.since(sent.time) >= age_ns;
        self.pings.iter_mut().filter(is_old).map(|sent| {
            sent.is_given_up = true;
            *sent
        })
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
            let is_remembered = self.pings.senders[index(chunk.flow)].handle_ping(payload, chunk.time);
            self.remembered_changed = true;
            if is_remembered && !self.pings.has_timer {
                self.pings.has_timer = true;
                shared.set_timer(chunk.time.plus(ANSWERED_NS), Timer::Pings(self.id));
            }
            return;
        }
        let sender = chunk.flow.opposite();
        if let Some(sent) = self.pings.senders[index(sender)].handle_answer(payload) {
            self.stall_notes.round_trips.note(sender, chunk.time.since(sent));
            let round_trip_ns = chunk.time.since(sent);
            let shortest_ns = self.pings.shortest_ns.get_or_insert(round_trip_ns);
            *shortest_ns = round_trip_ns.min(*shortest_ns);
            shared.observations.push_back(Observation::PingAnswered(PingAnswered {
                connection: self.id,
                flow: sender,
                kind: PingKind::of(payload),
                round_trip_ns,
                time: chunk.time,
            }));
        }
    }

    /// The oldest PING may be too old.
    pub(crate) fn handle_pings_timeout(&mut self, now: Timestamp, shared: &mut Shared) {
        self.give_pings_up(now, ANSWERED_NS, shared);
        let pings = self.pings.senders.iter().flat_map(|sender| &sender.pings);
        let oldest = pings.filter(|sent| !sent.is_given_up).map(|sent| sent.time).min();
        self.pings.has_timer = oldest.is_some();
        if let Some(oldest) = oldest {
            shared.set_timer(oldest.plus(ANSWERED_NS), Timer::Pings(self.id));
        }
    }

    /// The connection has ended.
    pub(super) fn finish_pings(&mut self, closed: Timestamp, shared: &mut Shared) {
        let round_trips = self.pings.shortest_ns.map(|ns| ns.saturating_mul(UNDER_WAY_ROUND_TRIPS));
        let under_way_ns = round_trips.map_or(UNDER_WAY_NS, |ns| ns.max(UNDER_WAY_NS));
        self.give_pings_up(closed, under_way_ns, shared);
    }

    fn give_pings_up(&mut self, now: Timestamp, age_ns: u64, shared: &mut Shared) {
        for flow in [Flow::Sent, Flow::Received] {
            // Where the other flow is not seen, its answers are not.
            let is_certain = self.flows[index(flow.opposite())].is_seen_to_its_end();
            for sent in self.pings.senders[index(flow)].give_up(now, age_ns).filter(|_| is_certain) {
                shared.observations.push_back(Observation::PingUnanswered(PingUnanswered {
                    connection: self.id,
                    flow,
                    kind: PingKind::of(sent.payload),
                    sent: sent.time,
                    time: now,
                }));
            }
        }
    }
}
