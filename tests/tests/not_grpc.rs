//! HTTP/2 that is not gRPC is counted as such, and no call is invented from it; HTTP/1.1 is left alone.

use std::process::Command;
use std::time::{Duration, Instant};

use tests::agent::{Kernel, Run, sum};
use tests::apps::PATIENCE;
use tests::process::Process;
use tests::{provision, workspace};

const TEST: &str = "not_grpc";

/// What both processes call themselves, so that their series can be told from others'.
const SERVICE: &str = "plain-http-test";

const EXCHANGES: u64 = 60;

#[test]
fn http2_that_is_not_grpc_is_counted_and_no_call_is_invented() {
    if !provision::is_ready(TEST, &["h2"]) {
        return;
    }
    let Some(kernel) = Kernel::take(TEST) else { return };
    check(&kernel).unwrap_or_else(|error| panic!("{error:#}"));
}

fn check(kernel: &Kernel) -> anyhow::Result<()> {
    let folder = workspace::scratch(TEST)?;
    let agent = Run::start(kernel, &folder)?;
    let server = Process::start("plain server", application().arg("server"), &folder.join("server.log"))?;
    let port = server.wait_for("ready", PATIENCE)?["port"].to_string();
    let mut client = application();
    client.args(["client", "--port", &port, "--exchanges", &EXCHANGES.to_string()]);
    let mut client = Process::start("plain client", &mut client, &folder.join("client.log"))?;
    client.wait_for("done", PATIENCE)?;
    client.wait(PATIENCE)?;

    let deadline = Instant::now() + Duration::from_secs(20);
    let series = loop {
        let series = agent.series(&format!("service_name=\"{SERVICE}\""))?;
        let counted =
            |side: &str| sum(&series, "grpcscope_http_exchanges_total", &[side, "protocol=\"http\""]);
        if counted("side=\"client\"") == EXCHANGES as f64 && counted("side=\"server\"") == EXCHANGES as f64 {
            break series;
        }
        anyhow::ensure!(
            Instant::now() < deadline,
            "{EXCHANGES} exchanges were made, these are counted:\n{}",
            series.join("\n")
        );
        std::thread::sleep(Duration::from_millis(200));
    };
    let invented: Vec<&String> =
        series.iter().filter(|line| line.contains("rpc_method=") || line.contains("grpc_method=")).collect();
    anyhow::ensure!(invented.is_empty(), "calls were invented: {invented:?}");
    // One connection of HTTP/2 for each side; those of HTTP/1.1 are none.
    let opened = sum(&series, "grpcscope_connections_opened_total", &[]);
    anyhow::ensure!(opened == 2.0, "{opened} connections of HTTP/2");
    Ok(())
}

fn application() -> Command {
    let mut command = Command::new(workspace::cache().join("python/bin/python"));
    command.arg(workspace::apps().join("plain/app.py")).env("OTEL_SERVICE_NAME", SERVICE);
    command
}
