//! Stalls of flow control as a connection's frames make them (checklist W7), to the nanosecond of the frames' times.

mod support;

use agent_core::observation::{Holder, Observation, RoundTrips, Stall, StallEnd, Window};
use agent_core::{Limits, Timestamp};
use proptest::prelude::*;
use support::*;

const INITIAL_WINDOW_SIZE: u16 = 4;
const SECOND: u64 = 1_000_000_000;

/// A streaming call on stream 1 whose server may send 100 octets.
fn small_window() -> Scenario {
    let mut scenario = Scenario::connected();
    open(&mut scenario, 1, "/a.B/Watch");
    scenario.send(CLIENT, &settings_with(&[(INITIAL_WINDOW_SIZE, 100)]));
    scenario.send(SERVER, &[settings_ack(), settings_ack()].concat());
    scenario
}

fn settings_ack() -> Vec<u8> {
    frame(0x4, 1, 0, &[])
}

fn open(scenario: &mut Scenario, stream: u32, method: &str) {
    scenario.send(CLIENT, &request(stream, method)).send(CLIENT, &data(stream, END_STREAM, &message(1)));
    scenario.send(SERVER, &response(stream));
}

/// The beginning of a message of 1,000 octets that fills `len` octets of DATA.
fn part(len: usize) -> Vec<u8> {
    message(1_000)[..len].to_vec()
}

fn stalls(scenario: &Scenario) -> Vec<Stall> {
    let stall = |fact: &Observation| match fact {
        Observation::Stalled(stall) => Some((**stall).clone()),
        _ => None,
    };
    scenario.seen.iter().filter_map(stall).collect()
}

fn only(scenario: &Scenario) -> Stall {
    let stalls = stalls(scenario);
    assert_eq!(stalls.len(), 1, "one stall: {stalls:#?}");
    stalls.into_iter().next().expect("one")
}

fn open_stalls(scenario: &Scenario) -> Vec<Stall> {
    let mut open = Vec::new();
    scenario.observer.visit_open_stalls(|stall| open.push(stall));
    open
}

/// Milliseconds from the scenario's start.
fn at(scenario: &Scenario) -> u64 {
    scenario.now.0 / 1_000_000
}

fn times(stall: &Stall) -> (u64, Option<u64>) {
    (stall.from.0 / 1_000_000, stall.until.map(|until| until.0 / 1_000_000))
}

#[test]
fn w7_a_stall_lasts_from_the_frame_that_used_the_window_up_to_the_one_that_opened_it() {
    let mut scenario = small_window();
    scenario.wait(10).send(SERVER, &data(1, 0, &part(60)));
    assert!(open_stalls(&scenario).is_empty(), "a window that is merely small");
    scenario.wait(10).send(SERVER, &data(1, 0, &part(40)));
    let from = at(&scenario);
    scenario.wait(500);
    let open = open_stalls(&scenario);
    assert_eq!((open.len(), times(&open[0])), (1, (from, None)));
    assert!(stalls(&scenario).is_empty(), "it is not over");
    scenario.wait(500).send(CLIENT, &window_update(1, 77));
    let stall = only(&scenario);
    assert_eq!(times(&stall), (from, Some(from + 1_000)));
    assert_eq!(stall.lasted_ns(Timestamp(0)), SECOND);
    assert_eq!((stall.flow, stall.window, stall.stream), (SERVER, Window::Stream, 1));
    assert_eq!(stall.method.as_deref(), Some("/a.B/Watch"));
    assert_eq!((stall.end, stall.inside_message), (Some(StallEnd::WindowUpdate), true));
    assert_eq!((stall.window_bytes, stall.credit_bytes), (Some(100), 77));
    assert_eq!((stall.holder, stall.siblings), (None, None));
    assert!(open_stalls(&scenario).is_empty());
    scenario.wait(10).send(SERVER, &data(1, 0, &part(10)));
    assert_eq!(stalls(&scenario).len(), 1, "one finding for one stall");
}

