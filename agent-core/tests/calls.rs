//! From frames to calls: shapes that were seen on the wire of unmodified implementations, and what they mean.

mod support;

use agent_core::observation::{
    CallType, EndedBy, Messages, Observation, Outcome, Protocol, StatusSource, Sync, Timeout,
};
use support::*;

const METHOD: &str = "/shop.Orders/Get";

/// A unary call up to the end of the request.
fn asked(timeout: Option<&str>) -> Scenario {
    let mut scenario = Scenario::connected();
    let fields: Vec<(&str, &str)> = timeout.into_iter().map(|value| ("grpc-timeout", value)).collect();
    scenario.send(CLIENT, &request_with(1, METHOD, &fields));
    scenario.send(CLIENT, &data(1, END_STREAM, &message(10)));
    scenario
}

fn answer(scenario: &mut Scenario, status: &str) {
    scenario.send(SERVER, &response(1)).send(SERVER, &data(1, 0, &message(20)));
    scenario.send(SERVER, &trailers(1, status));
}

#[test]
fn a_unary_call_is_reported_once_with_all_that_is_known() {
    let mut scenario = asked(Some("5S"));
    scenario.wait(3);
    answer(&mut scenario, "0");
    let call = scenario.only_call();
    assert_eq!(call.method.as_deref(), Some(METHOD));
    assert_eq!(call.call_type, CallType::Unary);
    assert_eq!(call.timeout, Timeout::Ns(5_000_000_000));
    assert_eq!(
        (call.outcome, call.status, call.status_source),
        (Outcome::Ok, Some(0), StatusSource::Trailer)
    );
    assert_eq!(call.ended_by, Some(EndedBy::Server));
    assert_eq!(call.request, Messages { count: 1, bytes: 10, exact: true });
    assert_eq!(call.response, Messages { count: 1, bytes: 20, exact: true });
    let duration = call.ended.expect("it ended").since(call.started.expect("it started"));
    assert_eq!(duration, 3_000_000);
    assert_eq!(call.thread, 7);
    assert_eq!(scenario.started(), 1);
    assert_eq!(scenario.finish().calls().len(), 1, "nothing is left");
}

#[test]
fn g5_trailers_only_is_a_status_without_a_response() {
    let mut scenario = asked(None);
    scenario.send(SERVER, &trailers_only(1, "5"));
    let call = scenario.only_call();
    assert_eq!(
        (call.outcome, call.status, call.status_source),
        (Outcome::Error, Some(5), StatusSource::TrailersOnly)
    );
    assert_eq!(call.timeout, Timeout::Absent);
}

#[test]
fn g5_the_request_may_end_with_an_empty_data_frame() {
    let mut scenario = Scenario::connected();
    scenario.send(CLIENT, &request(1, METHOD)).send(CLIENT, &data(1, 0, &message(4)));
    scenario.send(CLIENT, &data(1, END_STREAM, &[]));
    answer(&mut scenario, "0");
    assert_eq!(scenario.only_call().request, Messages { count: 1, bytes: 4, exact: true });
}

#[test]
fn d4_every_wire_shape_of_an_exceeded_deadline_is_one() {
    /// Whether the client sent it, and the frame.
    type Frame = (bool, Vec<u8>);
    let shapes: [(&str, &[Frame], EndedBy); 7] = [
        ("1: client resets", &[(true, rst_stream(1, 8))], EndedBy::Client),
        (
            "2: client resets, then the server's status arrives",
            &[(true, rst_stream(1, 8)), (false, trailers_only(1, "4")), (false, rst_stream(1, 0))],
            EndedBy::Client,
        ),
        (
            "3: status, then the server resets",
            &[(false, trailers_only(1, "4")), (false, rst_stream(1, 0))],
            EndedBy::Server,
        ),
        (
            "4: status, both reset",
            &[(false, trailers_only(1, "4")), (false, rst_stream(1, 0)), (true, rst_stream(1, 8))],
            EndedBy::Server,
        ),
        (
            "5: status, client resets",
            &[(false, trailers_only(1, "4")), (true, rst_stream(1, 8))],
            EndedBy::Server,
        ),
        ("6: status only", &[(false, trailers_only(1, "4"))], EndedBy::Server),
        ("7: tonic's server says CANCELLED", &[(false, trailers_only(1, "1"))], EndedBy::Server),
    ];
    for (name, frames, ended_by) in shapes {
        let mut scenario = asked(Some("50m"));
        scenario.wait(50);
        for (from_client, bytes) in frames {
            scenario.send(if *from_client { CLIENT } else { SERVER }, bytes);
        }
        scenario.wait(1_000);
        let call = scenario.only_call();
        assert_eq!(call.outcome, Outcome::Deadline, "{name}");
        assert_eq!(call.ended_by, Some(ended_by), "{name}");
        assert_eq!(scenario.finish().calls().len(), 1, "{name}: reported once");
    }
}

