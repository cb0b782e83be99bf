//! Floods of frames on one connection: how many a second one core takes in (threats T2 and T6). No peer: what counts is
//! that an attacker cannot send them faster than they are read. The last line is JSON.
//!
//! Frames come in chunks of 16 KiB, as a flooding client writes them. Times are processor times, the best round of each
//! flood. Pass `--json` for the JSON alone.

use std::time::Duration;

use agent_core::{Chunk, ConnectionId, Flow, Limits, Observation, Observer, Timestamp};
use bench::{cpu_time, round};
use serde_json::{Value, json};

/// Frames of a round; of the large ones a hundredth.
const FRAMES: usize = 2_000_000;
const ROUNDS: usize = 5;
const CHUNK_BYTES: usize = 16 * 1024;

const HEADERS: u8 = 0x1;
const RST_STREAM: u8 = 0x3;
const SETTINGS: u8 = 0x4;

fn main() {
    let is_json_only = std::env::args().any(|argument| argument == "--json");
    let mut block = vec![0x83, 0x86];
    for (name, value) in [(":path", "/a.B/C"), ("content-type", "application/grpc")] {
        block.push(0);
        for text in [name, value] {
            block.push(text.len() as u8);
            block.extend(text.as_bytes());
        }
    }
    let headers = frame(HEADERS, 4, 1, &block);
    let headers_and_reset = [headers.as_slice(), &frame(RST_STREAM, 0, 1, &[0, 0, 0, 8])].concat();
    let floods: [(&str, &[u8], usize); 7] = [
        ("headers_rst", &headers_and_reset, FRAMES),
        ("ping", &frame(0x6, 0, 0, &[0; 8]), FRAMES),
        ("settings", &frame(SETTINGS, 0, 0, &[0, 1, 0, 0, 0x10, 0]), FRAMES),
        ("empty_data", &frame(0x0, 0, 1, &[]), FRAMES),
        ("window_update", &frame(0x8, 0, 0, &[0, 0, 0, 1]), FRAMES),
        ("goaway", &frame(0x7, 0, 0, &[0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0]), FRAMES),
        ("continuation_16k", &frame(0x9, 0, 1, &[0x88; 16_384]), FRAMES / 100),
    ];
    let results: Vec<Value> = floods
        .into_iter()
        .map(|(name, unit, frames)| {
            let best = (0..ROUNDS).map(|_| flood(name, unit, frames)).min().unwrap_or_default();
            let seconds = best.as_secs_f64();
            let bytes = (unit.len() * frames / frames_in(name)) as f64;
            let result = json!({
                "flood": name,
                "frames_per_second": (frames as f64 / seconds).round(),
                "mib_per_second": round(bytes / seconds / f64::from(1 << 20)),
                "us_per_kib": round(seconds * 1e6 / (bytes / 1024.0)),
            });
            if !is_json_only {
                eprintln!("{result}");
            }
            result
        })
        .collect();
    println!("{}", json!({ "floods": results }));
}

fn frames_in(name: &str) -> usize {
    if name == "headers_rst" { 2 } else { 1 }
}

/// One connection that gets so many frames.
fn flood(name: &str, unit: &[u8], frames: usize) -> Duration {
    let mut observer = Observer::new(Limits::default());
    let (mut offset, mut ended) = (0, 0);
    let mut send = |bytes: &[u8]| {
        observer.handle_chunk(Chunk {
            connection: ConnectionId(1),
            flow: Flow::Sent,
            offset,
            time: Timestamp(offset),
            boundary: false,
            thread: 0,
            bytes,
        });
        offset += bytes.len() as u64;
        while let Some(observation) = observer.poll_observation() {
            ended += usize::from(matches!(observation, Observation::CallEnded(_)));
        }
    };
    send(&[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &frame(SETTINGS, 0, 0, &[])].concat());
    if name == "continuation_16k" {
        send(&frame(HEADERS, 0, 1, &[0x83, 0x86]));
    }
    let units = frames / frames_in(name);
    let per_chunk = (CHUNK_BYTES / unit.len()).max(1);
    let mut packet = unit.repeat(per_chunk);
    let mut stream = 1u32;
    let mut took = Duration::ZERO;
    for _ in 0..units / per_chunk {
        if name == "headers_rst" {
            // Each pair has a stream of its own; to write its id is not what is measured.
            for pair in packet.chunks_mut(unit.len()) {
                let reset = pair.len() - 13;
                pair[5..9].copy_from_slice(&stream.to_be_bytes());
                pair[reset + 5..reset + 9].copy_from_slice(&stream.to_be_bytes());
                stream += 2;
            }
        }
        let begin = cpu_time::thread();
        send(&packet);
        took += cpu_time::thread() - begin;
    }
    if name == "headers_rst" {
        assert_eq!(ended, units / per_chunk * per_chunk, "each call was seen to end");
    }
    took
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}
