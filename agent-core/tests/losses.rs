//! What is still said of calls when bytes are missing: each case is a false claim that was made once.

mod support;

use agent_core::observation::{Messages, Observation, Outcome, StatusSource, Timeout};
use agent_core::{Chunk, ConnectionId, Limits};
use support::{
    CLIENT, END_HEADERS, END_STREAM, PREFACE, SERVER, Scenario, data, frame, goaway, headers, message,
    request, request_with, response, rst_stream, settings, trailers, trailers_only,
};

const METHOD: &str = "/shop.Orders/Get";
const CANCEL: u32 = 8;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;

fn ping() -> Vec<u8> {
    frame(PING, 0, 0, b"12345678")
}

/// A call on stream 1 that waits for its answer.
fn asked() -> Scenario {
    let mut scenario = Scenario::connected();
    scenario.send(CLIENT, &request(1, METHOD)).send(CLIENT, &data(1, END_STREAM, &message(5)));
    scenario
}

/// The response, and a reset that a client may send behind one, were reported as a cancellation.
#[test]
fn g9_a_reset_after_a_lost_response_says_nothing() {
    let mut scenario = asked();
    scenario.lose(SERVER, 60).send_at_boundary(SERVER, &ping());
    scenario.send(CLIENT, &rst_stream(1, CANCEL));
    let call = scenario.only_call();
    assert_eq!((call.outcome, call.status, call.ended), (Outcome::Unknown, None, None));
    assert_eq!(call.rst_code, Some(CANCEL), "what was seen stays");
}

/// The end of the response was lost, and RST_STREAM(NO_ERROR) behind it was reported as INTERNAL.
#[test]
fn s3_a_reset_by_the_server_after_lost_trailers_says_nothing() {
    let mut scenario = asked();
    scenario.send(SERVER, &response(1)).lose(SERVER, 20).send_at_boundary(SERVER, &rst_stream(1, 0));
    let call = scenario.only_call();
    assert_eq!((call.outcome, call.status), (Outcome::Unknown, None));
}

/// A response whose HEADERS come after the loss had not ended before it: then a reset is what it says.
#[test]
fn s3_a_frame_of_the_response_after_a_loss_shows_that_it_had_not_ended() {
    let mut scenario = asked();
    scenario.lose(SERVER, 20).send_at_boundary(SERVER, &response(1));
    scenario.send(CLIENT, &rst_stream(1, CANCEL));
    let call = scenario.only_call();
    assert_eq!((call.outcome, call.status), (Outcome::Cancelled, Some(1)));
}

/// The client's RST_STREAM was lost, and the status that the server sent all the same was reported.
#[test]
fn g9_an_answer_to_a_call_that_may_have_been_cancelled_says_nothing() {
    let lost = || {
        let mut scenario = Scenario::connected();
        scenario.send(CLIENT, &request(1, METHOD));
        scenario.lose(CLIENT, 13).send_at_boundary(CLIENT, &ping());
        scenario
    };
    let mut scenario = lost();
    scenario.send(SERVER, &trailers_only(1, "0")).wait(200);
    let call = scenario.only_call();
    assert_eq!((call.outcome, call.status, call.ended), (Outcome::Unknown, None, None));

    // Nobody sends WINDOW_UPDATE on a stream that he has reset.
    let mut scenario = lost();
    scenario.send(CLIENT, &frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]));
    scenario.send(SERVER, &trailers_only(1, "0")).wait(200);
    assert_eq!(scenario.only_call().status, Some(0));
}

/// The same, where the loss is told after the answer.
#[test]
fn g9_a_loss_that_is_told_late_takes_back_what_is_not_reported_yet() {
    let mut scenario = Scenario::connected();
    scenario.send(CLIENT, &request(1, METHOD));
    scenario.send(SERVER, &trailers_only(1, "0"));
    scenario.lose(CLIENT, 13).send_at_boundary(CLIENT, &ping());
    scenario.wait(200);
    assert_eq!(scenario.only_call().outcome, Outcome::Unknown);
}

/// The answer was in the last bytes of the server's flow, which were lost: the end of the connection behind them was reported to
/// have aborted the call.
#[test]
fn s4_the_end_of_a_connection_behind_a_lost_answer_says_nothing() {
    for begun in [false, true] {
        let mut scenario = asked();
        if begun {
            scenario.send(SERVER, &response(1));
        }
        scenario.lose(SERVER, 40).send(SERVER, &[]).close();
        let call = scenario.only_call();
        assert_eq!((call.outcome, call.status, call.ended), (Outcome::Unknown, None, None));
    }
}

