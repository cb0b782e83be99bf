//! What comes out of the capture.

use agent_common::ring::Endpoints;
use agent_core::{Chunk, ConnectionId, Flow, Timestamp};

/// What the kernel side saw.
#[derive(Clone, Copy, Debug)]
pub enum Captured<'a> {
    /// A socket was recognised as HTTP/2.
    Open {
        /// The connection.
        connection: ConnectionId,
        /// When.
        time: Timestamp,
        /// Process that made the call.
        pid: u32,
        /// Thread that made it.
        thread: u32,
        /// Both ends.
        endpoints: &'a Endpoints,
    },
    /// A piece of a flow.
    Chunk {
        /// Process that made the call.
        pid: u32,
        /// Bytes that the whole socket call moved.
        moved: u32,
        /// The piece; without bytes it says how far the hole before it reaches.
        chunk: Chunk<'a>,
    },
    /// Up to here a flow carried, since its last chunk, what was left out on purpose and nothing else: the rest of a DATA frame, whole
    /// DATA frames that ended no stream, and whole WINDOW_UPDATE frames.
    LeftOut {
        /// The connection.
        connection: ConnectionId,
        /// The flow.
        flow: Flow,
        /// Where what follows begins.
        offset: u64,
        /// When that was seen.
        time: Timestamp,
    },
    /// A flow ended, or the socket was closed.
    Close {
        /// The connection.
        connection: ConnectionId,
        /// Whose end: [`Flow::Sent`] is closed by this side, [`Flow::Received`] by the peer.
        flow: Flow,
        /// It was not orderly.
        reset: bool,
        /// Nothing follows for this connection.
        is_final: bool,
        /// What the flow carried last may not have been seen.
        unseen: bool,
        /// When.
        time: Timestamp,
    },
    /// How far a flow has got since this was last said of it.
    Moved {
        /// The connection.
        connection: ConnectionId,
        /// Bytes, seen or not.
        bytes: u64,
        /// Those of them that nobody saw: calls that were missed or could not be followed, and lost records.
        missed: u64,
    },
    /// Records of a flow are missing before the next one.
    Lost {
        /// The connection.
        connection: ConnectionId,
        /// The flow.
        flow: Flow,
        /// How many.
        records: u32,
        /// When it was noticed.
        time: Timestamp,
    },
}

impl Captured<'_> {
    /// The connection that it is of.
    #[must_use]
    pub fn connection(&self) -> ConnectionId {
        match self {
            Captured::Chunk { chunk, .. } => chunk.connection,
            Captured::Open { connection, .. }
            | Captured::LeftOut { connection, .. }
            | Captured::Close { connection, .. }
            | Captured::Moved { connection, .. }
            | Captured::Lost { connection, .. } => *connection,
        }
    }
}
