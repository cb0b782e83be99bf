//! What the benches compare with, and what counts instructions.

use anyhow::Result;

use super::{Need, apt};
use crate::shell::{cmd, which};

/// The peers of `cargo xtask bench`. Not a part of `all`: they are large, and only that command needs them.
pub(super) fn peers() -> Vec<Box<dyn Need>> {
    vec![Box::new(Nghttp2), Box::new(Program { name: "tshark", package: "tshark" })]
}

/// What records the traffic of the test applications, for `cargo xtask mutate --record`. Not a part of `all` either.
pub(super) fn recorder() -> Box<dyn Need> {
    Box::new(Program { name: "tcpdump", package: "tcpdump" })
}

/// What counts the instructions of the benches' fixed inputs.
pub(super) fn counter() -> Box<dyn Need> {
    Box::new(Program { name: "valgrind", package: "valgrind" })
}

/// A program of a Debian package.
struct Program {
    name: &'static str,
    package: &'static str,
}

impl Need for Program {
    fn name(&self) -> String {
        self.name.into()
    }

    fn present(&self) -> Result<Option<String>> {
        Ok(which(self.name).map(|path| path.display().to_string()))
    }

    fn install(&self) -> Result<()> {
        apt::install(&[self.package])
    }
}

/// The library that the benches load when they run.
struct Nghttp2;

impl Need for Nghttp2 {
    fn name(&self) -> String {
        "libnghttp2".into()
    }

    fn present(&self) -> Result<Option<String>> {
        let libraries = cmd("/sbin/ldconfig").arg("--print-cache").read()?;
        let line = libraries.lines().find(|line| line.trim_start().starts_with("libnghttp2.so.14 "));
        Ok(line.and_then(|line| line.split("=> ").nth(1)).map(str::to_owned))
    }

    fn install(&self) -> Result<()> {
        apt::install(&["libnghttp2-14"])
    }
}
