//! One connection: two flows of frames, two HPACK contexts, and the streams that both belong to.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use foldhash::quality::RandomState;

use crate::bytes;
use crate::call::{Peer, Stream};
use crate::flow_control::FlowControl;
use crate::grpc_requests::GrpcRequests;
use crate::header_block::Intermediaries;
use crate::http2::frame::{self, FrameFault, FrameHeader};
use crate::http2::reader::{Event, FrameReader, Piece};
use crate::input::{Chunk, ConnectionId, Flow, Timestamp};
use crate::method_refs::MethodRefs;
use crate::methods::Shapes;
use crate::observation::{Anomaly, ConnectionStatus, Observation, OpenCall, Sync};
use crate::observer::{Shared, Timer};
use crate::steps;
use crate::unseen::UnseenStreams;

mod afterwards;
mod ending;
mod flow;
mod goaway;
mod header_blocks;
mod left_out;
mod pings;
mod resume;
mod settings;
mod stalls;
mod stream_limit;
mod streams;
mod trace;
mod upgrade;
mod windows;

use afterwards::Afterwards;
pub(crate) use ending::Finish;
use flow::{FlowState, index};
pub(crate) use left_out::LeftOut;
use pings::Pings;
pub use resume::{Resumed, SavedConnection, SavedFlow};
use stalls::{Left, StallNotes, Stalls};
use stream_limit::StreamLimit;
use upgrade::Upgrade;

