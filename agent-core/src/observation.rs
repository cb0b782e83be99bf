//! What the core says: facts about connections and calls, as plain data.

use std::sync::Arc;

use crate::grpc::well_known::WellKnown;
use crate::input::{ConnectionId, Flow, Timestamp};

/// One fact.
#[derive(Clone, Debug)]
pub enum Observation {
    /// A connection is HTTP/2, or its state changed. Sent once when it is recognised and on every change.
    Connection(ConnectionStatus),
    /// A request was seen. Followed by exactly one [`Observation::CallEnded`] with the same connection and stream.
    CallStarted(CallStarted),
    /// A call ended, was given up, or is still open at the end of the observation.
    CallEnded(Box<Call>),
    /// An HTTP/2 exchange that is not gRPC ended.
    ExchangeEnded(Exchange),
    /// A frame was seen. Only when [`Observer::trace_frames`](crate::Observer::trace_frames) is on.
    Frame(Box<FrameSeen>),
    /// Something that the protocol does not allow, or that the core gave up on.
    Anomaly(Anomaly),
    /// One end said that the connection will end.
    Goaway(Goaway),
    /// A PING came back.
    PingAnswered(PingAnswered),
    /// Nothing follows for this connection.
    ConnectionEnded(Box<ConnectionSummary>),
}

/// Which end of a connection the observed socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Side {
    /// It sends the requests.
    Client,
    /// It receives the requests.
    Server,
}

impl Side {
    /// The side of the observed socket, whose flow the requests are in.
    #[must_use]
    pub fn of(client_flow: Flow) -> Side {
        match client_flow {
            Flow::Sent => Side::Client,
            Flow::Received => Side::Server,
        }
    }

    /// `client` or `server`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Side::Client => "client",
            Side::Server => "server",
        }
    }
}

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

/// How much of a flow is understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Sync {
    /// Seen from its first byte, nothing missing that matters: everything is known.
    Synced,
    /// Frames are understood, but HPACK entries from before the join, or from before a loss, are not.
    Late,
    /// The frame boundary is lost; looking for it.
    Desynced,
}

/// State of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionStatus {
    /// The connection.
    pub connection: ConnectionId,
    /// Which flow the client's requests are in, once it is known.
    pub client_flow: Option<Flow>,
    /// State of the worse of its two flows.
    pub sync: Sync,
    /// When.
    pub time: Timestamp,
}

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
    /// When the request's header block was complete.
    pub time: Timestamp,
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

/// An HTTP/2 exchange that is not gRPC.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// The connection.
    pub connection: ConnectionId,
    /// Stream id.
    pub stream: u32,
    /// What it was.
    pub protocol: Protocol,
    /// Which flow the request was in.
    pub client_flow: Option<Flow>,
    /// HTTP status, if it is known.
    pub http_status: Option<u16>,
    /// When it ended.
    pub time: Timestamp,
}

/// What an exchange speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// `application/grpc`.
    Grpc,
    /// `application/grpc-web`.
    GrpcWeb,
    /// Anything else.
    Http,
    /// Not known: the content type was not decoded and the evidence does not tell.
    Unknown,
}

/// Name and value of a header field; `None` where they refer to an entry from before the join.
pub type FieldSeen = (Option<Vec<u8>>, Option<Vec<u8>>);

/// A frame, with what `replay --frames` shows of it.
#[derive(Clone, Debug)]
pub struct FrameSeen {
    /// The connection.
    pub connection: ConnectionId,
    /// The flow it was in.
    pub flow: Flow,
    /// True if this flow comes from the client; `None` while that is not known.
    pub from_client: Option<bool>,
    /// When its last byte was seen.
    pub time: Timestamp,
    /// Type, RFC 9113 §6.
    pub frame_type: u8,
    /// Flags as sent.
    pub flags: u8,
    /// Stream id without the reserved bit.
    pub stream: u32,
    /// Payload length as sent.
    pub length: u32,
    /// SETTINGS: identifier and value, in order.
    pub settings: Option<Vec<(u16, u32)>>,
    /// WINDOW_UPDATE: increment.
    pub increment: Option<u32>,
    /// DATA: windows of its sender after it. WINDOW_UPDATE: windows of its receiver after it.
    pub windows: Option<WindowsSeen>,
    /// RST_STREAM and GOAWAY: error code.
    pub code: Option<u32>,
    /// The frame that ends a header block: its fields, names and values that are not known as `None`.
    pub headers: Option<Vec<FieldSeen>>,
    /// The block could not be decoded: why.
    pub hpack_error: Option<String>,
}

