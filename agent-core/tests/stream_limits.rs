//! When a client has as many streams open as its server allows (RFC 9113 §5.1.2).

mod support;

use std::collections::BTreeMap;

use agent_core::observation::{AtStreamLimit, Observation};
use agent_core::{Limits, Timestamp};
use support::*;

const METHOD: &str = "/shop.Orders/Get";
const MAX_CONCURRENT_STREAMS: u16 = 3;
const CANCEL: u32 = 8;

fn said(scenario: &Scenario) -> Vec<(u32, Timestamp, Option<Timestamp>)> {
    let limit = |fact: &Observation| match fact {
        Observation::AtStreamLimit(limit) => Some((limit.limit, limit.from, limit.until)),
        _ => None,
    };
    scenario.seen.iter().filter_map(limit).collect()
}

fn now_at_limit(scenario: &Scenario) -> Option<AtStreamLimit> {
    let mut all = Vec::new();
    scenario.observer.visit_stream_limits(|limit| all.push(limit));
    assert!(all.len() <= 1);
    all.pop()
}

fn allow(scenario: &mut Scenario, streams: u32) {
    scenario.send(SERVER, &settings_with(&[(MAX_CONCURRENT_STREAMS, streams)]));
}

fn limited(streams: u32) -> Scenario {
    let mut scenario = Scenario::connected();
    allow(&mut scenario, streams);
    scenario
}

#[test]
fn from_the_last_free_stream_to_the_first_that_ends() {
    let mut scenario = limited(2);
    scenario.send(CLIENT, &request(1, METHOD)).wait(10);
    assert_eq!(now_at_limit(&scenario), None, "one is free");
    scenario.send(CLIENT, &request(3, METHOD));
    let from = scenario.now;
    let at = now_at_limit(&scenario).expect("none is free");
    assert_eq!((at.limit, at.from, at.until), (2, from, None));
    scenario.wait(30).send(CLIENT, &data(3, END_STREAM, &[])).wait(5);
    assert!(now_at_limit(&scenario).is_some(), "half-closed streams count");
    scenario.send(SERVER, &trailers_only(3, "0"));
    assert_eq!(now_at_limit(&scenario), None);
    assert_eq!(said(&scenario), [(2, from, Some(scenario.now))]);
}

#[test]
fn without_settings_that_say_so_there_is_no_limit() {
    let mut scenario = Scenario::connected();
    for stream in (1..500).step_by(2) {
        scenario.send(CLIENT, &request(stream, METHOD));
    }
    // The client's own SETTINGS limit what the server pushes.
    scenario.send(CLIENT, &settings_with(&[(MAX_CONCURRENT_STREAMS, 0)]));
    assert_eq!(now_at_limit(&scenario), None);
    scenario.wait(10);
    allow(&mut scenario, u32::MAX);
    assert_eq!(now_at_limit(&scenario), None);
    // Lowered below what is open, and raised again.
    allow(&mut scenario, 10);
    let from = scenario.now;
    assert_eq!(now_at_limit(&scenario).map(|at| (at.limit, at.from)), Some((10, from)));
    scenario.wait(10);
    allow(&mut scenario, 251);
    assert_eq!(said(&scenario), [(10, from, Some(scenario.now))]);
    allow(&mut scenario, 0);
    assert_eq!(now_at_limit(&scenario).map(|at| at.limit), Some(0));
}

#[test]
fn settings_of_the_server_count_also_if_they_are_seen_before_the_preface() {
    let mut scenario = Scenario::new();
    allow(&mut scenario, 1);
    scenario.send(CLIENT, &[PREFACE, &settings()].concat()).send(CLIENT, &request(1, METHOD));
    assert!(now_at_limit(&scenario).is_some());
}

#[test]
fn a_stream_that_ends_after_another_one_was_opened_but_is_seen_later_is_no_limit() {
    let mut scenario = limited(2);
    scenario.send(CLIENT, &request(1, METHOD)).send(CLIENT, &data(1, END_STREAM, &[]));
    scenario.send(CLIENT, &request(3, METHOD));
    assert!(now_at_limit(&scenario).is_some());
    // The two flows out of step: the end was there when the second stream was opened.
    scenario.send(SERVER, &trailers_only(1, "0"));
    assert_eq!((now_at_limit(&scenario), said(&scenario)), (None, vec![]));
}

#[test]
fn at_the_end_of_the_connection_or_of_the_observation_it_is_said() {
    for observed_to_the_end in [true, false] {
        let mut scenario = limited(1);
        scenario.send(CLIENT, &request(1, METHOD));
        let from = scenario.now;
        scenario.wait(20);
        let until = observed_to_the_end.then_some(scenario.now);
        if observed_to_the_end {
            scenario.close();
        } else {
            scenario.finish();
        }
        assert_eq!(said(&scenario), [(1, from, until)]);
        assert_eq!(now_at_limit(&scenario), None);
    }
}

