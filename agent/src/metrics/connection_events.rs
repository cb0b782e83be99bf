//! The series of what happens to a connection as a whole: GOAWAY, PING, the stream limit, and its lifetime.

use std::sync::Arc;

use agent_core::Flow;
use agent_core::observation::{
    AtStreamLimit, ConnectionSummary, Goaway, GoawayReason, PingAnswered, PingUnanswered, Side,
};

use super::connection::ConnectionSeries;
use super::series::{Cell, Distribution, Update};

/// Bytes that a connection moves before they are counted: a record is not worth a look-up of the series.
const COUNTED_AT: u64 = 16 << 10;

impl ConnectionSeries {
    pub(super) fn goaway(&mut self, goaway: &Goaway) {
        let sender = self.sender(goaway.flow);
        self.count(Cell::Goaway(self.side, sender, goaway.reason), 1);
        if sender == Some(Side::Server) {
            self.recycled = recycled(self.recycled, goaway.reason);
        }
    }

    /// The connection has ended: as its server had said, if it did.
    pub(super) fn was_recycled(&mut self, summary: &ConnectionSummary) {
        if let Some(reason) = self.recycled.take()
            && summary.has_ended
        {
            self.count(Cell::Recycled(self.side, reason), 1);
        }
    }

    /// Only a PING that the observed socket sent measures a round trip: the answer to its peer's is on its way only once it
    /// is seen here.
    pub(super) fn ping_answered(&mut self, ping: &PingAnswered) {
        let mut update = Update::default();
        update.add(Cell::Ping(self.side, self.sender(ping.flow), ping.kind, true), 1);
        if let (Flow::Sent, Some(side)) = (ping.flow, self.side) {
            update.observe(Distribution::PingRoundTrip(side), ping.round_trip_ns);
        }
        self.apply(&update);
    }

    pub(super) fn ping_unanswered(&mut self, ping: &PingUnanswered) {
        self.count(Cell::Ping(self.side, self.sender(ping.flow), ping.kind, false), 1);
    }

    pub(super) fn at_stream_limit(&mut self, limit: &AtStreamLimit) {
        let Some(until) = limit.until else { return };
        let mut update = Update::default();
        update.add(Cell::AtStreamLimit(self.side), 1);
        update.add(Cell::AtStreamLimitNs(self.side), until.since(limit.from));
        self.apply(&update);
    }

    /// Bytes moved, of which `missed` were not seen.
    pub fn moved(&mut self, bytes: u64, missed: u64) {
        self.uncounted = self.uncounted.saturating_add(bytes);
        if missed > 0 || self.uncounted >= COUNTED_AT {
            self.count_moved(missed);
        }
    }

    pub(super) fn count_moved(&mut self, missed: u64) {
        let moved = std::mem::take(&mut self.uncounted);
        if moved == 0 && missed == 0 {
            return;
        }
        let mut update = Update::default();
        update.add(Cell::Moved, moved);
        // Together with the bytes that it belongs to, and from zero on.
        update.add(Cell::Missed, missed);
        self.apply(&update);
    }

    /// Of a connection that was joined late nobody knows for how long it had been there.
    pub(super) fn lived(&mut self, summary: &ConnectionSummary) {
        if self.is_whole && summary.has_ended {
            let mut update = Update::default();
            update.observe(Distribution::Lifetime(self.side), summary.closed.since(summary.opened));
            self.apply(&update);
        }
    }

    /// Which end a flow comes from.
    fn sender(&self, flow: Flow) -> Option<Side> {
        let (own, peer) = match self.side? {
            Side::Client => (Side::Client, Side::Server),
            Side::Server => (Side::Server, Side::Client),
        };
        Some(match flow {
            Flow::Sent => own,
            Flow::Received => peer,
        })
    }

    fn count(&mut self, cell: Cell, amount: u64) {
        let mut update = Update::default();
        update.add(cell, amount);
        self.apply(&update);
    }

    fn apply(&mut self, update: &Update) {
        let store = Arc::clone(&self.store);
        store.shard(self.shard).place(self.connections(), update);
    }
}

/// What a server's GOAWAY says of whether its connection is recycled, after what it said before. A reason stays where the second
/// GOAWAY of a graceful end gives none; an error is no recycling, whatever was said.
fn recycled(before: Option<GoawayReason>, reason: GoawayReason) -> Option<GoawayReason> {
    match reason {
        GoawayReason::GracefulNotice | GoawayReason::Graceful => before.or(Some(GoawayReason::Graceful)),
        GoawayReason::MaxAge | GoawayReason::MaxIdle => Some(reason),
        GoawayReason::TooManyPings | GoawayReason::TooManyResets | GoawayReason::Error => None,
    }
}
