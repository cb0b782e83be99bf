//! Reconnect storms: a client process connects to one address again and again, faster than gRPC's backoff allows
//! (doc/connection-backoff.md of the gRPC project), and none of these connections is of use.
//!
//! Counted are connections that were seen from their first byte to their end, that the client opened, that lasted a short
//! time, and on which nothing was answered: no call, no other exchange. Connections that worked, that a server recycled
//! (GOAWAY for age or idleness), and many that are opened at once and stay, are none of these. An attempt that never got as
//! far as HTTP/2 has no bytes and is not seen.
//!
//! A channel waits before each attempt: at least 0.8 s, and 1.6 times longer each time. So within 0.8 s a channel begins one
//! attempt at most, and the most attempts that began within 0.8 s is how many channels there may be. Firing where there were
//! more attempts than so many channels may make in the time from the first to the last.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use super::balance::shown;
use super::finding::{Claims, Name, Value, Verdict, seconds};
use super::lasting::Lasting;
use super::{About, End, Out, Owner, ProcessId, Watched};
use crate::input::Timestamp;
use crate::observation::{ConnectionSummary, Side};

/// When to speak.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// How far back attempts are counted.
    pub window_ns: u64,
    /// Fewer attempts are no storm.
    pub attempts_min: u32,
    /// A connection that lasted longer was of some use: gRPC gives an attempt 20 s (MIN_CONNECT_TIMEOUT).
    pub short_ns: u64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Thresholds { window_ns: 60_000_000_000, attempts_min: 10, short_ns: 20_000_000_000 }
    }
}

/// Most pairs of a process and an address that are remembered.
const TARGETS_MAX: usize = 1_024;
/// Most attempts that are remembered of one: in a faster storm, those of less than the window.
const ATTEMPTS_MAX: usize = 256;
/// Shortest first wait: 1 s, less 20 % jitter.
const FIRST_WAIT_NS: u64 = 800_000_000;
/// A storm without an attempt for so long is over, although its attempts are still in the window.
const OVER_NS: u64 = 10_000_000_000;
/// A tenth more time is allowed for: an attempt is seen when its connection is made, which takes its own time.
const SLACK: u64 = 10;
/// Longest wait, less the jitter.
const LAST_WAIT_NS: u64 = 96_000_000_000;

/// What is claimed of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Connections that came to nothing.
    pub attempts: u32,
    /// From the first to the last of them.
    pub span_ns: u64,
    /// The most that gRPC's backoff allows in that time, for as many channels as there may be.
    pub allowed: u32,
    /// How many channels there may be.
    pub channels: u32,
}

impl Claims for Claim {
    fn name(&self) -> Name {
        Name::ReconnectStorm
    }

    fn evidence(&self, number: &mut dyn FnMut(&'static str, Value)) {
        number("attempts", Value::Count(u64::from(self.attempts)));
        number("span_seconds", Value::Ns(self.span_ns));
        number("allowed_attempts", Value::Count(u64::from(self.allowed)));
        number("channels_max", Value::Count(u64::from(self.channels)));
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (attempts, span, allowed) = (self.attempts, seconds(self.span_ns), self.allowed);
        write!(f, "connected {attempts} times in {span} to no avail, where gRPC's backoff allows {allowed}")
    }
}

/// What is remembered of attempts.
#[derive(Debug, Default)]
pub(crate) struct Reconnects {
    targets: BTreeMap<(ProcessId, SocketAddr), Target>,
    refused: u64,
}

#[derive(Debug)]
struct Target {
    owner: Arc<Owner>,
    /// By what name the client asked for it, if it came to that.
    name: Option<Arc<str>>,
    /// When the attempts began, by when they ended.
    attempts: VecDeque<Timestamp>,
    storm: Lasting,
}

impl Reconnects {
    /// Times that an attempt was not counted, since there are too many targets.
    pub(super) fn refused(&self) -> u64 {
        self.refused
    }

