//! `cargo xtask bench overhead`: builds the agent and what measures it (`tests/src/bin/overhead`), and runs that.

use std::path::PathBuf;

use anyhow::Result;

use crate::repo;
use crate::shell::cmd;

/// Options of `overhead` alone.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// `overhead`: only this workload; may be given several times.
    #[arg(long = "workload")]
    workloads: Vec<String>,
    /// `overhead`: runs with the agent of each workload; there is one more without.
    #[arg(long)]
    pairs: Option<usize>,
    /// `overhead`: length of a run.
    #[arg(long)]
    seconds: Option<f64>,
    /// `overhead`: make the tables of a run whose last line is in this file, instead of measuring.
    #[arg(long)]
    from: Option<PathBuf>,
}

pub(crate) fn run(options: &Options, json: bool, update: bool) -> Result<()> {
    if options.from.is_none() {
        cmd("cargo")
            .args(["build", "--quiet", "--profile", "dist", "--package", "agent", "--bins"])
            .dir(repo::root())
            .run()?;
        // Says what it installs, and does nothing when all is there.
        provision()?;
    }
    let mut arguments = Vec::new();
    for workload in &options.workloads {
        arguments.extend(["--workload".to_owned(), workload.clone()]);
    }
    if let Some(pairs) = options.pairs {
        arguments.extend(["--pairs".to_owned(), pairs.to_string()]);
    }
    if let Some(seconds) = options.seconds {
        arguments.extend(["--seconds".to_owned(), seconds.to_string()]);
    }
    if let Some(from) = &options.from {
        arguments.extend(["--from".to_owned(), from.display().to_string()]);
    }
    arguments.extend(json.then(|| "--json".to_owned()));
    arguments.extend(update.then(|| "--update".to_owned()));
    cmd("cargo")
        .env("GRPCSCOPE_CACHE", repo::cache())
        // What is shipped; a plain release is not optimised over crates.
        .env("GRPCSCOPE_BIN", repo::target().join("dist/grpcscope"))
        .args(["run", "--quiet", "--release", "--package", "tests", "--bin", "overhead", "--"])
        .args(arguments)
        .dir(repo::root())
        .run_for_its_output()
}

fn provision() -> Result<()> {
    cmd("cargo")
        .env("GRPCSCOPE_CACHE", repo::cache())
        .args(["run", "--quiet", "--release", "--package", "tests", "--bin", "provision", "--"])
        .args(["grpcio", "grpc-go", "grpc-go-app"])
        .dir(repo::root())
        .run()
}
