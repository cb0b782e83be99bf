//! A shopper calls the storefront, which calls inventory, and one of them does not keep time, does not let go, tries again, or
//! dies.

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

/// The storefront dies while streams are open.
pub(super) fn server_dies(stage: &Stage) -> Result<()> {
    const NAME: &str = "server_dies";
    let inventory = stage.serve("inventory", NAME, &[])?;
    let uri = inventory.uri()?;
    let storefront = stage.serve("storefront", NAME, &["--inventory", &uri, "--orders", &uri])?;
    let mut shopper = stage.call("shopper", NAME, &["--storefront", &storefront.uri()?])?;
    shopper.wait_for(|said| said["open"].is_number())?;
    storefront.kill()?;
    shopper.ends()?;
    inventory.finish()
}
