//! Work that is spread over threads says the same as one pipeline, keeps the order of each connection, and hands everything on
//! to the agent after a restart.
#![expect(clippy::unwrap_used, reason = "a test")]

mod made;

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use agent::budget::{Budgets, Controller, Step, Usage};
use agent::capture::kernel::Captured;
use agent::commands::run::pipelines;
use agent::config::Config;
use agent::findings::{Filter, Findings};
use agent::identity::Identities;
use agent::metrics::{Format, Metrics, SeriesLimits};
use agent::pipeline::{Handler, Listener, Pipeline, Shards, Subject};
use agent_common::ring::Endpoints;
use agent_core::detectors::Thresholds;
use agent_core::{Chunk, ConnectionId, Flow, Limits, Observation, Timestamp};
use made::{PREFACE, endpoints, frame, headers};
use proptest::prelude::*;

const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MS;
const SHOP: [[u8; 4]; 3] = [[10, 0, 0, 1], [10, 0, 0, 2], [10, 0, 0, 3]];

/// Processes that are there, so that they have an identity.
struct Processes(Vec<Child>);

impl Processes {
    fn start(count: usize) -> Processes {
        let sleep = || Command::new("sleep").arg("600").stdin(Stdio::null()).spawn().unwrap();
        Processes((0..count).map(|_| sleep()).collect())
    }

