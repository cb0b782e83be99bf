//! One stream as a gRPC call: from its frames to its outcome (checklist G5–G9, D3–D6, S2–S4).
//!
//! The two directions may be handled out of step with each other by a little: a sender can be preempted
//! between handing its bytes to the socket and being seen to do so, and the answer is then seen first. So
//! a response may precede its request here, and a call that has ended is kept for a moment before it is
//! reported, so that what belongs to it can still arrive.
//!
//! ```text
//!   response first ─► Waiting ──request──► Open ──trailers, RST_STREAM, …──► Ended ──both ends closed
//!                                           ▲                                  │      or after a moment
//!                            request ───────┘                                  └────► reported
//! ```

mod outcome;
mod report;

use std::num::NonZeroU32;
use std::sync::Arc;

use crate::flow_control::Credit;
use crate::grpc::messages::MessageCounter;
use crate::grpc::status;
use crate::grpc::trace_context::TraceHashes;
use crate::header_block::{GrpcStatus, HeaderBlock};
use crate::hpack::EntryId;
use crate::http2::frame::error_code;
use crate::input::{Flow, Timestamp};
use crate::moment::Moment;
use crate::observation::{EndedBy, Outcome, Protocol, RetryPushback, StatusSource, Timeout, Traces};

/// Which end of a connection did something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    Client,
    Server,
}

/// Why a header block could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// All of it was seen, and it is not HPACK.
    Faulty,
    /// A part of it was not seen, and with it the moment when it was complete.
    Incomplete,
}

/// A stream that was opened by a client.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) first_seen: Timestamp,
    request: Option<Request>,
    protocol: Protocol,
    client: Half,
    server: Half,
    http_status: Option<u16>,
    first_response: Moment,
    retry_pushback: Option<RetryPushback>,
    /// The header block that the response begins with was seen.
    response_begun: bool,
    end: Option<End>,
    /// The client has closed the stream as one does after a complete response, which was not seen yet.
    response_due: Moment,
    /// Bytes that may have belonged to it were lost: how it ends may never be seen.
    pub(crate) uncertain: bool,
    /// DATA of it may have been left out on purpose.
    data_left_out: bool,
    /// It was reset, or refused: neither end sends on it any more.
    is_closed: bool,
    /// It is among the client's open streams.
    pub(crate) counts_as_open: bool,
    /// What DATA and WINDOW_UPDATE say of its windows, by the flow of the sender: sent, received.
    credits: [Credit; 2],
    started_reported: bool,
    /// END_STREAM of the client was in another chunk than its request, and that was not reported.
    request_ended_apart: bool,
    /// The thread that moved that chunk.
    request_end_thread: u32,
}

#[derive(Debug)]
struct Request {
    method: Option<Arc<str>>,
    method_ref: Option<NonZeroU32>,
    timeout: Timeout,
    previous_attempts: Option<u32>,
    unknown_fields: Box<[EntryId]>,
    traces: TraceHashes,
    /// When its header block was complete; `None` if a part of the block is missing, and with it that moment.
    time: Moment,
    thread: u32,
}

#[derive(Debug)]
struct Half {
    messages: MessageCounter,
    /// Last frame from this side.
    last: Moment,
    /// It has sent END_STREAM.
    ended: Moment,
    /// It may have ended the call by a frame that was not seen.
    end_may_be_missed: bool,
    /// A doubt has gone, by a frame that came after the loss.
    reassured: bool,
}

impl Half {
    fn has_ended(&self) -> bool {
        self.ended.get().is_some()
    }
}

#[derive(Clone, Copy, Debug)]
struct End {
    time: Timestamp,
    outcome: Outcome,
    status: Option<u32>,
    status_source: StatusSource,
    ended_by: EndedBy,
    rst_code: Option<u32>,
    /// The call may have ended before, by something that was not seen: the time is not that of its end.
    is_late: bool,
    /// Nothing that follows can add to it.
    is_final: bool,
}

impl End {
    /// It has ended by `time`, and how and when was not seen.
    fn unseen(time: Timestamp) -> End {
        End {
            time,
            outcome: Outcome::Unknown,
            status: None,
            status_source: StatusSource::Unknown,
            ended_by: EndedBy::Connection,
            rst_code: None,
            is_late: true,
            is_final: true,
        }
    }
}

