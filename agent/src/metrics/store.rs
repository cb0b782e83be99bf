//! Where the series of calls and connections live: bounded, and gone when nothing happens to them.
//!
//! A workload's series are in one shard, behind one lock, so that what belongs together changes together;
//! a scrape locks all shards at once and copies, so that it sees one moment. An observation for which there
//! is no room goes to the workload's `_OTHER` method, and past a reserve to the one workload `_OTHER`, whose
//! room is set aside: nothing is dropped, and each time is counted.

use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use agent_core::observation::Side;

use super::labels::{Method, Workload};
use super::series::{Cell, Key, Level, Scope, State, Update};

const SHARDS: usize = 8;
/// Series set aside for the workload `_OTHER`: on each side every outcome, deadline, status and error type,
/// its connections, and every finding. The test `the_last_resort_fits_into_what_is_set_aside` holds the number.
const SET_ASIDE: usize = 4_500;
/// Fewest series that make sense: twice what is set aside.
const SERIES_MIN: usize = 2 * SET_ASIDE;
/// A shard that is full looks for expired series at most this often.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Bounds of the series.
#[derive(Clone, Debug)]
pub struct SeriesLimits {
    /// Most series for calls and connections, as Prometheus counts them (default 30,000: about 5 MB of text).
    /// At least 9,000.
    pub series_max: usize,
    /// Most methods of one workload on one side; further ones are `_OTHER`.
    pub methods_per_workload_max: usize,
    /// Series expire when nothing has happened to them for this long.
    pub ttl: Duration,
}

impl Default for SeriesLimits {
    fn default() -> Self {
        SeriesLimits { series_max: 30_000, methods_per_workload_max: 250, ttl: Duration::from_secs(300) }
    }
}

/// Time for the series; a test can set it.
#[derive(Clone, Debug)]
pub enum Clock {
    /// The kernel's coarse monotonic clock: a tick (some milliseconds) is exact enough for what is kept for
    /// minutes, and reading it costs a fraction of the exact one.
    Coarse,
    /// Milliseconds that a test sets.
    Manual(Arc<AtomicU64>),
}

impl Clock {
    fn now(&self) -> Duration {
        match self {
            Clock::Coarse => coarse_now(),
            Clock::Manual(milliseconds) => Duration::from_millis(milliseconds.load(Ordering::Relaxed)),
        }
    }
}

fn coarse_now() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec of ours, which the call fills in. It cannot fail for this clock,
    // and if it did, the time would be zero and nothing would expire.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// All series of calls and connections.
#[derive(Debug)]
pub(super) struct Store {
    shards: Vec<Mutex<Shard>>,
    budget: Budget,
    clock: Clock,
    everyone: Arc<Workload>,
    hasher: foldhash::fast::RandomState,
}

/// Series that are in use, over all shards, without those set aside.
#[derive(Debug)]
struct Budget {
    used: AtomicUsize,
    limits: SeriesLimits,
    dropped_by_series: AtomicU64,
    dropped_by_methods: AtomicU64,
    expired: AtomicU64,
}

impl Budget {
    fn admits(&self, level: Level, series: usize) -> bool {
        let room = self.limits.series_max - SET_ASIDE;
        let limit = match level {
            Level::Plain => room - room / 10,
            Level::MethodOverflow => room,
            Level::WorkloadOverflow => return true,
        };
        let admitted = |used: usize| (used + series <= limit).then_some(used + series);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, admitted).is_ok()
    }

    fn release(&self, level: Level, series: usize) {
        if level != Level::WorkloadOverflow {
            self.used.fetch_sub(series, Ordering::Relaxed);
        }
    }
}

/// One moment of the store.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) states: BTreeMap<Key, State>,
    pub(super) series: u64,
    pub(super) series_max: u64,
    pub(super) dropped_by_series: u64,
    pub(super) dropped_by_methods: u64,
    pub(super) expired: u64,
}

impl Store {
    pub(super) fn new(limits: SeriesLimits, clock: Clock) -> Self {
        let limits = SeriesLimits { series_max: limits.series_max.max(SERIES_MIN), ..limits };
        Store {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            budget: Budget {
                used: AtomicUsize::new(0),
                limits,
                dropped_by_series: AtomicU64::new(0),
                dropped_by_methods: AtomicU64::new(0),
                expired: AtomicU64::new(0),
            },
            clock,
            everyone: Arc::new(Workload::other()),
            hasher: foldhash::fast::RandomState::default(),
        }
    }

