//! What one shard is to handle next, copied out of the ring, in its order.

use agent_common::ring::Endpoints;
use agent_core::{Chunk, ConnectionId, Flow, SavedConnection, Timestamp};

use crate::budget::Step;
use crate::capture::kernel::Captured;

/// A batch with so many events or more is handed over: enough that the hand-over costs little for each.
const EVENTS: usize = 512;
/// A batch with so many bytes of chunks or more is handed over: it stays in the second-level cache.
const BYTES: usize = 32 << 10;

/// Events and what they refer to, in buffers that are used again.
#[derive(Debug, Default)]
pub(super) struct Batch {
    events: Vec<Event>,
    /// Of the chunks, one after the other.
    bytes: Vec<u8>,
    /// Of the connections that were opened, one after the other.
    endpoints: Vec<Endpoints>,
}

#[derive(Debug)]
enum Event {
    Open { connection: ConnectionId, time: Timestamp, pid: u32, thread: u32 },
    Chunk(ChunkEvent),
    Close { connection: ConnectionId, flow: Flow, reset: bool, is_final: bool, unseen: bool, time: Timestamp },
    LeftOut { connection: ConnectionId, flow: Flow, offset: u64, time: Timestamp },
    Moved { connection: ConnectionId, bytes: u64, missed: u64 },
    Lost { connection: ConnectionId, flow: Flow, records: u32, time: Timestamp },
    Resume(Box<SavedConnection>, Timestamp),
    Begin(Timestamp),
    Timeout(Timestamp),
    Shed(Step, Timestamp),
}

#[derive(Debug)]
struct ChunkEvent {
    connection: ConnectionId,
    offset: u64,
    time: Timestamp,
    pid: u32,
    moved: u32,
    thread: u32,
    len: u32,
    flow: Flow,
    boundary: bool,
}

/// What comes out of a batch.
#[derive(Debug)]
pub(super) enum Item<'a> {
    /// It was captured.
    Captured(Captured<'a>),
    /// An agent before this one knew the connection, which is seen now.
    Resume(SavedConnection, Timestamp),
    /// The first bytes of any connection, of this shard or another, were seen.
    Begin(Timestamp),
    /// All that was captured before it has been handed over.
    Timeout(Timestamp),
    /// What is left out from now on.
    Shed(Step, Timestamp),
}

impl Batch {
    /// Nothing is in it.
    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// It is to be handed over.
    pub(super) fn is_full(&self) -> bool {
        self.events.len() >= EVENTS || self.bytes.len() >= BYTES
    }

    /// Copies what was captured.
    pub(super) fn push(&mut self, captured: &Captured<'_>) {
        self.events.push(match *captured {
            Captured::Open { connection, time, pid, thread, endpoints } => {
                self.endpoints.push(*endpoints);
                Event::Open { connection, time, pid, thread }
            }
            Captured::Chunk { pid, moved, chunk } => {
                let Chunk { connection, flow, offset, time, boundary, thread, bytes } = chunk;
                self.bytes.extend_from_slice(bytes);
                // A record of the ring is shorter than 4 GiB.
                let len = bytes.len() as u32;
                Event::Chunk(ChunkEvent { connection, offset, time, pid, moved, thread, len, flow, boundary })
            }
            Captured::Close { connection, flow, reset, is_final, unseen, time } => {
                Event::Close { connection, flow, reset, is_final, unseen, time }
            }
            Captured::LeftOut { connection, flow, offset, time } => {
                Event::LeftOut { connection, flow, offset, time }
            }
            Captured::Moved { connection, bytes, missed } => Event::Moved { connection, bytes, missed },
            Captured::Lost { connection, flow, records, time } => {
                Event::Lost { connection, flow, records, time }
            }
        });
    }

    /// The connection, of which the next event is, was known before.
    pub(super) fn push_resume(&mut self, saved: SavedConnection, now: Timestamp) {
        self.events.push(Event::Resume(Box::new(saved), now));
    }

    /// Looks of the detectors begin.
    pub(super) fn push_begin(&mut self, now: Timestamp) {
        self.events.push(Event::Begin(now));
    }

    /// Time passes.
    pub(super) fn push_timeout(&mut self, before: Timestamp) {
        self.events.push(Event::Timeout(before));
    }

    /// What is left out from now on.
    pub(super) fn push_shed(&mut self, step: Step, now: Timestamp) {
        self.events.push(Event::Shed(step, now));
    }

    /// Hands out everything in its order; the batch is empty then.
    pub(super) fn play(&mut self, mut take: impl FnMut(Item<'_>)) {
        let (mut bytes, mut endpoints) = (self.bytes.as_slice(), self.endpoints.iter());
        for event in self.events.drain(..) {
            take(match event {
                Event::Open { connection, time, pid, thread } => {
                    // There is one for each.
                    let Some(endpoints) = endpoints.next() else { continue };
                    Item::Captured(Captured::Open { connection, time, pid, thread, endpoints })
                }
                Event::Chunk(of) => {
                    let (chunk_bytes, rest) = bytes.split_at(of.len as usize);
                    bytes = rest;
                    let ChunkEvent { connection, offset, time, pid, moved, thread, flow, boundary, .. } = of;
                    let chunk =
                        Chunk { connection, flow, offset, time, boundary, thread, bytes: chunk_bytes };
                    Item::Captured(Captured::Chunk { pid, moved, chunk })
                }
                Event::Close { connection, flow, reset, is_final, unseen, time } => {
                    Item::Captured(Captured::Close { connection, flow, reset, is_final, unseen, time })
                }
                Event::LeftOut { connection, flow, offset, time } => {
                    Item::Captured(Captured::LeftOut { connection, flow, offset, time })
                }
                Event::Moved { connection, bytes, missed } => {
                    Item::Captured(Captured::Moved { connection, bytes, missed })
                }
                Event::Lost { connection, flow, records, time } => {
                    Item::Captured(Captured::Lost { connection, flow, records, time })
                }
                Event::Resume(saved, now) => Item::Resume(*saved, now),
                Event::Begin(now) => Item::Begin(now),
                Event::Timeout(before) => Item::Timeout(before),
                Event::Shed(step, now) => Item::Shed(step, now),
            });
        }
        self.bytes.clear();
        self.endpoints.clear();
    }
}
