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
/// Attempts of one that are remembered one by one. A loop around a channel makes a thousand in a second: of a faster storm
/// those that follow one another closely are remembered together.
const ATTEMPTS_APART: usize = 256;
/// Most that are remembered, apart or together.
const ATTEMPTS_MAX: usize = 2 * ATTEMPTS_APART;
/// How close, as a share of the window: so that what is remembered together covers all of it.
const PIECES: u64 = 256;
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
    /// By when they ended.
    attempts: VecDeque<Attempts>,
    storm: Lasting,
}

impl Target {
    fn remember(&mut self, began: Timestamp, window_ns: u64) {
        if self.attempts.len() >= ATTEMPTS_APART
            && let Some(latest) = self.attempts.back_mut()
            && latest.last.max(began).since(latest.first.min(began)) <= window_ns / PIECES
        {
            latest.first = latest.first.min(began);
            latest.last = latest.last.max(began);
            latest.count = latest.count.saturating_add(1);
            return;
        }
        if self.attempts.len() >= ATTEMPTS_MAX {
            self.attempts.pop_front();
        }
        self.attempts.push_back(Attempts { first: began, last: began, count: 1 });
    }
}

/// Attempts that are remembered together; mostly one.
#[derive(Clone, Copy, Debug)]
struct Attempts {
    /// When the first of them began.
    first: Timestamp,
    /// When the last of them began.
    last: Timestamp,
    count: u32,
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
        let is_attempt = summary.has_ended && load.from_start && !load.graceful && !watched.answered;
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
        target.remember(summary.opened, thresholds.window_ns);
    }

    pub(super) fn handle_tick(&mut self, thresholds: &Thresholds, now: Timestamp, out: &mut Out) {
        self.targets.retain(|_, target| {
            target.attempts.retain(|attempts| now.since(attempts.last) <= thresholds.window_ns);
            let judged = judge(thresholds, target, now);
            target.storm.handle(judged, now, out);
            !target.attempts.is_empty()
        });
    }
}

fn judge(thresholds: &Thresholds, target: &Target, now: Timestamp) -> Option<(Verdict, About, super::Claim)> {
    let attempts = target.attempts.iter().fold(0u32, |sum, attempts| sum.saturating_add(attempts.count));
    if attempts < thresholds.attempts_min {
        return None;
    }
    let mut began: Vec<Attempts> = target.attempts.iter().copied().collect();
    began.sort_unstable_by_key(|attempts| attempts.first);
    let (first, last) = (began.first()?.first, began.iter().map(|attempts| attempts.last).max()?);
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

/// The most of these attempts, sorted by the first, that may lie within less than `span_ns`.
fn most_within(span_ns: u64, sorted: &[Attempts]) -> u32 {
    let (mut oldest, mut within, mut most) = (sorted.iter(), 0u32, 0);
    for attempts in sorted {
        within = within.saturating_add(attempts.count);
        // Those of one piece count as long as one of them does: that is more than there were, and allows for more.
        while let Some(old) = oldest.as_slice().first()
            && attempts.first.since(old.last) >= span_ns
        {
            within = within.saturating_sub(old.count);
            oldest.next();
        }
        most = most.max(within);
    }
    most
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
    let attempts = TARGETS_MAX * of_list::<Attempts>(ATTEMPTS_MAX);
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
        let attempts = [0, 100, 799, 800, 5_000].map(|ms| apart(ms * 1_000_000));
        assert_eq!(most_within(FIRST_WAIT_NS, &attempts), 3);
        assert_eq!(most_within(FIRST_WAIT_NS, &[]), 0);
    }

    fn apart(ns: u64) -> Attempts {
        Attempts { first: Timestamp(ns), last: Timestamp(ns), count: 1 }
    }

    /// What is claimed of a target after attempts at these times, in milliseconds.
    fn claimed(times: impl IntoIterator<Item = u64>) -> Option<super::super::Claim> {
        let thresholds = Thresholds::default();
        let mut target = Target {
            owner: Arc::new(Owner { process: ProcessId(7), workload: Arc::from("storefront") }),
            name: None,
            attempts: VecDeque::new(),
            storm: Lasting::default(),
        };
        let mut now = Timestamp(0);
        for ms in times {
            now = Timestamp(ms * 1_000_000);
            target.remember(now, thresholds.window_ns);
            assert!(target.attempts.len() <= ATTEMPTS_MAX);
        }
        judge(&thresholds, &target, now).map(|(_, _, claim)| claim)
    }

    #[test]
    fn a_storm_of_a_thousand_attempts_a_second_is_not_taken_for_a_thousand_channels() {
        assert!(matches!(
            claimed(0..10_000),
            Some(super::super::Claim::Reconnects(Claim { attempts: 10_000, .. }))
        ));
        // As many channels that begin at once and back off are none.
        let backoff = [0, 1_000, 2_600, 5_160, 9_256];
        assert_eq!(claimed(backoff.iter().flat_map(|begin| (0..500).map(move |n| begin + n / 10))), None);
    }
}
