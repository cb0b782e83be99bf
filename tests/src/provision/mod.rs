//! Puts what the live tests need into the cache: libraries, toolchains and servers as their users get them.
//!
//! Every item has a stamp that says which recipe made it and what came of it. An item whose stamp is that of
//! today's recipe is left alone, so the second run does nothing. Nothing is installed into the system.

mod debian;
mod golang;
mod node;
mod prometheus;
mod python;

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::workspace;

/// Something that the tests need.
pub struct Item {
    /// What it is called on the command line and in messages.
    pub name: &'static str,
    /// What it is for.
    pub purpose: &'static str,
    /// Says what a stamp of today's recipe starts with.
    recipe: fn() -> anyhow::Result<String>,
    /// A file below the cache that is there when the item is.
    witness: &'static str,
    /// Makes it, and says which versions it got.
    install: fn(&Path) -> anyhow::Result<String>,
}

/// All items, each after those that it needs.
pub const ITEMS: [Item; 7] = [
    python::GRPCIO,
    python::PLAIN_HTTP2,
    python::ENVOY,
    node::GRPC_JS,
    golang::GRPC_GO,
    golang::APP,
    prometheus::PROMETHEUS,
];

/// State of an item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Installed by today's recipe, with these versions.
    Ready(String),
    /// Not installed, or by another recipe.
    Missing,
}

/// Looks at an item without changing anything.
#[must_use]
pub fn state(item: &Item) -> State {
    let cache = workspace::cache();
    let Ok(recipe) = (item.recipe)() else { return State::Missing };
    let stamp = std::fs::read_to_string(stamp_path(&cache, item.name)).unwrap_or_default();
    match stamp.split_once('\n') {
        Some((made_by, versions)) if made_by == recipe && cache.join(item.witness).exists() => {
            State::Ready(versions.trim().to_owned())
        }
        _ => State::Missing,
    }
}

/// Installs an item if it is missing. Returns its versions.
///
/// # Errors
/// When it cannot be installed.
pub fn install(item: &Item) -> anyhow::Result<String> {
    let cache = workspace::cache();
    std::fs::create_dir_all(cache.join("stamps")).with_context(|| format!("make {}", cache.display()))?;
    let _lock = lock(&cache)?;
    if let State::Ready(versions) = state(item) {
        return Ok(versions);
    }
    let recipe = (item.recipe)()?;
    let versions = (item.install)(&cache).with_context(|| format!("install {}", item.name))?;
    anyhow::ensure!(
        cache.join(item.witness).exists(),
        "{} is installed, but {} is not there",
        item.name,
        item.witness
    );
    let stamp = stamp_path(&cache, item.name);
    std::fs::write(&stamp, format!("{recipe}\n{versions}\n"))
        .with_context(|| format!("write {}", stamp.display()))?;
    Ok(versions)
}

/// True if the named items are there. If not, says so loudly, or fails where everything is required.
///
/// # Panics
/// In CI and with `GRPCSCOPE_REQUIRE=1`, when one is missing.
#[must_use]
pub fn is_ready(test: &str, names: &[&str]) -> bool {
    let missing: Vec<&str> = ITEMS
        .iter()
        .filter(|item| names.contains(&item.name))
        .filter(|item| state(item) == State::Missing)
        .map(|item| item.name)
        .collect();
    if missing.is_empty() {
        return true;
    }
    let advice = format!("{} missing: run `cargo run -p tests --bin provision`", missing.join(", "));
    !workspace::skip(test, &advice)
}

fn stamp_path(cache: &Path, name: &str) -> PathBuf {
    cache.join("stamps").join(name)
}

/// One provisioning at a time; the lock goes with the file.
fn lock(cache: &Path) -> anyhow::Result<File> {
    let file = File::create(cache.join("stamps/.lock")).context("create the lock of the cache")?;
    // SAFETY: `flock` touches no memory, and the descriptor is open.
    let result = unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX) };
    anyhow::ensure!(result == 0, "lock the cache: {}", std::io::Error::last_os_error());
    Ok(file)
}
