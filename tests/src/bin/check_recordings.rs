//! Replays the recordings of `record_pairs` and compares every call with the applications' truth; of those with
//! a pause in the middle, also what follows the pause alone, as one that joined late.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use clap::Parser;
use tests::apps::built_here;
use tests::compare::{Joined, Truth, compare, join};
use tests::observed::{self, Line};
use tests::process::output;
use tests::truth;

#[derive(Parser)]
struct Arguments {
    /// Folder with the recordings and truths.
    folder: PathBuf,
    /// Only those whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let mut names: Vec<String> = std::fs::read_dir(&arguments.folder)
        .with_context(|| format!("read {}", arguments.folder.display()))?
        .flatten()
        .filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(".client.jsonl")?.to_owned()))
        .filter(|name| name.contains(&arguments.only))
        .collect();
    names.sort();
    anyhow::ensure!(!names.is_empty(), "no recording in {}", arguments.folder.display());
    let mut differ = 0;
    for name in &names {
        let file = |suffix: &str| arguments.folder.join(format!("{name}.{suffix}"));
        let truths = join(truth::read(&file("client.jsonl"))?, &truth::read(&file("server.jsonl"))?);
        let recording = [file("pcap"), file("pcap.gz")].into_iter().find(|path| path.exists());
        let recording = recording.with_context(|| format!("{name}: there is no recording"))?;
        differ += check(name, &truths, &recording, Joined::FromTheStart)?;
        if let Ok(text) = std::fs::read_to_string(file("cut")) {
            let cut_ns: u64 = text.parse().context("read the time of the pause")?;
            let later: Vec<Truth> = truths.into_iter().filter(|truth| truth.made.t0_ns > cut_ns).collect();
            let second_half = std::env::temp_dir().join(format!("grpcscope-cut-{}.pcap", std::process::id()));
            std::fs::write(&second_half, cut(&std::fs::read(&recording)?, cut_ns)?)?;
            differ += check(&format!("{name}, joined late"), &later, &second_half, Joined::Late)?;
            std::fs::remove_file(second_half)?;
        }
    }
    anyhow::ensure!(differ == 0, "{differ} recordings differ from the truth");
    Ok(())
}

/// Replays one recording. Returns 1 if it differs.
fn check(name: &str, truths: &[Truth], recording: &Path, joined: Joined) -> anyhow::Result<u32> {
    let lines = output(Command::new(built_here("grpcscope")?).args(["replay", "--json"]).arg(recording))?;
    let mut calls = Vec::new();
    for line in lines.lines() {
        if let Line::Call(call) = observed::parse(line)? {
            calls.push(*call);
        }
    }
    let result = compare(truths, &calls, joined);
    println!(
        "{name}: {} match, {} deadlines, {} without a method, {} without a type, {} never sent",
        result.matched, result.deadlines, result.without_method, result.without_type, result.never_sent
    );
    let Err(error) = result.check(name) else { return Ok(0) };
    println!("{error:#}");
    Ok(1)
}

/// The records of a classic pcap file (microseconds, this machine's byte order) from a time on.
fn cut(file: &[u8], from_ns: u64) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if file.starts_with(&[0x1f, 0x8b]) {
        flate2::read::GzDecoder::new(file).read_to_end(&mut bytes)?;
    } else {
        bytes.extend_from_slice(file);
    }
    let number = |at: usize| -> Option<u64> {
        Some(u64::from(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?)))
    };
    anyhow::ensure!(number(0) == Some(0xa1b2_c3d4), "not a recording of record_pairs");
    let mut at = 24;
    while let (Some(seconds), Some(micros), Some(length)) = (number(at), number(at + 4), number(at + 8)) {
        if seconds * 1_000_000_000 + micros * 1_000 >= from_ns {
            break;
        }
        at += 16 + length as usize;
    }
    Ok([&bytes[..24], bytes.get(at..).unwrap_or_default()].concat())
}
