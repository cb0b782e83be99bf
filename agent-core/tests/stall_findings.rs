//! What is said of stalls: which are told, why they were, and of whom.

mod support;

use std::sync::Arc;

use agent_core::ConnectionId;
use agent_core::detectors::flow_control::Cause;
use agent_core::detectors::{
    Claim, Detectors, Finding, Name, Owner, Party, ProcessId, Thresholds, Value, Verdict,
};
use agent_core::observation::{Side, Window};
use support::*;

const INITIAL_WINDOW_SIZE: u16 = 4;
const ROUND_TRIP_MS: u64 = 40;

/// A server process, whose flow is the received one of its client's socket in these scenarios, or the client itself.
struct Watching {
    scenario: Scenario,
    detectors: Detectors,
    fed: usize,
    findings: Vec<Finding>,
}

impl Watching {
    /// The two ends have exchanged SETTINGS, which the observed one of them knows to take `ROUND_TRIP_MS`. Streams may carry
    /// `window` octets of the server.
    fn new(window: u32) -> Watching {
        let mut watching = Watching::unconnected(true);
        let mut hello = PREFACE.to_vec();
        hello.extend(settings_with(&[(INITIAL_WINDOW_SIZE, window)]));
        watching.scenario.send(CLIENT, &hello).send(SERVER, &settings());
        watching
            .scenario
            .send(CLIENT, &frame(0x4, 1, 0, &[]))
            .wait(ROUND_TRIP_MS)
            .send(SERVER, &frame(0x4, 1, 0, &[]));
        watching
    }

    fn unconnected(live: bool) -> Watching {
        let owner = Arc::new(Owner { process: ProcessId(1), workload: "shop".into() });
        let mut detectors = Detectors::new(Thresholds::default());
        let party = Party { owner: live.then_some(owner), ends: None };
        detectors.handle_connection(ConnectionId(1), party);
        Watching { scenario: Scenario::new(), detectors, fed: 0, findings: Vec::new() }
    }

    fn open(&mut self, stream: u32, method: &str) -> &mut Watching {
        self.scenario.send(CLIENT, &request(stream, method));
        self.scenario.send(SERVER, &response(stream));
        self
    }

    fn send(&mut self, flow: agent_core::Flow, bytes: &[u8]) -> &mut Watching {
        self.scenario.send(flow, bytes);
        self.feed()
    }

    fn wait(&mut self, ms: u64) -> &mut Watching {
        for _ in 0..ms / 100 {
            self.scenario.wait(100);
            self.feed();
        }
        self.scenario.wait(ms % 100);
        self.feed()
    }

    fn feed(&mut self) -> &mut Watching {
        for observation in &self.scenario.seen[self.fed..] {
            self.detectors.handle_observation(observation);
        }
        self.fed = self.scenario.seen.len();
        if self.detectors.poll_timeout().is_some_and(|due| due <= self.scenario.now) {
            self.detectors.handle_timeout(&self.scenario.observer, self.scenario.now);
        }
        while let Some(finding) = self.detectors.poll_finding() {
            if finding.name() == Name::FlowControlStall {
                self.findings.push(finding);
            }
        }
        self
    }

    /// The client sends `octets` of a long message; the server's credit comes after `ms`.
    fn upload(&mut self, stream: u32, octets: usize, ms: u64) -> &mut Watching {
        self.send(CLIENT, &data(stream, 0, &vec![0; octets]));
        self.wait(ms).send(SERVER, &window_update(stream, octets as u32))
    }

    fn only(&self) -> (&Finding, &agent_core::detectors::flow_control::Claim) {
        assert_eq!(self.findings.len(), 1, "one finding: {:#?}", self.findings);
        claim(&self.findings[0])
    }
}

fn claim(finding: &Finding) -> (&Finding, &agent_core::detectors::flow_control::Claim) {
    match &finding.claim {
        Claim::FlowControl(claim) => (finding, claim),
        other => panic!("not of flow control: {other:?}"),
    }
}

