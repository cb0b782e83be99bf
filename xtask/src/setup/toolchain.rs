//! What building needs beside the pinned Rust toolchain: `rust-src`, LLVM 22 and `bpf-linker`.
//!
//! The kernel object is built for `bpfel-unknown-none`, for which there is no prebuilt `core` (hence `rust-src`)
//! and no system linker (hence `bpf-linker`). rustc 1.95 writes bitcode of LLVM 22, so `bpf-linker` must read it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::{Need, apt};
use crate::repo;
use crate::shell::{cmd, which};

const BPF_LINKER_VERSION: &str = "0.13.0";
const LLVM_MAJOR: &str = "22";

/// In the order in which they need each other.
pub(super) fn needs() -> Vec<Box<dyn Need>> {
    vec![Box::new(RustSrc), Box::new(Compiler), Box::new(Llvm), Box::new(BpfLinker)]
}

struct RustSrc;

impl Need for RustSrc {
    fn name(&self) -> String {
        "rust-src".into()
    }

    fn present(&self) -> Result<Option<String>> {
        let sysroot = cmd("rustc").args(["--print", "sysroot"]).dir(repo::root()).read()?;
        let core = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/Cargo.toml");
        Ok(core.exists().then(|| "present".into()))
    }

    fn install(&self) -> Result<()> {
        if which("rustup").is_none() {
            bail!("install rustup, which provides the toolchain that rust-toolchain.toml pins");
        }
        cmd("rustup").args(["component", "add", "rust-src"]).dir(repo::root()).run()
    }
}

/// `bpf-linker` links the C++ of LLVM.
struct Compiler;

impl Need for Compiler {
    fn name(&self) -> String {
        "C++ compiler".into()
    }

    fn present(&self) -> Result<Option<String>> {
        Ok(which("c++").map(|path| path.display().to_string()))
    }

    fn install(&self) -> Result<()> {
        apt::install(&["g++"])
    }
}

struct Llvm;

impl Need for Llvm {
    fn name(&self) -> String {
        format!("LLVM {LLVM_MAJOR} development files")
    }

    fn present(&self) -> Result<Option<String>> {
        // They are there to build bpf-linker, and it is dynamically linked to what they depend on.
        let prefix = llvm_prefix();
        let found = prefix.join("include/llvm-c/Core.h").exists() && has_library(&prefix);
        Ok(found.then(|| prefix.display().to_string()))
    }

    fn install(&self) -> Result<()> {
        if let Some(prefix) = std::env::var_os("LLVM_PREFIX") {
            bail!("LLVM_PREFIX={} holds no include/llvm-c/Core.h and lib/libLLVM*", prefix.to_string_lossy());
        }
        apt::install(&[&format!("llvm-{LLVM_MAJOR}-dev")]).with_context(|| {
            format!(
                "where no package llvm-{LLVM_MAJOR}-dev is to be had, set LLVM_PREFIX to an LLVM {LLVM_MAJOR}"
            )
        })
    }
}

fn has_library(prefix: &Path) -> bool {
    let Ok(entries) = fs::read_dir(prefix.join("lib")) else { return false };
    entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("libLLVM"))
}

fn llvm_prefix() -> PathBuf {
    match std::env::var_os("LLVM_PREFIX") {
        Some(prefix) => prefix.into(),
        None => format!("/usr/lib/llvm-{LLVM_MAJOR}").into(),
    }
}

struct BpfLinker;

impl Need for BpfLinker {
    fn name(&self) -> String {
        "bpf-linker".into()
    }

    fn present(&self) -> Result<Option<String>> {
        let Some(path) = which("bpf-linker") else { return Ok(None) };
        // One that cannot find its libLLVM fails here, and is built anew.
        let Ok(version) = cmd(&path).arg("--version").read() else { return Ok(None) };
        // One that links an LLVM of another major version cannot read the bitcode of our rustc.
        let libraries = cmd("ldd").arg(&path).read().unwrap_or_default();
        let is_llvm_right =
            !libraries.contains("libLLVM") || libraries.contains(&format!("libLLVM.so.{LLVM_MAJOR}"));
        let is_right = is_llvm_right && version.trim().ends_with(BPF_LINKER_VERSION);
        Ok(is_right.then(|| format!("{BPF_LINKER_VERSION} at {}", path.display())))
    }

    fn install(&self) -> Result<()> {
        // Without LLVM_PREFIX linking fails with "unable to find library -lLLVM".
        cmd("cargo")
            .env("LLVM_PREFIX", llvm_prefix())
            .args(["install", "--quiet", "--locked", "--force", "bpf-linker"])
            .args(["--version", BPF_LINKER_VERSION, "--no-default-features"])
            .args(["--features", &format!("llvm-{LLVM_MAJOR}")])
            .dir(repo::root())
            .run()
            .context("is the directory of cargo's programs on PATH, and is the registry of crates reachable?")
    }
}
