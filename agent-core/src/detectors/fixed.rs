//! Fixed timeouts, seen without links: all calls of a method leave a process with one timeout, although the process serves calls
//! whose deadlines are shorter.
//!
//! For calls that belong to an inbound one [`super::propagation`] says it call by call. This is for those of which nothing tells where
//! they belong: several inbound calls were open when each of them began. A timeout that is longer than that of every inbound call
//! cannot be what was left of one, whichever it was. So it fires when the last [`Thresholds::calls`] of a method had the same timeout
//! (within [`SAME_SHARE`]: what is sent is a constant less the time since it was added to the clock, and rounded), and every inbound call meanwhile had a deadline, at least the tolerance shorter than it. A root has no inbound calls, and so
//! never fires; nor does a process of whose inbound calls one has no deadline, or one that may not have been seen.

use std::fmt;
use std::sync::Arc;

use super::correlation::{self, Correlation, Processes};
use super::finding::{About, Claims, Name, Value, Verdict, seconds};
use super::{Out, Owner};
use crate::input::Timestamp;
use crate::observation::{Side, Timeout};

/// When to speak.
#[derive(Clone, Debug, PartialEq)]
pub struct Thresholds {
    /// Calls of a method with the same timeout, within two minutes.
    pub calls: u32,
    /// The timeout is so much longer than the longest that came in; encoders round up by less.
    pub longer_ratio: f64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Thresholds { calls: 20, longer_ratio: 0.1 }
    }
}

/// Timeouts are the same when they differ by at most this share of the longest. grpc-go sends what is left in microseconds, grpc-js
/// in milliseconds, and the C-core rounds a minute up to a tenth of a second.
const SAME_SHARE: u64 = 100;
/// And by at most this, whichever is more: a busy process needs as long from its clock to its socket.
const SAME_NS: u64 = 25_000_000;

/// Inbound calls are looked at in pieces of this length: the current one and the one before.
const EPOCH_NS: u64 = 60_000_000_000;
/// It is said again that often while it lasts.
const AGAIN_NS: u64 = 60_000_000_000;

/// Deadlines of a process's inbound calls, in two pieces of time.
#[derive(Debug, Default)]
#[repr(C)]
pub(super) struct Inbound {
    now: Longest,
    epoch: u64,
    before: Longest,
}

#[derive(Clone, Copy, Debug, Default)]
struct Longest {
    timeout_ns: u64,
    calls: u32,
    /// One had no deadline, or it is not known.
    unlimited: bool,
}

impl Longest {
    fn note(&mut self, timeout: Timeout) {
        self.calls = self.calls.saturating_add(1);
        match timeout {
            Timeout::Ns(timeout) => self.timeout_ns = self.timeout_ns.max(timeout),
            Timeout::Absent | Timeout::Invalid | Timeout::Unknown => self.unlimited = true,
        }
    }
}

impl Inbound {
    /// An inbound call has begun.
    pub(super) fn note(&mut self, timeout: Timeout, now: Timestamp) {
        let epoch = now.0 / EPOCH_NS;
        if epoch > self.epoch {
            self.before = if epoch == self.epoch + 1 { self.now } else { Longest::default() };
            self.now = Longest::default();
            self.epoch = epoch;
        }
        self.now.note(timeout);
    }

    /// The longest timeout of the last two pieces, and of what is open from before; `None` if there is none, or one has no
    /// limit.
    fn longest<'a>(&self, open: impl Iterator<Item = &'a correlation::Inbound>) -> Option<u64> {
        let mut all = self.now;
        open.for_each(|call| all.note(call.timeout));
        let limited = !all.unlimited && !self.before.unlimited && self.now.calls > 0;
        limited.then(|| all.timeout_ns.max(self.before.timeout_ns))
    }
}

/// Timeouts of the calls that a process makes to a method.
#[derive(Debug, Default)]
#[repr(C)]
pub(super) struct Outbound {
    shortest_ns: u64,
    longest_ns: u64,
    /// How many had those in a row, now and in the piece of time before.
    calls: [u32; 2],
    epoch: u64,
    owner: Option<Arc<Owner>>,
    said: Option<Timestamp>,
}

