//! Flow-control windows as a connection's frames make them (checklist W). The arithmetic itself is tested beside the code, and
//! on recordings against an independent computation.

mod support;

use agent_core::Observation;
use agent_core::observation::{Outcome, WindowsSeen};
use support::*;

const INITIAL_WINDOW_SIZE: u16 = 4;

/// A connection whose frames are reported with their windows, and a request on stream 1.
fn traced() -> Scenario {
    let mut scenario = Scenario::connected();
    scenario.observer.trace_frames(true);
    scenario.send(CLIENT, &request(1, "/a.B/C"));
    scenario
}

/// Windows of connection and stream after the last DATA or WINDOW_UPDATE frame.
fn last(scenario: &Scenario) -> (Option<i64>, Option<i64>) {
    let windows = scenario.seen.iter().rev().find_map(|fact| match fact {
        Observation::Frame(frame) => frame.windows,
        _ => None,
    });
    let WindowsSeen { connection, stream } = windows.expect("such a frame");
    (connection, stream)
}

#[test]
fn w1_only_window_update_on_stream_zero_moves_the_window_of_the_connection() {
    let mut scenario = traced();
    scenario.send(SERVER, &settings_with(&[(INITIAL_WINDOW_SIZE, 1_000_000)]));
    scenario.send(CLIENT, &data(1, 0, &message(95)));
    assert_eq!(last(&scenario), (Some(65_435), Some(999_900)));
    scenario.send(SERVER, &window_update(0, 100));
    assert_eq!(last(&scenario), (Some(65_535), None));
    scenario.send(SERVER, &window_update(1, 7));
    assert_eq!(last(&scenario), (Some(65_535), Some(999_907)));
    let summary = scenario.finish().summary();
    assert_eq!((summary.flows[0].send_window, summary.flows[1].send_window), (Some(65_535), Some(65_535)));
}

#[test]
fn w2_data_counts_with_its_padding_and_headers_do_not() {
    let mut scenario = traced();
    // Pad length 3, a message of 5 + 2 octets, padding: 11 octets.
    scenario.send(CLIENT, &data(1, PADDED, &[3, 0, 0, 0, 0, 2, 9, 9, 0, 0, 0]));
    assert_eq!(last(&scenario), (Some(65_524), Some(65_524)));
    scenario.send(SERVER, &response(1)).send(SERVER, &data(1, 0, &message(5)));
    assert_eq!(last(&scenario), (Some(65_525), Some(65_525)), "the other direction's own");
}

#[test]
fn w4_settings_that_take_back_credit_make_a_window_negative() {
    let mut scenario = traced();
    scenario.send(CLIENT, &data(1, 0, &message(995)));
    scenario.send(SERVER, &settings_with(&[(INITIAL_WINDOW_SIZE, 5), (INITIAL_WINDOW_SIZE, 400)]));
    scenario.send(SERVER, &window_update(1, 1));
    assert_eq!(last(&scenario), (Some(64_535), Some(-599)), "the last value of a frame wins");
}

#[test]
fn w5_increments_that_are_not_allowed_are_anomalies() {
    let mut scenario = traced();
    scenario.send(SERVER, &window_update(1, 0)).send(SERVER, &window_update(0, 0));
    scenario.send(SERVER, &window_update(99, 0));
    assert_eq!(scenario.anomalies(), ["window_update_zero"; 3]);
    let mut scenario = traced();
    scenario.send(SERVER, &window_update(1, 0x7fff_ffff)).send(SERVER, &window_update(0, 0x7fff_ffff));
    scenario.send(SERVER, &settings_with(&[(INITIAL_WINDOW_SIZE, 0x8000_0000)]));
    assert_eq!(scenario.anomalies(), ["window_too_large"; 3]);
    // The reserved bit is not part of the increment.
    let mut scenario = traced();
    scenario.send(SERVER, &window_update(0, 0x8000_0005));
    assert_eq!((last(&scenario), scenario.anomalies().len()), ((Some(65_540), None), 0));
}

