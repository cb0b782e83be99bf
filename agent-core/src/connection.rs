//! One connection: two flows of frames, two HPACK contexts, and the streams that both belong to.

use std::collections::{HashMap, VecDeque};

use foldhash::quality::RandomState;

use crate::call::{Peer, Stream};
use crate::grpc_requests::GrpcRequests;
use crate::header_block::HeaderBlock;
use crate::hpack::{Decoder, ListLimits, Text};
use crate::http2::frame::{self, FrameFault, FrameHeader};
use crate::http2::reader::{Event, FrameReader, Piece};
use crate::http2::settings;
use crate::input::{Chunk, ConnectionId, Flow, Timestamp};
use crate::methods::Shapes;
use crate::observation::{
    Anomaly, ConnectionStatus, ConnectionSummary, Exchange, FieldSeen, FlowSummary, FrameSeen, Observation,
    Protocol, Sync,
};
use crate::observer::{Shared, Timer};
use crate::unseen::UnseenStreams;

/// A connection of which at least one byte was seen.
#[derive(Debug)]
pub(crate) struct Connection {
    id: ConnectionId,
    flows: [FlowState; 2],
    /// Which flow comes from the client, once it is known.
    client_flow: Option<Flow>,
    /// It was shown to be HTTP/2: by the preface and SETTINGS, or by a header block that makes sense.
    recognised: bool,
    streams: HashMap<u32, Stream, RandomState>,
    unseen: UnseenStreams,
    shapes: Shapes,
    grpc_requests: GrpcRequests,
    /// Last stream id of the server's last GOAWAY.
    goaway: Option<u32>,
    calls: u64,
    opened: Timestamp,
    /// When the last byte was seen.
    pub(crate) last_seen: Timestamp,
    /// When it was first said to be closing.
    closing: Option<Timestamp>,
    reported: Option<(Option<Flow>, Sync)>,
}

/// One flow.
#[derive(Debug)]
struct FlowState {
    reader: FrameReader,
    hpack: Decoder,
    /// End of what was seen; `None` before the first chunk.
    next_offset: Option<u64>,
    /// A header block that is being collected (RFC 9113 §4.3).
    block: Option<PartialBlock>,
    /// SETTINGS_HEADER_TABLE_SIZE in force for this flow's encoder, if it is known.
    table_size: Option<u32>,
    /// The same as sent by the other side and not yet acknowledged in this flow; an entry for each SETTINGS frame.
    table_sizes: VecDeque<Option<u32>>,
    frames: u64,
    header_blocks: u64,
    bytes: u64,
    hole_bytes: u64,
    desyncs: u64,
}

#[derive(Debug)]
struct PartialBlock {
    first: FrameHeader,
    fragments: Vec<u8>,
    /// A part is missing or did not fit: the block cannot be decoded.
    unreadable: bool,
}

/// SETTINGS frames that may be unacknowledged at once before the oldest is taken as acknowledged.
const UNACKNOWLEDGED_SETTINGS: usize = 16;

/// Initial value of SETTINGS_HEADER_TABLE_SIZE (RFC 9113 §6.5.2).
const DEFAULT_TABLE_SIZE: u32 = 4_096;

fn index(flow: Flow) -> usize {
    match flow {
        Flow::Sent => 0,
        Flow::Received => 1,
    }
}

impl FlowState {
    fn new(shared: &Shared) -> FlowState {
        let limits = &shared.limits;
        FlowState {
            reader: FrameReader::at_start(limits.header_block_bytes),
            hpack: Decoder::synced(limits.hpack_table_bytes),
            next_offset: None,
            block: None,
            table_size: Some(DEFAULT_TABLE_SIZE),
            table_sizes: VecDeque::new(),
            frames: 0,
            header_blocks: 0,
            bytes: 0,
            hole_bytes: 0,
            desyncs: 0,
        }
    }

    /// The peer may use a larger table as soon as it has read that it may, and must not use a larger one
    /// than it was told once it has acknowledged that (RFC 9113 §6.5.3): until then both are allowed.
    fn apply_table_size(&mut self) {
        if let Some(acknowledged) = self.table_size {
            let largest = self.table_sizes.iter().flatten().fold(acknowledged, |a, b| a.max(*b));
            self.hpack.set_settings_limit(largest);
        }
    }

