//! DATA that the capturing side leaves out on purpose, since the agent has to save: what is not known any more, and what is.
//!
//! In: the fact that it does ([`Observer::leave_out_data`](crate::Observer::leave_out_data)), and holes that it owns up to
//! ([`Observer::handle_left_out`](crate::Observer::handle_left_out)). Everything that opens or ends a stream is still seen, so
//! frame boundaries, HPACK and calls stay what they are. Messages of the streams that are open meanwhile, and all windows but
//! those of streams that begin afterwards, are unknown for good: nothing on the wire says how much was left out.

use super::Connection;
use super::flow::index;
use crate::http2::reader::Piece;
use crate::input::{Chunk, Flow, Timestamp};
use crate::observer::Shared;

/// Whether DATA is left out, as all connections share it.
#[derive(Debug, Default)]
pub(crate) struct LeftOut {
    now: bool,
    /// Up to here it may have been.
    until: Timestamp,
}

/// The capturing side goes on for a moment after it was told to stop, and the two flows of a connection may be seen out of step.
const LINGERS_NS: u64 = 1_000_000_000;

impl LeftOut {
    /// Says if this is a change to leaving it out.
    pub(crate) fn set(&mut self, leaves_out: bool, now: Timestamp) -> bool {
        if self.now && !leaves_out {
            self.until = self.until.max(now.plus(LINGERS_NS));
        }
        !std::mem::replace(&mut self.now, leaves_out) && leaves_out
    }

    /// DATA of this time may have been left out.
    pub(crate) fn may_miss(&self, time: Timestamp) -> bool {
        self.now || time < self.until
    }

    /// Up to when DATA may have been left out; the end of time while it is.
    pub(crate) fn until(&self) -> Timestamp {
        if self.now { Timestamp(u64::MAX) } else { self.until }
    }
}

impl Connection {
    /// Up to the chunk's offset the flow carried what its reader knows to be left out: the rest of a DATA frame, whole DATA
    /// frames that ended no stream, and WINDOW_UPDATE. Where the reader is anywhere else the hole stays one, and is a loss.
    pub(crate) fn handle_left_out(&mut self, chunk: &Chunk<'_>, shared: &mut Shared) {
        self.last_seen = self.last_seen.max(chunk.time);
        let state = &self.flows[index(chunk.flow)];
        let Some(next) = state.next_offset.filter(|next| *next < chunk.offset) else { return };
        let Some(left) = state.reader.left_of_data().filter(|_| state.block.is_none()) else { return };
        let hole = chunk.offset - next;
        if left > 0 {
            self.read(chunk, Piece::Hole(left.min(hole)), shared);
        }
        let state = &mut self.flows[index(chunk.flow)];
        state.next_offset = Some(chunk.offset);
        state.hole_bytes += hole;
        if !shared.left_out.may_miss(chunk.time) {
            shared.left_out.until = chunk.time;
            self.lose_data(chunk.time, shared);
        }
        self.report_status(chunk.flow, chunk.time, shared);
    }

    /// From now on DATA and WINDOW_UPDATE may be missing.
    pub(crate) fn lose_data(&mut self, time: Timestamp, shared: &mut Shared) {
        self.forget_windows();
        let chunk = Chunk::empty(self.id, Flow::Sent, 0, time);
        self.lose_stalls(|_, _| true, &chunk, shared);
        self.streams.values_mut().for_each(|stream| stream.leave_out_data());
        if let Some(afterwards) = &mut self.afterwards {
            afterwards.leave_out_data();
        }
        self.remembered_changed = true;
    }

    /// What was sent on the connection before is not known; what streams begin with is.
    pub(crate) fn forget_windows(&mut self) {
        self.flow_control.leave_out_data();
    }
}
