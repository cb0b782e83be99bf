//! Fixed inputs for an instruction counter: unlike times, instructions are the same in each run on each machine, or
//! nearly so. `cargo xtask bench instructions` runs this under valgrind, which counts from the entry of a function
//! `counted_…` to its return, and compares.
//!
//! Takes the name of a case; prints how many of its units (blocks, calls) the count is for.

use std::hint::black_box;
use std::sync::Arc;

use agent_core::detectors::{Detectors, End, Owner, Party, ProcessId, Thresholds};
use agent_core::hpack::{Decoder, ListLimits};
use agent_core::{ConnectionId, Limits, Observation, Observer};
use bench::encoder::Encoder;
use bench::traffic::{self, Connection};

type Observers = (Observer, Option<Detectors>);

/// Units before the count begins: the tables have their size, and evict.
const WARM_UP: usize = 200;
/// Units that are counted.
const COUNTED: usize = 1_000;

const LIMITS: ListLimits = ListLimits { bytes: 64 * 1024, fields: 256 };

fn main() -> Result<(), String> {
    let case = std::env::args().nth(1).unwrap_or_default();
    let encode = |fields: &mut dyn Iterator<Item = Vec<traffic::Field>>| {
        let mut encoder = Encoder::new();
        fields.map(|fields| encoder.encode(&fields)).collect::<Vec<_>>()
    };
    let numbers = || 0..(WARM_UP + COUNTED) as u64;
    match case.as_str() {
        "hpack_request" => hpack(&encode(&mut numbers().map(|number| traffic::request(number, true)))),
        "hpack_response" => hpack(&encode(&mut numbers().map(|number| match number % 2 {
            0 => traffic::response(),
            _ => traffic::trailers(),
        }))),
        "core_unary" => core(None),
        "core_detectors" => core(Some(detectors())),
        _ => return Err(format!("no such case: {case:?}")),
    }
    println!("{COUNTED}");
    Ok(())
}

/// Blocks with all their values.
fn hpack(blocks: &[Vec<u8>]) {
    let mut decoder = Decoder::synced(64 * 1024);
    let (warm_up, counted) = blocks.split_at(WARM_UP);
    decode(&mut decoder, warm_up);
    black_box(counted_hpack(&mut decoder, counted));
}

fn decode(decoder: &mut Decoder, blocks: &[Vec<u8>]) -> usize {
    let mut octets = 0;
    for block in blocks {
        let decoded = decoder.decode(block, LIMITS, |field| {
            octets += field.name.known().map_or(0, <[u8]>::len) + field.value.known().map_or(0, <[u8]>::len);
        });
        assert!(decoded.is_ok(), "the block is valid");
    }
    octets
}

#[inline(never)]
fn counted_hpack(decoder: &mut Decoder, blocks: &[Vec<u8>]) -> usize {
    decode(decoder, blocks)
}

/// All detectors, for the connection of the case.
fn detectors() -> Detectors {
    let mut detectors = Detectors::new(Thresholds::default());
    let owner = Owner { process: ProcessId(1), workload: Arc::from("bench") };
    let end = |port: u16| End::Address(([10, 0, 0, 1], port).into());
    let party = Party { owner: Some(Arc::new(owner)), ends: Some((end(1), end(2))) };
    detectors.handle_connection(ConnectionId(1), party);
    detectors
}

/// Unary calls from chunks to observations, and on to findings.
fn core(detectors: Option<Detectors>) {
    let connection = Connection::new(WARM_UP + COUNTED);
    let mut observers = (Observer::new(Limits::default()), detectors);
    observe(&mut observers, &connection, 0..WARM_UP);
    let ended = counted_core(&mut observers, &connection);
    assert_eq!(ended, COUNTED, "calls that ended");
}

fn observe(observers: &mut Observers, connection: &Connection, calls: std::ops::Range<usize>) -> usize {
    let (observer, detectors) = observers;
    let mut ended = 0;
    for chunk in connection.calls(ConnectionId(1), calls) {
        observer.handle_chunk(chunk);
        while let Some(observation) = observer.poll_observation() {
            ended += usize::from(matches!(observation, Observation::CallEnded(_)));
            if let Some(detectors) = detectors {
                detectors.handle_observation(&observation);
                while let Some(finding) = detectors.poll_finding() {
                    black_box(finding);
                }
            }
        }
    }
    ended
}

#[inline(never)]
fn counted_core(observers: &mut Observers, connection: &Connection) -> usize {
    observe(observers, connection, WARM_UP..WARM_UP + COUNTED)
}
