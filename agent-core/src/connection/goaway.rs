//! GOAWAY: which streams will not be processed, and why the connection ends (RFC 9113 §6.8; checklist L1–L3, L6).

use super::Connection;
use crate::call::Peer;
use crate::http2::frame::{self, error_code};
use crate::input::Chunk;
use crate::observation::{Goaway, GoawayReason, Observation};
use crate::observer::Shared;
use crate::steps;

/// GOAWAY frames of a connection that are heeded.
const GOAWAYS: u32 = 64;

/// The last stream id of a notice that a real GOAWAY will follow.
const ANY_STREAM: u32 = 0x7fff_ffff;

impl Connection {
    pub(super) fn handle_goaway(&mut self, payload: &[u8], chunk: &Chunk<'_>, shared: &mut Shared) {
        let Some(last) = frame::u32_at(payload, 0) else {
            // Which streams it refuses was in a hole: any of them may have ended by it.
            self.handle_unread(chunk, shared);
            return;
        };
        // An end that stops in good order sends two. Each may cost a step for every stream.
        self.goaways = self.goaways.saturating_add(1);
        if self.goaways > GOAWAYS {
            self.forget_stream_limit(shared);
            self.anomaly(0, "goaway_limit", chunk, shared);
            return;
        }
        let last = last & 0x7fff_ffff;
        if let Some(code) = frame::u32_at(payload, 4) {
            shared.observations.push_back(Observation::Goaway(Goaway {
                connection: self.id,
                flow: chunk.flow,
                last_stream: last,
                code,
                reason: reason(last, code, payload.get(8..).unwrap_or_default()),
                time: chunk.time,
            }));
        }
        if self.peer(chunk.flow) == Some(Peer::Server) {
            self.refuse_above(last, chunk, shared);
        }
    }

    /// The server will not process streams above `last`.
    fn refuse_above(&mut self, last: u32, chunk: &Chunk<'_>, shared: &mut Shared) {
        if self.goaway.is_some_and(|earlier| last > earlier) {
            // Ids must not grow: what was refused stays refused.
            self.anomaly(0, "goaway_stream_grew", chunk, shared);
            return;
        }
        self.goaway = Some(last);
        let mut refused: Vec<u32> = self
            .streams
            .iter()
            .inspect(|_| steps::count())
            .filter(|(id, stream)| **id > last && !stream.has_ended() && stream.has_request())
            .map(|(id, _)| *id)
            .collect();
        refused.sort_unstable();
        for id in refused {
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.handle_refused(chunk.time);
            }
            self.settle(id, chunk.time, shared);
        }
    }
}

/// The reason, from code and id; of the debug data only whole words count that gRPC itself defines (gRFC A9 and the
/// keepalive guide), since anybody can write anything there.
fn reason(last: u32, code: u32, debug_data: &[u8]) -> GoawayReason {
    match (code, debug_data) {
        (error_code::NO_ERROR, b"max_age") => GoawayReason::MaxAge,
        (error_code::NO_ERROR, b"max_idle") => GoawayReason::MaxIdle,
        (error_code::NO_ERROR, _) if last == ANY_STREAM => GoawayReason::GracefulNotice,
        (error_code::NO_ERROR, _) => GoawayReason::Graceful,
        (error_code::ENHANCE_YOUR_CALM, b"too_many_pings") => GoawayReason::TooManyPings,
        (error_code::ENHANCE_YOUR_CALM, b"too_many_rststreams") => GoawayReason::TooManyResets,
        _ => GoawayReason::Error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn l2_the_reason_comes_from_code_and_id_and_from_no_other_text() {
        assert_eq!(reason(ANY_STREAM, 0, b""), GoawayReason::GracefulNotice);
        assert_eq!(reason(217, 0, b""), GoawayReason::Graceful);
        assert_eq!(reason(217, 0, b"max_age"), GoawayReason::MaxAge);
        assert_eq!(reason(217, 0, b"max_idle"), GoawayReason::MaxIdle);
        assert_eq!(reason(217, 0, b"graceful_stop"), GoawayReason::Graceful);
        assert_eq!(reason(217, 0, b"max_age\x1b[2J"), GoawayReason::Graceful);
        assert_eq!(reason(217, 2, b"max_age"), GoawayReason::Error);
    }

    #[test]
    fn l3_enhance_your_calm_has_its_policies_apart() {
        assert_eq!(reason(0, 11, b"too_many_pings"), GoawayReason::TooManyPings);
        assert_eq!(reason(0, 11, b"too_many_rststreams"), GoawayReason::TooManyResets);
        assert_eq!(reason(0, 11, b""), GoawayReason::Error);
        assert_eq!(reason(0, 0, b"too_many_pings"), GoawayReason::Graceful);
    }
}