#[test]
fn w6_data_on_streams_that_were_reset_or_refused_counts_for_the_connection() {
    let mut scenario = traced();
    scenario.send(CLIENT, &data(1, 0, &message(95))).send(SERVER, &rst_stream(1, 7));
    assert_eq!(scenario.only_call().outcome, Outcome::Refused);
    // Sent before the client has seen the reset.
    scenario.send(CLIENT, &data(1, 0, &message(95)));
    assert_eq!(last(&scenario), (Some(65_335), None));
    // Above the last id of a GOAWAY.
    scenario
        .send(SERVER, &goaway(1, 0))
        .send(CLIENT, &request(3, "/a.B/C"))
        .send(CLIENT, &data(3, 0, &message(95)));
    assert_eq!(last(&scenario).0, Some(65_235));
    scenario.send(SERVER, &window_update(0, 300));
    assert_eq!(last(&scenario), (Some(65_535), None));
}

#[test]
fn w7_the_window_that_is_used_up_is_told_from_the_one_that_is_not() {
    let mut scenario = traced();
    scenario.send(SERVER, &settings_with(&[(INITIAL_WINDOW_SIZE, 100)]));
    scenario.send(CLIENT, &data(1, 0, &message(95)));
    assert_eq!(last(&scenario), (Some(65_435), Some(0)), "the stream's: filled to exactly zero");
    scenario.send(SERVER, &window_update(1, 100_000)).send(CLIENT, &data(1, 0, &[0; 16_384]));
    for _ in 0..3 {
        scenario.send(CLIENT, &data(1, 0, &[0; 16_350]));
    }
    scenario.send(CLIENT, &data(1, 0, &[0]));
    let (connection, stream) = last(&scenario);
    assert_eq!((connection, stream), (Some(0), Some(34_565)), "the connection's");
}

#[test]
fn w8_after_a_late_join_windows_are_absent_until_they_are_known() {
    let mut scenario = Scenario::joined_late();
    scenario.observer.trace_frames(true);
    scenario.send(SERVER, &window_update(0, 10)).send(CLIENT, &request(9, "/a.B/C"));
    scenario.send(CLIENT, &data(9, 0, &message(5)));
    assert_eq!(last(&scenario), (None, None), "not 65,535");
    // SETTINGS make known what starts from them, and what started under them.
    scenario.send(SERVER, &settings_with(&[(INITIAL_WINDOW_SIZE, 500)]));
    scenario.send(CLIENT, &data(9, 0, &message(5)));
    assert_eq!(last(&scenario), (None, Some(480)));
    scenario.send(CLIENT, &request(11, "/a.B/C")).send(CLIENT, &data(11, 0, &message(5)));
    assert_eq!(last(&scenario), (None, Some(490)));
    let summary = scenario.finish().summary();
    assert_eq!((summary.flows[0].send_window, summary.flows[1].send_window), (None, None));
}

#[test]
fn w8_after_a_gap_windows_are_unknown_until_they_can_be_known_again() {
    let mut scenario = traced();
    // A hole inside DATA costs nothing: the length stands in the frame's header.
    let body = data(1, 0, &message(1_000));
    scenario.send(CLIENT, &body[..14]).lose(CLIENT, 1_000).send(CLIENT, &data(1, 0, &message(5)));
    assert_eq!(last(&scenario), (Some(64_520), Some(64_520)));
    // Elsewhere DATA and WINDOW_UPDATE may have been in it.
    scenario.lose(CLIENT, 40).send_at_boundary(CLIENT, &data(1, 0, &message(5)));
    assert_eq!(last(&scenario), (None, None));
    scenario.send_at_boundary(CLIENT, &request(3, "/a.B/C")).send(CLIENT, &data(3, 0, &message(5)));
    assert_eq!(last(&scenario), (None, Some(65_525)), "a new stream, under settings of the other flow");
    scenario.send(SERVER, &response(3)).send(SERVER, &data(3, 0, &message(5)));
    assert_eq!(last(&scenario), (None, None), "the client's SETTINGS may have been lost");
}

