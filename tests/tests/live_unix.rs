//! The same over Unix sockets.

use tests::agent::{Kernel, Watch};
use tests::apps::{Client, Implementation, Pace, Server};
use tests::compare::{Joined, certainly_sent, compare, join};
use tests::{plan, provision, workspace};

const TEST: &str = "live_unix";

#[test]
fn calls_over_unix_sockets_are_seen_on_both_sides() {
    if !provision::is_ready(TEST, &["grpcio", "grpc-js", "grpc-go-app"]) {
        return;
    }
    let Some(kernel) = Kernel::take(TEST) else { return };
    let folder = workspace::scratch(TEST).unwrap();
    let mut watch = Watch::start(&kernel, &folder).unwrap();
    let others = [Implementation::Node, Implementation::Go, Implementation::Tonic, Implementation::Python];
    for (client, server) in Implementation::ALL.into_iter().zip(others) {
        let name = format!("{client} to {server} over a Unix socket");
        // The path of a Unix socket has 107 bytes at most, which a deep cache may exceed.
        let folder = std::env::temp_dir().join(format!("grpcscope-{}-{client}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let server = Server::start(server, &folder, true).unwrap();
        let calls = plan::mixed(250, 5);
        let client = Client::start(client, &server.address, &folder, "1", &calls, Pace::at_once(10)).unwrap();
        let pid = client.pid();
        let truths = join(client.finish().unwrap(), &server.truth().unwrap());
        for (side, pid) in [("client", pid), ("server", server.pid())] {
            let seen = watch.calls_of(pid, certainly_sent(&truths)).unwrap();
            let result = compare(&truths, &seen, Joined::FromTheStart);
            result.check(&format!("{name}, {side}")).unwrap_or_else(|error| panic!("{error:#}"));
            eprintln!("{name}, {side}: {} match", result.matched);
        }
        drop(server);
        std::fs::remove_dir_all(&folder).unwrap();
    }
    watch.stop().unwrap().check_nothing_lost().unwrap();
}
