//! Calls: that they started, how they stand, how they ended.

use std::sync::Arc;

use crate::grpc::well_known::WellKnown;
use crate::input::{ConnectionId, Flow, Timestamp};

/// Names of the gRPC status codes, by code (doc/statuscodes.md of the gRPC project).
pub const STATUS_NAMES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// A request was seen.
#[derive(Clone, Debug)]
pub struct CallStarted {
    /// The connection.
    pub connection: ConnectionId,
    /// Stream id (RFC 9113 §5.1.1).
    pub stream: u32,
    /// Which flow the request is in.
    pub client_flow: Flow,
    /// Full method name with its leading slash, if it is known.
    pub method: Option<Arc<str>>,
    /// `grpc-timeout` as sent.
    pub timeout: Timeout,
    /// `grpc-previous-rpc-attempts`, if it was sent.
    pub previous_attempts: Option<u32>,
    /// What the request says about the trace that it belongs to.
    pub traces: Traces,
    /// Thread that moved the request's header block, zero if unknown.
    pub thread: u32,
    /// When the request's header block was complete.
    pub time: Timestamp,
}

/// Ids by which requests of one trace know each other, as hashes: equal ids have equal hashes, the ids themselves are
/// not kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traces {
    /// The trace id of the first of `traceparent`, `b3`, `x-b3-traceid`, `grpc-trace-bin` that the request has.
    pub trace: Option<TraceHash>,
    /// `x-request-id`.
    pub request: Option<TraceHash>,
}

/// Hash of a trace id, with a key of the [`Observer`](crate::Observer) that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TraceHash(pub u64);

/// The client has ended its side of a call, in a chunk of bytes after that of the request's header block. Where both are in
/// one chunk, [`CallStarted`] says it all. Said of sockets that receive the requests alone, and after [`CallStarted`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestEnded {
    /// The connection.
    pub connection: ConnectionId,
    /// Stream id.
    pub stream: u32,
    /// Thread that moved the last bytes, zero if unknown.
    pub thread: u32,
    /// When.
    pub time: Timestamp,
}

/// What a server sent on a stream after its client had reset it (not with NO_ERROR), as both were seen at this socket. At the
/// server's socket that is work after the end; at the client's it is what was on its way. Trailers alone may be the server's own
/// answer to the same deadline.
///
/// Said when the server has ended the stream, when nothing more of it came for a second (what comes after that is
/// ignored), or when the connection ends, of the last 32 streams of a connection that were reset. After a loss there may have
/// been more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LateWork {
    /// The connection.
    pub connection: ConnectionId,
    /// Stream id.
    pub stream: u32,
    /// Full method name with its leading slash, if it is known.
    pub method: Option<Arc<str>>,
    /// When the client reset the stream.
    pub ended: Timestamp,
    /// When the last frame after it was seen.
    pub last: Timestamp,
    /// DATA payload after the end, in bytes.
    pub bytes: u64,
    /// The server sent its trailers all the same.
    pub trailers: bool,
}

/// A call whose stream is open, as it stands ([`Observer::visit_open_calls`](crate::Observer::visit_open_calls)).
#[derive(Clone, Debug)]
pub struct OpenCall {
    /// The connection.
    pub connection: ConnectionId,
    /// Stream id.
    pub stream: u32,
    /// Full method name with its leading slash, if it is known.
    pub method: Option<Arc<str>>,
    /// `grpc-timeout` as sent.
    pub timeout: Timeout,
    /// When the request's header block was complete; `None` if the request was not seen whole.
    pub started: Option<Timestamp>,
    /// Messages from the client so far.
    pub request: Messages,
    /// Messages from the server so far.
    pub response: Messages,
    /// When the client ended its side, if it has.
    pub client_ended: Option<Timestamp>,
    /// When the server ended its side, if it has: the call is over then, and its stream is not until the client ends or
    /// resets it. Such calls are remembered only while all frames are seen, the last 256 of a connection.
    pub server_ended: Option<Timestamp>,
    /// Last frame from the client; WINDOW_UPDATE counts too.
    pub last_from_client: Option<Timestamp>,
    /// Last frame from the server.
    pub last_from_server: Option<Timestamp>,
    /// Bytes that may have belonged to it were lost: it may have ended unseen.
    pub uncertain: bool,
    /// Up to this time DATA and WINDOW_UPDATE of it may have been left out ([`Observer::leave_out_data`](crate::Observer::leave_out_data)),
    /// and are in none of its messages and times; the end of time while they are. `None`: never since it began.
    pub left_out_until: Option<Timestamp>,
}

impl CallStarted {
    /// The well-known service that it calls, if its method is known and belongs to one.
    #[must_use]
    pub fn well_known(&self) -> Option<WellKnown> {
        self.method.as_deref().and_then(WellKnown::of)
    }
}

