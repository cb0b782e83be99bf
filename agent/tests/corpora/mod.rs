//! Where the corpora are.

use std::path::PathBuf;

/// The folder of the corpora, beside the repository. Where it is absent the test is skipped, loudly; in CI that
/// is an error.
pub(crate) fn corpora() -> Option<PathBuf> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpora");
    if path.is_dir() {
        return Some(path);
    }
    assert!(std::env::var_os("CI").is_none(), "the corpora are missing: {}", path.display());
    eprintln!("SKIPPED: the corpora are missing: {}", path.display());
    None
}