#[test]
fn a_connection_that_was_joined_late_or_has_a_hole_says_nothing() {
    let mut scenario = Scenario::joined_late();
    scenario.send_at_boundary(SERVER, &settings_with(&[(MAX_CONCURRENT_STREAMS, 1)]));
    scenario.send_at_boundary(CLIENT, &request(9, METHOD)).send(CLIENT, &request(11, METHOD)).wait(10);
    assert_eq!(now_at_limit(&scenario), None);

    for flow in [CLIENT, SERVER] {
        let mut scenario = limited(1);
        scenario.send(CLIENT, &request(1, METHOD)).wait(10);
        assert!(now_at_limit(&scenario).is_some());
        scenario.lose(flow, 13).send_at_boundary(flow, &window_update(0, 9));
        assert_eq!(now_at_limit(&scenario), None, "a reset may be in it");
        scenario.wait(10).send(CLIENT, &rst_stream(1, CANCEL)).send(CLIENT, &request(3, METHOD));
        assert_eq!((now_at_limit(&scenario), said(&scenario)), (None, vec![]));
    }
}

#[test]
fn above_the_bounds_nothing_is_said() {
    let mut scenario = Scenario::with_limits(Limits { streams_per_connection: 4, ..Limits::default() });
    scenario.send(CLIENT, &[PREFACE, &settings()].concat());
    allow(&mut scenario, 5);
    for stream in [1, 3, 5, 7, 9, 11] {
        scenario.send(CLIENT, &request(stream, METHOD));
    }
    assert_eq!(now_at_limit(&scenario), None);

    let mut scenario = limited(600);
    for stream in (1..1_201).step_by(2) {
        scenario.send(CLIENT, &request(stream, METHOD)).send(SERVER, &trailers_only(stream, "5"));
    }
    assert!(now_at_limit(&scenario).is_some(), "600 are half-closed");
    scenario.wait(200);
    assert_eq!(now_at_limit(&scenario), None, "more than are remembered");
}

/// Both ends open and close streams in every way that there is; a model counts.
#[test]
fn the_streams_that_are_open_are_counted_exactly() {
    let mut scenario = Scenario::connected();
    let mut open: BTreeMap<u32, (bool, bool)> = BTreeMap::new();
    let (mut next, mut random) = (1u32, 7u32);
    let mut choose = |of: u32| {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (random >> 16) % of
    };
    let mut times_at_limit = 0;
    for _ in 0..20_000 {
        scenario.wait(u64::from(choose(60)));
        let nth = choose(u32::try_from(open.len()).expect("few").max(1)) as usize;
        let chosen = open.iter().nth(nth).map(|(id, ended)| (*id, *ended));
        match (choose(8), chosen) {
            (0..3, _) if open.len() < 200 => {
                let get = [(":method", "GET"), (":scheme", "http"), (":path", "/")];
                match choose(4) {
                    0 => scenario.send(CLIENT, &headers(next, 0, &get)),
                    _ => scenario.send(CLIENT, &request(next, METHOD)),
                };
                open.insert(next, (false, false));
                next += 2;
            }
            (3..5, Some((id, (false, server)))) => {
                scenario.send(CLIENT, &data(id, END_STREAM, &[]));
                open.insert(id, (true, server));
            }
            (5..7, Some((id, (client, false)))) => {
                match choose(3) {
                    0 => scenario.send(SERVER, &response(id)).send(SERVER, &data(id, END_STREAM, &[])),
                    _ => scenario.send(SERVER, &trailers_only(id, "0")),
                };
                open.insert(id, (client, true));
            }
            (7, Some((id, _))) => {
                scenario.send(if choose(2) == 0 { CLIENT } else { SERVER }, &rst_stream(id, CANCEL));
                open.remove(&id);
            }
            _ => {}
        }
        open.retain(|_, ended| *ended != (true, true));
        let count = u32::try_from(open.len()).expect("few");
        // A limit just above, and one at what is open, tell the number.
        allow(&mut scenario, count + 1);
        assert_eq!(now_at_limit(&scenario), None, "{count} are open");
        allow(&mut scenario, count);
        assert!(now_at_limit(&scenario).is_some(), "{count} are open");
        times_at_limit += 1;
    }
    assert_eq!(times_at_limit, 20_000);
    assert!(next > 10_000 && open.len() < 250, "{next}, {}", open.len());
}
