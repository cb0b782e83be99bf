//! The end of a connection: what is open then, and what is reported of all of it.

use super::Connection;
use super::flow::index;
use crate::input::{Chunk, Flow, Timestamp};
use crate::observation::{ConnectionSummary, Observation};
use crate::observer::Shared;

/// Why a connection is finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finish {
    /// It was closed.
    Ended,
    /// Nothing more will be observed.
    EndOfObservation,
    /// It is forgotten, to stay within the limits.
    Evicted,
}

impl Connection {
    /// One of its ends was closed: calls that do not end by themselves until it is finished were aborted.
    pub(crate) fn handle_close(&mut self, time: Timestamp) {
        self.closing = Some(self.closing.map_or(time, |earlier| earlier.min(time)));
    }

    /// Both of its ends were closed: nothing follows but what is on its way.
    pub(crate) fn handle_end(&mut self, time: Timestamp) {
        self.handle_close(time);
        self.both_closed = true;
    }

    /// What this flow carried last may not have been seen.
    pub(crate) fn handle_unseen_end(&mut self, flow: Flow) {
        self.flows[index(flow)].end_unseen = true;
    }

    /// What the server has sent was seen, as far as anything tells: what it has not ended is open.
    pub(super) fn are_answers_seen(&self) -> bool {
        self.client_flow.is_none_or(|client| self.flows[index(client.opposite())].is_seen_to_its_end())
    }

    /// The end of a connection ends the streams that its server has not ended. Which these are is known only where the
    /// server's flow was seen to its end: what was not seen of it may have ended any of them, and answered PINGs.
    fn doubt_unseen_answers(&mut self, time: Timestamp, shared: &mut Shared) {
        let Some(flow) = self.client_flow.map(Flow::opposite).filter(|_| !self.are_answers_seen()) else {
            return;
        };
        let offset = self.flows[index(flow)].next_offset.unwrap_or_default();
        self.handle_unread(&Chunk::empty(self.id, flow, offset, time), shared);
    }

    /// Reports everything that is left.
    pub(crate) fn finish(&mut self, time: Timestamp, how: Finish, shared: &mut Shared) {
        let closed = self.closing;
        // When it ended, if it has: what is open then was aborted.
        let ended = match how {
            Finish::Ended => Some(closed.unwrap_or(time)),
            Finish::EndOfObservation => closed,
            Finish::Evicted => None,
        };
        if how == Finish::EndOfObservation && !self.both_closed {
            // One end may go on.
            self.flows.iter_mut().for_each(|flow| flow.end_unseen = true);
        }
        if let Some(ended) = ended {
            self.doubt_unseen_answers(ended, shared);
        }
        self.finish_stalls(ended.or(closed), time, shared);
        if let Some(ended) = ended {
            self.finish_pings(ended, shared);
        }
        match how {
            Finish::Ended | Finish::EndOfObservation => self.finish_stream_limit(ended, shared),
            Finish::Evicted => self.forget_stream_limit(shared),
        }
        let mut ids: Vec<u32> = self.streams.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            let Some(mut stream) = self.streams.remove(&id) else { continue };
            if !stream.has_ended() {
                match (ended, how) {
                    (Some(ended), _) => stream.handle_abort(ended),
                    (None, Finish::Evicted) => stream.give_up(time),
                    (None, Finish::Ended | Finish::EndOfObservation) => {}
                }
            }
            stream.handle_moment_passed();
            self.report(id, stream, shared);
        }
        self.finish_late_work(shared);
        let [sent, received] = self.connection_windows();
        let summary = ConnectionSummary {
            connection: self.id,
            client_flow: self.client_flow,
            flows: [self.flows[0].summary(sent), self.flows[1].summary(received)],
            calls: self.calls,
            opened: self.opened,
            closed: closed.unwrap_or(self.last_seen),
            has_ended: ended.is_some(),
            http2: self.recognised,
            binary_metadata: self.has_binary_metadata(),
        };
        shared.observations.push_back(Observation::ConnectionEnded(Box::new(summary)));
    }
}
