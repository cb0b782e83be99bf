//! What is reported of a stream: that a call started, and what it was.

use std::num::NonZeroU32;

use super::Stream;
use crate::input::{ConnectionId, Flow, Timestamp};
use crate::methods::{Shape, Shapes};
use crate::observation::{
    Call, CallStarted, CallType, Messages, OpenCall, Outcome, Protocol, RequestEnded, StatusSource, Timeout,
};

impl Stream {
    /// The fact that it started, once, as soon as it is known to be gRPC.
    pub(crate) fn take_started(
        &mut self,
        connection: ConnectionId,
        stream: u32,
        client_flow: Flow,
    ) -> Option<CallStarted> {
        let request = self.request.as_ref()?;
        if self.started_reported || self.protocol != Protocol::Grpc {
            return None;
        }
        self.started_reported = true;
        Some(CallStarted {
            connection,
            stream,
            client_flow,
            method: request.method.clone(),
            timeout: request.timeout,
            previous_attempts: request.previous_attempts,
            traces: request.traces.traces(),
            thread: request.thread,
            time: request.time.get().unwrap_or(self.first_seen),
        })
    }

    /// The fact that the rest of its request came apart from the header block, once, after the fact that it started.
    pub(crate) fn take_request_ended(
        &mut self,
        connection: ConnectionId,
        stream: u32,
    ) -> Option<RequestEnded> {
        if !(self.request_ended_apart && self.started_reported) {
            return None;
        }
        self.request_ended_apart = false;
        let time = self.client.ended.get()?;
        Some(RequestEnded { connection, stream, thread: self.request_end_thread, time })
    }

    /// The fact of its start was reported.
    pub(crate) fn was_reported(&self) -> bool {
        self.started_reported
    }

    /// It as a call that is open, if it is gRPC and has not ended.
    pub(crate) fn open(&self, connection: ConnectionId, stream: u32) -> Option<OpenCall> {
        (self.protocol == Protocol::Grpc && !self.is_ending()).then(|| self.standing(connection, stream))
    }

    /// It as a call that has ended, and whose client has not closed the stream; `None` if it is not gRPC.
    pub(crate) fn half_closed(&self, connection: ConnectionId, stream: u32) -> Option<OpenCall> {
        (self.protocol == Protocol::Grpc).then(|| self.standing(connection, stream))
    }

    fn standing(&self, connection: ConnectionId, stream: u32) -> OpenCall {
        let request = self.request.as_ref();
        OpenCall {
            connection,
            stream,
            method: request.and_then(|request| request.method.clone()),
            timeout: request.map_or(Timeout::Unknown, |request| request.timeout),
            started: request.and_then(|request| request.time.get()),
            request: self.client.messages.messages(),
            response: self.server.messages.messages(),
            client_ended: self.client.ended.get(),
            server_ended: self.server.ended.get(),
            last_from_client: self.client.last.get(),
            last_from_server: self.server.last.get(),
            uncertain: self.uncertain,
            left_out_until: self.data_left_out.then_some(Timestamp(0)),
        }
    }

    /// The call as it stands; `Open` if it has not ended.
    pub(crate) fn call(
        &self,
        connection: ConnectionId,
        stream: u32,
        client_flow: Option<Flow>,
        shapes: &mut Shapes,
    ) -> Call {
        let request = self.request.as_ref();
        let mut request_messages = self.client.messages.messages();
        // The server has said everything, and no end of the request was seen: its client may send more, which counts until
        // either end resets the stream, or may have sent what was not captured, which only its next bytes would tell.
        let is_open = self.server.has_ended() && !self.client.has_ended();
        request_messages.exact &= request.is_some() && !is_open;
        let response_messages = self.server.messages.messages();
        let outcome = self.end.map_or(Outcome::Open, |end| end.outcome);
        let method = request.and_then(|request| request.method.clone());
        let observed = Observed {
            request: request_messages,
            response: response_messages,
            request_ended: self.client.has_ended(),
            response_ended: self.server.has_ended(),
        };
        let call_type = match method.as_ref().and_then(|method| shapes.of(method)) {
            Some(shape) => observed.call_type(shape),
            None => observed.call_type(&mut Shape::default()),
        };
        let ended = self.end.filter(|end| !end.is_late);
        Call {
            connection,
            stream,
            client_flow,
            method,
            method_ref: request.and_then(|request| request.method_ref).map(NonZeroU32::get),
            call_type,
            timeout: request.map_or(Timeout::Unknown, |request| request.timeout),
            started: request.and_then(|request| request.time.get()),
            first_seen: self.first_seen,
            first_response: self.first_response.get(),
            ended: ended.map(|end| end.time),
            outcome,
            status: self.end.and_then(|end| end.status),
            status_source: self.end.map_or(StatusSource::None, |end| end.status_source),
            ended_by: ended.map(|end| end.ended_by),
            rst_code: self.end.and_then(|end| end.rst_code),
            http_status: self.http_status,
            request: request_messages,
            response: response_messages,
            previous_attempts: request.and_then(|request| request.previous_attempts),
            retry_pushback: self.retry_pushback,
            traces: self.traces(),
            thread: request.map_or(0, |request| request.thread),
        }
    }
}

/// What the wire showed of a call's messages.
struct Observed {
    request: Messages,
    response: Messages,
    request_ended: bool,
    response_ended: bool,
}

impl Observed {
    /// The call's type, and what it teaches about its method.
    fn call_type(&self, shape: &mut Shape) -> CallType {
        shape.streams_requests |= self.request.count > 1;
        shape.streams_responses |= self.response.count > 1;
        let complete = self.request.exact && self.response.exact && self.request_ended && self.response_ended;
        let one_each = complete && self.request.count == 1 && self.response.count == 1;
        match (shape.streams_requests, shape.streams_responses) {
            (true, true) => CallType::Bidi,
            (true, false) if self.response_ended && self.response.exact && self.response.count == 1 => {
                CallType::ClientStream
            }
            (false, true) if self.request.exact && self.request_ended && self.request.count == 1 => {
                CallType::ServerStream
            }
            (false, false) if one_each => {
                shape.seen_unary = true;
                CallType::Unary
            }
            (false, false) if shape.seen_unary && self.request.exact && self.request.count == 1 => {
                CallType::Unary
            }
            _ => CallType::Unknown,
        }
    }
}
