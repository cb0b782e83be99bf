//! What is remembered of streams whose calls have ended, while the streams live on: a server has ended its side, and the client
//! has neither ended nor reset its own. Such a stream is half-closed (RFC 9113 §5.1), and counts for the peer's limit.
//!
//! Not said to be half-closed: streams of which bytes were lost.

use super::Connection;
use crate::call::{Peer, Stream};
use crate::http2::frame::{self, FrameHeader};
use crate::input::{Chunk, Timestamp};
use crate::observation::OpenCall;

/// Of one connection.
#[derive(Debug, Default)]
pub(super) struct Afterwards {
    /// In the order in which their calls ended.
    half_closed: Vec<OpenCall>,
}

/// Half-closed streams of a connection that are remembered; what was first goes first.
const HALF_CLOSED: usize = 256;

impl Afterwards {
    /// Heap bytes that are held now; the names of methods are shared.
    pub(super) fn heap_bytes(&self) -> usize {
        size_of::<Afterwards>() + self.half_closed.capacity() * size_of::<OpenCall>()
    }

    /// Calls whose server alone has closed the stream.
    pub(super) fn half_closed(&self) -> impl Iterator<Item = &OpenCall> {
        self.half_closed.iter()
    }

    /// Frames were lost: streams may have been closed by them.
    pub(super) fn handle_loss(&mut self) {
        self.half_closed = Vec::new();
    }
}

impl Connection {
    /// A stream is not followed any more.
    pub(super) fn remember_stream(&mut self, id: u32, stream: &Stream) {
        let Some(call) = stream.half_closed(self.id, id) else { return };
        self.remembered_changed = true;
        let half_closed = &mut self.afterwards.get_or_insert_default().half_closed;
        if half_closed.len() >= HALF_CLOSED {
            half_closed.remove(0);
        }
        half_closed.push(call);
    }

    /// A frame on a stream that is not followed. A reset closes it, and END_STREAM of the client does.
    pub(super) fn handle_frame_afterwards(&mut self, header: FrameHeader, chunk: &Chunk<'_>) {
        let peer = self.peer(chunk.flow);
        let Some(afterwards) = &mut self.afterwards else { return };
        let Some(at) = afterwards.half_closed.iter().position(|call| call.stream == header.stream) else {
            return;
        };
        let is_reset = header.kind == frame::RST_STREAM;
        let has_ended = peer == Some(Peer::Client)
            && matches!(header.kind, frame::DATA | frame::HEADERS)
            && header.has(frame::END_STREAM);
        if is_reset || has_ended {
            afterwards.half_closed.remove(at);
        } else if let Some(call) = afterwards.half_closed.get_mut(at) {
            note(peer, call, chunk.time);
        }
    }
}

fn note(peer: Option<Peer>, call: &mut OpenCall, time: Timestamp) {
    match peer {
        Some(Peer::Client) => call.last_from_client = call.last_from_client.max(Some(time)),
        Some(Peer::Server) => call.last_from_server = call.last_from_server.max(Some(time)),
        None => {}
    }
}
