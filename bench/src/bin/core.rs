//! The core from memory: unary calls a second on one core, beside tshark; what connections and calls in flight
//! cost, and what all detectors do. The last line is JSON.
//!
//! The recording has 20,000 unary calls on one connection. It is played on many connections, each with an id of its
//! own, one chunk on each in turn: so nothing of a connection is left in the first-level caches when its next chunk
//! comes. What the core says is drained when the core says that this is due, as the agent does. Times are processor times; all that is
//! compared takes turns, and the best round of each counts. Pass `--json` for the JSON alone, `--detectors` for what
//! these cost alone, and `--profile N` for the
//! calls of the table alone, once on N connections: what a profiler is to see is in `measured_calls`.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use bench::allocations::{self, Counted};
use bench::recording::{Piece, Recording};
use bench::replay::Replay;
use bench::{cpu_time, round, tshark};
use serde_json::{Value, json};

#[global_allocator]
static ALLOCATOR: Counted = Counted;

const RECORDING: &str = "grpcio_load20k.pcap.gz";
const CALLS: u64 = 20_000;

/// Rounds of everything.
const ROUNDS: usize = 3;
/// Rounds with detectors and without.
const DETECTOR_ROUNDS: usize = 5;
/// Connections of the throughput.
const CONNECTIONS: u64 = 100;

/// Connections of the table.
const SCALE: [u64; 6] = [1, 10, 100, 1_000, 10_000, 100_000];
/// Calls on a connection before it is measured: tables have their size, and evict.
const WARM_UP_CALLS: u64 = 40;
/// Calls on a connection that are measured; the same ones whatever the number of connections.
const SCALE_CALLS: u64 = 50;
/// At least so many calls in a round, on new connections again and again.
const SCALE_CALLS_OF_ROUND: u64 = 400_000;

/// Of the memory.
const IN_FLIGHT_CONNECTIONS: u64 = 1_000;
const IN_FLIGHT_CALLS: u64 = 100;

fn main() -> Result<(), String> {
    let is_asked_for = |flag| std::env::args().any(|argument| argument == flag);
    let pcap = Recording::file(RECORDING)?;
    let recording = Recording::read(&pcap)?;
    if is_asked_for("--memory") {
        drop(pcap);
        println!("{}", memory(&recording));
        return Ok(());
    }
    if let Some(at) = std::env::args().position(|argument| argument == "--profile") {
        let connections = std::env::args().nth(at + 1).and_then(|number| number.parse().ok());
        let connections = connections.ok_or("--profile needs a number of connections")?;
        let mut replay = Replay::new(&recording, connections as usize);
        let scale = ScalePieces::of(&recording);
        replay.connect(connections);
        replay.play(scale.warm_up);
        measured_calls(&mut replay, scale.measured);
        println!(
            "{} calls in {} chunks",
            scale.calls * connections,
            scale.measured.len() as u64 * connections
        );
        return Ok(());
    }
    if is_asked_for("--detectors") {
        println!("{}", detectors(&recording));
        return Ok(());
    }
    let say = |text: String| {
        if !is_asked_for("--json") {
            eprintln!("{text}");
        }
    };
    let memory = memory_of_another_process()?;
    say(format!("{IN_FLIGHT_CONNECTIONS} connections with {IN_FLIGHT_CALLS} calls in flight: {memory}"));

    let path = std::env::temp_dir().join(format!("bench-core-{}.pcap", std::process::id()));
    std::fs::write(&path, &pcap).map_err(|error| format!("{error}: {}", path.display()))?;
    let result = compare(&recording, &pcap, &path, say);
    let _ = std::fs::remove_file(&path);
    let mut result = result?;
    let detectors = detectors(&recording);
    say(format!("with all detectors: {detectors}"));
    for (name, value) in [memory, detectors].iter().filter_map(Value::as_object).flatten() {
        result[name] = value.clone();
    }
    println!("{result}");
    Ok(())
}

