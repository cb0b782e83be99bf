//! What detectors say: a claim about somebody, with its evidence in numbers.

use std::fmt;
use std::sync::Arc;

use super::party::Owner;
use super::{Claim, correlation};
use crate::input::{ConnectionId, Timestamp};
use crate::observation::Side;

/// What a detector says.
#[derive(Clone, Debug)]
pub struct Finding {
    /// What is claimed, and on what evidence.
    pub claim: Claim,
    /// Whether it holds.
    pub verdict: Verdict,
    /// Whom it is about.
    pub about: About,
    /// When it was found.
    pub time: Timestamp,
}

/// Whether a claim holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verdict {
    /// It does not, or not any more: said only after it did, and only of claims that last ([`Finding::lasts`]).
    Quiet,
    /// It does.
    Firing,
    /// What would tell was not seen: the connection was joined late, or lost bytes that matter.
    Undecided,
}

impl Verdict {
    /// `quiet`, `firing`, `undecided`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Quiet => "quiet",
            Verdict::Firing => "firing",
            Verdict::Undecided => "undecided",
        }
    }
}

/// Whom a finding is about: what is `None` does not apply, or is not known.
#[derive(Clone, Debug, Default)]
pub struct About {
    /// The process on which it was seen.
    pub owner: Option<Arc<Owner>>,
    /// The connection, for what is about one.
    pub connection: Option<ConnectionId>,
    /// The stream, for what is about a call.
    pub stream: Option<u32>,
    /// Which side of its calls the process has.
    pub side: Option<Side>,
    /// Full method name with its leading slash, as on the wire: escape it before it is shown.
    pub method: Option<Arc<str>>,
    /// The other side, by a name that both sides use (`:authority`), never a bare address.
    pub peer: Option<Arc<str>>,
}

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Level {
    /// Something happened that explains other things, and may be meant.
    Notice,
    /// Something is wrong.
    Problem,
}

impl Level {
    /// `notice`, `problem`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Level::Notice => "notice",
            Level::Problem => "problem",
        }
    }
}

/// A number of the evidence, with its unit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// How many.
    Count(u64),
    /// Octets; negative for a window that SETTINGS took back.
    Bytes(i64),
    /// Nanoseconds.
    Ns(u64),
    /// From 0 to 1.
    Ratio(f64),
    /// One of a closed set of words.
    Word(&'static str),
}

/// What every detector's claims can tell of themselves. The sentence of a claim is its [`fmt::Display`]: about this
/// call or connection, with its numbers, without the names that [`About`] has.
pub trait Claims: fmt::Display {
    /// Which finding it is.
    fn name(&self) -> Name;

