//! The pipeline that `run` runs, from what is captured to the text of `/metrics`: what the core finds out comes out. A part of it
//! that is not handed on would go missing there without a sound.

mod made;

use std::sync::Arc;

use agent::budget::{Budgets, Controller, Step, Usage};
use agent::capture::kernel::Captured;
use agent::commands::run::{MetricsListener, pipeline};
use agent::config::Config;
use agent::findings::Findings;
use agent::metrics::{Format, Metrics, SeriesLimits};
use agent::pipeline::Pipeline;
use agent_core::{Chunk, ConnectionId, Flow, Timestamp};
use made::{frame, headers};

/// Connection on which this process is the server, and that on which it is the client.
const SERVED: ConnectionId = ConnectionId(1);
const CALLS: ConnectionId = ConnectionId(2);
const SECOND_NS: u64 = 1_000_000_000;
const CANCEL: [u8; 4] = [0, 0, 0, 8];
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

struct Node {
    pipeline: Pipeline<MetricsListener>,
    metrics: Arc<Metrics>,
    offsets: [[u64; 2]; 2],
    now: Timestamp,
    /// The kernel side is sure that what comes begins with a frame.
    boundary: bool,
}

impl Node {
    /// This process has a connection on each side.
    fn connected() -> Node {
        Node::within(Budgets::default())
    }

    /// The same with budgets.
    fn within(budgets: Budgets) -> Node {
        let metrics = Arc::new(Metrics::new(SeriesLimits::default()));
        let findings = Arc::new(Findings::new(Arc::clone(&metrics)));
        let pipeline =
            pipeline(&Config::default(), Arc::clone(&metrics), findings).within(Controller::new(budgets));
        let mut node =
            Node { pipeline, metrics, offsets: [[0; 2]; 2], now: Timestamp(SECOND_NS), boundary: false };
        for connection in [SERVED, CALLS] {
            let preface = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &frame(4, 0, 0, &[])[..]].concat();
            node.client_sends(connection, &preface);
            node.server_sends(connection, &frame(4, 0, 0, &[]));
        }
        node
    }

    fn client_sends(&mut self, connection: ConnectionId, bytes: &[u8]) {
        self.capture(connection, if connection == SERVED { Flow::Received } else { Flow::Sent }, bytes);
    }

    fn server_sends(&mut self, connection: ConnectionId, bytes: &[u8]) {
        self.capture(connection, if connection == SERVED { Flow::Sent } else { Flow::Received }, bytes);
    }

    fn capture(&mut self, connection: ConnectionId, flow: Flow, bytes: &[u8]) {
        let offset = &mut self.offsets[usize::from(connection == CALLS)][usize::from(flow == Flow::Received)];
        let (time, boundary, thread) = (self.now, self.boundary, 0);
        let chunk = Chunk { connection, flow, offset: *offset, time, boundary, thread, bytes };
        *offset += bytes.len() as u64;
        // A process that is there, so that it has an identity.
        self.pipeline.handle_captured(Captured::Chunk { pid: std::process::id(), moved: 0, chunk });
    }

    fn wait_ms(&mut self, ms: u64) {
        for _ in 0..ms / 100 {
            self.now = self.now.plus(SECOND_NS / 10);
            self.pipeline.handle_timeout(self.now);
        }
    }

    /// Sum of the series of a family that have all of these labels, as they stand in `/metrics`.
    fn sum(&self, family: &str, labels: &[(&str, &str)]) -> f64 {
        let text = self.metrics.encode(Format::Text).expect("everything can be written");
        let text = String::from_utf8(text).expect("text is UTF-8");
        let has = |line: &&str| {
            let has = |(name, value): &(&str, &str)| line.contains(&format!("{name}=\"{value}\""));
            line.starts_with(&format!("{family}{{")) && labels.iter().all(has)
        };
        let value = |line: &str| line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok());
        text.lines().filter(has).map(|line| value(line).expect("a number")).sum()
    }
}

fn request(stream: u32, path: &str, timeout: Option<&str>, trace: Option<u8>) -> Vec<u8> {
    let traceparent = trace.map(|trace| format!("00-{trace:032x}-b7ad6b7169203331-01"));
    let mut fields: Vec<(&str, &[u8])> = vec![
        (":method", b"POST"),
        (":scheme", b"http"),
        (":path", path.as_bytes()),
        (":authority", b"stock"),
        ("content-type", b"application/grpc"),
        ("te", b"trailers"),
    ];
    fields.extend(timeout.map(|timeout| ("grpc-timeout", timeout.as_bytes())));
    fields.extend(traceparent.iter().map(|trace| ("traceparent", trace.as_bytes())));
    headers(END_HEADERS, stream, &fields)
}

