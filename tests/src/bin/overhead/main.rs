//! `cargo xtask bench overhead`: what the agent costs those who are watched, and itself (docs/overhead.md).
//!
//! Each load runs without and with `grpcscope run` by turns, beginning and ending without, so that what drifts on the
//! machine hits both sides; a run with the agent is compared with its two neighbours. The same arithmetic over the runs
//! without it says what the machine does by itself.

mod load;

mod applications;
mod kernel_programs;
mod process;

mod measure;

mod figures;
mod report;
mod table;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use tests::agent::Kernel;
use tests::workspace;

use crate::applications::Workload;
use crate::load::{Kind, Shape};
use crate::measure::Plan;

/// Measures what grpcscope costs.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    role: Option<Role>,
    #[command(flatten)]
    options: Options,
}

#[derive(clap::Args)]
struct Options {
    /// Only this workload; may be given several times.
    #[arg(long = "workload", value_enum)]
    workloads: Vec<Workload>,
    /// Runs with the agent of each workload; there is one more without.
    #[arg(long, default_value_t = 7)]
    pairs: usize,
    /// Length of a run.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// End with one line of JSON.
    #[arg(long)]
    json: bool,
    /// Write the table into docs/overhead.md.
    #[arg(long)]
    update: bool,
    /// Make the table of a run whose last line is in this file, instead of measuring.
    #[arg(long)]
    from: Option<PathBuf>,
}

#[derive(clap::Subcommand)]
enum Role {
    /// The server of a load.
    Serve { kind: Kind },
    /// Wakes as often as an agent with nothing to do.
    StandIn,
    /// The client of a load.
    Call {
        kind: Kind,
        #[arg(long)]
        target: SocketAddr,
        #[command(flatten)]
        shape: Shape,
    },
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    match arguments.role {
        Some(Role::Serve { kind }) => load::serve(kind),
        Some(Role::StandIn) => load::stand_in(),
        Some(Role::Call { kind, target, shape }) => load::call(kind, target, shape),
        None => bench(&arguments.options),
    }
}

fn bench(options: &Options) -> Result<()> {
    let line = match &options.from {
        Some(path) => {
            let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
            let last = text.lines().last().context("the file is empty")?;
            serde_json::from_str(last).context("read the last line")?
        }
        None => measured(options)?,
    };
    let table = table::of(&line)?;
    println!("{table}");
    if options.update {
        table::write(&workspace::root().join("docs/overhead.md"), &table)?;
    }
    if options.json {
        println!("{line}");
    }
    Ok(())
}

fn measured(options: &Options) -> Result<serde_json::Value> {
    if options.pairs < 2 {
        bail!("noise cannot be told with less than 2 pairs");
    }
    if !(options.seconds > 0.0 && options.seconds <= 600.0) {
        bail!("--seconds is a time up to 600");
    }
    let plan = Plan { pairs: options.pairs, seconds: options.seconds };
    let workloads: Vec<Workload> = match &options.workloads[..] {
        [] => Workload::ALL.to_vec(),
        some => some.to_vec(),
    };
    let kernel = Kernel::take("bench overhead").context("grpcscope cannot watch this kernel")?;
    let folder = workspace::scratch("overhead")?;
    let mut measured = Vec::new();
    for workload in workloads {
        eprintln!("{}: {} pairs of {} s", workload.name(), plan.pairs, plan.seconds);
        measured.push(
            measure::workload(workload, plan, &kernel, &folder)
                .with_context(|| format!("measure {}", workload.name()))?,
        );
    }
    report::line(&measured, plan, &version(&kernel))
}

fn version(kernel: &Kernel) -> String {
    let output = Command::new(kernel.program()).arg("--version").output();
    let text = output.map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&text).lines().next().unwrap_or("grpcscope").to_owned()
}
