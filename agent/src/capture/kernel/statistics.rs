//! What the kernel side and the reader counted.

use agent_common::counter::{COUNTER_SLOTS, Counter};
use anyhow::{Context as _, Result};
use aya::maps::PerCpuArray;

use super::load::Loaded;
use super::records::Reader;

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

pub(super) fn read(loaded: &Loaded, reader: &Reader) -> Result<Counters> {
    let map = loaded.ebpf.map("COUNTERS").context("the kernel object has no counters")?;
    let map: PerCpuArray<_, [u64; COUNTER_SLOTS]> = PerCpuArray::try_from(map)?;
    let cpus = map.get(&0, 0).context("read the kernel's counters")?;
    let kernel = Counter::ALL
        .iter()
        .map(|counter| (*counter, cpus.iter().map(|slots| slots[*counter as usize]).sum()))
        .collect();
    let missed_runs =
        loaded.programs.iter().map(|program| (program.name.clone(), missed_runs(program.fd))).collect();
    Ok(Counters {
        kernel,
        received: reader.received(),
        malformed: reader.malformed(),
        missing: reader.missing(),
        missed_runs,
    })
}

/// `recursion_misses` of a program, which the kernel shows for each of its file descriptors (5.12).
fn missed_runs(fd: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("recursion_misses:"))
        .and_then(|value| value.trim().parse().ok())
        .unwrap_or(0)
}
