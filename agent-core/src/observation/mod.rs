//! What the core says: facts about connections and calls, as plain data.

mod call;
mod connection;
mod flow_control;
mod frame;

pub use call::{
    Call, CallStarted, CallType, EndedBy, LateWork, Messages, OpenCall, Outcome, RequestEnded, RetryPushback,
    STATUS_NAMES, StatusSource, Timeout, TraceHash, Traces,
};
pub use connection::{
    AtStreamLimit, Authority, ConnectionStatus, ConnectionSummary, FlowSummary, Goaway, GoawayReason,
    Intermediary, IntermediarySeen, PingAnswered, PingKind, PingUnanswered,
};
pub use flow_control::{Holder, RoundTrips, Stall, StallEnd, Window};
pub use frame::{FieldSeen, FrameSeen, WindowsSeen};

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
    /// A PING did not come back in time.
    PingUnanswered(PingUnanswered),
    /// The rest of a request was read apart from its header block.
    RequestEnded(RequestEnded),
    /// A server went on with a call that had ended.
    LateWork(LateWork),
    /// Whom the client of a connection asks for.
    Authority(Authority),
    /// Something between client and server has shown itself.
    Intermediary(IntermediarySeen),
    /// A sender had to wait for its peer's credit.
    Stalled(Box<Stall>),
    /// A client had as many streams open as its server allows.
    AtStreamLimit(AtStreamLimit),
    /// Nothing follows for this connection.
    ConnectionEnded(Box<ConnectionSummary>),
}

impl Observation {
    /// The connection that it is about.
    #[must_use]
    pub fn connection(&self) -> ConnectionId {
        match self {
            Observation::Connection(status) => status.connection,
            Observation::CallStarted(started) => started.connection,
            Observation::CallEnded(call) => call.connection,
            Observation::ExchangeEnded(exchange) => exchange.connection,
            Observation::Frame(frame) => frame.connection,
            Observation::Anomaly(anomaly) => anomaly.connection,
            Observation::Goaway(goaway) => goaway.connection,
            Observation::PingAnswered(ping) => ping.connection,
            Observation::PingUnanswered(ping) => ping.connection,
            Observation::RequestEnded(request) => request.connection,
            Observation::LateWork(work) => work.connection,
            Observation::Authority(authority) => authority.connection,
            Observation::Intermediary(seen) => seen.connection,
            Observation::Stalled(stall) => stall.connection,
            Observation::AtStreamLimit(limit) => limit.connection,
            Observation::ConnectionEnded(summary) => summary.connection,
        }
    }
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
