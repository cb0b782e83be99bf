//! The test applications as processes.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::plan::{self, PlannedCall};
use crate::process::Process;
use crate::truth::{self, ClientCall, ServerCall};
use crate::workspace;

/// How long an application may take for anything: generous, since a test machine is busy.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A gRPC implementation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Implementation {
    /// grpcio, the C-core of Python, Ruby, PHP and C++.
    Python,
    /// @grpc/grpc-js.
    Node,
    /// grpc-go.
    Go,
    /// tonic.
    Tonic,
}

impl Implementation {
    /// All of them.
    pub const ALL: [Implementation; 4] =
        [Implementation::Python, Implementation::Node, Implementation::Go, Implementation::Tonic];

    /// The program, before the command line that all of them share.
    ///
    /// # Errors
    /// When tonic's application was not built beside the running test.
    pub fn command(self) -> anyhow::Result<Command> {
        let cache = workspace::cache();
        let apps = workspace::apps();
        Ok(match self {
            Implementation::Python => {
                let mut command = Command::new(cache.join("python/bin/python"));
                command.arg(apps.join("python/app.py"));
                command
            }
            Implementation::Node => {
                let mut command = Command::new("node");
                command.arg(apps.join("node/app.js")).env("NODE_PATH", cache.join("node/node_modules"));
                command
            }
            Implementation::Go => Command::new(cache.join("go/app")),
            Implementation::Tonic => Command::new(built_here("tonic_app")?),
        })
    }
}

impl fmt::Display for Implementation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Implementation::Python => "grpcio",
            Implementation::Node => "grpc-js",
            Implementation::Go => "grpc-go",
            Implementation::Tonic => "tonic",
        })
    }
}

/// A program of this workspace that lies beside the running one.
///
/// # Errors
/// When it is not there.
pub fn built_here(name: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("find the running program")?;
    own.ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .with_context(|| format!("`{name}` is not built: run `cargo build -p tests`"))
}

/// Where a server listens.
#[derive(Clone, Debug)]
pub enum Address {
    /// A port of 127.0.0.1.
    Port(u16),
    /// A Unix socket.
    Unix(PathBuf),
}

/// A running server application.
#[derive(Debug)]
pub struct Server {
    /// Where it listens.
    pub address: Address,
    process: Process,
    truth: PathBuf,
}

impl Server {
    /// Starts one on a free port, or on a Unix socket in `folder`.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start(implementation: Implementation, folder: &Path, unix: bool) -> anyhow::Result<Self> {
        let truth = folder.join("server.truth.jsonl");
        let mut command = implementation.command()?;
        command.arg("server").arg("--truth").arg(&truth);
        let socket = folder.join("socket");
        if unix {
            command.arg("--unix").arg(&socket);
        } else {
            command.args(["--port", "0"]);
        }
        let name = format!("server {implementation}");
        let process = Process::start(&name, &mut command, &folder.join("server.log"))?;
        let ready = process.wait_for("ready", PATIENCE)?;
        let port = ready["port"].as_u64().unwrap_or(0) as u16;
        let address = if unix { Address::Unix(socket) } else { Address::Port(port) };
        Ok(Server { address, process, truth })
    }

    /// Process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// What its handlers saw, once the file has been quiet for a while: handlers of calls that were given up
    /// end a little after the client.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn truth(&self) -> anyhow::Result<Vec<ServerCall>> {
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut length = u64::MAX;
        loop {
            let now = std::fs::metadata(&self.truth).map_or(0, |metadata| metadata.len());
            if now == length || Instant::now() > deadline {
                return truth::read(&self.truth);
            }
            length = now;
            std::thread::sleep(Duration::from_millis(250));
        }
    }
}

/// A running client application.
#[derive(Debug)]
pub struct Client {
    process: Process,
    truth: PathBuf,
    calls: usize,
}

/// How a client makes its calls.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Calls at once.
    pub concurrency: usize,
    /// Calls a second at most.
    pub rate: Option<f64>,
    /// Stop after the first half until [`Client::go_on`].
    pub hold: bool,
}

impl Pace {
    /// So many calls at once, as fast as they go.
    #[must_use]
    pub fn at_once(concurrency: usize) -> Self {
        Pace { concurrency, rate: None, hold: false }
    }
}

impl Client {
    /// Starts one. `name` tells the clients of one folder apart.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start(
        implementation: Implementation,
        address: &Address,
        folder: &Path,
        name: &str,
        calls: &[PlannedCall],
        pace: Pace,
    ) -> anyhow::Result<Self> {
        let file = |kind: &str| folder.join(format!("client-{name}.{kind}"));
        let (planned, truth) = (file("plan.jsonl"), file("truth.jsonl"));
        plan::write(&planned, calls)?;
        let mut command = implementation.command()?;
        command.arg("client").arg("--plan").arg(&planned).arg("--truth").arg(&truth);
        match address {
            Address::Port(port) => command.arg("--target").arg(format!("127.0.0.1:{port}")),
            Address::Unix(path) => command.arg("--unix").arg(path),
        };
        command.arg("--concurrency").arg(pace.concurrency.to_string());
        if let Some(rate) = pace.rate {
            command.arg("--rate").arg(rate.to_string());
        }
        if pace.hold {
            command.arg("--hold");
        }
        let process = Process::start(&format!("client {implementation}"), &mut command, &file("log"))?;
        process.wait_for("ready", PATIENCE)?;
        Ok(Client { process, truth, calls: calls.len() })
    }

    /// Process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Waits until the first half of the calls is made.
    ///
    /// # Errors
    /// When that does not happen.
    pub fn wait_until_held(&self) -> anyhow::Result<()> {
        self.process.wait_for("held", PATIENCE).map(drop)
    }

    /// Lets it make the other half.
    ///
    /// # Errors
    /// When it is gone.
    pub fn go_on(&mut self) -> anyhow::Result<()> {
        self.process.say("go on")
    }

    /// What the application says so far.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn truth_so_far(&self) -> anyhow::Result<Vec<ClientCall>> {
        truth::read(&self.truth)
    }

    /// Waits for its end and returns what it says that it did.
    ///
    /// # Errors
    /// When it fails, or did not make every call.
    pub fn finish(mut self) -> anyhow::Result<Vec<ClientCall>> {
        self.process.wait_for("done", PATIENCE)?;
        let status = self.process.wait(PATIENCE)?;
        anyhow::ensure!(status.success(), "the client failed ({status}); {}", self.process.last_words());
        let calls: Vec<ClientCall> = truth::read(&self.truth)?;
        anyhow::ensure!(calls.len() == self.calls, "{} calls planned, {} made", self.calls, calls.len());
        Ok(calls)
    }
}
