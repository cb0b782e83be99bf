//! How connections end, and what lives on them for long (checklist D2, D3, D7, L, M).

mod support;

use agent_core::Observation;
use agent_core::observation::{
    EndedBy, Goaway, GoawayReason, Outcome, PingAnswered, PingKind, StatusSource, Timeout,
};
use support::*;

const METHOD: &str = "/shop.Orders/Get";
const HOUR_MS: u64 = 3_600_000;

fn goaways(scenario: &Scenario) -> Vec<Goaway> {
    let goaway = |fact: &Observation| match fact {
        Observation::Goaway(goaway) => Some(*goaway),
        _ => None,
    };
    scenario.seen.iter().filter_map(goaway).collect()
}

fn pings(scenario: &Scenario) -> Vec<PingAnswered> {
    let ping = |fact: &Observation| match fact {
        Observation::PingAnswered(ping) => Some(*ping),
        _ => None,
    };
    scenario.seen.iter().filter_map(ping).collect()
}

/// PINGs without an answer: their kind, and for how long.
fn unanswered(scenario: &Scenario) -> Vec<(PingKind, u64)> {
    let ping = |fact: &Observation| match fact {
        Observation::PingUnanswered(ping) => Some((ping.kind, ping.time.since(ping.sent) / 1_000_000)),
        _ => None,
    };
    scenario.seen.iter().filter_map(ping).collect()
}

fn ping(payload: [u8; 8]) -> Vec<u8> {
    frame(0x6, 0, 0, &payload)
}

fn ack(payload: [u8; 8]) -> Vec<u8> {
    frame(0x6, 0x1, 0, &payload)
}

/// What grpc-go sends to estimate the bandwidth-delay product.
const PROBE: [u8; 8] = [2, 4, 16, 16, 9, 14, 7, 7];
/// What grpc-go sends before it closes a connection in good order.
const DRAIN: [u8; 8] = [1, 6, 1, 8, 0, 3, 3, 9];

#[test]
fn d2_the_same_deadline_of_different_encoders_is_judged_the_same() {
    // 50 ms as C-core, grpc-go, grpc-js and tonic send it; the client gives up after 50 to 52 ms.
    for timeout in ["51m", "49999u", "49999123n", "49m", "50m", "50000000n"] {
        let mut scenario = Scenario::connected();
        scenario.send(CLIENT, &request_with(1, METHOD, &[("grpc-timeout", timeout)]));
        scenario.wait(51).send(CLIENT, &rst_stream(1, 8));
        assert_eq!(scenario.only_call().outcome, Outcome::Deadline, "{timeout}");
    }
}

#[test]
fn d3_a_deadline_counts_from_the_request_as_it_was_captured() {
    for (wait_ms, left_ns) in [(10, 40_000_000), (60, -10_000_000)] {
        let mut scenario = Scenario::connected();
        scenario.wait(500).send(CLIENT, &request_with(1, METHOD, &[("grpc-timeout", "50m")]));
        let sent = scenario.now;
        scenario.wait(wait_ms).send(SERVER, &trailers_only(1, "0")).wait(1_000);
        let call = scenario.only_call();
        assert_eq!(call.started, Some(sent), "what was before the request does not count");
        let Timeout::Ns(timeout) = call.timeout else { panic!("a timeout") };
        let used = call.ended.expect("it ended").since(sent);
        assert_eq!(i64::try_from(timeout).expect("small") - i64::try_from(used).expect("small"), left_ns);
    }
}

