//! Empty windows: from the DATA frame that used a window up to what opened it (RFC 9113 §5.2; checklist W7).
//!
//! In: what is left of a window after each DATA frame, WINDOW_UPDATE and SETTINGS, and the ends of streams. Out:
//! [`Stall`]s. A window that is merely small is none: all senders that we know of cut their frames to what is left and go down to
//! exactly zero (C-core `DataSendContext::max_outgoing`, grpc-go `loopyWriter.processData`, h2 `Prioritize::pop_frame`, nghttp2
//! `nghttp2_session_next_data_read`, Netty `DefaultHttp2RemoteFlowController`).
//!
//! ```text
//!   window > 0 ──DATA──► empty ──credit──► over, said at once if the sender was inside a message;
//!        ▲                 │                else kept until DATA follows, and forgotten if the stream ends first
//!        │                 ├──DATA──► overtaken: the credit was seen too late, ──credit──► over when that DATA was seen
//!        └─────────────────┴──the stream ends──► over
//! ```
//!
//! SETTINGS that take a window below zero begin no stall by themselves, since a sender may be idle; the DATA that follows them
//! does. Until its peer has read such SETTINGS a sender goes on, so that the last DATA frame before it stops counts.

use std::sync::Arc;

use super::Connection;
use super::flow::index;
use crate::call::{Peer, Stream};
use crate::flow_control::LARGEST_WINDOW;
use crate::http2::frame::{self, FrameHeader};
use crate::input::{Chunk, Flow, Timestamp};
use crate::observation::{Anomaly, Holder, Observation, Protocol, RoundTrips, Stall, StallEnd, Window};
use crate::observer::Shared;
use crate::steps;

/// Windows of one connection that are empty, or were until a moment ago: every DATA frame asks if there are any.
#[derive(Debug, Default)]
pub(super) struct Stalls {
    open: Vec<Open>,
}

/// What is only needed now and then.
#[derive(Debug, Default)]
pub(super) struct StallNotes {
    pub(super) round_trips: RoundTripsSeen,
    /// Frames of the connection when its streams were last looked through.
    looked_through_at: u64,
}

/// Shortest round trips, in nanoseconds.
#[derive(Debug, Default)]
pub(super) struct RoundTripsSeen {
    /// By the flow that was acknowledged in the other one.
    acknowledged: [Option<u64>; 2],
    /// By the flow of the sender that was granted something.
    credited: [Option<u64>; 2],
}

impl RoundTripsSeen {
    /// A PING or SETTINGS frame of `flow` was acknowledged.
    pub(super) fn note(&mut self, flow: Flow, ns: u64) {
        shorten(&mut self.acknowledged[index(flow)], ns);
    }
}

fn shorten(shortest: &mut Option<u64>, ns: u64) {
    *shortest = Some(shortest.map_or(ns, |shortest| shortest.min(ns)));
}

#[derive(Debug)]
struct Open {
    flow: Flow,
    window: Window,
    /// The stream whose window it is, or whose DATA emptied the connection's.
    stream: u32,
    method: Option<Arc<str>>,
    from: Timestamp,
    inside_message: bool,
    /// DATA came although the window was empty: its credit is about to be seen.
    overtaken: Option<Overtaken>,
    /// It was opened, and whether the sender had more to send is not known.
    opened: Option<(Timestamp, StallEnd, u64)>,
}

#[derive(Clone, Copy, Debug)]
struct Overtaken {
    first: Timestamp,
    last: Timestamp,
    inside_message: bool,
}

impl Stalls {
    /// No window is empty: then nothing has to be looked for.
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Heap bytes that are held now.
    pub(super) fn heap_bytes(&self) -> usize {
        self.open.capacity() * size_of::<Open>()
    }

    fn find(&self, flow: Flow, window: Window, stream: u32) -> Option<usize> {
        self.open.iter().position(|open| {
            open.flow == flow
                && open.window == window
                && (window == Window::Connection || open.stream == stream)
        })
    }
}

/// What a frame left of the windows of its sender.
pub(super) struct Left {
    pub(super) stream: Option<i64>,
    pub(super) connection: Option<i64>,
}

impl Left {
    /// A window is empty.
    pub(super) fn is_nothing(&self) -> bool {
        self.stream.is_some_and(|left| left <= 0) || self.connection.is_some_and(|left| left <= 0)
    }
}

/// How a stall ended.
struct Over {
    until: Timestamp,
    end: StallEnd,
    credit_bytes: u64,
}