/// Everything that takes time.
fn compare(recording: &Recording, pcap: &[u8], path: &Path, say: impl Fn(String)) -> Result<Value, String> {
    let tshark_version = tshark::version()?;
    let scale = ScalePieces::of(recording);
    let [mut ours, mut ours_file, mut peer] = [Duration::MAX; 3];
    let mut scaling = SCALE.map(|connections| (connections, f64::INFINITY));
    let (mut allocations, mut tshark_rss_mb) = (0.0, 0.0);
    for _ in 0..ROUNDS {
        let before = allocations::count();
        ours = ours.min(throughput(Replay::new(recording, 0)).time);
        allocations = (allocations::count() - before) as f64 / (CALLS * CONNECTIONS) as f64;
        ours_file = ours_file.min(from_file(pcap)?);
        let run = tshark::run(path, recording.server_port)?;
        if run.calls != CALLS {
            return Err(format!("tshark sees {} calls, and not {CALLS}", run.calls));
        }
        peer = peer.min(run.time);
        tshark_rss_mb = run.rss_mb;
        for (connections, best) in &mut scaling {
            *best = best.min(scale.ns_per_call(recording, *connections));
        }
    }
    let rate = |calls: u64, time: Duration| (calls as f64 / time.as_secs_f64()).round();
    let (calls_per_second, tshark_calls_per_second) = (rate(CALLS * CONNECTIONS, ours), rate(CALLS, peer));
    say(format!("ours: {calls_per_second} calls/s, {allocations:.2} allocations a call"));
    say(format!("ours with the file's packets: {} calls/s", rate(CALLS, ours_file)));
    say(format!("{tshark_version}: {tshark_calls_per_second} calls/s, {tshark_rss_mb:.0} MB"));
    say("connections  ns a call".to_owned());
    for (connections, ns) in scaling {
        say(format!("{connections:>11} {ns:>10.0}"));
    }
    let scaling: Vec<_> = scaling
        .iter()
        .map(|(connections, ns)| json!({ "connections": connections, "ns_per_call": round(*ns) }))
        .collect();
    Ok(json!({
        "calls_per_second": calls_per_second,
        "ns_per_call": round(1e9 / calls_per_second),
        "allocations_per_call": round(allocations),
        "file_calls_per_second": rate(CALLS, ours_file),
        "tshark": tshark_version,
        "tshark_calls_per_second": tshark_calls_per_second,
        "tshark_rss_mb": round(tshark_rss_mb),
        "ratio_tshark": round(calls_per_second / tshark_calls_per_second),
        "scaling": scaling,
    }))
}

/// What all detectors leave of the throughput, beside none, in rounds that take turns.
fn detectors(recording: &Recording) -> Value {
    let [mut without, mut with] = [Duration::MAX; 2];
    let mut findings = 0;
    for _ in 0..DETECTOR_ROUNDS {
        without = without.min(throughput(Replay::of_processes(recording, false)).time);
        let played = throughput(Replay::of_processes(recording, true));
        with = with.min(played.time);
        findings = played.findings;
    }
    let calls = (CALLS * CONNECTIONS) as f64;
    let rate = |time: Duration| (calls / time.as_secs_f64()).round();
    json!({
        "calls_per_second_without_detectors": rate(without),
        "calls_per_second_with_detectors": rate(with),
        "detectors_ratio": round(without.as_secs_f64() / with.as_secs_f64()),
        "detectors_ns_per_call": round((with.as_nanos() as f64 - without.as_nanos() as f64) / calls),
        "findings_per_call": round(findings as f64 / calls),
    })
}

/// A recording that was played.
struct Played {
    time: Duration,
    findings: u64,
}

/// The whole recording on [`CONNECTIONS`] connections, from the first to the last of their bytes.
fn throughput(mut replay: Replay<'_>) -> Played {
    let begin = cpu_time::thread();
    replay.connect(CONNECTIONS);
    replay.play(&replay.recording().pieces);
    replay.connect(0);
    let time = cpu_time::thread() - begin;
    assert_eq!(replay.ended, CALLS * CONNECTIONS, "calls that ended");
    Played { time, findings: replay.findings }
}