#[test]
fn d7_calls_that_are_silent_for_long_are_not_dropped() {
    let mut scenario = Scenario::connected();
    // Without a deadline; with one that does not fit into 64 bits; half-closed by the client; by the server.
    scenario.send(CLIENT, &request(1, METHOD));
    scenario.send(CLIENT, &request_with(3, METHOD, &[("grpc-timeout", "99999999H")]));
    scenario.send(CLIENT, &request(5, METHOD)).send(CLIENT, &data(5, END_STREAM, &message(1)));
    scenario
        .send(CLIENT, &request(7, METHOD))
        .send(SERVER, &response(7))
        .send(SERVER, &data(7, 0, &message(1)));
    for _ in 0..20 {
        scenario.wait(HOUR_MS);
    }
    assert!(scenario.calls().is_empty(), "{:#?}", scenario.calls());
    for stream in [1, 3, 5, 7] {
        scenario.send(CLIENT, &data(stream, END_STREAM, &[])).send(SERVER, &trailers(stream, "0"));
    }
    scenario.wait(1_000);
    let calls = scenario.calls();
    assert_eq!(calls.len(), 4);
    for call in calls {
        assert_eq!(call.outcome, Outcome::Ok, "stream {}", call.stream);
        assert_eq!(
            call.ended.expect("it ended").since(call.started.expect("seen")),
            20 * HOUR_MS * 1_000_000
        );
    }
}

#[test]
fn l1_a_notice_refuses_nothing_and_ids_must_not_grow() {
    let mut scenario = Scenario::connected();
    scenario.send(CLIENT, &request(1, METHOD)).send(SERVER, &goaway(0x7fff_ffff, 0));
    // Streams that the client opened before it saw the notice are processed.
    scenario.send(CLIENT, &request(3, METHOD)).send(SERVER, &goaway(3, 0)).send(CLIENT, &request(5, METHOD));
    let call = scenario.only_call();
    assert_eq!((call.stream, call.outcome, call.status), (5, Outcome::Refused, Some(14)));
    scenario.send(SERVER, &goaway(9, 0));
    assert_eq!(scenario.anomalies(), ["goaway_stream_grew"]);
    for stream in [1, 3] {
        scenario.send(CLIENT, &data(stream, END_STREAM, &[])).send(SERVER, &trailers_only(stream, "0"));
    }
    assert!(scenario.calls()[1..].iter().all(|call| call.outcome == Outcome::Ok));
    let reasons: Vec<GoawayReason> = goaways(&scenario).iter().map(|goaway| goaway.reason).collect();
    assert_eq!(reasons, [GoawayReason::GracefulNotice, GoawayReason::Graceful, GoawayReason::Graceful]);
}

#[test]
fn l2_debug_data_is_bytes_and_is_not_kept() {
    let mut scenario = Scenario::connected();
    let mut payload = vec![0, 0, 0, 9, 0, 0, 0, 2];
    payload.extend(b"\x1b[2Jsecret");
    scenario.send(SERVER, &frame(0x7, 0, 0, &payload)).send(CLIENT, &goaway(0, 0));
    let seen = goaways(&scenario);
    assert_eq!((seen[0].last_stream, seen[0].code, seen[0].reason), (9, 2, GoawayReason::Error));
    assert_eq!((seen[0].flow, seen[1].flow), (SERVER, CLIENT));
    assert!(!format!("{:?}", scenario.seen).contains("secret"));
}

#[test]
fn l3_too_many_pings_is_told_from_other_errors() {
    let mut scenario = Scenario::connected();
    let mut payload = vec![0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 11];
    payload.extend(b"too_many_pings");
    scenario.send(CLIENT, &request(1, METHOD)).send(SERVER, &frame(0x7, 0, 0, &payload));
    assert_eq!(goaways(&scenario)[0].reason, GoawayReason::TooManyPings);
    assert!(scenario.calls().is_empty(), "the stream goes on until the connection ends");
}

#[test]
fn l4_round_trips_are_those_of_the_payload_that_comes_back() {
    let mut scenario = Scenario::connected();
    scenario.send(SERVER, &ping(PROBE)).wait(2).send(CLIENT, &ping([9; 8])).send(CLIENT, &ping(DRAIN));
    scenario.wait(3).send(CLIENT, &ack(PROBE)).send(SERVER, &ack([9; 8])).send(SERVER, &ack(DRAIN));
    // An answer to nothing, and one to what was answered already.
    scenario.send(SERVER, &ack([8; 8])).send(SERVER, &ack([9; 8]));
    let seen: Vec<_> =
        pings(&scenario).iter().map(|ping| (ping.flow, ping.kind, ping.round_trip_ns)).collect();
    let expected = [
        (SERVER, PingKind::Bandwidth, 5_000_000),
        (CLIENT, PingKind::Other, 3_000_000),
        (CLIENT, PingKind::Drain, 3_000_000),
    ];
    assert_eq!(seen, expected);
    assert_eq!(PingKind::of([0, 0, 0, 0, 0, 0, 0x04, 0xd2]), PingKind::Bandwidth, "grpc-java: 1234");
    assert_eq!(PingKind::of(0x9_7ace_f001_u64.to_be_bytes()), PingKind::Drain, "grpc-java");
    assert_eq!(PingKind::of([0; 8]), PingKind::Other);
}

