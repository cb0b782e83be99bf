//! Peers that are not what gRPC expects: stopped, without gRPC, hand-written, or gone. Beside the caller that runs into one there
//! is another that does the same in good order, and of which nothing may be found.

use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use super::foreign::{Language, call, serve};
use super::stage::{Process, Stage};
use crate::repo;

/// A caller and its callee, and another caller of the same callee.
pub(super) fn beside(stage: &Stage, scenario: &str, language: Language) -> Result<()> {
    let callee = serve(stage, "callee", language, scenario, &[])?;
    let next = ["--next", callee.address()?];
    let other = other(stage, language, scenario, &next)?;
    call(stage, language, scenario, &next)?.ends()?;
    other.ends()?;
    callee.finish()
}

/// A callee that is stopped when its caller has nothing more to ask, and never goes on: what it would read then of a caller that has
/// left is a matter of chance.
pub(super) fn stops(stage: &Stage, scenario: &str, language: Language) -> Result<()> {
    let callee = serve(stage, "callee", language, scenario, &[])?;
    let mut caller = call(stage, language, scenario, &["--next", callee.address()?])?;
    caller.wait_for(|said| said["idle"] == true)?;
    callee.stop()?;
    caller.ends()?;
    callee.kill()
}

/// A caller of a gateway.
pub(super) fn gateway(stage: &Stage, scenario: &str, language: Language) -> Result<()> {
    let mut command = Command::new("node");
    command.arg(repo::root().join("tests/apps/node/gateway.js"));
    let callee = stage.serve_as("callee", command)?;
    call(stage, language, scenario, &["--next", callee.address()?])?.ends()?;
    callee.finish()
}

/// Two callers of a balancer whose backend is gone: it takes each connection, and drops it.
pub(super) fn hangs_up(stage: &Stage, scenario: &str, language: Language) -> Result<()> {
    let address = balancer()?.to_string();
    let other = other(stage, language, scenario, &["--next", &address])?;
    call(stage, language, scenario, &["--next", &address])?.ends()?;
    other.ends()
}

/// Looks for its backend when a client has said something. One that drops connections before that leaves nothing that could be
/// seen, if it is faster than the client.
fn balancer() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").context("listen for the balancer")?;
    let address = listener.local_addr().context("ask where the balancer listens")?;
    thread::spawn(move || {
        for mut client in listener.incoming().map_while(Result::ok) {
            // Whatever it is, or if it is nothing: there is no backend.
            let _ = client.set_read_timeout(Some(Duration::from_secs(1)));
            let _ = client.read(&mut [0; 1024]);
        }
    });
    Ok(address)
}

/// A caller of a hand-written callee, and one of a callee with the implementation's own streams; both give calls up.
pub(super) fn heedless(stage: &Stage, scenario: &str, language: Language) -> Result<()> {
    let callee = stage.serve_as("callee", python("heedless.py", &[]))?;
    let heeding = serve(stage, "heeding", language, scenario, &[])?;
    let other = other(stage, language, scenario, &["--next", heeding.address()?])?;
    call(stage, language, scenario, &["--next", callee.address()?])?.ends()?;
    other.ends()?;
    callee.finish()?;
    heeding.finish()
}

/// A hop that has a thread for each connection, and waits in it for the answer of the next one.
pub(super) fn blocking(next: &str) -> Command {
    python("blocking.py", &["--next", next])
}

fn python(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(repo::cache().join("python/bin/python"));
    command.arg(repo::root().join("tests/apps/python").join(program)).args(arguments);
    command
}

/// The caller that does the same in good order.
fn other(stage: &Stage, language: Language, scenario: &str, arguments: &[&str]) -> Result<Process> {
    let scenario = match scenario {
        "idle_stream" => "kept_alive",
        "retry_pushback_ignored" => "obedient",
        "reconnect_storm" => "patient",
        "work_after_end" => "heeded",
        other => other,
    };
    stage.start(scenario, language.command(stage, scenario, arguments))
}