/// A client that is observed, and may send 1,000 octets on stream 1: it has begun a long message.
fn uploading() -> Watching {
    let mut watching = Watching::new(65_535);
    watching.scenario.send(SERVER, &settings_with(&[(INITIAL_WINDOW_SIZE, 1_000)]));
    watching.scenario.send(CLIENT, &frame(0x4, 1, 0, &[]));
    watching.open(1, "/shop.Upload/Put");
    let mut begin = vec![0, 0x7f, 0xff, 0xff, 0xff];
    begin.resize(1_000, 0);
    watching.send(CLIENT, &data(1, 0, &begin)).wait(1).send(SERVER, &window_update(1, 1_000));
    watching.wait(5_000);
    assert!(watching.findings.is_empty());
    watching
}

#[test]
fn a_receiver_that_does_not_read_is_told_with_the_time_that_it_took() {
    let mut watching = uploading();
    watching.upload(1, 1_000, 2_000);
    let (finding, claim) = watching.only();
    assert_eq!(
        (finding.verdict, claim.cause, claim.window),
        (Verdict::Firing, Cause::SlowReceiver, Window::Stream)
    );
    assert_eq!((claim.withheld_by, claim.stalled_ns, claim.lasts), (Side::Server, 2_000_000_000, false));
    assert_eq!(claim.round_trip_ns, Some(ROUND_TRIP_MS * 1_000_000));
    assert_eq!((finding.about.stream, finding.about.side), (Some(1), Some(Side::Client)));
    assert_eq!(finding.about.method.as_deref(), Some("/shop.Upload/Put"));
    assert_eq!(
        finding.claim.claims().to_string(),
        "had an empty stream window for 2.000 s: the server does not read"
    );
    let mut stalled = None;
    finding.claim.claims().evidence(&mut |name, value| {
        if name == "stalled_seconds" {
            stalled = Some(value);
        }
    });
    assert_eq!(stalled, Some(Value::Ns(2_000_000_000)));
}

#[test]
fn a_short_stall_is_that_of_any_transfer() {
    let mut watching = uploading();
    // As often as one likes, as long as there is time in between.
    for _ in 0..50 {
        watching.upload(1, 1_000, 249).wait(2_500);
    }
    // And without, if it is as short as it is on a machine.
    for _ in 0..500 {
        watching.upload(1, 1_000, 3);
    }
    assert!(watching.findings.is_empty(), "{:#?}", watching.findings);
    let mut watching = uploading();
    watching.upload(1, 1_000, 249).wait(60_000);
    assert!(watching.findings.is_empty());
}

#[test]
fn a_receiver_that_reads_slowly_all_the_time_is_told_once_a_minute() {
    let mut watching = uploading();
    for _ in 0..4 {
        watching.upload(1, 1_000, 200).wait(100);
    }
    assert!(watching.findings.is_empty(), "not yet a row");
    for _ in 0..100 {
        watching.upload(1, 1_000, 200).wait(100);
    }
    let (finding, claim) = watching.only();
    assert_eq!((claim.cause, claim.stalls, claim.stalled_ns), (Cause::SlowReceiver, 5, 1_000_000_000));
    assert_eq!(claim.over_ns, 1_400_000_000);
    assert!(finding.claim.claims().to_string().contains("5 times in 1.400 s, 1.000 s of it"));
    for _ in 0..110 {
        watching.upload(1, 1_000, 200).wait(100);
    }
    assert_eq!(watching.findings.len(), 2);
}

#[test]
fn a_window_that_is_too_small_for_the_delay_is_told_from_a_receiver_that_is_slow() {
    let mut watching = uploading();
    for _ in 0..5 {
        watching.upload(1, 1_000, ROUND_TRIP_MS + 5).wait(1);
    }
    assert!(watching.findings.is_empty(), "every transfer begins like that");
    for _ in 0..200 {
        watching.upload(1, 1_000, ROUND_TRIP_MS + 5).wait(1);
    }
    let (finding, claim) = watching.only();
    assert_eq!((finding.verdict, claim.cause, claim.stalls), (Verdict::Firing, Cause::SmallWindow, 6));
    assert_eq!((claim.window_bytes, claim.stalled_ns), (Some(1_000), 6 * (ROUND_TRIP_MS + 5) * 1_000_000));
    assert!(
        finding
            .claim
            .claims()
            .to_string()
            .ends_with(": 1000 octets are too few for a round trip of 40.000 ms"),
        "{}",
        finding.claim.claims()
    );
}

