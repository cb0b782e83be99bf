//! Malformed input that others have collected (T1): every file of the shared corpora, whole and in pieces, with
//! debug assertions and checks of arithmetic.

use std::fs;
use std::path::{Path, PathBuf};

use agent_core::Limits;
use agent_core::hpack::{Decoder, ListLimits};

use crate::wire::*;

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("read a folder of the corpora") {
        let path = entry.expect("read a folder of the corpora").path();
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
}

#[test]
fn t1_no_file_of_the_corpora_makes_the_core_panic() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpora");
    if !corpora.is_dir() {
        eprintln!("SKIPPED t1_no_file_of_the_corpora_makes_the_core_panic: {} is missing", corpora.display());
        return;
    }
    let mut inputs = Vec::new();
    ["h2spec", "h2o", "grpc-core"].iter().for_each(|folder| files(&corpora.join(folder), &mut inputs));
    inputs.sort();
    assert!(inputs.len() >= 1_500, "{} inputs", inputs.len());
    for path in &inputs {
        let bytes = fs::read(path).expect("read an input");
        for (flow, cut) in [(CLIENT, usize::MAX), (SERVER, usize::MAX), (CLIENT, 7), (SERVER, 1)] {
            let mut feeder = Feeder::new(Limits::default());
            let mut at = 0;
            for part in bytes.chunks(cut) {
                feeder.send_on(0, flow, at, part);
                at += part.len() as u64;
            }
            feeder.wait(1_000_000_000);
            feeder.finish();
            assert_eq!(feeder.said.started, feeder.said.ended, "{}", path.display());
        }
        let limits = ListLimits { bytes: 65_536, fields: 256 };
        let _ = Decoder::synced(65_536).decode(&bytes, limits, |_| {});
        let _ = Decoder::late(65_536).decode(&bytes, limits, |_| {});
    }
    println!("T1: {} inputs, each in two flows, whole and cut, and as a header block", inputs.len());
}
