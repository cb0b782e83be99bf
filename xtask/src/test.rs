//! `cargo xtask test`: the one command that sets up, checks and tests everything.
//!
//! Every step runs, also after one that failed, so that one run tells all; then comes a table of the steps and,
//! last, the count of tests. In CI (`CI=true`) what a test needs and cannot get is an error (the tests are told by
//! `GRPCSCOPE_REQUIRE=1`); elsewhere it is a test that says `SKIPPED name: reason` on standard error.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::bench::instructions::{self, Counted};
use crate::fuzz;
use crate::kernels::{self, Outcome};
use crate::repo;
use crate::scenarios::{self, Tested};
use crate::setup::{self, Purpose};
use crate::shell::{Cmd, cmd};

/// Which tests.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Also check the walker on two Debian kernels in qemu, as CI does.
    #[arg(long)]
    kernels: bool,
    /// Leave the set-up out: for a second run while nothing is missing.
    #[arg(long)]
    no_setup: bool,
}

/// A hung test must not eat all the time that CI has.
const TESTS_TIMEOUT_IN_CI: Duration = Duration::from_secs(25 * 60);

/// Runs `cargo xtask test`.
pub(crate) fn run(args: &Args) -> Result<()> {
    let with_kernels = args.kernels || repo::is_ci();
    let mut steps = Steps::default();
    let mut counts = Counts::default();

    if !args.no_setup {
        let purposes: &[Purpose] =
            if with_kernels { &[Purpose::All] } else { &[Purpose::Builds, Purpose::Tests] };
        let is_set_up = steps.step("set-up", || setup::set_up(purposes));
        if !is_set_up && repo::is_ci() {
            return steps.finish(&counts);
        }
    }
    steps.step("format", || cargo(&["fmt", "--all", "--check"]).run());
    steps.step("clippy", || cargo(&["clippy", "--quiet", "--all-targets", "--", "-D", "warnings"]).run());
    steps.step("clippy, kernel side", clippy_of_the_kernel_side);
    steps.step("tests", || run_tests(&mut counts));
    steps.step("instructions", || count_instructions(&mut counts));
    steps.step("scenarios", || play_scenarios(&mut counts));
    steps.step("fuzz", fuzz::run_for_ci);
    if with_kernels {
        steps.step("kernels", || run_kernels(&mut counts));
    }
    steps.finish(&counts)
}

fn cargo(args: &[&str]) -> Cmd {
    cmd("cargo").args(args).dir(repo::root())
}

/// The kernel programs are built for another target, with the flags of agent/build.rs.
fn clippy_of_the_kernel_side() -> Result<()> {
    cmd("cargo")
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", "--cfg=bpf_target_arch=\"x86_64\"\u{1f}-Ctarget-cpu=v2")
        // A directory of its own: the environment above would make cargo rebuild what others left there.
        .env("CARGO_TARGET_DIR", repo::root().join("target/clippy-bpf"))
        .args(["clippy", "--quiet", "--release", "--package", "agent-ebpf", "--bins"])
        .args(["-Z", "build-std=core", "--target", "bpfel-unknown-none", "--", "-D", "warnings"])
        .dir(repo::root())
        .run()
}

/// Unit, integration, live and documentation tests.
///
/// `cargo test` and not nextest: one program of tests at a time, which live tests on two cores need, and the same
/// on every machine.
fn run_tests(counts: &mut Counts) -> Result<()> {
    let mut command = cargo(&["test", "--no-fail-fast"]).env("GRPCSCOPE_CACHE", repo::cache());
    if repo::is_ci() {
        command = command.env("GRPCSCOPE_REQUIRE", "1");
    }
    let limit = repo::is_ci().then_some(TESTS_TIMEOUT_IN_CI);
    let result = command.stream(limit, |line| {
        eprintln!("{line}");
        counts.read(line);
    });
    if result.is_ok() && counts.passed() == 0 {
        bail!("no test ran");
    }
    result
}

/// The core may not take more instructions than it did.
fn count_instructions(counts: &mut Counts) -> Result<()> {
    match instructions::check() {
        Ok(Counted::Compared) => counts.passed_or_skipped += 1,
        Ok(Counted::Skipped(reason)) => counts.not_run.push(reason),
        Err(error) => {
            counts.failed.push("instruction counts".to_owned());
            return Err(error);
        }
    }
    Ok(())
}

/// Real processes that do something wrong, and what is found of them.
fn play_scenarios(counts: &mut Counts) -> Result<()> {
    match scenarios::run_for_tests() {
        Ok(Tested::Passed(passed)) => counts.passed_or_skipped += passed,
        Ok(Tested::Skipped(reason)) => counts.not_run.push(reason),
        Err(error) => {
            counts.failed.push("scenarios".to_owned());
            return Err(error);
        }
    }
    Ok(())
}

