//! `cargo xtask demo`: the whole thing at work, and a comparison of what was done with what was seen.
//!
//! It sets up what is missing, builds, starts the agent and a small shop of gRPC services (`proto`), shows a live table
//! for a while, stops everything, and compares call by call. Where the kernel or the rights do not allow BPF, it says
//! so and does the same with a recording of the shop, which needs neither.

mod compare;
mod live;
mod recording;
mod table;

use anyhow::{Result, bail};
use serde_json::json;

use self::compare::{Call, Comparison};
use self::table::Table;
use crate::programs::Programs;
use crate::setup::{self, Purpose};

/// Show grpcscope at work on a small system of its own, and compare what was done with what was seen.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Seconds of traffic.
    #[arg(long, default_value_t = 30.0)]
    seconds: f64,
    /// Actions of shoppers a second; one makes about two and a half calls.
    #[arg(long, default_value_t = 40.0)]
    rate: f64,
    /// End with the comparison as a line of JSON on standard output.
    #[arg(long)]
    json: bool,
    /// Use the recording even where BPF is allowed.
    #[arg(long)]
    recording: bool,
    /// Use debug builds: sooner built, slower to run.
    #[arg(long)]
    debug: bool,
    /// Leave the set-up out: for a second run while nothing is missing.
    #[arg(long)]
    no_setup: bool,
}

/// What one run made and saw.
struct Run {
    /// What the services wrote down.
    made: Vec<Call>,
    /// What was seen of their processes.
    seen: Vec<Call>,
    /// Events that the observer says it lost.
    lost: u64,
    /// Where the calls were seen.
    source: &'static str,
    /// What to say at the end.
    farewell: String,
}

/// Runs `cargo xtask demo`.
pub(crate) fn run(args: &Args) -> Result<()> {
    if !(args.seconds > 0.0 && args.seconds <= 86_400.0) {
        bail!("--seconds must be above 0 and at most 86400");
    }
    if !args.no_setup {
        setup::set_up(&[Purpose::Builds])?;
    }
    eprintln!("demo: building (the first time takes a few minutes)");
    let programs = Programs::build(args.debug)?;
    let why_not_live = match args.recording {
        true => Some("A recording was asked for.".to_owned()),
        false => programs.why_not_live()?,
    };
    let run = match why_not_live {
        None => live::watch(args, &programs)?,
        Some(reason) => {
            eprintln!("{reason}\nSo this is a recording of the demo, which needs no rights.\n");
            recording::replay(&programs)?
        }
    };
    report(run, args.json)
}

/// Compares, says so, and fails if anything differs.
fn report(run: Run, as_json: bool) -> Result<()> {
    let count = |calls: &[Call], side: &str| calls.iter().filter(|call| call.side == side).count();
    // Each call is written down by both of its ends; a recording is compared with the caller's word.
    let made = run.made.iter().filter(|call| call.side != "server").count();
    let answered = count(&run.made, "server");
    let (client, server, wire) =
        (count(&run.seen, "client"), count(&run.seen, "server"), count(&run.seen, "wire"));

    let mut table = Table::new();
    run.seen.iter().for_each(|call| table.take(call));
    table.paint("What was seen of the shop, by method:");
    let comparison = Comparison::of(run.made, run.seen);
    for call in &comparison.missing {
        eprintln!("made, but not seen so: {call}");
    }
    for call in &comparison.invented {
        eprintln!("seen, but not made so: {call}");
    }
    let mismatches = comparison.mismatches();
    let is_right = mismatches == 0 && run.lost == 0 && made > 0;
    if as_json {
        let mut seen = json!({"client": client, "server": server});
        if run.source == "recording" {
            seen["recording"] = json!(wire);
        }
        println!(
            "{}",
            json!({
                "made": made,
                "answered": answered,
                "seen": seen,
                "mismatches": mismatches,
                "lost": run.lost,
                "borderline": comparison.borderline,
                "unsent": comparison.unsent,
                "missing": comparison.missing.len(),
                "invented": comparison.invented.len(),
                "source": run.source,
            })
        );
    } else {
        let seen = match run.source {
            "recording" => format!("{wire} were seen in the recording"),
            _ => format!("{client} were seen on the client's side and {server} on the server's"),
        };
        println!("\nThe services made {made} calls; {seen}.");
        if is_right {
            println!("Every one agrees in method, outcome, status, timeout and messages.");
        }
        println!("\n{}", run.farewell);
    }
    if !is_right {
        bail!("{mismatches} of {made} calls differ, {} events were lost", run.lost);
    }
    Ok(())
}
