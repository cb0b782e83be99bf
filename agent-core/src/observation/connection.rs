//! Connections: their state, what both ends say of them, their end.

use std::sync::Arc;

use super::Sync;
use crate::input::{ConnectionId, Flow, Timestamp};

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
    /// `bandwidth`, `drain`, `other`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            PingKind::Bandwidth => "bandwidth",
            PingKind::Drain => "drain",
            PingKind::Other => "other",
        }
    }

    /// The kind of a PING with this payload.
    #[must_use]
    pub fn of(payload: [u8; 8]) -> PingKind {
        match payload {
            [2, 4, 16, 16, 9, 14, 7, 7] | [0, 0, 0, 0, 0, 0, 0x04, 0xd2] => PingKind::Bandwidth,
            // grpc-go, grpc-java, and the h2 crate of Rust.
            [1, 6, 1, 8, 0, 3, 3, 9]
            | [0, 0, 0, 0x09, 0x7a, 0xce, 0xf0, 0x01]
            | [0x0b, 0x7b, 0xa2, 0xf0, 0x8b, 0x9b, 0xfe, 0x54] => PingKind::Drain,
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
    /// It was seen to end: false if it was given up for want of memory, or is still open when the observation ends.
    pub has_ended: bool,
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

/// A PING that was not acknowledged within gRPC's default keepalive timeout of 20 s, or before the connection ended: then
/// only if it had been under way for a second, and for ten of the connection's shortest round trips.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PingUnanswered {
    /// The connection.
    pub connection: ConnectionId,
    /// The flow that the PING was sent in.
    pub flow: Flow,
    /// What it was for.
    pub kind: PingKind,
    /// When it was sent.
    pub sent: Timestamp,
    /// When it was given up.
    pub time: Timestamp,
}

/// `:authority` of a connection's requests: said for the first request, and for each that differs from the one before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    /// The connection.
    pub connection: ConnectionId,
    /// As sent, lossy UTF-8: escape it before it is shown.
    pub authority: Arc<str>,
    /// When.
    pub time: Timestamp,
}

/// Something between client and server has shown itself in a header block of the server's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IntermediarySeen {
    /// The connection.
    pub connection: ConnectionId,
    /// What it is.
    pub kind: Intermediary,
    /// When.
    pub time: Timestamp,
}

/// What stands between client and server, by the fields that it adds to responses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Intermediary {
    /// `server: envoy` or a field whose name starts with `x-envoy-`.
    Envoy,
    /// A field whose name starts with `l5d-`.
    Linkerd,
    /// `via` (RFC 9110 §7.6.3).
    Via,
}

/// A time during which a client had as many streams open as its server allows (SETTINGS_MAX_CONCURRENT_STREAMS): more calls
/// had to wait, or to be refused. Said when it is over, and for one that lasts whenever the caller asks
/// ([`Observer::visit_stream_limits`](crate::Observer::visit_stream_limits)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AtStreamLimit {
    /// The connection.
    pub connection: ConnectionId,
    /// The limit, in streams.
    pub limit: u32,
    /// When the last free stream was opened, or SETTINGS allowed no more than were open.
    pub from: Timestamp,
    /// When one ended, or the limit was raised; `None` while it lasts.
    pub until: Option<Timestamp>,
}
