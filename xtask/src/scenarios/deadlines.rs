//! Deadlines: a shopper calls the storefront, which calls inventory, and one of them does not keep time.

use anyhow::Result;

use super::stage::Stage;

/// The three in their roles.
pub(super) fn play(stage: &Stage, scenario: &str) -> Result<()> {
    let inventory = stage.serve("inventory", scenario, &[])?;
    // The storefront of these scenarios asks inventory alone.
    let storefront = stage.serve(
        "storefront",
        scenario,
        &["--inventory", &inventory.uri()?, "--orders", &inventory.uri()?],
    )?;
    let shopper = stage.call("shopper", scenario, &["--storefront", &storefront.uri()?])?;
    shopper.ends()?;
    storefront.finish()?;
    inventory.finish()
}