#[test]
fn d4_the_status_as_sent_is_kept_beside_the_outcome() {
    let mut scenario = asked(Some("50m"));
    scenario.wait(51).send(SERVER, &trailers_only(1, "1"));
    let call = scenario.only_call();
    assert_eq!((call.outcome, call.status), (Outcome::Deadline, Some(1)));
}

#[test]
fn d5_a_reset_before_the_deadline_is_a_cancellation() {
    for timeout in [Some("5S"), None] {
        let mut scenario = asked(timeout);
        scenario.send(SERVER, &response(1)).send(SERVER, &data(1, 0, &message(1)));
        scenario.wait(7).send(CLIENT, &rst_stream(1, 8));
        scenario.send(SERVER, &data(1, 0, &message(1)));
        let call = scenario.only_call();
        assert_eq!((call.outcome, call.ended_by), (Outcome::Cancelled, Some(EndedBy::Client)));
        assert_eq!(call.rst_code, Some(8));
        assert_eq!(call.response.count, 1, "what comes after the reset is not part of the call");
    }
}

#[test]
fn d5_shortly_before_the_deadline_nobody_can_tell() {
    for (after_ms, expected) in [
        (29, Outcome::Cancelled),
        (31, Outcome::Unknown),
        (39, Outcome::Unknown),
        (40, Outcome::Deadline),
        (49, Outcome::Deadline),
        (500, Outcome::Deadline),
    ] {
        let mut scenario = asked(Some("50m"));
        scenario.wait(after_ms).send(CLIENT, &rst_stream(1, 8));
        let call = scenario.only_call();
        assert_eq!(call.outcome, expected, "after {after_ms} ms");
        assert!(call.ended.is_some(), "when it ended is known all the same");
    }
}

#[test]
fn d6_the_first_end_on_the_socket_decides() {
    let mut scenario = asked(Some("50m"));
    scenario.wait(60);
    answer(&mut scenario, "0");
    scenario.send(CLIENT, &rst_stream(1, 8));
    assert_eq!(scenario.only_call().outcome, Outcome::Ok);
}

#[test]
fn d1_an_invalid_timeout_is_no_deadline_and_an_anomaly() {
    let mut scenario = asked(Some("5s"));
    answer(&mut scenario, "0");
    assert_eq!(scenario.only_call().timeout, Timeout::Invalid);
    assert_eq!(scenario.anomalies(), ["timeout_syntax"]);
}

#[test]
fn s3_a_server_may_end_before_the_client_does() {
    // Trailers, RST_STREAM(NO_ERROR), then the client's empty END_STREAM: one call, OK.
    let mut scenario = Scenario::connected();
    scenario.send(CLIENT, &request(1, METHOD)).send(CLIENT, &data(1, 0, &message(4)));
    answer(&mut scenario, "0");
    scenario.send(SERVER, &rst_stream(1, 0)).send(CLIENT, &data(1, END_STREAM, &[]));
    assert_eq!(scenario.only_call().outcome, Outcome::Ok);
    assert_eq!(scenario.wait(1_000).finish().calls().len(), 1);
}

#[test]
fn s3_a_client_that_goes_on_sending_after_the_end_does_not_change_it() {
    let mut scenario = Scenario::connected();
    scenario.send(CLIENT, &request(1, METHOD)).send(CLIENT, &data(1, 0, &message(4)));
    scenario.send(CLIENT, &data(1, 0, &message(4)));
    scenario.send(SERVER, &trailers_only(1, "8"));
    assert_eq!(scenario.calls().len(), 0, "what is on its way may still arrive");
    scenario.wait(200);
    let call = scenario.only_call();
    assert_eq!((call.outcome, call.status), (Outcome::Error, Some(8)));
    scenario.send(CLIENT, &data(1, 0, &message(4))).send(CLIENT, &data(1, END_STREAM, &[]));
    assert_eq!(scenario.finish().calls().len(), 1);
}

