//! The agent does nothing to what it watches, and leaves nothing behind. Minimum kernel: that of grpcscope (`grpcscope check`).
//!
//! What starting and stopping many times leaves is in `restarts.rs`, the loss of a full ring in `ring_full.rs`.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use tests::agent::{Kernel, Run, Watch};
use tests::apps::{Client, Implementation, Pace, Server};
use tests::busy::Busy;
use tests::kernel_objects::Objects;
use tests::truth::{ClientCall, Outcome};
use tests::{http, plan, provision, workspace};

#[test]
fn a_killed_agent_leaves_no_program_link_or_map() {
    let Some(kernel) = Kernel::take("killed") else { return };
    let folder = workspace::scratch("killed").expect("a folder");
    let busy = Busy::start(20, 1).expect("connections");
    let run = Run::start(&kernel, &folder).expect("it starts");
    let held = Objects::of_process(run.pid()).expect("it runs");
    // Two for the bytes and one for the states of sockets.
    assert!(held.programs.len() >= 3 && held.links.len() >= 3 && held.maps.len() >= 5, "{held:?}");
    assert_eq!(held.left().expect("the kernel says"), held, "what it holds is there");
    busy.wait_for_rounds(10, Duration::from_secs(30)).expect("the programs run");

    run.signal(libc::SIGKILL);
    let took = held.wait_until_gone(Duration::from_secs(1)).expect("nothing is left");
    println!(
        "{} programs, {} links, {} maps: gone after {took:?}",
        held.programs.len(),
        held.links.len(),
        held.maps.len()
    );
    busy.finish().expect("nobody noticed");
}

#[test]
fn a_thousand_busy_connections_are_attached_to_and_detached_from_and_do_not_notice() {
    let Some(kernel) = Kernel::take("thousand_connections") else { return };
    let folder = workspace::scratch("thousand_connections").expect("a folder");
    let busy = Busy::start(1_000, 2).expect("connections");
    let patience = Duration::from_secs(60);
    for _ in 0..3 {
        busy.wait_for_rounds(1, patience).expect("without an agent");
        let watch = Watch::start(&kernel, &folder).expect("it starts");
        busy.wait_for_rounds(2, patience).expect("with an agent");
        let summary = watch.stop().expect("it ends in order");
        let number = |key: &str| summary.0[key].as_u64().expect("a number");
        // Two rounds are eight records of each connection, unless they are lost, which is counted.
        assert!(number("received") + number("lost") >= 8_000, "{}", summary.0);
        busy.wait_for_rounds(1, patience).expect("without it again");
    }
    let rounds = busy.finish().expect("every echo was what was sent");
    println!("{rounds} rounds on 1,000 connections");
}

/// What an application was told of its call.
type Result = (String, u32, Outcome, u64, u64);

#[test]
fn applications_get_the_same_results_with_and_without_the_agent() {
    let Some(kernel) = Kernel::take("same_results") else { return };
    for implementation in Implementation::ALL {
        let library = match implementation {
            Implementation::Python => Some("grpcio"),
            Implementation::Node => Some("grpc-js"),
            Implementation::Go => Some("grpc-go-app"),
            Implementation::Tonic => None,
        };
        if library.is_some_and(|library| !provision::is_ready("same_results", &[library])) {
            continue;
        }
        let results = |name: &str, agent: bool| {
            let folder =
                workspace::scratch(&format!("same_results/{implementation}-{name}")).expect("a folder");
            let watch = agent.then(|| Watch::start(&kernel, &folder).expect("it starts"));
            let results = results_of(implementation, &folder).unwrap_or_else(|error| panic!("{error:#}"));
            if let Some(watch) = watch {
                let summary = watch.stop().expect("it ends in order");
                assert!(summary.0["calls"].as_u64() >= Some(200), "{}", summary.0);
            }
            results
        };
        let without = results("without", false);
        let with = results("with", true);
        assert_eq!(without.len(), 200);
        for (id, result) in &without {
            assert_eq!(with.get(id), Some(result), "{implementation}, call {id}");
        }
    }
}