fn response(stream: u32) -> Vec<u8> {
    headers(END_HEADERS, stream, &[(":status", b"200"), ("content-type", b"application/grpc")])
}

fn answer(stream: u32) -> Vec<u8> {
    let fields: [(&str, &[u8]); 3] =
        [(":status", b"200"), ("content-type", b"application/grpc"), ("grpc-status", b"0")];
    headers(END_HEADERS | END_STREAM, stream, &fields)
}

fn reset(stream: u32) -> Vec<u8> {
    frame(3, 0, stream, &CANCEL)
}

#[test]
fn what_calls_belong_to_and_what_became_of_deadlines_comes_out_of_the_pipeline_of_run() {
    let mut node = Node::connected();
    let outbound = |stream, timeout, trace| request(stream, "/shop.Stock/Reserve", timeout, trace);
    // Three calls that are served, with 5 s each. For the first nothing is handed on, for the second everything, for the third
    // more; the last call belongs to nothing.
    for (stream, trace) in [(1, 1), (3, 2), (5, 3)] {
        node.client_sends(SERVED, &request(stream, "/shop.Orders/Place", Some("5S"), Some(trace)));
    }
    node.wait_ms(100);
    node.client_sends(CALLS, &outbound(1, None, Some(1)));
    node.client_sends(CALLS, &outbound(3, Some("4S"), Some(2)));
    node.client_sends(CALLS, &outbound(5, Some("9S"), Some(3)));
    for stream in [1, 3, 5] {
        node.server_sends(CALLS, &answer(stream));
        node.server_sends(SERVED, &answer(stream));
        node.client_sends(SERVED, &frame(0, END_STREAM, stream, &[]));
        node.client_sends(CALLS, &frame(0, END_STREAM, stream, &[]));
    }
    node.wait_ms(3_000);
    node.client_sends(CALLS, &outbound(7, Some("1S"), None));
    node.wait_ms(100);

    let method = ("rpc_method", "shop.Stock/Reserve");
    let correlated = |evidence| {
        node.sum("grpcscope_correlated_calls_total", &[method, ("side", "client"), ("evidence", evidence)])
    };
    assert_eq!((correlated("trace"), correlated("none")), (3.0, 1.0));
    assert_eq!(node.sum("grpcscope_correlated_calls_total", &[]), 4.0);
    for result in ["dropped", "propagated", "reset"] {
        let labels = [method, ("result", result), ("evidence", "trace")];
        assert_eq!(node.sum("grpcscope_deadline_propagation_total", &labels), 1.0, "{result}");
    }
    assert_eq!(node.sum("grpcscope_deadline_propagation_total", &[]), 3.0);
    for finding in ["deadline_dropped", "deadline_reset"] {
        let labels = [("finding", finding), ("link", "trace")];
        assert_eq!(node.sum("grpcscope_findings_total", &labels), 1.0, "{finding}");
    }
}

#[test]
fn work_for_nobody_comes_out_of_the_pipeline_of_run_while_it_is_done() {
    let mut node = Node::connected();
    node.client_sends(SERVED, &request(1, "/shop.Orders/Place", Some("1H"), Some(1)));
    node.client_sends(CALLS, &request(1, "/shop.Stock/Reserve", Some("1H"), Some(1)));
    node.server_sends(SERVED, &response(1));
    node.client_sends(SERVED, &reset(1));
    node.wait_ms(400);
    node.server_sends(SERVED, &frame(0, 0, 1, &[0; 100]));
    node.wait_ms(4_600);
    let outbound = [("rpc_method", "shop.Stock/Reserve"), ("side", "client"), ("evidence", "trace")];
    let so_far = node.sum("grpcscope_uncancelled_seconds_total", &outbound);
    assert!((3.9..=5.0).contains(&so_far), "{so_far} s after 5 s");
    node.server_sends(CALLS, &answer(1));
    node.client_sends(CALLS, &frame(0, END_STREAM, 1, &[]));
    node.wait_ms(2_000);
    assert_eq!(node.sum("grpcscope_uncancelled_seconds_total", &outbound), 5.0);
    let served = [("rpc_method", "shop.Orders/Place"), ("side", "server")];
    assert_eq!(node.sum("grpcscope_late_work_bytes_total", &served), 100.0);
    assert_eq!(node.sum("grpcscope_late_work_seconds_total", &served), 0.4);
}