#[test]
fn s4_a_lost_connection_aborts_open_calls_once() {
    let mut scenario = asked(None);
    scenario.wait(5).close();
    let call = scenario.only_call();
    assert_eq!((call.outcome, call.ended_by), (Outcome::Aborted, Some(EndedBy::Connection)));
    assert_eq!(call.status, None);
}

#[test]
fn a_call_that_is_open_at_the_end_of_the_observation_is_reported_as_open() {
    let mut scenario = asked(None);
    let call = scenario.finish().only_call();
    assert_eq!((call.outcome, call.ended, call.ended_by), (Outcome::Open, None, None));
}

#[test]
fn g6_the_last_grpc_status_wins() {
    let mut scenario = asked(None);
    scenario.send(SERVER, &response(1));
    scenario.send(SERVER, &headers(1, END_STREAM, &[("grpc-status", "0"), ("grpc-status", "13")]));
    assert_eq!(scenario.only_call().status, Some(13));
    assert_eq!(scenario.anomalies(), ["grpc_status_repeated"]);
}

#[test]
fn g7_a_response_that_is_not_grpc_is_mapped_from_its_http_status() {
    let mut scenario = asked(None);
    scenario.send(SERVER, &headers(1, 0, &[(":status", "503"), ("content-type", "text/plain")]));
    scenario.send(SERVER, &data(1, END_STREAM, b"no healthy upstream"));
    let call = scenario.only_call();
    assert_eq!(
        (call.outcome, call.status, call.status_source),
        (Outcome::Error, Some(14), StatusSource::Http)
    );
    assert_eq!(call.http_status, Some(503));
}

#[test]
fn g7_a_response_without_any_status_has_none() {
    let mut scenario = asked(None);
    scenario.send(SERVER, &response(1)).send(SERVER, &data(1, END_STREAM, &message(1)));
    let call = scenario.only_call();
    assert_eq!((call.outcome, call.status, call.status_source), (Outcome::Error, None, StatusSource::None));
}

#[test]
fn g8_a_reset_by_the_server_is_mapped() {
    for (code, outcome, status) in [
        (2, Outcome::Error, Some(13)),
        (7, Outcome::Refused, Some(14)),
        (8, Outcome::Cancelled, Some(1)),
        (11, Outcome::Error, Some(8)),
    ] {
        let mut scenario = asked(None);
        scenario.send(SERVER, &rst_stream(1, code));
        let call = scenario.only_call();
        assert_eq!((call.outcome, call.status), (outcome, status), "code {code}");
        assert_eq!((call.status_source, call.rst_code), (StatusSource::Rst, Some(code)));
        assert_eq!(call.ended_by, Some(EndedBy::Server));
    }
}

#[test]
fn g9_trailers_after_a_reset_are_decoded_but_not_counted_again() {
    let mut scenario = asked(None);
    scenario.send(CLIENT, &rst_stream(1, 8)).send(SERVER, &trailers_only(1, "1"));
    scenario.send(SERVER, &rst_stream(1, 0)).wait(1_000);
    assert_eq!(scenario.only_call().outcome, Outcome::Cancelled);
}

#[test]
fn f8_informational_responses_are_passed_over() {
    let mut scenario = asked(None);
    scenario.send(SERVER, &headers(1, 0, &[(":status", "103")]));
    scenario.send(SERVER, &trailers_only(1, "0"));
    let call = scenario.only_call();
    assert_eq!((call.http_status, call.status_source), (Some(200), StatusSource::TrailersOnly));
}

#[test]
fn f3_a_block_may_be_spread_over_continuation_frames() {
    let whole = block(&[
        (":method", "POST"),
        (":path", METHOD),
        ("content-type", "application/grpc"),
        ("grpc-timeout", "1S"),
    ]);
    let mut scenario = Scenario::connected();
    scenario.send(CLIENT, &frame(0x1, END_STREAM, 1, &whole[..10]));
    scenario.send(CLIENT, &frame(0x9, 0, 1, &whole[10..20]));
    scenario.send(CLIENT, &frame(0x9, END_HEADERS, 1, &whole[20..]));
    scenario.send(SERVER, &trailers_only(1, "0"));
    let call = scenario.only_call();
    assert_eq!(call.method.as_deref(), Some(METHOD));
    assert_eq!(call.timeout, Timeout::Ns(1_000_000_000));
}

