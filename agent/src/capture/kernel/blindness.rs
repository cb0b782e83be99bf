//! Whether a backend proves blind: the kernel tells how many runs of its programs it skipped.

use agent_common::counter::Counter;

use super::statistics::Counters;

/// Time over which missed runs are compared with records, in nanoseconds.
pub const WINDOW_NS: u64 = 10_000_000_000;
/// Fewer missed runs within [`WINDOW_NS`] say nothing: each of them is a hole that is known.
pub const MISSED_MIN: u64 = 100;
/// More than one missed run for so many records is too much: nearly every call with HEADERS makes one record, so
/// about one call in a hundred would have a hole.
pub const RECORDS_PER_MISS: u64 = 100;

/// What was missed within one window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blind {
    /// Runs that the kernel skipped.
    pub missed: u64,
    /// Records that were made meanwhile.
    pub records: u64,
}

impl std::fmt::Display for Blind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Blind { missed, records } = self;
        write!(f, "{missed} runs were missed beside {records} records in {} s", WINDOW_NS / 1_000_000_000)
    }
}

/// Watches one backend.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// When the window began, with missed runs and records until then.
    window: Option<(u64, u64, u64)>,
}

impl Watch {
    /// Takes what was counted until `now_ns`.
    pub(super) fn judge(&mut self, now_ns: u64, counters: &Counters) -> Option<Blind> {
        let (missed, records) = (missed(counters), counters.produced());
        let (began, missed_before, records_before) = *self.window.get_or_insert((now_ns, missed, records));
        if now_ns.saturating_sub(began) < WINDOW_NS {
            return None;
        }
        self.window = Some((now_ns, missed, records));
        let blind = Blind {
            missed: missed.saturating_sub(missed_before),
            records: records.saturating_sub(records_before),
        };
        let too_many = blind.missed.saturating_mul(RECORDS_PER_MISS) > blind.records;
        (blind.missed >= MISSED_MIN && too_many).then_some(blind)
    }
}

/// Calls that programs were not run for, or only one of the two that each needs.
fn missed(counters: &Counters) -> u64 {
    let runs: u64 = counters.missed_runs.iter().map(|(_, runs)| runs).sum();
    runs + counters.kernel(Counter::MissedReturns) + counters.kernel(Counter::MissedEntries)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn counters(missed: u64, returns: u64, records: u64) -> Counters {
        Counters {
            kernel: vec![(Counter::Produced, records), (Counter::MissedReturns, returns)],
            missed_runs: vec![("a".into(), missed / 2), ("b".into(), missed - missed / 2)],
            ..Counters::default()
        }
    }

    /// Judged once a second, as by the loop that reads the ring; the seconds at which it said blind.
    fn blind_at(seconds: u64, of: impl Fn(u64) -> Counters) -> Vec<u64> {
        let mut watch = Watch::default();
        (0..=seconds).filter(|second| watch.judge(second * SECOND, &of(*second)).is_some()).collect()
    }

    #[test]
    fn misses_above_a_hundredth_of_the_records_prove_a_backend_blind_at_the_end_of_a_window() {
        assert_eq!(blind_at(25, |s| counters(20 * s, 0, 1000 * s)), [10, 20]);
        assert_eq!(blind_at(25, |s| counters(5 * s, 0, 1000 * s)), [] as [u64; 0]);
    }

    #[test]
    fn a_few_misses_on_a_quiet_node_prove_nothing() {
        assert_eq!(blind_at(25, |s| counters(9 * s, 0, 10 * s)), [] as [u64; 0]);
        assert_eq!(blind_at(15, |s| counters(10 * s, 0, 10 * s)), [10]);
    }

    #[test]
    fn a_return_that_was_not_seen_is_a_miss() {
        assert_eq!(blind_at(15, |s| counters(0, 20 * s, 1000 * s)), [10]);
    }

    #[test]
    fn what_was_missed_before_the_first_look_is_not_held_against_it() {
        assert_eq!(blind_at(25, |s| counters(1_000_000, 0, 1000 * s)), [] as [u64; 0]);
    }
}
