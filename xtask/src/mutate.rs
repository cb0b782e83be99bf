//! `cargo xtask mutate`: damages recordings by the thousand and judges what is still said of their calls.
//!
//! The work is done by the crate `mutate`; here it is built with optimisation, and recordings of all pairs of the
//! test applications are made for it.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::repo;
use crate::setup::{self, Purpose};
use crate::shell::cmd;

/// What is damaged, and how often.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Recordings (pcap or pcapng, plain or gzip), with FILE.truth.json or FILE.client.jsonl beside them if there is
    /// a truth. Without any: those of ../shared/corpora/live, and the demo's.
    files: Vec<PathBuf>,
    /// How many damaged replays.
    #[arg(long, default_value_t = 10_000)]
    count: u64,
    /// Which ones: the same seed gives the same replays.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only the replay with this number, and all that it says.
    #[arg(long)]
    only: Option<u64>,
    /// End with one line of JSON.
    #[arg(long)]
    json: bool,
    /// First record all pairs of the test applications (grpcio, grpc-js, grpc-go, tonic) in target/mutate, and take
    /// these recordings as well. Sets up what is missing; needs root.
    #[arg(long)]
    record: bool,
    /// Take the recordings of the last --record as well.
    #[arg(long)]
    recorded: bool,
}

/// Runs `cargo xtask mutate`.
pub(crate) fn run(args: &Args) -> Result<()> {
    let folder = repo::root().join("target/mutate");
    if args.record {
        setup::set_up(&[Purpose::Tests, Purpose::Recordings])?;
        cmd("cargo").args(["build", "--quiet", "--package", "tests", "--bins"]).dir(repo::root()).run()?;
        cmd("cargo")
            .args(["run", "--quiet", "--package", "tests", "--bin", "record_pairs", "--"])
            .arg(&folder)
            .env("GRPCSCOPE_CACHE", repo::cache())
            .dir(repo::root())
            .run()?;
    }
    let mut files = Vec::new();
    for file in &args.files {
        files.push(std::path::absolute(file).with_context(|| format!("find {}", file.display()))?);
    }
    let mut command = cmd("cargo")
        .args(["run", "--quiet", "--release", "--package", "mutate", "--"])
        .args(["--count", &args.count.to_string(), "--seed", &args.seed.to_string()])
        .args(args.only.map(|only| format!("--only={only}")))
        .args(args.json.then_some("--json"));
    if args.record || args.recorded {
        command = command.arg("--also").arg(&folder);
    }
    command.args(files).dir(repo::root()).run_for_its_output()
}
