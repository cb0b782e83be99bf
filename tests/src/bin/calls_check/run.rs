//! One run: the agent, a server, clients; then what was seen is compared with what was done.

use std::path::Path;
use std::process::Command;

use anyhow::Context as _;
use serde_json::{Value, json};
use tests::agent::{Summary, Watch};
use tests::apps::{Client, Implementation, Pace, Server};
use tests::compare::{CLOCK_SLACK_NS, Comparison, Joined, Truth, certainly_sent, compare_within, join};
use tests::observed::Call;
use tests::plan::{self, PlannedCall, SHORT_DEADLINE_MS};

use super::stalls::Stalls;

/// What is run.
pub(crate) struct Run<'a> {
    pub(crate) agent: &'a Path,
    pub(crate) backend: &'a str,
    /// Client processes, each with a connection of its own and one call at a time.
    pub(crate) clients: usize,
    /// Of all of them together.
    pub(crate) calls: u64,
}

/// What was compared, over all processes.
#[derive(Default)]
pub(crate) struct Totals {
    /// Calls that were made and must have been seen, once on each side.
    pub(crate) calls: usize,
    pub(crate) matched: usize,
    /// Seen, and not as any call was made.
    pub(crate) wrong: usize,
    /// Made, and not seen.
    pub(crate) missing: usize,
    pub(crate) without_method: usize,
    /// The first few differences in words.
    pub(crate) differences: Vec<String>,
}

impl Totals {
    pub(crate) fn add(&mut self, truths: &[Truth], result: &Comparison) {
        self.calls += certainly_sent(truths);
        self.matched += result.matched;
        self.wrong += result.invented.len();
        self.missing += result.missing.len();
        self.without_method += result.without_method;
        let words = result.invented.iter().map(|call| format!("nobody made {call}"));
        let words = words.chain(result.missing.iter().map(|call| format!("not seen: {call}")));
        // What is wrong before what is missing.
        let (wrong, missing): (Vec<String>, Vec<String>) =
            words.partition(|words| words.starts_with("nobody"));
        self.differences.extend(missing.into_iter().take(4));
        self.differences.splice(..0, wrong.into_iter().take(12));
        self.differences.truncate(24);
    }
}

impl Run<'_> {
    /// Runs it and says how it went, as members of a line of JSON.
    pub(crate) fn report(&self, folder: &Path) -> Value {
        self.run(folder).unwrap_or_else(|error| json!({"result": "failed", "error": format!("{error:#}")}))
    }

    fn run(&self, folder: &Path) -> anyhow::Result<Value> {
        // A new one each time: truths are appended.
        let _ = std::fs::remove_dir_all(folder);
        std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        let mut command = Command::new(self.agent);
        command.args(["calls", "--json", "--capture", self.backend]);
        let mut watch = Watch::of(command, folder)?;
        let stalls = Stalls::begin();
        let server = Server::start(Implementation::Tonic, folder, false)?;
        let mut running = Vec::new();
        for number in 0..self.clients as u64 {
            let calls = planned(self.calls.div_ceil(self.clients as u64), number);
            let name = number.to_string();
            let pace = Pace::at_once(1);
            running.push(Client::start(Implementation::Tonic, &server.address, folder, &name, &calls, pace)?);
        }
        let mut made = Vec::new();
        let mut pids = Vec::new();
        for client in running {
            pids.push(client.pid());
            made.push(client.finish()?);
        }
        let handled = server.truth()?;
        let all = join(made.iter().flatten().cloned().collect(), &handled);
        let mut seen: Vec<(Vec<Truth>, Vec<Call>)> = Vec::new();
        for (pid, made) in pids.into_iter().zip(&made) {
            let of_client = |truth: &&Truth| made.iter().any(|call| call.id == truth.made.id);
            let truths: Vec<Truth> = all.iter().filter(of_client).cloned().collect();
            let calls = watch.calls_of(pid, certainly_sent(&truths))?;
            seen.push((truths, calls));
        }
        let calls = watch.calls_of(server.pid(), certainly_sent(&all))?;
        seen.push((all, calls));
        let stall_ns = stalls.end();
        let others = watch.other_calls().len();
        let Summary(summary) = watch.stop()?;

        let number = |key: &str| summary[key].as_u64().unwrap_or(u64::MAX);
        // Each is a hole that the agent knows of. What was never counted is not in the summary.
        let counted = |key: &str| summary["kernel"][key].as_u64().unwrap_or(0);
        let missed = number("missed_runs") + counted("missed_returns") + counted("missed_entries");
        let losses = number("lost") + missed + counted("fault") + counted("gaps");
        let joined = if losses == 0 { Joined::FromTheStart } else { Joined::Late };
        // What happens and when it is noted lie no further apart than the machine stood still, before and after.
        let slack_ns = CLOCK_SLACK_NS + 2 * stall_ns;
        let mut totals = Totals::default();
        for (truths, calls) in &seen {
            totals.add(truths, &compare_within(truths, calls, joined, slack_ns));
        }
        // A call that is not seen is a fault where nothing was lost; a wrong one always is.
        let is_right = totals.wrong == 0 && others == 0 && (totals.missing == 0 || losses > 0);
        let is_ok = is_right && totals.matched > 0 && number("received") > 0;
        Ok(json!({
            "result": if is_ok { "ok" } else { "failed" },
            "calls": totals.calls,
            "matched": totals.matched,
            "wrong": totals.wrong + others,
            "missing": totals.missing,
            "without_method": totals.without_method,
            "lost": summary["lost"],
            "missed_runs": missed,
            "stall_ms": stall_ns / 1_000_000,
            "counters": summary["kernel"],
            "differences": totals.differences,
        }))
    }
}

/// The calls of a client, of every kind.
pub(crate) fn planned(count: u64, client: u64) -> Vec<PlannedCall> {
    of_client(plan::mixed(count, client + 1), client)
}

/// The calls of a plan, with ids of the client's own.
pub(crate) fn of_client(mut calls: Vec<PlannedCall>, client: u64) -> Vec<PlannedCall> {
    for call in &mut calls {
        // The server's truth knows calls by their ids alone.
        call.id += client * 1_000_000;
        // A deadline that nobody means to miss shall not be missed where a second of work takes half a minute either.
        call.timeout_ms = call.timeout_ms.map(|ms| if ms == SHORT_DEADLINE_MS { ms } else { ms + 3_600_000 });
    }
    calls
}
