//! Where the repository, its cache and the things beside it are, and what is required of this run.

use std::path::{Path, PathBuf};

/// The folder of the workspace's `Cargo.toml`.
#[must_use]
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in a folder of the workspace")
}

/// Where provisioned things are kept: `GRPCSCOPE_CACHE`, else `.cache` of the workspace.
#[must_use]
pub fn cache() -> PathBuf {
    match std::env::var_os("GRPCSCOPE_CACHE") {
        Some(path) if !path.is_empty() => PathBuf::from(path),
        _ => root().join(".cache"),
    }
}

/// The sources of the test applications.
#[must_use]
pub fn apps() -> PathBuf {
    root().join("tests/apps")
}

/// A new folder under the cache for the files of one test; logs and truth stay there until the next run.
///
/// # Errors
/// When the folder cannot be made.
pub fn scratch(name: &str) -> anyhow::Result<PathBuf> {
    use anyhow::Context as _;
    let path = cache().join("runs").join(name);
    if path.exists() {
        std::fs::remove_dir_all(&path).with_context(|| format!("remove {}", path.display()))?;
    }
    std::fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
    Ok(path)
}

/// True where a missing prerequisite is an error: in CI (`CI=true`) and with `GRPCSCOPE_REQUIRE=1`.
#[must_use]
pub fn is_strict() -> bool {
    let is = |name, value: &str| std::env::var(name).is_ok_and(|found| found == value);
    is("CI", "true") || is("GRPCSCOPE_REQUIRE", "1")
}

/// Decides what a missing prerequisite means: fails where everything is required, else says loudly that the
/// test did not run and returns true.
///
/// # Panics
/// In CI and with `GRPCSCOPE_REQUIRE=1`.
#[must_use]
pub fn skip(test: &str, missing: &str) -> bool {
    use std::io::Write as _;
    assert!(!is_strict(), "{test}: {missing}");
    // Not `eprintln!`, which the test runner hides when the test passes.
    let _ = writeln!(std::io::stderr(), "\nSKIPPED {test}: {missing}");
    true
}