impl Stream {
    /// A stream whose request has just been seen, or (`joined_late`) one that is older than what was seen.
    pub(crate) fn new(time: Timestamp, joined_late: bool, credits: [Credit; 2]) -> Stream {
        let half = || Half {
            messages: if joined_late { MessageCounter::joined_late() } else { MessageCounter::new() },
            last: Moment::NEVER,
            ended: Moment::NEVER,
            end_may_be_missed: joined_late,
            reassured: false,
        };
        Stream {
            first_seen: time,
            request: None,
            protocol: Protocol::Unknown,
            client: half(),
            server: half(),
            http_status: None,
            first_response: Moment::NEVER,
            retry_pushback: None,
            response_begun: false,
            end: None,
            response_due: Moment::NEVER,
            uncertain: false,
            data_left_out: false,
            is_closed: false,
            counts_as_open: false,
            credits,
            started_reported: false,
            request_ended_apart: false,
            request_end_thread: 0,
        }
    }

    /// The request's header block is complete.
    pub(crate) fn handle_request(
        &mut self,
        block: &HeaderBlock,
        method_ref: Option<NonZeroU32>,
        thread: u32,
        time: Timestamp,
    ) {
        self.handle_sign_of_life(Peer::Client);
        self.note_frame(Peer::Client, time);
        // The request begins with this block: no message of it was missed, whatever was lost before.
        self.client.messages = self.messages_from_here();
        let absent = if block.has_unknown_names { Timeout::Unknown } else { Timeout::Absent };
        self.request = Some(Request {
            method: block.path.clone(),
            method_ref,
            timeout: block.timeout.unwrap_or(absent),
            previous_attempts: block.previous_attempts,
            // Where the content type is known it is none of them.
            unknown_fields: match block.protocol {
                None => Box::from(block.unknown_fields.as_slice()),
                Some(_) => Box::default(),
            },
            traces: block.trace_ids.hashes,
            time: Moment::at(time),
            thread,
        });
        match block.protocol {
            Some(protocol) if protocol != Protocol::Unknown => self.protocol = protocol,
            _ if block.has_grpc_field => self.protocol = Protocol::Grpc,
            None if !block.has_unknown_names && self.protocol == Protocol::Unknown => {
                self.protocol = Protocol::Http;
            }
            _ => {}
        }
        // The response came first: whether it came in time can be judged only now.
        if let Some(end) = self.end {
            self.end = Some(End { outcome: self.outcome_of(end), ..end });
        }
    }

    /// The request's header block could not be read.
    pub(crate) fn handle_unreadable_request(&mut self, why: Unreadable, thread: u32, time: Timestamp) {
        self.note_frame(Peer::Client, time);
        let time = match why {
            Unreadable::Faulty => Moment::at(time),
            Unreadable::Incomplete => Moment::NEVER,
        };
        self.handle_sign_of_life(Peer::Client);
        self.request = Some(Request {
            method: None,
            method_ref: None,
            timeout: Timeout::Unknown,
            previous_attempts: None,
            unknown_fields: Box::default(),
            traces: TraceHashes::default(),
            time,
            thread,
        });
    }

    /// A header block from the server is complete: response headers, or trailers.
    pub(crate) fn handle_response(&mut self, block: &HeaderBlock, end_stream: bool, time: Timestamp) {
        self.handle_sign_of_life(Peer::Server);
        if block.http_status.is_some_and(|status| status < 200) && !end_stream {
            return;
        }
        if self.protocol == Protocol::Unknown
            && (block.has_grpc_field || block.protocol == Some(Protocol::Grpc))
        {
            self.protocol = Protocol::Grpc;
        }
        let first = self.first_response.get().is_none();
        self.first_response.note_first(time);
        self.begin_response(block.is_response);
        if block.http_status.is_some() {
            self.http_status = block.http_status;
        }
        if !end_stream {
            return;
        }
        self.retry_pushback = block.retry_pushback;
        self.server.ended.note_first(time);
        let source = if first && (block.is_response || (self.request.is_some() && !self.uncertain)) {
            StatusSource::TrailersOnly
        } else {
            StatusSource::Trailer
        };
        let (status, status_source) = match block.grpc_status {
            Some(GrpcStatus::Known(code, _)) => (Some(code), source),
            Some(GrpcStatus::Unknown) => (None, StatusSource::Unknown),
            None if block.has_unknown_names => (None, StatusSource::Unknown),
            None => self.status_without_trailers(),
        };
        self.finish(time, status, status_source, EndedBy::Server, None);
    }

