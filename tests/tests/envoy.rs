//! Envoy between client and server: every call is seen in four places, on both sides of both connections.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use tests::agent::{Kernel, Watch, free_port};
use tests::apps::{Address, Client, Implementation, PATIENCE, Pace, Server};
use tests::compare::{Joined, certainly_sent, compare, join};
use tests::observed::Call;
use tests::process::Process;
use tests::{http, plan, provision, workspace};

const TEST: &str = "envoy";

/// RFC 9113 §7.
const INTERNAL_ERROR: u32 = 2;

#[test]
fn calls_through_envoy_are_seen_by_all_three_processes() {
    if !provision::is_ready(TEST, &["grpcio", "grpc-go-app", "envoy"]) {
        return;
    }
    let Some(kernel) = Kernel::take(TEST) else { return };
    check(&kernel).unwrap_or_else(|error| panic!("{error:#}"));
}

fn check(kernel: &Kernel) -> anyhow::Result<()> {
    let folder = workspace::scratch(TEST)?;
    let mut watch = Watch::start(kernel, &folder)?;
    let server = Server::start(Implementation::Go, &folder, false)?;
    let Address::Port(server_port) = server.address else { anyhow::bail!("the server listens on no port") };
    let (envoy, port) = start_envoy(&folder, server_port)?;

    // At a deadline, Envoy turns the server's reset into a status of its own, or forwards the client's, whichever
    // comes first; what the client's application says is then not what it was sent.
    let mut calls = plan::mixed(300, 21);
    calls.retain(|call| call.timeout_ms != Some(plan::SHORT_DEADLINE_MS));
    let client =
        Client::start(Implementation::Python, &Address::Port(port), &folder, "1", &calls, Pace::at_once(10))?;
    let pid = client.pid();
    let truths = join(client.finish()?, &server.truth()?);

    let in_envoy = watch.calls_of(envoy.pid(), 2 * certainly_sent(&truths))?;
    let (downstream, upstream): (Vec<_>, Vec<_>) =
        in_envoy.into_iter().partition(|call| call.side == "server");
    let places = [
        ("the client", watch.calls_of(pid, certainly_sent(&truths))?),
        ("Envoy's server side", downstream),
        ("Envoy's client side", upstream),
        ("the server", watch.calls_of(server.pid(), certainly_sent(&truths))?),
    ];
    for (place, mut seen) in places {
        if place == "Envoy's client side" || place == "the server" {
            seen.iter_mut().for_each(with_the_clients_reset);
        }
        let result = compare(&truths, &seen, Joined::FromTheStart);
        result.check(place)?;
        eprintln!("{place}: {} match", result.matched);
    }
    watch.stop()?.check_nothing_lost()
}

/// When its client cancels, Envoy resets the call to the server with INTERNAL_ERROR in place of CANCEL: on that
/// connection this is an error, and rightly seen as one. The comparison is with the client's cancel.
fn with_the_clients_reset(call: &mut Call) {
    if call.ended_by.as_deref() == Some("client")
        && call.rst_code == Some(INTERNAL_ERROR)
        && call.outcome == "error"
    {
        call.outcome = "cancelled".to_owned();
    }
}

fn start_envoy(folder: &Path, server_port: u16) -> anyhow::Result<(Process, u16)> {
    let (port, admin) = (free_port()?, free_port()?);
    let configuration = folder.join("envoy.yaml");
    std::fs::write(&configuration, configuration_text(port, admin, server_port))?;
    let mut command = Command::new(workspace::cache().join("python/bin/envoy"));
    command.arg("-c").arg(&configuration).args(["--concurrency", "1", "--log-level", "warn", "--base-id"]);
    // Two Envoys of one machine share memory by this number.
    command.arg((std::process::id() % 30_000).to_string());
    let envoy = Process::start("envoy", &mut command, &folder.join("envoy.log"))?;
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if http::get(admin, "/ready").is_ok_and(|answer| answer.status == 200) {
            return Ok((envoy, port));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    anyhow::bail!("Envoy is not ready; {}", envoy.last_words())
}

fn configuration_text(port: u16, admin: u16, server_port: u16) -> String {
    format!(
        r#"
admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {admin}}}}}}}
static_resources:
  listeners:
  - name: in
    address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: in
          codec_type: HTTP2
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes: [{{match: {{prefix: "/"}}, route: {{cluster: server, timeout: 0s}}}}]
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
  clusters:
  - name: server
    type: STATIC
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{http2_protocol_options: {{}}}}
    load_assignment:
      cluster_name: server
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {server_port}}}}}}}
"#
    )
}
