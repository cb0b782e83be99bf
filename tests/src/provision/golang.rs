//! The Go toolchain and grpc-go from Debian, and the test application built with them.
//!
//! Debian ships Go libraries as source below one GOPATH, so no module is downloaded. The newest suite whose
//! packages build the application is taken.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use super::Item;
use super::debian::Suite;
use crate::process::output;
use crate::workspace;

/// Newest first.
const SUITES: [&str; 2] = ["sid", "trixie"];

/// grpc-go and what it imports.
const LIBRARIES: [&str; 7] = [
    "golang-google-grpc-dev",
    "golang-google-protobuf-dev",
    "golang-google-genproto-dev",
    "golang-github-golang-protobuf-1-5-dev",
    "golang-golang-x-net-dev",
    "golang-golang-x-sys-dev",
    "golang-golang-x-text-dev",
];

pub(super) const GRPC_GO: Item = Item {
    name: "grpc-go",
    purpose: "gRPC of Go programs, with the toolchain",
    recipe: || Ok(format!("debian {}: golang, {}", SUITES.join(", "), LIBRARIES.join(", "))),
    witness: "go/root",
    install,
};

pub(super) const APP: Item = Item {
    name: "grpc-go-app",
    purpose: "the test application in Go",
    recipe: || Ok(format!("go build of sources {:016x}", hash_of_sources()?)),
    witness: "go/app",
    install: |cache| {
        let root = cache.join("go/root");
        build(&root, &cache.join("go/app"))?;
        output(go(&root)?.arg("version")).map(|text| text.trim().to_owned())
    },
};

fn install(cache: &Path) -> anyhow::Result<String> {
    let folder = cache.join("go");
    let (root, fresh) = (folder.join("root"), folder.join("root.new"));
    let mut failures = Vec::new();
    for suite in SUITES {
        if fresh.exists() {
            std::fs::remove_dir_all(&fresh)?;
        }
        match install_from(cache, suite, &fresh) {
            Ok(versions) => {
                if root.exists() {
                    std::fs::remove_dir_all(&root)?;
                }
                std::fs::rename(&fresh, &root)?;
                return Ok(format!("{suite}: {}", versions.join(", ")));
            }
            Err(error) => failures.push(format!("{suite}: {error:#}")),
        }
    }
    bail!("{}", failures.join("; "))
}

fn install_from(cache: &Path, suite: &str, target: &Path) -> anyhow::Result<Vec<String>> {
    let suite = Suite::open(cache, suite)?;
    let toolchain =
        newest_toolchain(&suite.find("^golang-1[.][0-9]+-go$")?).context("find a Go toolchain")?;
    let (go, source) = (format!("golang-{toolchain}-go"), format!("golang-{toolchain}-src"));
    let mut packages = vec![go.as_str(), source.as_str()];
    packages.extend(LIBRARIES);
    let versions = suite.unpack(&packages, target)?;
    build(target, &target.join("app")).context("build the test application")?;
    Ok(versions)
}

/// The highest `1.N` of packages named `golang-1.N-go`.
fn newest_toolchain(packages: &[String]) -> Option<String> {
    packages
        .iter()
        .filter_map(|name| name.strip_prefix("golang-1.")?.strip_suffix("-go")?.parse::<u32>().ok())
        .max()
        .map(|minor| format!("1.{minor}"))
}

/// Builds the test application with the toolchain and the libraries below `root`.
fn build(root: &Path, target: &Path) -> anyhow::Result<()> {
    output(go(root)?.args(["build", "-trimpath", "-o"]).arg(target).current_dir(sources())).map(drop)
}

fn go(root: &Path) -> anyhow::Result<Command> {
    let lib = root.join("usr/lib");
    let toolchain = std::fs::read_dir(&lib)
        .with_context(|| format!("read {}", lib.display()))?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.join("bin/go").is_file())
        .with_context(|| format!("no Go toolchain in {}", lib.display()))?;
    let mut command = Command::new(toolchain.join("bin/go"));
    command
        .env("GOROOT", &toolchain)
        .env("GOPATH", root.join("usr/share/gocode"))
        .env("GO111MODULE", "off")
        .env("GOFLAGS", "")
        .env("GOTOOLCHAIN", "local")
        .env("GOPROXY", "off")
        .env("CGO_ENABLED", "0")
        .env("GOCACHE", workspace::cache().join("go/build"));
    Ok(command)
}

fn sources() -> PathBuf {
    workspace::apps().join("go")
}

/// Changes with the application's sources and with the stamp of the toolchain.
fn hash_of_sources() -> anyhow::Result<u64> {
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(sources())?.map(|entry| Ok(entry?.path())).collect::<anyhow::Result<_>>()?;
    paths.sort();
    paths.push(super::stamp_path(&workspace::cache(), GRPC_GO.name));
    let mut hasher = DefaultHasher::new();
    for path in paths {
        std::fs::read(&path).unwrap_or_default().hash(&mut hasher);
    }
    Ok(hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::newest_toolchain;

    #[test]
    fn the_newest_toolchain_is_the_highest_number_not_the_last_name() {
        let packages = ["golang-1.9-go", "golang-1.27-go", "golang-1.100-src"].map(str::to_owned);
        assert_eq!(newest_toolchain(&packages).as_deref(), Some("1.27"));
        assert_eq!(newest_toolchain(&[]), None);
    }
}