    /// A header block of the response could not be read.
    pub(crate) fn handle_unreadable_response(&mut self, end_stream: bool, why: Unreadable, time: Timestamp) {
        self.handle_sign_of_life(Peer::Server);
        // One that ends the stream is the first one or the last one, nobody knows.
        self.begin_response(!end_stream);
        if why == Unreadable::Faulty {
            self.first_response.note_first(time);
        }
        if end_stream {
            self.server.ended.note_first(time);
            self.finish(time, None, StatusSource::Unknown, EndedBy::Server, None);
            if let Some(end) = &mut self.end {
                end.is_late |= why == Unreadable::Incomplete && end.ended_by == EndedBy::Server;
            }
        }
    }

    /// END_STREAM on a DATA frame.
    pub(crate) fn handle_end_of_data(&mut self, from: Peer, time: Timestamp) {
        match from {
            Peer::Client => self.client.ended.note_first(time),
            Peer::Server => {
                self.server.ended.note_first(time);
                let (status, source) = self.status_without_trailers();
                self.finish(time, status, source, EndedBy::Server, None);
            }
        }
    }

    /// END_STREAM on a HEADERS frame of the client.
    pub(crate) fn handle_end_of_request(&mut self, time: Timestamp) {
        self.handle_sign_of_life(Peer::Client);
        self.client.ended.note_first(time);
    }

    /// END_STREAM of the client was in a chunk without its request, moved by this thread.
    pub(crate) fn note_request_ended_apart(&mut self, thread: u32) {
        self.request_ended_apart = true;
        self.request_end_thread = thread;
    }

    /// RST_STREAM.
    pub(crate) fn handle_reset(&mut self, by: Peer, code: u32, time: Timestamp) {
        self.is_closed = true;
        if let Some(end) = &mut self.end {
            end.is_final = true;
            return;
        }
        if by == Peer::Client && code == error_code::NO_ERROR {
            // The client has seen the end of the response (checklist S3): it is about to be seen here.
            self.response_due.note_first(time);
            return;
        }
        let ended_by = match by {
            Peer::Client => EndedBy::Client,
            Peer::Server => EndedBy::Server,
        };
        let status = match by {
            Peer::Server => status::from_rst(code),
            Peer::Client => None,
        };
        self.finish(time, status, StatusSource::Rst, ended_by, Some(code));
    }

    /// RST_STREAM, of which the code was not seen.
    pub(crate) fn handle_unreadable_reset(&mut self, time: Timestamp) {
        self.is_closed = true;
        match &mut self.end {
            Some(end) => end.is_final = true,
            None => self.give_up(time),
        }
    }

    /// The moment in which the rest of an ended call could arrive has passed.
    pub(crate) fn handle_moment_passed(&mut self) {
        if let Some(time) = self.response_due.get()
            && self.end.is_none()
        {
            self.finish(time, None, StatusSource::Rst, EndedBy::Client, Some(error_code::NO_ERROR));
        }
        if let Some(end) = &mut self.end {
            end.is_final = true;
        }
    }

    /// The server said that it will not process this stream (GOAWAY, RFC 9113 §6.8).
    pub(crate) fn handle_refused(&mut self, time: Timestamp) {
        self.is_closed = true;
        self.finish(time, Some(status::UNAVAILABLE), StatusSource::Rst, EndedBy::Connection, None);
    }

    /// The connection ended under it.
    pub(crate) fn handle_abort(&mut self, time: Timestamp) {
        self.finish(time, None, StatusSource::None, EndedBy::Connection, None);
    }