#[test]
fn a_round_trip_of_a_busy_moment_does_not_make_every_short_stall_one_of_the_delay() {
    // As in the recording of grpc-js: the SETTINGS of both ends were acknowledged late, and never again was anything slow.
    let mut watching = uploading();
    for _ in 0..1_000 {
        watching.upload(1, 1_000, ROUND_TRIP_MS / 4 - 1);
    }
    assert!(watching.findings.is_empty());
}

#[test]
fn windows_that_grow_with_the_delay_are_not_too_small() {
    let mut watching = uploading();
    let mut window = 1_000;
    // Two stalls of each size, then twice as much: grpc-go's way.
    for _ in 0..5 {
        for _ in 0..2 {
            watching.upload(1, window, ROUND_TRIP_MS).wait(1);
        }
        window *= 2;
        watching.send(SERVER, &settings_with(&[(INITIAL_WINDOW_SIZE, window as u32)]));
        watching.send(CLIENT, &frame(0x4, 1, 0, &[]));
    }
    assert!(watching.findings.is_empty(), "{:#?}", watching.findings);
}

#[test]
fn between_prompt_and_withheld_the_stall_is_told_and_its_cause_is_not() {
    let mut watching = Watching::unconnected(true);
    let mut hello = PREFACE.to_vec();
    hello.extend(settings());
    let ack = frame(0x4, 1, 0, &[]);
    watching.scenario.send(CLIENT, &hello).wait(100);
    watching.scenario.send(SERVER, &settings_with(&[(INITIAL_WINDOW_SIZE, 1_000)])).send(SERVER, &ack);
    watching.scenario.send(CLIENT, &ack);
    watching.open(1, "/a.B/C");
    let mut begin = vec![0, 0x7f, 0xff, 0xff, 0xff];
    begin.resize(1_000, 0);
    watching.send(CLIENT, &data(1, 0, &begin)).wait(300).send(SERVER, &window_update(1, 1_000));
    let (finding, claim) = watching.only();
    assert_eq!((finding.verdict, claim.cause), (Verdict::Firing, Cause::Undecided));
}

#[test]
fn a_stream_that_holds_the_connections_window_is_named() {
    let mut watching = Watching::new(100_000);
    watching.open(1, "/shop.Feed/Slow").open(3, "/shop.Feed/One").open(5, "/shop.Feed/Two");
    let mut body = vec![0, 0x7f, 0xff, 0xff, 0xff];
    body.resize(65_535 - 100, 0);
    watching.send(SERVER, &data(3, 0, &message(95)));
    for part in body.chunks(16_384) {
        watching.send(SERVER, &data(1, 0, part));
    }
    watching.wait(3_000).send(CLIENT, &window_update(0, 60_000));
    let (finding, claim) = watching.only();
    assert_eq!(
        (claim.window, claim.cause, claim.withheld_by),
        (Window::Connection, Cause::SlowReceiver, Side::Client)
    );
    assert_eq!((claim.holder_bytes, claim.siblings), (Some(65_435), Some(2)));
    assert_eq!((finding.about.stream, finding.about.method.as_deref()), (Some(1), Some("/shop.Feed/Slow")));
    let sentence = finding.claim.claims().to_string();
    assert!(sentence.ends_with("; this stream holds 65435 octets of it, and 2 others wait"), "{sentence}");
}

#[test]
fn a_stall_that_lasts_is_told_before_it_is_over_and_once_a_minute() {
    let mut watching = uploading();
    watching.send(CLIENT, &data(1, 0, &[0; 1_000])).wait(9_000);
    assert!(watching.findings.is_empty());
    watching.wait(3_000);
    let (finding, claim) = watching.only();
    assert!(claim.lasts && claim.stalled_ns >= 10_000_000_000 && claim.cause == Cause::SlowReceiver);
    assert!(finding.claim.claims().to_string().starts_with("has had an empty stream window for 1"));
    watching.wait(50_000);
    assert_eq!(watching.findings.len(), 1);
    watching.wait(20_000);
    assert_eq!(watching.findings.len(), 2);
    // It was told already.
    watching.send(SERVER, &window_update(1, 1_000)).wait(10_000);
    assert_eq!(watching.findings.len(), 2);
    // What follows is another one.
    watching.upload(1, 1_000, 400);
    assert_eq!(watching.findings.len(), 3);
}

