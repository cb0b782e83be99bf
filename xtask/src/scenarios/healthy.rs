//! Everything done right, under load: what the agent says of it is wrong.

use std::time::Duration;

use anyhow::Result;

use super::catalogue::HEALTHY;
use super::stage::{Process, Stage};

/// What shoppers do a second; most of it makes another call behind the storefront, so that this is above 1,000 calls a
/// second where the machine has that much to give.
const ACTIONS_A_SECOND: f64 = 600.0;

/// Two storefronts over three inventories, each client over all of them in turn. The storefronts end while the shopper
/// is still connected, as in a rolling update.
pub(super) fn play(stage: &Stage) -> Result<()> {
    let inventories = serve(stage, "inventory", 3, &[])?;
    let inventory = uris(&inventories)?;
    let storefronts = serve(stage, "storefront", 2, &["--inventory", &inventory, "--orders", &inventory])?;
    let (seconds, rate) = (stage.seconds(), ACTIONS_A_SECOND);
    let arguments = ["--storefront", &uris(&storefronts)?, "--seconds", &seconds.to_string()];
    let mut shopper =
        stage.call("shopper", HEALTHY, &[&arguments[..], &["--rate", &rate.to_string()]].concat())?;
    shopper.wait_within(Duration::from_secs_f64(seconds), |said| said["done"] == true)?;
    storefronts.into_iter().try_for_each(Process::finish)?;
    shopper.finish()?;
    inventories.into_iter().try_for_each(Process::finish)
}

fn serve(stage: &Stage, role: &str, count: usize, arguments: &[&str]) -> Result<Vec<Process>> {
    let start = |n| stage.serve_as(&format!("{role}-{n}"), stage.demo(role, HEALTHY, arguments));
    (1..=count).map(start).collect()
}

fn uris(processes: &[Process]) -> Result<String> {
    Ok(processes.iter().map(Process::uri).collect::<Result<Vec<_>>>()?.join(","))
}