    /// Nobody will ever know how it ended.
    pub(crate) fn give_up(&mut self, time: Timestamp) {
        self.end.get_or_insert(End::unseen(time));
    }

    /// A frame of the response came, `first` if the response begins with it: then no message of it was missed,
    /// whatever was lost before. Where the first one was missed, messages may have been as well.
    fn begin_response(&mut self, first: bool) {
        if !self.response_begun {
            self.response_begun = true;
            self.server.messages =
                if first { self.messages_from_here() } else { MessageCounter::joined_late() };
        }
    }

    /// A counter for a direction that begins now.
    fn messages_from_here(&self) -> MessageCounter {
        if self.data_left_out { MessageCounter::joined_late() } else { MessageCounter::new() }
    }

    /// DATA and WINDOW_UPDATE of it may be missing from now on, but none that end a direction: what has ended is known.
    pub(crate) fn leave_out_data(&mut self) {
        self.data_left_out = true;
        self.forget_credits();
        for half in [&mut self.client, &mut self.server] {
            if !half.has_ended() {
                half.messages.handle_loss();
            }
        }
    }

    /// DATA begins or goes on in one direction.
    pub(crate) fn handle_data(&mut self, from: Peer) {
        self.handle_sign_of_life(from);
        if from == Peer::Server {
            self.begin_response(false);
        }
    }

    /// The message counter of the client's direction.
    pub(crate) fn request_messages(&mut self) -> &mut MessageCounter {
        &mut self.client.messages
    }

    /// The message counter of one direction.
    pub(crate) fn messages(&mut self, from: Peer) -> &mut MessageCounter {
        &mut self.half(from).messages
    }

    fn half(&mut self, of: Peer) -> &mut Half {
        match of {
            Peer::Client => &mut self.client,
            Peer::Server => &mut self.server,
        }
    }

    /// The credit of the sender of `flow`.
    pub(crate) fn credit(&mut self, flow: Flow) -> &mut Credit {
        let [sent, received] = &mut self.credits;
        match flow {
            Flow::Sent => sent,
            Flow::Received => received,
        }
    }

    /// The credits of both senders.
    pub(crate) fn credits(&self) -> &[Credit; 2] {
        &self.credits
    }

    /// DATA or WINDOW_UPDATE frames of it may have been missed.
    pub(crate) fn forget_credits(&mut self) {
        self.credits = [None, None];
    }

    /// DATA of this payload length was sent in `flow`.
    pub(crate) fn handle_data_length(&mut self, flow: Flow, length: u32) -> Credit {
        let credit = self.credit(flow);
        *credit = credit.map(|credit| credit.saturating_sub(i64::from(length)));
        *credit
    }

    /// A frame was seen that nobody sends on a stream that he has reset, nor a server after its END_STREAM (RFC
    /// 9113 §5.1): whatever was lost before it did not end the call.
    pub(crate) fn handle_sign_of_life(&mut self, of: Peer) {
        let half = self.half(of);
        half.reassured |= half.end_may_be_missed;
        half.end_may_be_missed = false;
    }

    /// Whether a doubt about one direction has gone since this was last asked: the next loss raises it again.
    pub(crate) fn take_reassured(&mut self, of: Peer) -> bool {
        std::mem::take(&mut self.half(of).reassured)
    }

    /// One of its directions has ended inside a message (checklist G3).
    pub(crate) fn is_cut_short(&self) -> bool {
        [&self.client, &self.server]
            .iter()
            .any(|half| half.has_ended() && half.messages.is_inside_a_message())
    }

    /// A message of one direction has begun and is not complete, for certain.
    pub(crate) fn is_inside_message(&self, from: Peer) -> bool {
        match from {
            Peer::Client => self.client.messages.is_inside_a_message(),
            Peer::Server => self.server.messages.is_inside_a_message(),
        }
    }

    /// Its method, if it is known.
    pub(crate) fn method(&self) -> Option<Arc<str>> {
        self.request.as_ref()?.method.clone()
    }

