//! `cargo xtask fuzz`: builds the fuzz targets and runs them for a time.
//!
//! The targets are a workspace of their own (`fuzz/`), laid out as cargo-fuzz wants it. They are built here without
//! it: what it does is to set flags of the compiler, and those that are needed are stable. So nothing has to be
//! installed, and the pinned compiler is enough.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde_json::json;

use crate::repo;
use crate::shell::{Cmd, cmd};

/// What is run, and for how long.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Minutes for each target; fractions are fine.
    #[arg(long, default_value_t = 1.0)]
    minutes: f64,
    /// Run only this target; may be given several times.
    #[arg(long = "target", value_enum)]
    targets: Vec<Target>,
    /// End with one line of JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Target {
    /// Frames of one flow, and finding a lost frame boundary.
    Frames,
    /// Header blocks through several decoders.
    Hpack,
    /// Whole connections through the observer.
    Connection,
    /// Values of gRPC's header fields, and messages.
    GrpcFields,
    /// Packet captures.
    Recording,
}

impl Target {
    fn name(self) -> &'static str {
        match self {
            Target::Frames => "frames",
            Target::Hpack => "hpack",
            Target::Connection => "connection",
            Target::GrpcFields => "grpc_fields",
            Target::Recording => "recording",
        }
    }

    /// Folders of the shared corpora whose files are inputs as they are.
    fn shared_corpora(self) -> &'static [&'static str] {
        match self {
            Target::Frames | Target::Connection => {
                &["h2spec", "h2o", "grpc-core/server_fuzzer_corpus", "grpc-core/client_fuzzer_corpus"]
            }
            Target::GrpcFields => &["grpc-core/percent_decode_corpus"],
            Target::Recording => &["deepflow"],
            Target::Hpack => &[],
        }
    }
}

/// How the run of a target ended.
pub(crate) struct Run {
    target: Target,
    executions: u64,
    executions_per_second: u64,
    crashes: Vec<PathBuf>,
    error: Option<String>,
}

/// Runs `cargo xtask fuzz`.
pub(crate) fn run(args: &Args) -> Result<()> {
    let targets = if args.targets.is_empty() { Target::value_variants() } else { &args.targets };
    let time = Duration::try_from_secs_f64(args.minutes * 60.0).context("read --minutes")?;
    let runs = run_targets(targets, time)?;
    if args.json {
        let targets: Vec<_> = runs
            .iter()
            .map(|run| {
                json!({
                    "target": run.target.name(),
                    "executions": run.executions,
                    "executions_per_second": run.executions_per_second,
                    "crashes": run.crashes.iter().map(|path| path.display().to_string()).collect::<Vec<_>>(),
                    "error": run.error,
                })
            })
            .collect();
        let executions: u64 = runs.iter().map(|run| run.executions).sum();
        let crashes: usize = runs.iter().map(|run| run.crashes.len()).sum();
        println!("{}", json!({ "targets": targets, "executions": executions, "crashes": crashes }));
    }
    check(&runs)
}

/// All targets for a short time each, as CI does. Each begins with its committed seeds.
pub(crate) fn run_for_ci() -> Result<()> {
    check(&run_targets(Target::value_variants(), Duration::from_secs(10))?)
}

fn check(runs: &[Run]) -> Result<()> {
    let failed: Vec<_> = runs
        .iter()
        .filter_map(|run| Some(format!("{}: {}", run.target.name(), run.error.as_ref()?)))
        .collect();
    if failed.is_empty() { Ok(()) } else { bail!("{}", failed.join("; ")) }
}

fn run_targets(targets: &[Target], time: Duration) -> Result<Vec<Run>> {
    let programs = build()?;
    let runs: Vec<Run> =
        targets.iter().map(|target| run_target(*target, &programs, time)).collect::<Result<_>>()?;
    for run in &runs {
        eprintln!(
            "{:<12} {:>12} executions {:>9}/s  {}",
            run.target.name(),
            run.executions,
            run.executions_per_second,
            run.error.as_deref().unwrap_or("ok")
        );
        run.crashes.iter().for_each(|path| eprintln!("{:<12} {}", "", path.display()));
    }
    Ok(runs)
}