/// The recording once, with its packets: what tshark does.
fn from_file(pcap: &[u8]) -> Result<Duration, String> {
    let begin = cpu_time::thread();
    let recording = Recording::read(pcap)?;
    let mut replay = Replay::new(&recording, 0);
    replay.connect(1);
    replay.play(&recording.pieces);
    replay.connect(0);
    let time = cpu_time::thread() - begin;
    assert_eq!(replay.ended, CALLS, "calls that ended");
    Ok(time)
}

/// The pieces of the table.
struct ScalePieces<'a> {
    warm_up: &'a [Piece],
    measured: &'a [Piece],
    /// Calls that end in the measured ones.
    calls: u64,
}

impl<'a> ScalePieces<'a> {
    fn of(recording: &'a Recording) -> ScalePieces<'a> {
        let mut replay = Replay::new(recording, 0);
        replay.connect(1);
        let mut pieces = recording.pieces.iter();
        let mut play_until = |calls: u64| {
            while replay.ended < calls {
                replay.play(pieces.next());
            }
            (recording.pieces.len() - pieces.len(), replay.ended)
        };
        let (first, before) = play_until(WARM_UP_CALLS);
        let (last, after) = play_until(before + SCALE_CALLS);
        ScalePieces {
            warm_up: &recording.pieces[..first],
            measured: &recording.pieces[first..last],
            calls: after - before,
        }
    }

    /// What a call costs in the steady state of so many connections.
    fn ns_per_call(&self, recording: &Recording, connections: u64) -> f64 {
        let mut replay = Replay::new(recording, connections as usize);
        let (mut time, mut calls) = (Duration::ZERO, 0);
        while calls < SCALE_CALLS_OF_ROUND {
            replay.connect(connections);
            replay.play(self.warm_up);
            let before = replay.ended;
            let begin = cpu_time::thread();
            measured_calls(&mut replay, self.measured);
            time += cpu_time::thread() - begin;
            assert_eq!(replay.ended - before, self.calls * connections, "calls that ended");
            calls += self.calls * connections;
        }
        time.as_nanos() as f64 / calls as f64
    }
}

#[inline(never)]
fn measured_calls(replay: &mut Replay<'_>, pieces: &[Piece]) {
    replay.play(pieces);
}

/// Calls in flight: the client's bytes until there are enough, and of the server's what it says first.
fn memory(recording: &Recording) -> Value {
    // What was read in is given back, so that it does not hide what the core takes.
    // SAFETY: it may be called at any time.
    unsafe { libc::malloc_trim(0) };
    let (rss_before, heap_before) = (rss_bytes(), allocations::live_bytes());
    let mut replay = Replay::new(recording, 0);
    replay.connect(IN_FLIGHT_CONNECTIONS);
    let first_answer = recording.pieces.iter().position(|piece| piece.flow != recording.pieces[0].flow);
    let mut pieces = recording.pieces.iter().enumerate();
    while replay.started < IN_FLIGHT_CALLS * IN_FLIGHT_CONNECTIONS {
        let Some((at, piece)) = pieces.next() else { break };
        if piece.flow == recording.pieces[0].flow || Some(at) == first_answer {
            replay.play([piece]);
        }
    }
    assert_eq!(replay.ended, 0, "calls that ended");
    let mb = |bytes: u64| round(bytes as f64 / (1024.0 * 1024.0));
    json!({
        "calls_in_flight": replay.started,
        // Growth of the resident set, and the whole of it, with the recording and the program.
        "rss_mb_1000x100": mb(rss_bytes() - rss_before),
        "rss_mb_of_process_1000x100": mb(rss_bytes()),
        "heap_mb_1000x100": mb(allocations::live_bytes() - heap_before),
    })
}

/// [`memory`] in a process that has done nothing else.
fn memory_of_another_process() -> Result<Value, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let output = Command::new(program).arg("--memory").output().map_err(|error| error.to_string())?;
    serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("{error}: {}", String::from_utf8_lossy(&output.stderr)))
}

fn rss_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("read statm");
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).expect("resident pages");
    // SAFETY: it only reads a number.
    pages * unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as u64
}
