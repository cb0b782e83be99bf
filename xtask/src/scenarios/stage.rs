//! Where the processes of a scenario run.
//!
//! Every process of a scenario is started here, so that it is known by name, has a file for its truth, and ends with the
//! scenario, however that ends. What is asked of such a program, in any language:
//!
//! - `--truth FILE`: it appends a line of JSON for each finding that it provokes (CONTRIBUTING.md has the fields).
//! - `--while-stdin`: it ends in order when its standard input is closed.
//! - It prints, as a line of JSON, `{"ready":…,"address":"ADDRESS:PORT"}` when it serves, and whatever the scenario waits
//!   for.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::matching::Provoked;
use crate::child::{Running, while_we_live};
use crate::programs::Programs;

/// How long a process may take to start, to reach what is waited for, or to end: far more than any needs, since only a
/// defect makes it longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// The stage of one run of a scenario.
#[derive(Debug)]
pub(super) struct Stage<'a> {
    programs: &'a Programs,
    folder: PathBuf,
    /// Seconds of load, for scenarios that go on as long as they are let.
    seconds: f64,
    /// Names by process id.
    processes: RefCell<BTreeMap<u64, String>>,
}

/// A process of the scenario.
#[derive(Debug)]
pub(super) struct Process {
    name: String,
    running: Running,
    said: Receiver<Option<String>>,
    address: Option<String>,
}

impl<'a> Stage<'a> {
    pub(super) fn new(programs: &'a Programs, folder: PathBuf, seconds: f64) -> Result<Self> {
        // What an earlier run wrote down is no truth of this one.
        match std::fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("empty {}", folder.display()));
            }
            Ok(()) | Err(_) => {}
        }
        std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        Ok(Stage { programs, folder, seconds, processes: RefCell::default() })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn seconds(&self) -> f64 {
        self.seconds
    }

    /// A service of the demo in its role for a scenario (`grpcscope-demo ROLE --scenario SCENARIO …`), serving.
    pub(super) fn serve(&self, role: &str, scenario: &str, arguments: &[&str]) -> Result<Process> {
        self.serve_as(role, self.demo(role, scenario, arguments))
    }

    /// A program of the demo that makes calls until it is done.
    pub(super) fn call(&self, role: &str, scenario: &str, arguments: &[&str]) -> Result<Process> {
        self.start(role, self.demo(role, scenario, arguments))
    }

    /// The command line of a program of the demo, for one that is started under another name or in another place.
    pub(super) fn demo(&self, role: &str, scenario: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.programs.demo);
        command.args([role, "--scenario", scenario]).args(arguments);
        command
    }

    /// Starts any program as a service called `name`, and waits until it says where it serves.
    pub(super) fn serve_as(&self, name: &str, command: Command) -> Result<Process> {
        self.serve_of(name, name, command)
    }

    /// The same as one of several services of a workload, which the agent calls by the workload's name. What it writes down has
    /// to name it by its own all the same, so others write it down.
    pub(super) fn serve_of(&self, workload: &str, name: &str, command: Command) -> Result<Process> {
        let mut process = self.start_of(workload, name, command)?;
        let ready = process.wait_for(|said| said["ready"].is_string())?;
        process.address = ready["address"].as_str().map(str::to_owned);
        Ok(process)
    }

    /// Starts any program as a process called `name`, which is also what the agent will call it.
    pub(super) fn start(&self, name: &str, command: Command) -> Result<Process> {
        self.start_of(name, name, command)
    }

    fn start_of(&self, workload: &str, name: &str, mut command: Command) -> Result<Process> {
        command.arg("--truth").arg(self.truth_of(name)).env("OTEL_SERVICE_NAME", workload);
        let mut running =
            Running::start(name, while_we_live(&mut command), self.folder.join(format!("{name}.log")))?;
        let former = self.processes.borrow_mut().insert(u64::from(running.pid()), name.to_owned());
        if former.is_some() {
            bail!("the process id of {name} was used before in this scenario");
        }
        let (say, said) = mpsc::channel();
        running.read_lines(move |line| {
            // The receiver is gone when the scenario has no more questions.
            let _ = say.send(line);
        })?;
        Ok(Process { name: name.to_owned(), running, said, address: None })
    }

    fn truth_of(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.jsonl"))
    }

    /// Names by process id of all processes that there were.
    pub(super) fn processes(&self) -> BTreeMap<u64, String> {
        self.processes.borrow().clone()
    }

    /// What the processes wrote down, and how many calls they say to have made.
    pub(super) fn truth(&self) -> Result<Truth> {
        let names: Vec<String> = self.processes.borrow().values().cloned().collect();
        let mut truth = Truth::default();
        for file in names.iter().map(|name| self.truth_of(name)) {
            let text = match std::fs::read_to_string(&file) {
                Ok(text) => text,
                // It had nothing to say.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error).with_context(|| format!("read {}", file.display())),
            };
            for line in text.lines() {
                match Provoked::of_truth(line, &names)? {
                    Some(provoked) => truth.provoked.push(provoked),
                    None => truth.calls += calls_of(line)?,
                }
            }
        }
        Ok(truth)
    }
}

