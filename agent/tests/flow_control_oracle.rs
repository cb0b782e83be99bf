//! Flow-control windows of the core against windows computed from the oracle's frames, frame by frame, on every
//! recording of the corpora.

mod corpora;

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use agent::capture::recording::{Container, Event, Tracker, source};
use agent_core::detectors::{Detectors, Name, Party, Thresholds, Verdict};
use agent_core::observation::{ConnectionSummary, FrameSeen, Stall, StallEnd, Window};
use agent_core::{Flow, Limits, Observation, Observer, Timestamp};
use serde_json::Value;

const DATA: u64 = 0;
const HEADERS: u64 = 1;
const RST_STREAM: u64 = 3;
const SETTINGS: u64 = 4;
const WINDOW_UPDATE: u64 = 8;

fn read(path: &Path) -> Vec<u8> {
    let file = BufReader::new(File::open(path).expect("it can be opened"));
    let mut bytes = Vec::new();
    source::decompress(file).expect("gzip or plain").read_to_end(&mut bytes).expect("it can be read");
    bytes
}

/// What the core says of one recording: its frames in order, its connections, and which of them it joined late.
#[derive(Default)]
struct Ours {
    frames: Vec<FrameSeen>,
    summaries: Vec<ConnectionSummary>,
    stalls: Vec<Stall>,
    /// What is said of stalls, and whether it is certain.
    findings: Vec<(Verdict, String)>,
    late: HashSet<u64>,
}

fn observe(recording: &Path) -> Ours {
    observe_damaged(recording, &mut || false)
}

/// The same without those chunks that are `lost`.
fn observe_damaged(recording: &Path, lost: &mut dyn FnMut() -> bool) -> Ours {
    let bytes = read(recording);
    let mut container = Container::open(bytes.as_slice()).expect("it is a recording");
    let mut tracker = Tracker::new(0);
    let mut observer = Observer::new(Limits::default());
    observer.trace_frames(true);
    let mut ours = Ours::default();
    let mut detectors = Detectors::new(Thresholds::default());
    let mut begun = HashSet::new();
    let mut handle = |observer: &mut Observer, event: Event<'_>| {
        match event {
            Event::Chunk(_) if lost() => {}
            Event::Chunk(chunk) => {
                if begun.insert((chunk.connection, chunk.flow)) {
                    if !begun.contains(&(chunk.connection, chunk.flow.opposite())) {
                        detectors.handle_connection(chunk.connection, Party { owner: None, ends: None });
                    }
                    if chunk.offset > 0 {
                        ours.late.insert(chunk.connection.0);
                    }
                }
                if detectors.poll_timeout().is_some_and(|due| due <= chunk.time) {
                    detectors.handle_timeout(observer, chunk.time);
                }
                observer.handle_chunk(chunk);
            }
            Event::Closed { connection, time, .. } => observer.handle_close(connection, time),
            Event::Ended { connection, time } => observer.handle_end(connection, time),
            Event::Opened { .. } | Event::Updated { .. } => {}
        }
        while let Some(fact) = observer.poll_observation() {
            detectors.handle_observation(&fact);
            match fact {
                Observation::Frame(frame) => ours.frames.push(*frame),
                Observation::Stalled(stall) => ours.stalls.push(*stall),
                Observation::ConnectionEnded(summary) => ours.summaries.push(*summary),
                _ => {}
            }
        }
        while let Some(finding) = detectors.poll_finding() {
            if finding.name() == Name::FlowControlStall {
                ours.findings.push((finding.verdict, finding.claim.claims().to_string()));
            }
        }
    };
    let mut latest = Timestamp(0);
    while let Some(packet) = container.next_packet().expect("it is whole") {
        latest = latest.max(packet.time);
        tracker.handle_packet(&packet, &mut |event| handle(&mut observer, event));
    }
    tracker.finish(&mut |event| handle(&mut observer, event));
    observer.finish(latest);
    while let Some(fact) = observer.poll_observation() {
        if let Observation::ConnectionEnded(summary) = fact {
            ours.summaries.push(*summary);
        }
    }
    ours
}

/// The windows of one sender, by the letter of RFC 9113 §6.9: each stream's window is kept, and each change of
/// SETTINGS_INITIAL_WINDOW_SIZE goes through all of them.
struct Sender {
    initial: i64,
    connection: i64,
    streams: HashMap<u64, i64>,
}

impl Sender {
    fn new() -> Sender {
        Sender { initial: 65_535, connection: 65_535, streams: HashMap::new() }
    }

    fn stream(&mut self, id: u64) -> &mut i64 {
        let initial = self.initial;
        self.streams.entry(id).or_insert(initial)
    }
}

