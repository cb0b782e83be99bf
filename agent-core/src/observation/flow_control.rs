//! Stalls: a sender has data and may not send (RFC 9113 §5.2; checklist W9).

use crate::input::{ConnectionId, Flow, Timestamp};

/// A sender's window was empty, and the sender had more to send.
///
/// From the DATA frame that took the window to zero or below, to the WINDOW_UPDATE or SETTINGS that opened it. Said
/// when DATA followed after that: only then it is sure that there was something to send. One that lasts is said whenever
/// the caller asks ([`Observer::visit_open_stalls`](crate::Observer::visit_open_stalls)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stall {
    /// The connection.
    pub connection: ConnectionId,
    /// The flow of the sender.
    pub flow: Flow,
    /// Which window was empty.
    pub window: Window,
    /// The DATA frame that emptied it.
    pub from: Timestamp,
    /// What opened it; `None` while it lasts.
    pub until: Option<Timestamp>,
    /// The window that was open when its receiver had credited everything, in octets: the most that the receiver lets the
    /// sender have in flight. `None` if it is not known.
    pub window_bytes: Option<u64>,
    /// Octets that the frame which opened it granted.
    pub credit_bytes: u64,
    /// Shortest round trip that was seen on the connection, in nanoseconds: of a PING, of SETTINGS, or of a credit. `None`
    /// if none was seen.
    pub round_trip_ns: Option<u64>,
    /// For a connection's window: the stream whose DATA is the greatest part of what its receiver has not credited, and
    /// how many octets. It holds up the others.
    pub holder: Option<(u32, u64)>,
    /// For a connection's window: streams that were open during the stall, without the holder.
    pub siblings: u32,
}

/// A flow-control window (RFC 9113 §5.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Window {
    /// That of a stream.
    Stream(u32),
    /// That of the connection.
    Connection,
}
