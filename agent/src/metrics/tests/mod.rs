//! What goes in comes out: in every format, within the limits, with nothing lost and nothing invented.

mod conservation;
mod counts;
mod formats;
mod limits;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use agent_core::detectors::correlation::{Correlated, Correlation};
use agent_core::detectors::propagation::Propagation;
use agent_core::detectors::{
    End, Name, Owner, Party, ProcessId, Thresholds, Verdict, Wasted, Work, correlation,
};
use agent_core::observation::{
    Anomaly, AtStreamLimit, Authority, Call, CallStarted, CallType, ConnectionStatus, ConnectionSummary,
    EndedBy, Exchange, FlowSummary, Goaway, GoawayReason, Messages, OpenCall, Outcome, PingAnswered,
    PingKind, PingUnanswered, Protocol, Side, Stall, StatusSource, Sync, Timeout, Traces, Window,
};
use agent_core::{ConnectionId, Flow, Observation, Timestamp};
use prometheus_client::encoding::prometheus_protobuf::prometheus_data_model as model;
use proptest::prelude::*;
use prost::Message as _;

use super::stalls::tests::stall;
use super::strict::{Dialect, Exposition, read};
use super::*;

const CONNECTION: ConnectionId = ConnectionId(1);

const MS: u64 = 1_000_000;

fn metrics() -> Metrics {
    Metrics::new(SeriesLimits::default())
}

fn workload(name: &str) -> Arc<Workload> {
    Arc::new(Workload::new(name))
}

fn with_all_labels(name: &str) -> Arc<Workload> {
    Arc::new(Workload::new(name).with_container_id("3f0a9c1e").with_server("cart.local", 50051))
}

fn status(flow: Option<Flow>, sync: Sync) -> ConnectionStatus {
    ConnectionStatus { connection: CONNECTION, client_flow: flow, sync, time: Timestamp(0) }
}

fn started(stream: u32, flow: Flow, method: &str) -> CallStarted {
    CallStarted {
        connection: CONNECTION,
        stream,
        client_flow: flow,
        method: Some(Arc::from(method)),
        timeout: Timeout::Absent,
        previous_attempts: None,
        traces: Traces::default(),
        thread: 0,
        time: Timestamp(0),
    }
}

/// A call that took a millisecond and ended well.
fn ended(stream: u32, flow: Flow, method: &str) -> Call {
    let messages = Messages { count: 1, bytes: 100, exact: true };
    Call {
        connection: CONNECTION,
        stream,
        client_flow: Some(flow),
        method: Some(Arc::from(method)),
        call_type: CallType::Unary,
        timeout: Timeout::Absent,
        started: Some(Timestamp(0)),
        first_seen: Timestamp(0),
        first_response: None,
        ended: Some(Timestamp(MS)),
        outcome: Outcome::Ok,
        status: Some(0),
        status_source: StatusSource::Trailer,
        ended_by: Some(EndedBy::Server),
        rst_code: None,
        http_status: Some(200),
        request: messages,
        response: Messages { count: 2, bytes: 300, exact: true },
        previous_attempts: None,
        method_ref: None,
        retry_pushback: None,
        traces: Traces::default(),
        thread: 0,
    }
}

fn encoded(metrics: &Metrics, format: Format) -> String {
    String::from_utf8(metrics.encode(format).expect("everything can be written")).expect("text is UTF-8")
}

/// What both text formats say, after a strict reader has taken them; they must say the same.
fn exported(metrics: &Metrics) -> Exposition {
    let text = read(&encoded(metrics, Format::Text), Dialect::Text).expect("strict 0.0.4");
    let openmetrics = encoded(metrics, Format::OpenMetrics);
    let openmetrics = read(&openmetrics, Dialect::OpenMetrics).expect("strict OpenMetrics");
    let own = |name: &str| name.starts_with("process_") || name.starts_with("grpcscope_scrape");
    let stable = |exposition: &Exposition| {
        let samples = exposition.samples.iter().filter(|((name, _), _)| !own(name));
        samples.map(|(key, value)| (key.clone(), *value)).collect::<BTreeMap<_, _>>()
    };
    assert_eq!(stable(&text), stable(&openmetrics));
    text
}

/// Protobuf, decoded.
fn families(metrics: &Metrics) -> Vec<model::MetricFamily> {
    let bytes = metrics.encode(Format::Protobuf).expect("everything can be written");
    let mut rest = bytes.as_slice();
    let mut families = Vec::new();
    while !rest.is_empty() {
        families.push(model::MetricFamily::decode_length_delimited(&mut rest).expect("delimited protobuf"));
    }
    families
}

