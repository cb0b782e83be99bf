//! Where things are: the root of the workspace, and the cache that set-up fills.

use std::path::{Path, PathBuf};

/// The root of the workspace.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask/ lies in the root of the workspace")
}

/// Where set-up keeps what it downloads: `$GRPCSCOPE_CACHE`, else `.cache/` in the repository (ignored by git).
pub(crate) fn cache() -> PathBuf {
    match std::env::var_os("GRPCSCOPE_CACHE") {
        Some(path) if !path.is_empty() => std::path::absolute(&path).unwrap_or_else(|_| path.into()),
        _ => root().join(".cache"),
    }
}

/// Where cargo builds: `$CARGO_TARGET_DIR`, else `target/`.
pub(crate) fn target() -> PathBuf {
    root().join(std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
}

/// Whether this is a run of continuous integration, where a missing need is an error and not a skip.
pub(crate) fn is_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| !matches!(value.as_str(), "" | "0" | "false"))
}
