//! Connection health: GOAWAY, by who sent it and why, and PINGs that nobody answers (checklist L1–L4).
//!
//! An end that leaves in good order says so twice (a notice, then the GOAWAY that counts): one event, told with the better
//! reason. Both frames mean the same whatever was seen before them, so a late join or a loss takes nothing from what is said;
//! a PING whose answer may have been lost is never reported by the core, and while the frame boundary is lost one that was
//! reported is undecided.

use std::collections::VecDeque;
use std::fmt;

use super::finding::{Claims, Name, Value, seconds};
use super::{Connections, Out, Watched};
use crate::http2::frame::error_code;
use crate::input::{ConnectionId, Flow, Timestamp};
use crate::observation::{Goaway, GoawayReason, PingKind, PingUnanswered, Side, Sync};

/// When to speak.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// A PING that had no answer for this long when it was given up, or when its connection ended, was not answered. Sooner, the
    /// answer may have been on its way when the connection ended; one second is longer than nearly every round trip on Earth.
    pub unanswered_ns: u64,
    /// A notice of a graceful end is told alone when the GOAWAY that counts has not come by then: grpc-java sends it after at
    /// most 10 s, grpc-go after 5 s.
    pub notice_ns: u64,
    /// An end without an error and without a reason (`max_age`, `max_idle`) is told, too. It is not by default: most clients
    /// say so when they close a connection, and servers when they are replaced.
    pub tell_graceful: bool,
}

impl Default for Thresholds {
    fn default() -> Self {
        Thresholds { unanswered_ns: 1_000_000_000, notice_ns: 10_000_000_000, tell_graceful: false }
    }
}

/// What is remembered of a connection.
#[derive(Debug, Default)]
pub(super) struct OfConnection {
    ends: [Said; 2],
    /// When a PING that is neither a bandwidth probe nor part of a graceful end was last answered, or given up.
    pub(super) last_keepalive: Option<Timestamp>,
}

/// What one end said in its GOAWAYs.
#[derive(Debug, Default)]
struct Said {
    /// A notice that has not been told.
    notice: Option<Goaway>,
    /// Its graceful end was told.
    graceful_told: bool,
    /// The error that was told.
    error_told: Option<u32>,
}

impl OfConnection {
    /// The server has said that it will process no new streams, as seen from a socket on this side.
    pub(super) fn server_is_leaving(&self, side: Option<Side>) -> bool {
        let has_spoken =
            |said: &Said| said.notice.is_some() || said.graceful_told || said.error_told.is_some();
        match side {
            Some(Side::Client) => has_spoken(&self.ends[Flow::Received as usize]),
            Some(Side::Server) => has_spoken(&self.ends[Flow::Sent as usize]),
            None => self.ends.iter().any(has_spoken),
        }
    }

    /// An end has said that it leaves in good order.
    pub(super) fn is_ending_gracefully(&self) -> bool {
        self.ends.iter().any(|said| said.notice.is_some() || said.graceful_told)
    }
}

/// Notices that wait for the GOAWAY that counts, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Notices(VecDeque<(Timestamp, ConnectionId, Flow)>);

/// Notices that wait at once; one more is told without waiting.
const NOTICES: usize = 4_096;

/// What is claimed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// An end said that it will leave, for no fault of its peer.
    Goaway {
        /// Why.
        reason: GoawayReason,
        /// Who said it, if it is known which end is the client.
        sender: Option<Side>,
        /// The last stream that is processed; `None` for a notice that does not say.
        last_stream: Option<u32>,
    },
    /// An end closed the connection for what its peer did.
    Error {
        /// Why.
        reason: GoawayReason,
        /// Error code as sent (RFC 9113 §7).
        code: u32,
        /// Who said it.
        sender: Option<Side>,
    },
    /// A PING had no answer.
    PingUnanswered {
        /// For how long.
        waited_ns: u64,
        /// What it was for.
        kind: PingKind,
        /// It is the observed process that did not answer, and not its peer.
        own: bool,
    },
}