#[test]
fn w7_a_window_that_was_used_up_at_the_end_of_a_message_is_not_a_stall_for_certain() {
    let mut scenario = small_window();
    scenario.send(SERVER, &data(1, 0, &message(95)));
    assert!(open_stalls(&scenario).is_empty());
    scenario.wait(1_000).send(CLIENT, &window_update(1, 1_000)).wait(1_000);
    assert!(stalls(&scenario).is_empty(), "nothing says that there was more to send");
    let opened = at(&scenario) - 1_000;
    scenario.send(SERVER, &data(1, 0, &message(95)));
    let stall = only(&scenario);
    assert_eq!((times(&stall), stall.inside_message), ((opened - 1_000, Some(opened)), false));
    // The same without anything after it.
    let mut scenario = small_window();
    scenario.send(SERVER, &data(1, 0, &message(95))).wait(1_000).send(CLIENT, &window_update(1, 1_000));
    scenario.send(SERVER, &trailers(1, "0")).wait(1_000).finish();
    assert!(stalls(&scenario).is_empty());
}

#[test]
fn w7_a_stream_that_ends_exactly_with_its_window_is_no_stall() {
    for body in [message(95), part(100)] {
        let mut scenario = Scenario::connected();
        scenario.send(SERVER, &settings_with(&[(INITIAL_WINDOW_SIZE, 100)]));
        scenario.send(CLIENT, &request(1, "/a.B/C")).send(CLIENT, &data(1, END_STREAM, &body));
        assert!(open_stalls(&scenario).is_empty());
        scenario.wait(500).send(SERVER, &window_update(1, 100)).send(SERVER, &response(1));
        scenario.send(SERVER, &trailers(1, "0")).wait(1_000).finish();
        assert!(stalls(&scenario).is_empty());
    }
}

#[test]
fn w2_padding_uses_windows_up() {
    let mut scenario = small_window();
    let mut padded = vec![30];
    padded.extend(part(69));
    padded.extend([0; 30]);
    scenario.send(SERVER, &data(1, PADDED, &padded)).wait(5).send(CLIENT, &window_update(1, 1));
    assert_eq!(only(&scenario).lasted_ns(Timestamp(0)), 5_000_000);
}

#[test]
fn w7_a_stall_ends_with_its_stream_when_no_credit_comes() {
    for end in [rst_stream(1, 8), rst_stream(1, 0)] {
        let mut scenario = small_window();
        scenario.send(SERVER, &data(1, 0, &part(100)));
        let from = at(&scenario);
        scenario.wait(30).send(CLIENT, &end).wait(1_000).finish();
        let stall = only(&scenario);
        assert_eq!((stall.end, stall.credit_bytes), (Some(StallEnd::Closed), 0));
        assert_eq!(times(&stall), (from, Some(from + 30)));
    }
    // A server that gives up sends its trailers, which need no window.
    let mut scenario = small_window();
    scenario.send(SERVER, &data(1, 0, &part(100))).wait(30).send(SERVER, &trailers(1, "4"));
    assert_eq!(only(&scenario).end, Some(StallEnd::Closed));
    let mut scenario = small_window();
    scenario.send(SERVER, &data(1, 0, &part(100))).wait(30).close().finish();
    assert_eq!(
        (only(&scenario).end, only(&scenario).lasted_ns(Timestamp(0))),
        (Some(StallEnd::Closed), 30_000_000)
    );
    // Where only the observation ends, it lasts.
    let mut scenario = small_window();
    scenario.send(SERVER, &data(1, 0, &part(100))).wait(30).finish();
    assert_eq!(only(&scenario).end, Some(StallEnd::ObservationEnded));
    assert_eq!(only(&scenario).lasted_ns(Timestamp(0)), 30_000_000);
}

#[test]
fn w4_settings_that_take_a_window_below_zero_and_open_it_again() {
    let mut scenario = small_window();
    scenario.send(SERVER, &data(1, 0, &part(60)));
    scenario.send(CLIENT, &settings_with(&[(INITIAL_WINDOW_SIZE, 10)]));
    assert!(open_stalls(&scenario).is_empty(), "nobody knows yet that the sender waits");
    // Sent before the SETTINGS were read: the last of it is where the sender stops.
    scenario.wait(5).send(SERVER, &data(1, 0, &part(20))).wait(5).send(SERVER, &data(1, 0, &part(20)));
    let from = at(&scenario);
    scenario.wait(10).send(CLIENT, &window_update(1, 50));
    assert_eq!(open_stalls(&scenario).len(), 1, "still below zero");
    scenario.wait(10).send(CLIENT, &settings_with(&[(INITIAL_WINDOW_SIZE, 50)]));
    assert_eq!(open_stalls(&scenario).len(), 1, "exactly zero");
    scenario.wait(10).send(CLIENT, &settings_with(&[(INITIAL_WINDOW_SIZE, 90)]));
    let stall = only(&scenario);
    assert_eq!((times(&stall), stall.end), ((from, Some(from + 30)), Some(StallEnd::Settings)));
    assert_eq!((stall.window_bytes, stall.credit_bytes), (Some(90), 40));
}

