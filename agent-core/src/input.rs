//! What enters the core: chunks of byte streams, with a time.

use serde::{Deserialize, Serialize};

/// A socket, or a TCP connection of a recording. Never used again for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ConnectionId(pub u64);

/// Nanoseconds of one monotonic clock, or of a recording's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// Nanoseconds since `earlier`, zero if that is later: clocks of several CPUs may disagree by a little,
    /// and a duration is never negative.
    #[must_use]
    pub fn since(self, earlier: Timestamp) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// This time plus `ns` nanoseconds.
    #[must_use]
    pub fn plus(self, ns: u64) -> Timestamp {
        Timestamp(self.0.saturating_add(ns))
    }
}

/// One of the two byte streams of a connection, named from the side where it was captured. Which of them
/// comes from the HTTP/2 client is for the core to find out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Flow {
    /// What the observed socket sent; in a recording, what the end sent that sent first.
    Sent,
    /// What the observed socket received; in a recording, what the other end sent.
    Received,
}

impl Flow {
    /// The other flow of the same connection.
    #[must_use]
    pub fn opposite(self) -> Flow {
        match self {
            Flow::Sent => Flow::Received,
            Flow::Received => Flow::Sent,
        }
    }
}

/// A piece of one flow, in order.
#[derive(Clone, Copy, Debug)]
pub struct Chunk<'a> {
    /// The connection.
    pub connection: ConnectionId,
    /// Which of its flows.
    pub flow: Flow,
    /// Position of the first byte in the flow. Offset zero is the first byte that the flow ever had; a
    /// first chunk at any other offset was joined in the middle. Bytes between the end of the last chunk
    /// and this offset are a hole. Bytes before the end of the last chunk were seen already and are skipped.
    pub offset: u64,
    /// When the bytes were sent or received.
    pub time: Timestamp,
    /// The capturing side is sure that the first byte starts a frame header.
    pub boundary: bool,
    /// Thread that moved the bytes, zero if it is unknown.
    pub thread: u32,
    /// The bytes; may be empty, to say that a hole reaches up to `offset`.
    pub bytes: &'a [u8],
}

impl Chunk<'_> {
    /// Without bytes: what is said of the flow up to `offset`, by nobody's thread.
    #[must_use]
    pub fn empty(connection: ConnectionId, flow: Flow, offset: u64, time: Timestamp) -> Self {
        Chunk { connection, flow, offset, time, boundary: false, thread: 0, bytes: &[] }
    }
}
