//! Commands of other programs: each one that changes something is printed before it runs.
//!
//! None gets a standard input, so none can wait for an answer.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// A command line, and how it is shown.
pub(crate) struct Cmd {
    inner: Command,
    shown: String,
}

/// Starts a command line.
pub(crate) fn cmd(program: impl AsRef<OsStr>) -> Cmd {
    let mut inner = Command::new(program.as_ref());
    inner.stdin(Stdio::null());
    Cmd { inner, shown: program.as_ref().to_string_lossy().into_owned() }
}

impl Cmd {
    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.shown += &format!(" {}", arg.as_ref().to_string_lossy());
        self.inner.arg(arg);
        self
    }

    pub(crate) fn args<A: AsRef<OsStr>>(self, args: impl IntoIterator<Item = A>) -> Self {
        args.into_iter().fold(self, Self::arg)
    }

    pub(crate) fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        self.shown = format!("{key}={} {}", value.as_ref().to_string_lossy(), self.shown);
        self.inner.env(key, value);
        self
    }

    pub(crate) fn dir(mut self, dir: &Path) -> Self {
        self.inner.current_dir(dir);
        self
    }

    /// Prints the command, runs it with its output going where ours goes, and fails if it fails.
    pub(crate) fn run(mut self) -> Result<()> {
        eprintln!("  + {}", self.shown);
        // Standard output is for results: what a helper prints is progress.
        self.inner.stdout(std::io::stderr());
        let status = self.inner.status().with_context(|| format!("start `{}`", self.shown))?;
        check(&self.shown, status)
    }

    /// The same for a command whose standard output is the result.
    pub(crate) fn run_for_its_output(mut self) -> Result<()> {
        eprintln!("  + {}", self.shown);
        let status = self.inner.status().with_context(|| format!("start `{}`", self.shown))?;
        check(&self.shown, status)
    }

    /// Runs the command silently and returns what it printed.
    pub(crate) fn read(mut self) -> Result<String> {
        let output = self.inner.output().with_context(|| format!("start `{}`", self.shown))?;
        if !output.status.success() {
            bail!("`{}`: {}: {}", self.shown, output.status, String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs the command, hands every line of both outputs to `on_line`, and ends it, with all that it
    /// started, when `limit` has passed.
    pub(crate) fn stream(mut self, limit: Option<Duration>, mut on_line: impl FnMut(&str)) -> Result<()> {
        eprintln!("  + {}", self.shown);
        self.inner.stdout(Stdio::piped()).stderr(Stdio::piped());
        if limit.is_some() {
            self.inner.process_group(0);
        }
        let mut child = self.inner.spawn().with_context(|| format!("start `{}`", self.shown))?;
        let (lines, received) = mpsc::channel();
        let stdout = child.stdout.take().context("take the standard output")?;
        let stderr = child.stderr.take().context("take the standard error")?;
        forward(stdout, lines.clone());
        forward(stderr, lines);

        let end = limit.map(|limit| Instant::now() + limit);
        loop {
            // Without a limit an hour is only how often we look again.
            let wait =
                end.map_or(Duration::from_secs(3600), |end| end.saturating_duration_since(Instant::now()));
            match received.recv_timeout(wait) {
                Ok(line) => on_line(&line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) if end.is_none() => {}
                Err(RecvTimeoutError::Timeout) => {
                    // The child leads a process group of its own, so only what it started gets the signal.
                    let _ = Command::new("kill").args(["-KILL", "--", &format!("-{}", child.id())]).status();
                    child.wait().context("wait for the ended command")?;
                    bail!("`{}` was ended: it took longer than {limit:?}", self.shown);
                }
            }
        }
        let status = child.wait().with_context(|| format!("wait for `{}`", self.shown))?;
        check(&self.shown, status)
    }
}

fn check(shown: &str, status: ExitStatus) -> Result<()> {
    if status.success() { Ok(()) } else { bail!("`{shown}` failed: {status}") }
}

fn forward(source: impl Read + Send + 'static, lines: Sender<String>) {
    thread::spawn(move || {
        let mut reader = BufReader::new(source);
        let mut line = Vec::new();
        while matches!(reader.read_until(b'\n', &mut line), Ok(1..)) {
            if lines.send(String::from_utf8_lossy(&line).trim_end().to_owned()).is_err() {
                return;
            }
            line.clear();
        }
    });
}

/// The path of a program that would be found by name.
pub(crate) fn which(program: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.is_file())
}
