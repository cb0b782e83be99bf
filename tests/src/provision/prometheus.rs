//! Prometheus and promtool from Debian, unpacked: no service is installed or started. The newest suite is
//! preferred, since native histograms need 2.53 or newer.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail};

use super::Item;
use super::debian::Suite;
use crate::process::output;

/// Newest first.
const SUITES: [&str; 2] = ["sid", "trixie"];

pub(super) const PROMETHEUS: Item = Item {
    name: "prometheus",
    purpose: "the real thing that scrapes, and promtool",
    recipe: || Ok(format!("debian {}: prometheus, promtool", SUITES.join(", "))),
    witness: "prometheus/usr/bin/promtool",
    install: |cache| {
        let mut failures = Vec::new();
        for suite in SUITES {
            match install_from(cache, suite) {
                Ok(versions) => return Ok(versions),
                Err(error) => failures.push(format!("{suite}: {error:#}")),
            }
        }
        bail!("{}", failures.join("; "))
    },
};

fn install_from(cache: &Path, suite: &str) -> anyhow::Result<String> {
    let target = cache.join("prometheus");
    let versions = Suite::open(cache, suite)?.unpack(&["prometheus", "promtool"], &target)?;
    for program in ["prometheus", "promtool"] {
        output(Command::new(target.join("usr/bin").join(program)).arg("--version"))
            .context("the package does not run here")?;
    }
    Ok(format!("{suite}: {}", versions.join(", ")))
}