impl Claims for Claim {
    fn name(&self) -> Name {
        match self {
            Claim::Goaway { .. } => Name::Goaway,
            Claim::Error { .. } => Name::ConnectionError,
            Claim::PingUnanswered { .. } => Name::PingUnanswered,
        }
    }

    fn cause(&self) -> Option<&'static str> {
        Some(match *self {
            Claim::Goaway { reason, .. } => match reason {
                GoawayReason::MaxAge => "max_age",
                GoawayReason::MaxIdle => "max_idle",
                GoawayReason::GracefulNotice
                | GoawayReason::Graceful
                | GoawayReason::TooManyPings
                | GoawayReason::TooManyResets
                | GoawayReason::Error => "graceful",
            },
            Claim::Error { reason: GoawayReason::TooManyPings, .. } => "too_many_pings",
            Claim::Error { reason: GoawayReason::TooManyResets, .. } => "too_many_resets",
            Claim::Error { code, .. } => error_name(code),
            Claim::PingUnanswered { own: false, .. } => "peer",
            Claim::PingUnanswered { own: true, .. } => "process",
        })
    }

    fn evidence(&self, number: &mut dyn FnMut(&'static str, Value)) {
        let sender = match *self {
            Claim::Goaway { sender, last_stream, .. } => {
                if let Some(last_stream) = last_stream {
                    number("last_stream", Value::Count(u64::from(last_stream)));
                }
                sender
            }
            Claim::Error { code, sender, .. } => {
                number("error_code", Value::Count(u64::from(code)));
                sender
            }
            Claim::PingUnanswered { waited_ns, kind, .. } => {
                number("waited_seconds", Value::Ns(waited_ns));
                number("ping_kind", Value::Word(kind.as_str()));
                None
            }
        };
        if let Some(sender) = sender {
            number("sender", Value::Word(sender.as_str()));
        }
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let who = |sender: &Option<Side>| match sender {
            Some(Side::Client) => "the client",
            Some(Side::Server) => "the server",
            None => "an end",
        };
        match self {
            Claim::Goaway { reason: GoawayReason::MaxAge, sender, .. } => {
                write!(f, "{} ends the connection, which is as old as it may be (max_age)", who(sender))
            }
            Claim::Goaway { reason: GoawayReason::MaxIdle, sender, .. } => {
                write!(f, "{} ends the connection, which was idle for too long (max_idle)", who(sender))
            }
            Claim::Goaway { sender, .. } => {
                write!(f, "{} ends the connection in good order", who(sender))
            }
            Claim::Error { sender, code, .. } => {
                let cause = self.cause().unwrap_or_default();
                write!(f, "{} closed the connection with error {code} ({cause})", who(sender))
            }
            Claim::PingUnanswered { waited_ns, own: false, .. } => {
                write!(f, "had no answer to a PING for {}: the peer may be dead", seconds(*waited_ns))
            }
            Claim::PingUnanswered { waited_ns, own: true, .. } => {
                write!(f, "did not answer its peer's PING for {}", seconds(*waited_ns))
            }
        }
    }
}

