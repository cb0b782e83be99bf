//! Which recordings are taken, and whether they say what the applications saw before they are damaged.

use std::path::{Path, PathBuf};

use agent_core::observation::Call;
use anyhow::Context as _;

use crate::recording::{self, Conversation};
use crate::truth;

/// The root of the repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The folder of the recordings with truths, beside the repository.
#[must_use]
pub fn live_corpora() -> PathBuf {
    root().join("../shared/corpora/live")
}

/// The recording in the repository: the demo's services and clients, which are tonic's.
#[must_use]
pub fn demo_recording() -> PathBuf {
    root().join("proto/recordings/demo.pcap.gz")
}

/// The recordings that are taken if none are named.
///
/// # Errors
/// The folder of the corpora is missing.
pub fn default_files() -> anyhow::Result<Vec<PathBuf>> {
    let mut files = recordings_in(&live_corpora()).context("the corpora are missing, so name recordings")?;
    files.push(demo_recording());
    Ok(files)
}

/// All recordings of a folder.
///
/// # Errors
/// It cannot be read.
pub fn recordings_in(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?;
    let is_recording = |path: &PathBuf| {
        let name = path.to_string_lossy();
        [".pcap", ".pcapng", ".pcap.gz", ".pcapng.gz"].iter().any(|ending| name.ends_with(ending))
    };
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(is_recording).collect();
    files.sort();
    Ok(files)
}

/// Loads recordings. Also returns where an unharmed one differs from its truth.
///
/// # Errors
/// One of them cannot be read.
pub fn load_all(files: &[PathBuf]) -> anyhow::Result<(Vec<Conversation>, Vec<String>)> {
    let mut all = Vec::new();
    let mut differences = Vec::new();
    for file in files {
        let conversations = recording::load(file)?;
        match truth::beside(file)? {
            Some(truth) => {
                let seen: Vec<&Call> =
                    conversations.iter().flat_map(|each| each.reference.values()).collect();
                let found = truth::differences(&truth, &seen);
                differences.extend(found.into_iter().map(|text| format!("{}: {text}", file.display())));
            }
            None => eprintln!("{}: no truth beside it, its unharmed replay is the reference", file.display()),
        }
        all.extend(conversations);
    }
    Ok((all, differences))
}
