//! Replays the recordings of `record_pairs` and compares every call with the applications' truth.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use clap::Parser;
use tests::apps::built_here;
use tests::compare::{Comparison, Joined, compare, join};
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
        let result = check(&arguments.folder, name).with_context(|| name.clone())?;
        println!("{name}: {} match, {} were never sent", result.matched, result.never_sent);
        if let Err(error) = result.check(name) {
            println!("{error:#}");
            differ += 1;
        }
    }
    anyhow::ensure!(differ == 0, "{differ} of {} recordings differ from the truth", names.len());
    Ok(())
}

fn check(folder: &Path, name: &str) -> anyhow::Result<Comparison> {
    let file = |suffix: &str| folder.join(format!("{name}.{suffix}"));
    let truths = join(truth::read(&file("client.jsonl"))?, &truth::read(&file("server.jsonl"))?);
    let recording = [file("pcap"), file("pcap.gz")].into_iter().find(|path| path.exists());
    let recording = recording.context("there is no recording")?;
    let lines = output(Command::new(built_here("grpcscope")?).args(["replay", "--json"]).arg(recording))?;
    let mut calls = Vec::new();
    for line in lines.lines() {
        if let Line::Call(call) = observed::parse(line)? {
            calls.push(*call);
        }
    }
    Ok(compare(&truths, &calls, Joined::FromTheStart, 0))
}