/// Judges a GOAWAY.
pub(super) fn handle_goaway(
    thresholds: &Thresholds,
    notices: &mut Notices,
    connection: &mut Watched,
    goaway: &Goaway,
    out: &mut Out,
) {
    let said = &mut connection.health.ends[goaway.flow as usize];
    match goaway.reason {
        GoawayReason::GracefulNotice => {
            if said.graceful_told || said.notice.is_some() {
                return;
            }
            said.notice = Some(*goaway);
            if notices.0.len() < NOTICES {
                notices.0.push_back((
                    goaway.time.plus(thresholds.notice_ns),
                    connection.connection,
                    goaway.flow,
                ));
            } else {
                tell_notice(thresholds, connection, goaway.flow, goaway.time, out);
            }
        }
        GoawayReason::Graceful | GoawayReason::MaxAge | GoawayReason::MaxIdle => {
            said.notice = None;
            if !said.graceful_told {
                said.graceful_told = true;
                tell_graceful(thresholds, connection, goaway, goaway.time, out);
            }
        }
        GoawayReason::TooManyPings | GoawayReason::TooManyResets | GoawayReason::Error => {
            if said.error_told == Some(goaway.code) {
                return;
            }
            said.error_told = Some(goaway.code);
            let sender = sender(connection.side, goaway.flow);
            let claim = Claim::Error { reason: goaway.reason, code: goaway.code, sender };
            out.fire(connection.about(), goaway.time, claim);
        }
    }
}

/// Tells of notices after which the GOAWAY that counts did not come.
pub(super) fn handle_timeout(
    thresholds: &Thresholds,
    notices: &mut Notices,
    connections: &mut Connections,
    now: Timestamp,
    out: &mut Out,
) {
    while let Some((_, id, flow)) = notices.0.pop_front_if(|(due, ..)| *due <= now) {
        if let Some(connection) = connections.get_mut(id) {
            tell_notice(thresholds, connection, flow, now, out);
        }
    }
}

/// Tells of notices that nothing will follow, since the connection has ended.
pub(super) fn handle_connection_ended(
    thresholds: &Thresholds,
    connection: &mut Watched,
    time: Timestamp,
    out: &mut Out,
) {
    for flow in [Flow::Sent, Flow::Received] {
        tell_notice(thresholds, connection, flow, time, out);
    }
}

/// Judges a PING that was given up.
pub(super) fn handle_ping_unanswered(
    thresholds: &Thresholds,
    connection: &mut Watched,
    ping: &PingUnanswered,
    out: &mut Out,
) {
    handle_ping(connection, ping.kind, ping.time);
    let waited_ns = ping.time.since(ping.sent);
    if waited_ns < thresholds.unanswered_ns {
        return;
    }
    let own = ping.flow == Flow::Received;
    let claim = Claim::PingUnanswered { waited_ns, kind: ping.kind, own };
    match connection.sync {
        Sync::Synced | Sync::Late => out.fire(connection.about(), ping.time, claim),
        Sync::Desynced => out.leave_undecided(connection.about(), ping.time, claim),
    }
}

/// Remembers that somebody looks after the connection.
pub(super) fn handle_ping(connection: &mut Watched, kind: PingKind, time: Timestamp) {
    match kind {
        PingKind::Bandwidth | PingKind::Drain => {}
        PingKind::Other => connection.health.last_keepalive = Some(time),
    }
}

fn tell_notice(
    thresholds: &Thresholds,
    connection: &mut Watched,
    flow: Flow,
    time: Timestamp,
    out: &mut Out,
) {
    let said = &mut connection.health.ends[flow as usize];
    if let Some(notice) = said.notice.take() {
        said.graceful_told = true;
        tell_graceful(thresholds, connection, &notice, time, out);
    }
}

fn tell_graceful(
    thresholds: &Thresholds,
    connection: &Watched,
    goaway: &Goaway,
    time: Timestamp,
    out: &mut Out,
) {
    let has_reason = match goaway.reason {
        GoawayReason::Graceful | GoawayReason::GracefulNotice => false,
        GoawayReason::MaxAge
        | GoawayReason::MaxIdle
        | GoawayReason::TooManyPings
        | GoawayReason::TooManyResets
        | GoawayReason::Error => true,
    };
    if !has_reason && !thresholds.tell_graceful {
        return;
    }
    let last_stream = (goaway.last_stream != ANY_STREAM).then_some(goaway.last_stream);
    let claim =
        Claim::Goaway { reason: goaway.reason, sender: sender(connection.side, goaway.flow), last_stream };
    out.fire(connection.about(), time, claim);
}

