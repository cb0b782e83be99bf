//! The agent at work: `grpcscope findings --live --json`, and what it says.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::child::Running;

/// How long it may take to attach: the verifier needs seconds on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running observer.
pub(super) struct Agent {
    running: Running,
    said: Receiver<Option<String>>,
    lines: Vec<Value>,
}

impl Agent {
    /// Starts it with the thresholds of a scenario, YAML as under `findings:`, and waits until it sees everything.
    pub(super) fn start(
        grpcscope: &Path,
        thresholds: &str,
        folder: &Path,
        arguments: &[&str],
    ) -> Result<Self> {
        let config = folder.join("grpcscope.yaml");
        let text = match thresholds.trim() {
            "" => "{}\n".to_owned(),
            thresholds => format!("findings: {thresholds}\n"),
        };
        std::fs::write(&config, text).with_context(|| format!("write {}", config.display()))?;
        let mut running = Running::start(
            "`grpcscope findings`",
            Command::new(grpcscope)
                .args(["findings", "--live", "--json", "--config"])
                .arg(&config)
                .args(arguments)
                .stdin(Stdio::null())
                .stdout(Stdio::piped()),
            folder.join("agent.log"),
        )?;
        let (say, said) = mpsc::channel();
        running.read_lines(move |line| {
            // The receiver is gone only after an error elsewhere.
            let _ = say.send(line);
        })?;
        let mut agent = Agent { running, said, lines: Vec::new() };
        let deadline = Instant::now() + PATIENCE;
        while !agent.lines.iter().any(|line| line["type"] == "ready") {
            if Instant::now() > deadline {
                bail!("the agent is not ready after {PATIENCE:?}");
            }
            agent.running.must_run()?;
            agent.listen(Duration::from_millis(50))?;
        }
        Ok(agent)
    }

    /// Takes what it says until `wait` has passed.
    pub(super) fn listen(&mut self, wait: Duration) -> Result<()> {
        let until = Instant::now() + wait;
        loop {
            match self.said.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(Some(line)) => self.take(&line)?,
                Ok(None) | Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return Ok(()),
            }
        }
    }

    fn take(&mut self, line: &str) -> Result<()> {
        let said =
            serde_json::from_str(line).with_context(|| format!("`grpcscope findings` says {line:?}"))?;
        self.lines.push(said);
        Ok(())
    }

    /// The findings so far.
    pub(super) fn findings(&self) -> impl Iterator<Item = &Value> {
        self.lines.iter().filter(|line| line["finding"].is_string())
    }

    /// Fails if it has ended.
    pub(super) fn must_run(&mut self) -> Result<()> {
        self.running.must_run()
    }

    /// Ends it, and returns all that it found, with the links of calls if it was asked for them, and how many events it lost.
    pub(super) fn stop(self) -> Result<(Vec<Value>, u64)> {
        let Agent { running, said, mut lines } = self;
        running.terminate()?;
        while let Some(line) = said.recv().context("`grpcscope findings` was cut off")? {
            lines.push(
                serde_json::from_str(&line).with_context(|| format!("`grpcscope findings` says {line:?}"))?,
            );
        }
        let summary = lines.iter().find(|line| line["type"] == "summary");
        let lost = summary.and_then(|summary| summary["lost"].as_u64());
        let lost = lost.context("`grpcscope findings` did not say what it lost")?;
        lines.retain(|line| line["finding"].is_string() || line["type"] == "link");
        Ok((lines, lost))
    }
}