/// The same of one connection, from client and server.
struct Windows {
    senders: [Sender; 2],
    /// Streams that at least one end has ended or reset: the core need not follow them any more.
    ending: HashSet<u64>,
}

impl Windows {
    /// Applies a frame, and says whose windows it changed, if it changed any.
    fn apply(&mut self, frame: &Value) -> Option<usize> {
        let from = usize::from(frame["dir"] == "s2c");
        let number = |key: &str| frame[key].as_u64().unwrap_or_else(|| panic!("{key} of {frame}"));
        let (id, kind, flags) = (number("sid"), number("type"), number("flags"));
        let mut changed = None;
        match kind {
            DATA => {
                let length = i64::try_from(number("len")).expect("a length");
                self.senders[from].connection -= length;
                *self.senders[from].stream(id) -= length;
                changed = Some(from);
            }
            WINDOW_UPDATE => {
                let increment = i64::try_from(number("inc")).expect("an increment");
                let sender = &mut self.senders[1 - from];
                if id == 0 {
                    sender.connection += increment;
                } else {
                    *sender.stream(id) += increment;
                }
                changed = Some(1 - from);
            }
            SETTINGS if flags & 1 == 0 => {
                for entry in frame["settings"].as_array().into_iter().flatten() {
                    if entry[0] == 4 {
                        let sender = &mut self.senders[1 - from];
                        let difference = entry[1].as_i64().expect("a value") - sender.initial;
                        sender.initial += difference;
                        sender.streams.values_mut().for_each(|window| *window += difference);
                    }
                }
            }
            HEADERS => {
                // Both windows of a stream exist from its opening on.
                self.senders.iter_mut().for_each(|sender| _ = sender.stream(id));
            }
            _ => {}
        }
        changed
    }

    fn end(&mut self, frame: &Value) {
        let ends = matches!(frame["type"].as_u64(), Some(DATA | HEADERS))
            && frame["flags"].as_u64().is_some_and(|flags| flags & 1 != 0);
        if ends || frame["type"] == RST_STREAM {
            self.ending.insert(frame["sid"].as_u64().expect("an id"));
        }
    }
}

#[test]
fn w2_windows_equal_those_of_the_oracles_frames_after_every_frame_of_the_corpora() {
    let Some(corpora) = corpora::corpora() else { return };
    let (mut connections, mut on_connection, mut on_stream, mut late) = (0, 0, 0, 0);
    let mut oracles: Vec<PathBuf> = fs::read_dir(corpora.join("oracle"))
        .expect("it is there")
        .map(|entry| entry.expect("listed").path())
        .collect();
    oracles.sort();
    for path in oracles {
        let recording = corpora::recording_of(&corpora, &path);
        let text = String::from_utf8(read(&path)).expect("it is text");
        let ours = observe(&recording);
        let mut windows: HashMap<u64, Windows> = HashMap::new();
        let mut frames = ours.frames.iter();
        for line in text.lines() {
            let oracle: Value = serde_json::from_str(line).expect("a line of JSON");
            let frame = frames.next().expect("as many frames as the oracle has");
            let connection = oracle["conn"].as_u64().expect("a number");
            assert_eq!(
                (frame.connection.0, u64::from(frame.stream)),
                (connection, oracle["sid"].as_u64().expect("an id"))
            );
            let state = windows.entry(connection).or_insert_with(|| Windows {
                senders: [Sender::new(), Sender::new()],
                ending: HashSet::new(),
            });
            let changed = state.apply(&oracle);
            let id = u64::from(frame.stream);
            let seen = frame.windows;
            assert_eq!(seen.is_some(), changed.is_some(), "{}: {line}", recording.display());
            if let (Some(seen), Some(sender)) = (seen, changed) {
                let sender = &state.senders[sender];
                let what = || format!("{}: {line}: {seen:?}", recording.display());
                if ours.late.contains(&connection) {
                    assert_eq!(seen.connection, None, "joined late: {}", what());
                    late += 1;
                } else {
                    assert_eq!(seen.connection, Some(sender.connection), "{}", what());
                    on_connection += 1;
                    match seen.stream {
                        Some(window) => {
                            assert_eq!(Some(&window), sender.streams.get(&id), "{}", what());
                            on_stream += 1;
                        }
                        None => assert!(id == 0 || state.ending.contains(&id), "{}", what()),
                    }
                }
            }
            state.end(&oracle);
        }
        for summary in &ours.summaries {
            let Some(state) = windows.get(&summary.connection.0) else { continue };
            let client = usize::from(summary.client_flow == Some(Flow::Received));
            for (from, flow) in [(0, client), (1, 1 - client)] {
                let expected =
                    (!ours.late.contains(&summary.connection.0)).then_some(state.senders[from].connection);
                assert_eq!(summary.flows[flow].send_window, expected, "{}", recording.display());
            }
            connections += 1;
        }
    }
    println!(
        "{connections} connections, {on_connection} windows of connections, {on_stream} of streams, {late} late"
    );
    assert!(
        connections >= 6 && on_connection >= 4_000 && on_stream >= 3_000 && late >= 10,
        "too few were compared"
    );
}

