//! A change of the way of capture that nobody asked for.
//!
//! The agent chooses while the kernel does not interrupt programs, so it takes what is best there. Then the kernel is told to
//! interrupt them, and clients keep it busy: runs are missed, the agent has to notice, to change to what is not interrupted, and
//! to say so. What is seen from then on has to be all and right; what was seen before and meanwhile must not be wrong.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use agent::capture::kernel::probe;
use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use tests::agent::{Run, Summary, Watch, sum};
use tests::apps::{Client, Implementation, Pace, Server};
use tests::compare::{CLOCK_SLACK_NS, Joined, Truth, certainly_sent, compare_within, join};
use tests::observed::Call;
use tests::plan;
use tests::truth::ClientCall;

use super::echo::Echo;
use super::preemption::Preemption;
use super::run::{Totals, of_client, planned};
use super::stalls::Stalls;

/// Clients that are there before and afterwards, each on one connection.
const LASTING: u64 = 3;
/// Calls of each of these, half of them before.
const LASTING_CALLS: u64 = 40;
/// Calls of each busy client in a round.
const BUSY_CALLS: u64 = 25;
/// Calls of each client afterwards.
const CALLS_AFTER: u64 = 20;
/// How long a round is watched for a change at least.
const ROUND: Duration = Duration::from_secs(10);
/// Rounds of busy clients until the agent must have changed.
const ROUNDS_MAX: u64 = 30;

/// Prints two lines of JSON, for `calls` and for `run`; says whether both are right.
pub(super) fn check(
    agent: &Path,
    preemption: &Preemption,
    clients: usize,
    folder: &Path,
) -> anyhow::Result<bool> {
    let models = preemption.wanted(&["none".to_owned(), "full".to_owned()]);
    let [from, to] = models.as_slice() else {
        println!(
            "{}",
            json!({"check": "change", "result": "refused", "error": "the preemption model cannot be changed"})
        );
        return Ok(true);
    };
    let mut all_right = true;
    for command in ["calls", "run"] {
        let _ = std::fs::remove_dir_all(folder);
        std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        preemption.set(from)?;
        let setting = Setting { agent, preemption, to, clients, folder };
        let report = if command == "calls" { setting.calls() } else { setting.metrics() };
        let mut line = json!({
            "check": "change",
            "kernel": probe::kernel_release(),
            "command": command,
            "preempt": format!("{from}, then {to}"),
            "clients": clients,
        });
        super::merge(
            &mut line,
            report.unwrap_or_else(|error| json!({"result": "failed", "error": format!("{error:#}")})),
        );
        all_right &= line["result"] == "ok";
        println!("{line}");
    }
    Ok(all_right)
}

struct Setting<'a> {
    agent: &'a Path,
    preemption: &'a Preemption,
    to: &'a str,
    clients: usize,
    folder: &'a Path,
}

/// A client that has ended, and what it did.
struct Made {
    pid: u32,
    calls: Vec<ClientCall>,
}