/// Calls that were made, by a line of the truth that provokes nothing: of a process that keeps a list one each, of others
/// how many there were.
fn calls_of(line: &str) -> Result<usize> {
    let said: Value = serde_json::from_str(line).with_context(|| format!("the truth says {line:?}"))?;
    let counted = said["calls"].as_u64().and_then(|calls| usize::try_from(calls).ok());
    Ok(counted.unwrap_or_else(|| usize::from(said["side"] == "client")))
}

/// What the processes of a scenario wrote down.
#[derive(Debug, Default)]
pub(super) struct Truth {
    pub(super) provoked: Vec<Provoked>,
    /// Calls that were made, as far as the processes wrote that down.
    pub(super) calls: usize,
}

impl Process {
    /// Where it serves, as `ADDRESS:PORT`.
    pub(super) fn address(&self) -> Result<&str> {
        self.address.as_deref().with_context(|| format!("{} did not say where it serves", self.name))
    }

    /// Where it serves, as `http://ADDRESS:PORT`.
    pub(super) fn uri(&self) -> Result<String> {
        Ok(format!("http://{}", self.address()?))
    }

    /// Waits until it prints a line that is so.
    pub(super) fn wait_for(&mut self, is_it: impl Fn(&Value) -> bool) -> Result<Value> {
        self.wait_within(Duration::ZERO, is_it)
    }

    /// The same, at most `longest` and the patience that every process gets.
    pub(super) fn wait_within(&mut self, longest: Duration, is_it: impl Fn(&Value) -> bool) -> Result<Value> {
        let patience = longest + PATIENCE;
        let deadline = Instant::now() + patience;
        loop {
            match self.said.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(Some(line)) => match serde_json::from_str(&line) {
                    Ok(said) if is_it(&said) => return Ok(said),
                    // Something else, or a word of its runtime.
                    Ok(_) | Err(_) => {}
                },
                Ok(None) | Err(RecvTimeoutError::Disconnected) => {
                    self.running.must_run()?;
                    bail!("{} closed its standard output too early", self.name);
                }
                Err(RecvTimeoutError::Timeout) => {
                    bail!("{} did not come to what is waited for within {patience:?}", self.name);
                }
            }
        }
    }

    /// Waits until it has done what it does and ended.
    pub(super) fn ends(mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !self.running.has_ended()? {
            if Instant::now() > deadline {
                bail!("{} does not end", self.name);
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Asks it to end in order, and waits for that.
    pub(super) fn finish(mut self) -> Result<()> {
        self.running.close_stdin();
        self.ends()
    }

    /// Stops it as it stands.
    pub(super) fn stop(&self) -> Result<()> {
        self.running.signal("STOP")
    }

    /// Ends it without a word.
    pub(super) fn kill(self) -> Result<()> {
        self.running.kill()
    }
}