impl Connection {
    /// A DATA frame left nothing of a window, or a window was empty before it.
    #[cold]
    pub(super) fn handle_used_windows(
        &mut self,
        header: FrameHeader,
        left: &Left,
        chunk: &Chunk<'_>,
        shared: &mut Shared,
    ) {
        if header.length == 0 {
            return; // It may be sent whatever the windows are (RFC 9113 §6.9.1).
        }
        if !self.flows[index(chunk.flow.opposite())].is_seen_to_its_end() {
            return; // Where the other flow is not seen, its WINDOW_UPDATEs are not.
        }
        let ends = header.has(frame::END_STREAM);
        let inside = !ends
            && self.peer(chunk.flow).is_some_and(|peer| {
                self.streams.get(&header.stream).is_some_and(|stream| is_inside_message(stream, peer))
            });
        // What has ended needs no window any more.
        let of_stream = left.stream.filter(|_| !ends);
        self.handle_used_window(header, Window::Stream, of_stream, inside, chunk, shared);
        // Where both are empty, only the stream's is sure to hold it up.
        let inside = inside && left.stream.is_some_and(|left| left > 0);
        self.handle_used_window(header, Window::Connection, left.connection, inside, chunk, shared);
    }

    fn handle_used_window(
        &mut self,
        header: FrameHeader,
        window: Window,
        left: Option<i64>,
        inside_message: bool,
        chunk: &Chunk<'_>,
        shared: &mut Shared,
    ) {
        let (flow, time) = (chunk.flow, chunk.time);
        let has_shrunk = window == Window::Stream && self.flow_control.has_shrunk(flow);
        if let Some(at) = self.stalls.find(flow, window, header.stream) {
            if self.stalls.open[at].opened.is_some() {
                let (open, over) = self.take_opened(at, shared);
                let looks = self.takes_look(window);
                self.report_stall(&open, over, looks, shared);
            } else {
                let open = &mut self.stalls.open[at];
                if has_shrunk {
                    // The sender did not know yet.
                    open.from = time;
                    open.inside_message = inside_message;
                } else {
                    let first = open.overtaken.map_or(time, |overtaken| overtaken.first);
                    open.overtaken = Some(Overtaken { first, last: time, inside_message });
                }
                return;
            }
        }
        let Some(left) = left else { return };
        if left <= 0 && (left + i64::from(header.length) > 0 || has_shrunk) {
            let method = self.streams.get(&header.stream).and_then(Stream::method);
            let stream = header.stream;
            let open = Open {
                flow,
                window,
                stream,
                method,
                from: time,
                inside_message,
                overtaken: None,
                opened: None,
            };
            self.open_stall(open, chunk, shared);
        }
    }

    fn open_stall(&mut self, open: Open, chunk: &Chunk<'_>, shared: &mut Shared) {
        // The connection's two windows have places of their own.
        if open.window == Window::Stream && self.stalls.open.len() >= shared.limits.stalls_per_connection {
            self.anomaly(open.stream, "stalls_limit", chunk, shared);
            return;
        }
        self.stalls.open.push(open);
        self.remembered_changed = true;
        shared.stalled.insert(self.id);
    }

    /// WINDOW_UPDATE or SETTINGS of `chunk` have changed a window of the other flow's sender.
    pub(super) fn handle_granted(
        &mut self,
        window: Window,
        stream: u32,
        (end, credit_bytes): (StallEnd, u64),
        chunk: &Chunk<'_>,
        shared: &mut Shared,
    ) {
        let flow = chunk.flow.opposite();
        let Some(at) = self.stalls.find(flow, window, stream) else { return };
        let left = match window {
            Window::Connection => self.flow_control.connection_window(flow),
            Window::Stream => self
                .streams
                .get(&stream)
                .and_then(|stream| self.flow_control.stream_window(flow, stream.credits())),
        };
        let Some(left) = left else {
            self.lose_stall(at, chunk, shared);
            return;
        };
        let open = &mut self.stalls.open[at];
        if open.opened.is_some() {
            return;
        }
        if let Some(overtaken) = open.overtaken {
            if left < 0 {
                return; // More credit is about to be seen.
            }
            let open = self.take_stall(at, shared);
            let over = Over { until: overtaken.first, end: StallEnd::Data, credit_bytes: 0 };
            let looks = self.takes_look(window);
            self.report_stall(&open, over, looks, shared);
            if left == 0 {
                let Overtaken { last, inside_message, .. } = overtaken;
                self.open_stall(Open { from: last, inside_message, overtaken: None, ..open }, chunk, shared);
            }
            return;
        }
        if left <= 0 {
            return;
        }
        open.opened = Some((chunk.time, end, credit_bytes));
        let is_sure = open.inside_message;
        let looks = self.takes_look(window);
        if is_sure || (looks && self.is_any_held_up(flow)) {
            self.stalls.open[at].inside_message = true;
            let (open, over) = self.take_opened(at, shared);
            self.report_stall(&open, over, looks, shared);
        }
    }

