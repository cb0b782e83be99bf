//! Stream limit: a client has as many streams open as its server allows (SETTINGS_MAX_CONCURRENT_STREAMS, RFC 9113 §5.1.2), so
//! that further calls wait inside the client; or the server refuses a call (REFUSED_STREAM, checklist L6).
//!
//! Evidence: the time between opening the last free stream and the end of one, as the core counts them, and the RST_STREAM.
//! Undecided where frames may have been missed, since a stream may then have ended unseen. A refusal after the server's GOAWAY
//! says nothing about the limit and is left out; one on a connection that was at its limit belongs to that time, and is counted by
//! the metrics alone: the two ends see a stream end at different times, and clients try such a call again by themselves.

use std::fmt;

use super::finding::{Claims, Name, Value, seconds};
use super::{Out, Watched};
use crate::http2::frame::error_code;
use crate::input::Timestamp;
use crate::observation::{AtStreamLimit, Call, EndedBy, Sync};

/// When to speak.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// A client that is at the limit for less than this touched it: nobody waited for long. A tenth of a second is what a
    /// person, and most deadlines, begin to notice.
    pub at_limit_ns: u64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Thresholds { at_limit_ns: 100_000_000 }
    }
}

/// What is remembered of a connection.
#[derive(Debug, Default)]
pub(super) struct OfConnection {
    /// Its client has been at the limit, if for a moment only.
    was_at_limit: bool,
    /// The time at the limit that was spoken of, by its beginning.
    told: Option<Timestamp>,
}

/// What is claimed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// No stream was free.
    AtLimit {
        /// In streams.
        limit: u32,
        /// For how long, so far.
        lasted_ns: u64,
        /// It had not ended when this was said.
        lasts: bool,
    },
    /// The server refused a call, although its client was not seen to be at the limit.
    Refused,
}

impl Claims for Claim {
    fn name(&self) -> Name {
        Name::StreamLimit
    }

    fn cause(&self) -> Option<&'static str> {
        Some(match self {
            Claim::AtLimit { .. } => "at_limit",
            Claim::Refused => "refused",
        })
    }

    fn evidence(&self, number: &mut dyn FnMut(&'static str, Value)) {
        match *self {
            Claim::AtLimit { limit, lasted_ns, .. } => {
                number("limit_streams", Value::Count(u64::from(limit)));
                number("at_limit_seconds", Value::Ns(lasted_ns));
            }
            Claim::Refused => {}
        }
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Claim::AtLimit { limit, lasted_ns, lasts } => {
                let (verb, lasted) = (if lasts { "has had" } else { "had" }, seconds(lasted_ns));
                write!(
                    f,
                    "{verb} all {limit} streams that the server allows open for {lasted}: further calls wait"
                )
            }
            Claim::Refused => f.write_str("was refused by the server before it was processed"),
        }
    }
}

/// Judges a time at the limit, which may go on.
pub(super) fn handle_at_limit(
    thresholds: &Thresholds,
    connection: &mut Watched,
    limit: &AtStreamLimit,
    now: Timestamp,
    out: &mut Out,
) {
    let known = &mut connection.stream_limit;
    known.was_at_limit = true;
    let lasted_ns = limit.until.unwrap_or(now).since(limit.from);
    if lasted_ns < thresholds.at_limit_ns || known.told == Some(limit.from) {
        return;
    }
    known.told = Some(limit.from);
    let claim = Claim::AtLimit { limit: limit.limit, lasted_ns, lasts: limit.until.is_none() };
    let time = limit.until.unwrap_or(now);
    match connection.sync {
        Sync::Synced => out.fire(connection.about(), time, claim),
        Sync::Late | Sync::Desynced => out.leave_undecided(connection.about(), time, claim),
    }
}

/// Judges a call that ended.
pub(super) fn handle_call_ended(connection: &Watched, call: &Call, out: &mut Out) {
    if call.rst_code == Some(error_code::REFUSED_STREAM)
        && call.ended_by == Some(EndedBy::Server)
        && !connection.stream_limit.was_at_limit
        && !connection.health.server_is_leaving(connection.side)
    {
        let time = call.ended.unwrap_or(call.first_seen);
        out.fire(connection.call(call), time, Claim::Refused);
    }
}

#[cfg(test)]
mod tests {
    use super::super::synthetic::{Scene, ms, s};
    use super::*;
    use crate::input::{ConnectionId, Flow};
    use crate::observation::{Goaway, GoawayReason, Observation, Outcome};

    fn at_limit(from: Timestamp, until: Option<Timestamp>) -> Observation {
        Observation::AtStreamLimit(AtStreamLimit { connection: ConnectionId(1), limit: 10, from, until })
    }

    fn refused(scene: &Scene) -> Observation {
        let mut call = scene.call(3, "/shop.Inventory/Reserve", s(1), s(2));
        call.outcome = Outcome::Refused;
        call.ended_by = Some(EndedBy::Server);
        call.rst_code = Some(error_code::REFUSED_STREAM);
        Observation::CallEnded(Box::new(call))
    }

    #[test]
    fn a_client_that_stays_at_the_limit_is_found_once() {
        let mut scene = Scene::client();
        scene.observe(&at_limit(s(1), Some(s(3))));
        scene.observe(&at_limit(s(1), Some(s(3))));
        let claim = Claim::AtLimit { limit: 10, lasted_ns: 2_000_000_000, lasts: false };
        assert_eq!(scene.said(), ["firing stream_limit at_limit"]);
        assert_eq!(
            claim.to_string(),
            "had all 10 streams that the server allows open for 2.000 s: further calls wait"
        );
    }

    #[test]
    fn touching_the_limit_is_no_finding() {
        let mut scene = Scene::client();
        scene.observe(&at_limit(s(1), Some(s(1).plus(ms(99)))));
        assert!(scene.said().is_empty());
    }

    #[test]
    fn after_a_late_join_and_after_a_hole_the_streams_that_are_open_are_not_sure() {
        for sync in [Sync::Late, Sync::Desynced] {
            let mut scene = Scene::client();
            scene.status(sync, s(0));
            scene.observe(&at_limit(s(1), Some(s(3))));
            assert_eq!(scene.said(), ["undecided stream_limit at_limit"], "{sync:?}");
        }
    }

    #[test]
    fn a_refused_call_of_a_client_at_its_limit_belongs_to_the_time_at_the_limit() {
        let mut scene = Scene::client();
        scene.observe(&at_limit(s(1), Some(s(2))));
        let refusal = refused(&scene);
        scene.observe(&refusal);
        assert_eq!(scene.said(), ["firing stream_limit at_limit"]);
    }

    #[test]
    fn a_refused_call_is_found_and_one_that_a_leaving_server_refuses_is_not() {
        let mut scene = Scene::client();
        let refusal = refused(&scene);
        scene.observe(&refusal);
        assert_eq!(scene.said(), ["firing stream_limit refused"]);

        let mut scene = Scene::client();
        scene.observe(&Observation::Goaway(Goaway {
            connection: ConnectionId(1),
            flow: Flow::Received,
            last_stream: 1,
            code: 0,
            reason: GoawayReason::Graceful,
            time: s(1),
        }));
        assert!(scene.said().is_empty());
        scene.observe(&refusal);
        assert!(scene.said().is_empty());
    }
}
