//! From header blocks and DATA to streams, and from streams to what is reported of them.

use super::flow::index;
use super::{Connection, note_since};
use crate::bytes;
use crate::call::{Peer, Stream, Unreadable};
use crate::header_block::{GrpcStatus, HeaderBlock};
use crate::http2::frame::{self, FrameHeader};
use crate::input::{Chunk, Flow, Timestamp};
use crate::observation::{Anomaly, Exchange, Observation, Protocol};
use crate::observer::{Shared, Timer};

impl Connection {
    /// The moment in which the rest of an ended stream could arrive has passed, or a stream of which bytes
    /// were lost was silent for long.
    pub(crate) fn handle_stream_timeout(&mut self, id: u32, time: Timestamp, shared: &mut Shared) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.is_ending() {
            stream.handle_moment_passed();
            self.remove(id, shared);
        } else if stream.uncertain {
            let due = stream.last_seen().plus(shared.limits.uncertain_call_ns);
            if due > time {
                shared.set_timer(due, Timer::Stream(self.id, id));
            } else {
                stream.give_up(time);
                self.remove(id, shared);
            }
        }
    }

    /// RST_STREAM; without a code, that was in a hole.
    pub(super) fn handle_rst_stream(
        &mut self,
        id: u32,
        code: Option<u32>,
        chunk: &Chunk<'_>,
        shared: &mut Shared,
    ) {
        let Some(peer) = self.peer(chunk.flow) else { return };
        if let Some(stream) = self.stream_if_followed(id, peer, chunk.time, shared) {
            match code {
                Some(code) => stream.handle_reset(peer, code, chunk.time),
                None => stream.handle_unreadable_reset(chunk.time),
            }
            self.settle(id, chunk.time, shared);
        }
    }

    pub(super) fn handle_headers(
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
        if let Some(GrpcStatus::Known(_, false)) = block.grpc_status {
            self.anomaly(id, "grpc_status_syntax", chunk, shared);
        }
        match peer {
            Peer::Client if block.is_request => self.handle_request(id, Ok(block), end_stream, chunk, shared),
            Peer::Client => self.handle_trailers_of_client(id, end_stream, chunk, shared),
            Peer::Server => {
                if let Some(stream) = self.stream_if_followed(id, peer, chunk.time, shared) {
                    stream.handle_response(block, end_stream, chunk.time);
                    self.settle(id, chunk.time, shared);
                }
            }
        }
    }

    /// A header block could not be read.
    pub(super) fn handle_unreadable_headers(
        &mut self,
        first: FrameHeader,
        end_stream: bool,
        why: Unreadable,
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
                self.handle_request(id, Err(why), end_stream, chunk, shared);
            }
            Some(Peer::Client) => self.handle_trailers_of_client(id, end_stream, chunk, shared),
            Some(peer @ Peer::Server) => {
                if let Some(stream) = self.stream_if_followed(id, peer, chunk.time, shared) {
                    stream.handle_unreadable_response(end_stream, why, chunk.time);
                    self.settle(id, chunk.time, shared);
                }
            }
        }
    }

    pub(super) fn handle_request(
        &mut self,
        id: u32,
        block: Result<&HeaderBlock, Unreadable>,
        end_stream: bool,
        chunk: &Chunk<'_>,
        shared: &mut Shared,
    ) {
        let known = self.streams.contains_key(&id);
        if known && self.streams.get(&id).is_some_and(Stream::has_request) {
            self.handle_trailers_of_client(id, end_stream, chunk, shared);
            return;
        }
        if !known && !self.unseen.is_new(id) {
            self.anomaly(id, "stream_id_reused", chunk, shared);
            return;
        }
        // A block that cannot be read may be the trailers of a request that was missed.
        let missed = block.is_err() && self.unseen.may_have_been_missed(id);
        self.remembered_changed |= self.unseen.may_have_missed();
        self.unseen.handle_request(id);
        self.requests_of_chunk = self.requests_of_chunk.min(id);
        if !known && self.streams.len() >= shared.limits.streams_per_connection {
            self.forget_stream_limit(shared);
            self.anomaly(id, "streams_limit", chunk, shared);
            return;
        }
        self.handle_stream_opened(chunk.time, shared);
        let same_content_type = block
            .is_ok_and(|block| block.protocol.is_none() && self.grpc_requests.include(&block.unknown_fields));
        if !known {
            self.note_opened(id);
        }
        let left_out = shared.left_out.may_miss(chunk.time);
        let credits = if known { [None, None] } else { self.open_credits(id, missed) };
        let method_ref = block.ok().and_then(|block| self.method_refs.of(block.unknown_head()));
        self.remembered_changed |= method_ref.is_some();
        let stream = self.streams.entry(id).or_insert_with(|| Stream::new(chunk.time, false, credits));
        stream.counts_as_open = true;
        if left_out {
            stream.leave_out_data();
        }
        match block {
            Ok(block) => {
                stream.handle_request(block, method_ref, chunk.thread, chunk.time);
                self.in_streams_bytes += stream.heap_bytes();
                if same_content_type {
                    stream.handle_known_content_type();
                }
                if block.timeout == Some(crate::observation::Timeout::Invalid) {
                    self.anomaly(id, "timeout_syntax", chunk, shared);
                }
            }
            Err(why) => stream.handle_unreadable_request(why, chunk.thread, chunk.time),
        }
        if end_stream && let Some(stream) = self.streams.get_mut(&id) {
            stream.handle_end_of_request(chunk.time);
        }
        let (flow, other) = (&self.flows[index(chunk.flow)], &self.flows[index(chunk.flow.opposite())]);
        // Joined in this flow first: what the other one carries meanwhile is not seen.
        let is_other_unseen = flow.joined_late && other.next_offset.is_none();
        // Handled out of step: the answer may be among what was lost before its request was handled.
        let is_answer_lost = other.unread_at.is_some_and(|unread_at| unread_at > chunk.time);
        if (is_other_unseen || is_answer_lost)
            && let Some(stream) = self.streams.get_mut(&id)
        {
            stream.handle_loss(Peer::Server);
            let due = chunk.time.plus(shared.limits.uncertain_call_ns);
            shared.set_timer(due, Timer::Stream(self.id, id));
        }
        if self.goaway.is_some_and(|last| id > last)
            && let Some(stream) = self.streams.get_mut(&id)
        {
            stream.handle_refused(chunk.time);
        }
        self.settle(id, chunk.time, shared);
    }

    /// A later header block of the client's, whatever it holds.
    fn handle_trailers_of_client(
        &mut self,
        id: u32,
        end_stream: bool,
        chunk: &Chunk<'_>,
        shared: &mut Shared,
    ) {
        if !end_stream || !self.is_followed(id, chunk.time, shared) {
            return;
        }
        let is_apart = self.ends_apart(id, chunk);
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.note_frame(Peer::Client, chunk.time);
        stream.handle_end_of_request(chunk.time);
        if is_apart {
            stream.note_request_ended_apart(chunk.thread);
        }
        self.settle(id, chunk.time, shared);
    }

    /// What ends a request in this chunk of the client's ends it apart from its header block, at the socket that receives
    /// it. Ids only grow: the requests of this chunk are those from the least one on.
    pub(super) fn ends_apart(&self, id: u32, chunk: &Chunk<'_>) -> bool {
        chunk.flow == Flow::Received
            && self.client_flow == Some(Flow::Received)
            && id < self.requests_of_chunk
    }

    /// The stream that a frame belongs to, if it is open or may have been opened unseen.
    pub(super) fn stream_if_followed(
        &mut self,
        id: u32,
        peer: Peer,
        time: Timestamp,
        shared: &mut Shared,
    ) -> Option<&mut Stream> {
        if !self.is_followed(id, time, shared) {
            return None;
        }
        let stream = self.streams.get_mut(&id)?;
        stream.note_frame(peer, time);
        Some(stream)
    }

    /// The stream is open, or may have been opened unseen, and is followed from now on.
    fn is_followed(&mut self, id: u32, time: Timestamp, shared: &mut Shared) -> bool {
        if !self.streams.contains_key(&id) {
            let is_new = self.unseen.is_new(id);
            let joined_late = self.unseen.may_have_been_missed(id);
            if id.is_multiple_of(2) || !(is_new || joined_late) {
                return false; // Closed, reset or never opened: ignored, without state (checklist S5).
            }
            if self.streams.len() >= shared.limits.streams_per_connection {
                self.forget_stream_limit(shared);
                return false;
            }
            let left_out = shared.left_out.may_miss(time);
            let credits = self.open_credits(id, joined_late);
            let mut stream = Stream::new(time, joined_late, credits);
            stream.uncertain = joined_late;
            if left_out {
                stream.leave_out_data();
            }
            self.streams.insert(id, stream);
            self.note_opened(id);
            shared.set_timer(time.plus(shared.limits.request_due_ns), Timer::Request(self.id, id));
        }
        true
    }

    /// A response came before its request, and the request has not come since.
    pub(crate) fn handle_request_overdue(&mut self, id: u32, time: Timestamp, shared: &mut Shared) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.has_request() {
            return;
        }
        stream.uncertain = true;
        self.stream_limit.lose();
        if stream.is_ending() {
            stream.handle_moment_passed();
            self.remove(id, shared);
        } else {
            shared.set_timer(time.plus(shared.limits.uncertain_call_ns), Timer::Stream(self.id, id));
        }
    }

    pub(super) fn stream_of_data(
        &mut self,
        header: FrameHeader,
        chunk: &Chunk<'_>,
        shared: &mut Shared,
    ) -> Option<(&mut Stream, Peer)> {
        let peer = self.peer(chunk.flow)?;
        if !self.is_followed(header.stream, chunk.time, shared) {
            return None;
        }
        let streams = self.streams.len();
        let stream = self.streams.get_mut(&header.stream)?;
        stream.note_frame(peer, chunk.time);
        stream.handle_data(peer);
        if stream.take_reassured(peer) {
            self.remembered_changed = true;
            note_since(&mut self.since_unread[peer as usize], header.stream, streams);
        }
        // What is sent after a reset is not part of the call (checklist G9, D5).
        (!stream.is_reset()).then_some((stream, peer))
    }

    /// After a change of a stream: says that it started, and that it ended once that is certain.
    pub(super) fn settle(&mut self, id: u32, time: Timestamp, shared: &mut Shared) {
        let streams = self.streams.len();
        let Some(stream) = self.streams.get_mut(&id) else { return };
        for peer in [Peer::Client, Peer::Server] {
            if stream.take_reassured(peer) {
                self.remembered_changed = true;
                note_since(&mut self.since_unread[peer as usize], id, streams);
            }
        }
        if let Some(client_flow) = self.client_flow
            && let Some(started) = stream.take_started(self.id, id, client_flow)
        {
            shared.observations.push_back(Observation::CallStarted(started));
        }
        if let Some(ended) = stream.take_request_ended(self.id, id) {
            shared.observations.push_back(Observation::RequestEnded(ended));
        }
        let is_closed = stream.take_closed();
        let (is_complete, is_ending) = (stream.is_complete(), stream.is_ending() && stream.has_request());
        if !self.stalls.is_empty() && stream.has_ended() {
            self.end_stalls_of(id, time, shared);
        }
        if is_closed {
            self.handle_stream_closed(time, shared);
        }
        if is_complete {
            self.remove(id, shared);
        } else if is_ending {
            shared.set_timer(time.plus(shared.limits.ending_ns), Timer::Stream(self.id, id));
        }
    }

    pub(super) fn remove(&mut self, id: u32, shared: &mut Shared) {
        if !self.stalls.is_empty()
            && let Some(stream) = self.streams.get(&id)
        {
            self.end_stalls_of(id, stream.last_seen(), shared);
        }
        if let Some(stream) = self.streams.remove(&id) {
            self.in_streams_bytes -= stream.heap_bytes();
            self.remembered_changed |= self.unseen.may_have_missed();
            self.unseen.handle_end(id);
            if stream.counts_as_open {
                self.remember_open_stream(id, &stream, shared);
            }
            let reset = stream.reset_by_client().map(|ended| (stream.method(), ended));
            // Nothing is said of what follows where not all of it is seen.
            let reset = reset.filter(|(_, ended)| !shared.left_out.may_miss(*ended));
            self.report(id, stream, shared);
            // Only behind its call: what is said of it then follows CallEnded.
            if let Some((method, ended)) = reset {
                self.remember_reset_stream(id, method, ended, shared);
            }
        }
        if bytes::is_mostly_empty(self.streams.len(), self.streams.capacity()) {
            self.streams.shrink_to(2 * self.streams.len());
        }
    }

    pub(super) fn report(&mut self, id: u32, mut stream: Stream, shared: &mut Shared) {
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
                time: stream.last_seen(),
            }));
            return;
        }
        if stream.is_cut_short() {
            shared.observations.push_back(Observation::Anomaly(Anomaly {
                connection: self.id,
                stream: id,
                kind: "message_cut_short",
                time: stream.last_seen(),
            }));
        }
        self.calls += 1;
        self.grpc_requests.learn(stream.unknown_fields());
        let shapes_bytes = self.shapes.heap_bytes();
        let call = stream.call(self.id, id, self.client_flow, &mut self.shapes);
        self.remembered_changed |=
            !stream.unknown_fields().is_empty() || shapes_bytes != self.shapes.heap_bytes();
        if !stream.was_reported()
            && let Some(client_flow) = self.client_flow
        {
            shared.observations.push_back(Observation::CallStarted(crate::observation::CallStarted {
                connection: self.id,
                stream: id,
                client_flow,
                method: call.method.clone(),
                timeout: call.timeout,
                previous_attempts: call.previous_attempts,
                traces: call.traces,
                thread: call.thread,
                time: call.started.unwrap_or(call.first_seen),
            }));
        }
        shared.observations.push_back(Observation::CallEnded(Box::new(call)));
    }
}