/// When windows of one connection were used up, by sender and stream (0: the connection's), by the letter.
#[derive(Default)]
struct Empty {
    since: HashMap<(usize, u64), Timestamp>,
    /// Opened, and no DATA has followed.
    opened: HashMap<(usize, u64), (Timestamp, Timestamp)>,
}

/// A stall: connection, sender, stream, from, until.
type Lasted = (u64, usize, u64, Timestamp, Timestamp);

impl Empty {
    /// Takes a frame after its windows were changed. Says which windows had been used up when DATA goes on.
    fn apply(&mut self, frame: &Value, connection: u64, windows: &Windows, time: Timestamp) -> Vec<Lasted> {
        let from = usize::from(frame["dir"] == "s2c");
        let (id, kind) = (frame["sid"].as_u64().expect("an id"), frame["type"].as_u64().expect("a type"));
        let mut gone_on = Vec::new();
        let left = |sender: usize, id: u64| {
            let sender = &windows.senders[sender];
            if id == 0 {
                sender.connection
            } else {
                sender.streams.get(&id).copied().unwrap_or(sender.initial)
            }
        };
        match kind {
            DATA => {
                let length = frame["len"].as_i64().expect("a length");
                let ends = frame["flags"].as_u64().is_some_and(|flags| flags & 1 != 0);
                for of in [(from, id), (from, 0)] {
                    if length == 0 {
                        continue;
                    }
                    if let Some((since, until)) = self.opened.remove(&of) {
                        gone_on.push((connection, of.0, of.1, since, until));
                    }
                    let after = left(of.0, of.1);
                    if after <= 0 && after + length > 0 && !(ends && of.1 > 0) {
                        self.since.insert(of, time);
                    }
                }
            }
            WINDOW_UPDATE | SETTINGS => {
                let all: Vec<(usize, u64)> = self.since.keys().copied().collect();
                for of in all.into_iter().filter(|of| of.0 == 1 - from && left(of.0, of.1) > 0) {
                    let since = self.since.remove(&of).expect("it was just there");
                    self.opened.insert(of, (since, time));
                }
            }
            _ => {}
        }
        gone_on
    }
}

#[test]
fn w7_stalls_are_those_of_the_oracles_frames_in_every_recording() {
    let Some(corpora) = corpora::corpora() else { return };
    let (mut of_letter, mut certain) = (0, 0);
    for entry in fs::read_dir(corpora.join("oracle")).expect("it is there") {
        let path = entry.expect("listed").path();
        let recording = corpora::recording_of(&corpora, &path);
        let text = String::from_utf8(read(&path)).expect("it is text");
        let ours = observe(&recording);
        let mut state: HashMap<u64, (Windows, Empty)> = HashMap::new();
        let mut expected: Vec<Lasted> = Vec::new();
        let mut possible: HashSet<(u64, usize, u64, Timestamp)> = HashSet::new();
        for (line, frame) in text.lines().zip(&ours.frames) {
            let oracle: Value = serde_json::from_str(line).expect("a line of JSON");
            let connection = frame.connection.0;
            if ours.late.contains(&connection) {
                continue;
            }
            let (windows, empty) = state.entry(connection).or_insert_with(|| {
                let windows = Windows { senders: [Sender::new(), Sender::new()], ending: HashSet::new() };
                (windows, Empty::default())
            });
            windows.apply(&oracle);
            expected.extend(empty.apply(&oracle, connection, windows, frame.time));
            possible.extend(empty.since.iter().map(|(of, since)| (connection, of.0, of.1, *since)));
        }
        let client = |stall: &Stall| {
            let of = ours.summaries.iter().find(|summary| summary.connection == stall.connection);
            of.and_then(|summary| summary.client_flow)
        };
        let seen: Vec<Lasted> = ours
            .stalls
            .iter()
            .map(|stall| {
                let sender = usize::from(client(stall) != Some(stall.flow));
                let id = if stall.window == Window::Connection { 0 } else { u64::from(stall.stream) };
                assert!(possible.contains(&(stall.connection.0, sender, id, stall.from)), "{stall:?}");
                (stall.connection.0, sender, id, stall.from, stall.until.expect("it is over"))
            })
            .collect();
        for stall in &expected {
            assert!(seen.contains(stall), "{}: {stall:?} in {seen:?}", recording.display());
        }
        for (seen, stall) in seen.iter().zip(&ours.stalls) {
            // Of those by the letter that nobody went on after, only the certain ones are said.
            assert!(expected.contains(seen) || stall.inside_message, "{}: {seen:?}", recording.display());
            assert!(stall.end != Some(StallEnd::Data), "a recording is in order");
            certain += usize::from(stall.inside_message);
        }
        of_letter += expected.len();
    }
    println!("{of_letter} stalls by the letter, {certain} certain");
    assert!(of_letter >= 500 && certain >= 300, "too few were compared");
}