/// Every run of the kernel program that sees what is sent was skipped, from the first byte to a reset: answered calls were said to be
/// aborted by the end of their connection.
#[test]
fn s4_calls_whose_answers_nobody_saw_are_not_aborted() {
    let mut scenario = Scenario::new();
    scenario.send(CLIENT, PREFACE).send(CLIENT, &settings());
    for stream in [1, 3] {
        scenario.send(CLIENT, &request(stream, METHOD)).send(CLIENT, &data(stream, END_STREAM, &message(5)));
    }
    let calls = scenario.close().calls();
    assert_eq!(calls.len(), 2);
    for call in calls {
        assert_eq!((call.outcome, call.status, call.ended), (Outcome::Unknown, None, None));
        assert_eq!((call.response.exact, call.request.exact), (false, true));
    }
}

/// The same from somewhere in the middle, where the place in the frames was lost and not found again before the call began.
#[test]
fn s4_a_call_that_begins_behind_the_lost_place_of_its_answers_is_not_aborted() {
    let mut scenario = Scenario::connected();
    scenario.lose(SERVER, 60).send(SERVER, &[]);
    scenario.wait(10).send(CLIENT, &request(1, METHOD)).send(CLIENT, &data(1, END_STREAM, &message(5)));
    let call = scenario.close().only_call();
    assert_eq!((call.outcome, call.ended, call.response.exact), (Outcome::Unknown, None, false));
}

/// The answer was in the last bytes before a reset, which were in a skipped run or had not been read: nothing behind them showed
/// that.
#[test]
fn s4_a_call_whose_answer_may_be_in_the_unseen_end_of_a_flow_is_not_aborted() {
    let unseen_end = |flow| {
        let mut scenario = asked();
        scenario.observer.handle_unseen_end(ConnectionId(1), flow);
        scenario.close().only_call()
    };
    let call = unseen_end(SERVER);
    assert_eq!((call.outcome, call.ended, call.response.exact), (Outcome::Unknown, None, false));
    // A request that the reset came into has no answer.
    assert_eq!(unseen_end(CLIENT).outcome, Outcome::Aborted);
}

/// The observation ended after the client had closed its end, and before the answer that was under way: a call that was answered
/// was reported as aborted.
#[test]
fn s4_the_end_of_one_end_says_nothing_where_the_observation_ends_before_the_other() {
    let mut scenario = asked();
    scenario.observer.handle_close(ConnectionId(1), scenario.now);
    assert_eq!(scenario.finish().only_call().outcome, Outcome::Unknown);

    let mut scenario = asked();
    scenario.observer.handle_end(ConnectionId(1), scenario.now);
    assert_eq!(scenario.finish().only_call().outcome, Outcome::Aborted, "both were closed");
}

/// The acknowledgement was in a flow that was not seen, and the PING was said to have had no answer.
#[test]
fn l4_a_ping_whose_answer_nobody_saw_is_not_unanswered() {
    for ms in [15_000, 25_000] {
        let mut scenario = Scenario::new();
        scenario.send(CLIENT, PREFACE).send(CLIENT, &settings()).send(CLIENT, &ping());
        scenario.wait(ms).close();
        let unanswered = |fact: &Observation| matches!(fact, Observation::PingUnanswered(_));
        assert!(!scenario.seen.iter().any(unanswered), "after {ms} ms");
    }
}

/// The server's WINDOW_UPDATEs and the end of its answer were in a flow that was not seen: the client was said to wait for credit,
/// on a stream that was open.
#[test]
fn w7_nobody_waits_for_credit_or_an_answer_that_nobody_saw() {
    let mut scenario = Scenario::new();
    scenario.send(CLIENT, PREFACE).send(CLIENT, &settings()).send(CLIENT, &request(1, METHOD));
    let whole = message(100_000);
    for payload in whole[..65_535].chunks(16_384) {
        scenario.send(CLIENT, &data(1, 0, payload));
    }
    let mut stalls = 0;
    scenario.wait(60_000).observer.visit_open_stalls(|_| stalls += 1);
    assert_eq!(stalls, 0);
    assert!(!scenario.observer.is_call_open(ConnectionId(1), 1));
    let mut open = Vec::new();
    scenario.observer.visit_open_calls(|call| open.push(call.uncertain));
    assert_eq!(open, [true]);
    scenario.close();
    assert!(!scenario.seen.iter().any(|fact| matches!(fact, Observation::Stalled(_))));
}

/// One that was joined in the client's flow first was said to be aborted, without a response.
#[test]
fn c2_what_the_other_flow_carries_before_it_is_joined_is_not_nothing() {
    let mut scenario = Scenario::joined_late();
    scenario.send(CLIENT, &request(9, METHOD)).send(CLIENT, &data(9, END_STREAM, &message(3)));
    scenario.close();
    let call = scenario.only_call();
    assert_eq!((call.outcome, call.response.exact), (Outcome::Unknown, false));
}