#[test]
fn bytes_that_nobody_saw_come_out_of_the_pipeline_of_run_by_workload() {
    let mut node = Node::connected();
    for (bytes, missed) in [(20_000, 0), (500, 300), (700, 0)] {
        node.pipeline.handle_captured(Captured::Moved { connection: CALLS, bytes, missed });
    }
    // What is not enough to be counted yet is counted with what comes next, and at the end.
    let counted = |node: &Node| {
        ["grpcscope_connection_bytes_total", "grpcscope_connection_missed_bytes_total"]
            .map(|family| node.sum(family, &[]))
    };
    assert_eq!(counted(&node), [20_500.0, 300.0]);
    let (connection, flow, time) = (CALLS, Flow::Sent, node.now);
    node.pipeline.handle_captured(Captured::Close {
        connection,
        flow,
        reset: false,
        is_final: true,
        unseen: false,
        time,
    });
    node.wait_ms(10_000);
    assert_eq!(counted(&node), [21_200.0, 300.0]);
}

/// The answer was in a run that the kernel had skipped, and a reset came behind it: the call was said to be aborted.
#[test]
fn an_end_that_was_not_seen_comes_out_of_the_pipeline_of_run_as_unresolved() {
    for (unseen, outcome) in [(true, "unresolved"), (false, "aborted")] {
        let mut node = Node::connected();
        node.client_sends(CALLS, &request(1, "/shop.Stock/Reserve", Some("1H"), Some(1)));
        for (flow, is_final) in [(Flow::Received, false), (Flow::Sent, true)] {
            let (unseen, time) = (unseen && flow == Flow::Received, node.now);
            let close = Captured::Close { connection: CALLS, flow, reset: is_final, is_final, unseen, time };
            node.pipeline.handle_captured(close);
        }
        node.wait_ms(1_000);
        assert_eq!(node.sum("grpcscope_calls_ended_total", &[("outcome", outcome)]), 1.0, "{outcome}");
    }
}

/// A request whose path goes into the encoder's table, and one that refers to it there (RFC 7541 §6.2.1, §6.1).
fn request_by_table(stream: u32, first: bool) -> Vec<u8> {
    let mut block = vec![0x83, 0x86];
    if first {
        block.extend([0x44, 18]);
        block.extend(b"/shop.Stock/Notice");
        block.extend([0x5f, 16]);
        block.extend(b"application/grpc");
    } else {
        block.extend([0xbf, 0xbe]);
    }
    [frame(1, END_HEADERS, stream, &block), frame(0, END_STREAM, stream, &[])].concat()
}

#[test]
fn over_a_change_of_the_way_in_a_flow_keeps_its_table_if_nothing_of_it_was_missed() {
    for missed in [0, 40] {
        let mut node = Node::connected();
        node.client_sends(CALLS, &request_by_table(1, true));
        node.server_sends(CALLS, &answer(1));
        node.wait_ms(1_000);
        node.pipeline.give_up_connections(node.now);
        node.boundary = true;
        node.offsets[1][0] += missed;
        node.client_sends(CALLS, &request_by_table(3, false));
        node.server_sends(CALLS, &answer(3));
        node.wait_ms(1_000);
        let named = node.sum("grpcscope_calls_ended_total", &[("rpc_method", "shop.Stock/Notice")]);
        assert_eq!(named, if missed == 0 { 2.0 } else { 1.0 }, "{missed} bytes were missed");
    }
}

#[test]
fn after_the_way_in_is_changed_connections_are_late_and_no_call_is_counted_twice() {
    let mut node = Node::connected();
    node.client_sends(CALLS, &request(1, "/shop.Stock/Reserve", Some("1M"), None));
    node.wait_ms(100);
    node.pipeline.give_up_connections(node.now);
    assert_eq!(node.sum("grpcscope_connections", &[]), 0.0);
    assert_eq!(node.sum("grpcscope_calls_in_flight", &[]), 0.0);
    node.boundary = true;
    // What moved meanwhile.
    node.offsets[1] = node.offsets[1].map(|offset| offset + 40);
    node.server_sends(CALLS, &answer(1));
    node.client_sends(CALLS, &frame(0, END_STREAM, 1, &[]));
    node.wait_ms(10_000);

    assert_eq!(node.sum("grpcscope_connections", &[("state", "late")]), 1.0);
    assert_eq!(node.sum("grpcscope_connections", &[("state", "synced")]), 0.0);
    let method = ("rpc_method", "shop.Stock/Reserve");
    assert_eq!(node.sum("grpcscope_calls_ended_total", &[method, ("start", "seen")]), 1.0);
    assert_eq!(node.sum("grpcscope_calls_ended_total", &[method, ("outcome", "status")]), 0.0);
    assert_eq!(node.sum("grpcscope_calls_ended_total", &[("start", "unseen"), ("outcome", "evicted")]), 0.0);
    // Nothing is wrong with a connection that was given up; what is not known of its call is undecided.
    let found = |labels: &[(&str, &str)]| node.sum("grpcscope_findings_total", labels);
    assert_eq!(found(&[]), found(&[("verdict", "undecided")]));
}

