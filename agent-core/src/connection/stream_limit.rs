//! How many streams a client has open, and when they are as many as its server allows (RFC 9113 §5.1.2).
//!
//! Open and half-closed streams count, whatever they carry: from the client's HEADERS to the END_STREAM of both, a RST_STREAM
//! of either, or a GOAWAY that refuses them. SETTINGS_MAX_CONCURRENT_STREAMS counts from when it is seen, like all
//! SETTINGS here; until then there is no limit. A limit may be lowered below what is open.
//!
//! Says nothing once frames may have been missed: how many streams are open is not known from then on.

use std::num::NonZeroU32;

use super::Connection;
use super::flow::index;
use crate::call::Peer;
use crate::input::{Flow, Timestamp};
use crate::moment::Moment;
use crate::observation::{AtStreamLimit, Observation};
use crate::observer::Shared;

/// Streams of one connection, and what each end allows.
#[derive(Debug)]
pub(super) struct StreamLimit {
    /// Streams that the client has open.
    open: u32,
    /// SETTINGS_MAX_CONCURRENT_STREAMS as sent in each flow.
    allowed: [Allowed; 2],
    /// When the last free stream was taken.
    since: Moment,
    /// Frames may have been missed.
    is_unknown: bool,
}

/// A number of streams; `None` without a limit. Kept as its complement: then a limit of zero, which there is, has a
/// number, and the largest that SETTINGS can say is none.
#[derive(Clone, Copy, Debug, Default)]
struct Allowed(Option<NonZeroU32>);

impl Allowed {
    fn new(streams: u32) -> Allowed {
        Allowed(NonZeroU32::new(!streams))
    }

    fn get(self) -> Option<u32> {
        self.0.map(|complement| !complement.get())
    }
}

impl Default for StreamLimit {
    fn default() -> Self {
        StreamLimit { open: 0, allowed: [Allowed::default(); 2], since: Moment::NEVER, is_unknown: false }
    }
}

impl StreamLimit {
    /// Frames may have been missed.
    pub(super) fn lose(&mut self) {
        self.is_unknown = true;
        self.since = Moment::NEVER;
    }
}

impl Connection {
    /// SETTINGS_MAX_CONCURRENT_STREAMS of the end that sends `flow`.
    pub(super) fn handle_max_concurrent_streams(
        &mut self,
        flow: Flow,
        streams: u32,
        time: Timestamp,
        shared: &mut Shared,
    ) {
        let before = self.at_stream_limit(Some(time));
        self.stream_limit.allowed[index(flow)] = Allowed::new(streams);
        self.check_stream_limit(before, time, shared);
    }

    /// The client has opened a stream.
    pub(super) fn handle_stream_opened(&mut self, time: Timestamp, shared: &mut Shared) {
        self.stream_limit.open = self.stream_limit.open.saturating_add(1);
        if self.allowed_streams().is_some() {
            self.check_stream_limit(None, time, shared);
        }
    }

    /// A stream that the client had opened is closed.
    pub(super) fn handle_stream_closed(&mut self, time: Timestamp, shared: &mut Shared) {
        let before = self.at_stream_limit(Some(time));
        self.stream_limit.open = self.stream_limit.open.saturating_sub(1);
        if before.is_some() {
            self.check_stream_limit(before, time, shared);
        }
    }

    /// The connection is at its end; `until` is `None` if that is not so, and only nothing more is observed.
    pub(super) fn finish_stream_limit(&mut self, until: Option<Timestamp>, shared: &mut Shared) {
        if let Some(limit) = self.at_stream_limit(until) {
            shared.observations.push_back(Observation::AtStreamLimit(limit));
        }
        self.forget_stream_limit(shared);
    }

    /// Nothing more is said of it.
    pub(super) fn forget_stream_limit(&mut self, shared: &mut Shared) {
        self.stream_limit.lose();
        if !shared.at_stream_limit.is_empty() {
            shared.at_stream_limit.remove(&self.id);
        }
    }

    /// A limit that is reached now.
    pub(crate) fn visit_stream_limit(&self, visit: &mut impl FnMut(AtStreamLimit)) {
        self.at_stream_limit(None).into_iter().for_each(visit);
    }

    fn allowed_streams(&self) -> Option<u32> {
        let server =
            [Flow::Sent, Flow::Received].into_iter().find(|flow| self.peer(*flow) == Some(Peer::Server))?;
        self.stream_limit.allowed[index(server)].get()
    }

    /// The time at the limit, if that is where the client is.
    fn at_stream_limit(&self, until: Option<Timestamp>) -> Option<AtStreamLimit> {
        let from = self.stream_limit.since.get()?;
        Some(AtStreamLimit { connection: self.id, limit: self.allowed_streams()?, from, until })
    }

    /// Begins or ends a time at the limit; `before` is the one that there was.
    fn check_stream_limit(&mut self, before: Option<AtStreamLimit>, time: Timestamp, shared: &mut Shared) {
        if self.stream_limit.is_unknown {
            return;
        }
        let is_at = self.allowed_streams().is_some_and(|allowed| self.stream_limit.open >= allowed);
        if is_at {
            if self.stream_limit.since == Moment::NEVER {
                self.stream_limit.since = Moment::at(time);
                shared.at_stream_limit.insert(self.id);
            }
            return;
        }
        if let Some(limit) = before {
            self.stream_limit.since = Moment::NEVER;
            shared.at_stream_limit.remove(&self.id);
            // The two flows may be seen out of step: what opened a stream before another one ended may have come after.
            if limit.until > Some(limit.from) {
                shared.observations.push_back(Observation::AtStreamLimit(limit));
            }
        }
    }
}