#[test]
fn c4_no_stall_is_said_that_was_none_whatever_is_lost() {
    let Some(corpora) = corpora::corpora() else { return };
    let recording = corpora.join("live/grpcjs_mixed.pcap.gz");
    let key =
        |stall: &Stall| (stall.connection, stall.flow, stall.window, stall.stream, stall.from, stall.until);
    let whole: HashSet<_> = observe(&recording).stalls.iter().map(key).collect();
    let (mut said, mut unknown, mut unsaid) = (0, 0, 0);
    for seed in 1..=60u64 {
        // One chunk in 20, 40, … is lost: an xorshift generator, the same in each run.
        let (mut state, one_in) = (seed.wrapping_mul(0x9e37_79b9_7f4a_7c15), 20 * seed);
        let mut lost = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.is_multiple_of(one_in)
        };
        let damaged = observe_damaged(&recording, &mut lost);
        for stall in damaged.stalls.iter().filter(|stall| stall.inside_message) {
            match stall.end {
                Some(StallEnd::WindowUpdate | StallEnd::Settings) => {
                    assert!(whole.contains(&key(stall)), "seed {seed}: {stall:?}");
                    said += 1;
                }
                // What was lost after the last that was seen of a flow, nothing tells of.
                Some(StallEnd::Closed | StallEnd::ObservationEnded | StallEnd::Data) | None => unknown += 1,
            }
        }
        unsaid += whole.len().saturating_sub(damaged.stalls.len());
    }
    println!("{said} said of damaged recordings, {unknown} whose end was not seen, {unsaid} not said");
    assert!(said >= 1_000 && unsaid >= 1_000, "too little was tried");
}

#[test]
fn stalls_of_ordinary_traffic_are_counted_and_not_complained_of() {
    let Some(corpora) = corpora::corpora() else { return };
    for name in ["grpcio_mixed", "grpcjs_mixed", "grpcio_load20k"] {
        let ours = observe(&corpora.join(format!("live/{name}.pcap.gz")));
        println!("{name}: {} stalls, {:?}", ours.stalls.len(), ours.findings);
        assert_eq!(ours.findings, [], "{name}");
    }
}

#[test]
fn w9_the_first_windows_of_c_core_and_grpc_js_are_as_measured() {
    let Some(corpora) = corpora::corpora() else { return };
    let live = corpora.join("live");
    // C-core advertises 4 MiB for each stream, and grants as much on the connection.
    let c_core = observe(&live.join("grpcio_mixed.pcap.gz"));
    // A server's first frame may be empty SETTINGS; grpc-js leaves both windows as they are.
    let grpc_js = observe(&live.join("grpcjs_mixed.pcap.gz"));
    let initial = |ours: &Ours, from_client: bool| -> Option<u32> {
        let client = ours.summaries[0].client_flow;
        let of_peer = |frame: &&FrameSeen| (Some(frame.flow) == client) == from_client;
        let first = ours.frames.iter().filter(of_peer).find_map(|frame| frame.settings.clone());
        first?.into_iter().find(|(id, _)| *id == 4).map(|(_, value)| value)
    };
    let first_grant = |ours: &Ours| {
        ours.frames
            .iter()
            .find(|frame| frame.frame_type == 8 && frame.stream == 0)
            .and_then(|frame| frame.windows)
    };
    for from_client in [true, false] {
        assert_eq!(initial(&c_core, from_client), Some(4_194_304));
        assert!(matches!(initial(&grpc_js, from_client), None | Some(65_535)));
    }
    assert_eq!(first_grant(&c_core).and_then(|seen| seen.connection), Some(65_535 + 4_128_769));
    assert!(first_grant(&grpc_js).and_then(|seen| seen.connection).is_some_and(|window| window <= 65_535));
}