impl Outbound {
    /// An outbound call has begun.
    pub(super) fn note(
        &mut self,
        timeout: Timeout,
        correlation: Correlation,
        owner: Option<&Arc<Owner>>,
        now: Timestamp,
    ) {
        self.turn(now);
        match (timeout, correlation) {
            (Timeout::Ns(timeout), Correlation::Ambiguous) => {
                if self.calls != [0, 0] && self.is_same(timeout) {
                    self.shortest_ns = self.shortest_ns.min(timeout);
                    self.longest_ns = self.longest_ns.max(timeout);
                } else {
                    (self.shortest_ns, self.longest_ns) = (timeout, timeout);
                    self.calls = [0, 0];
                }
                self.calls[0] = self.calls[0].saturating_add(1);
                if self.owner.is_none() {
                    self.owner = owner.cloned();
                }
            }
            // What belongs to an inbound call is judged by it.
            (Timeout::Ns(timeout), Correlation::Linked(_)) if self.is_same(timeout) => {}
            // A call of the process's own, or one that may be: this method's timeouts are not those of inbound calls.
            (_, Correlation::None | Correlation::Undecided)
            | (_, Correlation::Linked(_) | Correlation::Ambiguous) => self.calls = [0, 0],
        }
    }

    /// It is the constant that the others are.
    fn is_same(&self, timeout_ns: u64) -> bool {
        let (shortest, longest) = (self.shortest_ns.min(timeout_ns), self.longest_ns.max(timeout_ns));
        longest - shortest <= SAME_NS.max(longest / SAME_SHARE)
    }

    fn turn(&mut self, now: Timestamp) {
        let epoch = now.0 / EPOCH_NS;
        if epoch > self.epoch {
            self.calls = [0, if epoch == self.epoch + 1 { self.calls[0] } else { 0 }];
            self.epoch = epoch;
        }
    }
}

/// What is claimed of a process's calls to a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// That all of them have, the longest of what was sent.
    pub timeout_ns: u64,
    /// The longest that an inbound call had.
    pub longest_inbound_ns: u64,
    /// How many of them.
    pub calls: u32,
}

impl Claims for Claim {
    fn name(&self) -> Name {
        Name::DeadlineFixed
    }