/// Reassembly may hold a request back for longer than it takes to find out that its answer is missing.
#[test]
fn c4_an_answer_may_be_lost_before_its_request_is_handled() {
    let mut scenario = Scenario::connected();
    let sent_at = scenario.now;
    scenario.wait(1).lose(SERVER, 60).send_at_boundary(SERVER, &ping());
    let request = request(1, METHOD);
    scenario.observer.handle_chunk(Chunk {
        connection: ConnectionId(1),
        flow: CLIENT,
        offset: scenario.offsets[0],
        time: sent_at,
        boundary: false,
        thread: 0,
        bytes: &request,
    });
    scenario.close();
    assert_eq!(scenario.only_call().outcome, Outcome::Unknown);
}

/// `started` was the moment when the missing part was noticed, which may be minutes later.
#[test]
fn c4_a_request_of_which_a_part_is_missing_has_no_start() {
    let mut scenario = Scenario::connected();
    let request = request(1, METHOD);
    let half = request.len() / 2;
    scenario.send(CLIENT, &request[..half]).wait(30_000).lose(CLIENT, (request.len() - half) as u64);
    scenario.send(CLIENT, &data(1, END_STREAM, &message(1)));
    scenario.send(SERVER, &response(1)).send(SERVER, &trailers(1, "0"));
    let call = scenario.only_call();
    assert_eq!((call.started, call.method, call.timeout), (None, None, Timeout::Unknown));
    assert_eq!(call.outcome, Outcome::Ok);
}

/// The same for the end.
#[test]
fn c4_trailers_of_which_a_part_is_missing_have_no_time() {
    let mut scenario = asked();
    let trailers = trailers(1, "0");
    scenario.send(SERVER, &response(1)).send(SERVER, &trailers[..14]).wait(30_000);
    scenario.lose(SERVER, trailers.len() as u64 - 14).send(SERVER, &ping());
    let call = scenario.only_call();
    assert_eq!((call.outcome, call.ended), (Outcome::Unknown, None));
}

/// A reset whose code was in a hole was not seen at all, and the call was reported as aborted in the end.
#[test]
fn c4_a_reset_without_its_code_ends_the_call() {
    let mut scenario = asked();
    scenario.send(CLIENT, &rst_stream(1, CANCEL)[..9]).lose(CLIENT, 4).send(CLIENT, &ping());
    let call = scenario.only_call();
    assert_eq!((call.outcome, call.status, call.rst_code), (Outcome::Unknown, None, None));
}

/// A GOAWAY of which the last stream was in a hole may have refused any stream.
#[test]
fn c4_a_goaway_without_its_last_stream_leaves_open_calls_unknown() {
    let mut scenario = asked();
    scenario.send(SERVER, &goaway(0, 0)[..9]).lose(SERVER, 8).send(SERVER, &ping());
    scenario.close();
    assert_eq!(scenario.only_call().outcome, Outcome::Unknown);
}

/// Messages were counted from where the first one was seen, and the count was said to be exact.
#[test]
fn g3_messages_of_a_response_whose_headers_were_lost_are_not_exact() {
    let mut scenario = Scenario::connected();
    scenario.lose(SERVER, 30).send_at_boundary(SERVER, &data(1, 0, &message(7)));
    scenario.send(SERVER, &trailers(1, "0"));
    scenario.send(CLIENT, &request(1, METHOD)).send(CLIENT, &data(1, END_STREAM, &message(5)));
    let call = scenario.only_call();
    assert_eq!((call.outcome, call.response.exact), (Outcome::Ok, false));
}

/// A loss says nothing of messages that can only come after it.
#[test]
fn g3_messages_are_exact_again_where_the_response_begins_after_the_loss() {
    let mut scenario = asked();
    scenario.lose(SERVER, 30).send_at_boundary(SERVER, &response(1));
    scenario.send(SERVER, &data(1, 0, &message(7))).send(SERVER, &trailers(1, "0"));
    let call = scenario.only_call();
    assert_eq!(call.response, Messages { count: 1, bytes: 7, exact: true });
}

/// The one record of a request's DATA was in a run of a kernel program that was missed: the call had no request messages,
/// exactly. Nothing of the client's flow came after it that would have told of the gap.
#[test]
fn g3_messages_of_a_request_whose_end_was_not_seen_are_not_exact() {
    let mut scenario = Scenario::connected();
    scenario.send(CLIENT, &request(1, METHOD));
    scenario
        .send(SERVER, &response(1))
        .send(SERVER, &data(1, 0, &message(7)))
        .send(SERVER, &trailers(1, "0"));
    let call = scenario.wait(200).only_call();
    assert_eq!((call.outcome, call.request.exact, call.response.exact), (Outcome::Ok, false, true));
}

