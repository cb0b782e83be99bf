//! What spreading the work of `run` over threads gives: unary calls a second through the pipeline with metrics and all detectors,
//! from memory, run by the reader alone and over shards; and what the reader does for a record. The last line is JSON.
//!
//! Times are processor times of the threads, so that other work on the machine does not count; of a spread run the busiest thread
//! says how many calls a second there may be, given a CPU for each thread. Wall time stands beside it. Rounds take turns, and the
//! best of each counts. That a record is read from the ring and taken apart is in none of it.

use std::process::{Child, Command};
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent::capture::kernel::Captured;
use agent::commands::run::pipelines;
use agent::config::Config;
use agent::findings::Findings;
use agent::metrics::{Metrics, SeriesLimits};
use agent::pipeline::{Handler, Shards};
use agent_core::{Chunk, ConnectionId, Flow, Timestamp};
use anyhow::{Context as _, ensure};
use serde_json::json;

const ROUNDS: usize = 3;
const PROCESSES: u64 = 64;
/// On each of the two connections of a process.
const CALLS: u64 = 4_000;
const CALLS_IN_ALL: u64 = 2 * PROCESSES * CALLS;
/// Processor time in the capture's clock between two calls of a connection.
const STEP_NS: u64 = 500_000;

/// The two ends of a connection: what the first call sends, with fields that enter the tables, and what each further one sends.
struct Traffic {
    first: [Vec<u8>; 2],
    further: [Vec<u8>; 2],
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    [&(payload.len() as u32).to_be_bytes()[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Fields that enter the table (RFC 7541 §6.2.1), or the same from the table (§6.1).
fn block(fields: &[(&str, &str)], entered_after: usize, enter: bool) -> Vec<u8> {
    let mut block = Vec::new();
    for (at, (name, value)) in fields.iter().enumerate() {
        if enter {
            block.extend([0x40, name.len() as u8]);
            block.extend(name.as_bytes());
            block.push(value.len() as u8);
            block.extend(value.as_bytes());
        } else {
            // The last that entered is 62.
            block.push(0x80 | (62 + entered_after + fields.len() - 1 - at) as u8);
        }
    }
    block
}

impl Traffic {
    fn new() -> Traffic {
        let request = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", "/shop.v1.CheckoutService/PlaceOrder"),
            (":authority", "checkout.shop:8080"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            ("grpc-timeout", "5S"),
        ];
        let response = [(":status", "200"), ("content-type", "application/grpc")];
        let trailers = [("grpc-status", "0")];
        let message = [[0, 0, 0, 0, 64].as_slice(), &[7; 64]].concat();
        let call = |enter: bool| {
            let (request, response, trailers) =
                (block(&request, 0, enter), block(&response, 1, enter), block(&trailers, 0, enter));
            [
                [frame(1, 4, 1, &request), frame(0, 1, 1, &message)].concat(),
                [frame(1, 4, 1, &response), frame(0, 0, 1, &message), frame(1, 5, 1, &trailers)].concat(),
            ]
        };
        let [request, response] = call(true);
        let settings = frame(4, 0, 0, &[]);
        let preface = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &settings].concat();
        Traffic { first: [[preface, request].concat(), [settings, response].concat()], further: call(false) }
    }
}

/// Writes the stream's id into all frames of a call but those of the connection.
fn set_stream(bytes: &mut [u8], stream: u32) {
    let mut at = if bytes.starts_with(b"PRI") { 24 } else { 0 };
    while let Some(header) = bytes.get(at..at + 9) {
        let length = usize::from(header[0]) << 16 | usize::from(header[1]) << 8 | usize::from(header[2]);
        if header[5..9] != [0; 4] {
            bytes[at + 5..at + 9].copy_from_slice(&stream.to_be_bytes());
        }
        at += 9 + length;
    }
}

/// Everything that is captured. Returns the records.
fn play(processes: &[Child], traffic: &Traffic, handler: &mut impl Handler) -> anyhow::Result<u64> {
    let mut offsets = vec![[0_u64; 2]; 2 * PROCESSES as usize];
    let (mut records, mut now) = (0, Timestamp(1_000_000_000_000));
    let mut parts = traffic.further.clone();
    for call in 0..CALLS {
        now = now.plus(STEP_NS);
        if call < 2 {
            parts = if call == 0 { traffic.first.clone() } else { traffic.further.clone() };
        }
        parts.iter_mut().for_each(|part| set_stream(part, 2 * call as u32 + 1));
        for id in 0..2 * PROCESSES {
            let pid = processes[id as usize / 2].id();
            for (part, by_client) in parts.iter().zip([true, false]) {
                // A process is the client on one and the server on the other.
                let flow = if by_client == (id % 2 == 0) { Flow::Sent } else { Flow::Received };
                let offset = &mut offsets[id as usize][flow as usize];
                let connection = ConnectionId(id);
                let chunk = Chunk {
                    connection,
                    flow,
                    offset: *offset,
                    time: now,
                    boundary: true,
                    thread: 1,
                    bytes: part,
                };
                *offset += part.len() as u64;
                let moved = part.len() as u32;
                handler.handle_captured(Captured::Chunk { pid, moved, chunk });
                handler.handle_captured(Captured::Moved { connection, bytes: moved.into(), missed: 0 });
                records += 1;
            }
        }
        handler.handle_timeout(now)?;
    }
    Ok(records)
}

/// Processor time of the threads of this process by name, in nanoseconds.
fn threads() -> anyhow::Result<Vec<(String, u64)>> {
    let mut all = Vec::new();
    for task in std::fs::read_dir("/proc/self/task").context("list the threads")? {
        let path = task?.path();
        let name = std::fs::read_to_string(path.join("comm"))?.trim().to_owned();
        let times = std::fs::read_to_string(path.join("schedstat"))?;
        let ns = times.split(' ').next().and_then(|ns| ns.parse().ok()).context("no time in schedstat")?;
        all.push((name, ns));
    }
    Ok(all)
}

fn own_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place for the result; every Linux has this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// What a round took.
#[derive(Clone, Copy)]
struct Round {
    busiest_ns: u64,
    reader_ns: u64,
    all_ns: u64,
    wall: Duration,
    records: u64,
}

fn round(processes: &[Child], traffic: &Traffic, shards: usize) -> anyhow::Result<Round> {
    let metrics = Arc::new(Metrics::new(SeriesLimits::default()));
    let findings = Arc::new(Findings::new(Arc::clone(&metrics)));
    let config = Config::default();
    let mut pipelines = pipelines(&config, shards.max(1), &metrics, &findings);
    let (begin, before) = (Instant::now(), own_ns());
    let round = match pipelines.pop() {
        Some(mut only) if shards == 0 => {
            let records = play(processes, traffic, &mut only)?;
            let ns = own_ns() - before;
            Round { busiest_ns: ns, reader_ns: ns, all_ns: ns, wall: begin.elapsed(), records }
        }
        last => {
            pipelines.extend(last);
            let mut all = Shards::start(pipelines, &config.core_limits())?;
            let records = play(processes, traffic, &mut all)?;
            let reader_ns = own_ns() - before;
            // Answered when everything before it was handled.
            all.save()?;
            let wall = begin.elapsed();
            let of_shards = threads()?.into_iter().filter(|(name, _)| name.starts_with("shard-"));
            let of_shards: Vec<u64> = of_shards.map(|(_, ns)| ns).collect();
            ensure!(of_shards.len() == shards, "{} threads of shards", of_shards.len());
            all.conclude(Timestamp(2_000_000_000_000))?;
            let busiest_ns = of_shards.iter().copied().max().unwrap_or(0).max(reader_ns);
            Round { busiest_ns, reader_ns, all_ns: reader_ns + of_shards.iter().sum::<u64>(), wall, records }
        }
    };
    let text = metrics.encode(agent::metrics::Format::Text).context("write the metrics")?;
    let text = String::from_utf8(text)?;
    let ended = text
        .lines()
        .filter(|line| line.starts_with("grpcscope_calls_ended_total{") && line.contains("\"ok\""));
    let ended: f64 = ended.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum();
    ensure!(ended == CALLS_IN_ALL as f64, "{ended} calls ended, and not {CALLS_IN_ALL}");
    Ok(round)
}

fn main() -> anyhow::Result<()> {
    let start = || {
        Command::new("sleep").arg("3600").spawn().context("start a process to be the owner of connections")
    };
    let mut processes: Vec<Child> = (0..PROCESSES).map(|_| start()).collect::<Result<_, _>>()?;
    let result = measure(&processes);
    for process in &mut processes {
        let _ = process.kill();
        let _ = process.wait();
    }
    result
}

fn measure(processes: &[Child]) -> anyhow::Result<()> {
    let traffic = Traffic::new();
    // No shard: the reader runs the pipeline, as with `capture.shards: 1`.
    let mut best: [(usize, Option<Round>); 3] = [(0, None), (1, None), (2, None)];
    for _ in 0..ROUNDS {
        for (shards, best) in &mut best {
            let round = round(processes, &traffic, *shards)?;
            if best.is_none_or(|best| round.busiest_ns < best.busiest_ns) {
                *best = Some(round);
            }
        }
    }
    let mut runs = Vec::new();
    for (threads, round) in best {
        let round = round.context("no round")?;
        let calls = CALLS_IN_ALL as f64;
        runs.push(json!({
            "threads_of_shards": threads,
            "calls_per_second": (calls * 1e9 / round.busiest_ns as f64).round(),
            "wall_calls_per_second": (calls / round.wall.as_secs_f64()).round(),
            "cpu_ns_per_call": (round.all_ns as f64 / calls).round(),
            "reader_ns_per_record": (round.reader_ns as f64 / round.records as f64).round(),
        }));
        eprintln!("{}", runs[runs.len() - 1]);
    }
    println!(
        "{}",
        json!({ "processes": PROCESSES, "calls": CALLS_IN_ALL, "records_per_call": 2, "runs": runs })
    );
    Ok(())
}
