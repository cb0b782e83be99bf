//! `cargo xtask scenarios`: the proof of the findings.
//!
//! A scenario starts real processes that do something wrong, or nothing, under the real agent. The processes write down
//! what they provoke; what the agent finds on them is matched with that, one to one. Two numbers tell how good it is: the
//! share of what was found that was provoked (precision), and the share of what was provoked that was found (recall).
//! Whatever the agent finds on other processes of the machine does not count.

mod matching;

mod agent;
mod stage;

mod catalogue;
mod deadlines;
mod delay;
mod flow_control;
mod foreign;
mod healthy;
mod links;
mod peers;
mod report;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use self::agent::Agent;
use self::catalogue::{Scenario, scenarios};
use self::links::{CHAIN, Links};
use self::matching::{Found, Matching};
use self::report::{Outcome, Report};
use self::stage::Stage;
use crate::programs::Programs;
use crate::repo;
use crate::setup::{self, Purpose};

/// How long the last findings may take to come through, if some are missing.
const TAIL: Duration = Duration::from_secs(5);
/// How long the last links may take.
const LAST_LINKS: Duration = Duration::from_secs(1);
/// Seconds of load in a short run.
const SHORT_SECONDS: f64 = 20.0;

/// Provoke every finding by processes that misbehave, and compare what was provoked with what was found.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Name of a scenario, or `all`; may be given several times.
    #[arg(long, default_value = "all")]
    scenario: Vec<String>,
    /// Only this implementation of gRPC.
    #[arg(long)]
    implementation: Option<String>,
    /// End with the result as a line of JSON on standard output.
    #[arg(long)]
    json: bool,
    /// Seconds of load of those scenarios that go on as long as they are let (`healthy`).
    #[arg(long, default_value_t = 300.0)]
    seconds: f64,
    /// Print the names of all scenarios, and end.
    #[arg(long)]
    list: bool,
    /// Use debug builds: sooner built, slower to run.
    #[arg(long)]
    debug: bool,
    /// Leave the set-up out: for a second run while nothing is missing.
    #[arg(long)]
    no_setup: bool,
}

/// Runs `cargo xtask scenarios`.
pub(crate) fn run(args: &Args) -> Result<()> {
    if !(args.seconds > 0.0 && args.seconds <= 86_400.0) {
        bail!("--seconds must be above 0 and at most 86400");
    }
    let chosen = choose(&args.scenario, args.implementation.as_deref())?;
    if args.list {
        for scenario in chosen {
            println!("{:<24} {:<10} {}", scenario.name, scenario.implementation, scenario.about);
        }
        return Ok(());
    }
    if !args.no_setup {
        let needs_applications = chosen.iter().any(|scenario| scenario.implementation != catalogue::TONIC);
        let tests = needs_applications.then_some(Purpose::Tests);
        setup::set_up(&[Purpose::Builds].into_iter().chain(tests).collect::<Vec<_>>())?;
    }
    eprintln!("scenarios: building (the first time takes a few minutes)");
    let programs = Programs::build(args.debug)?;
    if let Some(reason) = programs.why_not_live()? {
        bail!("scenarios run under the agent, which cannot watch this machine: {reason}");
    }
    let report = play(&programs, &chosen, args.seconds);
    report.print(args.json);
    report.verdict()
}

/// What [`run_for_tests`] came to.
pub(crate) enum Tested {
    /// So many scenarios were as they should be.
    Passed(usize),
    /// This machine cannot be watched, and why.
    Skipped(String),
}

/// Runs those scenarios that every change has to pass.
pub(crate) fn run_for_tests() -> Result<Tested> {
    let programs = Programs::build(true)?;
    if let Some(reason) = programs.why_not_live()? {
        if repo::is_ci() {
            bail!("{reason}");
        }
        return Ok(Tested::Skipped(format!("scenarios: {reason}")));
    }
    let chosen: Vec<&Scenario> = scenarios().filter(|scenario| scenario.in_tests).collect();
    let report = play(&programs, &chosen, SHORT_SECONDS);
    report.print(false);
    report.verdict().map(|()| Tested::Passed(chosen.len()))
}

fn choose(names: &[String], implementation: Option<&str>) -> Result<Vec<&'static Scenario>> {
    for name in names.iter().filter(|name| *name != "all") {
        if !scenarios().any(|scenario| scenario.name == name) {
            let mut all: Vec<&str> = scenarios().map(|scenario| scenario.name).collect();
            all.sort_unstable();
            all.dedup();
            bail!("no scenario is called {name:?}; there are {}", all.join(", "));
        }
    }
    let is_chosen = |scenario: &&Scenario| {
        names.iter().any(|name| name == "all" || name == scenario.name)
            && implementation.is_none_or(|implementation| implementation == scenario.implementation)
    };
    let chosen: Vec<&Scenario> = scenarios().filter(is_chosen).collect();
    if chosen.is_empty() {
        bail!("no such scenario has an implementation called {:?}", implementation.unwrap_or_default());
    }
    Ok(chosen)
}

/// Runs one after the other: each has the machine for itself, and an agent with its own thresholds.
fn play(programs: &Programs, chosen: &[&'static Scenario], seconds: f64) -> Report {
    let mut report = Report::default();
    for scenario in chosen {
        eprintln!("scenarios: {} ({})", scenario.name, scenario.implementation);
        let began = Instant::now();
        let outcome = play_one(programs, scenario, seconds);
        report.take(scenario, began.elapsed(), outcome);
    }
    report
}

fn play_one(programs: &Programs, scenario: &Scenario, seconds: f64) -> Result<Outcome> {
    let folder =
        repo::cache().join("runs/scenarios").join(format!("{}-{}", scenario.name, scenario.implementation));
    let stage = Stage::new(programs, folder, seconds)?;
    let is_chain = scenario.name == CHAIN;
    let asked: &[&str] = if is_chain { &["--links"] } else { &[] };
    let mut agent = Agent::start(&programs.grpcscope, scenario.thresholds, stage.folder(), asked)?;
    let began = Instant::now();
    (scenario.play)(&stage)?;
    let took = began.elapsed();
    agent.must_run().context("while the scenario ran")?;

    let truth = stage.truth()?;
    // What the agent says is complete when it has ended; what it has not read by then, it counts as lost. So wait for what
    // is known to come.
    let processes = stage.processes();
    let seen = |line: &serde_json::Value| {
        let process = line["pid"].as_u64().and_then(|pid| processes.get(&pid))?;
        (line["verdict"] == "firing").then(|| Found::of_observer(line, process))
    };
    let deadline = Instant::now() + TAIL;
    while Instant::now() < deadline {
        let found: Result<Vec<Found>> = agent.findings().filter_map(seen).collect();
        if Matching::of(truth.provoked.clone(), found?).missed.is_empty() {
            break;
        }
        agent.listen(Duration::from_millis(100))?;
    }
    if is_chain {
        // Nothing is provoked in it that could be waited for.
        agent.listen(LAST_LINKS)?;
    }
    let (lines, lost) = agent.stop()?;
    let found: Result<Vec<Found>> = lines.iter().filter_map(seen).collect();
    let undecided: Result<Vec<Found>> = lines
        .iter()
        .filter(|line| line["verdict"] == "undecided")
        .filter_map(|line| Some((line, processes.get(&line["pid"].as_u64()?)?)))
        .map(|(line, process)| Found::of_observer(line, process))
        .collect();
    Ok(Outcome {
        matching: Matching::of(truth.provoked, found?),
        undecided: undecided?,
        links: if is_chain { Links::of(&lines, &processes)? } else { Vec::new() },
        lost,
        calls: truth.calls,
        took,
    })
}
