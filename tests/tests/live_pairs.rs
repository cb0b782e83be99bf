//! Every implementation as a client against every implementation as a server: every call of all types is seen
//! once on both sides, as the applications made it, and nothing is lost.
//!
//! Minimum kernel: that of grpcscope (`grpcscope check`).

use tests::agent::{Kernel, Watch};
use tests::apps::{Client, Implementation, Pace, Server};
use tests::compare::{Joined, certainly_sent, compare, join};
use tests::{plan, provision, workspace};

const LIBRARIES: [&str; 3] = ["grpcio", "grpc-js", "grpc-go-app"];

/// Calls of one client, and how many of them at once. Together over a thousand for a pair.
const CLIENTS: [(u64, usize); 3] = [(330, 1), (340, 10), (340, 100)];

#[test]
fn a_client_in_python_is_seen_with_all_servers() {
    pairs("live_pairs_python", Implementation::Python);
}

#[test]
fn a_client_in_node_is_seen_with_all_servers() {
    pairs("live_pairs_node", Implementation::Node);
}

#[test]
fn a_client_in_go_is_seen_with_all_servers() {
    pairs("live_pairs_go", Implementation::Go);
}

#[test]
fn a_client_in_rust_is_seen_with_all_servers() {
    pairs("live_pairs_tonic", Implementation::Tonic);
}

fn pairs(test: &str, client: Implementation) {
    if !provision::is_ready(test, &LIBRARIES) {
        return;
    }
    let Some(kernel) = Kernel::take(test) else { return };
    let folder = workspace::scratch(test).unwrap();
    let mut watch = Watch::start(&kernel, &folder).unwrap();
    for server in Implementation::ALL {
        pair(&mut watch, test, client, server).unwrap_or_else(|error| panic!("{error:#}"));
    }
    watch.stop().unwrap().check_nothing_lost().unwrap();
}

fn pair(watch: &mut Watch, test: &str, client: Implementation, server: Implementation) -> anyhow::Result<()> {
    for (index, (calls, concurrency)) in CLIENTS.into_iter().enumerate() {
        let name = format!("{client} to {server}, {concurrency} at once");
        let folder = workspace::scratch(&format!("{test}/{server}-{concurrency}"))?;
        // A server for each client, so that the ids of its truth are those of one plan.
        let server = Server::start(server, &folder, false)?;
        let calls = plan::mixed(calls, 1_000 * index as u64 + concurrency as u64);
        let running =
            Client::start(client, &server.address, &folder, "1", &calls, Pace::at_once(concurrency))?;
        let pid = running.pid();
        let truths = join(running.finish()?, &server.truth()?);
        for (side, pid) in [("client", pid), ("server", server.pid())] {
            let seen = watch.calls_of(pid, certainly_sent(&truths))?;
            let result = compare(&truths, &seen, Joined::FromTheStart);
            result.check(&format!("{name}, {side}"))?;
            assert_sides(&seen, side);
            anyhow::ensure!(result.deadlines > 0, "{name}, {side}: no deadline was seen");
            anyhow::ensure!(
                result.without_type * 2 < result.matched,
                "{name}, {side}: the type of {} calls of {} is unknown",
                result.without_type,
                result.matched
            );
            eprintln!(
                "{name}, {side}: {} match, {} deadlines, {} were never sent",
                result.matched, result.deadlines, result.never_sent
            );
        }
    }
    Ok(())
}

fn assert_sides(calls: &[tests::observed::Call], side: &str) {
    assert!(calls.iter().all(|call| call.side == side), "a call of the {side} has another side");
    assert!(calls.iter().all(|call| call.service.as_deref().is_some_and(|name| !name.is_empty())));
}
