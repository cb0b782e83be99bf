//! @grpc/grpc-js, in a folder of the cache. Node itself must be on the machine.

use std::process::Command;

use anyhow::Context as _;

use super::Item;
use crate::process::output;

pub(super) const GRPC_JS: Item = Item {
    name: "grpc-js",
    purpose: "gRPC of Node programs",
    recipe: || Ok("npm @grpc/grpc-js@~1.14.7".to_owned()),
    witness: "node/node_modules/@grpc/grpc-js/package.json",
    install: |cache| {
        let folder = cache.join("node");
        std::fs::create_dir_all(&folder)?;
        output(
            Command::new("npm")
                .args(["install", "--no-audit", "--no-fund", "--loglevel=error", "--prefix"])
                .arg(&folder)
                .arg("@grpc/grpc-js@~1.14.7"),
        )
        .context("npm and Node 18 or newer are needed (Debian: apt-get install nodejs npm)")?;
        let description = std::fs::read_to_string(folder.join("node_modules/@grpc/grpc-js/package.json"))?;
        let description: serde_json::Value = serde_json::from_str(&description)?;
        let node = output(Command::new("node").arg("--version"))?;
        Ok(format!("@grpc/grpc-js {}, node {}", description["version"].as_str().unwrap_or("?"), node.trim()))
    },
};