    /// Why, in one word of a closed set, where the finding has causes.
    fn cause(&self) -> Option<&'static str> {
        None
    }

    /// For what was concluded from an outbound call belonging to an inbound one: how that is known.
    fn link(&self) -> Option<correlation::Evidence> {
        None
    }

    /// Its numbers, each with a name that ends in its unit.
    fn evidence(&self, number: &mut dyn FnMut(&'static str, Value));
}

macro_rules! names {
    ($($(#[$doc:meta])* $variant:ident = $text:literal, $level:ident, $lasts:literal;)*) => {
        /// Every finding there is.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Name {
            $($(#[$doc])* $variant,)*
        }

        impl Name {
            /// All of them, in the order in which they are documented.
            pub const ALL: &[Name] = &[$(Name::$variant),*];

            /// Its name: stable, and usable as a label.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Name::$variant => $text,)*
                }
            }

            /// How much it matters.
            #[must_use]
            pub fn level(self) -> Level {
                match self {
                    $(Name::$variant => Level::$level,)*
                }
            }

            /// It is a state that begins ([`Verdict::Firing`]) and ends ([`Verdict::Quiet`]), and not an event.
            #[must_use]
            pub fn lasts(self) -> bool {
                match self {
                    $(Name::$variant => $lasts,)*
                }
            }
        }
    };
}

names! {
    /// A client sends nearly all its calls over one connection, although there are more backends.
    PinnedConnection = "pinned_connection", Problem, true;
    /// A backend gets no calls while its siblings do.
    StarvedBackend = "starved_backend", Problem, true;
    /// A call without a deadline.
    DeadlineMissing = "deadline_missing", Problem, false;
    /// A call's deadline passed.
    DeadlineExceeded = "deadline_exceeded", Problem, false;
    /// The server completed a call after its deadline.
    DeadlineLateCompletion = "deadline_late_completion", Problem, false;
    /// A deadline of zero, or one that is no limit.
    DeadlineAbsurd = "deadline_absurd", Problem, false;
    /// An outbound call has a later deadline than the inbound call that it belongs to.
    DeadlineReset = "deadline_reset", Problem, false;
    /// An outbound call has no deadline, although the inbound call that it belongs to has one.
    DeadlineDropped = "deadline_dropped", Problem, false;
    /// An outbound call began when nothing was left of the inbound call's deadline.
    DeadlineExhausted = "deadline_exhausted", Problem, false;
    /// All calls of a method leave a process that serves calls with deadlines with the same round timeout.
    DeadlineFixed = "deadline_fixed", Problem, true;
    /// A server goes on sending on a stream that has ended.
    WorkAfterEnd = "work_after_end", Problem, false;
    /// An outbound call goes on, or begins, after the inbound call that it belongs to was given up.
    UncancelledCall = "uncancelled_call", Problem, false;
    /// A new attempt of a call arrives while an earlier one is still worked on.
    RetryAmplification = "retry_amplification", Problem, false;
    /// A sender has data and may not send.
    FlowControlStall = "flow_control_stall", Problem, false;
    /// A client has as many streams open as its server allows.
    StreamLimit = "stream_limit", Problem, false;
    /// An end said that the connection will end.
    Goaway = "goaway", Notice, false;
    /// An end closed the connection because of what its peer did.
    ConnectionError = "connection_error", Problem, false;
    /// A PING without an answer: the peer may be dead.
    PingUnanswered = "ping_unanswered", Problem, false;
    /// New connections to one destination, faster than gRPC's backoff allows.
    ReconnectStorm = "reconnect_storm", Problem, true;
    /// A retry after a status that says that trying again is of no use.
    RetryNotRetryable = "retry_not_retryable", Problem, false;
    /// A retry earlier than the server asked for.
    RetryPushbackIgnored = "retry_pushback_ignored", Problem, false;
    /// Many of the calls to a method are retries.
    RetryStorm = "retry_storm", Problem, true;
    /// A stream of which one side has ended, and the other does not.
    HalfClosedLeak = "half_closed_leak", Problem, true;
    /// A stream on which nothing happens, on a connection without keepalive.
    IdleStream = "idle_stream", Notice, true;
    /// Calls were open when their connection was lost.
    AbruptEnd = "abrupt_end", Problem, false;
    /// An HTTP status that does not agree with the gRPC status beside it.
    HttpStatusMismatch = "http_status_mismatch", Problem, false;
}

/// A duration as a sentence says it.
pub(super) fn seconds(ns: u64) -> impl fmt::Display {
    // `Duration`'s own form is exact: `1.500000001s`. Three digits are enough for a sentence.
    struct Short(u64);
    impl fmt::Display for Short {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            let ns = self.0 as f64;
            match self.0 {
                0 => f.write_str("0 s"),
                1..1_000_000 => write!(f, "{:.0} µs", (ns / 1e3).max(1.0)),
                1_000_000..1_000_000_000 => write!(f, "{:.3} ms", ns / 1e6),
                1_000_000_000.. => write!(f, "{:.3} s", ns / 1e9),
            }
        }
    }
    Short(ns)
}

impl Finding {
    /// Which finding it is.
    #[must_use]
    pub fn name(&self) -> Name {
        self.claim.claims().name()
    }

    /// It is a state that ends with [`Verdict::Quiet`], and not an event.
    #[must_use]
    pub fn lasts(&self) -> bool {
        self.name().lasts()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_labels_and_no_two_are_the_same() {
        let names: std::collections::BTreeSet<&str> = Name::ALL.iter().map(|name| name.as_str()).collect();
        assert_eq!(names.len(), Name::ALL.len());
        for name in names {
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name}");
        }
    }
}
