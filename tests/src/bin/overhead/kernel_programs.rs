//! Nanoseconds in a run of each kernel program under a load, by the kernel's own statistics.
//!
//! In runs of their own, since the statistics cost every run two readings of the clock. What these add to a figure shows
//! in that of a program that does nothing, which is attached beside.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use ::tests::peer::Peer;
use anyhow::{Context as _, Result};
use aya::programs::loaded_programs;
use aya::sys::{Stats, enable_stats};

use crate::applications::Applications;

/// What the kernel programs took.
#[derive(Clone, Debug, Default)]
pub(crate) struct Programs {
    /// By name, which the kernel cuts after 15 octets.
    pub(crate) programs: BTreeMap<String, Runs>,
    /// The program that does nothing.
    pub(crate) empty: Runs,
    pub(crate) calls: u64,
}

/// Runs, and the nanoseconds in them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Runs {
    pub(crate) nanoseconds: u64,
    pub(crate) count: u64,
}

impl Runs {
    /// Nanoseconds a run.
    pub(crate) fn each(self) -> Option<f64> {
        (self.count > 0).then(|| self.nanoseconds as f64 / self.count as f64)
    }
}

/// Lets the applications work and looks at the programs that the agent holds.
pub(crate) fn measure(
    applications: &mut Applications,
    seconds: f64,
    rate: f64,
    agent: u32,
) -> Result<Programs> {
    let ids = ids_of(agent)?;
    let peer = Peer::nothing().context("attach a program that does nothing")?;
    let empty = fdinfo_id(&format!("/proc/self/fdinfo/{}", peer.program().fd))
        .context("find the program that does nothing")?;
    // Off when this is closed.
    let statistics = enable_stats(Stats::RunTime).context("switch the kernel's statistics on")?;
    let before = runs(&ids, empty)?;
    let worked = applications.work(seconds, rate, None)?;
    let after = runs(&ids, empty)?;
    drop(statistics);
    let mut measured = Programs { calls: worked.said.all, ..Programs::default() };
    for (id, (name, now)) in after {
        let then = before.get(&id).map(|(_, runs)| *runs).unwrap_or_default();
        let runs = Runs { nanoseconds: now.nanoseconds - then.nanoseconds, count: now.count - then.count };
        if id == empty {
            measured.empty = runs;
        } else if runs.count > 0 {
            let sum = measured.programs.entry(name).or_default();
            sum.nanoseconds += runs.nanoseconds;
            sum.count += runs.count;
        }
    }
    Ok(measured)
}

/// Programs that a process holds.
fn ids_of(pid: u32) -> Result<BTreeSet<u32>> {
    let folder = format!("/proc/{pid}/fdinfo");
    let files = fs::read_dir(&folder).with_context(|| format!("read {folder}"))?;
    let ids: BTreeSet<u32> =
        files.flatten().filter_map(|file| fdinfo_id(&file.path().to_string_lossy())).collect();
    anyhow::ensure!(!ids.is_empty(), "the agent holds no kernel program");
    Ok(ids)
}

fn fdinfo_id(path: &str) -> Option<u32> {
    id_in(&fs::read_to_string(path).ok()?)
}

/// A descriptor of a link has an id of its program, too, but does not say its type.
fn id_in(fdinfo: &str) -> Option<u32> {
    let field = |name: &str| fdinfo.lines().find_map(|line| line.strip_prefix(name));
    field("prog_type:")?;
    field("prog_id:")?.trim().parse().ok()
}

fn runs(ids: &BTreeSet<u32>, empty: u32) -> Result<BTreeMap<u32, (String, Runs)>> {
    let mut all = BTreeMap::new();
    for program in loaded_programs() {
        // Another's may be gone meanwhile.
        let Ok(program) = program else { continue };
        if ids.contains(&program.id()) || program.id() == empty {
            let name = program.name_as_str().unwrap_or("?").to_owned();
            let runs = Runs { nanoseconds: program.run_time().as_nanos() as u64, count: program.run_count() };
            all.insert(program.id(), (name, runs));
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_of_a_link_is_no_program() {
        assert_eq!(id_in("link_type:\ttracing\nlink_id:\t4\nprog_id:\t7\n"), None);
        assert_eq!(id_in("pos:\t0\nprog_type:\t26\nmemlock:\t4096\nprog_id:\t7\nrun_cnt:\t3\n"), Some(7));
    }

    #[test]
    fn a_program_that_did_not_run_has_no_time() {
        assert_eq!(Runs::default().each(), None);
        assert_eq!(Runs { nanoseconds: 600, count: 3 }.each(), Some(200.0));
    }
}
