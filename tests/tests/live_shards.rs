//! `grpcscope run --shards 2`: every call of several processes at once is counted once on both sides, as the applications made it,
//! and both shards had work to do.
//!
//! Minimum kernel: that of grpcscope (`grpcscope check`).

use std::ffi::OsStr;
use std::time::{Duration, Instant};

use tests::agent::{Kernel, Run, sum};
use tests::apps::{Client, Implementation, PATIENCE, Pace, Server};
use tests::compare::{certainly_sent, join, sent_statuses};
use tests::plan::{self, SERVICE};
use tests::{provision, workspace};

const TEST: &str = "live_shards";

/// Clients and servers: each pair is two processes.
const PAIRS: [(Implementation, Implementation); 4] = [
    (Implementation::Go, Implementation::Tonic),
    (Implementation::Tonic, Implementation::Go),
    (Implementation::Python, Implementation::Go),
    (Implementation::Tonic, Implementation::Tonic),
];
const CALLS: u64 = 400;

#[test]
fn every_call_is_counted_once_when_the_work_is_spread_over_two_shards() {
    if !provision::is_ready(TEST, &["grpcio", "grpc-go-app"]) {
        return;
    }
    let Some(kernel) = Kernel::take(TEST) else { return };
    check(&kernel).unwrap_or_else(|error| panic!("{error:#}"));
}

fn check(kernel: &Kernel) -> anyhow::Result<()> {
    let folder = workspace::scratch(TEST)?;
    let settings =
        [("GRPCSCOPE_RESTART_KEEP", OsStr::new("false")), ("GRPCSCOPE_CAPTURE_SHARDS", OsStr::new("2"))];
    let agent = Run::start_with(kernel, &folder, &settings)?;
    let mut running = Vec::new();
    for (number, (client, server)) in (0_u64..).zip(PAIRS) {
        let folder = workspace::scratch(&format!("{TEST}/{number}"))?;
        let server = Server::start(server, &folder, false)?;
        let calls = plan::mixed(CALLS, 1_000 * number);
        let client = Client::start(client, &server.address, &folder, "1", &calls, Pace::at_once(10))?;
        running.push((client, server));
    }
    let mut truths = Vec::new();
    for (client, server) in running {
        truths.extend(join(client.finish()?, &server.truth()?));
    }
    let made = certainly_sent(&truths) as f64..=truths.len() as f64;
    for side in ["client", "server"] {
        let side = format!("side=\"{side}\"");
        wait_for(&agent, &format!("calls that ended, {side}"), |series| {
            let ended = sum(series, "grpcscope_calls_ended_total", &[&side, SERVICE]);
            (
                made.contains(&ended) && sum(series, "grpcscope_calls_in_flight", &[&side, SERVICE]) == 0.0,
                ended,
            )
        })?;
    }
    let series = agent.series("")?;
    // Statuses as their servers sent them.
    for (code, count) in sent_statuses(&truths) {
        let status = format!("rpc_response_status_code=\"{code}\"");
        for side in ["client", "server"] {
            let ended = |method| {
                let family = format!("rpc_{side}_call_duration_seconds_count");
                sum(&series, &family, &[&status, method])
            };
            let ended = ended(&format!("{SERVICE}/")) - ended(&format!("{SERVICE}/Slow"));
            anyhow::ensure!(
                count == ended,
                "{side}: {count} calls with {code} were made, and {ended} were seen"
            );
        }
    }
    for shard in ["0", "1"] {
        let shard = format!("shard=\"{shard}\"");
        anyhow::ensure!(
            sum(&series, "grpcscope_shard_batches_total", &[&shard]) > 0.0,
            "{shard} had nothing to do"
        );
    }
    let total = |family: &str| -> f64 {
        let of_family = series.iter().filter(|line| line.split([' ', '{']).next() == Some(family));
        of_family.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    };
    let lost = total("grpcscope_kernel_events_lost_total");
    anyhow::ensure!(lost == 0.0, "{lost} records were lost");
    agent.stop()
}

fn wait_for(
    agent: &Run,
    what: &str,
    mut is_right: impl FnMut(&[String]) -> (bool, f64),
) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (right, seen) = is_right(&agent.series("")?);
        if right {
            return Ok(());
        }
        anyhow::ensure!(Instant::now() < deadline, "{what}: {seen}");
        std::thread::sleep(Duration::from_millis(200));
    }
}