/// The last stream id of a notice (RFC 9113 §6.8): all of them.
const ANY_STREAM: u32 = 0x7fff_ffff;

/// Which end a flow comes from, for a socket on this side.
fn sender(side: Option<Side>, flow: Flow) -> Option<Side> {
    Some(match (side?, flow) {
        (Side::Client, Flow::Sent) | (Side::Server, Flow::Received) => Side::Client,
        (Side::Server, Flow::Sent) | (Side::Client, Flow::Received) => Side::Server,
    })
}

/// Names of RFC 9113 §7 in small letters.
fn error_name(code: u32) -> &'static str {
    match code {
        error_code::NO_ERROR => "no_error",
        error_code::PROTOCOL_ERROR => "protocol_error",
        error_code::INTERNAL_ERROR => "internal_error",
        error_code::FLOW_CONTROL_ERROR => "flow_control_error",
        error_code::SETTINGS_TIMEOUT => "settings_timeout",
        0x5 => "stream_closed",
        error_code::FRAME_SIZE_ERROR => "frame_size_error",
        error_code::REFUSED_STREAM => "refused_stream",
        error_code::CANCEL => "cancel",
        error_code::COMPRESSION_ERROR => "compression_error",
        error_code::CONNECT_ERROR => "connect_error",
        error_code::ENHANCE_YOUR_CALM => "enhance_your_calm",
        error_code::INADEQUATE_SECURITY => "inadequate_security",
        0xd => "http_1_1_required",
        _ => "other",
    }
}

/// Notices that wait at most, and their bytes.
#[cfg(test)]
pub(super) fn most_bytes() -> (usize, usize) {
    (NOTICES, super::memory::of_list::<(Timestamp, ConnectionId, Flow)>(NOTICES))
}

#[cfg(test)]
mod tests {
    use super::super::synthetic::{Scene, ms, s};
    use super::*;
    use crate::observation::Observation;

    fn goaway(flow: Flow, reason: GoawayReason, code: u32, last_stream: u32, time: Timestamp) -> Observation {
        Observation::Goaway(Goaway { connection: ConnectionId(1), flow, last_stream, code, reason, time })
    }

    fn unanswered(flow: Flow, kind: PingKind, sent: Timestamp, time: Timestamp) -> Observation {
        Observation::PingUnanswered(PingUnanswered { connection: ConnectionId(1), flow, kind, sent, time })
    }

    #[test]
    fn a_notice_and_the_goaway_that_counts_are_one_event_with_the_better_reason() {
        let mut scene = Scene::client();
        scene.observe(&goaway(Flow::Received, GoawayReason::GracefulNotice, 0, ANY_STREAM, s(1)));
        assert!(scene.said().is_empty());
        scene.observe(&goaway(Flow::Received, GoawayReason::MaxAge, 0, 217, s(1).plus(ms(1))));
        let found = scene.found();
        assert_eq!(found.len(), 1);
        assert_eq!(
            found[0].claim.claims().to_string(),
            "the server ends the connection, which is as old as it may be (max_age)"
        );
        scene.end(s(5));
        assert!(scene.said().is_empty());
    }

    /// A scene in which ends without a reason are told, too.
    fn telling(client_flow: Option<Flow>) -> Scene {
        let mut thresholds = super::super::Thresholds::default();
        thresholds.connection_health.tell_graceful = true;
        Scene::with(thresholds, client_flow)
    }

    #[test]
    fn a_notice_alone_is_told_after_a_while_or_at_the_end() {
        let notice = goaway(Flow::Received, GoawayReason::GracefulNotice, 0, ANY_STREAM, s(1));
        let mut scene = telling(Some(Flow::Sent));
        scene.observe(&notice);
        scene.tick(s(10));
        assert!(scene.said().is_empty());
        scene.tick(s(11));
        assert_eq!(scene.said(), ["firing goaway graceful"]);
        scene.observe(&goaway(Flow::Received, GoawayReason::Graceful, 0, 217, s(12)));
        assert!(scene.said().is_empty());

        let mut scene = telling(Some(Flow::Sent));
        scene.observe(&notice);
        scene.end(s(2));
        assert_eq!(scene.said(), ["firing goaway graceful"]);
    }

