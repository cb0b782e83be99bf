//! What `cargo xtask kernels` needs: qemu, Debian's kernels, a static busybox, and Rust's library for other machines.

use std::path::Path;

use anyhow::{Result, bail};

use super::{Need, apt};
use crate::kernels::{self, Arch, Kernel};
use crate::repo;
use crate::shell::{cmd, which};

/// For the kernels of CI.
pub(super) fn needs() -> Vec<Box<dyn Need>> {
    let mut needs = needs_of(Arch::X86_64);
    for series in kernels::SERIES_OF_CI {
        needs.push(Box::new(Kernel::of(Arch::X86_64, series)));
    }
    needs
}

/// For any kernel of an architecture, but for the kernel itself.
pub(super) fn needs_of(arch: Arch) -> Vec<Box<dyn Need>> {
    let mut needs: Vec<Box<dyn Need>> = vec![Box::new(Qemu(arch)), Box::new(Busybox(arch))];
    if !arch.is_this_machine() {
        needs.push(Box::new(Musl(arch)));
    }
    needs
}

struct Qemu(Arch);

impl Need for Qemu {
    fn name(&self) -> String {
        self.0.qemu().into()
    }

    fn present(&self) -> Result<Option<String>> {
        Ok(which(self.0.qemu()).map(|path| path.display().to_string()))
    }

    fn install(&self) -> Result<()> {
        apt::install(&[self.0.qemu_package()])
    }
}

struct Busybox(Arch);

impl Need for Busybox {
    fn name(&self) -> String {
        format!("static busybox for {}", self.0.name())
    }

    fn present(&self) -> Result<Option<String>> {
        let path = kernels::busybox_path(self.0);
        Ok(path.exists().then(|| path.display().to_string()))
    }

    fn install(&self) -> Result<()> {
        kernels::fetch_busybox(self.0)
    }
}

/// Rust's standard library for static programs of another machine.
struct Musl(Arch);

impl Musl {
    fn target(&self) -> String {
        format!("{}-unknown-linux-musl", self.0.name())
    }
}

impl Need for Musl {
    fn name(&self) -> String {
        format!("Rust's library for {}", self.target())
    }

    fn present(&self) -> Result<Option<String>> {
        let sysroot = cmd("rustc").args(["--print", "sysroot"]).dir(repo::root()).read()?;
        let library = Path::new(sysroot.trim()).join("lib/rustlib").join(self.target()).join("lib");
        Ok(library.is_dir().then(|| "present".into()))
    }

    fn install(&self) -> Result<()> {
        if which("rustup").is_none() {
            bail!("install rustup, which provides the toolchain that rust-toolchain.toml pins");
        }
        cmd("rustup").args(["target", "add", &self.target()]).dir(repo::root()).run()
    }
}

impl Need for Kernel {
    fn name(&self) -> String {
        format!("kernel {}", self.series)
    }

    fn present(&self) -> Result<Option<String>> {
        Ok(self.release())
    }

    fn install(&self) -> Result<()> {
        self.fetch()
    }
}