#[test]
fn w7_settings_open_the_windows_of_all_streams_but_not_that_of_the_connection() {
    let mut scenario = small_window();
    open(&mut scenario, 3, "/a.B/Other");
    scenario.send(SERVER, &data(1, 0, &part(100))).wait(1).send(SERVER, &data(3, 0, &part(100)));
    scenario.wait(1).send(CLIENT, &settings_with(&[(INITIAL_WINDOW_SIZE, 10_000_000)]));
    let lasted: Vec<(u32, u64)> =
        stalls(&scenario).iter().map(|stall| (stall.stream, stall.lasted_ns(Timestamp(0)))).collect();
    assert_eq!(lasted, [(1, 2_000_000), (3, 1_000_000)]);
    use_up_connection(&mut scenario, 1, 200);
    scenario.wait(1).send(CLIENT, &settings_with(&[(INITIAL_WINDOW_SIZE, 20_000_000)]));
    assert_eq!(stalls(&scenario).len(), 2);
    assert_eq!(open_stalls(&scenario).len(), 1);
}

/// The rest of the connection's window, of which `used` octets are used, goes to a message on this stream.
fn use_up_connection(scenario: &mut Scenario, stream: u32, used: usize) {
    let mut rest = 65_535 - used;
    let mut body = message(1_000_000);
    while rest > 0 {
        let len = rest.min(16_384);
        let tail = body.split_off(len);
        scenario.send(SERVER, &data(stream, 0, &body));
        body = tail;
        rest -= len;
    }
}

#[test]
fn w7_one_stream_takes_the_window_of_the_connection_and_its_siblings_wait() {
    let mut scenario = Scenario::connected();
    scenario.send(CLIENT, &settings_with(&[(INITIAL_WINDOW_SIZE, 100_000)]));
    for (stream, method) in [(1, "/a.B/Slow"), (3, "/a.B/One"), (5, "/a.B/Two")] {
        open(&mut scenario, stream, method);
    }
    scenario.send(SERVER, &data(3, 0, &message(95)));
    use_up_connection(&mut scenario, 1, 100);
    let from = at(&scenario);
    scenario.wait(2_000);
    let holder = Holder { stream: 1, method: Some("/a.B/Slow".into()), bytes: 65_435 };
    let open = open_stalls(&scenario);
    assert_eq!(open.len(), 1);
    assert_eq!(
        (open[0].holder.as_ref(), open[0].siblings, open[0].window),
        (Some(&holder), Some(2), Window::Connection)
    );
    scenario.send(CLIENT, &window_update(0, 10)).send(CLIENT, &window_update(1, 10));
    let stall = only(&scenario);
    assert_eq!((times(&stall), stall.inside_message), ((from, Some(from + 2_000)), true));
    assert_eq!((stall.holder, stall.siblings), (Some(holder), Some(2)));
    assert_eq!((stall.window_bytes, stall.credit_bytes), (Some(65_535), 10));
}

#[test]
fn w7_credit_that_a_receiver_may_still_collect_does_not_make_a_stream_the_holder() {
    for (initial, is_told) in [(120_000, true), (140_000, false)] {
        let mut scenario = Scenario::connected();
        scenario.send(CLIENT, &settings_with(&[(INITIAL_WINDOW_SIZE, initial)]));
        open(&mut scenario, 1, "/a.B/C");
        open(&mut scenario, 3, "/a.B/C");
        use_up_connection(&mut scenario, 1, 0);
        scenario.wait(10).send(CLIENT, &window_update(0, 10));
        let stall = only(&scenario);
        assert_eq!((stall.holder.is_some(), stall.siblings), (is_told, Some(if is_told { 1 } else { 2 })));
    }
}