    #[test]
    fn a_connection_that_is_closed_in_order_is_nothing_to_tell_of() {
        for reason in [GoawayReason::Graceful, GoawayReason::GracefulNotice] {
            for scene in [&mut Scene::client(), &mut Scene::server()] {
                scene.observe(&goaway(Flow::Sent, reason, 0, 0, s(1)));
                scene.observe(&goaway(Flow::Received, reason, 0, ANY_STREAM, s(2)));
                scene.tick(s(20));
                scene.end(s(21));
                assert!(scene.said().is_empty(), "{reason:?}");
            }
        }
    }

    #[test]
    fn both_ends_may_leave_and_each_is_an_event() {
        let mut scene = telling(Some(Flow::Received));
        scene.observe(&goaway(Flow::Sent, GoawayReason::MaxIdle, 0, 9, s(1)));
        scene.observe(&goaway(Flow::Received, GoawayReason::Graceful, 0, 0, s(2)));
        assert_eq!(scene.said(), ["firing goaway max_idle", "firing goaway graceful"]);
    }

    #[test]
    fn an_error_is_a_problem_with_its_reason_and_is_told_once() {
        let mut scene = Scene::server();
        for _ in 0..2 {
            scene.observe(&goaway(Flow::Sent, GoawayReason::TooManyPings, 11, 3, s(1)));
        }
        scene.observe(&goaway(Flow::Received, GoawayReason::Error, 1, 3, s(2)));
        let said = scene.found();
        assert_eq!(said.len(), 2);
        assert_eq!(
            said[0].claim.claims().to_string(),
            "the server closed the connection with error 11 (too_many_pings)"
        );
        assert_eq!(said[1].claim.claims().cause(), Some("protocol_error"));
    }

    #[test]
    fn after_a_late_join_a_goaway_says_the_same_and_its_sender_may_be_unknown() {
        let mut scene = Scene::without_side();
        scene.status(Sync::Late, s(0));
        scene.observe(&goaway(Flow::Received, GoawayReason::TooManyPings, 11, 3, s(1)));
        let said = scene.found();
        assert_eq!(said.len(), 1);
        assert_eq!(
            said[0].claim.claims().to_string(),
            "an end closed the connection with error 11 (too_many_pings)"
        );
    }

    #[test]
    fn a_ping_without_an_answer_is_found_for_the_end_that_is_silent() {
        let mut scene = Scene::client();
        scene.observe(&unanswered(Flow::Sent, PingKind::Other, s(1), s(21)));
        scene.observe(&unanswered(Flow::Received, PingKind::Other, s(1), s(21)));
        assert_eq!(scene.said(), ["firing ping_unanswered peer", "firing ping_unanswered process"]);
    }

    #[test]
    fn a_ping_that_was_on_its_way_when_the_connection_ended_is_no_finding() {
        let mut scene = Scene::client();
        scene.observe(&unanswered(Flow::Sent, PingKind::Other, s(1), s(1).plus(ms(999))));
        assert!(scene.said().is_empty());
    }

    #[test]
    fn a_ping_is_decided_after_a_late_join_and_not_in_a_hole() {
        let ping = unanswered(Flow::Sent, PingKind::Bandwidth, s(1), s(21));
        for (sync, said) in
            [(Sync::Late, "firing ping_unanswered peer"), (Sync::Desynced, "undecided ping_unanswered peer")]
        {
            let mut scene = Scene::client();
            scene.status(sync, s(0));
            scene.observe(&ping);
            assert_eq!(scene.said(), [said]);
        }
    }
}
