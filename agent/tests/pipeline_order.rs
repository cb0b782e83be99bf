//! The pipeline hands on what the core says of several chunks together: in the same order, about the same subjects, and with the same
//! findings as chunk by chunk, and without letting anything wait for long.
#![expect(clippy::unwrap_used, reason = "a test")]

mod made;

use std::cell::RefCell;
use std::rc::Rc;

use agent::budget::{Budgets, Controller, Step, Usage};
use agent::capture::kernel::Captured;
use agent::identity::Identities;
use agent::pipeline::{Listener, Pipeline, Subject};
use agent_core::detectors::correlation::Correlated;
use agent_core::detectors::{Finding, Thresholds, Wasted};
use agent_core::observation::CallStarted;
use agent_core::{Chunk, ConnectionId, Flow, Limits, Observation, Timestamp};
use made::{PREFACE, endpoints, frame, headers};

const MS: u64 = 1_000_000;

/// Writes down everything that it is told, and whose it is, where it can be read without asking the pipeline for it.
struct Told(Rc<RefCell<Vec<String>>>);

impl Listener for Told {
    type Connection = ();

    fn handle_connection(&mut self, subject: &Subject) {
        self.0.borrow_mut().push(format!("{} is followed", whose(subject)));
    }

    fn handle_observation(&mut self, subject: &Subject, (): &mut (), observation: Observation) {
        self.0.borrow_mut().push(format!("{} {observation:?}", whose(subject)));
    }

    fn handle_correlated(&mut self, _: &Subject, (): &mut (), _: &CallStarted, correlated: &Correlated) {
        self.0.borrow_mut().push(format!("{correlated:?}"));
    }

    fn handle_wasted(&mut self, subject: &Subject, (): &mut (), wasted: &Wasted) {
        self.0.borrow_mut().push(format!("{} {wasted:?}", whose(subject)));
    }

    fn handle_finding(&mut self, subject: Option<&Subject>, finding: Finding) {
        self.0.borrow_mut().push(format!("{} {finding:?}", subject.map(whose).unwrap_or_default()));
    }
}

/// A connection by its number and its own end, which is another one when the number is used again.
fn whose(subject: &Subject) -> String {
    format!("{:?} {:?}", subject.connection, subject.ends.map(|(local, _)| local))
}

struct Node {
    pipeline: Pipeline<Told>,
    told: Rc<RefCell<Vec<String>>>,
    offsets: Vec<[u64; 2]>,
    now: Timestamp,
    /// Everything is handed on after each chunk.
    at_once: bool,
}

impl Node {
    fn new(at_once: bool) -> Node {
        let identities = Identities::new("/proc", Identities::CAPACITY);
        let told = Rc::default();
        let pipeline = Pipeline::new(Limits::default(), identities, Told(Rc::clone(&told)));
        let pipeline = pipeline.with_detectors(Thresholds::default());
        Node { pipeline, told, offsets: vec![[0; 2]; 8], now: Timestamp(1_000 * MS), at_once }
    }

    fn handle(&mut self, captured: Captured<'_>) {
        self.pipeline.handle_captured(captured);
        if self.at_once {
            self.pipeline.listener();
        }
    }

    fn open(&mut self, connection: u64, local_port: u16) {
        self.offsets[connection as usize] = [0; 2];
        let endpoints = endpoints(([0; 4], local_port), ([0; 4], 50_051));
        let (connection, pid) = (ConnectionId(connection), std::process::id());
        self.handle(Captured::Open { connection, time: self.now, pid, thread: 0, endpoints: &endpoints });
    }

    fn close(&mut self, connection: u64) {
        let (connection, time) = (ConnectionId(connection), self.now);
        self.handle(Captured::Close {
            connection,
            flow: Flow::Sent,
            reset: false,
            is_final: true,
            unseen: false,
            time,
        });
    }

    fn pass(&mut self, connection: u64, flow: Flow, bytes: &[u8]) {
        let offset = &mut self.offsets[connection as usize][flow as usize];
        let (id, time) = (ConnectionId(connection), self.now);
        let chunk = Chunk { connection: id, flow, offset: *offset, time, boundary: true, thread: 7, bytes };
        *offset += bytes.len() as u64;
        self.handle(Captured::Chunk { pid: std::process::id(), moved: bytes.len() as u32, chunk });
    }

    fn wait(&mut self, ms: u64) {
        self.now = self.now.plus(ms * MS);
    }

    fn all_told(&mut self) -> Vec<String> {
        self.pipeline.listener();
        self.told.take()
    }
}

fn request(stream: u32, timeout: Option<&str>) -> Vec<u8> {
    let mut fields: Vec<(&str, &[u8])> = vec![
        (":method", b"POST"),
        (":scheme", b"http"),
        (":path", b"/shop.Orders/Place"),
        (":authority", b"orders"),
        ("content-type", b"application/grpc"),
        ("te", b"trailers"),
    ];
    fields.extend(timeout.map(|timeout| ("grpc-timeout", timeout.as_bytes())));
    headers(4, stream, &fields)
}

fn answer(stream: u32) -> Vec<u8> {
    headers(5, stream, &[(":status", b"200"), ("content-type", b"application/grpc"), ("grpc-status", b"0")])
}