fn results_of(implementation: Implementation, folder: &Path) -> anyhow::Result<BTreeMap<u64, Result>> {
    let server = Server::start(implementation, folder, false)?;
    let calls = plan::mixed(200, 11);
    let client = Client::start(implementation, &server.address, folder, "1", &calls, Pace::at_once(8))?;
    let told = |call: ClientCall| {
        // How much of a stream was read before it was cancelled is the client's timing.
        let (messages, bytes) =
            if call.cancelled_by_client { (0, 0) } else { (call.recv_msgs, call.recv_bytes) };
        (call.id, (call.method, call.code, call.outcome, messages, bytes))
    };
    Ok(client.finish()?.into_iter().map(told).collect())
}

#[test]
fn nobody_waits_for_an_agent_that_stands_still_and_what_it_missed_is_counted() {
    let Some(kernel) = Kernel::take("stopped_reader") else { return };
    let folder = workspace::scratch("stopped_reader").expect("a folder");
    let mut command = Command::new(kernel.program());
    command.args(["calls", "--json"]).env("GRPCSCOPE_CAPTURE_RING_BYTES", "256KiB");
    let watch = Watch::of(command, &folder).expect("it starts");
    let server = Server::start(Implementation::Tonic, &folder, false).expect("a server");
    let call = |name: &str, count: u64| {
        let calls = plan::unary(count, 5);
        let pace = Pace::at_once(10);
        let client = Client::start(Implementation::Tonic, &server.address, &folder, name, &calls, pace)?;
        let calls = client.finish()?;
        ensure!(
            calls.iter().all(|call| call.outcome == Outcome::Ok),
            "not all calls of {name} were answered"
        );
        anyhow::Ok(())
    };
    call("before", 100).expect("the agent reads");
    watch.signal(libc::SIGSTOP);
    call("stopped", 3_000).expect("the agent stands still");
    watch.signal(libc::SIGCONT);
    call("after", 100).expect("the agent reads again");
    let summary = watch.stop().expect("it ends in order");
    let number = |key: &str| summary.0[key].as_u64().expect("a number");
    let (produced, received, lost) = (number("produced"), number("received"), number("lost"));
    println!("{produced} records, {received} received, {lost} lost");
    assert!(lost > 3_000, "{}", summary.0);
    // Others on this machine may have sockets too, and go on between the last look at the ring and that at the counters.
    assert!(produced >= received + lost && produced - received - lost <= lost / 100, "{}", summary.0);
    assert!(number("missing") <= lost, "nothing is missing that was not lost: {}", summary.0);
}

#[test]
fn the_agents_own_sockets_are_not_watched() {
    let Some(kernel) = Kernel::take("own_sockets") else { return };
    let folder = workspace::scratch("own_sockets").expect("a folder");
    let run = Run::start(&kernel, &folder).expect("it starts");
    // What looks like HTTP/2 is seen of this process, and would be of the agent, which reads the same bytes.
    let mut stream = TcpStream::connect(("127.0.0.1", run.port)).expect("it listens");
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").expect("it reads");
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let opened = opened_by_workload(run.port).unwrap_or_else(|error| panic!("{error:#}"));
        let own = std::env::current_exe().expect("this program");
        let own = own.file_name().expect("its name").to_string_lossy().into_owned();
        if opened.get(&own).is_some_and(|count| *count >= 1.0) {
            assert_eq!(opened.get("grpcscope"), None, "{opened:?}");
            break;
        }
        assert!(Instant::now() < deadline, "{own} is not among {opened:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
    run.stop().expect("it ends in order");
}

fn opened_by_workload(port: u16) -> anyhow::Result<BTreeMap<String, f64>> {
    let page = http::get(port, "/metrics")?;
    let text = String::from_utf8(page.body).context("the page is text")?;
    let mut opened = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("grpcscope_connections_opened_total{")) {
        let name = line.split("service_name=\"").nth(1).and_then(|rest| rest.split('"').next());
        let count: f64 = line.rsplit(' ').next().context("a value")?.parse()?;
        *opened.entry(name.context("a workload")?.to_owned()).or_default() += count;
    }
    Ok(opened)
}