/// Detectors that have seen a client with enough calls, and a server, for two minutes.
fn balanced() -> Detectors {
    let mut detectors = Detectors::new(Thresholds::default());
    for (connection, flow) in [(ConnectionId(1), Flow::Sent), (ConnectionId(2), Flow::Received)] {
        let owner = Arc::new(Owner { process: ProcessId(connection.0), workload: "shop".into() });
        let address = End::Address(([10, 0, 0, 1], 80).into());
        let party = Party { owner: Some(owner), ends: Some((address, address)) };
        detectors.handle_connection(connection, party);
        let status = ConnectionStatus { connection, ..status(Some(flow), Sync::Synced) };
        detectors.handle_observation(&Observation::Connection(status));
    }
    let authority =
        Authority { connection: ConnectionId(1), authority: "cart:80".into(), time: Timestamp(0) };
    detectors.handle_observation(&Observation::Authority(authority));
    let observer = agent_core::Observer::new(agent_core::Limits::default());
    for second in 0..120 {
        for connection in [ConnectionId(1), ConnectionId(2)] {
            let flow = if connection.0 == 1 { Flow::Sent } else { Flow::Received };
            for stream in 0..2 {
                let call = CallStarted { connection, ..started(stream, flow, "/shop.Cart/Add") };
                detectors.handle_observation(&Observation::CallStarted(call));
            }
        }
        detectors.handle_timeout(&observer, Timestamp(second * 1_000 * MS));
    }
    detectors
}

/// What an outbound call belongs to, and that it dropped a deadline if it belongs to something.
fn correlated(correlation: Correlation) -> Correlated {
    let is_linked = matches!(correlation, Correlation::Linked(_));
    Correlated {
        connection: CONNECTION,
        stream: 13,
        time: Timestamp(0),
        correlation,
        inbound: is_linked.then_some((ConnectionId(2), 1)),
        propagation: is_linked.then_some(Propagation::Dropped),
    }
}

/// What a client, or a server, did for nobody.
fn wasted(client_flow: Flow) -> Wasted {
    let work = match client_flow {
        Flow::Sent => Work::Outbound { ns: 1_500 * MS, link: correlation::Evidence::Trace },
        Flow::Received => Work::AfterEnd { ns: 250 * MS, bytes: 900 },
    };
    Wasted { connection: CONNECTION, stream: 1, method: Some(Arc::from("/shop.Cart/Add")), work }
}

/// Something of everything that there is.
fn everything() -> (Metrics, Vec<ConnectionSeries>) {
    let metrics = metrics();
    let mut open = Vec::new();
    for (name, flow) in [("shop", Flow::Sent), ("cart", Flow::Received)] {
        let mut connection = metrics.connection(&with_all_labels(name));
        connection.status(&status(Some(flow), Sync::Synced));
        for stream in 1..4 {
            let timeout = if stream == 1 { Timeout::Ns(5_000 * MS) } else { Timeout::Absent };
            let previous_attempts = Some(stream - 1);
            connection.call_started(&CallStarted {
                timeout,
                previous_attempts,
                ..started(stream, flow, "/shop.Cart/Add")
            });
        }
        // A millisecond of four.
        let timeout = Timeout::Ns(4 * MS);
        connection.call_ended(&Call { timeout, ..ended(1, flow, "/shop.Cart/Add") });
        connection.call_ended(&Call {
            outcome: Outcome::Deadline,
            ended_by: Some(EndedBy::Client),
            rst_code: Some(8),
            status: None,
            status_source: StatusSource::None,
            ..ended(2, flow, "/shop.Cart/Add")
        });
        let inexact = Messages { count: 1, bytes: 10, exact: false };
        let late = Call { started: None, request: inexact, ..ended(9, flow, "/shop.Cart/Add") };
        connection.call_ended(&late);
        connection.exchange(&Exchange {
            connection: CONNECTION,
            stream: 11,
            protocol: Protocol::Http,
            client_flow: Some(flow),
            http_status: Some(200),
            time: Timestamp(0),
        });
        if flow == Flow::Sent {
            for (stream, found) in
                [(13, Correlation::Linked(correlation::Evidence::Thread)), (15, Correlation::None)]
            {
                connection.correlated(&correlated(found));
                connection.call_started(&started(stream, flow, "/shop.Cart/Add"));
            }
        }
        connection.wasted(&wasted(flow));
        let thresholds = agent_core::detectors::flow_control::Thresholds::default();
        connection.stall_lasts(&stall(Window::Connection, None), &thresholds, Timestamp(MS));
        connection.stall_over(&stall(Window::Stream, Some(7)), &thresholds);
        connection
            .stall_over(&Stall { inside_message: false, ..stall(Window::Stream, Some(7)) }, &thresholds);
        events(flow).iter().for_each(|event| connection.observe(event));
        open.push(connection);
    }
    let mut short = metrics.connection(&with_all_labels("shop"));
    short.status(&status(Some(Flow::Sent), Sync::Synced));
    short.observe(&goaway(Flow::Received, GoawayReason::MaxAge));
    short.observe(&closed(Timestamp(7_000 * MS)));
    let mut calls = OpenCalls::default();
    calls.add(&open[0], &open_call(), Timestamp(9_000 * MS));
    metrics.set_open_calls(0, calls);
    let budget = BudgetState { cpu_ratio: Some(1.5), memory_ratio: Some(0.5), ..BudgetState::default() };
    metrics.set_budget(budget, 3);
    metrics.set_balance(0, &balanced());
    let mut sideless = metrics.connection(&with_all_labels("late"));
    sideless.status(&status(None, Sync::Late));
    sideless.moved(1000, 7);
    sideless.call_ended(&Call { client_flow: None, ..ended(1, Flow::Sent, "/a/b") });
    drop(sideless);
    let of_calls = (Some(Side::Client), Some(Method::of(Some(&Arc::from("/shop.Cart/Add")))));
    let what = (Name::UncancelledCall, Some("after_deadline"));
    let link = Some(correlation::Evidence::Trace);
    let shop = Workload::clone(&with_all_labels("shop"));
    let mut found = metrics.findings(shop, of_calls, Verdict::Firing, what, link);
    // It lasts to the end of the process.
    std::mem::forget(found.begin());
    metrics.anomaly("hpack");
    metrics.set_kernel_counters(KernelCounters {
        produced: 10,
        received: 9,
        lost: vec![("ring_full", 1)],
        left_out: LeftOutByKernel { connections: 4, data_bytes: 70_000, data_frames: 5 },
        notes: vec![("gap_bytes", 7)],
        missed_runs: vec![("sock_send_length".to_owned(), 0)],
    });
    metrics.set_backend(Backend { name: "tp_btf".to_owned(), reason: "attaches".to_owned() });
    metrics.backend_changed("tp_btf", "kprobe");
    metrics.set_reader_lag(0, Duration::from_millis(2));
    metrics.set_shard_queue(0, ShardQueue { waiting: 2, batches: 7, waited: Duration::from_millis(3) });
    metrics.set_state_bytes(1 << 20, 128 << 20);
    metrics.encode(Format::Text).expect("everything can be written");
    (metrics, open)
}