/// Calls on connections that come and go under the same numbers, in a different order each time.
fn play(node: &mut Node) {
    let mut random = 1_u64;
    let mut open = [false; 8];
    let mut streams = [1_u32; 8];
    for port in 1..2_000 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let at = (random >> 33) % 8;
        // Half of the connections are the process's own calls, which may belong to the others'.
        let (by_client, by_server) =
            if at.is_multiple_of(2) { (Flow::Sent, Flow::Received) } else { (Flow::Received, Flow::Sent) };
        let stream = streams[at as usize];
        if !std::mem::replace(&mut open[at as usize], true) {
            node.open(at, port);
            node.pass(at, by_client, &[PREFACE, &frame(4, 0, 0, &[])].concat());
            node.pass(at, by_server, &frame(4, 0, 0, &[]));
            streams[at as usize] = 1;
            continue;
        }
        streams[at as usize] += 2;
        match (random >> 40) % 64 {
            0 => {
                node.close(at);
                open[at as usize] = false;
            }
            1 => node.wait(150),
            2 => {
                node.wait(400);
                node.pipeline.handle_timeout(node.now);
            }
            3..=9 => {
                node.pass(at, by_client, &request(stream, Some("1S")));
                node.pass(at, by_client, &frame(3, 0, stream, &[0, 0, 0, 8]));
            }
            10..=20 => node.pass(at, by_client, &request(stream, None)),
            _ => {
                node.pass(at, by_client, &request(stream, Some("1S")));
                node.pass(at, by_client, &frame(0, 1, stream, &[]));
                node.pass(at, by_server, &answer(stream));
            }
        }
    }
    node.wait(10_000);
    node.pipeline.handle_timeout(node.now);
    node.pipeline.finish(node.now);
}

#[test]
fn what_is_handed_on_together_is_what_is_handed_on_after_each_chunk() {
    let [mut one_by_one, mut together] = [Node::new(true), Node::new(false)];
    play(&mut one_by_one);
    play(&mut together);
    let (one_by_one, together) = (one_by_one.all_told(), together.all_told());
    for kind in ["is followed", "CallEnded", "ConnectionEnded", "Finding", "Correlated"] {
        assert!(together.iter().filter(|told| told.contains(kind)).count() > 3, "{kind}");
    }
    let differs = one_by_one.iter().zip(&together).find(|(one, other)| one != other);
    assert_eq!(differs, None);
    assert_eq!(one_by_one.len(), together.len());
}

#[test]
fn nothing_waits_for_more_than_sixty_four_chunks() {
    let mut node = Node::new(false);
    node.open(0, 1);
    node.pass(0, Flow::Sent, &[PREFACE, &frame(4, 0, 0, &[])].concat());
    node.pass(0, Flow::Sent, &request(1, Some("1S")));
    let chunks = (0..).take_while(|chunk| {
        node.pass(0, Flow::Sent, &frame(0, 0, 1, &[0; 5]));
        !node.told.borrow().iter().any(|told| told.contains("CallStarted")) && *chunk < 1_000
    });
    let chunks = chunks.count();
    assert!((8..64).contains(&chunks), "{chunks}");
}

#[test]
fn a_chunk_under_the_number_of_a_connection_that_has_ended_is_a_connection_of_its_own() {
    let mut node = Node::new(false);
    node.open(0, 1);
    node.pass(0, Flow::Sent, &[PREFACE, &frame(4, 0, 0, &[])].concat());
    node.close(0);
    // Nobody has looked at the time since, and of the new socket's opening no record has come.
    node.wait(1_000);
    node.offsets[0] = [0; 2];
    node.pass(0, Flow::Sent, &[PREFACE, &frame(4, 0, 0, &[]), &request(1, Some("1S"))].concat());
    let told = node.all_told();
    let position = |text: &str| told.iter().rposition(|told| told.contains(text)).unwrap();
    let order = ["ConnectionEnded", "None is followed", "CallStarted"].map(position);
    assert!(order.is_sorted(), "{told:#?}");
    assert!(told[order[2]].starts_with("ConnectionId(0) None"), "{}", told[order[2]]);
}

#[test]
fn over_budget_what_comes_under_the_number_of_a_connection_that_has_ended_is_new_and_left_out() {
    let mut node = Node::new(false);
    let budgets = Budgets { cpu_millicores: None, memory_bytes: Some(1_000) };
    node.pipeline = node.pipeline.within(Controller::new(budgets));
    node.open(0, 1);
    node.pass(0, Flow::Sent, &[PREFACE, &frame(4, 0, 0, &[])].concat());
    node.close(0);
    let usage = Usage { cpu_ns: None, memory_bytes: Some(2_000) };
    // DATA is left out first, new connections where that does not suffice.
    node.pipeline.keep_budget(node.now, usage);
    node.wait(5_000);
    assert_eq!(node.pipeline.keep_budget(node.now, usage).0.step, Step::Connections);
    node.offsets[0] = [0; 2];
    node.pass(0, Flow::Sent, &[PREFACE, &frame(4, 0, 0, &[]), &request(1, Some("1S"))].concat());
    let told = node.all_told();
    assert!(!told.iter().any(|told| told.contains("CallStarted")), "{told:#?}");
    assert_eq!(node.pipeline.keep_budget(node.now, usage).1, 1);
}
