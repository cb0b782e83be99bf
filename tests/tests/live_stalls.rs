//! Stall seconds in `/metrics` of a running agent are those that a slow reader knows of, and none where the reader keeps up.
//!
//! Minimum kernel: that of `grpcscope run`.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::Value;
use tests::agent::{Kernel, Run};
use tests::apps::{PATIENCE, built_here};
use tests::process::Process;
use tests::{http, workspace};

const TEST: &str = "live_stalls";
const SECONDS: &str = "grpcscope_flow_control_stall_seconds_total";
const NOW: &str = "grpcscope_flow_control_stalled";

#[test]
fn stall_seconds_are_those_of_the_reader_who_stopped() {
    let Some(kernel) = Kernel::take(TEST) else { return };
    check(&kernel).unwrap_or_else(|error| panic!("{error:#}"));
}

fn check(kernel: &Kernel) -> anyhow::Result<()> {
    let folder = workspace::scratch(TEST)?;
    let agent = Run::start(kernel, &folder)?;

    let slow = Pair::start(&folder, "slow_reader")?;
    // It stops three times, for three seconds each.
    wait_until(|| Ok(sum(agent.port, NOW, &slow.reader_name())? == 1.0))
        .context("a stall that lasts is shown")?;
    let (reader_name, inventory_name) = (slow.reader_name(), slow.inventory_name());
    let stopped = slow.end(&folder, agent.port)?;
    ensure!(stopped > 8.0, "the reader stopped for {stopped} s");
    for name in [&reader_name, &inventory_name] {
        let seconds = sum(agent.port, SECONDS, name)?;
        println!("{name}: {seconds} s stalled, the reader stopped for {stopped} s");
        ensure!((seconds - stopped).abs() <= 0.05 * stopped, "{name}: {seconds} s, and not {stopped} s");
        ensure!(sum(agent.port, NOW, name)? == 0.0, "{name} is stalled still");
    }

    let good = Pair::start(&folder, "keeping_up")?;
    let names = [good.reader_name(), good.inventory_name()];
    good.end(&folder, agent.port)?;
    for name in &names {
        ensure!(sum(agent.port, SECONDS, name)? == 0.0, "{name} was stalled");
    }
    Ok(())
}

/// Inventory of the demo, and one who reads of it.
struct Pair {
    scenario: &'static str,
    inventory: Process,
    reader: Process,
}

impl Pair {
    fn start(folder: &Path, scenario: &'static str) -> anyhow::Result<Self> {
        let program = built_here("grpcscope-demo")?;
        let start = |name: String, arguments: &[&str]| {
            let mut command = Command::new(&program);
            command.args(arguments).arg("--truth").arg(folder.join(format!("{name}.jsonl")));
            command.env("OTEL_SERVICE_NAME", &name);
            Process::start(&name, &mut command, &folder.join(format!("{name}.log")))
        };
        let inventory = start(
            format!("inventory-{scenario}"),
            &["inventory", "--scenario", "long_streams", "--while-stdin"],
        )?;
        let ready = inventory.next_line(PATIENCE).context("inventory says that it is ready")?;
        let ready: Value = serde_json::from_str(&ready)?;
        let address = ready["address"].as_str().context("it says where it listens")?;
        let uri = format!("http://{address}");
        let reader =
            start(format!("reader-{scenario}"), &["reader", "--scenario", scenario, "--inventory", &uri])?;
        Ok(Pair { scenario, inventory, reader })
    }

    fn reader_name(&self) -> String {
        format!("reader-{}", self.scenario)
    }

    fn inventory_name(&self) -> String {
        format!("inventory-{}", self.scenario)
    }

    /// Waits until all is read. For how many seconds the reader says that it did not read.
    fn end(mut self, folder: &Path, port: u16) -> anyhow::Result<f64> {
        let status = self.reader.wait(PATIENCE)?;
        ensure!(status.success(), "the reader failed: {}", self.reader.last_words());
        for name in [self.reader_name(), self.inventory_name()] {
            wait_until(|| Ok(sum(port, "grpcscope_calls_ended_total", &name)? >= 1.0))
                .with_context(|| format!("the call of {name} is seen to end"))?;
        }
        self.inventory.signal(libc::SIGTERM);
        self.inventory.wait(PATIENCE)?;
        let truth = folder.join(format!("{}.jsonl", self.reader_name()));
        let mut seconds = 0.0;
        for line in std::fs::read_to_string(&truth)?.lines() {
            let line: Value = serde_json::from_str(line)?;
            seconds += line["stalled_seconds"].as_f64().unwrap_or(0.0);
        }
        Ok(seconds)
    }
}

fn wait_until(mut is_so: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !is_so()? {
        ensure!(Instant::now() < deadline, "not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// The sum of a metric over a service's series.
fn sum(port: u16, metric: &str, service: &str) -> anyhow::Result<f64> {
    let answer = http::get(port, "/metrics")?;
    let body = String::from_utf8(answer.body).context("the metrics are text")?;
    let label = format!("service_name=\"{service}\"");
    let mut sum = 0.0;
    for line in body.lines() {
        let is_it = line.strip_prefix(metric).is_some_and(|rest| rest.starts_with('{'));
        if is_it && line.contains(&label) {
            let (_, value) = line.rsplit_once(' ').context("a sample has a value")?;
            sum += value.parse::<f64>().with_context(|| format!("read {line}"))?;
        }
    }
    Ok(sum)
}
