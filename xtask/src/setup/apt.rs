//! Installs Debian packages on the machine, or says what a person has to install.

use std::os::unix::fs::MetadataExt;
use std::sync::OnceLock;

use anyhow::{Result, bail};

use crate::shell::{cmd, which};

/// Another apt may be at work on the machine: wait for it so long.
const LOCK_TIMEOUT: &str = "DPkg::Lock::Timeout=600";

/// Installs packages, after one `apt-get update` for the whole run.
pub(super) fn install(packages: &[&str]) -> Result<()> {
    let wanted = packages.join(" ");
    if which("apt-get").is_none() {
        bail!(
            "this machine has no apt-get; install with its own package manager what Debian calls: {wanted}"
        );
    }
    if !is_root() {
        bail!("needs root; run: sudo apt-get update && sudo apt-get install --yes {wanted}");
    }
    static UPDATED: OnceLock<()> = OnceLock::new();
    if UPDATED.get().is_none() {
        // Lists that cannot be refreshed may still be good enough, so this alone is no failure.
        if let Err(error) = cmd("apt-get").args(["--quiet", "-o", LOCK_TIMEOUT, "update"]).run() {
            eprintln!("  {error:#} (offline?); going on with the package lists that are there");
        }
        let _ = UPDATED.set(());
    }
    cmd("apt-get")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(["--quiet", "--yes", "--no-install-recommends", "-o", LOCK_TIMEOUT, "install"])
        .args(packages)
        .run()
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}
