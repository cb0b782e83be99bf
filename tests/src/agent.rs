//! The agent as a process: `grpcscope calls --json`, read line by line, and `grpcscope run`.
//!
//! Tests that use the kernel run one at a time, over all test programs: two agents would both be right, but two
//! cores would not carry two such tests.

use std::ffi::OsStr;
use std::fs::File;
use std::net::TcpListener;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::apps::{PATIENCE, built_here};
use crate::observed::{self, Call, Line};
use crate::process::Process;
use crate::workspace;

/// The right to use the kernel; one test has it at a time.
#[derive(Debug)]
pub struct Kernel {
    program: PathBuf,
    _lock: File,
}

impl Kernel {
    /// Waits for its turn. `None` if grpcscope cannot watch this kernel, after having said so loudly.
    ///
    /// # Panics
    /// In CI and with `GRPCSCOPE_REQUIRE=1`, when grpcscope cannot watch this kernel.
    #[must_use]
    pub fn take(test: &str) -> Option<Self> {
        let refuse = |why: &str| {
            let _ = workspace::skip(test, why);
            None
        };
        let program = match program() {
            Ok(program) => program,
            Err(error) => return refuse(&format!("{error:#}")),
        };
        let lock = match lock() {
            Ok(lock) => lock,
            Err(error) => return refuse(&format!("{error:#}")),
        };
        match Command::new(&program).arg("check").output() {
            Ok(check) if check.status.success() => Some(Kernel { program, _lock: lock }),
            Ok(check) => {
                let said = String::from_utf8_lossy(&check.stdout).into_owned()
                    + &String::from_utf8_lossy(&check.stderr);
                refuse(&format!(
                    "`grpcscope check` says no ({}): {}",
                    check.status,
                    said.trim().replace('\n', " / ")
                ))
            }
            Err(error) => refuse(&format!("`{} check` does not start: {error}", program.display())),
        }
    }
}

impl Kernel {
    /// The program `grpcscope`.
    #[must_use]
    pub fn program(&self) -> &Path {
        &self.program
    }
}

/// `GRPCSCOPE_BIN`, else the program that was built beside the test.
fn program() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os("GRPCSCOPE_BIN") {
        let path = PathBuf::from(path);
        anyhow::ensure!(path.is_file(), "GRPCSCOPE_BIN={} is no file", path.display());
        return Ok(path);
    }
    let program = built_here("grpcscope").context("grpcscope is not built: run `cargo build -p agent`")?;
    check_is_fresh(&program)?;
    Ok(program)
}

/// `cargo test -p tests` does not build the program, so an old one may lie there. Cargo writes down beside it
/// what it was made from.
fn check_is_fresh(program: &Path) -> anyhow::Result<()> {
    let modified = |path: &Path| path.metadata().and_then(|metadata| metadata.modified());
    let built = modified(program).with_context(|| format!("look at {}", program.display()))?;
    let sources = std::fs::read_to_string(program.with_extension("d")).unwrap_or_default();
    let newer = sources
        .split_whitespace()
        .skip(1)
        .find(|path| modified(Path::new(path)).is_ok_and(|time| time > built));
    match newer {
        Some(path) => bail!("{} is older than {path}: run `cargo build -p agent`", program.display()),
        None => Ok(()),
    }
}

fn lock() -> anyhow::Result<File> {
    let folder = workspace::cache();
    std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    let file = File::create(folder.join("kernel.lock")).context("create the lock of the kernel tests")?;
    // SAFETY: `flock` touches no memory, and the descriptor is open.
    let result = unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX) };
    anyhow::ensure!(result == 0, "lock: {}", std::io::Error::last_os_error());
    Ok(file)
}

/// A running `grpcscope calls --json`.
#[derive(Debug)]
pub struct Watch {
    process: Process,
    seen: Vec<Call>,
    connections: Vec<Value>,
    ready: Value,
    changes: Vec<Value>,
}

/// What the last line says.
#[derive(Clone, Debug)]
pub struct Summary(pub Value);