/// A request that was not seen had no messages, exactly.
#[test]
fn g3_messages_of_a_request_that_was_not_seen_are_not_exact() {
    let mut scenario = Scenario::connected();
    scenario
        .send(SERVER, &response(1))
        .send(SERVER, &data(1, 0, &message(7)))
        .send(SERVER, &trailers(1, "0"));
    scenario.wait(3_000);
    assert!(!scenario.only_call().request.exact);
}

/// A loss in the first bytes, before the preface had told who the client is, was forgotten.
#[test]
fn c4_a_loss_before_the_client_is_known_is_remembered() {
    let mut scenario = Scenario::new();
    scenario.send(CLIENT, &PREFACE[..10]).lose(CLIENT, 200).send_at_boundary(CLIENT, &ping());
    scenario.send(SERVER, &settings()).send(SERVER, &response(1)).send(SERVER, &data(1, 0, &message(7)));
    scenario.send(SERVER, &trailers(1, "0")).wait(3_000);
    let call = scenario.only_call();
    assert_eq!((call.outcome, call.status, call.request.exact), (Outcome::Unknown, None, false));
}

/// A hole in the first SETTINGS made the whole flow "not HTTP/2": the next frame was expected to be SETTINGS again.
#[test]
fn c1_a_hole_in_the_first_settings_leaves_the_flow_http2() {
    let mut scenario = Scenario::new();
    scenario.send(CLIENT, PREFACE).send(CLIENT, &settings());
    scenario.send(SERVER, &settings()[..8]).lose(SERVER, 19).send_at_boundary(SERVER, &ping());
    scenario.send(CLIENT, &request(1, METHOD)).send(CLIENT, &data(1, END_STREAM, &message(5)));
    scenario.send(SERVER, &response(1)).send(SERVER, &trailers(1, "0"));
    assert_eq!(scenario.only_call().outcome, Outcome::Ok);
    assert_eq!(scenario.anomalies(), ["boundary_lost"]);
}

/// Fields beyond the limits of a list were taken for absent: no deadline, and an error without a status.
#[test]
fn h9_what_goes_over_the_limits_of_a_list_is_unknown() {
    let limits = Limits { header_list_fields: 7, ..Limits::default() };
    let mut scenario = Scenario::with_limits(limits);
    scenario.send(CLIENT, PREFACE).send(CLIENT, &settings()).send(SERVER, &settings());
    let more = [("a", "1"), ("grpc-timeout", "1S")];
    scenario.send(CLIENT, &request_with(1, METHOD, &more)).send(CLIENT, &data(1, END_STREAM, &message(5)));
    let mut fields = vec![(":status", "200")];
    fields.extend(std::iter::repeat_n(("b", "2"), 8));
    fields.push(("grpc-status", "0"));
    scenario.send(SERVER, &headers(1, END_STREAM | END_HEADERS, &fields));
    let call = scenario.only_call();
    assert_eq!((call.timeout, call.outcome), (Timeout::Unknown, Outcome::Unknown));
    assert_eq!(call.status_source, StatusSource::Unknown);
}

/// Requests whose `:path` is an entry from before the join were all one: `unresolved`.
#[test]
fn h8_methods_without_a_name_are_told_apart_by_the_entries_that_they_refer_to() {
    let mut scenario = Scenario::joined_late();
    // `:method: POST` and `:scheme: http` of the static table, the path and two constants of the dynamic one.
    let request = |stream: u32, path: u8| {
        frame(
            1,
            END_HEADERS,
            stream,
            &[
                0x83, 0x86, path, 0xbe, 0x0f, 0x10, 0x10, b'a', b'p', b'p', b'l', b'i', b'c', b'a', b't',
                b'i', b'o', b'n', b'/', b'g', b'r', b'p', b'c',
            ],
        )
    };
    for (stream, path) in [(9, 0xc0), (11, 0xc1), (13, 0xc0)] {
        scenario.send_at_boundary(CLIENT, &request(stream, path));
        scenario.send(CLIENT, &data(stream, END_STREAM, &message(3)));
        scenario.send_at_boundary(SERVER, &response(stream)).send(SERVER, &trailers(stream, "0"));
    }
    scenario.send(CLIENT, &support::request(15, METHOD)).send(CLIENT, &data(15, END_STREAM, &message(3)));
    scenario.send(SERVER, &response(15)).send(SERVER, &trailers(15, "0")).wait(200);
    let calls = scenario.calls();
    let seen: Vec<(Option<&str>, Option<u32>)> =
        calls.iter().map(|call| (call.method.as_deref(), call.method_ref)).collect();
    assert_eq!(seen, [(None, Some(1)), (None, Some(2)), (None, Some(1)), (Some(METHOD), None)]);
}
