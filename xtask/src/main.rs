//! `cargo xtask`: everything that is done with this repository and is not a plain `cargo` command.
//!
//! Each command is one module (or folder) with an `Args` struct and a `run` function; this file only dispatches.

mod bench;
mod dashboards;
mod child;
mod debian;
mod demo;
mod fuzz;
mod kernels;
mod mutate;
mod programs;
mod repo;
mod scenarios;
mod setup;
mod shell;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Build, set-up, tests and kernels of grpcscope.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what building and testing need and is missing; does nothing the second time.
    Setup(setup::Args),
    /// Set up, then check and test everything: the one command that CI runs.
    Test(test::Args),
    /// Show grpcscope at work on a small system of its own, and compare what was done with what was seen.
    Demo(demo::Args),
    /// Provoke every finding by processes that misbehave, and compare what was provoked with what was found.
    Scenarios(scenarios::Args),
    /// Write the Grafana dashboard.
    Dashboards(dashboards::Args),
    /// Measure, side by side with peers.
    Bench(bench::Args),
    /// Run the fuzz targets for a time.
    Fuzz(fuzz::Args),
    /// Damage recordings by the thousand, and judge what is still said of their calls.
    Mutate(mutate::Args),
    /// Check the frame walker on Debian's kernels, each booted in qemu.
    Kernels(kernels::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Setup(args) => setup::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Scenarios(args) => scenarios::run(&args),
        Command::Dashboards(args) => dashboards::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Fuzz(args) => fuzz::run(&args),
        Command::Mutate(args) => mutate::run(&args),
        Command::Kernels(args) => kernels::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