impl Watch {
    /// Starts one and waits until it watches.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start(kernel: &Kernel, folder: &Path) -> anyhow::Result<Self> {
        Self::start_with(kernel, folder, &["calls", "--json"])
    }

    /// The same with another command line that prints JSON.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start_with(kernel: &Kernel, folder: &Path, arguments: &[&str]) -> anyhow::Result<Self> {
        let mut command = Command::new(&kernel.program);
        command.args(arguments);
        Self::of(command, folder)
    }

    /// The same with any command. It may run on an emulated machine, where loading large programs takes minutes.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn of(mut command: Command, folder: &Path) -> anyhow::Result<Self> {
        let process = Process::start("grpcscope", &mut command, &folder.join("grpcscope.log"))?;
        let patience = 5 * PATIENCE;
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            match process.next_line(patience).map(|line| observed::parse(&line)).transpose()? {
                Some(Line::Other(value)) if value["type"] == "ready" => {
                    let (seen, connections, changes) = (Vec::new(), Vec::new(), Vec::new());
                    return Ok(Watch { process, seen, connections, ready: value, changes });
                }
                Some(_) => {}
                None => break,
            }
        }
        bail!("grpcscope does not say that it is ready; {}", process.last_words())
    }

    /// Process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32) {
        self.process.signal(signal);
    }

    /// Waits until a process has `count` calls, and then until nothing more comes. Returns its calls and
    /// keeps those of other processes.
    ///
    /// # Errors
    /// When grpcscope writes what it does not promise, or ends.
    pub fn calls_of(&mut self, pid: u32, count: usize) -> anyhow::Result<Vec<Call>> {
        let is_own = |call: &Call| call.pid == Some(pid);
        let deadline = Instant::now() + Duration::from_secs(15);
        let mut quiet_since = Instant::now();
        loop {
            let own = self.seen.iter().filter(|call| is_own(call)).count();
            let quiet = quiet_since.elapsed();
            // More than all is wrong, so it waits a little for what should not come.
            if own >= count && quiet > Duration::from_millis(300) || Instant::now() > deadline {
                break;
            }
            let Some(line) = self.process.next_line(Duration::from_millis(100)) else { continue };
            if self.take(&line)?.is_some_and(|call| is_own(&call)) {
                quiet_since = Instant::now();
            }
        }
        let (own, others) = std::mem::take(&mut self.seen).into_iter().partition(is_own);
        self.seen = others;
        Ok(own)
    }

    /// Forgets what was seen so far.
    ///
    /// # Errors
    /// When grpcscope writes what it does not promise.
    pub fn forget(&mut self) -> anyhow::Result<()> {
        while let Some(line) = self.process.next_line(Duration::from_millis(200)) {
            self.take(&line)?;
        }
        self.seen.clear();
        Ok(())
    }

    /// The line that says that it watches, with `backend` and `reason`.
    #[must_use]
    pub fn ready(&self) -> &Value {
        &self.ready
    }

    /// Changes of the way of capture, of which it has told by now: `from`, `to` and `reason`.
    ///
    /// # Errors
    /// When grpcscope writes what it does not promise.
    pub fn changes(&mut self) -> anyhow::Result<&[Value]> {
        while let Some(line) = self.process.next_line(Duration::from_millis(1)) {
            self.take(&line)?;
        }
        Ok(&self.changes)
    }

    /// Calls that were seen and not asked for.
    #[must_use]
    pub fn other_calls(&self) -> &[Call] {
        &self.seen
    }

    /// Ends it and returns its summary.
    ///
    /// # Errors
    /// When it does not end in order.
    pub fn stop(mut self) -> anyhow::Result<Summary> {
        self.process.signal(libc::SIGTERM);
        let mut summary = None;
        while let Some(line) = self.process.next_line(PATIENCE) {
            match observed::parse(&line)? {
                Line::Summary(value) => summary = Some(Summary(value)),
                Line::Call(_) | Line::Connection(_) | Line::Other(_) => {}
            }
        }
        self.process.wait(PATIENCE)?;
        summary.with_context(|| format!("grpcscope ended without its summary; {}", self.process.last_words()))
    }

    /// Takes a line in; says which call it was.
    fn take(&mut self, line: &str) -> anyhow::Result<Option<Call>> {
        match observed::parse(line)? {
            Line::Call(call) => {
                // A call that was still open is reported at the end of the observation only.
                self.seen.push((*call).clone());
                return Ok(Some(*call));
            }
            Line::Connection(value) => self.connections.push(value),
            Line::Summary(value) => bail!("grpcscope ended early: {value}; {}", self.process.last_words()),
            Line::Other(value) if value["type"] == "changed" => self.changes.push(value),
            Line::Other(_) => {}
        }
        Ok(None)
    }
}

