//! The agent and the demo, built.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::repo;
use crate::shell::cmd;

/// The programs of this repository that the demo and the scenarios run.
#[derive(Debug)]
pub(crate) struct Programs {
    pub(crate) grpcscope: PathBuf,
    pub(crate) demo: PathBuf,
}

impl Programs {
    pub(crate) fn build(debug: bool) -> Result<Self> {
        let mut build = cmd("cargo")
            .args(["build", "--quiet", "--package", "agent", "--package", "proto", "--bins"])
            .dir(repo::root());
        let mut profile = "debug";
        if !debug {
            build = build.arg("--release");
            profile = "release";
        }
        build.run()?;
        let program = |name: &str| {
            let path = repo::target().join(profile).join(name);
            path.is_file().then_some(path).with_context(|| format!("cargo did not build {name}"))
        };
        Ok(Programs { grpcscope: program("grpcscope")?, demo: program("grpcscope-demo")? })
    }

    /// Asks `grpcscope check` whether this machine can be watched, and returns what it says if not.
    pub(crate) fn why_not_live(&self) -> Result<Option<String>> {
        let output =
            Command::new(&self.grpcscope).arg("check").output().context("start `grpcscope check`")?;
        if output.status.success() {
            return Ok(None);
        }
        let words = [output.stdout, output.stderr].concat();
        Ok(Some(format!("`grpcscope check` says:\n{}", String::from_utf8_lossy(&words).trim_end())))
    }
}
