//! Flow control on a connection: which frames change which windows.

use super::{Connection, note_since};
use crate::call::Peer;
use crate::flow_control::{Credit, WindowFault};
use crate::http2::frame::{self, FrameHeader};
use crate::input::{Chunk, Flow, Timestamp};
use crate::observation::{StallEnd, Sync, Window, WindowsSeen};
use crate::observer::Shared;

impl Connection {
    /// WINDOW_UPDATE. On a stream that is closed, or was never opened, it is ignored (checklist S5).
    pub(super) fn handle_window_update(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
        chunk: &Chunk<'_>,
        shared: &mut Shared,
    ) {
        let increment = frame::u32_at(payload, 0).map(|increment| increment & 0x7fff_ffff);
        let fault = match (header.stream, increment) {
            (0, Some(increment)) => self.flow_control.handle_connection_update(chunk.flow, increment),
            (0, None) => {
                self.flow_control.forget_connection_update(chunk.flow);
                None
            }
            (id, increment) => self.handle_stream_update(id, increment, chunk.flow, chunk.time),
        };
        if let Some(fault) = fault {
            self.anomaly(header.stream, fault.kind(), chunk, shared);
        }
        if !self.stalls.is_empty() {
            let window = if header.stream == 0 { Window::Connection } else { Window::Stream };
            let credit = (StallEnd::WindowUpdate, u64::from(increment.unwrap_or_default()));
            self.handle_granted(window, header.stream, credit, chunk, shared);
        }
    }

    fn handle_stream_update(
        &mut self,
        id: u32,
        increment: Option<u32>,
        flow: Flow,
        time: Timestamp,
    ) -> Option<WindowFault> {
        let (peer, streams) = (self.peer(flow), self.streams.len());
        let Some(stream) = self.streams.get_mut(&id) else {
            match increment {
                Some(0) => return Some(WindowFault::Zero),
                Some(increment) if !id.is_multiple_of(2) && self.unseen.is_new(id) => {
                    self.flow_control.handle_early_update(flow, id, increment);
                }
                Some(_) | None => {}
            }
            return None;
        };
        if let Some(peer) = peer {
            stream.note_frame(peer, time);
        }
        if peer == Some(Peer::Client) {
            // Nobody sends it on a stream that he has reset; a server may after its END_STREAM.
            stream.handle_sign_of_life(Peer::Client);
            if stream.take_reassured(Peer::Client) {
                self.remembered_changed = true;
                note_since(&mut self.since_unread[Peer::Client as usize], id, streams);
            }
        }
        let credit = stream.credit(flow.opposite());
        match increment {
            Some(increment) => self.flow_control.handle_stream_update(flow, credit, increment),
            None => {
                *credit = None;
                None
            }
        }
    }

    /// Frames of this flow were missed that change no stream's state, but what is known of the connection.
    pub(super) fn lose_frames(&mut self, flow: Flow, time: Timestamp) {
        self.forget_settings(flow);
        self.pings.handle_loss(flow, time);
        self.flow_control.handle_loss(flow);
    }

    /// The credits of a new stream; with `missed`, frames of it may have been missed.
    pub(super) fn open_credits(&mut self, id: u32, missed: bool) -> [Credit; 2] {
        // Only what was lost as of its last chunk can be lost now: looking at the reader then needs no cache miss.
        let lost = [0, 1]
            .into_iter()
            .any(|at| self.syncs[at] == Some(Sync::Desynced) && self.flows[at].reader.is_lost());
        self.flow_control.open_stream(id, !missed && !lost)
    }

    /// The windows of the sender whose windows a DATA or WINDOW_UPDATE frame changes.
    pub(super) fn windows_after(&self, header: FrameHeader, flow: Flow) -> Option<WindowsSeen> {
        let sender = match header.kind {
            frame::DATA => flow,
            frame::WINDOW_UPDATE => flow.opposite(),
            _ => return None,
        };
        let stream = self.streams.get(&header.stream);
        Some(WindowsSeen {
            connection: self.flow_control.connection_window(sender),
            stream: stream.and_then(|stream| self.flow_control.stream_window(sender, stream.credits())),
        })
    }

    /// Windows of the connection by flow: sent, received.
    pub(super) fn connection_windows(&self) -> [Option<i64>; 2] {
        [Flow::Sent, Flow::Received].map(|flow| self.flow_control.connection_window(flow))
    }
}
