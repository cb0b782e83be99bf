//! Builds the kernel object (`agent-ebpf`) for `bpfel-unknown-none` and leaves it in `OUT_DIR`.
//!
//! `aya-build` does nearly this, but it leaves no way to choose the BPF CPU, and version 2 is what the
//! verifiers of all supported kernels follow best. `RUSTC_BOOTSTRAP` is set for this one crate, since `core`
//! has to be built for that target; everything else in the workspace is plain stable Rust.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs};

const TARGET: &str = "bpfel-unknown-none";
const OBJECT: &str = "grpcscope-ebpf";

fn main() {
    for path in ["../agent-ebpf", "../agent-common", "../Cargo.lock"] {
        println!("cargo::rerun-if-changed={path}");
    }
    println!("cargo::rerun-if-env-changed=PATH");
    if let Err(message) = build() {
        println!("cargo::error={message}");
    }
}

fn build() -> Result<(), String> {
    let variable = |name: &str| env::var(name).map_err(|_| format!("{name} is not set: run this by cargo"));
    let (cargo, rustc, out) = (variable("CARGO")?, variable("RUSTC")?, PathBuf::from(variable("OUT_DIR")?));
    let arch = variable("CARGO_CFG_TARGET_ARCH")?;

    let linker =
        Command::new("bpf-linker").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !linker.is_ok_and(|status| status.success()) {
        return Err(
            "bpf-linker is not installed, and the kernel programs need it: run `cargo xtask setup`".into()
        );
    }
    let sysroot = Command::new(&rustc)
        .args(["--print", "sysroot"])
        .output()
        .map_err(|error| format!("cannot run {rustc}: {error}"))?;
    let sysroot = String::from_utf8_lossy(&sysroot.stdout).trim().to_owned();
    if !Path::new(&sysroot).join("lib/rustlib/src/rust/library/core").is_dir() {
        return Err(
            "the toolchain has no rust-src, and the kernel programs need it: run `cargo xtask setup`".into(),
        );
    }

    let target_dir = out.join("ebpf");
    let flags = [
        format!("--cfg=bpf_target_arch=\"{arch}\""),
        "-Cdebuginfo=2".into(),
        "-Clink-arg=--btf".into(),
        "-Ctarget-cpu=v2".into(),
    ];
    let output = Command::new(cargo)
        .args(["build", "--package", "agent-ebpf", "--bins", "--release", "--target", TARGET])
        .args(["-Z", "build-std=core", "--color", "never", "--target-dir"])
        .arg(&target_dir)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("CARGO_BUILD_TARGET")
        .output()
        .map_err(|error| format!("cannot run cargo for the kernel programs: {error}"))?;
    if !output.status.success() {
        // Line by line, so that cargo shows the compiler's own words before the one line that matters.
        for line in String::from_utf8_lossy(&output.stderr).lines() {
            println!("cargo::warning={line}");
        }
        return Err("the kernel programs (agent-ebpf) did not build, see the lines above".into());
    }
    let object = target_dir.join(TARGET).join("release").join(OBJECT);
    fs::copy(&object, out.join(OBJECT))
        .map(drop)
        .map_err(|error| format!("cannot copy {}: {error}", object.display()))
}