#[test]
fn w7_where_both_windows_are_empty_the_connection_is_only_to_blame_if_a_stream_could_go_on() {
    // Both are 65,535.
    let both = || {
        let mut scenario = Scenario::connected();
        open(&mut scenario, 1, "/a.B/C");
        use_up_connection(&mut scenario, 1, 0);
        scenario.wait(50);
        assert_eq!(
            open_stalls(&scenario).iter().map(|stall| stall.window).collect::<Vec<_>>(),
            [Window::Stream]
        );
        scenario
    };
    let mut scenario = both();
    scenario.send(CLIENT, &window_update(0, 100)).wait(50).send(CLIENT, &window_update(1, 100));
    scenario.send(SERVER, &data(1, 0, &[7; 10]));
    let seen: Vec<_> =
        stalls(&scenario).iter().map(|s| (s.window, s.lasted_ns(Timestamp(0)), s.inside_message)).collect();
    assert_eq!(seen, [(Window::Stream, 100_000_000, true), (Window::Connection, 50_000_000, false)]);
    // Here the stream could have gone on.
    let mut scenario = both();
    scenario.send(CLIENT, &window_update(1, 100)).wait(50).send(CLIENT, &window_update(0, 100));
    let seen: Vec<_> =
        stalls(&scenario).iter().map(|s| (s.window, s.lasted_ns(Timestamp(0)), s.inside_message)).collect();
    assert_eq!(seen, [(Window::Stream, 50_000_000, true), (Window::Connection, 100_000_000, true)]);
}

#[test]
fn w7_credit_that_is_seen_after_the_data_that_it_allowed_ends_the_stall_at_that_data() {
    let mut scenario = small_window();
    scenario.send(SERVER, &data(1, 0, &part(100)));
    let from = at(&scenario);
    scenario.wait(20).send(SERVER, &data(1, 0, &part(30)));
    assert!(open_stalls(&scenario).is_empty(), "it has gone on");
    scenario.wait(1).send(CLIENT, &window_update(1, 50));
    let stall = only(&scenario);
    assert_eq!((times(&stall), stall.end), ((from, Some(from + 20)), Some(StallEnd::Data)));
    // What is left is used up, by the count that is right again.
    scenario.send(SERVER, &data(1, 0, &part(20)));
    let again = at(&scenario);
    scenario.wait(7).send(CLIENT, &window_update(1, 50));
    assert_eq!(times(&stalls(&scenario)[1]), (again, Some(again + 7)));
    // The late credit was used up by the DATA that came before it.
    let mut scenario = small_window();
    scenario.send(SERVER, &data(1, 0, &part(100))).wait(20).send(SERVER, &data(1, 0, &part(30)));
    let second = at(&scenario);
    scenario.wait(1).send(CLIENT, &window_update(1, 30)).wait(9).send(CLIENT, &window_update(1, 1));
    assert_eq!(
        stalls(&scenario).iter().map(times).collect::<Vec<_>>(),
        [(second - 20, Some(second)), (second, Some(second + 10))]
    );
}

#[test]
fn w7_who_sends_without_credit_is_not_stalled() {
    let mut scenario = small_window();
    for _ in 0..10 {
        scenario.send(SERVER, &data(1, 0, &part(100))).wait(10);
    }
    scenario.send(CLIENT, &rst_stream(1, 3)).wait(1_000).finish();
    assert!(stalls(&scenario).is_empty());
}

#[test]
fn w8_a_late_join_says_nothing_of_stalls() {
    let mut scenario = Scenario::joined_late();
    scenario.send(CLIENT, &request(9, "/a.B/C")).send(SERVER, &response(9));
    use_up_connection(&mut scenario, 9, 0);
    use_up_connection(&mut scenario, 9, 0);
    assert!(open_stalls(&scenario).is_empty());
    scenario.wait(1_000).send(CLIENT, &window_update(9, 10)).send(CLIENT, &window_update(0, 10));
    scenario.send(SERVER, &data(9, 0, &[7; 10])).finish();
    assert!(stalls(&scenario).is_empty());
}

#[test]
fn w8_a_loss_during_a_stall_ends_the_claim_and_is_counted() {
    for flow in [CLIENT, SERVER] {
        let mut scenario = small_window();
        scenario.send(SERVER, &data(1, 0, &part(100))).wait(1_000);
        scenario.lose(flow, 30).send_at_boundary(flow, &window_update(99, 1));
        assert!(open_stalls(&scenario).is_empty());
        scenario
            .send_at_boundary(CLIENT, &window_update(1, 100))
            .send_at_boundary(SERVER, &data(1, 0, &part(10)));
        scenario.finish();
        assert!(stalls(&scenario).is_empty());
        let lost = scenario.anomalies().iter().filter(|kind| **kind == "stall_end_unknown").count();
        assert_eq!(lost, 1);
    }
    // SETTINGS of which a part is missing may have opened it.
    let mut scenario = small_window();
    scenario.send(SERVER, &data(1, 0, &part(100))).wait(1_000);
    let settings = settings_with(&[(INITIAL_WINDOW_SIZE, 500)]);
    scenario.send(CLIENT, &settings[..11]).lose(CLIENT, 4).send(CLIENT, &frame(0x6, 0, 0, b"12345678"));
    assert!(open_stalls(&scenario).is_empty());
    assert!(scenario.anomalies().contains(&"stall_end_unknown"));
}