#[test]
fn a_long_wait_at_the_end_of_a_message_is_left_undecided() {
    let mut watching = Watching::new(1_000);
    watching.open(1, "/a.B/C").send(SERVER, &data(1, 0, &message(995))).wait(15_000);
    assert!(watching.findings.is_empty());
    watching.send(CLIENT, &window_update(1, 1_000)).wait(10).send(SERVER, &data(1, 0, &message(100)));
    assert_eq!(watching.only().0.verdict, Verdict::Undecided);
}

#[test]
fn what_a_receivers_own_socket_shows_needs_no_round_trip_to_be_slow() {
    // The observed client has not got its SETTINGS acknowledged; the server has, at once.
    let mut watching = Watching::unconnected(true);
    let mut hello = PREFACE.to_vec();
    hello.extend(settings_with(&[(INITIAL_WINDOW_SIZE, 1_000)]));
    watching.scenario.send(CLIENT, &hello).send(SERVER, &settings()).send(CLIENT, &frame(0x4, 1, 0, &[]));
    watching.open(1, "/a.B/C");
    watching
        .send(SERVER, &data(1, 0, &message(10_000)[..1_000]))
        .wait(300)
        .send(CLIENT, &window_update(1, 1_000));
    let (_, claim) = watching.only();
    assert_eq!(
        (claim.cause, claim.withheld_by, claim.round_trip_ns),
        (Cause::SlowReceiver, Side::Client, None)
    );
}

#[test]
fn in_a_recording_the_round_trip_is_that_of_both_directions_together() {
    for (answer_ms, cause) in [(50, Cause::SlowReceiver), (100, Cause::Undecided)] {
        let mut watching = Watching::unconnected(false);
        let mut hello = PREFACE.to_vec();
        hello.extend(settings_with(&[(INITIAL_WINDOW_SIZE, 1_000)]));
        let ack = frame(0x4, 1, 0, &[]);
        watching.scenario.send(CLIENT, &hello).send(SERVER, &settings()).wait(20);
        watching.scenario.send(SERVER, &ack).wait(answer_ms - 20).send(CLIENT, &ack);
        watching.open(1, "/a.B/C");
        // 20 ms one way and what is left the other way.
        watching
            .send(SERVER, &data(1, 0, &message(10_000)[..1_000]))
            .wait(290)
            .send(CLIENT, &window_update(1, 1_000));
        let (_, claim) = watching.only();
        assert_eq!((claim.cause, claim.round_trip_ns), (cause, Some((20 + answer_ms) * 1_000_000)));
    }
}

#[test]
fn a_connection_that_was_joined_late_is_silent() {
    let mut watching = Watching::unconnected(true);
    watching.scenario.offsets = [1 << 32, 1 << 32];
    watching.open(9, "/a.B/C");
    watching.send(SERVER, &data(9, 0, &message(100_000)[..65_535])).wait(20_000);
    watching.send(CLIENT, &window_update(9, 10)).send(CLIENT, &window_update(0, 10));
    watching.send(SERVER, &data(9, 0, &[0])).wait(20_000);
    assert!(watching.findings.is_empty());
}

#[test]
fn a_hole_during_a_stall_leaves_nothing_to_be_told() {
    let mut watching = uploading();
    watching.send(CLIENT, &data(1, 0, &[0; 1_000])).wait(5_000);
    watching.scenario.lose(SERVER, 40).send_at_boundary(SERVER, &window_update(1, 1_000));
    watching.feed().wait(60_000);
    watching.scenario.send_at_boundary(CLIENT, &data(1, 0, &[0; 1_000])).wait(10_000);
    watching.feed();
    assert!(watching.findings.is_empty());
    assert!(watching.scenario.anomalies().contains(&"stall_end_unknown"));
}

#[test]
fn padding_and_the_end_of_a_stream_do_not_make_a_finding() {
    let mut watching = uploading();
    let mut padded = vec![100];
    padded.resize(1_000, 0);
    watching.send(CLIENT, &data(1, PADDED | END_STREAM, &padded)).wait(20_000);
    watching.send(SERVER, &window_update(1, 1_000)).send(SERVER, &trailers(1, "0")).wait(1_000);
    assert!(watching.findings.is_empty());
}
