//! An agent over its budgets: DATA is left out first, new connections where that does not suffice. Calls on connections that it
//! knows are all counted and right, their messages are unknown and not wrong, new connections are counted and not followed, and when
//! the load is over everything is as before. Minimum kernel: that of grpcscope (`grpcscope check`).

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use tests::agent::{Kernel, Run, sum};
use tests::apps::{Client, Implementation, Pace, Server};
use tests::plan::{CallType, Message, PlannedCall};
use tests::truth::{ClientCall, Outcome};
use tests::{plan, workspace};

/// Of one CPU: an agent that has nothing to do takes less, and the load takes several times as much.
const CPU: &str = "30m";
/// Calls of the client that is there before the budget is passed, and how many a second.
const CALLS: u64 = 24_000;
const RATE: f64 = 800.0;

#[test]
fn over_its_cpu_budget_the_agent_counts_every_call_of_known_connections_and_comes_back() {
    let Some(kernel) = Kernel::take("budget_cpu") else { return };
    check_cpu(&kernel).unwrap_or_else(|error| panic!("{error:#}"));
}

fn check_cpu(kernel: &Kernel) -> anyhow::Result<()> {
    let folder = workspace::scratch("budget_cpu")?;
    let settings = [("GRPCSCOPE_RESTART_KEEP", "false".as_ref()), ("GRPCSCOPE_BUDGET_CPU", CPU.as_ref())];
    let agent = Run::start_with(kernel, &folder, &settings)?;
    wait_for(&agent, 60, "a window without load", |agent| Ok(number(agent, USED)? < 0.8))?;
    ensure!(number(&agent, OVER)? == 0.0, "over budget without load");
    let server = Server::start(Implementation::Tonic, &folder, false)?;
    let client = |name: &str, calls: u64, seed: u64, pace: Pace| {
        Client::start(Implementation::Tonic, &server.address, &folder, name, &plan::unary(calls, seed), pace)
    };
    let known = client("known", CALLS, 1, Pace { concurrency: 8, rate: Some(RATE), hold: false })?;
    let planned = streams();
    let pace = Pace { concurrency: 4, rate: Some(planned.len() as f64 / 25.0), hold: false };
    let streaming =
        Client::start(Implementation::Tonic, &server.address, &folder, "streams", &planned, pace)?;
    wait_for(&agent, 60, "the budget is passed", |agent| Ok(number(agent, DATA)? == 1.0))?;
    ensure!(number(&agent, OVER)? == 0.0, "new connections are left out before DATA is");
    wait_for(&agent, 60, "that does not suffice", |agent| Ok(number(agent, OVER)? == 1.0))?;
    let left_out = number(&agent, LEFT_OUT)?;
    let mut new = client("new", 200, 2, Pace { concurrency: 4, rate: None, hold: true })?;
    new.wait_until_held()?;
    // Both ends of its connection are on this node.
    wait_for(&agent, 30, "the new one is left out", |agent| Ok(number(agent, LEFT_OUT)? >= left_out + 2.0))?;

    check_answered(&known.finish()?)?;
    let streamed = streaming.finish()?;
    let failed = streamed.iter().filter(|call| call.code != 0).count() as u64;
    ensure!(streamed.len() == planned.len() && failed > 20, "{failed} of {} streams failed", streamed.len());
    let is_over = number(&agent, OVER)? == 1.0;
    let all = CALLS + planned.len() as u64;
    wait_for_calls(&agent, all, failed, 0)?;
    ensure!(is_over, "the load is over, and was less than the budget at its end");
    check_what_is_measured(&agent, all)?;
    wait_for(&agent, 240, "it comes back", |agent| Ok(number(agent, OVER)? == 0.0))?;
    ensure!(number(&agent, DATA)? == 1.0, "one step after the other");
    wait_for(&agent, 240, "it comes back", |agent| Ok(number(agent, DATA)? == 0.0))?;
    for (step, least) in [("data", 60.0), ("connections", 30.0)] {
        let times = format!("grpcscope_over_budget_times_total{{resource=\"cpu\",step=\"{step}\"}}");
        ensure!(number(&agent, &times)? >= 1.0, "it is counted");
        let seconds = number(&agent, &format!("grpcscope_over_budget_seconds_total{{step=\"{step}\"}}"))?;
        ensure!(seconds >= least, "half a minute at least for each step: {seconds}");
    }
    // What was captured for a second more may miss something.
    let over = Instant::now();
    wait_for(&agent, 10, "the second is over", |_| Ok(over.elapsed() > Duration::from_millis(1_500)))?;

    // One that was left out is joined late; one that is new is followed from its start, and all of it is measured.
    new.go_on()?;
    check_answered(&new.finish()?)?;
    wait_for_calls(&agent, all + 100, failed, 100)?;
    let before = measured(&agent.series(OURS)?, "client", "sent");
    check_answered(
        &client("later", 100, 3, Pace { concurrency: 1, rate: Some(50.0), hold: false })?.finish()?,
    )?;
    wait_for_calls(&agent, all + 200, failed, 100)?;
    let after = measured(&agent.series(OURS)?, "client", "sent");
    ensure!(after == (before.0 + 100.0, before.1 + 100.0), "{before:?} and then {after:?}");
    ensure!(sum(&agent.series("")?, "grpcscope_kernel_events_lost_total", &[]) == 0.0, "records were lost");
    agent.stop()?;
    let log = std::fs::read_to_string(folder.join("grpcscope.log")).context("read its log")?;
    let at = |text: &str| log.find(text).with_context(|| format!("its log does not say {text:?}: {log}"));
    let steps =
        ["DATA is left out", "still over budget", "connections are followed again", "DATA is seen again"];
    let order = steps.iter().map(|text| at(text)).collect::<anyhow::Result<Vec<usize>>>()?;
    ensure!(order.is_sorted(), "{log}");
    Ok(())
}

