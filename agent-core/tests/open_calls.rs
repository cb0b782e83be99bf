//! Calls as they stand while they are open.

mod support;

use agent_core::Timestamp;
use agent_core::observation::{OpenCall, Timeout};
use support::*;

const METHOD: &str = "/shop.Orders/Watch";
const CANCEL: u32 = 8;

fn open_calls(scenario: &Scenario) -> Vec<OpenCall> {
    let mut calls = Vec::new();
    scenario.observer.visit_open_calls(|call| calls.push(call.clone()));
    calls
}

fn streams(scenario: &Scenario) -> Vec<u32> {
    open_calls(scenario).iter().map(|call| call.stream).collect()
}

fn ms(scenario: &Scenario, ago: u64) -> Option<Timestamp> {
    Some(Timestamp(scenario.now.0 - ago * 1_000_000))
}

#[test]
fn an_open_call_says_what_came_when() {
    let mut scenario = Scenario::connected();
    scenario.send(CLIENT, &request_with(1, METHOD, &[("grpc-timeout", "1H")]));
    scenario.wait(10).send(CLIENT, &data(1, 0, &message(5)));
    let [call] = &open_calls(&scenario)[..] else { panic!("one call") };
    assert_eq!(call.method.as_deref(), Some(METHOD));
    assert_eq!(call.timeout, Timeout::Ns(3_600_000_000_000));
    assert_eq!((call.started, call.last_from_client), (ms(&scenario, 10), ms(&scenario, 0)));
    assert_eq!((call.request.count, call.last_from_server, call.client_ended), (1, None, None));

    scenario.wait(10).send(SERVER, &response(1)).wait(10).send(SERVER, &data(1, 0, &message(7)));
    scenario.wait(10).send(CLIENT, &window_update(1, 12));
    scenario.wait(10).send(CLIENT, &data(1, END_STREAM, &[]));
    scenario.wait(10);
    let [call] = &open_calls(&scenario)[..] else { panic!("one call") };
    assert_eq!((call.last_from_server, call.last_from_client), (ms(&scenario, 30), ms(&scenario, 10)));
    assert_eq!((call.client_ended, call.server_ended), (ms(&scenario, 10), None));
    assert_eq!((call.response.count, call.response.bytes, call.response.exact), (1, 7, true));
    assert!(!call.uncertain);

    scenario.send(SERVER, &trailers(1, "0"));
    assert!(streams(&scenario).is_empty(), "both have ended");
}

#[test]
fn calls_come_by_connection_and_stream_and_only_those_that_are_grpc() {
    let mut scenario = Scenario::connected();
    for stream in (1..100).step_by(2) {
        scenario.send(CLIENT, &request(stream, METHOD));
    }
    let get = [(":method", "GET"), (":scheme", "http"), (":path", "/"), ("accept", "text/html")];
    scenario.send(CLIENT, &headers(101, END_STREAM, &get));
    scenario.send(CLIENT, &rst_stream(51, CANCEL)).send(SERVER, &rst_stream(53, CANCEL));
    let expected: Vec<u32> = (1..100).step_by(2).filter(|stream| ![51, 53].contains(stream)).collect();
    assert_eq!(streams(&scenario), expected);
    scenario.close();
    assert!(streams(&scenario).is_empty());
}

#[test]
fn a_stream_that_only_its_server_has_ended_is_open_until_the_client_closes_it() {
    for last in [data(1, END_STREAM, &[]), rst_stream(1, 0), headers(1, END_STREAM, &[("a", "b")])] {
        let mut scenario = Scenario::connected();
        scenario.send(CLIENT, &request(1, METHOD)).send(CLIENT, &data(1, 0, &message(5)));
        scenario.send(SERVER, &trailers_only(1, "5")).wait(5_000);
        assert_eq!(scenario.calls().len(), 1, "the call is over");
        scenario.send(CLIENT, &data(1, 0, &message(5))).wait(5_000);
        let [call] = &open_calls(&scenario)[..] else { panic!("one call") };
        assert_eq!((call.server_ended, call.last_from_client), (ms(&scenario, 10_000), ms(&scenario, 5_000)));
        assert_eq!((call.method.as_deref(), call.client_ended), (Some(METHOD), None));
        scenario.send(CLIENT, &last);
        assert!(streams(&scenario).is_empty());
        assert_eq!((scenario.calls().len(), scenario.started()), (1, 1), "S2: it never becomes a call again");
    }
    // Nearly: the client closes it in the moment in which that is to be expected.
    let mut scenario = Scenario::connected();
    scenario.send(CLIENT, &request(1, METHOD)).send(SERVER, &trailers_only(1, "5")).wait(50);
    scenario.send(CLIENT, &rst_stream(1, 0)).wait(1_000);
    assert!(streams(&scenario).is_empty());
}

#[test]
fn half_closed_streams_are_bounded_and_their_memory_is_counted() {
    let mut scenario = Scenario::connected();
    let before = scenario.observer.state_bytes();
    for stream in (1..2_000).step_by(2) {
        scenario.send(CLIENT, &request(stream, METHOD)).send(SERVER, &trailers_only(stream, "5"));
    }
    scenario.wait(200);
    let left = streams(&scenario);
    assert_eq!((left.len(), left.first(), left.last()), (256, Some(&1_489), Some(&1_999)));
    assert!(scenario.observer.state_bytes() > before + 256 * size_of::<OpenCall>());
}

#[test]
fn on_a_connection_that_was_joined_late_what_was_not_seen_is_none() {
    let mut scenario = Scenario::joined_late();
    scenario.send_at_boundary(SERVER, &response(7)).wait(5);
    let [call] = &open_calls(&scenario)[..] else { panic!("one call") };
    assert_eq!((call.started, call.method.as_deref(), call.timeout), (None, None, Timeout::Unknown));
    assert_eq!((call.last_from_client, call.last_from_server), (None, ms(&scenario, 5)));
    assert!(call.uncertain && !call.request.exact);
}

#[test]
fn after_a_hole_open_calls_are_uncertain_and_half_closed_ones_are_none() {
    let mut scenario = Scenario::connected();
    scenario.send(CLIENT, &request(1, METHOD)).send(SERVER, &trailers_only(1, "5")).wait(200);
    scenario.send(CLIENT, &request(3, METHOD));
    assert_eq!(streams(&scenario), [1, 3]);
    scenario.lose(CLIENT, 13).send_at_boundary(CLIENT, &window_update(0, 9));
    let [call] = &open_calls(&scenario)[..] else { panic!("one call") };
    assert_eq!((call.stream, call.uncertain), (3, true));
}