    /// One direction may have carried more than was seen.
    pub(crate) fn handle_loss(&mut self, from: Peer) {
        let half = self.half(from);
        half.messages.handle_loss();
        half.end_may_be_missed = true;
        self.uncertain = true;
        // What was lost was sent before it was noticed, and so perhaps before an end that was seen in the other flow.
        if let Some(end) = self.end
            && self.may_have_ended_before(end.ended_by, end.status, end.rst_code)
        {
            self.end = Some(End { rst_code: end.rst_code, ..End::unseen(end.time) });
        }
    }

    /// Heap bytes that it holds; the names of methods are shared. Does not change after the request.
    pub(crate) fn heap_bytes(&self) -> usize {
        self.request.as_ref().map_or(0, |request| request.unknown_fields.len() * size_of::<EntryId>())
    }

    /// What its request says of the trace that it belongs to.
    pub(crate) fn traces(&self) -> Traces {
        self.request.as_ref().map(|request| request.traces.traces()).unwrap_or_default()
    }

    /// Whether it is closed (RFC 9113 §5.1), if that was not so when this was last asked.
    pub(crate) fn take_closed(&mut self) -> bool {
        let is_closed = self.is_closed || (self.client.has_ended() && self.server.has_ended());
        is_closed && std::mem::take(&mut self.counts_as_open)
    }

    /// When its client reset it as a gRPC call that its server had not ended, if it did and that is certain.
    pub(crate) fn reset_by_client(&self) -> Option<Timestamp> {
        let end = self.end.filter(|end| end.ended_by == EndedBy::Client && !end.is_late)?;
        let is_cut =
            end.rst_code.is_some_and(|code| code != error_code::NO_ERROR) && !self.server.has_ended();
        (is_cut && self.protocol == Protocol::Grpc).then_some(end.time)
    }

    /// Its request was seen.
    pub(crate) fn has_request(&self) -> bool {
        self.request.is_some()
    }

    /// A frame came.
    pub(crate) fn note_frame(&mut self, from: Peer, time: Timestamp) {
        self.half(from).last.note_last(time);
    }

    /// Time of the last frame.
    pub(crate) fn last_seen(&self) -> Timestamp {
        let last = self.client.last.get().max(self.server.last.get());
        last.map_or(self.first_seen, |last| last.max(self.first_seen))
    }

    /// It has ended, in whatever way.
    pub(crate) fn has_ended(&self) -> bool {
        self.end.is_some()
    }

    /// It was reset: what follows is not part of it.
    pub(crate) fn is_reset(&self) -> bool {
        self.end.is_some_and(|end| end.rst_code.is_some())
    }

    /// It has ended, or is about to, and is kept for a moment.
    pub(crate) fn is_ending(&self) -> bool {
        self.end.is_some() || self.response_due.get().is_some()
    }

    /// It has ended and nothing that belongs to it is still to come.
    pub(crate) fn is_complete(&self) -> bool {
        self.request.is_some()
            && self
                .end
                .is_some_and(|end| end.is_final || (self.client.has_ended() && self.server.has_ended()))
    }

    /// Fields of its request that refer to entries from before the join, one of which is its content type
    /// if no other field is.
    pub(crate) fn unknown_fields(&self) -> &[EntryId] {
        self.request.as_ref().map_or(&[], |request| &request.unknown_fields)
    }

    /// Another request on this connection that was gRPC had the same content type.
    pub(crate) fn handle_known_content_type(&mut self) {
        if self.protocol == Protocol::Unknown {
            self.protocol = Protocol::Grpc;
        }
    }

    /// What it spoke, judged by all that was seen of it.
    pub(crate) fn protocol(&self) -> Protocol {
        if self.protocol != Protocol::Unknown {
            return self.protocol;
        }
        // Header names are not known. Length-prefixed messages in one direction, and nothing else in the other,
        // tell gRPC from everything else that is worth a thought (checklist G3, H11).
        let (client, server) = (&self.client.messages, &self.server.messages);
        if (client.looks_like_grpc() && (server.looks_like_grpc() || server.is_empty()))
            || (server.looks_like_grpc() && client.is_empty())
        {
            Protocol::Grpc
        } else {
            Protocol::Unknown
        }
    }

    /// HTTP status of the response.
    pub(crate) fn http_status(&self) -> Option<u16> {
        self.http_status
    }
}