/// What happens to a connection as a whole, on the side of the flow of its requests.
fn events(client_flow: Flow) -> [Observation; 5] {
    let (connection, time) = (CONNECTION, Timestamp(5 * MS));
    let (from_server, last_stream) = (client_flow.opposite(), 3);
    let ping = |flow| PingAnswered { connection, flow, kind: PingKind::Other, round_trip_ns: 2 * MS, time };
    [
        Observation::Goaway(Goaway {
            connection,
            flow: from_server,
            last_stream,
            code: 0,
            reason: GoawayReason::MaxAge,
            time,
        }),
        Observation::PingAnswered(ping(Flow::Sent)),
        Observation::PingAnswered(ping(Flow::Received)),
        Observation::PingUnanswered(PingUnanswered {
            connection,
            flow: Flow::Sent,
            kind: PingKind::Drain,
            sent: Timestamp(0),
            time,
        }),
        Observation::AtStreamLimit(AtStreamLimit {
            connection,
            limit: 10,
            from: Timestamp(0),
            until: Some(Timestamp(1_500 * MS)),
        }),
    ]
}

fn goaway(flow: Flow, reason: GoawayReason) -> Observation {
    let time = Timestamp(6_000 * MS);
    Observation::Goaway(Goaway { connection: CONNECTION, flow, last_stream: 3, code: 0, reason, time })
}

fn closed(time: Timestamp) -> Observation {
    let flow = FlowSummary {
        sync: Sync::Synced,
        frames: 0,
        header_blocks: 0,
        bytes: 0,
        hole_bytes: 0,
        desyncs: 0,
        send_window: None,
    };
    Observation::ConnectionEnded(Box::new(ConnectionSummary {
        connection: CONNECTION,
        client_flow: None,
        flows: [flow, flow],
        calls: 0,
        opened: Timestamp(0),
        closed: time,
        http2: true,
        binary_metadata: None,
        has_ended: true,
    }))
}

/// A call that started at 1 s, and had its last frame at 4 s.
fn open_call() -> OpenCall {
    OpenCall {
        connection: CONNECTION,
        stream: 5,
        method: Some(Arc::from("/shop.Cart/Add")),
        timeout: Timeout::Absent,
        started: Some(Timestamp(1_000 * MS)),
        request: Messages { count: 2, bytes: 20, exact: true },
        response: Messages { count: 3, bytes: 30, exact: true },
        client_ended: None,
        server_ended: None,
        last_from_client: Some(Timestamp(2_000 * MS)),
        last_from_server: Some(Timestamp(4_000 * MS)),
        uncertain: false,
        left_out_until: None,
    }
}

struct Clockwork {
    metrics: Metrics,
    milliseconds: Arc<AtomicU64>,
}

fn clockwork(limits: SeriesLimits) -> Clockwork {
    let milliseconds = Arc::new(AtomicU64::new(0));
    let metrics = Metrics::with_clock(limits, Clock::Manual(Arc::clone(&milliseconds)));
    Clockwork { metrics, milliseconds }
}