#[test]
fn over_its_memory_budget_the_agent_counts_every_call_of_known_connections() {
    let Some(kernel) = Kernel::take("budget_memory") else { return };
    check_memory(&kernel).unwrap_or_else(|error| panic!("{error:#}"));
}

fn check_memory(kernel: &Kernel) -> anyhow::Result<()> {
    let folder = workspace::scratch("budget_memory")?;
    // What is left beside the ring is less than any process takes.
    let settings = [
        ("GRPCSCOPE_RESTART_KEEP", "false".as_ref()),
        ("GRPCSCOPE_CAPTURE_RING_BYTES", "8MiB".as_ref()),
        ("GRPCSCOPE_BUDGET_MEMORY", "10MiB".as_ref()),
    ];
    let agent = Run::start_with(kernel, &folder, &settings)?;
    wait_for(&agent, 30, "the budget is passed", |agent| Ok(number(agent, OVER)? == 1.0))?;
    ensure!(number(&agent, DATA)? == 1.0, "DATA is left out as well");
    let server = Server::start(Implementation::Tonic, &folder, false)?;
    let calls = plan::unary(500, 4);
    let pace = Pace { concurrency: 4, rate: Some(250.0), hold: false };
    let client = Client::start(Implementation::Tonic, &server.address, &folder, "1", &calls, pace)?;
    check_answered(&client.finish()?)?;
    wait_for(&agent, 30, "its connection is left out", |agent| Ok(number(agent, LEFT_OUT)? >= 2.0))?;
    ensure!(ended(&agent.series(OURS)?, "client") == 0.0, "calls of what is not followed are not counted");
    agent.stop()
}

const USED: &str = "grpcscope_budget_used_ratio{resource=\"cpu\"}";
const DATA: &str = "grpcscope_over_budget{step=\"data\"}";
const OVER: &str = "grpcscope_over_budget{step=\"connections\"}";
const LEFT_OUT: &str = "grpcscope_connections_left_out_total";
const OURS: &str = "service_name=\"tonic_app\"";

/// A series by its whole name.
fn number(agent: &Run, name: &str) -> anyhow::Result<f64> {
    let series = agent.series(name)?;
    let value =
        series.iter().find_map(|line| line.strip_prefix(name)?.trim().split(' ').next()?.parse().ok());
    value.with_context(|| format!("there is no {name}"))
}

fn ended(series: &[String], side: &str) -> f64 {
    sum(series, "grpcscope_calls_ended_total", &[&format!("side=\"{side}\"")])
}

