//! Recordings that lose, cut, repeat or swap packets, or that begin in the middle: what is said of a call may
//! be less than before, and is never something else.

mod corpora;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use agent::capture::recording::{Container, Event, Packet, Tracker, source};
use agent_core::observation::{Call, Messages, Outcome, StatusSource, Timeout};
use agent_core::{Limits, Observation, Observer, Timestamp};

/// A packet that stays.
#[derive(Clone)]
struct Recorded {
    time: Timestamp,
    link_type: u16,
    data: Vec<u8>,
    original_bytes: u32,
}

fn read(path: &Path) -> Vec<Recorded> {
    let file = BufReader::new(File::open(path).expect("it can be opened"));
    let input = source::decompress(file).expect("gzip or plain");
    let mut container = Container::open(input).expect("it is a recording");
    let mut packets = Vec::new();
    while let Some(packet) = container.next_packet().expect("it is whole") {
        packets.push(Recorded {
            time: packet.time,
            link_type: packet.link_type,
            data: packet.data.to_vec(),
            original_bytes: packet.original_bytes,
        });
    }
    packets
}

/// Calls by stream; the recordings here hold one connection.
fn calls(packets: &[Recorded]) -> BTreeMap<u32, Call> {
    let mut observer = Observer::new(Limits::default());
    let mut tracker = Tracker::new(0);
    let mut calls = BTreeMap::new();
    let mut drain = |observer: &mut Observer| {
        while let Some(observation) = observer.poll_observation() {
            if let Observation::CallEnded(call) = observation {
                let before = calls.insert(call.stream, *call);
                assert!(before.is_none(), "reported twice: {before:?}");
            }
        }
    };
    let mut latest = Timestamp(0);
    for packet in packets {
        latest = latest.max(packet.time);
        let packet = Packet {
            time: packet.time,
            link_type: packet.link_type,
            data: &packet.data,
            original_bytes: packet.original_bytes,
        };
        tracker.handle_packet(&packet, &mut |event| feed(&mut observer, &event));
        observer.handle_timeout(latest);
        drain(&mut observer);
    }
    tracker.finish(&mut |event| feed(&mut observer, &event));
    observer.finish(latest);
    drain(&mut observer);
    calls
}

fn feed(observer: &mut Observer, event: &Event<'_>) {
    match *event {
        Event::Chunk(chunk) => observer.handle_chunk(chunk),
        Event::Closed { connection, time, .. } => observer.handle_close(connection, time),
        Event::Ended { connection, time } => observer.handle_end(connection, time),
        Event::Opened { .. } | Event::Updated { .. } => {}
    }
}

/// What `call` says that is not so, where `truth` is the same call from the whole recording.
fn lies(call: &Call, truth: &Call) -> Vec<&'static str> {
    let mut lies = Vec::new();
    if call.method.is_some() && call.method != truth.method {
        lies.push("method");
    }
    let was_sent = matches!(call.status_source, StatusSource::Trailer | StatusSource::TrailersOnly);
    if was_sent && call.status.is_some() && call.status != truth.status {
        lies.push("status");
    }
    let claims = !matches!(call.outcome, Outcome::Unknown | Outcome::Open);
    if claims && call.outcome != truth.outcome {
        lies.push("outcome");
    }
    if call.timeout != Timeout::Unknown && call.timeout != truth.timeout {
        lies.push("timeout");
    }
    let count = |ours: Messages, theirs: Messages| ours.exact && claims && ours != theirs;
    if count(call.request, truth.request) || count(call.response, truth.response) {
        lies.push("messages");
    }
    lies
}

/// Deterministic numbers (splitmix64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) % bound as u64) as usize
    }
}

const RECORDINGS: [&str; 2] = ["live/grpcio_mixed.pcap.gz", "live/grpcjs_mixed.pcap.gz"];