    fn pid(&self, at: usize) -> u32 {
        self.0[at].id()
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What the kernel side saw, to be played as often as one likes.
enum Seen {
    Open(u64, Timestamp, u32, Endpoints),
    Chunk(u64, Timestamp, u32, Flow, u64, Vec<u8>),
    Moved(u64, u64),
    Close(u64, Timestamp),
    Timeout(Timestamp),
}

fn play(seen: &[Seen], handler: &mut impl Handler) {
    for seen in seen {
        handler.handle_captured(match seen {
            Seen::Open(id, time, pid, endpoints) => {
                Captured::Open { connection: ConnectionId(*id), time: *time, pid: *pid, thread: 0, endpoints }
            }
            Seen::Chunk(id, time, pid, flow, offset, bytes) => {
                let (connection, flow, offset, time) = (ConnectionId(*id), *flow, *offset, *time);
                let chunk = Chunk { connection, flow, offset, time, boundary: true, thread: 7, bytes };
                Captured::Chunk { pid: *pid, moved: bytes.len() as u32, chunk }
            }
            Seen::Moved(id, bytes) => {
                Captured::Moved { connection: ConnectionId(*id), bytes: *bytes, missed: 0 }
            }
            Seen::Close(id, time) => {
                let (connection, flow) = (ConnectionId(*id), Flow::Sent);
                Captured::Close { connection, flow, reset: false, is_final: true, unseen: false, time: *time }
            }
            Seen::Timeout(before) => {
                handler.handle_timeout(*before).unwrap();
                continue;
            }
        });
    }
}

/// Who uses a connection, and how.
struct Connection {
    pid: u32,
    is_client: bool,
    offsets: [u64; 2],
    stream: u32,
}

/// Writes down what a node would have seen.
struct Node {
    seen: Vec<Seen>,
    connections: Vec<Connection>,
    now: Timestamp,
    random: u64,
}

impl Node {
    fn new() -> Node {
        Node { seen: Vec::new(), connections: Vec::new(), now: Timestamp(1_000 * SECOND), random: 1 }
    }

    fn random(&mut self, below: u64) -> u64 {
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % below
    }

    /// A connection between an address of the shop and somebody else, which begins as every connection does.
    fn open(&mut self, pid: u32, is_client: bool, shop: [u8; 4]) -> usize {
        let id = self.connections.len();
        self.connections.push(Connection { pid, is_client, offsets: [0; 2], stream: 1 });
        let (shop, other) = ((shop, 50_051), ([10, 0, 9, 9], 10_000 + id as u16));
        let (local, peer) = if is_client { (other, shop) } else { (shop, other) };
        self.seen.push(Seen::Open(id as u64, self.now, pid, endpoints(local, peer)));
        self.pass(id, true, &[PREFACE, &frame(4, 0, 0, &[])].concat());
        self.pass(id, false, &frame(4, 0, 0, &[]));
        id
    }

    fn pass(&mut self, id: usize, by_client: bool, bytes: &[u8]) {
        let connection = &mut self.connections[id];
        let flow = if by_client == connection.is_client { Flow::Sent } else { Flow::Received };
        let offset = &mut connection.offsets[flow as usize];
        self.seen.push(Seen::Chunk(id as u64, self.now, connection.pid, flow, *offset, bytes.to_vec()));
        *offset += bytes.len() as u64;
        self.seen.push(Seen::Moved(id as u64, bytes.len() as u64));
    }

    fn begin_call(&mut self, id: usize, method: &str, timeout: Option<&str>) -> u32 {
        let stream = self.connections[id].stream;
        self.connections[id].stream += 2;
        let mut fields: Vec<(&str, &[u8])> = vec![
            (":method", b"POST"),
            (":scheme", b"http"),
            (":path", method.as_bytes()),
            (":authority", b"shop:50051"),
            ("content-type", b"application/grpc"),
            ("te", b"trailers"),
        ];
        fields.extend(timeout.map(|timeout| ("grpc-timeout", timeout.as_bytes())));
        self.pass(id, true, &headers(4 | 1, stream, &fields));
        stream
    }

    fn answer(&mut self, id: usize, stream: u32, status: &str) {
        let fields: [(&str, &[u8]); 3] =
            [(":status", b"200"), ("content-type", b"application/grpc"), ("grpc-status", status.as_bytes())];
        self.pass(id, false, &headers(4 | 1, stream, &fields));
    }

    fn call(&mut self, id: usize, method: &str) {
        let stream = self.begin_call(id, method, Some("1S"));
        let status = ["0", "0", "0", "5", "14"][self.random(5) as usize];
        self.answer(id, stream, status);
    }

    fn wait(&mut self, ms: u64) {
        self.now = self.now.plus(ms * MS);
        self.seen.push(Seen::Timeout(self.now));
    }

    fn close(&mut self, id: usize) {
        self.seen.push(Seen::Close(id as u64, self.now));
    }
}

/// Two minutes of a node: three backends of the shop, of which one gets nothing; a client that uses one of three connections,
/// another one that uses all, and services that call the shop while they are called.
fn two_minutes(processes: &Processes) -> Node {
    let mut node = Node::new();
    let servers: Vec<usize> = (0..3).map(|at| node.open(processes.pid(at), false, SHOP[at])).collect();
    let pinned: Vec<usize> = SHOP.map(|shop| node.open(processes.pid(3), true, shop)).into();
    let even: Vec<usize> = SHOP.map(|shop| node.open(processes.pid(4), true, shop)).into();
    // Served and calling.
    let hops: Vec<(usize, usize)> = (5..8)
        .map(|at| {
            let served = node.open(processes.pid(at), false, [10, 0, 1, at as u8]);
            (served, node.open(processes.pid(at), true, SHOP[0]))
        })
        .collect();
    // By what name it is asked for, and then nobody asks any more.
    node.call(servers[2], "/shop.Shop/Buy");
    // Its call stays open to the end.
    node.begin_call(even[0], "/shop.Shop/Watch", None);
    for _ in 0..1_200 {
        for _ in 0..3 {
            node.call(servers[0], "/shop.Shop/Buy");
            node.call(servers[1], "/shop.Shop/Buy");
            node.call(pinned[0], "/shop.Shop/Buy");
        }
        let at = node.random(3) as usize;
        node.call(even[at], "/shop.Shop/Look");
        let (served, calls) = hops[node.random(3) as usize];
        let stream = node.begin_call(served, "/web.Front/Page", Some("300m"));
        let outbound = node.begin_call(calls, "/shop.Shop/Buy", None);
        if node.random(4) == 0 {
            // Nobody waits for what it called for.
            node.pass(served, true, &frame(3, 0, stream, &[0, 0, 0, 8]));
            node.wait(40);
        }
        node.wait(20);
        node.answer(calls, outbound, "0");
        node.answer(served, stream, "0");
        if node.random(50) == 0 {
            let passing = node.open(processes.pid(4), true, SHOP[1]);
            node.call(passing, "/shop.Shop/Look");
            node.close(passing);
        }
        node.wait(80);
    }
    node.close(pinned[1]);
    node.wait(2_000);
    node
}

/// All that is counted, but for what the agent says of itself, and all that was found.
fn told(seen: &[Seen], end: Timestamp, shards: usize) -> (Vec<String>, serde_json::Value) {
    let metrics = Arc::new(Metrics::new(SeriesLimits::default()));
    let findings = Arc::new(Findings::new(Arc::clone(&metrics)));
    let config = Config::default();
    let mut pipelines = pipelines(&config, shards, &metrics, &findings);
    if shards == 1 {
        let mut only = pipelines.pop().unwrap();
        play(seen, &mut only);
        only.conclude(end).unwrap();
    } else {
        let mut all = Shards::start(pipelines, &config.core_limits()).unwrap();
        play(seen, &mut all);
        all.conclude(end).unwrap();
    }
    let text = String::from_utf8(metrics.encode(Format::Text).unwrap()).unwrap();
    let own = ["process_", "grpcscope_scrape", "grpcscope_series", "grpcscope_build"];
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let lines = lines.filter(|line| !own.iter().any(|own| line.starts_with(own))).map(str::to_owned);
    let answer = findings.answer(&Filter::default(), end, 0);
    (lines.collect(), serde_json::to_value(&answer).unwrap())
}

#[test]
fn the_same_is_counted_and_found_over_one_shard_and_over_three() {
    let processes = Processes::start(8);
    let node = two_minutes(&processes);
    let (one, found) = told(&node.seen, node.now, 1);
    for what in ["pinned_connection", "starved_backend", "deadline_dropped"] {
        assert!(found.to_string().contains(what), "{what} is not in {found}");
    }
    assert!(
        one.iter().any(|line| line.starts_with("grpcscope_correlated_calls_total") && line.contains("sole")),
        "{one:#?}"
    );
    for shards in [2, 3] {
        let (spread, found_spread) = told(&node.seen, node.now, shards);
        let (of_one, of_spread): (BTreeSet<&String>, BTreeSet<&String>) =
            (one.iter().collect(), spread.iter().collect());
        let differences: Vec<_> = of_one.symmetric_difference(&of_spread).collect();
        assert!(differences.is_empty(), "over {shards} shards: {differences:#?}");
        assert_eq!(found_spread, found, "over {shards} shards");
    }
}

/// Writes down in what order it is told what moved, and on which connections of which process.
#[derive(Default)]
struct Order(BTreeMap<(u32, u64), Vec<u64>>);

impl Listener for Order {
    type Connection = ();

    fn handle_connection(&mut self, _: &Subject) {}

    fn handle_observation(&mut self, _: &Subject, (): &mut (), _: Observation) {}

    fn handle_moved(&mut self, subject: &Subject, (): &mut (), bytes: u64, _: u64) {
        self.0.entry((subject.process.pid, subject.connection.0)).or_default().push(bytes);
    }
}

fn ordered(count: usize) -> Vec<Pipeline<Order>> {
    let one = |_| Pipeline::new(Limits::default(), Identities::new("/nowhere", 16), Order::default());
    (0..count).map(|at| one(at).with_detectors(Thresholds::default())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_connection_stays_in_its_process_s_shard_and_its_records_in_their_order(
        shards in 2..5_usize,
        // Connection, process that uses it then, and whether time passes.
        steps in prop::collection::vec((0..12_u64, 0..5_u32, prop::bool::weighted(0.02)), 1..4_000),
    ) {
        let mut all = Shards::start(ordered(shards), &Limits::default()).unwrap();
        let mut expected: BTreeMap<(u32, u64), Vec<u64>> = BTreeMap::new();
        let mut owners: BTreeMap<u64, (u32, u64)> = BTreeMap::new();
        let mut now = Timestamp(SECOND);
        for (at, (connection, pid, time_passes)) in (0..).zip(&steps) {
            now = now.plus(MS);
            let (pid, at) = (1_000 + pid, at as u64);
            let (owner, moved) = owners.entry(*connection).or_insert((pid, 0));
            let bytes = format!("HTTP/2 or not {at}").into_bytes();
            play(&[Seen::Chunk(*connection, now, pid, Flow::Sent, *moved, bytes.clone()), Seen::Moved(*connection, at)], &mut all);
            *moved += bytes.len() as u64;
            expected.entry((*owner, *connection)).or_default().push(at);
            if *time_passes {
                all.handle_timeout(now).unwrap();
            }
        }
        let mut told: BTreeMap<(u32, u64), Vec<u64>> = BTreeMap::new();
        let mut shard_of: BTreeMap<u32, usize> = BTreeMap::new();
        for (shard, mut pipeline) in all.join(now).unwrap().into_iter().enumerate() {
            for (of, moved) in std::mem::take(&mut pipeline.listener().0) {
                prop_assert_eq!(*shard_of.entry(of.0).or_insert(shard), shard, "of process {}", of.0);
                prop_assert!(told.insert(of, moved).is_none(), "{:?} is in two shards", of);
            }
        }
        prop_assert_eq!(told, expected);
    }
}

/// What is written with three shards is taken up with two, and what was not seen in between is kept for the next one.
#[test]
fn a_restart_with_another_number_of_shards_takes_all_connections_up() {
    let processes = Processes::start(6);
    let mut node = Node::new();
    for at in 0..12 {
        let id = node.open(processes.pid(at % 6), at % 2 == 0, SHOP[0]);
        node.call(id, "/shop.Shop/Buy");
    }
    node.wait(200);
    let before = std::mem::take(&mut node.seen);
    let mut old = Shards::start(ordered(3), &Limits::default()).unwrap();
    play(&before, &mut old);
    let mut saved = old.save().unwrap();
    old.conclude(node.now).unwrap();
    saved.sort_by_key(|saved| saved.connection);
    assert_eq!(saved.iter().map(|saved| saved.connection.0).collect::<Vec<_>>(), (0..12).collect::<Vec<_>>());

    let mut new = Shards::start(ordered(2), &Limits::default()).unwrap();
    new.resume(saved, node.now);
    for id in 0..9 {
        node.call(id, "/shop.Shop/Buy");
    }
    // One ends unseen: it is not known any more.
    node.close(11);
    node.wait(100);
    play(&node.seen, &mut new);
    let mut kept: Vec<u64> = new.save().unwrap().iter().map(|saved| saved.connection.0).collect();
    kept.sort_unstable();
    assert_eq!(kept, (0..11).collect::<Vec<_>>());
    let resumed = new.figures().resumed;
    assert_eq!((resumed.taken_up, resumed.missed), (2 * 9, 0));
    assert!(new.figures().state_bytes > 0);
    new.conclude(node.now).unwrap();
}

#[test]
fn connections_that_are_given_up_are_given_up_in_all_shards() {
    let processes = Processes::start(4);
    let mut node = Node::new();
    for at in 0..8 {
        node.open(processes.pid(at % 4), true, SHOP[0]);
    }
    node.wait(100);
    let mut all = Shards::start(ordered(2), &Limits::default()).unwrap();
    play(&node.seen, &mut all);
    assert_eq!(all.save().unwrap().len(), 8);
    all.give_up_connections(node.now);
    // What their tables hold waits for the programs that come next.
    assert_eq!(all.save().unwrap().len(), 8);
    for pipeline in all.join(node.now).unwrap() {
        assert_eq!(pipeline.connections(), 0);
    }
}

#[test]
fn over_budget_new_connections_are_left_out_in_all_shards_and_known_ones_are_followed() {
    let processes = Processes::start(4);
    let mut node = Node::new();
    for at in 0..4 {
        node.open(processes.pid(at), true, SHOP[0]);
    }
    node.wait(100);
    let all = Shards::start(ordered(2), &Limits::default()).unwrap();
    let budgets = Budgets { memory_bytes: Some(1_000), cpu_millicores: None };
    let mut all = all.within(Controller::new(budgets));
    play(&node.seen, &mut all);
    let over = Usage { memory_bytes: Some(1_001), cpu_ns: None };
    assert_eq!(all.keep_budget(node.now, over).0.step, Step::Data);
    node.seen.clear();
    node.wait(5_000);
    assert_eq!(all.keep_budget(node.now, over).0.step, Step::Connections);
    for at in 0..4 {
        node.call(at, "/shop.Shop/Buy");
        node.open(processes.pid(at), true, SHOP[1]);
    }
    node.wait(100);
    play(&node.seen, &mut all);
    let mut followed: Vec<u64> = all.save().unwrap().iter().map(|saved| saved.connection.0).collect();
    followed.sort_unstable();
    assert_eq!(followed, [0, 1, 2, 3]);
    assert_eq!(all.keep_budget(node.now, over).1, 4, "left out");
    all.conclude(node.now).unwrap();
}

/// Cannot bear it.
struct Panics;

impl Listener for Panics {
    type Connection = ();

    fn handle_connection(&mut self, subject: &Subject) {
        assert!(subject.process.pid != 1_001, "the one that this test is about");
    }

    fn handle_observation(&mut self, _: &Subject, (): &mut (), _: Observation) {}
}

#[test]
fn a_shard_that_panics_is_an_error_and_nobody_waits_for_it() {
    let one = || Pipeline::new(Limits::default(), Identities::new("/nowhere", 16), Panics);
    let pipelines =
        vec![one().with_detectors(Thresholds::default()), one().with_detectors(Thresholds::default())];
    let mut all = Shards::start(pipelines, &Limits::default()).unwrap();
    let mut now = Timestamp(SECOND);
    for (connection, pid) in [(0, 1_000), (1, 1_001)] {
        play(&[Seen::Chunk(connection, now, pid, Flow::Sent, 0, PREFACE.to_vec())], &mut all);
    }
    // The other one has looks to exchange, and its queue is filled again and again.
    let error = (0..10_000).find_map(|_| {
        now = now.plus(SECOND);
        all.handle_timeout(now).err()
    });
    assert!(error.unwrap().to_string().contains("panicked"));
    assert!(all.conclude(now).is_err());
}