#[test]
fn f3_an_interrupted_block_leaves_the_method_unknown_and_never_wrong() {
    let whole = block(&[(":method", "POST"), (":path", METHOD), ("content-type", "application/grpc")]);
    let mut scenario = Scenario::connected();
    scenario.send(CLIENT, &frame(0x1, 0, 1, &whole[..10]));
    scenario.send(CLIENT, &frame(0x6, 0, 0, b"12345678"));
    scenario.send(CLIENT, &data(1, END_STREAM, &message(3)));
    scenario.send(SERVER, &response(1)).send(SERVER, &trailers(1, "0"));
    let call = scenario.only_call();
    assert_eq!((call.method, call.timeout), (None, Timeout::Unknown));
    assert_eq!(call.outcome, Outcome::Ok);
    assert_eq!(scenario.anomalies(), ["header_block_interrupted"]);
}

#[test]
fn l1_streams_above_the_last_id_of_a_goaway_were_refused() {
    let mut scenario = asked(None);
    scenario.send(CLIENT, &request(3, METHOD));
    scenario.send(SERVER, &goaway(0x7fff_ffff, 0)).send(SERVER, &goaway(1, 0));
    let call = scenario.only_call();
    assert_eq!((call.stream, call.outcome, call.status), (3, Outcome::Refused, Some(14)));
    answer(&mut scenario, "0");
    assert_eq!(scenario.calls()[1].outcome, Outcome::Ok, "streams up to it go on");
}

#[test]
fn x3_plain_http2_is_counted_and_not_invented() {
    let mut scenario = Scenario::connected();
    scenario.send(
        CLIENT,
        &headers(1, END_STREAM, &[(":method", "GET"), (":path", "/index.html"), (":scheme", "http")]),
    );
    scenario.send(SERVER, &headers(1, 0, &[(":status", "404"), ("content-type", "text/html")]));
    scenario.send(SERVER, &data(1, END_STREAM, b"<html>"));
    assert_eq!((scenario.calls().len(), scenario.started()), (0, 0));
    let exchange = scenario.seen.iter().find_map(|fact| match fact {
        Observation::ExchangeEnded(exchange) => Some(exchange.clone()),
        _ => None,
    });
    let exchange = exchange.expect("an exchange");
    assert_eq!((exchange.protocol, exchange.http_status), (Protocol::Http, Some(404)));
}

#[test]
fn x1_grpc_web_is_seen_as_what_it_is() {
    let mut scenario = Scenario::connected();
    scenario.send(
        CLIENT,
        &headers(
            1,
            END_STREAM,
            &[(":method", "POST"), (":path", METHOD), ("content-type", "application/grpc-web+proto")],
        ),
    );
    scenario.send(SERVER, &headers(1, END_STREAM, &[(":status", "200")]));
    assert_eq!(scenario.calls().len(), 0);
    assert!(scenario.seen.iter().any(
        |fact| matches!(fact, Observation::ExchangeEnded(exchange) if exchange.protocol == Protocol::GrpcWeb)
    ));
}

#[test]
fn call_types_are_told_by_the_messages() {
    for (requests, responses, expected) in [
        (1, 1, CallType::Unary),
        (3, 1, CallType::ClientStream),
        (1, 3, CallType::ServerStream),
        (2, 2, CallType::Bidi),
        (1, 0, CallType::Unknown),
        (0, 0, CallType::Unknown),
    ] {
        let mut scenario = Scenario::connected();
        scenario.send(CLIENT, &request(1, METHOD));
        for _ in 0..requests {
            scenario.send(CLIENT, &data(1, 0, &message(4)));
        }
        scenario.send(CLIENT, &data(1, END_STREAM, &[])).send(SERVER, &response(1));
        for _ in 0..responses {
            scenario.send(SERVER, &data(1, 0, &message(4)));
        }
        scenario.send(SERVER, &trailers(1, "0"));
        assert_eq!(scenario.only_call().call_type, expected, "{requests} requests, {responses} responses");
    }
}

#[test]
fn a_response_that_is_seen_before_its_request_is_joined_with_it() {
    let mut scenario = Scenario::connected();
    scenario.send(SERVER, &response(1)).send(SERVER, &data(1, 0, &message(2)));
    scenario.send(SERVER, &trailers(1, "0"));
    assert_eq!(scenario.calls().len(), 0);
    scenario.send(CLIENT, &request(1, METHOD)).send(CLIENT, &data(1, END_STREAM, &message(3)));
    let call = scenario.only_call();
    assert_eq!((call.method.as_deref(), call.outcome), (Some(METHOD), Outcome::Ok));
    assert_eq!((call.request.count, call.response.count), (1, 1));
    assert_eq!(scenario.wait(5_000).finish().calls().len(), 1);
}