    /// Number of the shard that has a workload's series.
    pub(super) fn shard_of(&self, workload: &Workload) -> usize {
        (self.hasher.hash_one(workload) as usize) % self.shards.len()
    }

    /// Locks a shard.
    pub(super) fn shard(&self, number: usize) -> Locked<'_> {
        Locked { shard: lock(&self.shards[number]), store: self, now: self.clock.now() }
    }

    /// Removes what has expired, and copies the rest.
    pub(super) fn snapshot(&self) -> Snapshot {
        let now = self.clock.now();
        let mut shards: Vec<_> = self.shards.iter().map(lock).collect();
        let mut states: BTreeMap<Key, State> = BTreeMap::new();
        for shard in &mut shards {
            shard.sweep(&self.budget, now);
            for entry in shard.entries.iter().filter_map(|slot| slot.entry.as_ref()) {
                match states.get_mut(&entry.key) {
                    Some(state) => state.merge(&entry.state),
                    None => {
                        states.insert(entry.key.clone(), entry.state.clone());
                    }
                }
            }
        }
        drop(shards);
        Snapshot {
            series: states.values().map(State::weight).sum::<usize>() as u64,
            states,
            series_max: self.budget.limits.series_max as u64,
            dropped_by_series: self.budget.dropped_by_series.load(Ordering::Relaxed),
            dropped_by_methods: self.budget.dropped_by_methods.load(Ordering::Relaxed),
            expired: self.budget.expired.load(Ordering::Relaxed),
        }
    }
}

/// A thread that panicked while it held the lock left counters that are still counters.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A place in a shard. It stays right as long as something of it is open; otherwise ask
/// [`Locked::still`] first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    slot: u32,
    generation: u32,
}

#[derive(Debug, Default)]
struct Shard {
    entries: Vec<Slot>,
    free: Vec<u32>,
    index: HashMap<Key, u32, foldhash::fast::RandomState>,
    /// Methods with a name, by workload and side.
    methods: HashMap<(Arc<Workload>, Side), usize, foldhash::fast::RandomState>,
    swept: Duration,
}

#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    entry: Option<Entry>,
}

#[derive(Debug)]
struct Entry {
    key: Key,
    level: Level,
    state: State,
    updated: Duration,
}

/// A shard while it is locked, at one moment.
pub(super) struct Locked<'a> {
    shard: MutexGuard<'a, Shard>,
    store: &'a Store,
    now: Duration,
}

impl Locked<'_> {
    /// Counts an observation under a key, or under the one that takes its overflow, and says where.
    pub(super) fn place(&mut self, mut key: Key, update: &Update) -> Place {
        let general;
        let mut update = update;
        loop {
            let level = key.level();
            if level == Level::WorkloadOverflow && matches!(key.scope, Scope::Findings(..)) {
                general = update.general();
                update = &general;
                let slot = self.shard.index.get(&key).copied();
                let slot = slot.unwrap_or_else(|| self.shard.insert(key, level, self.now));
                return self.apply(slot, update);
            }
            let known = self.shard.index.get(&key).copied();
            if known.is_none() && self.shard.has_all_methods(&key, &self.store.budget.limits) {
                self.store.budget.dropped_by_methods.fetch_add(1, Ordering::Relaxed);
            } else {
                let now = self.now;
                let missing = match known.and_then(|slot| self.shard.entry(slot)) {
                    Some(entry) => {
                        // Looking for room must not remove this one.
                        entry.updated = now;
                        entry.state.missing(update)
                    }
                    None => State::default().missing(update),
                };
                if missing == 0 || self.admits(level, missing) {
                    let slot = known.unwrap_or_else(|| self.shard.insert(key, level, now));
                    return self.apply(slot, update);
                }
                self.store.budget.dropped_by_series.fetch_add(1, Ordering::Relaxed);
            }
            key = key.overflow(&self.store.everyone);
        }
    }

    /// The same for a key that was found before.
    pub(super) fn place_at(&mut self, place: Place, update: &Update) -> Place {
        let now = self.now;
        let Some(slot) = self.shard.entries.get_mut(place.slot as usize) else { return place };
        let Some(entry) = &mut slot.entry else { return place };
        if entry.state.count(update) {
            entry.updated = now;
            return Place { generation: slot.generation, ..place };
        }
        let key = entry.key.clone();
        self.place(key, update)
    }

    /// The place is that of the workload `_OTHER`, which counts without causes.
    pub(super) fn is_general(&self, place: Place) -> bool {
        let entry = self.shard.entries.get(place.slot as usize).and_then(|slot| slot.entry.as_ref());
        entry.is_some_and(|entry| entry.level == Level::WorkloadOverflow)
    }

    /// The place is still what it was.
    pub(super) fn still(&self, place: Place) -> bool {
        self.shard.entries.get(place.slot as usize).is_some_and(|slot| slot.generation == place.generation)
    }

    /// The place is that of this key, not of its overflow.
    pub(super) fn is_at(&self, place: Place, key: &Key) -> bool {
        self.shard.index.get(key) == Some(&place.slot)
    }

    /// Takes one from a gauge.
    pub(super) fn decrement(&mut self, place: Place, cell: Cell) {
        let now = self.now;
        if let Some(entry) = self.shard.entry(place.slot) {
            entry.state.decrement(cell);
            entry.updated = now;
        }
    }

    fn apply(&mut self, slot: u32, update: &Update) -> Place {
        let now = self.now;
        if let Some(entry) = self.shard.entry(slot) {
            entry.state.apply(update, SystemTime::now);
            entry.updated = now;
        }
        Place { slot, generation: self.shard.entries[slot as usize].generation }
    }

    fn admits(&mut self, level: Level, series: usize) -> bool {
        let budget = &self.store.budget;
        if budget.admits(level, series) {
            return true;
        }
        if self.now < self.shard.swept + SWEEP_INTERVAL {
            return false;
        }
        self.shard.sweep(budget, self.now);
        budget.admits(level, series)
    }
}

