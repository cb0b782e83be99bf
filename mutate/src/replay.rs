//! Replays what is left of a conversation, the way that `grpcscope replay` takes, and collects what is said of it.

use agent::capture::recording::{Event, Packet, Tracker};
use agent_core::observation::{Call, Exchange};
use agent_core::{Chunk, ConnectionId, Flow, Limits, Observation, Observer, Timestamp};

use crate::recording::{RecordedPacket, index};

/// A call, and what could be known when it was reported.
#[derive(Clone, Debug)]
pub struct Reported {
    /// The call.
    pub call: Call,
    /// Bytes were lost that nothing had told of yet: a lost record is told by the next one of its flow.
    pub unaware: bool,
}

/// An observer, and what it has said so far.
#[derive(Debug)]
pub struct Watch {
    observer: Observer,
    ending_ns: u64,
    latest: Timestamp,
    /// By flow: bytes were lost, and nothing has told of it yet.
    untold: [bool; 2],
    /// Calls that ended, in the order in which that was said.
    pub calls: Vec<Reported>,
    /// Exchanges that are not gRPC, or not known to be.
    pub exchanges: Vec<Exchange>,
}

impl Default for Watch {
    fn default() -> Self {
        let limits = Limits::default();
        let ending_ns = limits.ending_ns;
        Watch {
            observer: Observer::new(limits),
            ending_ns,
            latest: Timestamp(0),
            untold: [false; 2],
            calls: Vec::new(),
            exchanges: Vec::new(),
        }
    }
}

impl Watch {
    /// When the last of what was handled happened.
    #[must_use]
    pub fn latest(&self) -> Timestamp {
        self.latest
    }

    /// Takes a piece of a flow.
    pub fn handle_chunk(&mut self, chunk: Chunk<'_>) {
        self.observer.handle_chunk(chunk);
    }

    /// Bytes of this flow were lost and nothing tells of it yet; or now something has.
    pub fn set_untold(&mut self, flow: Flow, untold: bool) {
        self.untold[index(flow)] = untold;
    }

    /// A flow carries nothing more.
    pub fn handle_close(&mut self, connection: ConnectionId, time: Timestamp) {
        self.observer.handle_close(connection, time);
    }

    /// Both flows carry nothing more.
    pub fn handle_end(&mut self, connection: ConnectionId, time: Timestamp) {
        self.observer.handle_end(connection, time);
    }

    /// The time goes on to `now`.
    pub fn handle_time(&mut self, now: Timestamp) {
        self.latest = self.latest.max(now);
        self.observer.handle_timeout(self.latest);
        self.drain();
    }

    /// Nothing follows.
    #[must_use]
    pub fn finish(mut self) -> Watch {
        self.observer.handle_timeout(self.latest.plus(self.ending_ns));
        self.observer.finish(self.latest);
        self.drain();
        self
    }

    fn handle_event(&mut self, event: &Event<'_>) {
        match *event {
            Event::Chunk(chunk) => self.handle_chunk(chunk),
            Event::Closed { connection, time, .. } => self.handle_close(connection, time),
            Event::Ended { connection, time } => self.handle_end(connection, time),
            Event::Opened { .. } | Event::Updated { .. } => {}
        }
    }

    fn drain(&mut self) {
        while let Some(observation) = self.observer.poll_observation() {
            match observation {
                Observation::CallEnded(call) => {
                    self.calls.push(Reported { call: *call, unaware: self.untold != [false; 2] });
                }
                Observation::ExchangeEnded(exchange) => self.exchanges.push(exchange),
                // What is said of connections and frames is not judged.
                _ => {}
            }
        }
    }
}

/// A packet on its way.
#[derive(Clone, Copy, Debug)]
pub enum Sent<'a> {
    /// It comes, from this end.
    Seen(Packet<'a>, Flow),
    /// It was lost, with the data that it carried.
    Lost(&'a RecordedPacket),
}

/// Replays packets through TCP reassembly.
pub fn packets<'a>(packets: impl IntoIterator<Item = Sent<'a>>) -> Watch {
    let mut watch = Watch::default();
    let mut tracker = Tracker::new(0);
    // A loss is told by the first bytes behind it, or by an acknowledgment.
    let mut ends = [None; 2];
    let mut first = None;
    for packet in packets {
        match packet {
            Sent::Seen(packet, sender) => {
                // For the reassembly, whoever is seen first is the one who sends.
                let first = *first.get_or_insert(sender);
                let sender_of = |flow| if flow == Flow::Sent { first } else { first.opposite() };
                tracker.handle_packet(&packet, &mut |event| {
                    if let Event::Chunk(chunk) = event {
                        let end = chunk.offset + chunk.bytes.len() as u64;
                        if ends[index(chunk.flow)].replace(end).is_some_and(|before| before < chunk.offset) {
                            watch.untold[index(sender_of(chunk.flow))] = false;
                        }
                    }
                    watch.handle_event(&event);
                });
                watch.handle_time(packet.time);
            }
            Sent::Lost(packet) => watch.untold[index(packet.sender)] |= packet.payload_bytes > 0,
        }
    }
    tracker.finish(&mut |event| watch.handle_event(&event));
    watch.finish()
}

/// Replays packets as they were recorded.
pub fn whole(recorded: &[RecordedPacket]) -> Watch {
    packets(recorded.iter().map(|packet| Sent::Seen(packet.packet(), packet.sender)))
}