#[test]
fn a_clients_no_error_reset_waits_for_the_trailers_that_caused_it() {
    let mut scenario = Scenario::connected();
    scenario.send(CLIENT, &request(1, METHOD)).send(CLIENT, &data(1, 0, &message(3)));
    scenario.send(CLIENT, &rst_stream(1, 0));
    assert_eq!(scenario.calls().len(), 0);
    scenario.send(SERVER, &trailers_only(1, "8"));
    assert_eq!(scenario.only_call().status, Some(8));
}

#[test]
fn c4_a_hole_inside_data_changes_nothing() {
    let mut scenario = asked(None);
    scenario.send(SERVER, &response(1));
    let body = data(1, 0, &message(1_000));
    scenario.send(SERVER, &body[..14]).lose(SERVER, 1_000).send(SERVER, &trailers(1, "0"));
    let call = scenario.only_call();
    assert_eq!(
        (call.outcome, call.response),
        (Outcome::Ok, Messages { count: 1, bytes: 1_000, exact: true })
    );
    assert_eq!(call.call_type, CallType::Unary);
}

#[test]
fn c4_lost_trailers_leave_the_outcome_unknown() {
    let mut scenario = asked(None);
    scenario.lose(SERVER, 100);
    scenario.send_at_boundary(SERVER, &frame(0x6, 0, 0, b"12345678"));
    assert_eq!(scenario.anomalies(), ["boundary_lost"]);
    scenario.wait(120_000);
    let call = scenario.only_call();
    assert_eq!((call.outcome, call.ended), (Outcome::Unknown, None));
    assert_eq!(call.method.as_deref(), Some(METHOD), "what was known stays known");
}

#[test]
fn c4_a_call_after_a_loss_is_right_again() {
    let mut scenario = asked(None);
    scenario.lose(CLIENT, 57);
    scenario.send_at_boundary(CLIENT, &request_with(5, "/shop.Orders/List", &[("grpc-timeout", "1S")]));
    scenario.send(CLIENT, &data(5, END_STREAM, &message(1)));
    scenario.send(SERVER, &response(5)).send(SERVER, &data(5, 0, &message(1)));
    scenario.send(SERVER, &trailers(5, "0"));
    let call = scenario.only_call();
    assert_eq!((call.method.as_deref(), call.outcome), (Some("/shop.Orders/List"), Outcome::Ok));
    // Stream 3 was lost with its request, and with its cancellation if there was one: it ended, and that is all.
    scenario.send(SERVER, &response(3)).send(SERVER, &trailers(3, "0")).wait(2_000);
    let missed = &scenario.calls()[1];
    assert_eq!((missed.stream, missed.method.as_deref(), missed.started), (3, None, None));
    assert_eq!((missed.outcome, missed.status, missed.timeout), (Outcome::Unknown, None, Timeout::Unknown));
}

#[test]
fn c2_a_connection_joined_late_is_late_and_its_new_calls_are_right() {
    let mut scenario = Scenario::joined_late();
    scenario.send(SERVER, &data(7, 0, &message(30)));
    scenario.send(SERVER, &trailers(7, "0"));
    scenario.send(CLIENT, &request(9, METHOD)).send(CLIENT, &data(9, END_STREAM, &message(3)));
    scenario.send(SERVER, &response(9)).send(SERVER, &data(9, 0, &message(3)));
    scenario.send(SERVER, &trailers(9, "0")).wait(3_000);
    let calls = scenario.calls();
    let new = calls.iter().find(|call| call.stream == 9).expect("the new call");
    assert_eq!((new.method.as_deref(), new.outcome), (Some(METHOD), Outcome::Ok));
    assert!(new.response.exact);
    let states: Vec<Sync> = scenario
        .seen
        .iter()
        .filter_map(|fact| match fact {
            Observation::Connection(status) => Some(status.sync),
            _ => None,
        })
        .collect();
    assert_eq!(states.first(), Some(&Sync::Late));
}

#[test]
fn c6_other_protocols_are_not_taken_for_http2() {
    for bytes in [
        &b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\nb\r\n"[..],
        &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3],
        b"POST / HTTP/1.1\r\nhost: a\r\n\r\n",
        &[0; 100],
    ] {
        for mut scenario in [Scenario::new(), Scenario::joined_late()] {
            scenario.send(CLIENT, bytes).send(SERVER, bytes).send(CLIENT, bytes).finish();
            assert!(scenario.calls().is_empty());
            let recognised = scenario
                .seen
                .iter()
                .any(|fact| matches!(fact, Observation::ConnectionEnded(summary) if summary.http2));
            assert!(!recognised);
        }
    }
}

