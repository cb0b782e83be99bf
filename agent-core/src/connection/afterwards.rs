//! What is remembered of streams whose calls have ended, while the streams live on: a server has ended its side, and the client
//! has neither ended nor reset its own. Such a stream is half-closed (RFC 9113 §5.1), and counts for the server's limit.
//!
//! Not remembered: streams of which bytes were lost, since they may have been closed by these.

use super::Connection;
use crate::call::{Peer, Stream};
use crate::http2::frame::{self, FrameHeader};
use crate::input::Chunk;
use crate::observation::OpenCall;
use crate::observer::Shared;

/// Of one connection.
#[derive(Debug, Default)]
pub(super) struct Afterwards {
    /// In the order in which they ceased to be followed.
    half_closed: Vec<HalfClosed>,
}

#[derive(Debug)]
struct HalfClosed {
    stream: u32,
    /// `None` if it is not gRPC.
    call: Option<OpenCall>,
}

/// Half-closed streams of a connection that are remembered; what was first goes first.
const HALF_CLOSED: usize = 256;

impl Afterwards {
    /// Heap bytes that are held now; the names of methods are shared.
    pub(super) fn heap_bytes(&self) -> usize {
        size_of::<Afterwards>() + self.half_closed.capacity() * size_of::<HalfClosed>()
    }

    /// Calls whose server alone has closed the stream.
    pub(super) fn half_closed(&self) -> impl Iterator<Item = &OpenCall> {
        self.half_closed.iter().filter_map(|stream| stream.call.as_ref())
    }

    /// Frames were lost: streams may have been closed by them.
    pub(super) fn handle_loss(&mut self) {
        self.half_closed = Vec::new();
    }
}

impl Connection {
    /// A stream is open, and not followed any more.
    pub(super) fn remember_open_stream(&mut self, id: u32, stream: &Stream, shared: &mut Shared) {
        if stream.uncertain {
            return;
        }
        self.remembered_changed = true;
        let half_closed = &mut self.afterwards.get_or_insert_default().half_closed;
        let is_full = half_closed.len() >= HALF_CLOSED;
        if is_full {
            half_closed.remove(0);
        }
        half_closed.push(HalfClosed { stream: id, call: stream.half_closed(self.id, id) });
        if is_full {
            self.forget_stream_limit(shared);
        }
    }

    /// A frame on a stream that may not be followed any more. A reset closes it, and END_STREAM of the client does.
    pub(super) fn handle_frame_afterwards(
        &mut self,
        header: FrameHeader,
        chunk: &Chunk<'_>,
        shared: &mut Shared,
    ) {
        let Some(peer) = self.peer(chunk.flow) else { return };
        let Some(afterwards) = &mut self.afterwards else { return };
        let Some(at) = afterwards.half_closed.iter().position(|open| open.stream == header.stream) else {
            return;
        };
        let has_ended = peer == Peer::Client
            && matches!(header.kind, frame::DATA | frame::HEADERS)
            && header.has(frame::END_STREAM);
        if has_ended || header.kind == frame::RST_STREAM {
            afterwards.half_closed.remove(at);
            self.handle_stream_closed(chunk.time, shared);
        } else if let Some(call) = afterwards.half_closed.get_mut(at).and_then(|open| open.call.as_mut()) {
            let last = match peer {
                Peer::Client => &mut call.last_from_client,
                Peer::Server => &mut call.last_from_server,
            };
            *last = (*last).max(Some(chunk.time));
        }
    }
}