/// What cargo-fuzz sets with `--sanitizer none` (its project.rs), with checks of arithmetic and debug assertions.
/// `agent-core` forbids unsafe code and so does the reader of recordings: an address sanitizer would find nothing
/// there and take half of the speed.
const FLAGS: [&str; 9] = [
    "--cfg=fuzzing",
    "-Cdebug-assertions",
    "-Coverflow-checks",
    "-Ccodegen-units=1",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];

/// With `--target` the flags are not for build scripts and macros, which could not be linked with them.
const BUILT_FOR: &str = "x86_64-unknown-linux-gnu";

/// Builds all targets, and says where they are.
fn build() -> Result<PathBuf> {
    cmd("cargo")
        .env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\u{1f}"))
        .args(["build", "--quiet", "--release", "--target", BUILT_FOR, "--manifest-path", "fuzz/Cargo.toml"])
        .args(["--target-dir", "fuzz/target"])
        .dir(repo::root())
        .run()?;
    Ok(repo::root().join("fuzz/target").join(BUILT_FOR).join("release"))
}

fn run_target(target: Target, programs: &Path, time: Duration) -> Result<Run> {
    let fuzz = repo::root().join("fuzz");
    let (corpus, crashes) =
        (fuzz.join("corpus").join(target.name()), fuzz.join("artifacts").join(target.name()));
    for folder in [&corpus, &crashes] {
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    }
    let before = files(&crashes)?;
    // What is found goes to the first folder; the others are only read.
    let mut command = command(target, programs).arg(&corpus).arg(fuzz.join("seeds").join(target.name()));
    let shared = repo::root().join("../shared/corpora");
    if !shared.is_dir() {
        eprintln!("{}: without the corpora of others: {} is not there", target.name(), shared.display());
    }
    for folder in target.shared_corpora().iter().map(|name| shared.join(name)).filter(|path| path.is_dir()) {
        command = command.arg(folder);
    }
    command = command
        .arg(format!("-max_total_time={}", time.as_secs().max(1)))
        .arg(format!("-artifact_prefix={}/", crashes.display()));

    let mut run = Run { target, executions: 0, executions_per_second: 0, crashes: Vec::new(), error: None };
    let mut tail = Vec::new();
    // A target that loops is ended by its own time limit for an input, or by this.
    let result = command.stream(Some(time + Duration::from_secs(120)), |line| {
        let number = |name| line.strip_prefix(name).and_then(|number| number.trim().parse().ok());
        run.executions = number("stat::number_of_executed_units:").unwrap_or(run.executions);
        run.executions_per_second =
            number("stat::average_exec_per_sec:").unwrap_or(run.executions_per_second);
        if tail.len() == 40 {
            tail.remove(0);
        }
        tail.push(line.to_owned());
    });
    if let Err(error) = result {
        tail.iter().for_each(|line| eprintln!("{line}"));
        run.error = Some(format!("{error:#}"));
    } else if run.executions == 0 {
        run.error = Some("nothing was executed".to_owned());
    }
    run.crashes = files(&crashes)?.into_iter().filter(|path| !before.contains(path)).collect();
    Ok(run)
}

fn command(target: Target, programs: &Path) -> Cmd {
    cmd(programs.join(target.name()))
        // Longer inputs repeat what shorter ones do; a recording needs room for packets.
        .arg(if target == Target::Recording { "-max_len=4096" } else { "-max_len=1024" })
        // In seconds of the clock; the targets themselves refuse 100 ms of the thread's time.
        .args(["-timeout=10", "-rss_limit_mb=1024", "-print_final_stats=1", "-verbosity=0"])
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?;
    let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.sort();
    Ok(files)
}