#[test]
fn c4_a_hole_inside_data_leaves_the_end_of_a_window_exact_and_only_doubts_what_was_in_it() {
    let mut scenario = small_window();
    let bytes = data(1, 0, &part(100));
    // The message's own prefix is in the hole: whether the sender was inside a message is not known.
    scenario.send(SERVER, &bytes[..10]).lose(SERVER, 50).send(SERVER, &bytes[60..]);
    scenario.wait(9).send(CLIENT, &window_update(1, 100)).send(SERVER, &data(1, 0, &part(10)));
    assert_eq!((only(&scenario).lasted_ns(Timestamp(0)), only(&scenario).inside_message), (9_000_000, false));
    let mut scenario = small_window();
    scenario.send(SERVER, &bytes[..20]).lose(SERVER, 50).send(SERVER, &bytes[70..]);
    scenario.wait(9).send(CLIENT, &window_update(1, 100));
    assert_eq!((only(&scenario).lasted_ns(Timestamp(0)), only(&scenario).inside_message), (9_000_000, true));
}

#[test]
fn w7_a_body_that_is_not_grpc_has_no_messages_to_be_inside_of() {
    let mut scenario = Scenario::connected();
    let fields = [(":method", "GET"), (":scheme", "http"), (":path", "/"), ("content-type", "text/html")];
    scenario
        .send(CLIENT, &headers(1, END_STREAM, &fields))
        .send(CLIENT, &settings_with(&[(INITIAL_WINDOW_SIZE, 100)]));
    scenario.send(SERVER, &headers(1, 0, &[(":status", "200")])).send(SERVER, &data(1, 0, &part(100)));
    assert!(open_stalls(&scenario).is_empty());
    scenario.wait(50).send(CLIENT, &window_update(1, 100)).send(SERVER, &data(1, 0, &part(1)));
    assert!(!only(&scenario).inside_message);
}

#[test]
fn round_trips_are_told_by_who_asked() {
    let mut scenario = Scenario::new();
    let mut hello = PREFACE.to_vec();
    hello.extend(settings_with(&[(INITIAL_WINDOW_SIZE, 100)]));
    let ack = settings_ack();
    scenario
        .send(CLIENT, &hello)
        .wait(30)
        .send(SERVER, &settings())
        .wait(10)
        .send(SERVER, &ack)
        .send(CLIENT, &ack);
    scenario
        .send(CLIENT, &frame(0x6, 0, 0, b"whatever"))
        .wait(25)
        .send(SERVER, &frame(0x6, 1, 0, b"whatever"));
    open(&mut scenario, 1, "/a.B/C");
    let stall = |scenario: &mut Scenario, ms| {
        scenario.send(SERVER, &data(1, 0, &part(100))).wait(ms).send(CLIENT, &window_update(1, 100));
        stalls(scenario).last().expect("one").round_trips
    };
    let of = |of_credit_ns| RoundTrips {
        of_sent_ns: Some(25_000_000),
        of_received_ns: Some(10_000_000),
        of_credit_ns,
    };
    assert_eq!(stall(&mut scenario, 80), of(None), "its own credit tells nothing about itself");
    assert_eq!(stall(&mut scenario, 60), of(Some(80_000_000)));
    assert_eq!(stall(&mut scenario, 90), of(Some(60_000_000)));
}

#[test]
fn round_trips_of_settings_are_not_claimed_where_one_may_have_been_missed() {
    let mut scenario = Scenario::joined_late();
    let ack = settings_ack();
    // The acknowledgement is that of SETTINGS from before the join.
    scenario.send(CLIENT, &settings_with(&[(INITIAL_WINDOW_SIZE, 100)])).send(SERVER, &ack);
    scenario
        .send(CLIENT, &request(9, "/a.B/C"))
        .send(SERVER, &response(9))
        .send(SERVER, &data(9, 0, &part(100)));
    scenario
        .send(CLIENT, &request(11, "/a.B/C"))
        .send(SERVER, &response(11))
        .send(SERVER, &data(11, 0, &part(100)));
    scenario.wait(10).send(CLIENT, &window_update(11, 1));
    assert_eq!(only(&scenario).round_trips, RoundTrips::default());
}