#[test]
fn m3_every_started_call_ends_exactly_once() {
    let mut scenario = Scenario::connected();
    for id in (1..200).step_by(2) {
        scenario.send(CLIENT, &request(id, METHOD));
        match id % 5 {
            0 => scenario.send(SERVER, &trailers_only(id, "0")),
            1 => scenario.send(CLIENT, &rst_stream(id, 8)),
            2 => scenario.send(SERVER, &rst_stream(id, 2)),
            _ => &mut scenario,
        };
    }
    scenario.wait(1_000).finish();
    assert_eq!(scenario.started(), 100);
    assert_eq!(scenario.calls().len(), 100);
}

#[test]
fn t7_streams_beyond_the_limit_are_counted_and_not_followed() {
    let mut scenario = Scenario::with_limits(agent_core::Limits {
        streams_per_connection: 2,
        ..agent_core::Limits::default()
    });
    scenario.send(CLIENT, PREFACE).send(CLIENT, &settings());
    for id in [1, 3, 5] {
        scenario.send(CLIENT, &request(id, METHOD));
    }
    assert_eq!(scenario.anomalies(), ["streams_limit"]);
    assert_eq!(scenario.finish().calls().len(), 2);
}

/// A gRPC request whose fields, but for `:method`, are entries from before the join: index 62 and up.
fn indexed_request(stream: u32, first_index: u8) -> Vec<u8> {
    let block = [0x83, 0x86, 0x80 | first_index, 0x80 | (first_index + 1), 0x80 | (first_index + 2)];
    frame(0x1, END_HEADERS, stream, &block)
}

#[test]
fn h11_a_late_joined_connection_learns_what_grpc_looks_like() {
    let mut scenario = Scenario::joined_late();
    // The messages of the first call show that it is gRPC; its trailers are not readable.
    scenario.send(CLIENT, &indexed_request(5, 62)).send(CLIENT, &data(5, END_STREAM, &message(3)));
    scenario.send(SERVER, &response(5)).send(SERVER, &data(5, 0, &message(3)));
    scenario.send(SERVER, &frame(0x1, END_HEADERS | END_STREAM, 5, &[0x80 | 70]));
    // The second has no messages at all, but the same content type.
    scenario.send(CLIENT, &indexed_request(7, 62)).send(CLIENT, &data(7, END_STREAM, &[]));
    scenario.send(SERVER, &frame(0x1, END_HEADERS | END_STREAM, 7, &[0x88, 0x80 | 70]));
    scenario.wait(2_000);
    let calls = scenario.calls();
    assert_eq!(calls.len(), 2, "{calls:#?}");
    for call in calls {
        assert_eq!((call.method, call.timeout), (None, Timeout::Unknown));
        assert_eq!((call.outcome, call.status), (Outcome::Unknown, None));
        assert_eq!(call.status_source, StatusSource::Unknown);
    }
}

#[test]
fn x3_an_unknown_request_without_such_evidence_is_not_called_grpc() {
    let mut scenario = Scenario::joined_late();
    scenario.send(CLIENT, &indexed_request(5, 62)).send(CLIENT, &data(5, END_STREAM, b"{\"json\": 1}"));
    scenario.send(SERVER, &response_without_type(5)).send(SERVER, &data(5, END_STREAM, b"{}")).wait(2_000);
    assert!(scenario.calls().is_empty());
}

fn response_without_type(stream: u32) -> Vec<u8> {
    headers(stream, 0, &[(":status", "200")])
}

#[test]
fn c4_a_call_that_was_opened_while_the_servers_frames_were_lost_is_not_said_to_be_aborted() {
    let mut scenario = asked(None);
    scenario.lose(SERVER, 100).send(SERVER, b"nothing that starts a frame");
    scenario.send(CLIENT, &request(3, METHOD)).send(CLIENT, &data(3, END_STREAM, &message(1)));
    scenario.lose(SERVER, 200).send(SERVER, b"nor this").wait(10).close();
    for call in scenario.calls() {
        assert_eq!(call.outcome, Outcome::Unknown, "stream {}", call.stream);
        assert!(!call.response.exact);
    }
    assert_eq!(scenario.calls().len(), 2);
}
