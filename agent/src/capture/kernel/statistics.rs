//! What the kernel side and the reader counted.

use agent_common::counter::{COUNTER_SLOTS, Counter};
use anyhow::{Context as _, Result};
use aya::maps::PerCpuArray;

use super::load::Loaded;

/// All counters at one moment, monotonic since the programs were loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// The kernel's, in the order of [`Counter::ALL`].
    pub kernel: Vec<(Counter, u64)>,
    /// Records read from the ring.
    pub received: u64,
    /// Of those, records that made no sense; always zero unless there is a bug.
    pub malformed: u64,
    /// Records that were missing between others, by their numbers.
    pub missing: u64,
    /// Runs that the kernel skipped since the same program was running on that CPU, by program.
    pub missed_runs: Vec<(String, u64)>,
}

impl Counters {
    /// One of the kernel's counters.
    #[must_use]
    pub fn kernel(&self, counter: Counter) -> u64 {
        self.kernel.iter().find(|(of, _)| *of == counter).map_or(0, |(_, value)| *value)
    }

    /// Adds what other programs counted.
    pub(super) fn add(&mut self, other: &Counters) {
        fn add<K: PartialEq + Clone>(to: &mut Vec<(K, u64)>, from: &[(K, u64)]) {
            for (key, count) in from {
                match to.iter_mut().find(|(of, _)| of == key) {
                    Some((_, sum)) => *sum += count,
                    None => to.push((key.clone(), *count)),
                }
            }
        }
        add(&mut self.kernel, &other.kernel);
        add(&mut self.missed_runs, &other.missed_runs);
        self.received += other.received;
        self.malformed += other.malformed;
        self.missing += other.missing;
    }

    /// Records made by the kernel: `produced = received + lost`, once the ring is read.
    #[must_use]
    pub fn produced(&self) -> u64 {
        self.kernel(Counter::Produced)
    }

    /// Records that did not fit into the ring.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.kernel(Counter::LostRingFull)
    }
}

/// The kernel's counters of the loaded programs, in the order of [`Counter::ALL`].
pub(super) fn kernel(loaded: &Loaded) -> Result<Vec<(Counter, u64)>> {
    let map = loaded.ebpf.map("COUNTERS").context("the kernel object has no counters")?;
    let map: PerCpuArray<_, [u64; COUNTER_SLOTS]> = PerCpuArray::try_from(map)?;
    let cpus = map.get(&0, 0).context("read the kernel's counters")?;
    Ok(Counter::ALL
        .iter()
        .map(|counter| (*counter, cpus.iter().map(|slots| slots[*counter as usize]).sum()))
        .collect())
}

/// Missed runs of the loaded programs.
pub(super) fn missed_runs(loaded: &Loaded) -> Vec<(String, u64)> {
    loaded.programs.iter().map(|program| (program.name.clone(), recursion_misses(program.fd))).collect()
}

/// `recursion_misses` of a program, which the kernel shows for each of its file descriptors (5.12).
fn recursion_misses(fd: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("recursion_misses:"))
        .and_then(|value| value.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_go_on_from_those_of_programs_that_are_gone() {
        let of = |produced, missed: &[(&str, u64)]| Counters {
            kernel: vec![(Counter::Produced, produced)],
            missed_runs: missed.iter().map(|(name, runs)| ((*name).to_owned(), *runs)).collect(),
            ..Counters::default()
        };
        let mut now = of(5, &[("t_send_loop", 1)]);
        now.add(&of(7, &[("t_send_loop", 2), ("f_inet_send_loop", 3)]));
        assert_eq!(now, of(12, &[("t_send_loop", 3), ("f_inet_send_loop", 3)]));
        now.add(&Counters::default());
        assert_eq!(now.produced(), 12);
    }
}
