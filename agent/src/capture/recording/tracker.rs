//! The connections of a recording: packets in, [`Event`]s out.
//!
//! A connection appears with its first packet, whatever that is. The same two ends begin a new one with a
//! SYN of another sequence number, as after a port was used again. A connection that ended is remembered for
//! a while, so that its last acknowledgments are not taken for a new one.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;

use agent_core::{Chunk, ConnectionId, Flow, Timestamp};

use super::container::Packet;
use super::dissect::{Segment, dissect};
use super::flow::{Data, FlowReassembly, FlowStatistics, looks_like_the_beginning};
use super::{Endpoints, Event};

/// Connections followed at once; when there are more, those that were silent for longest are given up.
const CONNECTIONS_MAX: usize = 65_536;
/// Share of the connections that is given up at once, so that looking for them is cheap.
const EVICTION_SHARE: usize = 16;
/// Ended connections that are remembered.
const ENDED_MAX: usize = 65_536;
/// Bytes that all flows together may hold back.
const HELD_BYTES_MAX: usize = 64 << 20;

/// What was counted over a recording.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Packets read.
    pub packets: u64,
    /// Bytes of them, as captured.
    pub bytes: u64,
    /// Packets without a usable segment, by reason.
    pub skipped: BTreeMap<&'static str, u64>,
    /// TCP connections seen.
    pub connections: u64,
    /// Connections given up because there were too many.
    pub evicted_connections: u64,
    /// Counts of all flows.
    pub flows: FlowStatistics,
}

impl Statistics {
    /// Adds what another recording counted.
    pub fn add(&mut self, other: &Statistics) {
        self.packets += other.packets;
        self.bytes += other.bytes;
        for (reason, packets) in &other.skipped {
            *self.skipped.entry(reason).or_default() += packets;
        }
        self.connections += other.connections;
        self.evicted_connections += other.evicted_connections;
        add_flow(&mut self.flows, &other.flows);
    }
}

fn add_flow(sum: &mut FlowStatistics, flow: &FlowStatistics) {
    sum.bytes += flow.bytes;
    sum.duplicate_bytes += flow.duplicate_bytes;
    sum.holes += flow.holes;
    sum.hole_bytes += flow.hole_bytes;
    sum.implausible_segments += flow.implausible_segments;
}

/// Follows the connections of a recording.
pub struct Tracker {
    connections: HashMap<EndpointPair, Entry, foldhash::quality::RandomState>,
    ended: VecDeque<(EndpointPair, ConnectionId)>,
    live: usize,
    next_id: u64,
    held_bytes: usize,
    statistics: Statistics,
}

/// The two ends, in an order that does not depend on who sends.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct EndpointPair(SocketAddr, SocketAddr);

impl EndpointPair {
    fn of(segment: &Segment<'_>) -> Self {
        let (a, b) = (segment.source, segment.destination);
        if a <= b { EndpointPair(a, b) } else { EndpointPair(b, a) }
    }
}

/// A connection, or what is remembered of one.
enum Entry {
    Live(Box<Connection>),
    Ended { id: ConnectionId, initial_sequences: Vec<(SocketAddr, u32)> },
}

struct Connection {
    id: ConnectionId,
    endpoints: Endpoints,
    /// By [`index`] of the flow.
    flows: [FlowReassembly; 2],
    initial_sequences: Vec<(SocketAddr, u32)>,
    closed: [bool; 2],
    last_seen: Timestamp,
}

fn index(flow: Flow) -> usize {
    match flow {
        Flow::Sent => 0,
        Flow::Received => 1,
    }
}

impl Tracker {
    /// A tracker whose first connection gets the number `first_id`.
    #[must_use]
    pub fn new(first_id: u64) -> Self {
        Tracker {
            connections: HashMap::default(),
            ended: VecDeque::new(),
            live: 0,
            next_id: first_id,
            held_bytes: 0,
            statistics: Statistics::default(),
        }
    }