/// A connection that is opened while the agent is over its budget.
const NEW: ConnectionId = ConnectionId(3);

#[test]
fn over_budget_known_connections_are_followed_and_new_ones_are_counted_and_joined_late_afterwards() {
    let mut node = Node::within(Budgets { cpu_millicores: None, memory_bytes: Some(1_000) });
    let uses = |node: &mut Node, memory_bytes| {
        let usage = Usage { cpu_ns: None, memory_bytes: Some(memory_bytes) };
        let (state, left_out) = node.pipeline.keep_budget(node.now, usage);
        (state.step == Step::Connections, left_out)
    };
    let sends = |node: &mut Node, offset: u64, bytes: &[u8]| {
        let (time, boundary) = (node.now, node.boundary);
        let chunk = Chunk { connection: NEW, flow: Flow::Sent, offset, time, boundary, thread: 0, bytes };
        node.pipeline.handle_captured(Captured::Chunk { pid: std::process::id(), moved: 0, chunk });
    };
    assert_eq!(uses(&mut node, 900), (false, 0));
    node.client_sends(CALLS, &request(1, "/shop.Stock/Reserve", None, None));
    node.wait_ms(1_000);
    assert_eq!(uses(&mut node, 1_100), (false, 0), "DATA first");
    node.wait_ms(5_000);
    assert_eq!(uses(&mut node, 1_100), (true, 0));

    let preface = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &frame(4, 0, 0, &[])[..]].concat();
    sends(&mut node, 0, &preface);
    sends(&mut node, preface.len() as u64, &request(1, "/shop.New/Lost", None, None));
    node.pipeline.handle_captured(Captured::Moved { connection: NEW, bytes: 1 << 20, missed: 0 });
    for stream in [3, 5, 7] {
        node.client_sends(CALLS, &request(stream, "/shop.Stock/Reserve", None, None));
    }
    for stream in [1, 3, 5, 7] {
        node.server_sends(CALLS, &answer(stream));
        node.client_sends(CALLS, &frame(0, END_STREAM, stream, &[]));
    }
    node.wait_ms(1_000);
    assert_eq!(uses(&mut node, 900), (true, 1), "one connection, however much it moves");
    let ended = |node: &Node, labels: &[(&str, &str)]| node.sum("grpcscope_calls_ended_total", labels);
    assert_eq!(ended(&node, &[("outcome", "ok"), ("start", "seen")]), 4.0);
    assert_eq!(node.sum("grpcscope_connections", &[]), 2.0);
    assert_eq!(node.sum("grpcscope_connection_bytes_total", &[]), 0.0, "nothing of it is counted elsewhere");

    for _ in 0..31 {
        node.wait_ms(1_000);
        uses(&mut node, 900);
    }
    assert_eq!(uses(&mut node, 900), (false, 1));
    node.boundary = true;
    sends(&mut node, 10_000, &request(9, "/shop.New/Found", None, None));
    node.wait_ms(100);
    assert_eq!(node.sum("grpcscope_connections", &[]), 3.0);
    assert_eq!(node.sum("grpcscope_connections", &[("state", "late")]), 1.0);
    let started = node.sum("grpcscope_call_deadlines_total", &[("rpc_method", "shop.New/Found")]);
    assert_eq!(started, 1.0);
    assert_eq!(node.sum("grpcscope_call_deadlines_total", &[("rpc_method", "shop.New/Lost")]), 0.0);
}