impl Setting<'_> {
    /// `grpcscope calls`: every call is compared.
    fn calls(&self) -> anyhow::Result<Value> {
        let mut command = Command::new(self.agent);
        command.args(["calls", "--json", "--capture", "auto"]);
        let mut watch = Watch::of(command, self.folder)?;
        let stalls = Stalls::begin();
        let server = self.server("before")?;
        let mut lasting = Vec::new();
        for number in 0..LASTING {
            let pace = Pace { hold: true, ..Pace::at_once(1) };
            lasting.push(self.client(&server, number, planned(LASTING_CALLS, number), pace)?);
        }
        for client in &lasting {
            client.wait_until_held()?;
        }
        self.preemption.set(self.to)?;
        let mut echo = Some(Echo::begin()?);
        let mut made = Vec::new();
        let mut rounds = 0;
        while watch.changes()?.is_empty() && rounds < ROUNDS_MAX {
            let running = self.busy(&server, rounds)?;
            // It is for the judgement alone, and afterwards only in the way.
            let begun = Instant::now();
            while echo.is_some() && begun.elapsed() < ROUND {
                if !watch.changes()?.is_empty() {
                    echo = None;
                }
            }
            for client in running {
                made.push(finish(client)?);
            }
            rounds += 1;
        }
        drop(echo);
        let changes = watch.changes()?.to_vec();
        ensure!(
            !changes.is_empty(),
            "no change in {rounds} rounds; summary {}; log {}",
            watch.stop()?.0,
            self.log()
        );

        // Other processes, which the agent has never seen before.
        let server_after = self.server("after")?;
        let mut running = Vec::new();
        for number in 0..self.clients as u64 {
            let number = 900 + number;
            running.push(self.client(
                &server_after,
                number,
                planned(CALLS_AFTER, number),
                Pace::at_once(1),
            )?);
        }
        let mut made_after = Vec::new();
        for client in running {
            made_after.push(finish(client)?);
        }
        for mut client in lasting {
            client.go_on()?;
            made.push(finish(client)?);
        }
        let slack = |stalls: Stalls| CLOCK_SLACK_NS + 2 * stalls.end();
        let after = self.seen(&mut watch, &server_after, &made_after)?;
        let before = self.seen(&mut watch, &server, &made)?;
        let slack_ns = slack(stalls);
        let changes_in_all = watch.changes()?.len();
        let log = self.log();
        let Summary(summary) = watch.stop()?;

        // Returns that kprobes missed, and memory that could not be read, are counted, and what they would have shown is unknown.
        let counted = ["missed_returns", "missed_entries", "fault"];
        let missed_after: u64 =
            counted.iter().map(|counter| summary["kernel"][counter].as_u64().unwrap_or(0)).sum();
        let joined_after = if missed_after == 0 { Joined::FromTheStart } else { Joined::Late };
        let mut totals = [Totals::default(), Totals::default()];
        let mut left_open = 0;
        for (number, (seen, joined)) in
            [(before, Joined::Late), (after, joined_after)].into_iter().enumerate()
        {
            for (truths, calls) in seen {
                // What was open when the connection was given up is reported as far as it was seen, without an end.
                let (open, ended): (Vec<Call>, Vec<Call>) =
                    calls.into_iter().partition(|call| call.outcome == "open");
                left_open += open.len();
                totals[number].add(&truths, &compare_within(&truths, &ended, joined, slack_ns));
            }
        }
        let [before, after] = totals;
        let change = &changes[0];
        let is_told = log.contains("socket calls are missed, trying another way")
            && change["reason"].as_str().is_some_and(|reason| reason.contains("runs were missed"));
        let is_ok = is_told
            && before.wrong + after.wrong == 0
            && (after.missing == 0 || missed_after > 0)
            && after.matched > 0;
        let differences = [before.differences, after.differences].concat();
        Ok(json!({
            "result": if is_ok { "ok" } else { "failed" },
            "from": change["from"],
            "to": change["to"],
            "backend": changes.last().map(|change| change["to"].clone()),
            "reason": change["reason"],
            "changes": changes_in_all,
            "is_told": is_told,
            "rounds": rounds,
            "calls": before.calls + after.calls,
            "wrong": before.wrong + after.wrong,
            "missing": before.missing,
            "without_method": before.without_method,
            "calls_after": after.calls,
            "missing_after": after.missing,
            "compared_after": format!("{joined_after:?}"),
            "left_open": left_open,
            "missed_runs": summary["missed_runs"],
            "lost": summary["lost"],
            "counters": summary["kernel"],
            "stall_ms": (slack_ns - CLOCK_SLACK_NS) / 2_000_000,
            "wrong_before": before.wrong,
            "wrong_after": after.wrong,
            "differences": differences,
        }))
    }

    /// `grpcscope run`: what its metrics say.
    fn metrics(&self) -> anyhow::Result<Value> {
        let keep = [("GRPCSCOPE_RESTART_KEEP", OsStr::new("false"))];
        let run = Run::of(self.agent, self.folder, &keep)?;
        let server = self.server("metrics")?;
        self.preemption.set(self.to)?;
        let echo = Echo::begin()?;
        // On such a machine it may not answer in time.
        let series = |name: &str| {
            (0..10).find_map(|_| run.series(name).ok()).with_context(|| format!("read {name} from /metrics"))
        };
        let changed = || -> anyhow::Result<f64> {
            Ok(sum(&series("grpcscope_backend_changes_total")?, "grpcscope_backend_changes_total", &[]))
        };
        let mut rounds = 0;
        while changed()? < 1.0 && rounds < ROUNDS_MAX {
            for client in self.busy(&server, rounds)? {
                finish(client)?;
            }
            rounds += 1;
        }
        drop(echo);
        let changes = series("grpcscope_backend_changes_total")?;
        let now = series("grpcscope_backend_info")?;
        let missed = series("grpcscope_kernel_program_missed_runs_total")?;
        let missed = sum(&missed, "grpcscope_kernel_program_missed_runs_total", &[]);
        let is_ok = changed()? >= 1.0
            && missed >= 100.0
            && now.iter().any(|series| series.contains("runs were missed beside"));
        run.stop()?;
        Ok(json!({
            "result": if is_ok { "ok" } else { "failed" },
            "rounds": rounds,
            "changes": changes,
            "now": now,
            "missed_runs": missed,
        }))
    }

    fn server(&self, name: &str) -> anyhow::Result<Server> {
        let folder = self.folder.join(name);
        std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        Server::start(Implementation::Tonic, &folder, false)
    }

    fn client(
        &self,
        server: &Server,
        number: u64,
        calls: Vec<plan::PlannedCall>,
        pace: Pace,
    ) -> anyhow::Result<Client> {
        let name = number.to_string();
        Client::start(Implementation::Tonic, &server.address, self.folder, &name, &calls, pace)
    }

    /// All clients at once, each with small calls one after another.
    fn busy(&self, server: &Server, round: u64) -> anyhow::Result<Vec<Client>> {
        let one = |client| {
            let number = 100 + round * 20 + client;
            let calls = of_client(plan::unary(BUSY_CALLS, number), number);
            self.client(server, number, calls, Pace::at_once(1))
        };
        (0..self.clients as u64).map(one).collect()
    }

    /// Calls of clients and their server as they were made, and as they were seen.
    fn seen(
        &self,
        watch: &mut Watch,
        server: &Server,
        made: &[Made],
    ) -> anyhow::Result<Vec<(Vec<Truth>, Vec<Call>)>> {
        let all = join(made.iter().flat_map(|made| made.calls.clone()).collect(), &server.truth()?);
        let mut seen = Vec::new();
        for client in made {
            let of_client = |truth: &&Truth| client.calls.iter().any(|call| call.id == truth.made.id);
            let truths: Vec<Truth> = all.iter().filter(of_client).cloned().collect();
            // Some may never be seen, so nothing is waited for but quiet.
            let calls = watch.calls_of(client.pid, 0)?;
            seen.push((truths, calls));
        }
        let calls = watch.calls_of(server.pid(), 0)?;
        ensure!(certainly_sent(&all) > 0, "no call was made");
        seen.push((all, calls));
        Ok(seen)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("grpcscope.log")).unwrap_or_default()
    }
}

fn finish(client: Client) -> anyhow::Result<Made> {
    Ok(Made { pid: client.pid(), calls: client.finish()? })
}
