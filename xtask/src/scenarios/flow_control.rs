//! Flow control: inventory sends much, and a reader keeps it waiting, or does not.

use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::delay::Delay;
use super::stage::Stage;
use crate::repo;

/// How inventory is started: it sends whatever stream it is asked for.
const INVENTORY: &str = "long_streams";

/// From one end to the other, with the delaying proxy.
const ONE_WAY: Duration = Duration::from_millis(25);

/// A reader on the same machine.
pub(super) fn near(stage: &Stage, scenario: &str) -> Result<()> {
    let inventory = stage.serve("inventory", INVENTORY, &[])?;
    let reader = stage.call("reader", scenario, &["--inventory", &inventory.uri()?])?;
    reader.ends()?;
    inventory.finish()
}

/// A reader to whom everything takes [`ONE_WAY`].
pub(super) fn far(stage: &Stage, scenario: &str) -> Result<()> {
    let inventory = stage.serve("inventory", INVENTORY, &[])?;
    let delay = Delay::start(inventory.address()?, ONE_WAY)?;
    let uri = format!("http://{}", delay.address());
    let reader = stage.call("reader", scenario, &["--inventory", &uri])?;
    reader.ends()?;
    inventory.finish()
}

/// A reader with grpcio.
pub(super) fn grpcio(stage: &Stage) -> Result<()> {
    let mut command = Command::new(repo::cache().join("python/bin/python"));
    command.arg(repo::root().join("tests/apps/python/reader.py"));
    foreign(stage, command)
}

/// A reader with grpc-js.
pub(super) fn grpc_js(stage: &Stage) -> Result<()> {
    let mut command = Command::new("node");
    command.arg(repo::root().join("tests/apps/node/reader.js"));
    command.env("NODE_PATH", repo::cache().join("node/node_modules"));
    foreign(stage, command)
}

/// A slow reader that is not ours, of our inventory.
fn foreign(stage: &Stage, mut command: Command) -> Result<()> {
    let inventory = stage.serve("inventory", INVENTORY, &[])?;
    command.args(["--inventory", inventory.address()?]);
    stage.start("reader", command)?.ends()?;
    inventory.finish()
}