impl Shard {
    fn entry(&mut self, slot: u32) -> Option<&mut Entry> {
        self.entries.get_mut(slot as usize)?.entry.as_mut()
    }

    fn has_all_methods(&self, key: &Key, limits: &SeriesLimits) -> bool {
        match &key.scope {
            Scope::Calls(side, Method::Named(_)) => {
                let methods = self.methods.get(&(Arc::clone(&key.workload), *side));
                methods.is_some_and(|count| *count >= limits.methods_per_workload_max)
            }
            // A method has a name here if it has one, or could have one, where its calls are counted.
            Scope::Findings(Some(side), Some(method @ Method::Named(_))) => {
                let scope = Scope::Calls(*side, method.clone());
                let calls = Key { workload: Arc::clone(&key.workload), scope };
                self.has_all_methods(&calls, limits) && !self.index.contains_key(&calls)
            }
            // Without a side there are no calls to go by.
            Scope::Findings(None, Some(Method::Named(_))) => true,
            Scope::Calls(_, Method::Other | Method::Unresolved | Method::Invalid)
            | Scope::Connections
            | Scope::Findings(_, Some(Method::Other | Method::Unresolved | Method::Invalid) | None) => false,
        }
    }

    fn insert(&mut self, key: Key, level: Level, now: Duration) -> u32 {
        if let Scope::Calls(side, Method::Named(_)) = &key.scope {
            *self.methods.entry((Arc::clone(&key.workload), *side)).or_default() += 1;
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.entries.push(Slot::default());
            (self.entries.len() - 1) as u32
        });
        self.index.insert(key.clone(), slot);
        self.entries[slot as usize].entry = Some(Entry { key, level, state: State::default(), updated: now });
        slot
    }

    fn sweep(&mut self, budget: &Budget, now: Duration) {
        self.swept = now;
        for number in 0..self.entries.len() {
            let slot = &mut self.entries[number];
            let expired = |entry: &mut Entry| {
                !entry.state.is_open() && now.saturating_sub(entry.updated) >= budget.limits.ttl
            };
            let Some(entry) = slot.entry.take_if(expired) else { continue };
            slot.generation = slot.generation.wrapping_add(1);
            self.free.push(number as u32);
            self.index.remove(&entry.key);
            if let Scope::Calls(side, Method::Named(_)) = &entry.key.scope {
                let workload = (Arc::clone(&entry.key.workload), *side);
                if let Some(count) = self.methods.get_mut(&workload) {
                    *count -= 1;
                    if *count == 0 {
                        self.methods.remove(&workload);
                    }
                }
            }
            let series = entry.state.weight();
            budget.release(entry.level, series);
            budget.expired.fetch_add(series as u64, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
