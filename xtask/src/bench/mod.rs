//! `cargo xtask bench`: figures, each side by side in one run with a peer, which is installed if it is missing; and
//! counts of instructions, which need no peer.
//!
//! The benches are a workspace of their own (`bench/`), so that peers with open advisories (`hpack`) stay out
//! of the product's lock file.

pub(crate) mod instructions;
mod overhead;

use anyhow::Result;

use crate::repo;
use crate::setup::{self, Purpose};
use crate::shell::cmd;

/// Which bench.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// What is measured.
    #[arg(value_enum)]
    what: What,
    /// End with one line of JSON.
    #[arg(long)]
    json: bool,
    /// Write down what `instructions` counts, instead of comparing it; or the tables of `overhead` in docs/overhead.md.
    #[arg(long)]
    update: bool,
    #[command(flatten)]
    overhead: overhead::Options,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum What {
    /// The HPACK decoder, with nghttp2, h2, hpack and loona-hpack.
    Hpack,
    /// The whole core from memory, with tshark: calls a second, memory, and what connections cost.
    Core,
    /// Floods of frames on one connection: how many a second the core takes in.
    Floods,
    /// The kernel programs in this kernel, with the least program at the same hook: nanoseconds a call. Needs root.
    Walker,
    /// What the agent costs those who are watched, and itself (docs/overhead.md). Needs root.
    Overhead,
    /// The pipeline of `run` over shards: calls a second by the number of threads, and what the reader does for a record.
    Shards,
    /// Instructions of fixed inputs under valgrind, with those that were written down.
    Instructions,
}

/// Runs `cargo xtask bench`.
pub(crate) fn run(args: &Args) -> Result<()> {
    let bin = match args.what {
        What::Hpack => "hpack",
        What::Core => "core",
        What::Floods => "floods",
        What::Walker => return of_tests("walker_check", &["--bench"]),
        What::Shards => return of_tests("shards_bench", &[]),
        What::Overhead => return overhead::run(&args.overhead, args.json, args.update),
        What::Instructions => return instructions::run(args.update, args.json),
    };
    // Floods have no peer, so that nothing has to be installed and only the core is built.
    let features: &[&str] = if bin == "floods" { &["--no-default-features"] } else { &[] };
    if features.is_empty() {
        setup::set_up(&[Purpose::Benches])?;
    }
    let json: &[&str] = if args.json { &["--", "--json"] } else { &[] };
    cmd("cargo")
        .args(["run", "--quiet", "--release", "--manifest-path", "bench/Cargo.toml", "--bin", bin])
        .args(features)
        .args(json)
        .dir(repo::root())
        .run_for_its_output()
}

/// The figures are those of a release build; the last line is JSON in any case.
fn of_tests(bin: &str, arguments: &[&str]) -> Result<()> {
    cmd("cargo")
        .args(["run", "--quiet", "--release", "--package", "tests", "--bin", bin, "--"])
        .args(arguments)
        .dir(repo::root())
        .run_for_its_output()
}