    fn evidence(&self, number: &mut dyn FnMut(&'static str, Value)) {
        number("timeout_seconds", Value::Ns(self.timeout_ns));
        number("longest_inbound_timeout_seconds", Value::Ns(self.longest_inbound_ns));
        number("calls", Value::Count(u64::from(self.calls)));
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (timeout, longest) = (seconds(self.timeout_ns), seconds(self.longest_inbound_ns));
        write!(
            f,
            "is always called with {timeout} ({} calls), although no inbound call has more than {longest}",
            self.calls
        )
    }
}

/// Looks at all methods of all processes.
pub(super) fn handle_tick(thresholds: &Thresholds, processes: &mut Processes, now: Timestamp, out: &mut Out) {
    for process in processes.values_mut() {
        let all_seen = process.all_inbound_seen(EPOCH_NS, now);
        let (methods, inbound, open) = process.methods_mut();
        for method in methods {
            let fixed = &mut method.fixed;
            fixed.turn(now);
            let calls = fixed.calls[0].saturating_add(fixed.calls[1]);
            if calls < thresholds.calls && fixed.said.is_none() {
                continue;
            }
            let longest = inbound.longest(open.clone()).filter(|_| all_seen);
            // A ratio of a time is one, and below it.
            let is_longer = |longest: &u64| {
                fixed.shortest_ns.saturating_sub(*longest)
                    > (*longest as f64 * thresholds.longer_ratio) as u64
            };
            let firing = longest.filter(|_| calls >= thresholds.calls).filter(is_longer);
            let about = || About {
                owner: fixed.owner.clone(),
                side: Some(Side::Client),
                method: Some(Arc::clone(&method.name)),
                ..About::default()
            };
            let claim =
                |longest_inbound_ns| Claim { timeout_ns: fixed.longest_ns, longest_inbound_ns, calls };
            match (firing, fixed.said) {
                (Some(longest), said) if said.is_none_or(|said| now.since(said) >= AGAIN_NS) => {
                    out.fire(about(), now, claim(longest));
                    fixed.said = Some(now);
                }
                (None, Some(_)) => {
                    out.push(Verdict::Quiet, about(), now, claim(longest.unwrap_or_default()).into());
                    fixed.said = None;
                }
                (Some(_), _) | (None, None) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detectors::hops_scene::{Hop, SERVED, at};
    use crate::detectors::synthetic::ms;
    use crate::input::Flow;
    use crate::observation::{CallStarted, Sync};

    const FIRED: &str = "firing deadline_fixed";

    /// Two inbound calls are open, so that nothing tells where outbound ones belong.
    fn busy(inbound: impl Fn(&mut CallStarted)) -> Hop {
        let mut hop = Hop::new();
        hop.inbound(1, at(0), &inbound);
        hop.inbound(3, at(0), &inbound);
        hop
    }

    /// Outbound calls with these timeouts in milliseconds, and a look.
    fn call(hop: &mut Hop, from: u64, timeouts: impl IntoIterator<Item = u64>) {
        let mut time = from;
        for timeout in timeouts {
            let stream = u32::try_from(2 * time + 1).unwrap_or_default();
            hop.outbound(stream, at(time), |call| call.timeout = Timeout::Ns(ms(timeout)));
            time += 1;
        }
        hop.tick(at(time + 1_000));
    }

    #[test]
    fn one_timeout_that_is_longer_than_whatever_came_in_is_told_and_told_when_it_is_over() {
        let mut hop = busy(|_| {});
        call(&mut hop, 10, [2_000; 19]);
        assert_eq!(hop.said(), Vec::<String>::new());
        call(&mut hop, 2_000, [2_000]);
        assert_eq!(hop.said(), [FIRED]);
        call(&mut hop, 4_000, [2_000]);
        assert_eq!(hop.said(), Vec::<String>::new());
        call(&mut hop, 6_000, [900]);
        assert_eq!(hop.said(), ["quiet deadline_fixed"]);
    }

    #[test]
    fn timeouts_that_are_shorter_or_differ_say_nothing() {
        let mut hop = busy(|_| {});
        call(&mut hop, 10, [1_050; 30]);
        call(&mut hop, 2_000, [500; 30]);
        // Each differs by little from the one before, and they are no constant all the same.
        call(&mut hop, 4_000, (0..60).map(|n| 3_000 + 2 * n));
        assert_eq!(hop.said(), Vec::<String>::new());
    }

    #[test]
    fn a_constant_less_the_time_until_it_is_sent_is_the_same_constant() {
        // As grpc-go, grpc-js and the C-core send a minute.
        let (microseconds, milliseconds) =
            (|n: u64| 59_999_000 + 37 * n % 1_000, |n: u64| 60_000_000 - n % 5 * 1_000);
        let tenths = |n: u64| 60_000_000 + n % 2 * 100_000;
        for sent in [&microseconds as &dyn Fn(u64) -> u64, &milliseconds, &tenths] {
            let mut hop = busy(|_| {});
            for n in 0..20 {
                let stream = u32::try_from(2 * n + 1).expect("small");
                hop.outbound(stream, at(10 + n), |call| call.timeout = Timeout::Ns(sent(n) * 1_000));
            }
            hop.tick(at(1_000));
            assert_eq!(hop.said(), [FIRED]);
        }
    }

    #[test]
    fn one_inbound_call_without_a_deadline_or_with_a_longer_one_may_be_their_origin() {
        for timeout in [Timeout::Absent, Timeout::Unknown, Timeout::Ns(ms(5_000))] {
            let mut hop = busy(|_| {});
            hop.inbound(5, at(1), |call| call.timeout = timeout);
            call(&mut hop, 10, [2_000; 30]);
            assert_eq!(hop.said(), Vec::<String>::new());
            // Also long after it began, while it is open.
            hop.inbound(7, at(300_000), |_| {});
            call(&mut hop, 300_001, [2_000; 30]);
            assert_eq!(hop.said(), Vec::<String>::new());
        }
    }

    #[test]
    fn a_root_never_fires() {
        let mut hop = Hop::new();
        call(&mut hop, 10, [2_000; 100]);
        assert_eq!(hop.said(), Vec::<String>::new());
    }

    #[test]
    fn a_method_that_the_process_also_calls_on_its_own_account_says_nothing() {
        let mut hop = Hop::new();
        call(&mut hop, 10, [2_000]);
        hop.inbound(1, at(100), |_| {});
        call(&mut hop, 110, [2_000; 10]);
        hop.answer(1, at(2_000));
        call(&mut hop, 2_100, [2_000; 10]);
        assert_eq!(hop.said(), Vec::<String>::new());
    }

    #[test]
    fn joined_late_or_with_a_hole_nothing_is_said() {
        for sync in [Sync::Late, Sync::Desynced] {
            let mut hop = Hop::new();
            hop.status(SERVED, Flow::Received, sync, at(0));
            hop.inbound(1, at(0), |_| {});
            hop.inbound(3, at(0), |_| {});
            call(&mut hop, 10, [2_000; 30]);
            assert_eq!(hop.said(), Vec::<String>::new(), "{sync:?}");
        }
    }
}
