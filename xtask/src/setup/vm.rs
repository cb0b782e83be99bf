//! What `cargo xtask kernels` needs: qemu, Debian's kernels and a static busybox.

use anyhow::Result;

use super::{Need, apt};
use crate::kernels::{self, Kernel};
use crate::shell::which;

pub(super) fn needs() -> Vec<Box<dyn Need>> {
    let mut needs: Vec<Box<dyn Need>> = vec![Box::new(Qemu), Box::new(Busybox)];
    for series in kernels::SERIES_OF_CI {
        needs.push(Box::new(Kernel::of_series(series)));
    }
    needs
}

struct Qemu;

impl Need for Qemu {
    fn name(&self) -> String {
        kernels::QEMU.into()
    }

    fn present(&self) -> Result<Option<String>> {
        Ok(which(kernels::QEMU).map(|path| path.display().to_string()))
    }

    fn install(&self) -> Result<()> {
        apt::install(&["qemu-system-x86"])
    }
}

struct Busybox;

impl Need for Busybox {
    fn name(&self) -> String {
        "static busybox".into()
    }

    fn present(&self) -> Result<Option<String>> {
        let path = kernels::busybox_path();
        Ok(path.exists().then(|| path.display().to_string()))
    }

    fn install(&self) -> Result<()> {
        kernels::fetch_busybox()
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
