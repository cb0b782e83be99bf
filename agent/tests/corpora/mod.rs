//! Where the corpora are.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::path::{Path, PathBuf};

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

/// The recording that an oracle file was made from: `folder__…__name.frames.jsonl.gz`.
pub(crate) fn recording_of(corpora: &Path, oracle: &Path) -> PathBuf {
    let file = oracle.file_name().and_then(|name| name.to_str()).expect("a plain name");
    let parts: Vec<&str> = file.trim_end_matches(".frames.jsonl.gz").split("__").collect();
    let (folder, name) = (parts[0], parts[parts.len() - 1]);
    let candidates = [".pcap", ".pcap.gz", ".pcapng", ".pcapng.gz"];
    candidates
        .iter()
        .map(|ending| corpora.join(folder).join(format!("{name}{ending}")))
        .find(|path| path.exists())
        .unwrap_or_else(|| panic!("no recording for {file}"))
}
