//! What the agent says about itself: what it lost, how far it is behind, what it costs.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use agent_core::Resumed;

use super::open_calls::{Group, OpenCalls, Standing};
use crate::budget::BudgetState;
use crate::own_process;

/// Most kinds of anomalies; they are constants of the code, so this only guards against a mistake.
const ANOMALY_KINDS_MAX: usize = 256;

/// What the kernel side has counted since it was loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelCounters {
    /// Records that it wanted to hand over.
    pub produced: u64,
    /// Records that were read.
    pub received: u64,
    /// Records that were lost, by reason.
    pub lost: Vec<(&'static str, u64)>,
    /// What it was asked to leave out for the budgets, and did.
    pub left_out: LeftOutByKernel,
    /// Whatever else it counts, by kind.
    pub notes: Vec<(&'static str, u64)>,
    /// Runs that the kernel skipped, by program.
    pub missed_runs: Vec<(String, u64)>,
}

/// What the kernel side left out for the budgets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeftOutByKernel {
    /// New connections that it did not follow.
    pub connections: u64,
    /// Bytes of calls that made no record, since they moved nothing but DATA and WINDOW_UPDATE.
    pub data_bytes: u64,
    /// Frames that began in these.
    pub data_frames: u64,
}

/// The way in which socket calls are captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Its name (`tp_btf`, `fexit`, `kprobe`).
    pub name: String,
    /// Why it was chosen, in a few words.
    pub reason: String,
}

/// The queue between the reader of the ring and one of several shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShardQueue {
    /// Batches that wait.
    pub waiting: usize,
    /// Batches that were handed over until now.
    pub batches: u64,
    /// How long the reader has waited for room until now.
    pub waited: Duration,
}

/// State of the agent itself.
#[derive(Debug, Default)]
pub(super) struct Health {
    anomalies: Mutex<BTreeMap<&'static str, u64>>,
    kernel: Mutex<KernelCounters>,
    backend: Mutex<Option<Backend>>,
    backend_changes: Mutex<BTreeMap<(&'static str, &'static str), u64>>,
    reader_lag: Mutex<BTreeMap<u32, Duration>>,
    shard_queues: Mutex<BTreeMap<u32, ShardQueue>>,
    state_bytes: AtomicU64,
    state_limit_bytes: AtomicU64,
    findings_forgotten: AtomicU64,
    unjudged: AtomicU64,
    budget: Mutex<(BudgetState, u64)>,
    resumed: Mutex<Resumed>,
    /// By shard.
    open_calls: Mutex<BTreeMap<u32, OpenCalls>>,
    scrape_ns: AtomicU64,
    scrapes: Mutex<BTreeMap<&'static str, u64>>,
}

/// One moment of it.
#[derive(Debug)]
pub(super) struct HealthSnapshot {
    pub(super) anomalies: BTreeMap<&'static str, u64>,
    pub(super) kernel: KernelCounters,
    pub(super) backend: Option<Backend>,
    /// How often, by the backend before and the one after.
    pub(super) backend_changes: BTreeMap<(&'static str, &'static str), u64>,
    pub(super) reader_lag: BTreeMap<u32, Duration>,
    pub(super) shard_queues: BTreeMap<u32, ShardQueue>,
    pub(super) state_bytes: u64,
    pub(super) state_limit_bytes: u64,
    pub(super) findings_forgotten: u64,
    pub(super) unjudged: u64,
    /// And how many connections were not followed.
    pub(super) budget: (BudgetState, u64),
    pub(super) resumed: Resumed,
    pub(super) open_calls: BTreeMap<Group, Standing>,
    pub(super) scrape_duration: Duration,
    pub(super) scrapes: BTreeMap<&'static str, u64>,
    pub(super) process: own_process::Usage,
}

impl Health {
    pub(super) fn anomaly(&self, kind: &'static str) {
        let mut anomalies = lock(&self.anomalies);
        let kind = if anomalies.len() < ANOMALY_KINDS_MAX || anomalies.contains_key(kind) {
            kind
        } else {
            super::labels::OTHER
        };
        *anomalies.entry(kind).or_default() += 1;
    }

    pub(super) fn set_kernel(&self, counters: KernelCounters) {
        *lock(&self.kernel) = counters;
    }

    pub(super) fn set_backend(&self, backend: Backend) {
        *lock(&self.backend) = Some(backend);
    }

    pub(super) fn backend_changed(&self, from: &'static str, to: &'static str) {
        *lock(&self.backend_changes).entry((from, to)).or_default() += 1;
    }

    pub(super) fn set_reader_lag(&self, reader: u32, lag: Duration) {
        lock(&self.reader_lag).insert(reader, lag);
    }

    pub(super) fn set_shard_queue(&self, shard: u32, queue: ShardQueue) {
        lock(&self.shard_queues).insert(shard, queue);
    }

    pub(super) fn set_state_bytes(&self, bytes: usize, limit: usize) {
        self.state_bytes.store(bytes as u64, Ordering::Relaxed);
        self.state_limit_bytes.store(limit as u64, Ordering::Relaxed);
    }

    pub(super) fn set_open_calls(&self, shard: u32, open_calls: OpenCalls) {
        lock(&self.open_calls).insert(shard, open_calls);
    }

    pub(super) fn set_unjudged(&self, count: u64) {
        self.unjudged.store(count, Ordering::Relaxed);
    }

    pub(super) fn set_budget(&self, state: BudgetState, left_out: u64) {
        *lock(&self.budget) = (state, left_out);
    }

    pub(super) fn set_resumed(&self, resumed: Resumed) {
        *lock(&self.resumed) = resumed;
    }

    pub(super) fn forget_findings(&self, count: u64) {
        self.findings_forgotten.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn scraped(&self, format: &'static str, duration: Duration) {
        self.scrape_ns.store(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        *lock(&self.scrapes).entry(format).or_default() += 1;
    }

    pub(super) fn snapshot(&self) -> HealthSnapshot {
        HealthSnapshot {
            anomalies: lock(&self.anomalies).clone(),
            kernel: lock(&self.kernel).clone(),
            backend: lock(&self.backend).clone(),
            backend_changes: lock(&self.backend_changes).clone(),
            reader_lag: lock(&self.reader_lag).clone(),
            shard_queues: lock(&self.shard_queues).clone(),
            state_bytes: self.state_bytes.load(Ordering::Relaxed),
            state_limit_bytes: self.state_limit_bytes.load(Ordering::Relaxed),
            open_calls: OpenCalls::of_all(lock(&self.open_calls).values()),
            unjudged: self.unjudged.load(Ordering::Relaxed),
            budget: *lock(&self.budget),
            resumed: *lock(&self.resumed),
            findings_forgotten: self.findings_forgotten.load(Ordering::Relaxed),
            scrape_duration: Duration::from_nanos(self.scrape_ns.load(Ordering::Relaxed)),
            scrapes: lock(&self.scrapes).clone(),
            process: own_process::usage(),
        }
    }
}

/// A thread that panicked while it held the lock left numbers that are still numbers.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