    /// What was counted so far, without the flows that are still open.
    #[must_use]
    pub fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    /// Takes the next packet and says what follows from it.
    pub fn handle_packet(&mut self, packet: &Packet<'_>, sink: &mut dyn FnMut(Event<'_>)) {
        self.statistics.packets += 1;
        self.statistics.bytes += packet.data.len() as u64;
        match dissect(packet) {
            Ok(segment) => self.handle_segment(&segment, packet.time, sink),
            Err(reason) => self.skip(reason.name()),
        }
    }

    /// The recording is over: delivers what was held back. Connections stay open; what that means is for
    /// the [`agent_core::Observer`] to say.
    pub fn finish(&mut self, sink: &mut dyn FnMut(Event<'_>)) -> &Statistics {
        let entries = std::mem::take(&mut self.connections);
        let mut open: Vec<Box<Connection>> = entries
            .into_values()
            .filter_map(|entry| match entry {
                Entry::Live(connection) => Some(connection),
                Entry::Ended { .. } => None,
            })
            .collect();
        open.sort_by_key(|connection| connection.id);
        for mut connection in open {
            connection.flush(sink);
            for flow in &connection.flows {
                add_flow(&mut self.statistics.flows, &flow.statistics);
            }
        }
        self.live = 0;
        &self.statistics
    }

    fn skip(&mut self, reason: &'static str) {
        *self.statistics.skipped.entry(reason).or_default() += 1;
    }

    fn handle_segment(&mut self, segment: &Segment<'_>, time: Timestamp, sink: &mut dyn FnMut(Event<'_>)) {
        let pair = EndpointPair::of(segment);
        match self.connections.get(&pair) {
            None => self.open(pair, segment, time, sink),
            Some(entry) if entry.is_begun_anew_by(segment) => {
                self.end(pair, time, sink);
                self.open(pair, segment, time, sink);
            }
            Some(Entry::Live(_)) => {}
            Some(Entry::Ended { .. }) => {
                if segment.wire_bytes > 0 {
                    self.skip("after_close");
                }
                return;
            }
        }
        let Some(Entry::Live(connection)) = self.connections.get_mut(&pair) else { return };
        let held_before = connection.held_bytes();
        let may_hold = self.held_bytes < HELD_BYTES_MAX;
        let ended = connection.handle_segment(segment, time, may_hold, sink);
        self.held_bytes = self.held_bytes - held_before + connection.held_bytes();
        if ended {
            self.end(pair, time, sink);
        }
    }

    fn open(
        &mut self,
        pair: EndpointPair,
        segment: &Segment<'_>,
        time: Timestamp,
        sink: &mut dyn FnMut(Event<'_>),
    ) {
        if self.live >= CONNECTIONS_MAX {
            self.evict(sink);
        }
        let id = ConnectionId(self.next_id);
        self.next_id += 1;
        self.statistics.connections += 1;
        let opened_by = match (segment.syn, segment.acknowledgment) {
            (true, None) => Some(Flow::Sent),
            (true, Some(_)) => Some(Flow::Received),
            (false, _) => None,
        };
        let endpoints = Endpoints { first: segment.source, second: segment.destination, opened_by };
        let connection = Connection {
            id,
            endpoints,
            flows: Default::default(),
            initial_sequences: Vec::new(),
            closed: [false; 2],
            last_seen: time,
        };
        if self.connections.insert(pair, Entry::Live(Box::new(connection))).is_none_or(|old| !old.is_live()) {
            self.live += 1;
        }
        sink(Event::Opened { connection: id, endpoints });
    }

    /// Turns a live connection into a memory of it.
    fn end(&mut self, pair: EndpointPair, time: Timestamp, sink: &mut dyn FnMut(Event<'_>)) {
        let Some(entry) = self.connections.get_mut(&pair) else { return };
        let Entry::Live(connection) = entry else { return };
        self.held_bytes -= connection.held_bytes();
        connection.flush(sink);
        for flow in &connection.flows {
            add_flow(&mut self.statistics.flows, &flow.statistics);
        }
        let id = connection.id;
        sink(Event::Ended { connection: id, time });
        let initial_sequences = std::mem::take(&mut connection.initial_sequences);
        *entry = Entry::Ended { id, initial_sequences };
        self.live -= 1;
        self.ended.push_back((pair, id));
        if self.ended.len() > ENDED_MAX
            && let Some((oldest, oldest_id)) = self.ended.pop_front()
            && matches!(self.connections.get(&oldest), Some(Entry::Ended { id, .. }) if *id == oldest_id)
        {
            self.connections.remove(&oldest);
        }
    }

    /// Gives up the connections that were silent for longest.
    fn evict(&mut self, sink: &mut dyn FnMut(Event<'_>)) {
        let mut silent: Vec<(Timestamp, ConnectionId, EndpointPair)> = self
            .connections
            .iter()
            .filter_map(|(pair, entry)| match entry {
                Entry::Live(connection) => Some((connection.last_seen, connection.id, *pair)),
                Entry::Ended { .. } => None,
            })
            .collect();
        silent.sort_unstable_by_key(|(last_seen, id, _)| (*last_seen, *id));
        silent.truncate(CONNECTIONS_MAX / EVICTION_SHARE);
        for (last_seen, _, pair) in silent {
            self.end(pair, last_seen, sink);
            self.statistics.evicted_connections += 1;
        }
    }
}

impl Entry {
    fn is_live(&self) -> bool {
        matches!(self, Entry::Live(_))
    }

    /// The segment is a SYN with another sequence number than the one that this connection began with.
    fn is_begun_anew_by(&self, segment: &Segment<'_>) -> bool {
        if !segment.syn {
            return false;
        }
        let (known, saw_data) = match self {
            Entry::Live(connection) => {
                (&connection.initial_sequences, connection.flows.iter().any(FlowReassembly::has_begun))
            }
            Entry::Ended { initial_sequences, .. } => (initial_sequences, true),
        };
        match known.iter().find(|(end, _)| *end == segment.source) {
            Some((_, sequence)) => *sequence != segment.sequence,
            // The SYN of an end whose SYN was not seen: late, unless the connection was under way already.
            None => saw_data && segment.acknowledgment.is_none(),
        }
    }
}

impl Connection {
    fn held_bytes(&self) -> usize {
        self.flows.iter().map(FlowReassembly::held_bytes).sum()
    }

    /// Returns whether the connection is over.
    fn handle_segment(
        &mut self,
        segment: &Segment<'_>,
        time: Timestamp,
        may_hold: bool,
        sink: &mut dyn FnMut(Event<'_>),
    ) -> bool {
        self.last_seen = self.last_seen.max(time);
        let flow = if segment.source == self.endpoints.first { Flow::Sent } else { Flow::Received };
        if segment.syn {
            self.handle_syn(segment, flow, sink);
        }
        if let Some(acknowledgment) = segment.acknowledgment {
            let id = self.id;
            let other = flow.opposite();
            let mut deliver = |offset, time, bytes: &[u8]| {
                sink(chunk_event(id, other, offset, time, bytes));
            };
            self.flows[index(other)].handle_acknowledgment(acknowledgment, time, &mut deliver);
        }
        self.handle_data(segment, flow, time, may_hold, sink);
        for flow in [Flow::Sent, Flow::Received] {
            if self.flows[index(flow)].is_complete() && !self.closed[index(flow)] {
                self.closed[index(flow)] = true;
                sink(Event::Closed { connection: self.id, flow, reset: false, time });
            }
        }
        if segment.rst {
            self.flush(sink);
            sink(Event::Closed { connection: self.id, flow, reset: true, time });
            return true;
        }
        self.closed == [true; 2]
    }

    fn handle_syn(&mut self, segment: &Segment<'_>, flow: Flow, sink: &mut dyn FnMut(Event<'_>)) {
        if self.initial_sequences.iter().all(|(end, _)| *end != segment.source) {
            self.initial_sequences.push((segment.source, segment.sequence));
        }
        // RFC 9293 §3.4: the SYN occupies one sequence number, before the first byte.
        self.flows[index(flow)].begin(segment.sequence.wrapping_add(1));
        let opened_by = match segment.acknowledgment {
            None => flow,
            Some(acknowledgment) => {
                self.flows[index(flow.opposite())].begin(acknowledgment);
                flow.opposite()
            }
        };
        if self.endpoints.opened_by.is_none() {
            self.endpoints.opened_by = Some(opened_by);
            sink(Event::Updated { connection: self.id, endpoints: self.endpoints });
        }
    }

    fn handle_data(
        &mut self,
        segment: &Segment<'_>,
        flow: Flow,
        time: Timestamp,
        may_hold: bool,
        sink: &mut dyn FnMut(Event<'_>),
    ) {
        if segment.rst || (segment.wire_bytes == 0 && !segment.fin) {
            return;
        }
        // Data that travels with a SYN (RFC 7413) stands after it.
        let sequence = segment.sequence.wrapping_add(u32::from(segment.syn));
        let other_begins = self.flows[index(flow.opposite())].is_from_the_beginning();
        let state = &mut self.flows[index(flow)];
        if !state.has_begun() {
            if looks_like_the_beginning(segment.data, other_begins) {
                state.begin(sequence);
            } else {
                state.join(sequence);
            }
        }
        let id = self.id;
        let data = Data { sequence, bytes: segment.data, wire_bytes: segment.wire_bytes, fin: segment.fin };
        let mut deliver = |offset, time, bytes: &[u8]| sink(chunk_event(id, flow, offset, time, bytes));
        state.handle_data(data, time, may_hold, &mut deliver);
    }

    /// Delivers what is held back.
    fn flush(&mut self, sink: &mut dyn FnMut(Event<'_>)) {
        let (id, time) = (self.id, self.last_seen);
        for flow in [Flow::Sent, Flow::Received] {
            let mut deliver = |offset, time, bytes: &[u8]| sink(chunk_event(id, flow, offset, time, bytes));
            self.flows[index(flow)].flush(time, &mut deliver);
        }
    }
}

fn chunk_event(
    connection: ConnectionId,
    flow: Flow,
    offset: u64,
    time: Timestamp,
    bytes: &[u8],
) -> Event<'_> {
    Event::Chunk(Chunk { connection, flow, offset, time, boundary: false, thread: 0, bytes })
}

#[cfg(test)]
mod tests;
