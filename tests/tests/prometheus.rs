//! A real Prometheus scrapes the agent: the counts are those of the applications, native histograms arrive, and
//! every expression of the dashboards returns data.

use std::path::PathBuf;

use serde_json::Value;
use tests::agent::{Kernel, Run};
use tests::apps::{Client, Implementation, Pace, Server};
use tests::compare::{certainly_sent, join, sent_statuses};
use tests::plan::{self, SERVICE};
use tests::prometheus::Prometheus;
use tests::{provision, workspace};

const TEST: &str = "prometheus";

#[test]
fn prometheus_has_the_counts_of_the_applications_and_the_dashboards_have_data() {
    if !provision::is_ready(TEST, &["grpcio", "grpc-go-app", "prometheus"]) {
        return;
    }
    let Some(kernel) = Kernel::take(TEST) else { return };
    check(&kernel).unwrap_or_else(|error| panic!("{error:#}"));
}

fn check(kernel: &Kernel) -> anyhow::Result<()> {
    let folder = workspace::scratch(TEST)?;
    let agent = Run::start(kernel, &folder)?;
    let prometheus = Prometheus::start(&folder, agent.port)?;
    prometheus.wait_for("up{job='grpcscope'}", |up| up == 1.0)?;

    let server = Server::start(Implementation::Go, &folder, false)?;
    // Paced, so that several scrapes see the traffic grow: rates need two samples.
    let pace = Pace { concurrency: 10, rate: Some(60.0), hold: false };
    let client =
        Client::start(Implementation::Python, &server.address, &folder, "1", &plan::mixed(900, 11), pace)?;
    for expression in expressions()? {
        // What is wrong and lasts, and what could not be told: nothing here, so all that can be asked is that Prometheus takes
        // the question.
        let is_empty = ["grpcscope_findings_firing", "verdict=\"undecided\""];
        if is_empty.into_iter().any(|of| expression.contains(of)) {
            prometheus.query(&expression)?;
            continue;
        }
        wait_for_data(&prometheus, &expression)?;
    }
    let truths = join(client.finish()?, &server.truth()?);

    let ours = format!("rpc_method=~'{SERVICE}/.*'");
    // A call that was given up before its server saw it may not have been sent.
    let total = certainly_sent(&truths) as f64..=truths.len() as f64;
    for side in ["client", "server"] {
        prometheus.wait_for(&format!("sum(grpcscope_calls_ended_total{{side='{side}',{ours}}})"), |n| {
            total.contains(&n)
        })?;
        prometheus
            .wait_for(&format!("sum(grpcscope_calls_in_flight{{side='{side}',{ours}}})"), |n| n == 0.0)?;
        for (code, count) in sent_statuses(&truths) {
            let counted = format!(
                "sum(rpc_{side}_call_duration_seconds_count{{{ours},rpc_response_status_code='{code}',\
                 rpc_method!='{SERVICE}/Slow'}})"
            );
            prometheus
                .wait_for(&counted, |n| n == count)
                .map_err(|error| error.context(format!("{count} expected")))?;
        }
        native_histograms(&prometheus, side, &ours)?;
    }
    // The client serves nobody, so that its calls belong to nothing; that is looked for once for each of them.
    let made = prometheus
        .wait_for(&format!("sum(grpcscope_call_deadlines_total{{side='client',{ours}}})"), |n| {
            total.contains(&n)
        })?;
    prometheus
        .wait_for(&format!("sum(grpcscope_correlated_calls_total{{evidence='none',{ours}}})"), |n| {
            n == made
        })?;
    let lost = prometheus.wait_for("sum(grpcscope_kernel_events_lost_total)", |_| true)?;
    anyhow::ensure!(lost == 0.0, "{lost} events were lost");
    Ok(())
}

/// Prometheus took the native buckets, and they hold as many calls as the classic ones.
fn native_histograms(prometheus: &Prometheus, side: &str, ours: &str) -> anyhow::Result<()> {
    let classic = prometheus
        .wait_for(&format!("sum(rpc_{side}_call_duration_seconds_count{{{ours}}})"), |n| n > 0.0)?;
    let native = format!("sum(rpc_{side}_call_duration_seconds{{{ours}}})");
    let samples = prometheus.query(&native)?;
    let [sample] = &samples[..] else { anyhow::bail!("`{native}` gives {samples:?}") };
    anyhow::ensure!(sample.histogram.is_some(), "`{native}` is no native histogram");
    anyhow::ensure!(
        sample.value == classic,
        "{} calls in native buckets, {classic} in classic ones",
        sample.value
    );
    Ok(())
}

fn wait_for_data(prometheus: &Prometheus, expression: &str) -> anyhow::Result<()> {
    for _ in 0..120 {
        if !prometheus.query(expression)?.is_empty() {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(250));
    }
    anyhow::bail!("`{expression}` of a dashboard returns no data")
}

/// Every expression of every dashboard, with Grafana's variables filled in as "All" fills them.
fn expressions() -> anyhow::Result<Vec<String>> {
    let folder = workspace::root().join("dashboards");
    let files: Vec<PathBuf> = std::fs::read_dir(&folder)?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .collect();
    anyhow::ensure!(!files.is_empty(), "no dashboard in {}", folder.display());
    let mut found = Vec::new();
    for file in files {
        collect(&serde_json::from_slice(&std::fs::read(file)?)?, &mut found);
    }
    anyhow::ensure!(!found.is_empty(), "no expression in the dashboards");
    Ok(found)
}

fn collect(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(expression) if name == "expr" => found.push(filled_in(expression)),
                    _ => collect(value, found),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| collect(value, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// `$__rate_interval` and its kin become durations, every other variable `.*`.
fn filled_in(expression: &str) -> String {
    let mut text = String::new();
    let mut rest = expression;
    while let Some((before, after)) = rest.split_once('$') {
        let after = after.strip_prefix('{').unwrap_or(after);
        let end =
            after.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':')).unwrap_or(after.len());
        text += before;
        text += if after.starts_with("__") { "1m" } else { ".*" };
        rest = after[end..].strip_prefix('}').unwrap_or(&after[end..]);
    }
    text + rest
}

#[test]
fn grafanas_variables_are_filled_in() {
    let filled = filled_in("sum(rate(a{job=~\"$job\", i=~\"${instance:regex}\"}[$__rate_interval])) > $x");
    assert_eq!(filled, "sum(rate(a{job=~\".*\", i=~\".*\"}[1m])) > .*");
}