#[test]
fn l4_a_ping_that_may_be_mistaken_for_another_has_no_round_trip() {
    // Its first PING, or the answer to it, may have been in the gap, and all probes have the same payload.
    for lossy in [CLIENT, SERVER] {
        let mut scenario = Scenario::connected();
        scenario.send(CLIENT, &ping(PROBE)).wait(5).lose(lossy, 17).send_at_boundary(lossy, &ping([1; 8]));
        scenario.send(CLIENT, &ping(PROBE)).wait(1).send(SERVER, &ack(PROBE));
        assert!(pings(&scenario).is_empty());
        // Nothing that was sent so long ago is answered any more.
        scenario.wait(21_000).send(CLIENT, &ping(PROBE)).wait(1).send(SERVER, &ack(PROBE));
        assert_eq!(pings(&scenario).len(), 1);
    }
}

#[test]
fn l5_a_lost_connection_ends_every_open_call_once_and_no_other() {
    let mut scenario = Scenario::connected();
    for stream in [1, 3, 5, 7] {
        scenario.send(CLIENT, &request(stream, METHOD));
    }
    scenario.send(SERVER, &trailers_only(1, "0")).send(CLIENT, &rst_stream(3, 8)).send(SERVER, &response(5));
    scenario.close().finish();
    let ends: Vec<_> =
        scenario.calls().iter().map(|call| (call.stream, call.outcome, call.ended_by)).collect();
    assert_eq!(ends.len(), 4);
    for end in [
        (1, Outcome::Ok, Some(EndedBy::Server)),
        (3, Outcome::Cancelled, Some(EndedBy::Client)),
        (5, Outcome::Aborted, Some(EndedBy::Connection)),
        (7, Outcome::Aborted, Some(EndedBy::Connection)),
    ] {
        assert!(ends.contains(&end), "{ends:?}");
    }
}

#[test]
fn l6_what_was_refused_and_is_tried_again_is_two_attempts() {
    let mut scenario = Scenario::connected();
    scenario.send(CLIENT, &request(1, METHOD)).send(SERVER, &rst_stream(1, 7));
    scenario.send(CLIENT, &request(3, METHOD)).send(CLIENT, &data(3, END_STREAM, &[]));
    scenario.send(SERVER, &trailers_only(3, "0"));
    let calls = scenario.calls();
    assert_eq!((calls[0].outcome, calls[0].status_source), (Outcome::Refused, StatusSource::Rst));
    assert_eq!((calls[1].outcome, calls[1].previous_attempts), (Outcome::Ok, None), "no field says so");
    assert_eq!(scenario.started(), 2);
}

