//! Retry storms: many of the calls to a method are retries, so that a server that is in trouble gets more of it (gRFC A6).
//!
//! Counted for each process, side and method by `grpc-previous-rpc-attempts`, over a window that must have been watched whole. A
//! connection that was joined late may hide the field: its calls count as neither, and where they could decide it is undecided.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;

use foldhash::quality::RandomState;

use super::finding::{About, Claims, Name, Value, Verdict};
use super::lasting::Lasting;
use super::party::{Owner, ProcessId};
use super::{Connections, Out, Watched};
use crate::input::{ConnectionId, Timestamp};
use crate::observation::{CallStarted, Side, Sync};

/// When to speak.
#[derive(Clone, Debug, PartialEq)]
pub struct Thresholds {
    /// What is looked at together: short enough to act, long enough that one burst is not the rule.
    pub window_ns: u64,
    /// Fewer calls than this in a window say nothing of a share.
    pub calls: u64,
    /// More than this share of the calls are retries: gRPC's own retry throttling lets a client retry at most about one call
    /// in ten for long (gRFC A6, a `tokenRatio` of 0.1), and twice that is a storm.
    pub retried_share: f64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Thresholds { window_ns: 60_000_000_000, calls: 100, retried_share: 0.2 }
    }
}

/// Many of the calls to a method are retries.
#[derive(Clone, Debug, PartialEq)]
pub struct Claim {
    /// Calls that started in the window, retries among them.
    pub calls: u64,
    /// Retries among them.
    pub retries: u64,
    /// The window.
    pub window_ns: u64,
}

impl Claim {
    fn share(&self) -> f64 {
        self.retries as f64 / self.calls.max(1) as f64
    }
}

impl Claims for Claim {
    fn name(&self) -> Name {
        Name::RetryStorm
    }

    fn evidence(&self, number: &mut dyn FnMut(&'static str, Value)) {
        number("calls", Value::Count(self.calls));
        number("retries", Value::Count(self.retries));
        number("retried_share", Value::Ratio(self.share()));
        number("window_seconds", Value::Ns(self.window_ns));
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (share, window) = (100.0 * self.share(), super::finding::seconds(self.window_ns));
        write!(f, "is tried again: {share:.0} % of {} calls in {window} were retries", self.calls)
    }
}

/// Calls of a connection that have not been added up: a few methods, found by their address. Most connections have one
/// at a time, which stands in front.
#[derive(Debug, Default)]
pub(super) struct OfConnection {
    first: Option<Counts>,
    others: Vec<Counts>,
}

/// Methods of a connection that are counted apart between two looks.
const METHODS: usize = 64;

#[derive(Debug)]
struct Counts {
    method: Arc<str>,
    calls: u32,
    retries: u32,
    /// Calls of which it is not known.
    unknown: u32,
    side: Side,
}

impl Counts {
    fn new(call: &CallStarted, method: &Arc<str>) -> Counts {
        let side = Side::of(call.client_flow);
        Counts { method: Arc::clone(method), calls: 0, retries: 0, unknown: 0, side }
    }

    fn count(&mut self, previous_attempts: Option<u32>, sync: Sync) {
        let (counted, retries) = match previous_attempts {
            Some(0) | None if sync != Sync::Synced => (&mut self.unknown, 0),
            Some(0) | None => (&mut self.calls, 0),
            Some(_) => (&mut self.calls, 1),
        };
        *counted = counted.saturating_add(1);
        self.retries = self.retries.saturating_add(retries);
    }
}

/// The windows of methods that are retried.
#[derive(Debug, Default)]
pub(super) struct RetryStorms {
    windows: HashMap<Key, Window, RandomState>,
    /// Connections that have counted something.
    touched: Vec<ConnectionId>,
    /// Calls and methods that were not counted, since a table was full.
    pub(super) forgotten: u64,
}

type Key = (ProcessId, Side, Arc<str>);

/// Methods of processes whose retries are counted.
const WINDOWS: usize = 4_096;
/// Parts of a window: it moves by one of them.
const PARTS: u64 = 12;
#[derive(Debug)]
struct Window {
    owner: Arc<Owner>,
    since: Timestamp,
    parts: VecDeque<Part>,
    lasting: Lasting,
}

#[derive(Clone, Copy, Debug)]
struct Part {
    from: Timestamp,
    calls: u64,
    retries: u64,
    unknown: u64,
}

impl RetryStorms {
    /// Counts a call.
    pub(super) fn handle_call_started(&mut self, connection: &mut Watched, call: &CallStarted) {
        let Some(method) = &call.method else { return };
        let of = &mut connection.retry_storm;
        let is_of = |counts: &Counts| Arc::ptr_eq(&counts.method, method);
        let counts = match &mut of.first {
            Some(first) if is_of(first) => first,
            Some(_) => {
                let at = match of.others.iter().position(is_of) {
                    Some(at) => at,
                    None if of.others.len() + 1 >= METHODS => {
                        self.forgotten = self.forgotten.saturating_add(1);
                        return;
                    }
                    None => {
                        of.others.push(Counts::new(call, method));
                        of.others.len() - 1
                    }
                };
                let Some(counts) = of.others.get_mut(at) else { return };
                counts
            }
            first @ None => {
                self.touched.push(connection.connection);
                first.insert(Counts::new(call, method))
            }
        };
        counts.count(call.previous_attempts, connection.sync);
    }

