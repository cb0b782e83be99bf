//! Stalls: a sender has data and may not send (RFC 9113 §5.2; checklist W7).

use std::sync::Arc;

use crate::input::{ConnectionId, Flow, Timestamp};

/// A sender's window was empty.
///
/// From the DATA frame that took the window to zero or below, to the WINDOW_UPDATE or SETTINGS that opened it. Said when it
/// is over; one that lasts is said whenever the caller asks
/// ([`Observer::visit_open_stalls`](crate::Observer::visit_open_stalls)). Times are those at which the frames were seen at the
/// observed socket. If that is the sender's, this is how long it could not send. If it is the receiver's, it is how long the
/// receiver withheld the credit after it had read the data; the sender waited for a round trip more.
///
/// Both windows can be empty at once. Then each has a stall of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stall {
    /// The connection.
    pub connection: ConnectionId,
    /// The flow of the sender.
    pub flow: Flow,
    /// Which window was empty.
    pub window: Window,
    /// The stream whose DATA emptied it.
    pub stream: u32,
    /// Method of that stream, if it is known.
    pub method: Option<Arc<str>>,
    /// The DATA frame that emptied it.
    pub from: Timestamp,
    /// When it was over; `None` while it lasts.
    pub until: Option<Timestamp>,
    /// What ended it; `None` while it lasts.
    pub end: Option<StallEnd>,
    /// The sender had begun a length-prefixed message that it could not finish on a stream that only this window held up: so
    /// it had more to send, for certain. If not, it may have had nothing to send and sent something new later: such a stall
    /// is said only once DATA has followed, and nothing should be claimed of it.
    pub inside_message: bool,
    /// The window that is open when its receiver has credited everything, in octets. Of a stream: the
    /// SETTINGS_INITIAL_WINDOW_SIZE in force. Of a connection: the largest that it has ever been.
    pub window_bytes: Option<u64>,
    /// Octets that the frame which opened it granted; zero if none did.
    pub credit_bytes: u64,
    /// Shortest round trips that were seen on the connection.
    pub round_trips: RoundTrips,
    /// For a connection's window: the stream that holds it, and holds up the others. `None` also where that cannot be told,
    /// since windows of streams are so large that their receiver may have consumed what it has not credited.
    pub holder: Option<Holder>,
    /// For a connection's window: streams that were open, without the holder. `None` if there were too many to count.
    pub siblings: Option<u32>,
}

impl Stall {
    /// How long it was, in nanoseconds; for one that lasts, until `now`.
    #[must_use]
    pub fn lasted_ns(&self, now: Timestamp) -> u64 {
        self.until.unwrap_or(now).since(self.from)
    }
}

/// A flow-control window (RFC 9113 §5.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Window {
    /// That of a stream.
    Stream,
    /// That of the connection.
    Connection,
}

impl Window {
    /// `stream`, `connection`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Window::Stream => "stream",
            Window::Connection => "connection",
        }
    }
}

/// What ended a stall.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StallEnd {
    /// WINDOW_UPDATE.
    WindowUpdate,
    /// SETTINGS with a larger SETTINGS_INITIAL_WINDOW_SIZE.
    Settings,
    /// The credit was seen only after the DATA that it allowed: it was over when that DATA was seen, at the latest.
    Data,
    /// The stream, or the connection, ended meanwhile: the credit never came.
    Closed,
    /// It lasted when the observation ended, or the connection was given up.
    ObservationEnded,
}

/// Shortest round trips that were seen on a connection, in nanoseconds; `None` if none was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RoundTrips {
    /// From a PING or SETTINGS frame in the flow [`Sent`](Flow::Sent) to its acknowledgement. Where a socket is observed this is
    /// the round trip to the peer.
    pub of_sent_ns: Option<u64>,
    /// The same the other way round. Where a socket is observed this is no more than what its own process takes to answer. In
    /// a recording from somewhere in between, both together are the round trip.
    pub of_received_ns: Option<u64>,
    /// From an earlier DATA frame that emptied a window of the same flow to the credit that opened it. At the sender's socket
    /// a round trip is no longer than that.
    pub of_credit_ns: Option<u64>,
}

/// A stream that takes a connection's window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The stream.
    pub stream: u32,
    /// Its method, if it is known.
    pub method: Option<Arc<str>>,
    /// Octets of its DATA that were not credited to the stream: more than half of the window that streams begin with, which
    /// receivers collect at the most before they credit it.
    pub bytes: u64,
}