    fn sync(&self) -> Sync {
        if self.reader.is_lost() {
            Sync::Desynced
        } else if self.hpack.is_fully_known() {
            Sync::Synced
        } else {
            Sync::Late
        }
    }

    fn summary(&self) -> FlowSummary {
        FlowSummary {
            sync: self.sync(),
            frames: self.frames,
            header_blocks: self.header_blocks,
            bytes: self.bytes,
            hole_bytes: self.hole_bytes,
            desyncs: self.desyncs,
        }
    }
}

impl Connection {
    pub(crate) fn new(id: ConnectionId, time: Timestamp, shared: &Shared) -> Connection {
        Connection {
            id,
            flows: [FlowState::new(shared), FlowState::new(shared)],
            client_flow: None,
            recognised: false,
            streams: HashMap::default(),
            unseen: UnseenStreams::default(),
            shapes: Shapes::default(),
            grpc_requests: GrpcRequests::default(),
            goaway: None,
            calls: 0,
            opened: time,
            last_seen: time,
            closing: None,
            reported: None,
        }
    }

    /// Takes the next piece of one flow.
    pub(crate) fn handle_chunk(&mut self, chunk: &Chunk<'_>, shared: &mut Shared) {
        self.last_seen = self.last_seen.max(chunk.time);
        let state = &mut self.flows[index(chunk.flow)];
        let mut bytes = chunk.bytes;
        let mut hole = 0;
        match state.next_offset {
            None if chunk.offset > 0 => {
                // Joined in the middle: everything that this flow has carried so far is unknown.
                state.reader = FrameReader::in_the_middle(shared.limits.header_block_bytes);
                state.hpack = Decoder::late(shared.limits.hpack_table_bytes);
                state.table_size = None;
                if self.client_flow == Some(chunk.flow) || self.client_flow.is_none() {
                    self.unseen.handle_loss();
                }
            }
            None => {}
            Some(next) if chunk.offset >= next => hole = chunk.offset - next,
            Some(next) => {
                let seen = usize::try_from(next - chunk.offset).unwrap_or(usize::MAX);
                bytes = bytes.get(seen..).unwrap_or_default();
            }
        }
        let end = chunk.offset.saturating_add(chunk.bytes.len() as u64);
        state.next_offset = Some(state.next_offset.map_or(end, |next| next.max(end)));
        state.bytes += bytes.len() as u64;
        state.hole_bytes += hole;
        if state.reader.is_not_http2() {
            return;
        }
        if hole > 0 {
            if state.reader.is_lost() {
                self.handle_unread(chunk, shared);
            } else {
                self.read(chunk, Piece::Hole(hole), shared);
            }
        }
        if !bytes.is_empty() {
            let state = &mut self.flows[index(chunk.flow)];
            let _ = state.reader.start_chunk(chunk.boundary, bytes);
            if state.reader.is_lost() {
                self.handle_unread(chunk, shared);
            } else {
                self.read(chunk, Piece::Bytes(bytes), shared);
            }
        }
        self.report_status(chunk.time, shared);
    }

    /// One of its ends was closed: calls that do not end by themselves until it is finished were aborted.
    pub(crate) fn handle_close(&mut self, time: Timestamp) {
        self.closing = Some(self.closing.map_or(time, |earlier| earlier.min(time)));
    }