fn run_kernels(counts: &mut Counts) -> Result<()> {
    let runs = kernels::run_for_ci()?;
    for run in &runs {
        match run.outcome {
            Outcome::Ok => counts.passed_or_skipped += 1,
            Outcome::Refused => counts.not_run.push(format!("a backend that {} lacks", run.kernel)),
            // Neither kernel interrupts programs by default, so none may be blind.
            Outcome::Failed | Outcome::Blind => counts.failed.push(format!("kernel {}", run.kernel)),
        }
    }
    if runs.iter().any(|run| matches!(run.outcome, Outcome::Failed | Outcome::Blind)) {
        bail!("see the table of kernels above");
    }
    Ok(())
}

/// How the tests ended, read from what they print.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    /// Passed as the runner sees it, where a test that says that it skipped passed too.
    passed_or_skipped: usize,
    failed: Vec<String>,
    /// What said that it skipped.
    said_skipped: Vec<String>,
    /// What did not run at all: `#[ignore]`d, or not to be had on a kernel.
    not_run: Vec<String>,
}

impl Counts {
    fn passed(&self) -> usize {
        self.passed_or_skipped.saturating_sub(self.said_skipped.len())
    }

    fn skipped(&self) -> impl Iterator<Item = &String> {
        self.said_skipped.iter().chain(&self.not_run)
    }

    /// Takes in a line that `cargo test` or a test printed.
    fn read(&mut self, line: &str) {
        if let Some(skipped) = line.trim_start().strip_prefix("SKIPPED ") {
            self.said_skipped.push(skipped.to_owned());
        } else if let Some(counts) = line.strip_prefix("test result: ") {
            self.passed_or_skipped += number_before(counts, "passed");
            let ignored = number_before(counts, "ignored");
            self.not_run.extend(std::iter::repeat_n("marked as ignored".to_owned(), ignored));
        } else if let Some(name) =
            line.strip_prefix("test ").and_then(|line| line.strip_suffix(" ... FAILED"))
        {
            self.failed.push(name.to_owned());
        }
    }
}

/// The number before a word, as in `ok. 12 passed; 0 failed`.
fn number_before(text: &str, word: &str) -> usize {
    let mut previous = "";
    for token in text.split([' ', ';']).filter(|token| !token.is_empty()) {
        if token == word {
            return previous.parse().unwrap_or(0);
        }
        previous = token;
    }
    0
}

/// The steps so far.
#[derive(Default)]
struct Steps(Vec<Step>);

struct Step {
    name: &'static str,
    took: Duration,
    error: Option<anyhow::Error>,
}

impl Steps {
    /// Runs a step; says whether it went well.
    fn step(&mut self, name: &'static str, run: impl FnOnce() -> Result<()>) -> bool {
        eprintln!("== {name}");
        let started = Instant::now();
        let error = run().err();
        if let Some(error) = &error {
            eprintln!("== {name}: FAILED: {error:#}");
        }
        let is_ok = error.is_none();
        self.0.push(Step { name, took: started.elapsed(), error });
        is_ok
    }

    /// Prints the summary, with the line of counts last, and fails if a step did.
    fn finish(&self, counts: &Counts) -> Result<()> {
        println!();
        for step in &self.0 {
            let result = step.error.as_ref().map_or("ok".to_owned(), |error| format!("FAILED: {error:#}"));
            println!("{:<22} {:>7.1} s  {result}", step.name, step.took.as_secs_f32());
        }
        counts.skipped().for_each(|skipped| println!("skipped: {skipped}"));
        counts.failed.iter().for_each(|failed| println!("failed: {failed}"));
        let failed_steps: Vec<&str> =
            self.0.iter().filter(|step| step.error.is_some()).map(|step| step.name).collect();
        let result = if failed_steps.is_empty() {
            Ok(())
        } else {
            Err(anyhow::anyhow!("failed: {}", failed_steps.join(", ")))
        };
        println!(
            "{} passed, {} failed, {} skipped",
            counts.passed(),
            counts.failed.len(),
            counts.skipped().count()
        );
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(lines: &[&str]) -> Counts {
        let mut counts = Counts::default();
        lines.iter().for_each(|line| counts.read(line));
        counts
    }

    #[test]
    fn counts_add_up_over_programs_of_tests() {
        let counts = counts(&[
            "running 3 tests",
            "test wire::a ... ok",
            "test wire::b ... FAILED",
            "test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "test result: ok. 7 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
        ]);
        assert_eq!((counts.passed(), counts.failed.as_slice()), (8, ["wire::b".to_owned()].as_slice()));
        assert_eq!(counts.skipped().count(), 1);
    }

    #[test]
    fn a_test_that_says_it_skipped_did_not_pass() {
        let counts = counts(&[
            "SKIPPED grpcio_pairs: python3 is missing",
            "test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
        ]);
        assert_eq!(counts.passed(), 1);
        assert_eq!(counts.said_skipped, ["grpcio_pairs: python3 is missing"]);
    }
}