    /// SETTINGS of `chunk` have said what windows of streams begin with.
    pub(super) fn handle_initial_window_changed(
        &mut self,
        before: Option<i64>,
        chunk: &Chunk<'_>,
        shared: &mut Shared,
    ) {
        if self.stalls.is_empty() {
            return;
        }
        let flow = chunk.flow.opposite();
        let now = self.flow_control.initial_window(flow);
        let more = now.zip(before).map_or(0, |(now, before)| now.saturating_sub(before));
        let credit_bytes = u64::try_from(more).unwrap_or(0);
        let of_streams = |open: &&Open| open.flow == flow && open.window == Window::Stream;
        let streams: Vec<u32> = self.stalls.open.iter().filter(of_streams).map(|open| open.stream).collect();
        for stream in streams {
            steps::count();
            self.handle_granted(Window::Stream, stream, (StallEnd::Settings, credit_bytes), chunk, shared);
        }
    }

    /// A stream has ended.
    pub(super) fn end_stalls_of(&mut self, stream: u32, time: Timestamp, shared: &mut Shared) {
        for flow in [Flow::Sent, Flow::Received] {
            let Some(at) = self.stalls.find(flow, Window::Stream, stream) else { continue };
            let open = self.take_stall(at, shared);
            if open.overtaken.is_some() {
                self.say_end_is_unknown(stream, time, shared);
            }
            self.close_stall(&open, time, shared);
        }
    }

    /// Nothing more will be seen of the connection: what lasts is said as it stands, unless the connection was `closed`.
    pub(super) fn finish_stalls(&mut self, closed: Option<Timestamp>, now: Timestamp, shared: &mut Shared) {
        if let Some(closed) = closed {
            for open in std::mem::take(&mut self.stalls.open) {
                self.close_stall(&open, closed, shared);
            }
        } else {
            self.visit_open_stalls(&mut |mut stall| {
                stall.until = Some(now);
                stall.end = Some(StallEnd::ObservationEnded);
                shared.observations.push_back(Observation::Stalled(Box::new(stall)));
            });
        }
        shared.stalled.remove(&self.id);
    }

    /// Windows became unknown: `of` says which. Whether and when they opened will not be seen.
    pub(super) fn lose_stalls(
        &mut self,
        of: impl Fn(Flow, Window) -> bool,
        chunk: &Chunk<'_>,
        shared: &mut Shared,
    ) {
        for at in (0..self.stalls.open.len()).rev() {
            if self.stalls.open.get(at).is_some_and(|open| of(open.flow, open.window)) {
                self.lose_stall(at, chunk, shared);
            }
        }
    }

    /// Empty windows of senders that certainly have more to send, as of now.
    pub(crate) fn visit_open_stalls(&self, visit: &mut impl FnMut(Stall)) {
        for open in self.stalls.open.iter().filter(|open| open.is_waiting()) {
            if open.inside_message || (open.window == Window::Connection && self.is_any_held_up(open.flow)) {
                let mut stall = self.stall(open, None, true);
                stall.inside_message = true;
                visit(stall);
            }
        }
    }

    fn lose_stall(&mut self, at: usize, chunk: &Chunk<'_>, shared: &mut Shared) {
        let open = self.take_stall(at, shared);
        if open.opened.is_none() {
            self.say_end_is_unknown(open.stream, chunk.time, shared);
        }
    }

    fn say_end_is_unknown(&self, stream: u32, time: Timestamp, shared: &mut Shared) {
        let anomaly = Anomaly { connection: self.id, stream, kind: "stall_end_unknown", time };
        shared.observations.push_back(Observation::Anomaly(anomaly));
    }

    fn close_stall(&mut self, open: &Open, time: Timestamp, shared: &mut Shared) {
        if open.is_waiting() && open.inside_message {
            let over = Over { until: time, end: StallEnd::Closed, credit_bytes: 0 };
            let looks = self.takes_look(open.window);
            self.report_stall(open, over, looks, shared);
        }
    }

    fn take_stall(&mut self, at: usize, shared: &mut Shared) -> Open {
        let open = self.stalls.open.swap_remove(at);
        if self.stalls.open.is_empty() {
            shared.stalled.remove(&self.id);
        }
        open
    }

    fn take_opened(&mut self, at: usize, shared: &mut Shared) -> (Open, Over) {
        let open = self.take_stall(at, shared);
        let (until, end, credit_bytes) = open.opened.unwrap_or((open.from, StallEnd::Data, 0));
        (open, Over { until, end, credit_bytes })
    }

