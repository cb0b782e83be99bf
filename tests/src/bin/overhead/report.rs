//! The figures as JSON.

use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};

use crate::applications::{Worked, Workload};
use crate::figures::{Change, median};
use crate::kernel_programs::{Programs, Runs};
use crate::measure::{Measured, Plan, Way};

/// The last line.
pub(crate) fn line(all: &[Measured], plan: Plan, version: &str) -> Result<Value> {
    let rows: Vec<Value> = all.iter().map(row).collect::<Result<_>>()?;
    let of = |workload| all.iter().find(|measured| measured.workload == workload).map(|m| &m.programs);
    let none = Programs::default();
    let http2 = of(Workload::TonicEcho).unwrap_or(&none);
    let other = of(Workload::Http1Echo).unwrap_or(&none);
    Ok(json!({
        "workloads": rows,
        // Calls that move HTTP/2 frames, and calls that move anything else: their goals differ.
        "ns_per_run": ns_per_run(http2),
        "ns_per_run_other": ns_per_run(other),
        "empty_program_ns": http2.empty.each().or(other.empty.each()).map(rounded),
        "machine": {
            "processor": processor(),
            "processors": crate::process::processors()?.len(),
            "kernel": file("/proc/sys/kernel/osrelease"),
        },
        "agent": version,
        "pairs": plan.pairs,
        "seconds": plan.seconds,
    }))
}

fn row(measured: &Measured) -> Result<Value> {
    let own = [Way::Apart, Way::Paced].into_iter().find(|way| measured.runs.contains_key(way));
    let own = own.context("nothing was run")?;
    let latencies = if measured.workload.has_rate() { Way::Paced } else { Way::Shared };
    let mut row = Map::new();
    let mut put = |key: &str, value: Value| row.insert(key.to_owned(), value);
    put("name", json!(measured.workload.name()));

    put("calls_per_second", json!(without(measured, own, calls_per_second)));
    let loss = change(measured, own, calls_per_second)?;
    let saturates = measured.workload.saturates();
    // At a fixed rate throughput cannot be lost.
    put("loss_percent", if saturates { json!(percent(1.0 - loss.median)) } else { Value::Null });
    if saturates {
        put(
            "loss_percent_quartiles",
            json!([percent(1.0 - loss.upper_quartile), percent(1.0 - loss.lower_quartile)]),
        );
        put("noise_percent", json!(percent(loss.noise)));
        put("loss_is_noise", json!(loss.is_noise()));
        let shared = change(measured, Way::Shared, calls_per_second)?;
        put(
            "shared",
            json!({
                "calls_per_second": without(measured, Way::Shared, calls_per_second),
                "loss_percent": percent(1.0 - shared.median),
                "noise_percent": percent(shared.noise),
                "loss_is_noise": shared.is_noise(),
            }),
        );
    }

    let cpu = change(measured, own, applications_us)?;
    put("applications_us_per_call", json!(without(measured, own, applications_us)));
    put("applications_more_percent", json!(percent(cpu.median - 1.0)));
    put("applications_noise_percent", json!(percent(cpu.noise)));
    put("applications_more_is_noise", json!(cpu.is_noise()));

    let p50 = change(measured, latencies, |run| run.said.p50_us)?;
    let p99 = change(measured, latencies, |run| run.said.p99_us)?;
    put("p50_us", json!(without(measured, latencies, |run| run.said.p50_us)));
    put("p50_ratio", json!(rounded(p50.median)));
    put("p99_us", json!(without(measured, latencies, |run| run.said.p99_us)));
    put("p99_ratio", json!(rounded(p99.median)));
    put("p99_noise_percent", json!(percent(p99.noise)));
    put("p99_is_noise", json!(p99.is_noise()));

    put(
        "agent_us_per_call",
        json!(with(measured, own, |run| run.agent_ns as f64 / 1e3 / run.said.calls as f64)),
    );
    put("agent_cpu_percent", json!(with(measured, own, |run| run.agent_ns as f64 / 1e7 / run.said.seconds)));
    let memory = |of: fn(&crate::process::Memory) -> u64| {
        let all: Vec<f64> = measured.memory.iter().map(|memory| of(memory) as f64 / 1e6).collect();
        json!(median(&all).map(rounded))
    };
    put("agent_rss_mb", memory(|memory| memory.rss));
    put("agent_rss_anonymous_mb", memory(|memory| memory.anonymous));
    put("agent_rss_file_mb", memory(|memory| memory.file));
    put("agent_pss_mb", memory(|memory| memory.proportional));

    if measured.workload.has_calls() {
        put("seen_percent", json!(rounded(measured.seen as f64 / measured.made as f64 * 100.0)));
    }
    put("lost_records", json!(measured.lost));
    put("ns_per_run", ns_per_run(&measured.programs));
    put("runs_per_call", runs_per_call(&measured.programs));
    put("empty_program_ns", json!(measured.programs.empty.each().map(rounded)));
    Ok(Value::Object(row))
}

fn calls_per_second(run: &Worked) -> f64 {
    run.said.calls as f64 / run.said.seconds
}

fn applications_us(run: &Worked) -> f64 {
    run.applications_ns as f64 / 1e3 / run.said.calls as f64
}

fn change(measured: &Measured, way: Way, of: fn(&Worked) -> f64) -> Result<Change> {
    let runs = measured.runs.get(&way).context("such runs were not made")?;
    Change::of(&runs.iter().map(of).collect::<Vec<_>>()).context("too few runs were made")
}

fn without(measured: &Measured, way: Way, of: fn(&Worked) -> f64) -> Option<f64> {
    every_second(measured, way, 0, of)
}

fn with(measured: &Measured, way: Way, of: fn(&Worked) -> f64) -> Option<f64> {
    every_second(measured, way, 1, of)
}

fn every_second(measured: &Measured, way: Way, first: usize, of: fn(&Worked) -> f64) -> Option<f64> {
    let runs: Vec<f64> = measured.runs.get(&way)?.iter().skip(first).step_by(2).map(of).collect();
    median(&runs).map(rounded)
}

fn by_program(programs: &Programs, of: impl Fn(&Runs) -> Option<f64>) -> Value {
    let figures =
        programs.programs.iter().filter_map(|(name, runs)| Some((name.clone(), json!(rounded(of(runs)?)))));
    Value::Object(figures.collect())
}

fn ns_per_run(programs: &Programs) -> Value {
    by_program(programs, |runs| runs.each())
}

fn runs_per_call(programs: &Programs) -> Value {
    by_program(programs, |runs| (programs.calls > 0).then(|| runs.count as f64 / programs.calls as f64))
}

fn percent(share: f64) -> f64 {
    rounded(share * 100.0)
}

/// More digits would only look exact.
fn rounded(figure: f64) -> f64 {
    (figure * 1000.0).round() / 1000.0
}

fn processor() -> String {
    let text = file("/proc/cpuinfo");
    let name = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    name.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.to_owned())
}

fn file(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}
