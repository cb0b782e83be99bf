//! What hostile traffic cannot do to the agent's metrics (T8); docs/threats.md lists the threats by their numbers.

#[path = "../../agent-core/tests/threats/memory.rs"]
mod memory;

use std::sync::Arc;
use std::time::{Duration, Instant};

use agent::metrics::{Format, Metrics, SeriesLimits, Workload};
use agent_core::{Chunk, ConnectionId, Flow, Limits, Observation, Observer, Timestamp};

#[global_allocator]
static ALLOCATOR: memory::Counted = memory::Counted;

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
    let mut send = |observer: &mut Observer,
                    connection: &mut agent::metrics::ConnectionSeries,
                    client: bool,
                    bytes: &[u8]| {
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
        let begin = Instant::now();
        text = metrics.encode(Format::Text).expect("everything can be written");
        fastest = fastest.min(begin.elapsed());
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
