//! The agent is started while the connections are in use: what it says of the later calls is right or unknown,
//! never wrong, and no call is missing or seen twice.

use tests::agent::{Kernel, Watch};
use tests::apps::{Client, Implementation, Pace, Server};
use tests::compare::{Joined, certainly_sent, compare, join};
use tests::{plan, provision, workspace};

const TEST: &str = "live_late_join";

#[test]
fn a_connection_joined_in_the_middle_is_right_or_unknown_and_never_wrong() {
    if !provision::is_ready(TEST, &["grpcio", "grpc-js", "grpc-go-app"]) {
        return;
    }
    let Some(kernel) = Kernel::take(TEST) else { return };
    let folder = workspace::scratch(TEST).unwrap();
    let others = [Implementation::Go, Implementation::Tonic, Implementation::Python, Implementation::Node];
    let pairs = Implementation::ALL
        .into_iter()
        .zip(others)
        .chain(Implementation::ALL.into_iter().zip(Implementation::ALL));
    let mut running: Vec<(String, Server, Client)> = pairs
        .map(|(client, server)| {
            let name = format!("{client} to {server}");
            let folder = workspace::scratch(&format!("{TEST}/{client}-{server}")).unwrap();
            let server = Server::start(server, &folder, false).unwrap();
            let pace = Pace { concurrency: 10, rate: None, hold: true };
            let client =
                Client::start(client, &server.address, &folder, "1", &plan::mixed(400, 77), pace).unwrap();
            (name, server, client)
        })
        .collect();
    for (_, _, client) in &running {
        client.wait_until_held().unwrap();
    }

    let mut watch = Watch::start(&kernel, &folder).unwrap();
    let mut without_method = 0;
    for (name, server, mut client) in running.drain(..) {
        let before: Vec<u64> = client.truth_so_far().unwrap().iter().map(|call| call.id).collect();
        client.go_on().unwrap();
        let pid = client.pid();
        let made = client.finish().unwrap();
        let mut truths = join(made, &server.truth().unwrap());
        truths.retain(|truth| !before.contains(&truth.made.id));
        assert_eq!(truths.len(), 200, "{name}: the second half");
        for (side, pid) in [("client", pid), ("server", server.pid())] {
            let seen = watch.calls_of(pid, certainly_sent(&truths)).unwrap();
            let result = compare(&truths, &seen, Joined::Late);
            result.check(&format!("{name}, {side}")).unwrap_or_else(|error| panic!("{error:#}"));
            eprintln!(
                "{name}, {side}: {} match, {} of them without a method",
                result.matched, result.without_method
            );
            without_method += result.without_method;
        }
    }
    // The C-core puts paths into the HPACK table, so those from before cannot be known (H11). If all were
    // known, this would not have been a late join.
    assert!(without_method > 0, "every method was known");
    watch.stop().unwrap().check_nothing_lost().unwrap();
}
