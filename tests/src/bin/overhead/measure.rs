//! The runs of a workload: without and with the agent by turns, in up to three ways.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tests::agent::{Kernel, Run, sum};
use tests::apps::PATIENCE;
use tests::process::Process;

use crate::applications::{Applications, Worked, Workload};
use crate::figures::median;
use crate::kernel_programs::{self, Programs};
use crate::process::{self, Memory};

/// Of the throughput without the agent: far enough from saturation that nothing waits in line.
const PACE: f64 = 0.5;
/// Ended calls are in the metrics after this, at the latest.
const SETTLED: Duration = Duration::from_millis(400);

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Runs with the agent; there is one more without.
    pub(crate) pairs: usize,
    /// Length of a run.
    pub(crate) seconds: f64,
}

/// A way to run a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Way {
    /// As fast as it goes; the agent has a processor that the applications do not use, so throughput shows what the
    /// kernel programs cost them.
    Apart,
    /// As fast as it goes, everything on every processor: the agent's own time is lost to the applications.
    Shared,
    /// At a rate that leaves time, everything on every processor: what users of a machine that is not full feel.
    Paced,
}

/// What came out.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) workload: Workload,
    /// Runs in their order; those at odd places are with the agent.
    pub(crate) runs: BTreeMap<Way, Vec<Worked>>,
    /// Of the agent, after the runs with it.
    pub(crate) memory: Vec<Memory>,
    /// Calls that clients made while there was an agent.
    pub(crate) made: u64,
    /// Calls of theirs that the agent has counted.
    pub(crate) seen: u64,
    /// Records that the agent lost.
    pub(crate) lost: u64,
    pub(crate) programs: Programs,
}

/// Runs a workload as the plan says.
pub(crate) fn workload(workload: Workload, plan: Plan, kernel: &Kernel, folder: &Path) -> Result<Measured> {
    let everywhere = process::processors()?;
    let (last, others) = everywhere.split_last().context("no processor")?;
    anyhow::ensure!(!others.is_empty(), "needs two processors, one for the agent alone");
    let mut applications = Applications::start(workload, folder)?;
    let ways: Vec<Way> = [Way::Apart, Way::Shared, Way::Paced]
        .into_iter()
        .filter(|way| if *way == Way::Paced { workload.has_rate() } else { workload.saturates() })
        .collect();
    let rate = match workload.own_rate() {
        Some(rate) => rate,
        // Also warms up what starts slowly.
        None => pace(&mut applications, plan)?,
    };
    let mut measured = Measured {
        workload,
        runs: BTreeMap::new(),
        memory: Vec::new(),
        made: 0,
        seen: 0,
        lost: 0,
        programs: Programs::default(),
    };
    for turn in 0..=2 * plan.pairs {
        // Also where it is not wanted, and gone again: its start is a second of work, after which the scheduler and the caches
        // are not what they were, and both sides shall begin from there.
        let agent = Run::start(kernel, folder)?;
        let agent = if turn % 2 == 1 {
            Some(agent)
        } else {
            agent.stop()?;
            None
        };
        for way in &ways {
            let apart = *way == Way::Apart;
            for pid in applications.pids() {
                process::pin(pid, if apart { others } else { &everywhere })?;
            }
            let alone = std::slice::from_ref(last);
            if let Some(agent) = &agent {
                process::pin(agent.pid(), if apart { alone } else { &everywhere })?;
            }
            // A process that wakes on the last processor keeps it from deep sleep, and changes where the scheduler puts
            // all else that runs: without it a busy machine gave the applications half as much again with the agent.
            let stand_in = (apart && agent.is_none()).then(|| stand_in(folder, alone)).transpose()?;
            let rate = if *way == Way::Paced { rate } else { 0.0 };
            let worked = applications.work(plan.seconds, rate, agent.as_ref().map(Run::pid))?;
            drop(stand_in);
            if agent.is_some() {
                measured.made += worked.said.all;
            }
            measured.runs.entry(*way).or_default().push(worked);
        }
        if let Some(agent) = agent {
            measured.memory.push(process::memory(agent.pid())?);
            measured.ask(&agent)?;
            agent.stop()?;
        }
    }
    let agent = Run::start(kernel, folder)?;
    for pid in applications.pids() {
        process::pin(pid, &everywhere)?;
    }
    let rate = workload.own_rate().unwrap_or_default();
    measured.programs = kernel_programs::measure(&mut applications, plan.seconds, rate, agent.pid())?;
    agent.stop()?;
    Ok(measured)
}

/// A process that wakes as often as an agent with nothing to do, where the agent would be.
fn stand_in(folder: &Path, processors: &[usize]) -> Result<Process> {
    let mut command = Command::new(std::env::current_exe().context("find this program")?);
    let process = Process::start("the stand-in", command.arg("stand-in"), &folder.join("stand-in.log"))?;
    process.wait_for("ready", PATIENCE)?;
    process::pin(process.pid(), processors)?;
    Ok(process)
}

/// A rate that leaves time: a part of what both can do on all processors.
fn pace(applications: &mut Applications, plan: Plan) -> Result<f64> {
    let mut throughputs = Vec::new();
    for _ in 0..3 {
        let said = applications.work(plan.seconds.min(1.0), 0.0, None)?.said;
        throughputs.push(said.calls as f64 / said.seconds);
    }
    Ok(PACE * median(&throughputs).context("nothing was measured")?)
}

impl Measured {
    /// What the agent has seen and lost: one that sees nothing costs nothing.
    fn ask(&mut self, agent: &Run) -> Result<()> {
        std::thread::sleep(SETTLED);
        let own = agent.series(&format!("overhead-{}-call", self.workload.name()))?;
        self.seen += sum(&own, "rpc_client_call_duration_seconds_count", &[]) as u64;
        let lost = agent.series("grpcscope_kernel_events_lost_total")?;
        self.lost += sum(&lost, "grpcscope_kernel_events_lost_total", &[]) as u64;
        if self.workload.has_calls() {
            anyhow::ensure!(self.seen > 0, "the agent saw none of {} calls", self.made);
        }
        Ok(())
    }
}
