//! What is remembered of streams whose calls have ended, while the streams live on: a server has ended its side, and the client
//! has neither ended nor reset its own. Such a stream is half-closed (RFC 9113 §5.1), and counts for the server's limit.
//!
//! Not remembered: streams of which bytes were lost, since they may have been closed by these.
//!
//! And streams that a client has reset, for a while: what the server still sends on them is work after the end at its own
//! socket, and at the client's socket what was on its way. Such frames never become calls (checklist S5).

use std::collections::VecDeque;
use std::sync::Arc;

use super::Connection;
use crate::call::{Peer, Stream};
use crate::http2::frame::{self, FrameHeader};
use crate::input::{Chunk, ConnectionId, Timestamp};
use crate::moment::Moment;
use crate::observation::{LateWork, Observation, OpenCall};
use crate::observer::{Shared, Timer};

/// Of one connection.
#[derive(Debug, Default)]
pub(super) struct Afterwards {
    /// In the order in which they ceased to be followed.
    half_closed: Vec<HalfClosed>,
    /// Likewise.
    reset: VecDeque<Reset>,
}

/// A gRPC call that its client has reset.
#[derive(Debug)]
struct Reset {
    stream: u32,
    method: Option<Arc<str>>,
    ended: Timestamp,
    /// Last DATA or trailers after that.
    last: Moment,
    bytes: u64,
    trailers: bool,
}

impl Reset {
    /// What the server did since, if it did anything.
    fn late_work(self, connection: ConnectionId) -> Option<LateWork> {
        let Reset { stream, method, ended, last, bytes, trailers } = self;
        Some(LateWork { connection, stream, method, ended, last: last.get()?, bytes, trailers })
    }
}

#[derive(Debug)]
struct HalfClosed {
    stream: u32,
    /// `None` if it is not gRPC.
    call: Option<OpenCall>,
}

/// Half-closed streams of a connection that are remembered; what was first goes first.
const HALF_CLOSED: usize = 256;
/// Streams of a connection that were reset, likewise.
const RESET: usize = 32;

/// Nothing more is expected of a server that was silent for so long.
const QUIET_NS: u64 = 1_000_000_000;

impl Afterwards {
    /// Heap bytes that are held now; the names of methods are shared.
    pub(super) fn heap_bytes(&self) -> usize {
        size_of::<Afterwards>()
            + self.half_closed.capacity() * size_of::<HalfClosed>()
            + self.reset.capacity() * size_of::<Reset>()
    }

    /// Calls whose server alone has closed the stream.
    pub(super) fn half_closed(&self) -> impl Iterator<Item = &OpenCall> {
        self.half_closed.iter().filter_map(|stream| stream.call.as_ref())
    }

    /// What follows on streams that were reset is not all seen any more: nothing is said of it.
    pub(super) fn leave_out_data(&mut self) {
        self.reset = VecDeque::new();
        for call in self.half_closed.iter_mut().filter_map(|stream| stream.call.as_mut()) {
            call.left_out_until = Some(Timestamp(0));
        }
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
        if peer == Peer::Server {
            self.handle_late_frame(header, chunk, shared);
        }
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

    /// The client has reset a call, at this time.
    pub(super) fn remember_reset_stream(
        &mut self,
        stream: u32,
        method: Option<Arc<str>>,
        ended: Timestamp,
        shared: &mut Shared,
    ) {
        self.remembered_changed = true;
        let reset = &mut self.afterwards.get_or_insert_default().reset;
        let forgotten = if reset.len() >= RESET { reset.pop_front() } else { None };
        reset.push_back(Reset { stream, method, ended, last: Moment::NEVER, bytes: 0, trailers: false });
        if let Some(work) = forgotten.and_then(|reset| reset.late_work(self.id)) {
            shared.observations.push_back(Observation::LateWork(work));
        }
    }

    /// Payload of DATA on a stream that may have been reset.
    pub(super) fn handle_late_data(
        &mut self,
        header: FrameHeader,
        len: u64,
        chunk: &Chunk<'_>,
        shared: &mut Shared,
    ) {
        if self.peer(chunk.flow) == Some(Peer::Server)
            && let Some(reset) = self.late_stream(header.stream, chunk.time, shared)
        {
            reset.bytes = reset.bytes.saturating_add(len);
            reset.last.note_last(chunk.time);
        }
    }

    /// What else a server may send on a stream that was reset: its end.
    fn handle_late_frame(&mut self, header: FrameHeader, chunk: &Chunk<'_>, shared: &mut Shared) {
        let ends = matches!(header.kind, frame::DATA | frame::HEADERS) && header.has(frame::END_STREAM);
        if !(ends || header.kind == frame::RST_STREAM) {
            return;
        }
        if ends
            && header.kind == frame::HEADERS
            && let Some(reset) = self.late_stream(header.stream, chunk.time, shared)
        {
            reset.trailers = true;
            reset.last.note_last(chunk.time);
        }
        self.tell_late_work(header.stream, shared);
    }

    /// A stream that was reset before `time`, and on which something follows; looked at again when that is over.
    fn late_stream(&mut self, stream: u32, time: Timestamp, shared: &mut Shared) -> Option<&mut Reset> {
        let reset = &mut self.afterwards.as_mut()?.reset;
        let reset = reset.iter_mut().rev().find(|reset| reset.stream == stream)?;
        // The two flows may be seen out of step: what was sent before the end is not late.
        if time <= reset.ended {
            return None;
        }
        if reset.last == Moment::NEVER {
            shared.set_timer(time.plus(QUIET_NS), Timer::LateWork(self.id, stream));
        }
        Some(reset)
    }

    /// Whether the server has been silent for long on a stream that was reset.
    pub(crate) fn handle_late_work_timeout(&mut self, stream: u32, now: Timestamp, shared: &mut Shared) {
        let Some(afterwards) = &self.afterwards else { return };
        let Some(reset) = afterwards.reset.iter().find(|reset| reset.stream == stream) else { return };
        match reset.last.get().map(|last| last.plus(QUIET_NS)) {
            Some(due) if due > now => shared.set_timer(due, Timer::LateWork(self.id, stream)),
            Some(_) => self.tell_late_work(stream, shared),
            None => {}
        }
    }

    /// Says what there is to say of a stream that was reset, and forgets it.
    fn tell_late_work(&mut self, stream: u32, shared: &mut Shared) {
        let Some(afterwards) = &mut self.afterwards else { return };
        let Some(at) = afterwards.reset.iter().position(|reset| reset.stream == stream) else { return };
        if let Some(work) = afterwards.reset.remove(at).and_then(|reset| reset.late_work(self.id)) {
            shared.observations.push_back(Observation::LateWork(work));
        }
    }

    /// The connection is finished.
    pub(super) fn finish_late_work(&mut self, shared: &mut Shared) {
        let Some(afterwards) = &mut self.afterwards else { return };
        for work in afterwards.reset.drain(..).filter_map(|reset| reset.late_work(self.id)) {
            shared.observations.push_back(Observation::LateWork(work));
        }
    }

    /// The stream is remembered as one that was reset.
    pub(crate) fn has_reset(&self, stream: u32) -> bool {
        self.afterwards
            .as_ref()
            .is_some_and(|afterwards| afterwards.reset.iter().any(|reset| reset.stream == stream))
    }
}