/// A connection of which at least one byte was seen.
///
/// In the order of use, with what each chunk needs in front, and at the start of a cache line: among 100,000 connections
/// each piece of this has to be fetched from memory, and that is most of what a call costs.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct Connection {
    id: ConnectionId,
    /// When the last byte was seen.
    pub(crate) last_seen: Timestamp,
    /// Which flow comes from the client, once it is known.
    client_flow: Option<Flow>,
    /// It was shown to be HTTP/2: by the preface and SETTINGS, or by a header block that makes sense.
    recognised: bool,
    /// State of each flow that was seen, as of its last change. Asking both flows after each chunk, and for their bytes,
    /// would bring some six more cache lines in.
    syncs: [Option<Sync>; 2],
    reported: Option<(Option<Flow>, Sync)>,
    /// Something that is counted in `remembered_bytes` may have changed since.
    remembered_changed: bool,
    /// Last stream id of the server's last GOAWAY.
    goaway: Option<u32>,
    /// Least stream id of the requests in the chunk that is handled; above all ids if there is none.
    requests_of_chunk: u32,
    stream_limit: StreamLimit,
    /// `:authority` of the last request in which it was known.
    authority: Option<Arc<str>>,
    /// What has shown itself between the ends.
    intermediaries: Intermediaries,
    calls: u64,
    /// Streams that outlive their calls.
    afterwards: Option<Box<Afterwards>>,
    streams: HashMap<u32, Stream, RandomState>,
    /// Heap bytes of what is remembered besides flows and streams, and of the connection itself.
    remembered_bytes: usize,
    /// Heap bytes that streams hold besides their places in the table.
    in_streams_bytes: usize,
    /// Heap bytes of each flow, as of its last change.
    flow_bytes: [usize; 2],
    /// What [`Connection::heap_bytes`] was when the observer last asked.
    pub(crate) counted_bytes: usize,
    flow_control: FlowControl,
    stalls: Stalls,
    unseen: UnseenStreams,
    shapes: Shapes,
    grpc_requests: GrpcRequests,
    method_refs: MethodRefs,
    /// Streams that were opened, or whose doubts have gone, since bytes of the client's, or the server's, flow
    /// passed unread; `None` stands for all streams.
    since_unread: [Option<Vec<u32>>; 2],
    /// It began with HTTP/1.1.
    upgrade: Option<Box<Upgrade>>,
    flows: [FlowState; 2],
    pings: Pings,
    stall_notes: StallNotes,
    /// SETTINGS of each flow allow raw octets in `-bin` fields; `None` if they may have been missed.
    binary_metadata: [Option<bool>; 2],
    /// GOAWAY frames of either end.
    goaways: u32,
    opened: Timestamp,
    /// When it was first said to be closing.
    closing: Option<Timestamp>,
    /// Both ends were closed.
    both_closed: bool,
    /// What an observer before this one knew, until its flows are seen.
    saved: Option<Box<SavedConnection>>,
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
            flow_control: FlowControl::new(),
            stalls: Stalls::default(),
            stall_notes: StallNotes::default(),
            binary_metadata: [Some(false); 2],
            pings: Pings::default(),
            upgrade: None,
            afterwards: None,
            shapes: Shapes::default(),
            grpc_requests: GrpcRequests::default(),
            method_refs: MethodRefs::default(),
            goaway: None,
            requests_of_chunk: u32::MAX,
            stream_limit: StreamLimit::default(),
            authority: None,
            intermediaries: Intermediaries::default(),
            calls: 0,
            opened: time,
            last_seen: time,
            closing: None,
            both_closed: false,
            saved: None,
            reported: None,
            remembered_changed: true,
            remembered_bytes: 0,
            in_streams_bytes: 0,
            since_unread: [None, None],
            goaways: 0,
            counted_bytes: 0,
            syncs: [None; 2],
            flow_bytes: [0; 2],
        }
    }

    /// Takes the next piece of one flow.
    pub(crate) fn handle_chunk(&mut self, chunk: &Chunk<'_>, shared: &mut Shared) {
        self.last_seen = self.last_seen.max(chunk.time);
        self.requests_of_chunk = u32::MAX;
        let mut bytes = chunk.bytes;
        let mut hole = 0;
        let mut joined = false;
        match self.flows[index(chunk.flow)].next_offset {
            None if chunk.offset > 0 => {
                // Joined in the middle: what this flow has carried so far is unknown, unless an observer before this one
                // has seen all of it.
                let hpack = self.joined_decoder(chunk, shared);
                let state = &mut self.flows[index(chunk.flow)];
                state.reader = FrameReader::in_the_middle(shared.limits.header_block_bytes);
                state.hpack = hpack;
                state.table_size = None;
                state.joined_late = true;
                joined = true;
            }
            None => {}
            Some(next) if chunk.offset >= next => hole = chunk.offset - next,
            Some(next) => {
                let seen = usize::try_from(next - chunk.offset).unwrap_or(usize::MAX);
                bytes = bytes.get(seen..).unwrap_or_default();
            }
        }
        let end = chunk.offset.saturating_add(chunk.bytes.len() as u64);
        let state = &mut self.flows[index(chunk.flow)];
        state.next_offset = Some(state.next_offset.map_or(end, |next| next.max(end)));
        state.bytes += bytes.len() as u64;
        state.hole_bytes += hole;
        if state.reader.is_not_http2() {
            if !self.streams.is_empty() {
                self.handle_unread(chunk, shared);
            }
            return;
        }
        if joined {
            self.handle_unread(chunk, shared);
        }
        if hole > 0 {
            if self.flows[index(chunk.flow)].reader.is_lost() {
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
        self.report_status(chunk.flow, chunk.time, shared);
    }

    /// Heap bytes that are held now, with the connection itself. Takes the same few steps however many streams
    /// there are.
    pub(crate) fn heap_bytes(&mut self) -> usize {
        if std::mem::take(&mut self.remembered_changed) {
            self.remembered_bytes = self.count_remembered_bytes();
        }
        debug_assert_eq!(self.remembered_bytes, self.count_remembered_bytes(), "whatever changes it says so");
        debug_assert_eq!(self.flow_bytes, [0, 1].map(|at| self.flows[at].heap_bytes()));
        self.remembered_bytes
            + bytes::of_table::<(u32, Stream)>(self.streams.capacity())
            + self.in_streams_bytes
            + self.flow_bytes.iter().sum::<usize>()
            + self.flow_control.heap_bytes()
    }

    fn count_remembered_bytes(&self) -> usize {
        let since_unread: usize = self.since_unread.iter().flatten().map(Vec::capacity).sum();
        size_of::<Connection>()
            + self.unseen.heap_bytes()
            + self.shapes.heap_bytes()
            + self.grpc_requests.heap_bytes()
            + self.method_refs.heap_bytes()
            + since_unread * size_of::<u32>()
            + self.pings.heap_bytes()
            + self.stalls.heap_bytes()
            + self.afterwards.as_ref().map_or(0, |afterwards| afterwards.heap_bytes())
            + self.upgrade.as_ref().map_or(0, |upgrade| upgrade.heap_bytes())
            + self.saved.as_ref().map_or(0, |saved| saved.heap_bytes())
    }

    /// This stream is followed.
    pub(crate) fn follows(&self, stream: u32) -> bool {
        self.streams.contains_key(&stream)
    }

    /// gRPC calls whose streams are open, in the order of their ids.
    /// DATA of those of them that are marked may have been left out until `left_out_until`.
    pub(crate) fn visit_open_calls(&self, left_out_until: Timestamp, visit: &mut impl FnMut(&OpenCall)) {
        let half_closed = self.afterwards.iter().flat_map(|afterwards| afterwards.half_closed());
        let is_doubtful = !self.are_answers_seen();
        let open = self.streams.iter().filter_map(|(id, stream)| {
            let mut call = stream.open(self.id, *id)?;
            call.uncertain |= is_doubtful;
            Some(call)
        });
        let mut calls: Vec<Cow<'_, OpenCall>> =
            half_closed.map(Cow::Borrowed).chain(open.map(Cow::Owned)).collect();
        calls.sort_unstable_by_key(|call| call.stream);
        for call in calls.iter_mut().filter(|call| call.left_out_until.is_some()) {
            call.to_mut().left_out_until = Some(left_out_until);
        }
        calls.iter().for_each(|call| visit(call));
    }

    /// A call is open for certain.
    pub(crate) fn is_call_open(&self, stream: u32) -> bool {
        let is_open = |stream: &Stream| !stream.is_ending() && !stream.uncertain;
        self.closing.is_none() && self.are_answers_seen() && self.streams.get(&stream).is_some_and(is_open)
    }

    /// There are streams to visit.
    pub(crate) fn has_open_streams(&self) -> bool {
        !self.streams.is_empty() || self.afterwards.is_some()
    }

    /// Streams that are followed now.
    pub(crate) fn open_streams(&self) -> usize {
        self.streams.len()
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
            Event::UpgradeRequest(head) => self.handle_upgrade_request(head, chunk, shared),
            Event::UpgradeBody(bytes) => self.handle_upgrade_body(bytes),
            Event::UpgradeBodyHole(len) => self.handle_upgrade_body_hole(len),
            Event::UpgradeAccepted => self.handle_upgrade_accepted(chunk, shared),
            Event::Frame(header, payload) => return self.handle_frame(header, payload, true, chunk, shared),
            Event::PartialFrame(header, payload) => {
                return self.handle_frame(header, payload, false, chunk, shared);
            }
            Event::DataStart(header) => {
                self.flows[index(chunk.flow)].frames += 1;
                self.check_continuation(header, chunk, shared);
                self.check_length(header, chunk, shared);
                if let Some(fault) = header.fault() {
                    self.anomaly(header.stream, fault.kind(), chunk, shared);
                }
            }
            Event::Data(header, bytes) => {
                if self.afterwards.is_some() {
                    self.handle_late_data(header, bytes.len() as u64, chunk, shared);
                }
                if let Some((stream, peer)) = self.stream_of_data(header, chunk, shared) {
                    stream.messages(peer).handle_bytes(bytes);
                }
            }
            Event::DataHole(header, len) => {
                if self.afterwards.is_some() {
                    self.handle_late_data(header, len, chunk, shared);
                }
                if let Some((stream, peer)) = self.stream_of_data(header, chunk, shared) {
                    stream.messages(peer).handle_hole(len);
                }
            }
            Event::DataEnd(header) => {
                let ends = header.has(frame::END_STREAM);
                if self.afterwards.is_some() {
                    self.handle_frame_afterwards(header, chunk, shared);
                }
                let (connection, initial) = self.flow_control.handle_data(chunk.flow, header.length);
                let is_apart = ends && self.ends_apart(header.stream, chunk);
                let mut left = Left { stream: None, connection };
                if let Some((stream, peer)) = self.stream_of_data(header, chunk, shared) {
                    let credit = stream.handle_data_length(chunk.flow, header.length);
                    left.stream = initial.zip(credit).map(|(initial, credit)| initial.saturating_add(credit));
                    if ends {
                        stream.handle_end_of_data(peer, chunk.time);
                    }
                    if is_apart {
                        stream.note_request_ended_apart(chunk.thread);
                    }
                }
                if left.is_nothing() || !self.stalls.is_empty() {
                    self.handle_used_windows(header, &left, chunk, shared);
                }
                self.trace(header, &[], None, chunk, shared);
                if ends {
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
        self.check_length(header, chunk, shared);
        if let Some(fault) = header.fault() {
            self.anomaly(header.stream, fault.kind(), chunk, shared);
            if header.carries_header_block() {
                self.lose_header_block(chunk, shared);
            }
            self.trace(header, payload, None, chunk, shared);
            return Verdict::Fine;
        }
        if self.afterwards.is_some() {
            self.handle_frame_afterwards(header, chunk, shared);
        }
        if header.carries_header_block() {
            return self.handle_header_fragment(header, payload, whole, chunk, shared);
        }
        match header.kind {
            frame::SETTINGS => self.handle_settings(header, payload, whole, chunk, shared),
            frame::PING => self.handle_ping(header, payload, chunk, shared),
            frame::WINDOW_UPDATE => self.handle_window_update(header, payload, chunk, shared),
            frame::RST_STREAM => {
                self.handle_rst_stream(header.stream, frame::u32_at(payload, 0), chunk, shared);
            }
            frame::GOAWAY => self.handle_goaway(payload, chunk, shared),
            // PRIORITY says nothing; unknown types are skipped.
            _ => {}
        }
        self.trace(header, payload, None, chunk, shared);
        Verdict::Fine
    }

    fn handle_boundary_lost(&mut self, chunk: &Chunk<'_>, shared: &mut Shared) {
        let state = &mut self.flows[index(chunk.flow)];
        state.desyncs += 1;
        state.block = None;
        state.hpack.start_epoch();
        for state in &mut self.flows {
            state.forget_table_size();
        }
        self.handle_changed_flow(chunk.flow.opposite());
        self.anomaly(0, "boundary_lost", chunk, shared);
        self.handle_unread(chunk, shared);
    }

    /// Bytes of this flow passed that were not read: they may have belonged to any open stream, and have
    /// opened others.
    fn handle_unread(&mut self, chunk: &Chunk<'_>, shared: &mut Shared) {
        self.lose_frames(chunk.flow, chunk.time);
        self.lose_stalls(|_, _| true, chunk, shared);
        if let Some(afterwards) = &mut self.afterwards {
            afterwards.handle_loss();
            self.remembered_changed = true;
        }
        let unread_at = &mut self.flows[index(chunk.flow)].unread_at;
        *unread_at = (*unread_at).max(Some(chunk.time));
        // Streams are followed only once it is known whose flow this is.
        let Some(peer) = self.peer(chunk.flow) else {
            // Either flow may turn out to be the client's.
            self.unseen.handle_loss();
            return;
        };
        if peer == Peer::Client {
            self.unseen.handle_loss();
        }
        let due = chunk.time.plus(shared.limits.uncertain_call_ns);
        let connection = self.id;
        let mut doubt = |id: u32, stream: &mut Stream| {
            steps::count();
            if !stream.uncertain {
                shared.set_timer(due, Timer::Stream(connection, id));
            }
            stream.handle_loss(peer);
            stream.forget_credits();
        };
        // Streams that were in doubt already are left alone until the doubt has gone, or each chunk that passes
        // unread would cost as many steps as there are streams.
        match &mut self.since_unread[peer as usize] {
            since @ None => {
                self.streams.iter_mut().for_each(|(id, stream)| doubt(*id, stream));
                *since = Some(Vec::new());
            }
            Some(ids) => {
                for id in ids.drain(..) {
                    if let Some(stream) = self.streams.get_mut(&id) {
                        doubt(id, stream);
                    }
                }
            }
        }
    }

    /// A stream is followed from now on.
    fn note_opened(&mut self, id: u32) {
        for since in &mut self.since_unread {
            self.remembered_changed |= since.is_some();
            note_since(since, id, self.streams.len());
        }
    }

    fn peer(&self, flow: Flow) -> Option<Peer> {
        self.client_flow.map(|client| if client == flow { Peer::Client } else { Peer::Server })
    }

    /// To be called when anything in this flow has changed: for a chunk's own flow that is done at its end.
    fn handle_changed_flow(&mut self, flow: Flow) {
        let state = &self.flows[index(flow)];
        self.syncs[index(flow)] = state.next_offset.map(|_| state.sync());
        self.flow_bytes[index(flow)] = state.heap_bytes();
    }

    fn report_status(&mut self, flow: Flow, time: Timestamp, shared: &mut Shared) {
        self.handle_changed_flow(flow);
        debug_assert_eq!(
            self.syncs,
            [0, 1].map(|at| self.flows[at].next_offset.map(|_| self.flows[at].sync())),
            "whatever changes the other flow says so"
        );
        if !self.recognised {
            return;
        }
        let sync = self.syncs.iter().flatten().copied().max().unwrap_or(Sync::Synced);
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

    fn check_length(&self, header: FrameHeader, chunk: &Chunk<'_>, shared: &mut Shared) {
        if self.flows[index(chunk.flow)].is_too_long(header) {
            self.anomaly(header.stream, FrameFault::Size.kind(), chunk, shared);
        }
    }

    fn anomaly(&self, stream: u32, kind: &'static str, chunk: &Chunk<'_>, shared: &mut Shared) {
        let anomaly = Anomaly { connection: self.id, stream, kind, time: chunk.time };
        shared.observations.push_back(Observation::Anomaly(anomaly));
    }
}

/// A stream has no doubts any more that bytes of a flow passed unread.
fn note_since(since: &mut Option<Vec<u32>>, id: u32, streams: usize) {
    match since {
        // Going through all streams is cheaper then, and was paid for by as many that were noted.
        Some(ids) if ids.len() > streams + 16 => *since = None,
        Some(ids) => ids.push(id),
        None => {}
    }
}

/// What an event means for the frame boundary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Fine,
    /// What was taken for a frame is not one.
    BoundaryWasWrong,
}
