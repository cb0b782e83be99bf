//! The programs that run inside: the checks, the agent and the application that it watches.
//!
//! For this machine's architecture they are those of the ordinary build, which come with their libraries; for another one they are
//! static ones with musl, which Rust's own linker links, so that no compiler of another architecture is needed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{Arch, Check};
use crate::repo;
use crate::shell::cmd;

pub(super) const WALKER: &str = "walker_check";
pub(super) const CALLS: &str = "calls_check";

/// Builds what the checks need, as the tests do, and leaves out what only a debugger reads: the emulated machine copies every byte.
pub(super) fn build(arch: Arch, checks: &[Check]) -> Result<Vec<PathBuf>> {
    let mut names = Vec::new();
    if checks.contains(&Check::Walker) {
        names.push(WALKER);
    }
    if checks.contains(&Check::Calls) || checks.contains(&Check::Change) {
        names.extend([CALLS, "tonic_app", "grpcscope"]);
    }
    let mut build = cmd("cargo")
        .args(["build", "--quiet", "--package", "tests", "--package", "agent"])
        .args(names.iter().flat_map(|name| ["--bin", name]))
        .dir(repo::root());
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| repo::root().join("target"), PathBuf::from);
    let mut folder = target.clone();
    if !arch.is_this_machine() {
        let triple = format!("{}-unknown-linux-musl", arch.name());
        let linker = format!("CARGO_TARGET_{}_LINKER", triple.replace('-', "_").to_uppercase());
        build = build.args(["--target", &triple]).env(&linker, "rust-lld");
        folder.push(triple);
    }
    build.run()?;
    let stripped = target.join("kernels").join(arch.name());
    fs::create_dir_all(&stripped).with_context(|| format!("make {}", stripped.display()))?;
    names.iter().map(|name| strip(&folder.join("debug").join(name), &stripped)).collect()
}

fn strip(program: &Path, to: &Path) -> Result<PathBuf> {
    let name = program.file_name().with_context(|| format!("find the file name in {}", program.display()))?;
    let stripped = to.join(name);
    let sysroot = cmd("rustc").args(["--print", "sysroot"]).dir(repo::root()).read()?;
    let host = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    // Rust's own, since that of another architecture's programs may not be on this machine.
    let sysroot = Path::new(sysroot.trim());
    let objcopy = sysroot.join("lib/rustlib").join(host).join("bin/rust-objcopy");
    cmd(objcopy)
        .env("LD_LIBRARY_PATH", sysroot.join("lib"))
        .arg("--strip-debug")
        .arg(program)
        .arg(&stripped)
        .read()?;
    Ok(stripped)
}