#[test]
fn m2_a_call_lasts_from_the_complete_request_headers_to_what_ends_it() {
    /// What ends a call, and after how many milliseconds.
    type End = (&'static str, fn(&mut Scenario));
    let ends: [End; 3] = [
        ("trailers", |s| _ = s.send(SERVER, &trailers_only(1, "0"))),
        ("reset", |s| _ = s.send(SERVER, &rst_stream(1, 2))),
        ("connection", |s| _ = s.close()),
    ];
    for (name, end) in ends {
        let mut scenario = Scenario::connected();
        let whole = block(&[(":method", "POST"), (":path", METHOD), ("content-type", "application/grpc")]);
        scenario.send(CLIENT, &frame(0x1, 0, 1, &whole[..10])).wait(40);
        scenario.send(CLIENT, &frame(0x9, END_HEADERS, 1, &whole[10..])).wait(7);
        end(&mut scenario);
        // What comes after the end does not make the call longer.
        scenario.wait(50).send(CLIENT, &data(1, END_STREAM, &[])).wait(1_000).finish();
        let call = scenario.only_call();
        assert_eq!(call.ended.expect("it ended").since(call.started.expect("seen")), 7_000_000, "{name}");
    }
}

#[test]
fn a_connection_that_is_given_up_has_not_ended() {
    assert!(Scenario::connected().close().summary().has_ended);
    assert!(!Scenario::connected().finish().summary().has_ended, "it is open when the observation ends");
    assert!(!Scenario::connected().wait(25 * HOUR_MS).summary().has_ended, "idle, and given up");
}

const KEEPALIVE: [u8; 8] = *b"keepaliv";

#[test]
fn l4_a_ping_without_an_answer_is_given_up_after_20_seconds_and_once() {
    let mut scenario = Scenario::connected();
    scenario.send(CLIENT, &ping(KEEPALIVE)).wait(10_000).send(SERVER, &ping(PROBE)).wait(9_999);
    assert!(unanswered(&scenario).is_empty(), "nearly");
    scenario.wait(1);
    assert_eq!(unanswered(&scenario), [(PingKind::Other, 20_000)]);
    scenario.send(CLIENT, &ack(PROBE)).wait(60_000);
    assert_eq!(unanswered(&scenario).len(), 1, "the other one was answered");
    // Its late answer is not one to the next PING with the same payload.
    scenario.send(CLIENT, &ping(KEEPALIVE)).wait(5).send(SERVER, &ack(KEEPALIVE)).wait(5);
    assert_eq!(pings(&scenario).last().expect("an answer").round_trip_ns / 1_000_000, 80_005);
    scenario.send(SERVER, &ack(KEEPALIVE));
    assert_eq!(pings(&scenario).last().expect("an answer").round_trip_ns / 1_000_000, 10);
    scenario.wait(60_000).send(CLIENT, &ping(KEEPALIVE)).wait(60_000).close();
    assert_eq!(unanswered(&scenario).len(), 2);
}

#[test]
fn l5_a_ping_that_was_under_way_for_long_when_the_connection_ended_has_no_answer() {
    for (waited_ms, round_trip_ms, expected) in
        [(999, None, 0), (1_000, None, 1), (1_000, Some(5), 1), (4_999, Some(500), 0), (5_000, Some(500), 1)]
    {
        let mut scenario = Scenario::connected();
        if let Some(ms) = round_trip_ms {
            scenario.send(CLIENT, &ping(PROBE)).wait(ms).send(SERVER, &ack(PROBE));
        }
        scenario.send(CLIENT, &ping(KEEPALIVE)).wait(waited_ms).close();
        assert_eq!(unanswered(&scenario).len(), expected, "{waited_ms} ms, {round_trip_ms:?}");
    }
    // The end of the observation is not that of the connection.
    let mut scenario = Scenario::connected();
    scenario.send(CLIENT, &ping(KEEPALIVE)).wait(10_000).finish();
    assert!(unanswered(&scenario).is_empty());
}

#[test]
fn l4_after_a_late_join_or_a_hole_no_ping_is_without_an_answer() {
    let mut scenario = Scenario::joined_late();
    scenario.send_at_boundary(CLIENT, &request(9, METHOD)).send_at_boundary(SERVER, &response(9));
    scenario.send(CLIENT, &ping(KEEPALIVE)).wait(60_000).close();
    assert!(unanswered(&scenario).is_empty(), "an answer may belong to an earlier one");

    for flow in [CLIENT, SERVER] {
        let mut scenario = Scenario::connected();
        scenario.send(CLIENT, &ping(KEEPALIVE)).wait(1_000);
        scenario.lose(flow, 17).send_at_boundary(flow, &window_update(0, 9)).wait(60_000).close();
        assert!(unanswered(&scenario).is_empty());
    }
}
