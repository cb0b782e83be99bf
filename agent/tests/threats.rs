//! What hostile traffic cannot do to the agent around the core (T7, T8); docs/threats.md lists the threats by their
//! numbers.

#[path = "../../agent-core/tests/threats/memory.rs"]
mod memory;

use std::sync::Arc;
use std::time::Duration;

use agent::capture::kernel::Captured;
use agent::identity::Identities;
use agent::metrics::{ConnectionSeries, Format, Metrics, SeriesLimits, Workload};
use agent::pipeline::{Listener, Pipeline, Subject};
use agent_common::ring::Endpoints;
use agent_core::{Chunk, ConnectionId, Flow, Limits, Observation, Observer, Timestamp};

#[global_allocator]
static ALLOCATOR: memory::Counted = memory::Counted;

/// Time that this thread has had a core for: what other work on the machine does not count in.
fn thread_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec of ours.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(result, 0, "the clock of the thread");
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A literal field that enters no table.
fn literal(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name, value] {
        assert!(text.len() < 127, "one octet of length");
        bytes.push(text.len() as u8);
        bytes.extend(text.as_bytes());
    }
    bytes
}

#[test]
fn t8_a_million_paths_on_the_wire_leave_memory_flat_and_the_scrape_small() {
    const PATHS: u32 = 1_000_000;
    const GRPC: &str = "application/grpc";
    let metrics = Metrics::new(SeriesLimits::default());
    let mut connection = metrics.connection(&Arc::new(Workload::new("attacked")));
    let mut observer = Observer::new(Limits::default());
    let mut offsets = [0u64; 2];
    let mut send =
        |observer: &mut Observer, connection: &mut ConnectionSeries, client: bool, bytes: &[u8]| {
            let offset = &mut offsets[usize::from(client)];
            observer.handle_chunk(Chunk {
                connection: ConnectionId(1),
                flow: if client { Flow::Received } else { Flow::Sent },
                offset: *offset,
                time: Timestamp(1),
                boundary: false,
                thread: 0,
                bytes,
            });
            *offset += bytes.len() as u64;
            while let Some(observation) = observer.poll_observation() {
                connection.observe(&observation);
                if let Observation::Anomaly(anomaly) = observation {
                    metrics.anomaly(anomaly.kind);
                }
            }
        };
    let hello = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &frame(4, 0, 0, &[])].concat();
    send(&mut observer, &mut connection, true, &hello);
    send(&mut observer, &mut connection, false, &frame(4, 0, 0, &[]));
    let mut attack = |number: u32| {
        let path = format!("/attack.v1.Service{}/Method{number}", number % 977);
        let request = [vec![0x83, 0x86], literal(":path", &path), literal("content-type", GRPC)].concat();
        // A status of its own for each as well.
        let status = literal("grpc-status", &(number % 100).to_string());
        let answer = [vec![0x88], literal("content-type", GRPC), status].concat();
        let stream = 2 * number + 1;
        send(&mut observer, &mut connection, true, &frame(1, 5, stream, &request));
        send(&mut observer, &mut connection, false, &frame(1, 5, stream, &answer));
    };
    (0..50_000).for_each(&mut attack);
    let growth = memory::growth_during(|| (50_000..PATHS).for_each(&mut attack));
    let mut fastest = Duration::MAX;
    let mut text = Vec::new();
    for _ in 0..5 {
        let begin = thread_time();
        text = metrics.encode(Format::Text).expect("everything can be written");
        fastest = fastest.min(thread_time() - begin);
    }
    println!("T8: {growth} bytes of growth, {} bytes of text, {fastest:?} a scrape", text.len());
    assert!(growth <= 256 * 1024, "{growth}");
    assert!(text.len() <= 5_000_000, "{}", text.len());
    assert!(fastest <= Duration::from_millis(100), "{fastest:?}");
    let text = String::from_utf8(text).expect("text is UTF-8");
    let sum = |name: &str| -> f64 {
        let samples =
            text.lines().filter(|line| line.starts_with(name) && line.as_bytes()[name.len()] == b'{');
        samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    };
    assert_eq!(
        sum("grpc_server_call_started_total"),
        f64::from(PATHS),
        "each is counted, under whatever name"
    );
    assert!(sum("grpcscope_series_dropped_total") > 0.0, "and so is that names were left out");
}

/// What `grpcscope run` does with observations.
struct Counting {
    metrics: Metrics,
    evicted: u64,
}