    /// Adds up what a connection has counted, before it is forgotten.
    pub(super) fn handle_connection_ended(
        &mut self,
        thresholds: &Thresholds,
        connection: &mut Watched,
        now: Timestamp,
    ) {
        let of = &mut connection.retry_storm;
        for counts in of.first.take().into_iter().chain(of.others.drain(..)) {
            let Some(owner) = &connection.party.owner else { continue };
            let key = (owner.process, counts.side, counts.method);
            let is_full = self.windows.len() >= WINDOWS;
            let window = match self.windows.get_mut(&key) {
                Some(window) => window,
                // A method that is not retried needs no window.
                None if counts.retries == 0 => continue,
                None if is_full => {
                    self.forgotten = self.forgotten.saturating_add(1);
                    continue;
                }
                None => self.windows.entry(key).or_insert(Window {
                    owner: Arc::clone(owner),
                    since: now,
                    parts: VecDeque::new(),
                    lasting: Lasting::default(),
                }),
            };
            let part = match window.parts.back_mut() {
                Some(part) if now.since(part.from) < thresholds.window_ns / PARTS => part,
                Some(_) | None => {
                    window.parts.push_back(Part { from: now, calls: 0, retries: 0, unknown: 0 });
                    let Some(part) = window.parts.back_mut() else { continue };
                    part
                }
            };
            part.calls += u64::from(counts.calls);
            part.retries += u64::from(counts.retries);
            part.unknown += u64::from(counts.unknown);
        }
    }

    /// Adds up what was counted, and looks at every window.
    pub(super) fn handle_timeout(
        &mut self,
        thresholds: &Thresholds,
        connections: &mut Connections,
        now: Timestamp,
        out: &mut Out,
    ) {
        for id in std::mem::take(&mut self.touched) {
            if let Some(connection) = connections.get_mut(id) {
                self.handle_connection_ended(thresholds, connection, now);
            }
        }
        self.windows.retain(|key, window| {
            while window.parts.pop_front_if(|part| now.since(part.from) >= thresholds.window_ns).is_some() {}
            window.judge(key, thresholds, now, out);
            window.lasting.is_firing() || window.parts.iter().any(|part| part.retries > 0)
        });
    }
}

impl Window {
    fn judge(&mut self, key: &Key, thresholds: &Thresholds, now: Timestamp, out: &mut Out) {
        if now.since(self.since) < thresholds.window_ns {
            return;
        }
        let sum = |of: fn(&Part) -> u64| self.parts.iter().map(of).sum::<u64>();
        let (calls, retries, unknown) =
            (sum(|part| part.calls), sum(|part| part.retries), sum(|part| part.unknown));
        let is_storm = |calls: u64, retries: u64| {
            calls >= thresholds.calls && retries as f64 > thresholds.retried_share * calls as f64
        };
        // The unknown ones may all be retries, or none of them.
        let verdict = if is_storm(calls + unknown, retries) {
            Verdict::Firing
        } else if is_storm(calls + unknown, retries + unknown) {
            Verdict::Undecided
        } else {
            Verdict::Quiet
        };
        let judged = (verdict != Verdict::Quiet).then(|| {
            let about = About {
                owner: Some(Arc::clone(&self.owner)),
                side: Some(key.1),
                method: Some(Arc::clone(&key.2)),
                ..About::default()
            };
            (verdict, about, Claim { calls, retries, window_ns: thresholds.window_ns }.into())
        });
        self.lasting.handle(judged, now, out);
    }
}

/// Methods at most, and their bytes.
#[cfg(test)]
pub(super) fn most_bytes() -> (usize, usize) {
    use super::memory::{of_list, of_table};
    // One more than the parts of a window, which begins inside one.
    let parts = WINDOWS * of_list::<Part>(PARTS as usize + 1);
    (WINDOWS, of_table::<(Key, Window)>(WINDOWS) + parts)
}

/// Heap bytes of a connection at most, and its place among those that have counted.
#[cfg(test)]
pub(super) fn bytes_of_connection() -> usize {
    super::memory::of_list::<Counts>(METHODS) + 2 * size_of::<ConnectionId>()
}

#[cfg(test)]
mod tests {
    use super::super::synthetic::{Scene, s};
    use super::*;
    use crate::observation::Observation;

