//! Checks the kernel programs against random traffic, byte by byte.
//!
//! Random HTTP/2 goes through random socket calls, over TCP v4, v6 and Unix sockets, both ways at once. What
//! each side's kernel programs shipped is compared with what they had to ship, which the generator wrote
//! down: nothing may be missing, nothing may be shipped besides, every offset has to be right, nothing may
//! be lost. The binary is self-contained, so that it runs in an otherwise empty virtual machine.

mod bench;
mod blocked;
mod calls;
mod conversation;

use std::process::ExitCode;

use agent::capture::kernel::{Backend, BackendChoice, Blind, KernelCapture, LoopChoice, Options};
use agent_common::counter::Counter;
use anyhow::ensure;
use clap::{Parser, ValueEnum};
use serde_json::json;

use blocked::Blocked;
use conversation::{Conversation, Transport, Verdict};

/// Checks the kernel programs against random traffic.
#[derive(Parser)]
struct Arguments {
    /// The way in.
    #[arg(long, value_enum, default_value_t = BackendArgument::Auto)]
    backend: BackendArgument,
    /// The walker's loop.
    #[arg(long = "loop", value_enum, default_value_t = LoopArgument::Auto)]
    loops: LoopArgument,
    /// Conversations of each transport and each kind of start.
    #[arg(long, default_value_t = 10)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// Conversations at once.
    #[arg(long, default_value_t = 2)]
    parallel: usize,
    /// Bytes of one flow, about.
    #[arg(long, default_value_t = 120_000)]
    bytes: usize,
    /// Print only the last line.
    #[arg(long)]
    json: bool,
    /// Change to the next backend in the middle of each late conversation, instead of starting there.
    #[arg(long)]
    change: bool,
    /// Threads that wait in a read meanwhile. More than the kernel has return probes for make the kprobe backend miss
    /// returns: those have to be counted, and what is seen has to be right, but not complete.
    #[arg(long, default_value_t = 0)]
    blocked: usize,
    /// Print nanoseconds of each program instead, by the kernel's own statistics.
    #[arg(long)]
    bench: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum BackendArgument {
    Auto,
    #[value(name = "tp_btf")]
    TpBtf,
    Fexit,
    Kprobe,
}

#[derive(Clone, Copy, ValueEnum)]
enum LoopArgument {
    Auto,
    #[value(name = "bpf_loop")]
    BpfLoop,
    Bounded,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("{}", json!({"ok": false, "error": format!("{error:#}")}));
            ExitCode::FAILURE
        }
    }
}

/// The same capture by another backend.
fn changed(mut capture: KernelCapture) -> anyhow::Result<KernelCapture> {
    let from = capture.backend();
    let blind = Blind { missed: 0, records: 0 };
    let mut before = 0;
    let is_changed = capture.change(&blind, &mut |_| before += 1)?;
    ensure!(is_changed && capture.backend() != from, "no other backend than {} works here", from.name());
    ensure!(before > 0, "{} saw nothing before it was changed", from.name());
    Ok(capture)
}

fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    let options = Options {
        // Large enough that nothing is lost; for the figures, small enough for the caches.
        ring_bytes: if arguments.bench { 1 << 20 } else { 64 << 20 },
        backend: match arguments.backend {
            BackendArgument::Auto => BackendChoice::Auto,
            BackendArgument::TpBtf => BackendChoice::Only(Backend::TpBtf),
            BackendArgument::Fexit => BackendChoice::Only(Backend::Fexit),
            BackendArgument::Kprobe => BackendChoice::Only(Backend::Kprobe),
        },
        loops: match arguments.loops {
            LoopArgument::Auto => LoopChoice::Auto,
            LoopArgument::BpfLoop => LoopChoice::BpfLoop,
            LoopArgument::Bounded => LoopChoice::Bounded,
        },
        ignored_pid: None,
        count_instructions: false,
    };
    let started = std::time::Instant::now();
    let mut capture = KernelCapture::start(&options)?;
    let load_ms = started.elapsed().as_millis() as u64;
    if arguments.bench {
        return bench::run(&mut capture);
    }
    let say = |line: &str| {
        if !arguments.json {
            eprintln!("{line}");
        }
    };
    say(&format!("{} ({})", capture.backend().name(), capture.reason()));

    let blocked = Blocked::begin(arguments.blocked)?;
    let mut total = Verdict::default();
    // Of sockets whose bytes TCP counts, so that a run that was skipped shows.
    let mut counted = Verdict::default();
    let mut counters = agent::capture::kernel::Counters::default();
    let mut missed_runs = 0;
    let mut conversations = 0;
    let mut exact = true;
    for late in [false, true] {
        let mut seeds: Vec<(u64, Transport)> = (arguments.first..arguments.first + arguments.seeds)
            .flat_map(|seed| Transport::ALL.map(|transport| (seed, transport)))
            .collect();
        while !seeds.is_empty() {
            let batch: Vec<_> = seeds.drain(..arguments.parallel.min(seeds.len())).collect();
            let mut running: Vec<Conversation> = Vec::new();
            if late {
                // They begin unseen, and the capture is started in their middle, or by another backend.
                drop(capture);
                let before = if arguments.change { Some(KernelCapture::start(&options)?) } else { None };
                for (seed, transport) in &batch {
                    running.push(Conversation::begin(*seed, *transport, arguments.bytes, true)?);
                }
                capture = match before {
                    Some(before) => changed(before)?,
                    None => KernelCapture::start(&options)?,
                };
            } else {
                for (seed, transport) in &batch {
                    running.push(Conversation::begin(*seed, *transport, arguments.bytes, false)?);
                }
            }
            let seen = conversation::finish_all(&mut running, &mut capture)?;
            let now = capture.counters()?;
            for (conversation, (seed, transport)) in running.iter().zip(&batch) {
                let verdict = conversation.judge(&seen);
                conversations += 1;
                if !verdict.is_exact() {
                    say(&format!("seed {seed} {transport:?} late={late}: {verdict:?}"));
                }
                total.add(&verdict);
                if !matches!(transport, Transport::Unix) {
                    counted.add(&verdict);
                }
            }
            if now.produced() != now.received + now.lost() || now.malformed != 0 || now.missing != 0 {
                exact = false;
                say(&format!("accounts do not balance: {now:?}"));
            }
            for (counter, value) in &now.kernel {
                match counters.kernel.iter_mut().find(|(of, _)| of == counter) {
                    Some((_, sum)) if late => *sum += value,
                    Some((_, sum)) => *sum = *value,
                    None => counters.kernel.push((*counter, *value)),
                }
            }
            let missed: u64 = now.missed_runs.iter().map(|(_, runs)| runs).sum();
            // As above: those of a capture that is there no more stay.
            missed_runs = if late { missed_runs + missed } else { missed };
        }
    }
    drop(blocked);
    let missed_returns = counters.kernel(Counter::MissedReturns);
    // Where the kernel says that it skipped runs, what they would have seen is missing; nothing is wrong even so, but on Unix
    // sockets, where nothing shows which call is missing.
    let is_as_it_must = match (arguments.blocked, missed_runs) {
        (0, 0) => total.is_exact(),
        (0, _) => counted.is_true() && counted.exact_flows > 0,
        (_, _) => total.is_true() && missed_returns > 0,
    };
    let ok = exact && counters.lost() == 0 && is_as_it_must;
    let nonzero: serde_json::Map<String, serde_json::Value> = counters
        .kernel
        .iter()
        .filter(|(counter, value)| *value != 0 && *counter != Counter::Produced)
        .map(|(counter, value)| (counter.name().to_owned(), json!(value)))
        .collect();
    let programs: Vec<_> =
        capture.programs().iter().map(|p| json!({"name": p.name, "verified": p.verified})).collect();
    println!(
        "{}",
        json!({
            "ok": ok,
            "kernel": agent::capture::kernel::probe::kernel_release(),
            "backend": capture.backend().name(),
            "reason": capture.reason(),
            "conversations": conversations,
            "flows": total.flows,
            "exact_flows": total.exact_flows,
            "bytes": total.bytes,
            "shipped": total.shipped,
            "missing": total.missing,
            "extra": total.extra,
            "wrong": total.wrong,
            "wrong_on_unix_sockets": total.wrong - counted.wrong,
            "boundaries_wrong": total.boundaries_wrong,
            "closes_missing": total.closes_missing,
            "produced": counters.produced(),
            "lost": counters.lost(),
            "counters": nonzero,
            "missed_runs": missed_runs,
            "load_ms": load_ms,
            "programs": programs,
        })
    );
    Ok(ok)
}
