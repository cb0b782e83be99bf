//! What a server sends on streams that its client has reset.

mod support;

use agent_core::observation::{LateWork, Observation};
use support::*;

const METHOD: &str = "/shop.Orders/List";
const CANCEL: u32 = 8;
const SECOND_NS: u64 = 1_000_000_000;

fn late_work(scenario: &Scenario) -> Vec<LateWork> {
    let work = |fact: &Observation| match fact {
        Observation::LateWork(work) => Some(work.clone()),
        _ => None,
    };
    scenario.seen.iter().filter_map(work).collect()
}

/// The client has reset stream 1, 10 ms ago.
fn cancelled() -> Scenario {
    let mut scenario = Scenario::connected();
    scenario.send(CLIENT, &request(1, METHOD)).send(SERVER, &response(1));
    scenario.send(SERVER, &data(1, 0, &message(95))).wait(10);
    scenario.send(CLIENT, &rst_stream(1, CANCEL)).wait(10);
    scenario
}

#[test]
fn data_and_trailers_after_a_reset_are_late_work() {
    let mut scenario = cancelled();
    let ended = agent_core::Timestamp(scenario.now.0 - 10_000_000);
    scenario.send(SERVER, &data(1, 0, &message(95))).wait(500);
    scenario.send(SERVER, &data(1, PADDED, &[&[3], &message(45)[..], &[0; 3]].concat())).wait(500);
    assert!(late_work(&scenario).is_empty(), "there may be more");
    scenario.send(SERVER, &trailers(1, "0"));
    let work = LateWork {
        connection: agent_core::ConnectionId(1),
        stream: 1,
        method: Some(METHOD.into()),
        ended,
        last: scenario.now,
        bytes: 150,
        trailers: true,
    };
    assert_eq!(late_work(&scenario), [work]);
    scenario.send(SERVER, &data(1, 0, &message(95))).wait(5_000).close();
    assert_eq!(late_work(&scenario).len(), 1);
    assert_eq!((scenario.started(), scenario.calls().len()), (1, 1), "S5: it never becomes a call again");
}

#[test]
fn it_is_said_after_a_second_of_silence_or_at_the_end_of_the_connection() {
    let mut scenario = cancelled();
    scenario.send(SERVER, &data(1, 0, &message(95))).wait(600).send(SERVER, &data(1, 0, &message(95)));
    let last = scenario.now;
    scenario.wait(999);
    assert!(late_work(&scenario).is_empty());
    scenario.wait(1);
    let [work] = &late_work(&scenario)[..] else { panic!("once") };
    assert_eq!((work.last, work.bytes, work.trailers), (last, 200, false));
    assert_eq!(work.last.since(work.ended), 610_000_000);

    let mut scenario = cancelled();
    scenario.send(SERVER, &data(1, 0, &message(95))).close();
    assert_eq!(late_work(&scenario).len(), 1);
    let end = scenario.seen.last();
    assert!(matches!(end, Some(Observation::ConnectionEnded(_))), "before the end of the connection");
}

#[test]
fn an_end_alone_and_what_was_sent_before_the_reset_are_none() {
    for last in [rst_stream(1, CANCEL), data(1, END_STREAM, &[]), window_update(1, 5), response(1)] {
        let mut scenario = cancelled();
        scenario.send(SERVER, &last).wait(5_000).close();
        assert!(late_work(&scenario).is_empty());
    }
    // Seen after the reset, and sent no later.
    let mut scenario = Scenario::connected();
    scenario.send(CLIENT, &request(1, METHOD)).send(CLIENT, &rst_stream(1, CANCEL));
    scenario.send(SERVER, &trailers_only(1, "0")).wait(5_000).close();
    assert!(late_work(&scenario).is_empty());
    // A client that closes the stream behind the response, and a server's own reset.
    let mut scenario = Scenario::connected();
    scenario.send(CLIENT, &request(1, METHOD)).send(SERVER, &trailers_only(1, "5")).wait(1);
    scenario.send(CLIENT, &rst_stream(1, CANCEL)).wait(1).send(SERVER, &data(1, 0, &message(9)));
    scenario.send(CLIENT, &request(3, METHOD)).send(SERVER, &rst_stream(3, CANCEL)).wait(1);
    scenario.send(SERVER, &data(3, 0, &message(9))).wait(5_000).close();
    assert!(late_work(&scenario).is_empty());
}

#[test]
fn the_last_streams_that_were_reset_are_remembered() {
    let mut scenario = Scenario::connected();
    let before = scenario.observer.state_bytes();
    for stream in (1..101).step_by(2) {
        scenario.send(CLIENT, &request(stream, METHOD)).send(CLIENT, &rst_stream(stream, CANCEL));
    }
    assert!(scenario.observer.state_bytes() > before + 32 * 40);
    scenario.wait(1);
    for stream in (1..101).step_by(2) {
        scenario.send(SERVER, &trailers_only(stream, "0"));
    }
    let streams: Vec<u32> = late_work(&scenario).iter().map(|work| work.stream).collect();
    assert_eq!(streams, (37..101).step_by(2).collect::<Vec<u32>>());
}

#[test]
fn after_a_late_join_or_a_hole_only_certain_ends_count() {
    // Whether the server had ended the call before it was reset is not known.
    let mut scenario = Scenario::joined_late();
    scenario.send_at_boundary(CLIENT, &request(9, METHOD)).wait(1);
    scenario.lose(SERVER, 50).send_at_boundary(SERVER, &window_update(0, 9)).wait(1);
    scenario.send(CLIENT, &rst_stream(9, CANCEL)).wait(1);
    scenario.send_at_boundary(SERVER, &data(9, 0, &message(9))).wait(5_000);
    assert!(late_work(&scenario).is_empty());
    // A hole after the reset takes nothing back.
    let mut scenario = cancelled();
    scenario.lose(SERVER, 50).send_at_boundary(SERVER, &data(1, 0, &message(95))).wait(5_000);
    let [work] = &late_work(&scenario)[..] else { panic!("once") };
    assert_eq!((work.bytes, work.last.since(work.ended) / SECOND_NS), (100, 0));
}