#[test]
fn s5_window_updates_priority_and_resets_on_closed_streams_are_ignored() {
    let mut scenario = traced();
    scenario.send(CLIENT, &data(1, END_STREAM, &message(1))).send(SERVER, &trailers_only(1, "0"));
    scenario
        .send(CLIENT, &request(5, "/a.B/C"))
        .send(SERVER, &trailers_only(5, "0"))
        .send(CLIENT, &rst_stream(5, 8));
    let calls = scenario.calls().len();
    // 1 and 5 are closed; 3 was skipped by the client, and is thereby closed too.
    for stream in [1, 3, 5] {
        scenario.send(SERVER, &window_update(stream, 10)).send(CLIENT, &rst_stream(stream, 8));
        scenario.send(SERVER, &rst_stream(stream, 5)).send(CLIENT, &frame(0x2, 0, stream, &[0, 0, 0, 0, 9]));
        assert_eq!(last(&scenario).1, None);
    }
    scenario.wait(5_000).finish();
    assert_eq!((calls, scenario.calls().len(), scenario.started()), (2, 2, 2));
    assert!(scenario.anomalies().is_empty());
}

#[test]
fn w3_an_increment_that_is_seen_before_its_stream_counts() {
    let mut scenario = Scenario::connected();
    scenario.observer.trace_frames(true);
    scenario.send(SERVER, &window_update(1, 1_000)).send(CLIENT, &request(1, "/a.B/C"));
    scenario.send(CLIENT, &data(1, 0, &message(5)));
    assert_eq!(last(&scenario), (Some(65_525), Some(66_525)));
}

#[test]
fn w8_what_a_flow_carried_before_it_was_joined_may_have_been_for_streams_that_are_open() {
    let mut scenario = Scenario::joined_late();
    scenario.observer.trace_frames(true);
    scenario.send(CLIENT, &request(9, "/a.B/C")).send(CLIENT, &settings_with(&[(INITIAL_WINDOW_SIZE, 500)]));
    // The server's flow is seen for the first time after it may have answered already.
    scenario.send(SERVER, &response(9)).send(SERVER, &data(9, 0, &message(5)));
    assert_eq!(last(&scenario), (None, None));
    scenario.send(CLIENT, &request(11, "/a.B/C")).send(SERVER, &data(11, 0, &message(5)));
    assert_eq!(last(&scenario), (None, Some(490)));
}

#[test]
fn w8_settings_of_which_a_part_is_missing_make_windows_unknown() {
    let mut scenario = traced();
    let settings = settings_with(&[(INITIAL_WINDOW_SIZE, 500)]);
    scenario.send(SERVER, &settings[..11]).lose(SERVER, 4).send(SERVER, &frame(0x6, 0, 0, b"12345678"));
    scenario.send(CLIENT, &data(1, 0, &message(5)));
    assert_eq!(last(&scenario), (Some(65_525), None), "that of the connection does not depend on them");
    scenario.send(SERVER, &settings).send(CLIENT, &data(1, 0, &message(5)));
    assert_eq!(last(&scenario), (Some(65_515), Some(480)));
}

#[test]
fn w8_a_stream_whose_first_frames_may_have_been_missed_has_no_windows() {
    // A block that cannot be read (index 0) may be the trailers of a request that was lost.
    let mut scenario = traced();
    scenario.lose(CLIENT, 40).send_at_boundary(CLIENT, &frame(0x1, END_HEADERS, 5, &[0x80]));
    scenario.send(CLIENT, &data(5, 0, &message(5)));
    assert_eq!(last(&scenario), (None, None));
    // What was not read of the server's flow may have answered a request that is seen only now.
    let mut scenario = traced();
    scenario
        .lose(SERVER, 40)
        .send(SERVER, b"nothing that starts a frame")
        .send(CLIENT, &request(3, "/a.B/C"));
    scenario.send_at_boundary(SERVER, &data(3, 0, &message(5)));
    assert_eq!(last(&scenario), (None, None));
}
