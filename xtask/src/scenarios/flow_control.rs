//! Flow control: inventory sends much, and a reader keeps it waiting, or does not.

use std::time::Duration;

use anyhow::Result;

use super::delay::Delay;
use super::stage::Stage;

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