impl Summary {
    /// Fails if anything was lost, or nothing was received.
    ///
    /// # Errors
    /// Then.
    pub fn check_nothing_lost(&self) -> anyhow::Result<()> {
        let number = |key: &str| self.0[key].as_u64();
        anyhow::ensure!(number("lost") == Some(0), "something was lost: {}", self.0);
        anyhow::ensure!(
            number("received").is_some_and(|count| count > 0),
            "nothing was received: {}",
            self.0
        );
        Ok(())
    }
}

/// A running `grpcscope run`.
#[derive(Debug)]
pub struct Run {
    process: Process,
    /// Port of its HTTP server on 127.0.0.1.
    pub port: u16,
}

impl Run {
    /// Starts one and waits until it is ready. It neither knows what one before it knew nor keeps anything for the next.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start(kernel: &Kernel, folder: &Path) -> anyhow::Result<Self> {
        Run::start_with(kernel, folder, &[("GRPCSCOPE_RESTART_KEEP", OsStr::new("false"))])
    }

    /// Starts one with settings from the environment, and waits until it is ready.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start_with(kernel: &Kernel, folder: &Path, settings: &[(&str, &OsStr)]) -> anyhow::Result<Self> {
        Run::of(&kernel.program, folder, settings)
    }

    /// The same where nobody else can use the kernel, as in an emulated machine.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn of(program: &Path, folder: &Path, settings: &[(&str, &OsStr)]) -> anyhow::Result<Self> {
        let port = free_port()?;
        let mut command = Command::new(program);
        command.args(["run", "--listen", &format!("127.0.0.1:{port}")]).envs(settings.iter().copied());
        let run = Run {
            process: Process::start("grpcscope run", &mut command, &folder.join("grpcscope.log"))?,
            port,
        };
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if crate::http::get(port, "/readyz").is_ok_and(|answer| answer.status == 200) {
                return Ok(run);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("grpcscope run is not ready; {}", run.process.last_words())
    }

    /// Process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Asks it to end, and waits until it has.
    ///
    /// # Errors
    /// When it does not end in order.
    pub fn stop(mut self) -> anyhow::Result<()> {
        self.process.signal(libc::SIGTERM);
        let status = self.process.wait(PATIENCE)?;
        // By itself, and not by a signal: a system call that is not on its list ends it by one.
        anyhow::ensure!(
            status.code() == Some(143),
            "grpcscope ended with {status}; {}",
            self.process.last_words()
        );
        Ok(())
    }

    /// The series of `/metrics` that have a label, as text.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn series(&self, label: &str) -> anyhow::Result<Vec<String>> {
        let text = String::from_utf8(crate::http::get(self.port, "/metrics")?.body)?;
        Ok(text.lines().filter(|line| line.contains(label)).map(str::to_owned).collect())
    }
}

/// Sum of the series of a family that have all these labels.
#[must_use]
pub fn sum(series: &[String], family: &str, labels: &[&str]) -> f64 {
    series
        .iter()
        .filter(|line| {
            line.split('{').next() == Some(family) && labels.iter().all(|label| line.contains(label))
        })
        .filter_map(|line| line.rsplit_once("} ")?.1.split(' ').next()?.parse::<f64>().ok())
        .sum()
}

impl Run {
    /// Sends a signal.
    pub fn signal(&self, signal: i32) {
        self.process.signal(signal);
    }
}

/// A port of 127.0.0.1 that nobody listens on now.
///
/// # Errors
/// When there is none.
pub fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0)).context("find a free port")?.local_addr()?.port())
}
