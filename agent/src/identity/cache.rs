//! Identities that were read already, so that a process is read once and is still known when it has gone.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::process::{self, Identity};

/// A process that is gone keeps its identity this long: its last records may be read after its end. Longer,
/// and its pid could belong to another process that is gone as well.
const AFTER_END: Duration = Duration::from_secs(5);

/// Bounded; what was not asked for longest goes first.
#[derive(Debug)]
pub struct Identities {
    proc_root: PathBuf,
    capacity: usize,
    entries: Mutex<HashMap<u32, Entry, foldhash::fast::RandomState>>,
}

#[derive(Debug)]
struct Entry {
    identity: Arc<Identity>,
    /// When the process was seen to exist.
    alive: Instant,
}

impl Identities {
    /// Processes kept by default.
    pub const CAPACITY: usize = 16_384;

    /// Reads below `proc_root` (`/proc`, or where the host's is mounted).
    #[must_use]
    pub fn new(proc_root: impl Into<PathBuf>, capacity: usize) -> Self {
        Identities { proc_root: proc_root.into(), capacity: capacity.max(1), entries: Mutex::default() }
    }

    /// Who `pid` is. `comm` is the name that the kernel recorded, for a process that is already gone.
    ///
    /// Each call reads `/proc/PID/stat` (some microseconds), to see that it is still the same process running
    /// the same program; the rest is read only if it is not.
    pub fn identify(&self, pid: u32, comm: &str) -> Arc<Identity> {
        self.identify_at(pid, comm, Instant::now())
    }

    fn identify_at(&self, pid: u32, comm: &str, now: Instant) -> Arc<Identity> {
        // A process may end or call execve between two reads; twice in a row it does not.
        for _ in 0..2 {
            let Some(stat) = process::stat(&self.proc_root, pid) else { break };
            let known = self.with_entry(pid, |entry| {
                // execve keeps the pid and the start time, and changes the name.
                let same =
                    entry.identity.start_ticks == Some(stat.start_ticks) && entry.identity.comm == stat.comm;
                same.then(|| {
                    entry.alive = now;
                    Arc::clone(&entry.identity)
                })
            });
            if let Some(identity) = known {
                return identity;
            }
            if let Some((identity, is_final)) = process::identity(&self.proc_root, pid, &stat) {
                let identity = Arc::new(identity);
                if is_final {
                    self.insert(pid, &identity, now);
                }
                return identity;
            }
        }
        let recent = self.with_entry(pid, |entry| {
            (now.saturating_duration_since(entry.alive) <= AFTER_END).then(|| Arc::clone(&entry.identity))
        });
        recent.unwrap_or_else(|| Arc::new(Identity::of_comm(pid, comm)))
    }

    fn with_entry<T>(&self, pid: u32, ask: impl FnOnce(&mut Entry) -> Option<T>) -> Option<T> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.get_mut(&pid).and_then(ask)
    }

    fn insert(&self, pid: u32, identity: &Arc<Identity>, now: Instant) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= self.capacity && !entries.contains_key(&pid) {
            // A quarter at once, so that a full cache is not searched each time.
            let mut ages: Vec<Instant> = entries.values().map(|entry| entry.alive).collect();
            let quarter = self.capacity / 4;
            let (_, oldest_kept, _) = ages.select_nth_unstable(quarter.min(entries.len() - 1));
            let oldest_kept = *oldest_kept;
            entries.retain(|_, entry| entry.alive > oldest_kept);
        }
        entries.insert(pid, Entry { identity: Arc::clone(identity), alive: now });
    }

    /// Identities kept now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// None is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