    fn report_stall(&mut self, open: &Open, over: Over, looks: bool, shared: &mut Shared) {
        let lasted_ns = over.until.since(open.from);
        let is_credit = over.end == StallEnd::WindowUpdate;
        let stall = self.stall(open, Some(over), looks);
        if is_credit {
            shorten(&mut self.stall_notes.round_trips.credited[index(open.flow)], lasted_ns);
        }
        shared.observations.push_back(Observation::Stalled(Box::new(stall)));
    }

    fn stall(&self, open: &Open, over: Option<Over>, looks: bool) -> Stall {
        let [of_sent_ns, of_received_ns] = self.stall_notes.round_trips.acknowledged;
        let window_bytes = match open.window {
            Window::Stream => self.flow_control.initial_window(open.flow),
            Window::Connection => self.flow_control.largest_connection_window(open.flow),
        };
        let mut stall = Stall {
            connection: self.id,
            flow: open.flow,
            window: open.window,
            stream: open.stream,
            method: open.method.clone(),
            from: open.from,
            until: over.as_ref().map(|over| over.until),
            end: over.as_ref().map(|over| over.end),
            inside_message: open.inside_message,
            window_bytes: window_bytes.and_then(|bytes| u64::try_from(bytes).ok()),
            credit_bytes: over.map_or(0, |over| over.credit_bytes.min(u64::from(LARGEST_WINDOW))),
            round_trips: RoundTrips {
                of_sent_ns,
                of_received_ns,
                of_credit_ns: self.stall_notes.round_trips.credited[index(open.flow)],
            },
            holder: None,
            siblings: None,
        };
        if looks && open.window == Window::Connection {
            let (holder, open_streams) = self.look_through(open.flow, stall.window_bytes);
            stall.siblings = Some(open_streams - u32::from(holder.is_some()));
            stall.holder = holder;
        }
        stall
    }

    /// The open stream that holds at least half of the connection's window, and how many streams are open.
    ///
    /// What a stream was not credited may have been consumed all the same: receivers collect credit, up to half of the window
    /// (h2, nghttp2, Netty; grpc-go a quarter, C-core less). Only what is more than that was certainly not consumed.
    fn look_through(&self, flow: Flow, window_bytes: Option<u64>) -> (Option<Holder>, u32) {
        let mut most: Option<(i64, u32, &Stream)> = None;
        let mut open_streams = 0;
        for (id, stream) in &self.streams {
            steps::count();
            if stream.has_ended() {
                continue;
            }
            open_streams += 1;
            let Some(credit) = stream.credits()[index(flow)] else { continue };
            let uncredited = credit.saturating_neg();
            if most.is_none_or(|(bytes, other, _)| (uncredited, other) > (bytes, *id)) {
                most = Some((uncredited, *id, stream));
            }
        }
        let holder = most.zip(window_bytes).and_then(|((bytes, stream, state), window_bytes)| {
            let bytes = u64::try_from(bytes).ok()?;
            let collected = u64::try_from(self.flow_control.initial_window(flow)?).unwrap_or(0) / 2;
            let holds = bytes > collected && bytes.saturating_mul(2) >= window_bytes;
            holds.then(|| Holder { stream, method: state.method(), bytes })
        });
        (holder, open_streams)
    }

    /// A stream is inside a message, and its own window would let it go on.
    fn is_any_held_up(&self, flow: Flow) -> bool {
        let Some(peer) = self.peer(flow) else { return false };
        self.streams.values().any(|stream| {
            steps::count();
            !stream.has_ended()
                && is_inside_message(stream, peer)
                && self.flow_control.stream_window(flow, stream.credits()).is_some_and(|left| left > 0)
        })
    }

    /// All streams may be looked through for this window: that is paid for by as many frames.
    fn takes_look(&mut self, window: Window) -> bool {
        /// So few that it costs nothing to speak of.
        const FEW: u64 = 64;
        let frames: u64 = self.flows.iter().map(|flow| flow.frames).sum();
        let is_paid = self.streams.len() as u64 <= FEW + (frames - self.stall_notes.looked_through_at);
        let takes = window == Window::Connection && is_paid;
        if takes {
            self.stall_notes.looked_through_at = frames;
        }
        takes
    }
}

impl Open {
    /// It was not opened yet.
    fn is_waiting(&self) -> bool {
        self.opened.is_none() && self.overtaken.is_none()
    }
}

/// The sender has begun a message and has not sent all of it. Only gRPC is known to have messages.
fn is_inside_message(stream: &Stream, peer: Peer) -> bool {
    stream.protocol() == Protocol::Grpc && stream.is_inside_message(peer)
}
