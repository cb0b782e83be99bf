//! Checks the whole agent on this kernel, end to end: `grpcscope calls --json` beside tonic applications, and every call that
//! it saw compared with what the applications wrote down.
//!
//! For a machine that is there for this alone, as `cargo xtask kernels` boots: the agent, `tonic_app` and this program lie in one
//! folder, and nobody else uses the kernel. It goes through every way of capture that the agent knows, every preemption model
//! that was asked for and this kernel has, and every number of clients, and prints a line of JSON for each.
//!
//! With `--change` it checks one thing more: that the agent changes its way of capture by itself when it proves blind.
//!
//! A way of capture that this kernel refuses is said to be refused; whether it may be is for the caller to judge.

mod change;
mod echo;
mod preemption;
mod run;
mod stalls;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use agent::capture::kernel::{KernelCapture, Options, probe};
use agent::config::{Backend, CaptureConfig};
use agent::pipeline::capture_options;
use clap::{Parser, ValueEnum};
use serde_json::{Value, json};
use tests::apps::built_here;

use preemption::Preemption;

/// Checks the agent against tonic applications on this kernel.
#[derive(Parser)]
struct Arguments {
    /// A way of capture; may be given several times. Default: all that the agent knows.
    #[arg(long = "backend", value_name = "NAME")]
    backends: Vec<String>,
    /// Clients at once, each a process with one call at a time; may be given several times.
    #[arg(long = "clients", default_values_t = [1, 12])]
    clients: Vec<usize>,
    /// Calls of all clients together, for each run.
    #[arg(long, default_value_t = 120)]
    calls: u64,
    /// A preemption model to set, of those that the kernel has; may be given several times. Default: the one that is set.
    #[arg(long = "preempt", value_name = "MODEL")]
    preempt: Vec<String>,
    /// Check instead that the way of capture is changed by itself: the agent starts where programs are not interrupted, and then
    /// they are.
    #[arg(long, conflicts_with_all = ["backends", "preempt"])]
    change: bool,
    /// Folder for plans, truths and logs.
    #[arg(long, default_value = "/tmp/calls_check")]
    folder: PathBuf,
}

fn main() -> ExitCode {
    match check(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("{}", json!({"result": "failed", "error": format!("{error:#}")}));
            ExitCode::FAILURE
        }
    }
}

/// All combinations; says whether all of them are right.
fn check(arguments: &Arguments) -> anyhow::Result<bool> {
    let agent = built_here("grpcscope")?;
    let names: Vec<String> = match arguments.backends.as_slice() {
        [] => Backend::value_variants().iter().filter(|b| **b != Backend::Auto).filter_map(name).collect(),
        chosen => chosen.to_vec(),
    };
    let preemption = Preemption::of_this_kernel();
    if arguments.change {
        let clients = arguments.clients.iter().copied().max().unwrap_or(1);
        return change::check(&agent, &preemption, clients, &arguments.folder);
    }
    let mut all_right = true;
    // Loading is what takes long on old kernels, so instructions are counted once, whatever the model.
    let mut loaded: BTreeMap<&str, Result<Value, String>> = BTreeMap::new();
    for model in preemption.wanted(&arguments.preempt) {
        preemption.set(&model)?;
        for backend in &names {
            let programs = loaded.entry(backend).or_insert_with(|| load(backend)).clone();
            for &clients in &arguments.clients {
                let mut line = json!({
                    "check": "calls",
                    "kernel": probe::kernel_release(),
                    "backend": backend,
                    "preempt": model,
                    "clients": clients,
                });
                let report = match &programs {
                    Err(error) => json!({"result": "refused", "error": error}),
                    Ok(programs) => {
                        let run = run::Run { agent: &agent, backend, clients, calls: arguments.calls };
                        let mut report = run.report(&arguments.folder);
                        all_right &= report["result"] == "ok";
                        report["instructions"] = programs.clone();
                        report
                    }
                };
                merge(&mut line, report);
                println!("{line}");
                if programs.is_err() {
                    break;
                }
            }
        }
    }
    Ok(all_right)
}

fn name(backend: &Backend) -> Option<String> {
    Some(backend.to_possible_value()?.get_name().to_owned())
}

/// Loads, attaches and lets go: the instructions that the verifier followed by program, or why it was refused.
fn load(backend: &str) -> Result<Value, String> {
    let backend = Backend::from_str(backend, false)?;
    let config = CaptureConfig { backend, ..CaptureConfig::default() };
    let options = Options { count_instructions: true, ..capture_options(&config) };
    let capture = KernelCapture::start(&options).map_err(|error| format!("{error:#}"))?;
    let programs = capture.programs().iter();
    Ok(programs.map(|program| (program.name.clone(), json!(program.verified))).collect())
}

/// Adds the members of `more` to the object `line`.
fn merge(line: &mut Value, more: Value) {
    if let (Value::Object(line), Value::Object(more)) = (line, more) {
        line.extend(more);
    }
}
