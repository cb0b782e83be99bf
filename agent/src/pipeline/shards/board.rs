//! Where shards show one another what their detectors see of other processes, at the same moment of the capture's time.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use agent_core::Timestamp;
use agent_core::detectors::Facts;

/// One for all shards.
#[derive(Debug)]
pub(super) struct Board {
    shards: Mutex<Vec<Shown>>,
    changed: Condvar,
}

/// What one shard shows.
#[derive(Debug, Default)]
struct Shown {
    /// Of the last two moments: nobody is further ahead, since everybody waits for all others at each.
    facts: [Option<(Timestamp, Arc<Facts>)>; 2],
    /// It has passed this moment, whether it had something to show or not.
    passed: Timestamp,
    is_gone: bool,
}

impl Shown {
    fn at(&self, now: Timestamp) -> Option<&Arc<Facts>> {
        self.facts.iter().flatten().find(|(at, _)| *at == now).map(|(_, facts)| facts)
    }

    fn is_awaited(&self, now: Timestamp) -> bool {
        !self.is_gone && self.passed < now && self.at(now).is_none()
    }
}

impl Board {
    pub(super) fn new(shards: usize) -> Board {
        Board { shards: Mutex::new((0..shards).map(|_| Shown::default()).collect()), changed: Condvar::new() }
    }

    /// Shows what `shard` sees at `now`, and waits until all have shown theirs or have passed. Each of them gets there: whoever
    /// is told of a time is told after all others were told of the times before it.
    pub(super) fn exchange(&self, shard: usize, now: Timestamp, facts: Facts) -> Vec<Arc<Facts>> {
        let mut shards = self.lock();
        if let Some(own) = shards.get_mut(shard) {
            own.facts.swap(0, 1);
            own.facts[0] = Some((now, Arc::new(facts)));
        }
        self.changed.notify_all();
        let are_awaited = |shards: &mut Vec<Shown>| shards.iter().any(|shown| shown.is_awaited(now));
        let shards = self.changed.wait_while(shards, are_awaited).unwrap_or_else(PoisonError::into_inner);
        shards.iter().filter_map(|shown| shown.at(now)).cloned().collect()
    }

    /// The shard has done all that was due until `now`.
    pub(super) fn pass(&self, shard: usize, now: Timestamp) {
        if let Some(own) = self.lock().get_mut(shard) {
            own.passed = own.passed.max(now);
        }
        self.changed.notify_all();
    }

    /// Nobody may wait for the shard any more.
    pub(super) fn leave(&self, shard: usize) {
        if let Some(own) = self.lock().get_mut(shard) {
            own.is_gone = true;
        }
        self.changed.notify_all();
    }

    /// A thread that panicked while it held the lock left a board that is still one.
    fn lock(&self) -> MutexGuard<'_, Vec<Shown>> {
        self.shards.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_sees_what_all_show_at_a_moment_and_nobody_waits_for_those_who_passed_or_left() {
        let board = Board::new(4);
        board.leave(3);
        std::thread::scope(|scope| {
            for shard in 0..3 {
                let board = &board;
                scope.spawn(move || {
                    for now in (1..200).map(Timestamp) {
                        // Each time another one has nothing to show.
                        if now.0 % 3 != shard as u64 {
                            let all = board.exchange(shard, now, Facts::default());
                            // The one that passes may have passed before or after; those who show are two.
                            assert_eq!(all.len(), 2, "at {now:?}");
                        }
                        board.pass(shard, now);
                    }
                });
            }
        });
    }
}