#[test]
fn over_budget_calls_whose_data_is_left_out_have_everything_but_their_messages() {
    let mut node = Node::within(Budgets { cpu_millicores: None, memory_bytes: Some(1_000) });
    let uses = |node: &mut Node, memory_bytes| {
        node.wait_ms(1_000);
        node.pipeline.keep_budget(node.now, Usage { cpu_ns: None, memory_bytes: Some(memory_bytes) }).0.step
    };
    let leave_out = |node: &mut Node, bytes| {
        let offset = &mut node.offsets[1][1];
        *offset += bytes;
        let (connection, flow, offset, time) = (CALLS, Flow::Received, *offset, node.now);
        node.pipeline.handle_captured(Captured::LeftOut { connection, flow, offset, time });
    };
    let message = |stream, flags, bytes| {
        frame(0, flags, stream, &[&[0, 0, 0, 0, bytes][..], &vec![7; bytes.into()]].concat())
    };
    let call = |node: &mut Node, stream| {
        node.client_sends(CALLS, &request(stream, "/shop.Stock/Watch", Some("9S"), None));
        node.client_sends(CALLS, &message(stream, END_STREAM, 10));
        node.server_sends(CALLS, &response(stream));
    };
    let end = |node: &mut Node, stream| {
        node.server_sends(CALLS, &headers(END_HEADERS | END_STREAM, stream, &[("grpc-status", b"5")]));
        node.wait_ms(200);
    };
    call(&mut node, 1);
    node.server_sends(CALLS, &message(1, 0, 20));
    assert_eq!(uses(&mut node, 1_100), Step::Data);
    leave_out(&mut node, 70_000);
    call(&mut node, 3);
    node.wait_ms(6_000);
    let open = |node: &Node| node.sum("grpcscope_call_oldest_age_seconds", &[("side", "client")]);
    assert!(open(&node) > 1.0);
    for absent in ["grpcscope_call_open_messages", "grpcscope_call_silence_seconds"] {
        assert_eq!(node.sum(absent, &[("side", "client")]), 0.0);
    }
    end(&mut node, 1);
    leave_out(&mut node, 70_000);
    end(&mut node, 3);
    while uses(&mut node, 900) == Step::Data {}
    node.wait_ms(1_000);
    call(&mut node, 5);
    node.server_sends(CALLS, &message(5, 0, 20));
    end(&mut node, 5);

    let sum =
        |family: &str, labels: &[(&str, &str)]| node.sum(family, &[&[("side", "client")], labels].concat());
    assert_eq!(sum("grpcscope_calls_ended_total", &[("outcome", "error"), ("start", "seen")]), 3.0);
    assert_eq!(
        node.sum("rpc_client_call_duration_seconds_count", &[("rpc_response_status_code", "NOT_FOUND")]),
        3.0
    );
    assert_eq!(sum("grpcscope_calls_unmeasured_total", &[("histogram", "duration")]), 0.0);
    assert_eq!(
        sum("grpcscope_calls_unmeasured_total", &[("histogram", "sent")]),
        1.0,
        "the first had ended before"
    );
    assert_eq!(sum("grpcscope_calls_unmeasured_total", &[("histogram", "received")]), 2.0);
    assert_eq!(sum("grpcscope_call_messages_total", &[("direction", "sent")]), 2.0);
    assert_eq!(sum("grpcscope_call_messages_total", &[("direction", "received")]), 1.0);
    assert_eq!(node.sum("grpcscope_findings_total", &[]), 0.0);
    assert_eq!(node.sum("grpcscope_connections", &[("state", "synced")]), 2.0);
}

#[test]
fn when_the_way_in_is_changed_over_budget_those_that_were_known_are_not_taken_for_new_ones() {
    let mut node = Node::within(Budgets { cpu_millicores: None, memory_bytes: Some(1_000) });
    let usage = Usage { cpu_ns: None, memory_bytes: Some(2_000) };
    node.pipeline.keep_budget(node.now, usage);
    node.wait_ms(5_000);
    assert_eq!(node.pipeline.keep_budget(node.now, usage).0.step, Step::Connections);
    node.pipeline.give_up_connections(node.now);
    node.boundary = true;
    node.client_sends(CALLS, &request(1, "/shop.Stock/Reserve", None, None));
    node.wait_ms(1_000);
    assert_eq!(node.sum("grpcscope_connections", &[]), 1.0);
    let (state, left_out) = node.pipeline.keep_budget(node.now, usage);
    assert_eq!((state.step, left_out), (Step::Data, 0));
    node.client_sends(CALLS, &request(3, "/shop.Stock/Reserve", None, None));
    node.wait_ms(100);
    assert_eq!(node.sum("grpcscope_call_deadlines_total", &[]), 2.0);
}