/// All calls were counted once at each end, as what they were; `late` of them at most as what cannot be known, since the headers that
/// they refer to were sent before their connection was followed.
fn wait_for_calls(agent: &Run, calls: u64, failed: u64, late: u64) -> anyhow::Result<()> {
    let (calls, failed, late) = (calls as f64, failed as f64, late as f64);
    wait_for(agent, 30, "all calls are counted", |agent| {
        let series = agent.series(OURS)?;
        Ok(ended(&series, "client") >= calls && ended(&series, "server") >= calls)
    })?;
    let series = agent.series(OURS)?;
    for side in ["client", "server"] {
        let side = format!("side=\"{side}\"");
        let ok = sum(&series, "grpcscope_calls_ended_total", &[&side, "outcome=\"ok\""]);
        let all = sum(&series, "grpcscope_calls_ended_total", &[&side]);
        let flying = sum(&series, "grpcscope_calls_in_flight", &[&side]);
        let error = sum(&series, "grpcscope_calls_ended_total", &[&side, "outcome=\"error\""]);
        let unknown = sum(&series, "grpcscope_calls_ended_total", &[&side, "outcome=\"unresolved\""]);
        ensure!(
            (ok + unknown, error, all, flying) == (calls - failed, failed, calls, 0.0) && unknown <= late,
            "{side}: {ok} of {all} ok, {error} failed, {unknown} unknown, {flying} in flight"
        );
    }
    Ok(())
}

/// Streams of many messages, each in a frame of its own, some of which fail.
fn streams() -> Vec<PlannedCall> {
    let is_stream = |call: &PlannedCall| {
        matches!(call.call_type, CallType::ServerStream) && call.cancel_after_messages.is_none()
    };
    let longer = |call: PlannedCall| {
        let fails = call.method == "FailAfter";
        let send = if fails { call.send } else { vec![Message::Text("40,2000,1".to_owned())] };
        PlannedCall { send, ..call }
    };
    plan::mixed(4_000, 5).into_iter().filter(is_stream).map(longer).collect()
}

/// Calls of which this direction's messages were measured, and how many messages these had.
fn measured(series: &[String], side: &str, direction: &str) -> (f64, f64) {
    let labels = [&*format!("side=\"{side}\""), &*format!("direction=\"{direction}\"")];
    let call = if side == "client" { "attempt" } else { "call" };
    let way = if direction == "sent" { "sent" } else { "rcvd" };
    let size = format!("grpc_{side}_{call}_{way}_total_compressed_message_size_bytes_count");
    (sum(series, &size, &[]), sum(series, "grpcscope_call_messages_total", &labels))
}

/// Every call has its duration. Of its messages either all are known or nothing is: requests have one each.
fn check_what_is_measured(agent: &Run, calls: u64) -> anyhow::Result<()> {
    let (series, calls) = (agent.series(OURS)?, calls as f64);
    for (side, sends_requests) in [("client", "sent"), ("server", "received")] {
        let durations = sum(&series, &format!("rpc_{side}_call_duration_seconds_count"), &[]);
        ensure!(durations == calls, "{side}: {durations} durations of {calls} calls");
        let (of, messages) = measured(&series, side, sends_requests);
        ensure!(of == messages, "{side}: {messages} messages in {of} requests");
        ensure!(of > 100.0 && of < calls / 2.0, "{side}: the messages of {of} of {calls} calls are known");
    }
    let (bytes, frames) = (
        number(agent, "grpcscope_data_left_out_bytes_total")?,
        number(agent, "grpcscope_data_left_out_frames_total")?,
    );
    ensure!(bytes > 1e6 && frames > 1e3, "{bytes} bytes and {frames} frames of DATA were left out");
    Ok(())
}

fn check_answered(calls: &[ClientCall]) -> anyhow::Result<()> {
    ensure!(calls.iter().all(|call| call.outcome == Outcome::Ok), "not all calls were answered");
    Ok(())
}

fn wait_for(
    agent: &Run,
    seconds: u64,
    what: &str,
    is_so: impl Fn(&Run) -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    loop {
        // What is not there yet is no error before the time is over.
        let result = is_so(agent);
        if result.as_ref().is_ok_and(|is_so| *is_so) {
            return Ok(());
        }
        if Instant::now() > deadline {
            let health: Vec<String> =
                agent.series("grpcscope_")?.into_iter().filter(|line| line.contains("budget")).collect();
            result.with_context(|| format!("{what} ({})", health.join(", ")))?;
            anyhow::bail!("it does not come true that {what}: {}", health.join(", "));
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}
