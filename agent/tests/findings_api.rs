//! From captured bytes to what people and machines read of findings: the pipeline with its detectors, the list, the
//! server, and the program that asks it.
#![expect(clippy::unwrap_used, reason = "a test")]

mod made;
mod program;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use agent::capture::kernel::Captured;
use agent::commands::run::MetricsListener;
use agent::findings::Findings;
use agent::http::{Readiness, Shared, bind, serve};
use agent::identity::Identities;
use agent::metrics::{Metrics, SeriesLimits};
use agent::pipeline::{Pipeline, monotonic_now};
use agent_common::ring::Endpoints;
use agent_core::detectors::Thresholds;
use agent_core::{Chunk, ConnectionId, Flow, Limits, Timestamp};
use made::{frame, headers};
use program::run;
use serde_json::{Value, json};

const CONNECTION: ConnectionId = ConnectionId(77);

/// A client's connection from this process.
struct Node {
    pipeline: Pipeline<MetricsListener>,
    shared: Shared,
    offsets: [u64; 2],
}

impl Node {
    fn new() -> Node {
        let metrics = Arc::new(Metrics::new(SeriesLimits::default()));
        let findings = Arc::new(Findings::new(Arc::clone(&metrics)));
        let listener = MetricsListener::new(Arc::clone(&metrics), Arc::clone(&findings));
        let identities = Identities::new("/proc", Identities::CAPACITY);
        let pipeline = Pipeline::new(Limits::default(), identities, listener);
        let readiness = Arc::new(Readiness::new(&[]));
        Node {
            pipeline: pipeline.with_detectors(Thresholds::default()),
            shared: Shared { metrics, findings, readiness },
            offsets: [0; 2],
        }
    }

    fn open(&mut self, time: Timestamp) {
        let endpoints = Endpoints {
            recognised: agent_common::ring::RECOGNISED_PREFACE,
            comm: *b"test\0\0\0\0\0\0\0\0\0\0\0\0",
            ..made::endpoints(([10, 0, 0, 1], 40_000), ([10, 0, 0, 2], 50_051))
        };
        let pid = std::process::id();
        self.pipeline.handle_captured(Captured::Open {
            connection: CONNECTION,
            time,
            pid,
            thread: pid,
            endpoints: &endpoints,
        });
    }

    fn pass(&mut self, flow: Flow, time: Timestamp, bytes: &[u8]) {
        let offset = &mut self.offsets[usize::from(flow == Flow::Received)];
        let chunk =
            Chunk { connection: CONNECTION, flow, offset: *offset, time, boundary: true, thread: 1, bytes };
        *offset += bytes.len() as u64;
        let moved = bytes.len() as u32;
        self.pipeline.handle_captured(Captured::Chunk { pid: std::process::id(), moved, chunk });
    }

    /// Two calls without a deadline, one of a hostile name, and one whose deadline passed.
    fn calls(&mut self) {
        let start = monotonic_now();
        let at = |ms: u64| start.plus(ms * 1_000_000);
        self.open(start);
        let mut first = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        first.extend(frame(4, 0, 0, &[]));
        self.pass(Flow::Sent, at(0), &first);
        self.pass(Flow::Received, at(0), &frame(4, 0, 0, &[]));
        let hostile = "/evil\x1b[31m/\u{202e}\n";
        for (stream, path, timeout) in [
            (1, "/shop.Inventory/Reserve", None),
            (3, "/shop.Inventory/Reserve", None),
            (5, hostile, None),
            (7, "/shop.Inventory/Reserve", Some("50m")),
        ] {
            let mut fields = vec![
                (":method", &b"POST"[..]),
                (":scheme", b"http"),
                (":path", path.as_bytes()),
                (":authority", b"inventory:50051"),
                ("content-type", b"application/grpc"),
                ("te", b"trailers"),
            ];
            fields.extend(timeout.map(|timeout: &str| ("grpc-timeout", timeout.as_bytes())));
            let mut request = headers(4, stream, &fields);
            request.extend(frame(0, 1, stream, &[0; 5]));
            self.pass(Flow::Sent, at(u64::from(stream)), &request);
        }
        // CANCEL, half a millisecond after the deadline.
        let late = Timestamp(at(57).0 + 500_000);
        self.pass(Flow::Sent, late, &frame(3, 0, 7, &8_u32.to_be_bytes()));
        self.pipeline.handle_timeout(late.plus(2_000_000_000));
    }

    /// Serves until the end of the process; the runtime is that of its thread.
    fn serve(&self) -> SocketAddr {
        let (ready, address) = std::sync::mpsc::channel();
        let shared = self.shared.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = bind(([127, 0, 0, 1], 0).into()).await.unwrap();
                ready.send(listener.local_addr().unwrap()).unwrap();
                serve(listener, shared, std::future::pending()).await.unwrap();
            });
        });
        address.recv_timeout(Duration::from_secs(10)).unwrap()
    }
}

fn entries<'a>(answer: &'a Value, finding: &str) -> Vec<&'a Value> {
    answer["findings"].as_array().unwrap().iter().filter(|entry| entry["finding"] == finding).collect()
}