impl Listener for Counting {
    type Connection = ConnectionSeries;

    fn handle_connection(&mut self, _: &Subject) -> ConnectionSeries {
        self.metrics.connection(&Arc::new(Workload::new("attacked")))
    }

    fn handle_observation(
        &mut self,
        _: &Subject,
        connection: &mut ConnectionSeries,
        observation: Observation,
    ) {
        if let Observation::Anomaly(anomaly) = &observation {
            self.evicted += u64::from(anomaly.kind == "memory_limit");
        }
        connection.observe(&observation);
    }
}

fn pipeline(state_bytes: usize) -> Pipeline<Counting> {
    let limits = Limits { state_bytes, ..Limits::default() };
    let listener = Counting { metrics: Metrics::new(SeriesLimits::default()), evicted: 0 };
    Pipeline::new(limits, Identities::new("/proc", Identities::CAPACITY), listener)
}

fn open(pipeline: &mut Pipeline<Counting>, connection: u64) {
    let endpoints = Endpoints {
        local_address: [0; 16],
        peer_address: [0; 16],
        local_port: 50_051,
        peer_port: 40_000,
        family: 10,
        reserved: 0,
        network_namespace: 0,
        recognised: 0,
        cgroup: 0,
        comm: [0; 16],
    };
    pipeline.handle_captured(Captured::Open {
        connection: ConnectionId(connection),
        time: Timestamp(connection),
        pid: std::process::id(),
        thread: 0,
        endpoints: &endpoints,
    });
}

#[test]
fn t7_the_whole_agent_stays_within_the_budget_and_a_tenth() {
    const BUDGET: usize = 64 << 20;
    // Many times what fits into the budget; the core's test has the hundred thousand.
    const CONNECTIONS: u64 = 20_000;
    let mut bytes = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &frame(4, 0, 0, &[])].concat();
    for number in 0..100u32 {
        let request =
            [vec![0x83, 0x86], literal(":path", "/a.B/C"), literal("content-type", "application/grpc")];
        bytes.extend(frame(1, 4, 2 * number + 1, &request.concat()));
    }
    let mut pipeline = pipeline(BUDGET);
    let growth = memory::growth_during(|| {
        for connection in 0..CONNECTIONS {
            open(&mut pipeline, connection);
            pipeline.handle_captured(Captured::Chunk {
                pid: std::process::id(),
                moved: bytes.len() as u32,
                chunk: Chunk {
                    connection: ConnectionId(connection),
                    flow: Flow::Received,
                    offset: 0,
                    time: Timestamp(connection),
                    boundary: true,
                    thread: 0,
                    bytes: &bytes,
                },
            });
        }
    });
    let followed = pipeline.connections() as u64;
    let evicted = pipeline.listener().evicted;
    println!(
        "T7: {growth} bytes at the most for a budget of {BUDGET}, {followed} followed, {evicted} evicted"
    );
    assert!(growth <= (BUDGET + BUDGET / 10) as isize, "{growth}");
    assert_eq!(followed + evicted, CONNECTIONS);
    let text = pipeline.listener().metrics.encode(Format::Text).expect("everything can be written");
    let text = String::from_utf8(text).expect("text is UTF-8");
    let sum = |begin: &str| -> f64 {
        let samples = text.lines().filter(|line| line.starts_with(begin));
        samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    };
    let (started, ended) = (sum("grpc_server_call_started_total{"), sum("grpcscope_calls_ended_total{"));
    assert_eq!(started, 100.0 * CONNECTIONS as f64);
    assert_eq!(started, ended + sum("grpcscope_calls_in_flight{"), "M3");
}

#[test]
fn t7_connections_that_end_without_a_byte_are_forgotten() {
    let mut pipeline = pipeline(64 << 20);
    let mut pass = |connections: std::ops::Range<u64>| {
        for connection in connections {
            open(&mut pipeline, connection);
            pipeline.handle_captured(Captured::Close {
                connection: ConnectionId(connection),
                flow: Flow::Sent,
                reset: false,
                is_final: true,
                unseen: false,
                time: Timestamp(connection),
            });
        }
    };
    pass(0..1_000);
    let growth = memory::growth_during(|| pass(1_000..100_000));
    println!("T7, without a byte: {growth} bytes of growth");
    assert!(growth <= 64 * 1024, "{growth}");
}
