//! The six workloads, and their two processes.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tests::apps::PATIENCE;
use tests::process::Process;
use tests::{provision, workspace};

use crate::load::Said;
use crate::process::{Cpu, cpu};

/// Calls a second over all idle connections.
const NOW_AND_THEN: f64 = 100.0;

/// What is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Workload {
    /// Unary calls, tonic.
    TonicEcho,
    /// Unary calls, grpcio (C-core).
    GrpcioEcho,
    /// Unary calls, grpc-go.
    GrpcGoEcho,
    /// Messages of 64 KiB from the server, tonic.
    Stream64kib,
    /// 1,000 connections with a call on each every ten seconds, tonic.
    Idle1000,
    /// Requests of HTTP/1.1, no gRPC.
    Http1Echo,
}

impl Workload {
    /// All of them, in the order of the table.
    pub(crate) const ALL: [Workload; 6] = [
        Workload::TonicEcho,
        Workload::GrpcioEcho,
        Workload::GrpcGoEcho,
        Workload::Stream64kib,
        Workload::Idle1000,
        Workload::Http1Echo,
    ];

    /// The name in the figures and on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Workload::TonicEcho => "tonic-echo",
            Workload::GrpcioEcho => "grpcio-echo",
            Workload::GrpcGoEcho => "grpc-go-echo",
            Workload::Stream64kib => "stream64kib",
            Workload::Idle1000 => "idle1000",
            Workload::Http1Echo => "http1-echo",
        }
    }

    /// Whether it can use all the processor time that there is.
    pub(crate) fn saturates(self) -> bool {
        self != Workload::Idle1000
    }

    /// Whether it can run at a rate. Messages of a stream come as fast as they are read.
    pub(crate) fn has_rate(self) -> bool {
        self != Workload::Stream64kib
    }

    /// The rate, where it is part of the workload.
    pub(crate) fn own_rate(self) -> Option<f64> {
        (self == Workload::Idle1000).then_some(NOW_AND_THEN)
    }

    /// Whether its calls are calls of gRPC that end, which the agent has to have seen.
    pub(crate) fn has_calls(self) -> bool {
        !matches!(self, Workload::Stream64kib | Workload::Http1Echo)
    }

    /// Connections, and calls at once.
    fn shape(self) -> (usize, usize) {
        match self {
            Workload::TonicEcho | Workload::GrpcGoEcho => (4, 16),
            // Threads of Python take turns anyway.
            Workload::GrpcioEcho => (2, 4),
            Workload::Stream64kib => (2, 2),
            Workload::Idle1000 => (1000, 16),
            Workload::Http1Echo => (2, 2),
        }
    }

    fn command(self, role: &str) -> Result<Command> {
        let own = |kind: &str| -> Result<Command> {
            let mut command = Command::new(std::env::current_exe().context("find this program")?);
            command.args([role, kind]);
            Ok(command)
        };
        let mut command = match self {
            Workload::TonicEcho | Workload::Idle1000 => own("tonic")?,
            Workload::Stream64kib => own("stream")?,
            Workload::Http1Echo => own("http1")?,
            Workload::GrpcioEcho => {
                require("grpcio")?;
                let mut command = Command::new(workspace::cache().join("python/bin/python"));
                command.arg(workspace::apps().join("python/echo.py")).arg(role);
                command
            }
            Workload::GrpcGoEcho => {
                require("grpc-go-app")?;
                let mut command = Command::new(workspace::cache().join("go/app"));
                command.args(["echo", role]);
                command
            }
        };
        // How the agent names them in its metrics.
        command.env("OTEL_SERVICE_NAME", format!("overhead-{}-{role}", self.name()));
        Ok(command)
    }
}

fn require(name: &str) -> Result<()> {
    let item = provision::ITEMS.iter().find(|item| item.name == name).context("no such item")?;
    ensure!(
        provision::state(item) != provision::State::Missing,
        "{name} is missing: run `cargo xtask setup --for tests`"
    );
    Ok(())
}

/// A server and its client, at work when told to be.
pub(crate) struct Applications {
    server: Process,
    client: Process,
}

/// One run of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Worked {
    pub(crate) said: Said,
    /// Processor time of both, nanoseconds.
    pub(crate) applications_ns: u64,
    /// Processor time of the agent, nanoseconds; zero without one.
    pub(crate) agent_ns: u64,
}

impl Applications {
    /// Starts both; nothing is connected yet.
    pub(crate) fn start(workload: Workload, folder: &Path) -> Result<Self> {
        let log = |role: &str| folder.join(format!("{}.{role}.log", workload.name()));
        let server = Process::start("the server", &mut workload.command("serve")?, &log("server"))?;
        let port = server.wait_for("ready", PATIENCE)?["port"].as_u64().context("the server has no port")?;
        let (connections, concurrency) = workload.shape();
        let mut command = workload.command("call")?;
        command.args(["--target", &format!("127.0.0.1:{port}")]);
        command.args(["--connections", &connections.to_string()]);
        command.args(["--concurrency", &concurrency.to_string()]);
        let client = Process::start("the client", &mut command, &log("client"))?;
        Ok(Applications { server, client })
    }

    /// Both process ids.
    pub(crate) fn pids(&self) -> [u32; 2] {
        [self.server.pid(), self.client.pid()]
    }

    /// Calls for a time, at a rate a second or, with zero, as fast as it goes.
    pub(crate) fn work(&mut self, seconds: f64, rate: f64, agent: Option<u32>) -> Result<Worked> {
        self.client.say(&format!("{seconds} {rate}"))?;
        let patience = PATIENCE + Duration::from_secs_f64(seconds);
        self.client.wait_for("begin", patience)?;
        let begin = self.spent(agent)?;
        let said = self.client.wait_for("done", patience)?;
        let end = self.spent(agent)?;
        let said: Said = serde_json::from_value(said).context("read what the client says")?;
        Ok(Worked { said, applications_ns: end.0.since(begin.0), agent_ns: end.1.since(begin.1) })
    }

    fn spent(&self, agent: Option<u32>) -> Result<(Cpu, Cpu)> {
        let agent = agent.map_or(Ok(Cpu::default()), cpu)?;
        Ok((cpu(self.server.pid())?.plus(cpu(self.client.pid())?), agent))
    }
}