#[test]
fn captured_bytes_become_the_list_that_the_program_shows() {
    let mut node = Node::new();
    node.calls();
    let from = format!("http://{}", node.serve());
    let ran = run(&["findings", "--json", "--from", &from]);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    assert!(!ran.stdout.trim_end().chars().any(|c| c.is_control() || c == '\u{202e}'), "{}", ran.stdout);
    let answer: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((&answer["undecided"], &answer["forgotten"]), (&json!([]), &json!(0)));

    let missing = entries(&answer, "deadline_missing");
    let methods: Vec<&Value> = missing.iter().map(|entry| &entry["rpc_method"]).collect();
    assert_eq!(methods, ["shop.Inventory/Reserve", "invalid"]);
    let entry = missing[0];
    for (key, expected) in [
        ("level", json!("problem")),
        ("verdict", json!("firing")),
        ("cause", json!("absent")),
        ("link", Value::Null),
        ("pid", json!(std::process::id())),
        ("side", json!("client")),
        ("count", json!(2)),
        ("evidence", json!({})),
        ("sentence", json!("has no deadline: it can hang for ever")),
        (
            "example",
            json!({"connection": 77, "stream": 3, "client": "10.0.0.1:40000", "server": "10.0.0.2:50051"}),
        ),
    ] {
        assert_eq!(entry[key], expected, "{key}");
    }
    assert!(entry["service_name"].as_str().is_some_and(|name| name.starts_with("findings_api")), "{entry}");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    let (first, last) = (entry["first_seen"].as_f64().unwrap(), entry["last_seen"].as_f64().unwrap());
    assert!(first < last && (now - first).abs() < 60.0, "{first} {last} {now}");

    let exceeded = entries(&answer, "deadline_exceeded");
    assert_eq!(exceeded.len(), 1, "{answer}");
    assert_eq!((&exceeded[0]["cause"], &exceeded[0]["count"]), (&json!("client"), &json!(1)));
    assert_eq!(exceeded[0]["evidence"]["timeout_seconds"], 0.05);
    assert_eq!(exceeded[0]["evidence"]["ended_after_seconds"], 0.0505);
}

#[test]
fn people_get_a_table_and_can_ask_for_a_part_of_it() {
    let mut node = Node::new();
    node.calls();
    let from = format!("http://{}", node.serve());
    let all = run(&["findings", "--from", &from]);
    assert_eq!((all.code, all.stderr.as_str()), (Some(0), ""));
    let lines: Vec<&str> = all.stdout.lines().collect();
    assert!(lines[0].starts_with("  COUNT  LAST      SERVICE"), "{}", all.stdout);
    // Most of them first, each with its evidence below.
    assert!(
        lines[1].starts_with("      2  ")
            && lines[1].contains("shop.Inventory/Reserve (client) has no deadline")
    );
    assert!(
        lines[2].contains("cause absent, pid ")
            && lines[2].ends_with("10.0.0.1:40000 → 10.0.0.2:50051 stream 3")
    );
    assert_eq!(lines.len(), 1 + 3 * 2, "{}", all.stdout);

    let part = run(&["findings", "--from", &from, "--finding", "deadline_exceeded"]);
    assert!(
        part.stdout.contains("exceeded its timeout of 50.000 ms") && part.stdout.lines().count() == 3,
        "{part:?}"
    );
    let none = run(&["findings", "--from", &from, "--service-name", "somebody else"]);
    assert_eq!((none.code, none.stdout.as_str()), (Some(0), "nothing found\n"));
}

#[test]
fn where_no_agent_answers_the_program_says_what_to_do() {
    // A port that was free a moment ago.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let ran = run(&["findings", "--from", &format!("http://{address}")]);
    assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.lines().count()), (Some(1), "", 1), "{ran:?}");
    for part in [&address.to_string(), "`grpcscope run`", "--from", "refused"] {
        assert!(ran.stderr.contains(part), "{part}: {}", ran.stderr);
    }
    for arguments in [
        &["findings", "--finding", "no_such"][..],
        &["findings", "--verdict", "maybe"],
        &["findings", "--from", "https://x:1"],
        &["findings", "--live", "--from", "http://x:1"],
    ] {
        assert_eq!(run(arguments).code, Some(2), "{arguments:?}");
    }
}

#[test]
fn what_answers_and_is_no_agent_is_named_so() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let answers = [
        "HTTP/1.1 404 Not Found\r\ncontent-length: 5\r\n\r\nno\x1b[2",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi",
    ];
    std::thread::spawn(move || {
        for answer in answers {
            use std::io::{Read, Write};
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 4_096];
            assert!(stream.read(&mut request).unwrap() > 0);
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    let from = format!("http://{address}");
    let ran = run(&["findings", "--from", &from]);
    assert_eq!(ran.code, Some(1));
    assert!(
        ran.stderr.contains(r"it answers 404 Not Found: no\x1b[2") && ran.stderr.lines().count() == 1,
        "{ran:?}"
    );
    let ran = run(&["findings", "--from", &from]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("is no grpcscope, or one of another version"), "{ran:?}");
}