    /// A connection has ended.
    pub(super) fn handle_ended(
        &mut self,
        thresholds: &Thresholds,
        watched: &Watched,
        summary: &ConnectionSummary,
    ) {
        let load = &watched.load;
        let is_attempt = summary.has_ended && load.from_start && !load.graceful && !load.answered;
        if !is_attempt || watched.side != Some(Side::Client) {
            return;
        }
        let (Some(owner), Some((_, End::Address(peer)))) = (&watched.party.owner, watched.party.ends) else {
            return;
        };
        if summary.closed.since(summary.opened) > thresholds.short_ns {
            return;
        }
        let key = (owner.process, peer);
        if self.targets.len() >= TARGETS_MAX && !self.targets.contains_key(&key) {
            self.refused += 1;
            return;
        }
        let target = self.targets.entry(key).or_insert_with(|| Target {
            owner: Arc::clone(owner),
            name: None,
            attempts: VecDeque::new(),
            storm: Lasting::default(),
        });
        if let Some(name) = load.destination() {
            target.name = Some(Arc::clone(name));
        }
        if target.attempts.len() == ATTEMPTS_MAX {
            target.attempts.pop_front();
        }
        target.attempts.push_back(summary.opened);
    }

    pub(super) fn handle_tick(&mut self, thresholds: &Thresholds, now: Timestamp, out: &mut Out) {
        self.targets.retain(|_, target| {
            target.attempts.retain(|began| now.since(*began) <= thresholds.window_ns);
            let judged = judge(thresholds, target, now);
            target.storm.handle(judged, now, out);
            !target.attempts.is_empty()
        });
    }
}

fn judge(thresholds: &Thresholds, target: &Target, now: Timestamp) -> Option<(Verdict, About, super::Claim)> {
    let attempts = u32::try_from(target.attempts.len()).ok()?;
    if attempts < thresholds.attempts_min {
        return None;
    }
    let mut began: Vec<Timestamp> = target.attempts.iter().copied().collect();
    began.sort_unstable();
    let (first, last) = (*began.first()?, *began.last()?);
    if now.since(last) > OVER_NS {
        return None;
    }
    let span_ns = last.since(first);
    let channels = most_within(FIRST_WAIT_NS, &began);
    let allowed = channels.saturating_mul(allowed_in(span_ns.saturating_add(span_ns / SLACK)));
    if attempts <= allowed {
        return None;
    }
    let about = About {
        owner: Some(Arc::clone(&target.owner)),
        side: Some(Side::Client),
        peer: target.name.as_ref().and_then(shown),
        ..About::default()
    };
    Some((Verdict::Firing, about, Claim { attempts, span_ns, allowed, channels }.into()))
}

/// The most of these sorted times that lie within less than `span_ns`.
fn most_within(span_ns: u64, times: &[Timestamp]) -> u32 {
    let mut first = 0;
    let mut most = 0;
    for (number, time) in times.iter().enumerate() {
        while time.since(times[first]) >= span_ns {
            first += 1;
        }
        most = most.max(number - first + 1);
    }
    u32::try_from(most).unwrap_or(u32::MAX)
}

/// The most attempts of one channel within `span_ns`, each wait being as short as it may be.
fn allowed_in(span_ns: u64) -> u32 {
    let mut attempts = 1;
    let (mut wait_ns, mut left_ns) = (FIRST_WAIT_NS, span_ns);
    while left_ns >= wait_ns {
        left_ns -= wait_ns;
        attempts += 1;
        wait_ns = (wait_ns / 5 * 8).min(LAST_WAIT_NS);
    }
    attempts
}

/// Pairs at most, and their bytes.
#[cfg(test)]
pub(super) fn most_bytes() -> (usize, usize) {
    use super::memory::{of_list, of_tree};
    let attempts = TARGETS_MAX * of_list::<Timestamp>(ATTEMPTS_MAX);
    (TARGETS_MAX, of_tree::<(ProcessId, SocketAddr), Target>(TARGETS_MAX) + attempts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fastest_backoff_makes_nine_attempts_a_minute() {
        assert_eq!(allowed_in(0), 1);
        assert_eq!(allowed_in(799_999_999), 1);
        assert_eq!(allowed_in(800_000_000), 2);
        // 0.8 + 1.28
        assert_eq!(allowed_in(2_079_999_999), 2);
        assert_eq!(allowed_in(2_080_000_000), 3);
        assert_eq!(allowed_in(60_000_000_000), 9);
    }

    #[test]
    fn attempts_of_a_moment_are_counted_together() {
        let times: Vec<Timestamp> = [0, 100, 799, 800, 5_000].map(|ms| Timestamp(ms * 1_000_000)).to_vec();
        assert_eq!(most_within(FIRST_WAIT_NS, &times), 3);
        assert_eq!(most_within(FIRST_WAIT_NS, &[]), 0);
    }
}