    /// Reports everything that is left. `lost` says that the connection did not end but was given up.
    pub(crate) fn finish(&mut self, time: Timestamp, how: Finish, shared: &mut Shared) {
        let closed = self.closing;
        let mut ids: Vec<u32> = self.streams.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            let Some(mut stream) = self.streams.remove(&id) else { continue };
            if !stream.has_ended() {
                match (how, closed) {
                    (Finish::Ended, _) => stream.handle_abort(closed.unwrap_or(time)),
                    (Finish::EndOfObservation, Some(closed)) => stream.handle_abort(closed),
                    (Finish::EndOfObservation, None) => {}
                    (Finish::Evicted, _) => stream.give_up(time),
                }
            }
            stream.handle_moment_passed();
            self.report(id, stream, shared);
        }
        let summary = ConnectionSummary {
            connection: self.id,
            client_flow: self.client_flow,
            flows: [self.flows[0].summary(), self.flows[1].summary()],
            calls: self.calls,
            opened: self.opened,
            closed: closed.unwrap_or(self.last_seen),
            http2: self.recognised,
        };
        shared.observations.push_back(Observation::ConnectionEnded(Box::new(summary)));
    }

    /// Streams that are followed now.
    pub(crate) fn open_streams(&self) -> usize {
        self.streams.len()
    }

    /// The moment in which the rest of an ended stream could arrive has passed, or a stream of which bytes
    /// were lost was silent for long.
    pub(crate) fn handle_stream_timeout(&mut self, id: u32, time: Timestamp, shared: &mut Shared) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.is_ending() {
            stream.handle_moment_passed();
            self.remove(id, shared);
        } else if stream.uncertain {
            let due = stream.last_seen.plus(shared.limits.uncertain_call_ns);
            if due > time {
                shared.set_timer(due, Timer::Stream(self.id, id));
            } else {
                stream.give_up(time);
                self.remove(id, shared);
            }
        }
    }

    fn read(&mut self, chunk: &Chunk<'_>, mut piece: Piece<'_>, shared: &mut Shared) {
        let at = index(chunk.flow);
        // The reader is taken out, so that its events can borrow from it while the connection changes.
        let mut reader = std::mem::replace(&mut self.flows[at].reader, FrameReader::at_start(0));
        let mut give_up = false;
        while let Some(event) = reader.next(&mut piece) {
            if let Verdict::BoundaryWasWrong = self.handle_event(event, chunk, shared) {
                give_up = true;
                break;
            }
        }
        if give_up {
            reader.lose_boundary();
            self.handle_boundary_lost(chunk, shared);
        }
        self.flows[at].reader = reader;
    }

    fn handle_event(&mut self, event: Event<'_>, chunk: &Chunk<'_>, shared: &mut Shared) -> Verdict {
        match event {
            Event::Preface => self.client_flow = Some(chunk.flow),
            Event::Frame(header, payload) => return self.handle_frame(header, payload, true, chunk, shared),
            Event::PartialFrame(header, payload) => {
                return self.handle_frame(header, payload, false, chunk, shared);
            }
            Event::DataStart(header) => {
                self.flows[index(chunk.flow)].frames += 1;
                self.check_continuation(header, chunk, shared);
                if let Some(fault) = header.fault() {
                    self.anomaly(header.stream, fault.kind(), chunk, shared);
                }
            }
            Event::Data(header, bytes) => {
                if let Some((stream, peer)) = self.stream_of_data(header, chunk, shared) {
                    stream.messages(peer).handle_bytes(bytes);
                }
            }
            Event::DataHole(header, len) => {
                if let Some((stream, peer)) = self.stream_of_data(header, chunk, shared) {
                    stream.messages(peer).handle_hole(len);
                }
            }
            Event::DataEnd(header) => {
                self.trace(header, &[], None, chunk, shared);
                if header.has(frame::END_STREAM)
                    && let Some((stream, peer)) = self.stream_of_data(header, chunk, shared)
                {
                    stream.handle_end_of_data(peer, chunk.time);
                    self.settle(header.stream, chunk.time, shared);
                }
            }
            Event::BadPadding(header) => {
                self.anomaly(header.stream, FrameFault::Padding.kind(), chunk, shared);
            }
            Event::BoundaryLost => self.handle_boundary_lost(chunk, shared),
            Event::BoundaryFound => {}
            Event::NotHttp2 => self.anomaly(0, "not_http2", chunk, shared),
        }
        Verdict::Fine
    }

    fn handle_frame(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
        whole: bool,
        chunk: &Chunk<'_>,
        shared: &mut Shared,
    ) -> Verdict {
        self.flows[index(chunk.flow)].frames += 1;
        if header.kind != frame::CONTINUATION {
            self.check_continuation(header, chunk, shared);
        }
        if let Some(fault) = header.fault() {
            self.anomaly(header.stream, fault.kind(), chunk, shared);
            if header.carries_header_block() {
                self.lose_header_block(chunk, shared);
            }
            self.trace(header, payload, None, chunk, shared);
            return Verdict::Fine;
        }
        if header.carries_header_block() {
            return self.handle_header_fragment(header, payload, whole, chunk, shared);
        }
        match header.kind {
            frame::SETTINGS if whole => self.handle_settings(header, payload, chunk),
            frame::RST_STREAM => {
                if let Some(code) = frame::u32_at(payload, 0) {
                    self.handle_rst_stream(header.stream, code, chunk, shared);
                }
            }
            frame::GOAWAY => self.handle_goaway(payload, chunk, shared),
            // PRIORITY, PING and WINDOW_UPDATE say nothing about calls; unknown types are skipped.
            _ => {}
        }
        self.trace(header, payload, None, chunk, shared);
        Verdict::Fine
    }

    fn handle_settings(&mut self, header: FrameHeader, payload: &[u8], chunk: &Chunk<'_>) {
        if self.client_flow == Some(chunk.flow) {
            self.recognised = true;
        }
        if header.has(frame::ACK) {
            let state = &mut self.flows[index(chunk.flow)];
            if let Some(Some(size)) = state.table_sizes.pop_front() {
                state.table_size = Some(size);
                state.apply_table_size();
            }
            return;
        }
        let size = settings::entries(payload)
            .filter(|(id, _)| *id == settings::HEADER_TABLE_SIZE)
            .last()
            .map(|(_, size)| size);
        let other = &mut self.flows[index(chunk.flow.opposite())];
        if other.table_sizes.len() >= UNACKNOWLEDGED_SETTINGS {
            other.table_sizes.pop_front();
        }
        other.table_sizes.push_back(size);
        if size.is_some() {
            other.apply_table_size();
        }
    }

    fn handle_rst_stream(&mut self, id: u32, code: u32, chunk: &Chunk<'_>, shared: &mut Shared) {
        let Some(peer) = self.peer(chunk.flow) else { return };
        if let Some(stream) = self.stream_if_followed(id, chunk.time, shared) {
            stream.handle_reset(peer, code, chunk.time);
            self.settle(id, chunk.time, shared);
        }
    }

    fn handle_goaway(&mut self, payload: &[u8], chunk: &Chunk<'_>, shared: &mut Shared) {
        let Some(last) = frame::u32_at(payload, 0) else { return };
        if self.peer(chunk.flow) != Some(Peer::Server) {
            return;
        }
        let last = last & 0x7fff_ffff;
        self.goaway = Some(last);
        let mut refused: Vec<u32> = self
            .streams
            .iter()
            .filter(|(id, stream)| **id > last && !stream.has_ended() && stream.has_request())
            .map(|(id, _)| *id)
            .collect();
        refused.sort_unstable();
        for id in refused {
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.handle_refused(chunk.time);
            }
            self.settle(id, chunk.time, shared);
        }
    }

    /// Between HEADERS and the end of its block only CONTINUATION of the same stream may come (checklist F3).
    fn check_continuation(&mut self, header: FrameHeader, chunk: &Chunk<'_>, shared: &mut Shared) {
        if self.flows[index(chunk.flow)].block.is_some() {
            self.anomaly(header.stream, "header_block_interrupted", chunk, shared);
            self.lose_header_block(chunk, shared);
        }
    }

    fn handle_header_fragment(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
        whole: bool,
        chunk: &Chunk<'_>,
        shared: &mut Shared,
    ) -> Verdict {
        let at = index(chunk.flow);
        let fragment = match frame::header_block_fragment(header, payload) {
            Ok(fragment) if whole => Some(fragment),
            Ok(_) => None,
            Err(fault) => {
                if whole {
                    self.anomaly(header.stream, fault.kind(), chunk, shared);
                }
                None
            }
        };
        let ends = header.has(frame::END_HEADERS);
        let pending = self.flows[at].block.take();
        let mut block = match (pending, header.kind) {
            (None, frame::CONTINUATION) => {
                // Its HEADERS were not seen, or the block was given up.
                self.flows[at].hpack.start_epoch();
                if self.flows[at].sync() == Sync::Synced {
                    self.anomaly(header.stream, "continuation_without_headers", chunk, shared);
                }
                self.trace(header, payload, None, chunk, shared);
                return Verdict::Fine;
            }
            (Some(block), frame::CONTINUATION) if block.first.stream == header.stream => block,
            (Some(_), _) => {
                self.anomaly(header.stream, "header_block_interrupted", chunk, shared);
                self.lose_header_block(chunk, shared);
                return Verdict::Fine;
            }
            (None, _) if ends => {
                // The usual case, without a copy.
                return self.handle_block(header, header, fragment, chunk, shared);
            }
            (None, _) => PartialBlock { first: header, fragments: Vec::new(), unreadable: false },
        };
        match fragment {
            Some(fragment)
                if !block.unreadable
                    && block.fragments.len() + fragment.len() <= shared.limits.header_block_bytes =>
            {
                block.fragments.extend_from_slice(fragment);
            }
            Some(_) if !block.unreadable => {
                block.unreadable = true;
                block.fragments = Vec::new();
                self.anomaly(header.stream, "header_block_too_long", chunk, shared);
            }
            Some(_) | None => block.unreadable = true,
        }
        if !ends {
            self.trace(header, payload, None, chunk, shared);
            self.flows[at].block = Some(block);
            return Verdict::Fine;
        }
        let fragments = (!block.unreadable).then_some(block.fragments.as_slice());
        self.handle_block(block.first, header, fragments, chunk, shared)
    }

    /// A header block is complete: `first` began it, `last` ended it. Without `fragments` it is unreadable.
    fn handle_block(
        &mut self,
        first: FrameHeader,
        last: FrameHeader,
        fragments: Option<&[u8]>,
        chunk: &Chunk<'_>,
        shared: &mut Shared,
    ) -> Verdict {
        let state = &mut self.flows[index(chunk.flow)];
        state.header_blocks += 1;
        let mut block = HeaderBlock::new(shared.trace_frames);
        let list_limits =
            ListLimits { bytes: shared.limits.header_list_bytes, fields: shared.limits.header_list_fields };
        let methods = &mut shared.methods;
        let decoded = fragments.map(|fragments| {
            let trace = shared.trace_frames;
            let wants = |name: Text<'_>| trace || name.known().is_some_and(HeaderBlock::wants);
            state.hpack.decode_wanted(fragments, list_limits, wants, |field| {
                block.handle_field(&field, methods);
            })
        });
        if shared.methods.take_limit_hit() {
            self.anomaly(first.stream, "methods_limit", chunk, shared);
        }
        let end_stream = first.kind == frame::HEADERS && first.has(frame::END_STREAM);
        match decoded {
            Some(Ok(_)) => {
                self.learn_role(&block, chunk.flow);
                self.trace(last, &[], Some(Ok(block.trace.take().unwrap_or_default())), chunk, shared);
                if first.kind == frame::HEADERS {
                    self.handle_headers(first.stream, &block, end_stream, chunk, shared);
                }
                Verdict::Fine
            }
            Some(Err(error)) => {
                self.trace(last, &[], Some(Err(error.to_string())), chunk, shared);
                self.anomaly(first.stream, "hpack", chunk, shared);
                if !self.recognised {
                    return Verdict::BoundaryWasWrong;
                }
                self.handle_unreadable_headers(first, end_stream, chunk, shared);
                Verdict::Fine
            }
            None => {
                self.flows[index(chunk.flow)].hpack.start_epoch();
                self.trace(last, &[], Some(Ok(Vec::new())), chunk, shared);
                self.handle_unreadable_headers(first, end_stream, chunk, shared);
                Verdict::Fine
            }
        }
    }

    /// A header block with pseudo-header fields tells which flow is the client's (checklist C3).
    fn learn_role(&mut self, block: &HeaderBlock, flow: Flow) {
        if self.client_flow.is_none() {
            self.client_flow = match (block.is_request, block.is_response) {
                (true, _) => Some(flow),
                (false, true) => Some(flow.opposite()),
                (false, false) => None,
            };
        }
    }

    fn handle_headers(
        &mut self,
        id: u32,
        block: &HeaderBlock,
        end_stream: bool,
        chunk: &Chunk<'_>,
        shared: &mut Shared,
    ) {
        let Some(peer) = self.peer(chunk.flow) else { return };
        self.recognised = true;
        if id.is_multiple_of(2) {
            return; // Pushed: gRPC has no use for it. Its block was decoded, which is what matters (F5).
        }
        if block.repeated_status {
            self.anomaly(id, "grpc_status_repeated", chunk, shared);
        }
        match peer {
            Peer::Client if block.is_request => {
                self.handle_request(id, Some(block), end_stream, chunk, shared)
            }
            Peer::Client => {
                if end_stream && let Some(stream) = self.stream_if_followed(id, chunk.time, shared) {
                    stream.handle_end_of_request();
                    self.settle(id, chunk.time, shared);
                }
            }
            Peer::Server => {
                if let Some(stream) = self.stream_if_followed(id, chunk.time, shared) {
                    stream.handle_response(block, end_stream, chunk.time);
                    self.settle(id, chunk.time, shared);
                }
            }
        }
    }

    fn handle_unreadable_headers(
        &mut self,
        first: FrameHeader,
        end_stream: bool,
        chunk: &Chunk<'_>,
        shared: &mut Shared,
    ) {
        let id = first.stream;
        if first.kind != frame::HEADERS || id.is_multiple_of(2) {
            return;
        }
        match self.peer(chunk.flow) {
            None => {}
            Some(Peer::Client) if self.unseen.is_new(id) => {
                self.handle_request(id, None, end_stream, chunk, shared);
            }
            Some(Peer::Client) => {
                if end_stream && let Some(stream) = self.stream_if_followed(id, chunk.time, shared) {
                    stream.handle_end_of_request();
                    self.settle(id, chunk.time, shared);
                }
            }
            Some(Peer::Server) => {
                if let Some(stream) = self.stream_if_followed(id, chunk.time, shared) {
                    stream.handle_unreadable_response(end_stream, chunk.time);
                    self.settle(id, chunk.time, shared);
                }
            }
        }
    }

    fn handle_request(
        &mut self,
        id: u32,
        block: Option<&HeaderBlock>,
        end_stream: bool,
        chunk: &Chunk<'_>,
        shared: &mut Shared,
    ) {
        let known = self.streams.contains_key(&id);
        if known && self.streams.get(&id).is_some_and(Stream::has_request) {
            // A second header block from the client: trailers, whatever they hold.
            if end_stream && let Some(stream) = self.streams.get_mut(&id) {
                stream.handle_end_of_request();
                self.settle(id, chunk.time, shared);
            }
            return;
        }
        if !known && !self.unseen.is_new(id) {
            self.anomaly(id, "stream_id_reused", chunk, shared);
            return;
        }
        self.unseen.handle_request(id);
        if !known && self.streams.len() >= shared.limits.streams_per_connection {
            self.anomaly(id, "streams_limit", chunk, shared);
            return;
        }
        let same_content_type = block.is_some_and(|block| {
            block.protocol.is_none() && self.grpc_requests.include(&block.unknown_fields)
        });
        let stream = self.streams.entry(id).or_insert_with(|| Stream::new(chunk.time, false));
        match block {
            Some(block) => {
                stream.handle_request(block, chunk.thread, chunk.time);
                if same_content_type {
                    stream.handle_known_content_type();
                }
                if block.timeout == Some(crate::observation::Timeout::Invalid) {
                    self.anomaly(id, "timeout_syntax", chunk, shared);
                }
            }
            None => stream.handle_unreadable_request(chunk.thread, chunk.time),
        }
        if end_stream && let Some(stream) = self.streams.get_mut(&id) {
            stream.handle_end_of_request();
        }
        if self.goaway.is_some_and(|last| id > last)
            && let Some(stream) = self.streams.get_mut(&id)
        {
            stream.handle_refused(chunk.time);
        }
        self.settle(id, chunk.time, shared);
    }

    /// The stream that a frame belongs to, if it is open or may have been opened unseen.
    fn stream_if_followed(&mut self, id: u32, time: Timestamp, shared: &mut Shared) -> Option<&mut Stream> {
        if !self.streams.contains_key(&id) {
            let is_new = self.unseen.is_new(id);
            let joined_late = self.unseen.may_have_been_missed(id);
            if id.is_multiple_of(2) || !(is_new || joined_late) {
                return None; // Closed, reset or never opened: ignored, without state (checklist S5).
            }
            if self.streams.len() >= shared.limits.streams_per_connection {
                return None;
            }
            let mut stream = Stream::new(time, joined_late);
            stream.uncertain = joined_late;
            self.streams.insert(id, stream);
            shared.set_timer(time.plus(shared.limits.request_due_ns), Timer::Request(self.id, id));
        }
        let stream = self.streams.get_mut(&id)?;
        stream.last_seen = time;
        Some(stream)
    }

    /// A response came before its request, and the request has not come since.
    pub(crate) fn handle_request_overdue(&mut self, id: u32, time: Timestamp, shared: &mut Shared) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.has_request() {
            return;
        }
        stream.uncertain = true;
        if stream.is_ending() {
            stream.handle_moment_passed();
            self.remove(id, shared);
        } else {
            shared.set_timer(time.plus(shared.limits.uncertain_call_ns), Timer::Stream(self.id, id));
        }
    }

    fn stream_of_data(
        &mut self,
        header: FrameHeader,
        chunk: &Chunk<'_>,
        shared: &mut Shared,
    ) -> Option<(&mut Stream, Peer)> {
        let peer = self.peer(chunk.flow)?;
        let stream = self.stream_if_followed(header.stream, chunk.time, shared)?;
        // What is sent after a reset is not part of the call (checklist G9, D5).
        (!stream.is_reset()).then_some((stream, peer))
    }

    /// After a change of a stream: says that it started, and that it ended once that is certain.
    fn settle(&mut self, id: u32, time: Timestamp, shared: &mut Shared) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if let Some(client_flow) = self.client_flow
            && let Some(started) = stream.take_started(self.id, id, client_flow)
        {
            shared.observations.push_back(Observation::CallStarted(started));
        }
        if stream.is_complete() {
            self.remove(id, shared);
        } else if stream.is_ending() && stream.has_request() {
            shared.set_timer(time.plus(shared.limits.ending_ns), Timer::Stream(self.id, id));
        }
    }

    fn remove(&mut self, id: u32, shared: &mut Shared) {
        if let Some(stream) = self.streams.remove(&id) {
            self.unseen.handle_end(id);
            self.report(id, stream, shared);
        }
    }

    fn report(&mut self, id: u32, mut stream: Stream, shared: &mut Shared) {
        if self.grpc_requests.include(stream.unknown_fields()) {
            stream.handle_known_content_type();
        }
        let protocol = stream.protocol();
        if protocol != Protocol::Grpc {
            // Not gRPC, or nothing tells: counted, not invented.
            shared.observations.push_back(Observation::ExchangeEnded(Exchange {
                connection: self.id,
                stream: id,
                protocol,
                client_flow: self.client_flow,
                http_status: stream.http_status(),
                time: stream.last_seen,
            }));
            return;
        }
        self.calls += 1;
        self.grpc_requests.learn(stream.unknown_fields());
        let call = stream.call(self.id, id, self.client_flow, &mut self.shapes);
        if !stream.was_reported()
            && let Some(client_flow) = self.client_flow
        {
            shared.observations.push_back(Observation::CallStarted(crate::observation::CallStarted {
                connection: self.id,
                stream: id,
                client_flow,
                method: call.method.clone(),
                timeout: call.timeout,
                time: call.started.unwrap_or(call.first_seen),
            }));
        }
        shared.observations.push_back(Observation::CallEnded(Box::new(call)));
    }

    fn handle_boundary_lost(&mut self, chunk: &Chunk<'_>, shared: &mut Shared) {
        let state = &mut self.flows[index(chunk.flow)];
        state.desyncs += 1;
        state.block = None;
        state.hpack.start_epoch();
        for state in &mut self.flows {
            // SETTINGS, or their acknowledgement, may have been among what was lost.
            state.table_size = None;
            state.table_sizes.clear();
            state.hpack.forget_settings_limit();
        }
        self.anomaly(0, "boundary_lost", chunk, shared);
        self.handle_unread(chunk, shared);
    }

    /// Bytes of this flow passed that were not read: they may have belonged to any open stream, and have
    /// opened others.
    fn handle_unread(&mut self, chunk: &Chunk<'_>, shared: &mut Shared) {
        let Some(peer) = self.peer(chunk.flow) else { return };
        if peer == Peer::Client {
            self.unseen.handle_loss();
        }
        let due = chunk.time.plus(shared.limits.uncertain_call_ns);
        for (id, stream) in &mut self.streams {
            if !stream.uncertain {
                shared.set_timer(due, Timer::Stream(self.id, *id));
            }
            stream.handle_loss(peer);
        }
    }

    /// A header block of this flow will never be decoded.
    fn lose_header_block(&mut self, chunk: &Chunk<'_>, shared: &mut Shared) {
        let state = &mut self.flows[index(chunk.flow)];
        state.hpack.start_epoch();
        if let Some(block) = state.block.take() {
            let end_stream = block.first.kind == frame::HEADERS && block.first.has(frame::END_STREAM);
            self.handle_unreadable_headers(block.first, end_stream, chunk, shared);
        }
    }

    fn peer(&self, flow: Flow) -> Option<Peer> {
        self.client_flow.map(|client| if client == flow { Peer::Client } else { Peer::Server })
    }

    fn report_status(&mut self, time: Timestamp, shared: &mut Shared) {
        if !self.recognised {
            return;
        }
        let sync = self
            .flows
            .iter()
            .filter(|state| state.next_offset.is_some())
            .map(FlowState::sync)
            .max()
            .unwrap_or(Sync::Synced);
        if self.reported == Some((self.client_flow, sync)) {
            return;
        }
        self.reported = Some((self.client_flow, sync));
        shared.observations.push_back(Observation::Connection(ConnectionStatus {
            connection: self.id,
            client_flow: self.client_flow,
            sync,
            time,
        }));
    }

    fn anomaly(&self, stream: u32, kind: &'static str, chunk: &Chunk<'_>, shared: &mut Shared) {
        let anomaly = Anomaly { connection: self.id, stream, kind, time: chunk.time };
        shared.observations.push_back(Observation::Anomaly(anomaly));
    }

    fn trace(
        &self,
        header: FrameHeader,
        payload: &[u8],
        block: Option<Result<Vec<FieldSeen>, String>>,
        chunk: &Chunk<'_>,
        shared: &mut Shared,
    ) {
        if !shared.trace_frames {
            return;
        }
        let (headers, hpack_error) = match block {
            Some(Ok(fields)) => (Some(fields), None),
            Some(Err(error)) => (None, Some(error)),
            None => (None, None),
        };
        shared.observations.push_back(Observation::Frame(Box::new(FrameSeen {
            connection: self.id,
            flow: chunk.flow,
            from_client: self.client_flow.map(|client| client == chunk.flow),
            time: chunk.time,
            frame_type: header.kind,
            flags: header.flags,
            stream: header.stream,
            length: header.length,
            settings: (header.kind == frame::SETTINGS).then(|| settings::entries(payload).collect()),
            increment: (header.kind == frame::WINDOW_UPDATE)
                .then(|| frame::u32_at(payload, 0).map(|increment| increment & 0x7fff_ffff))
                .flatten(),
            code: match header.kind {
                frame::RST_STREAM => frame::u32_at(payload, 0),
                frame::GOAWAY => frame::u32_at(payload, 4),
                _ => None,
            },
            headers,
            hpack_error,
        })));
    }
}
/// Why a connection is finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finish {
    /// It was closed.
    Ended,
    /// Nothing more will be observed.
    EndOfObservation,
    /// It is forgotten, to stay within the limits.
    Evicted,
}

/// What an event means for the frame boundary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Fine,
    /// What was taken for a frame is not one.
    BoundaryWasWrong,
}