    /// Calls of one second, of which so many are retries.
    fn second(scene: &mut Scene, at: u64, method: &Arc<str>, calls: u32, retries: u32) {
        for call in 0..calls {
            let mut started = scene.started(2 * call + 1, "", s(at));
            started.method = Some(Arc::clone(method));
            started.previous_attempts = (call < retries).then_some(1);
            scene.observe(&Observation::CallStarted(started));
        }
        scene.tick(s(at + 1));
    }

    fn seconds(scene: &mut Scene, from: u64, to: u64, calls: u32, retries: u32) -> Vec<String> {
        let method = Arc::from("/shop.Inventory/Reserve");
        (from..to).for_each(|at| second(scene, at, &method, calls, retries));
        // One connection that carries all calls is a finding of another detector.
        scene.said().into_iter().filter(|said| said.contains("retry_storm")).collect()
    }

    #[test]
    fn a_storm_is_found_when_it_has_lasted_for_a_window_and_ends_when_it_is_over() {
        for mut scene in [Scene::client(), Scene::server()] {
            assert!(seconds(&mut scene, 0, 60, 10, 3).is_empty());
            assert_eq!(seconds(&mut scene, 60, 62, 10, 3), ["firing retry_storm"]);
            assert!(seconds(&mut scene, 62, 100, 10, 3).is_empty());
            assert_eq!(seconds(&mut scene, 100, 300, 10, 0), ["quiet retry_storm"]);
        }
    }

    #[test]
    fn a_storm_that_goes_on_is_said_again_with_new_numbers() {
        let mut scene = Scene::client();
        let found = "firing retry_storm";
        assert_eq!(seconds(&mut scene, 0, 190, 10, 3), [found, found, found]);
    }

    #[test]
    fn a_fifth_of_the_calls_is_no_storm_and_few_calls_say_nothing() {
        assert!(seconds(&mut Scene::client(), 0, 200, 10, 2).is_empty());
        assert!(seconds(&mut Scene::client(), 0, 200, 1, 1).is_empty());
    }

    #[test]
    fn a_burst_of_retries_in_a_minute_of_calls_is_no_storm() {
        let mut scene = Scene::client();
        assert!(seconds(&mut scene, 0, 5, 10, 10).is_empty());
        assert!(seconds(&mut scene, 5, 200, 10, 0).is_empty());
    }

    #[test]
    fn after_a_late_join_or_a_hole_calls_may_hide_that_they_are_retries() {
        for sync in [Sync::Late, Sync::Desynced] {
            let mut scene = Scene::client();
            scene.status(sync, s(0));
            assert_eq!(seconds(&mut scene, 0, 65, 10, 1), ["undecided retry_storm"], "{sync:?}");
        }
    }

    #[test]
    fn calls_of_a_connection_that_ends_are_counted() {
        let mut scene = Scene::client();
        seconds(&mut scene, 0, 59, 10, 3);
        let method = Arc::from("/shop.Inventory/Reserve");
        let mut started = scene.started(1, "", s(59));
        started.method = Some(method);
        started.previous_attempts = Some(1);
        scene.observe(&Observation::CallStarted(started));
        scene.end(s(60));
        scene.tick(s(61));
        let mut found = scene.found();
        found.retain(|finding| finding.name() == Name::RetryStorm);
        let mut numbers = Vec::new();
        found[0].claim.claims().evidence(&mut |name, value| numbers.push((name, value)));
        // Of the first five seconds the oldest part of the window has gone.
        assert!(numbers.contains(&("retries", Value::Count(54 * 3 + 1))), "{numbers:?}");
    }
}
