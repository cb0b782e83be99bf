//! Recordings: packets of a file in, byte streams with holes out.
//!
//! The modules stand in the order in which the data flows: [`source`] opens the file and undoes gzip,
//! [`container`] cuts pcap and pcapng into packets, [`dissect`] finds the TCP segment in a packet, [`flow`]
//! puts the segments of one direction in order, [`tracker`] keeps the connections and says what happened
//! to them as [`Event`]s, which go to [`agent_core::Observer`] unchanged.
//!
//! Nothing here knows HTTP/2, but for one question: whether the first bytes of a flow whose handshake was
//! not recorded are the beginning of a connection (`flow::looks_like_the_beginning`).

pub mod container;
pub mod dissect;
pub mod flow;
pub mod source;
#[cfg(test)]
mod testing;
pub mod tracker;

use std::net::SocketAddr;

use agent_core::{Chunk, ConnectionId, Flow, Timestamp};

pub use container::{Container, Packet};
pub use tracker::{Statistics, Tracker};

/// The two ends of a recorded connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoints {
    /// The end that sent the first packet; its bytes are [`Flow::Sent`].
    pub first: SocketAddr,
    /// The other end; its bytes are [`Flow::Received`].
    pub second: SocketAddr,
    /// Which flow belongs to the end that opened the connection, if the handshake was recorded.
    pub opened_by: Option<Flow>,
}

impl Endpoints {
    /// The addresses of client and server when the client's bytes are `client_flow`; without it, the end that
    /// opened the connection is the client; without that either, nobody knows.
    #[must_use]
    pub fn roles(&self, client_flow: Option<Flow>) -> Option<(SocketAddr, SocketAddr)> {
        match client_flow.or(self.opened_by)? {
            Flow::Sent => Some((self.first, self.second)),
            Flow::Received => Some((self.second, self.first)),
        }
    }
}

/// What happened to a recorded connection.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A packet of a connection that is not known yet.
    Opened {
        /// Connections are numbered in order of appearance.
        connection: ConnectionId,
        /// Its ends.
        endpoints: Endpoints,
    },
    /// The handshake came to light after the first packet.
    Updated {
        /// The connection.
        connection: ConnectionId,
        /// Its ends, with what is known now.
        endpoints: Endpoints,
    },
    /// Bytes of one flow, in order.
    Chunk(Chunk<'a>),
    /// A flow carries nothing more.
    Closed {
        /// The connection.
        connection: ConnectionId,
        /// The flow.
        flow: Flow,
        /// By RST, so that neither flow carries anything more.
        reset: bool,
        /// When.
        time: Timestamp,
    },
    /// The connection is over.
    Ended {
        /// The connection.
        connection: ConnectionId,
        /// When.
        time: Timestamp,
    },
}