#[test]
fn stalls_have_a_bound_and_are_counted_above_it() {
    let mut scenario = Scenario::with_limits(Limits { stalls_per_connection: 2, ..Limits::default() });
    let mut hello = PREFACE.to_vec();
    hello.extend(settings_with(&[(INITIAL_WINDOW_SIZE, 100)]));
    scenario.send(CLIENT, &hello).send(SERVER, &settings());
    for stream in [1, 3, 5, 7] {
        open(&mut scenario, stream, "/a.B/C");
        scenario.send(SERVER, &data(stream, 0, &part(100)));
    }
    assert_eq!((open_stalls(&scenario).len(), scenario.anomalies()), (2, vec!["stalls_limit"; 2]));
    scenario.wait(1);
    for stream in [7, 5, 3, 1] {
        scenario.send(CLIENT, &window_update(stream, 100));
    }
    assert_eq!(stalls(&scenario).len(), 2);
}

/// What happens next: DATA of a server that keeps to its windows, or credit, and how long it takes.
#[derive(Clone, Debug)]
enum Step {
    Data { stream: u32, most: usize },
    Grant { stream: u32, bytes: u32 },
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let stream = || prop_oneof![Just(1u32), Just(3)];
    prop_oneof![
        3 => (stream(), 1..300usize).prop_map(|(stream, most)| Step::Data { stream, most }),
        2 => (prop_oneof![Just(0u32), Just(1), Just(3)], 1..300u32).prop_map(|(stream, bytes)| Step::Grant { stream, bytes }),
        1 => (1..50u64).prop_map(Step::Wait),
    ]
}

/// Runs the steps, with the bytes cut after the numbers of bytes in `cuts` by turns. The server sends what the windows let it,
/// of messages that are longer than all of them. Also what the stalls of streams are by the letter: (stream, from, until).
fn run(steps: &[Step], cuts: &[usize]) -> (Vec<Stall>, Vec<(u32, u64, u64)>) {
    let mut scenario = Scenario::connected();
    scenario.send(CLIENT, &settings_with(&[(INITIAL_WINDOW_SIZE, 200)]));
    for stream in [1, 3] {
        open(&mut scenario, stream, "/a.B/C");
    }
    let mut cuts = cuts.iter().copied().cycle();
    let mut send = |scenario: &mut Scenario, flow, bytes: Vec<u8>| {
        let mut bytes = bytes.as_slice();
        while !bytes.is_empty() {
            let (part, rest) = bytes.split_at(cuts.next().unwrap_or(usize::MAX).min(bytes.len()));
            scenario.send(flow, part);
            bytes = rest;
        }
    };
    let (mut left, mut sent, mut empty_since) = ([200usize; 2], [0usize; 2], [None; 2]);
    let mut expected = Vec::new();
    let whole = message(1_000_000);
    for step in steps {
        match *step {
            Step::Data { stream, most } => {
                let of = usize::from(stream == 3);
                let len = most.min(left[of]);
                if len > 0 {
                    send(&mut scenario, SERVER, data(stream, 0, &whole[sent[of]..sent[of] + len]));
                    sent[of] += len;
                    left[of] -= len;
                    if left[of] == 0 {
                        empty_since[of] = Some(scenario.now.0);
                    }
                }
            }
            Step::Grant { stream, bytes } => {
                send(&mut scenario, CLIENT, window_update(stream, bytes));
                if stream > 0 {
                    let of = usize::from(stream == 3);
                    left[of] += bytes as usize;
                    if let Some(from) = empty_since[of].take() {
                        expected.push((stream, from, scenario.now.0));
                    }
                }
            }
            Step::Wait(ms) => _ = scenario.wait(ms),
        }
    }
    (stalls(&scenario), expected)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn w7_however_bytes_are_cut_the_stalls_are_the_same_and_those_of_the_letter(
        steps in prop::collection::vec(step(), 1..60), cuts in prop::collection::vec(1..40usize, 1..20)
    ) {
        let (whole, expected) = run(&steps, &[usize::MAX]);
        let (cut, _) = run(&steps, &cuts);
        prop_assert_eq!(&cut, &whole);
        let seen: Vec<_> = whole.iter().map(|stall| (stall.stream, stall.from.0, stall.until.map_or(0, |until| until.0))).collect();
        prop_assert_eq!(seen, expected);
        prop_assert!(whole.iter().all(|stall| stall.window == Window::Stream && stall.inside_message));
    }
}
