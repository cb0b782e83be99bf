//! `mutate`: replays damaged recordings by the thousand, and says how much of what is still said is right, unknown,
//! and wrong, which must be nothing.
//!
//! `cargo xtask mutate` builds and runs it.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use mutate::late_join::{self, AfterLateJoin};
use mutate::plan::Plan;
use mutate::tally::{self, Tally};
use mutate::verdict::Judgement;
use mutate::{corpus, replay_one};
use serde_json::{Value, json};

/// Replay damaged recordings: what is said of a call may become unknown, and must never become wrong.
#[derive(Parser)]
struct Arguments {
    /// Recordings (pcap or pcapng, plain or gzip), with FILE.truth.json or FILE.client.jsonl beside them if there is
    /// a truth. Without any: those of ../shared/corpora/live, and the demo's.
    files: Vec<PathBuf>,
    /// A folder of which all recordings are taken as well.
    #[arg(long, value_name = "FOLDER")]
    also: Option<PathBuf>,
    /// How many damaged replays.
    #[arg(long, default_value_t = 10_000)]
    count: u64,
    /// Which ones: the same seed gives the same replays.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only the replay with this number, and all that it says.
    #[arg(long)]
    only: Option<u64>,
    /// End with one line of JSON.
    #[arg(long)]
    json: bool,
}

/// Wrong replays that are shown in full; the others are counted.
const SHOWN: usize = 5;

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Returns whether nothing was wrong.
fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    let mut files =
        if arguments.files.is_empty() { corpus::default_files()? } else { arguments.files.clone() };
    if let Some(folder) = &arguments.also {
        files.extend(corpus::recordings_in(folder)?);
    }
    let (conversations, differences) = corpus::load_all(&files)?;
    for difference in &differences {
        eprintln!("the unharmed replay differs from the truth: {difference}");
    }
    for each in &conversations {
        eprintln!(
            "{}: client {}, {} calls, {} packets",
            each.name,
            each.client,
            each.reference.len(),
            each.packets.len()
        );
    }
    anyhow::ensure!(!conversations.is_empty(), "no recording has a gRPC call");

    let began = Instant::now();
    let mut report = Report { differences: differences.len(), ..Report::default() };
    for each in &conversations {
        let (counts, judgement) = AfterLateJoin::measure(each);
        report.late_joins.entry(each.client.clone()).or_default().add(counts);
        report.late.add(&judgement);
        for lie in &judgement.lies {
            eprintln!("wrong: {}, joined after a third: {:?}\n  {}", each.name, lie.what, lie.detail);
        }
    }
    let range = arguments.only.map_or(0..arguments.count, |only| only..only + 1);
    for index in range {
        let (plan, judgement) = replay_one(&conversations, arguments.seed, index);
        let conversation = &conversations[plan.conversation];
        if !judgement.lies.is_empty() && (report.wrong_replays < SHOWN || arguments.only.is_some()) {
            let all = arguments.only.is_some();
            show(arguments, index, &conversation.name, &plan, &judgement, all);
        }
        report.wrong_replays += usize::from(!judgement.lies.is_empty());
        report.add(&conversation.client, &plan, &judgement);
    }
    report.print();
    println!(
        "seed {}, {:.1} s on one core; reproduce a replay with --seed {} --only NUMBER",
        arguments.seed,
        began.elapsed().as_secs_f64(),
        arguments.seed
    );
    if arguments.json {
        println!("{}", report.json());
    }
    Ok(report.lies() == 0)
}

fn show(arguments: &Arguments, index: u64, name: &str, plan: &Plan, judgement: &Judgement, all: bool) {
    let mut files: String = arguments.files.iter().map(|file| format!(" {}", file.display())).collect();
    if arguments.also.is_some() {
        files += " --recorded";
    }
    eprintln!(
        "wrong: {name}, {} of {:?}; reproduce it with: cargo xtask mutate --seed {} --only {index}{files}",
        plan.mutation.name(),
        plan.window,
        arguments.seed
    );
    for lie in judgement.lies.iter().take(if all { usize::MAX } else { 2 }) {
        eprintln!("  {:?}\n  {}", lie.what, lie.detail);
    }
}

/// All that is reported.
#[derive(Default)]
struct Report {
    all: Tally,
    late: Tally,
    by_client: BTreeMap<String, Tally>,
    by_mutation: BTreeMap<&'static str, Tally>,
    late_joins: BTreeMap<String, AfterLateJoin>,
    wrong_replays: usize,
    differences: usize,
}

impl Report {
    fn add(&mut self, client: &str, plan: &Plan, judgement: &Judgement) {
        self.all.add(judgement);
        self.by_client.entry(client.to_owned()).or_default().add(judgement);
        self.by_mutation.entry(plan.mutation.name()).or_default().add(judgement);
    }

    fn lies(&self) -> u64 {
        self.all.lies() + self.late.lies() + self.differences as u64
    }

    fn print(&self) {
        println!("{}", tally::head("client"));
        for (client, tally) in &self.by_client {
            println!("{}", tally.row(client));
        }
        println!("\n{}", tally::head("mutation"));
        for (mutation, tally) in &self.by_mutation {
            println!("{}", tally.row(mutation));
        }
        println!("{}", self.all.row("all"));
        println!("\n{}", late_join::head());
        for (client, counts) in &self.late_joins {
            println!("{}", counts.row(client));
        }
        println!();
    }

    fn json(&self) -> Value {
        let mut line = self.all.json();
        let tallies = |map: &mut dyn Iterator<Item = (String, &Tally)>| -> Value {
            map.map(|(name, tally)| (name, Value::Object(tally.json()))).collect()
        };
        let mut clients = self.by_client.iter().map(|(name, tally)| (name.clone(), tally));
        line.insert("by_client".to_owned(), tallies(&mut clients));
        let mut mutations = self.by_mutation.iter().map(|(name, tally)| ((*name).to_owned(), tally));
        line.insert("by_mutation".to_owned(), tallies(&mut mutations));
        line.insert("resolved_after_late_join".to_owned(), late_join::json(&self.late_joins));
        line.insert("reference_differs_from_truth".to_owned(), json!(self.differences));
        Value::Object(line)
    }
}