/// What an end of a connection may still send, in octets of DATA payload (RFC 9113 §5.2). Below zero after
/// SETTINGS took back what was sent already; `None` where a frame that counts may have been missed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WindowsSeen {
    /// On the connection.
    pub connection: Option<i64>,
    /// On the frame's stream; `None` also on a stream that is not open.
    pub stream: Option<i64>,
}

/// Something that should not be, by kind; counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Anomaly {
    /// The connection.
    pub connection: ConnectionId,
    /// Stream id, zero for the connection.
    pub stream: u32,
    /// What it is: a short name, stable, usable as a label (`frame_size`, `hpack`, `timeout_syntax`, …).
    pub kind: &'static str,
    /// When.
    pub time: Timestamp,
}

/// A GOAWAY frame (RFC 9113 §6.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Goaway {
    /// The connection.
    pub connection: ConnectionId,
    /// The flow that it was sent in.
    pub flow: Flow,
    /// Streams above this id will not be processed.
    pub last_stream: u32,
    /// Error code as sent.
    pub code: u32,
    /// Why.
    pub reason: GoawayReason,
    /// When.
    pub time: Timestamp,
}

/// Why a connection is to end, as far as the frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum GoawayReason {
    /// A notice: no new streams, and the GOAWAY that counts is still to come.
    GracefulNotice,
    /// Without an error, and without a reason.
    Graceful,
    /// It is older than the server allows (`max_age`).
    MaxAge,
    /// It was idle for longer than the server allows (`max_idle`).
    MaxIdle,
    /// The client sent more keepalive PINGs than the server allows.
    TooManyPings,
    /// The client reset more streams than the server allows.
    TooManyResets,
    /// With any other error code.
    Error,
}

/// A PING and its acknowledgement (RFC 9113 §6.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PingAnswered {
    /// The connection.
    pub connection: ConnectionId,
    /// The flow that the PING was sent in.
    pub flow: Flow,
    /// What it was for.
    pub kind: PingKind,
    /// Nanoseconds from the PING to its acknowledgement, as seen at the socket.
    pub round_trip_ns: u64,
    /// When the acknowledgement was seen.
    pub time: Timestamp,
}

/// What a PING is for, by the payloads that implementations are known to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PingKind {
    /// Estimation of the bandwidth-delay product, by grpc-go or grpc-java: sent along with data.
    Bandwidth,
    /// Before a connection is closed gracefully.
    Drain,
    /// Keepalive, or something that is not known.
    Other,
}

impl PingKind {
    /// The kind of a PING with this payload.
    #[must_use]
    pub fn of(payload: [u8; 8]) -> PingKind {
        match payload {
            [2, 4, 16, 16, 9, 14, 7, 7] | [0, 0, 0, 0, 0, 0, 0x04, 0xd2] => PingKind::Bandwidth,
            [1, 6, 1, 8, 0, 3, 3, 9] | [0, 0, 0, 0x09, 0x7a, 0xce, 0xf0, 0x01] => PingKind::Drain,
            _ => PingKind::Other,
        }
    }
}

/// A connection at its end.
#[derive(Clone, Debug)]
pub struct ConnectionSummary {
    /// The connection.
    pub connection: ConnectionId,
    /// Which flow the client's requests were in, if it was found out.
    pub client_flow: Option<Flow>,
    /// Its flows: sent, received.
    pub flows: [FlowSummary; 2],
    /// gRPC calls that were reported.
    pub calls: u64,
    /// First and last time.
    pub opened: Timestamp,
    /// When it ended or was last seen.
    pub closed: Timestamp,
    /// True if it was recognised as HTTP/2.
    pub http2: bool,
    /// Values of `-bin` fields may be raw octets, since both ends said so (C-core's SETTINGS 0xfe03); `None` if
    /// SETTINGS may have been missed.
    pub binary_metadata: Option<bool>,
}

/// One flow of a connection at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowSummary {
    /// State at the end.
    pub sync: Sync,
    /// Frames seen.
    pub frames: u64,
    /// Header blocks decoded or tried.
    pub header_blocks: u64,
    /// Bytes that were seen.
    pub bytes: u64,
    /// Bytes of holes, by intent or by loss.
    pub hole_bytes: u64,
    /// Holes that cost the frame boundary or header blocks.
    pub desyncs: u64,
    /// Octets of DATA payload that its sender could still send on the connection (RFC 9113 §5.2); `None` if a frame
    /// that counts may have been missed.
    pub send_window: Option<i64>,
}