/// How many mutations of each kind; more by the environment, for a long run.
fn rounds() -> u64 {
    std::env::var("MUTATION_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(12)
}

/// Mutates the recordings in many ways and compares all calls with those of the whole recording.
fn no_lie_after(what: &str, mutate: impl Fn(&mut Vec<Recorded>, &mut Numbers)) {
    let Some(corpora) = corpora::corpora() else { return };
    let mut wrong = Vec::new();
    let mut compared = 0;
    for recording in RECORDINGS {
        let whole = read(&corpora.join(recording));
        let truth = calls(&whole);
        for round in 0..rounds() {
            let mut packets = whole.clone();
            mutate(&mut packets, &mut Numbers(round));
            for (stream, call) in calls(&packets) {
                let Some(truth) = truth.get(&stream) else {
                    wrong.push(format!("{recording} {what} {round}: invented: {call:?}"));
                    continue;
                };
                let lies = lies(&call, truth);
                if !lies.is_empty() {
                    wrong.push(format!(
                        "{recording} {what} {round}: {lies:?}\n  ours  {call:?}\n  truth {truth:?}"
                    ));
                }
                compared += 1;
            }
        }
    }
    assert!(compared > 0, "nothing was compared");
    let first: Vec<&String> = wrong.iter().take(3).collect();
    assert!(wrong.is_empty(), "{} of {compared} calls are wrong, the first:\n{first:#?}", wrong.len());
}

#[test]
fn no_lie_after_one_lost_packet() {
    no_lie_after("one lost", |packets, numbers| {
        packets.remove(numbers.below(packets.len()));
    });
}

#[test]
fn no_lie_after_many_lost_packets() {
    no_lie_after("lost", |packets, numbers| {
        let share = 5 + numbers.below(200);
        packets.retain(|_| numbers.below(share) != 0);
    });
}

#[test]
fn no_lie_after_a_lost_stretch() {
    no_lie_after("stretch", |packets, numbers| {
        let from = numbers.below(packets.len());
        let to = (from + 1 + numbers.below(60)).min(packets.len());
        packets.drain(from..to);
    });
}

#[test]
fn no_lie_after_a_beginning_in_the_middle() {
    no_lie_after("late", |packets, numbers| {
        let from = numbers.below(packets.len());
        packets.drain(..from);
    });
}

#[test]
fn no_lie_after_packets_were_cut_short() {
    no_lie_after("cut", |packets, numbers| {
        let snap_bytes = 66 + numbers.below(400);
        for packet in packets {
            packet.data.truncate(snap_bytes);
        }
    });
}

/// The port that a packet was sent from; the packets here are Ethernet, and IPv4 without options.
fn source_port(packet: &Recorded) -> &[u8] {
    &packet.data[34..36]
}

#[test]
fn no_lie_after_packets_were_swapped() {
    no_lie_after("swapped", |packets, numbers| {
        let share = 1 + numbers.below(20);
        for at in 1..packets.len() {
            let (before, after) = packets.split_at_mut(at);
            let (one, other) = (&mut before[at - 1], &mut after[0]);
            // Packets of one end, so close that no deadline lies between them.
            let close = other.time.since(one.time) < 100_000;
            if close && source_port(one) == source_port(other) && numbers.below(share) == 0 {
                // The recording's clock goes on.
                std::mem::swap(one, other);
                std::mem::swap(&mut one.time, &mut other.time);
            }
        }
    });
}

#[test]
fn repeated_packets_change_nothing() {
    let Some(corpora) = corpora::corpora() else { return };
    for recording in RECORDINGS {
        let whole = read(&corpora.join(recording));
        let truth = calls(&whole);
        for round in 0..rounds() {
            let mut numbers = Numbers(round);
            let mut packets = Vec::new();
            for packet in &whole {
                packets.push(packet.clone());
                if numbers.below(10) == 0 {
                    packets.push(packet.clone());
                }
            }
            let ours = calls(&packets);
            assert_eq!(ours.len(), truth.len(), "{recording} {round}");
            for (stream, call) in &ours {
                assert_eq!(format!("{call:?}"), format!("{:?}", truth[stream]), "{recording} {round}");
            }
        }
    }
}