/// `grpc-timeout` of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timeout {
    /// Sent, in nanoseconds (saturating at `u64::MAX`).
    Ns(u64),
    /// The request has none: the call has no deadline.
    Absent,
    /// Sent, but not by the grammar: no deadline, and an anomaly.
    Invalid,
    /// Not known, since header fields of the request are not known.
    Unknown,
}

/// Messages of one direction of a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Messages {
    /// Complete messages.
    pub count: u64,
    /// Their bytes as on the wire (compressed if they are), without the 5-byte prefixes.
    pub bytes: u64,
    /// False if a part of the direction was not seen, so that there may have been more.
    pub exact: bool,
}

/// The call's type, judged by the messages on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CallType {
    /// One message each way.
    Unary,
    /// Several requests, one response.
    ClientStream,
    /// One request, several responses.
    ServerStream,
    /// Several both ways.
    Bidi,
    /// The messages seen do not tell.
    Unknown,
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Outcome {
    /// Status 0.
    Ok,
    /// Another status than 0, 1, 4; or an end that gRPC maps to one.
    Error,
    /// The deadline passed, in any of its wire shapes.
    Deadline,
    /// Cancelled before its deadline.
    Cancelled,
    /// The connection was lost, or closed, under it.
    Aborted,
    /// REFUSED_STREAM, or above a GOAWAY's last stream id: the server did not process it.
    Refused,
    /// Still open when the observation ended.
    Open,
    /// It ended, but how was not seen.
    Unknown,
}

/// Where the status was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StatusSource {
    /// `grpc-status` in trailers.
    Trailer,
    /// `grpc-status` in a response that is one HEADERS frame.
    TrailersOnly,
    /// Mapped from an RST_STREAM code.
    Rst,
    /// Mapped from the HTTP status.
    Http,
    /// The response ended without any.
    None,
    /// The response ended with a status that could not be decoded.
    Unknown,
}

/// Who ended a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EndedBy {
    /// The client, by RST_STREAM.
    Client,
    /// The server, by END_STREAM or RST_STREAM.
    Server,
    /// The end of the connection.
    Connection,
}

/// A gRPC call, from its request to its end.
#[derive(Clone, Debug)]
pub struct Call {
    /// The connection.
    pub connection: ConnectionId,
    /// Stream id.
    pub stream: u32,
    /// Which flow the request was in, once it is known.
    pub client_flow: Option<Flow>,
    /// Full method name with its leading slash (`/package.Service/Method`), if it is known. Raw text from
    /// the wire (lossy UTF-8): escape it before it is shown.
    pub method: Option<Arc<str>>,
    /// Where the method's name is not known: a number that calls on this connection share only if they have the same
    /// method. One method may have several numbers.
    pub method_ref: Option<u32>,
    /// Call type by the messages seen.
    pub call_type: CallType,
    /// `grpc-timeout` as sent.
    pub timeout: Timeout,
    /// When the request's header block was complete; `None` if the request was not seen.
    pub started: Option<Timestamp>,
    /// When the call was first noticed: the same, or the first frame seen of it.
    pub first_seen: Timestamp,
    /// When the response's first header block was complete.
    pub first_response: Option<Timestamp>,
    /// When it ended; `None` while it is open, and if the end was not seen.
    pub ended: Option<Timestamp>,
    /// How it ended.
    pub outcome: Outcome,
    /// gRPC status code as sent or as mapped (G6–G8), if it is known.
    pub status: Option<u32>,
    /// Where the status comes from.
    pub status_source: StatusSource,
    /// Who ended it.
    pub ended_by: Option<EndedBy>,
    /// Error code of the RST_STREAM that ended it.
    pub rst_code: Option<u32>,
    /// HTTP status of the response.
    pub http_status: Option<u16>,
    /// Messages from the client.
    pub request: Messages,
    /// Messages from the server.
    pub response: Messages,
    /// `grpc-previous-rpc-attempts`, if it was sent.
    pub previous_attempts: Option<u32>,
    /// `grpc-retry-pushback-ms` of the trailers, if it was sent.
    pub retry_pushback: Option<RetryPushback>,
    /// What the request said about the trace that it belongs to.
    pub traces: Traces,
    /// Thread that moved the request's header block, zero if unknown.
    pub thread: u32,
}

impl Call {
    /// The well-known service that it called, if its method is known and belongs to one.
    #[must_use]
    pub fn well_known(&self) -> Option<WellKnown> {
        self.method.as_deref().and_then(WellKnown::of)
    }
}

/// What a server said about trying again (gRFC A6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryPushback {
    /// After so many milliseconds.
    AfterMs(u32),
    /// Not at all: the value was negative, or not a number.
    DoNotRetry,
}
