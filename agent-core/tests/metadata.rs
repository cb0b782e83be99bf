//! What header fields say of a call, and what is never kept of them (checklist G2, G4, G6, G10–G13, R, X).

mod support;

use agent_core::observation::{Messages, Outcome, Protocol, RetryPushback, StatusSource, Timeout};
use agent_core::{Observation, WellKnown};
use support::*;

const METHOD: &str = "/shop.Orders/Get";

/// A call with further request fields and these trailers.
fn call_with(request: &[(&str, &str)], trailers: &[(&str, &str)]) -> Scenario {
    let mut scenario = Scenario::connected();
    scenario.send(CLIENT, &request_with(1, METHOD, request)).send(CLIENT, &data(1, END_STREAM, &message(1)));
    scenario.send(SERVER, &response(1)).send(SERVER, &data(1, 0, &message(1)));
    scenario.send(SERVER, &headers(1, END_STREAM, trailers));
    scenario
}

#[test]
fn g2_the_path_is_reported_as_sent_and_case_matters() {
    for path in ["/a.B/C", "/a.b/c", "/a.B/D/C", "/", "a.B", "*", "/a b/ü"] {
        let mut scenario = Scenario::connected();
        scenario.send(CLIENT, &request(1, path)).send(SERVER, &trailers_only(1, "12")).wait(1_000);
        assert_eq!(scenario.only_call().method.as_deref(), Some(path));
    }
    // grpc-go answers 405 to another method than POST.
    let mut scenario = Scenario::connected();
    let get =
        [(":method", "GET"), (":scheme", "http"), (":path", METHOD), ("content-type", "application/grpc")];
    scenario.send(CLIENT, &headers(1, END_STREAM, &get));
    scenario.send(SERVER, &headers(1, END_STREAM, &[(":status", "405"), ("content-type", "text/plain")]));
    let call = scenario.only_call();
    assert_eq!((call.http_status, call.status, call.status_source), (Some(405), Some(2), StatusSource::Http));
}

#[test]
fn g4_compressed_messages_count_with_their_size_on_the_wire() {
    let mut scenario = Scenario::connected();
    scenario.send(CLIENT, &request_with(1, METHOD, &[("grpc-encoding", "gzip")]));
    let mut compressed = message(40);
    compressed[0] = 1;
    scenario.send(CLIENT, &data(1, END_STREAM, &compressed)).send(SERVER, &trailers_only(1, "0"));
    assert_eq!(scenario.only_call().request, Messages { count: 1, bytes: 40, exact: true });
}

#[test]
fn g6_grpc_status_wins_over_the_http_status_and_odd_ones_are_unknown() {
    for (http, status, expected) in [
        ("503", "5", 5),
        ("200", "17", 2),
        ("200", "OK", 2),
        ("404", "0", 0),
        ("200", "-1", 2),
        ("200", "", 2),
    ] {
        let mut scenario = Scenario::connected();
        scenario.send(CLIENT, &request(1, METHOD)).send(CLIENT, &data(1, END_STREAM, &[]));
        scenario.send(SERVER, &headers(1, END_STREAM, &[(":status", http), ("grpc-status", status)]));
        let call = scenario.only_call();
        assert_eq!(call.status, Some(expected), "{http} {status:?}");
        assert_eq!(call.status_source, StatusSource::TrailersOnly);
    }
    for message in ["", "OK"] {
        let scenario = call_with(&[], &[("grpc-status", "0"), ("grpc-message", message)]);
        assert_eq!(scenario.only_call().outcome, Outcome::Ok);
    }
}

#[test]
fn g9_a_reset_after_the_trailers_changes_nothing() {
    for (by, code) in [(SERVER, 0), (CLIENT, 8), (SERVER, 2)] {
        let mut scenario = Scenario::connected();
        scenario.send(CLIENT, &request(1, METHOD)).send(SERVER, &trailers_only(1, "5"));
        scenario.send(by, &rst_stream(1, code)).wait(1_000).finish();
        let call = scenario.only_call();
        assert_eq!((call.outcome, call.status, call.rst_code), (Outcome::Error, Some(5), None));
    }
}

/// Everything that was observed, as text.
fn all_that_was_said(scenario: &mut Scenario) -> String {
    scenario.wait(1_000).finish();
    format!("{:?}", scenario.seen)
}

#[test]
fn g10_grpc_message_is_never_kept_whatever_it_holds() {
    for message in ["bad thing: 100%25 %C3%BCn%C3%AFcode%0Aline2", "%", "%zz%0", "%00\u{1b}[2J"] {
        let mut scenario = call_with(&[], &[("grpc-status", "13"), ("grpc-message", message)]);
        assert_eq!(scenario.only_call().status, Some(13));
        let said = all_that_was_said(&mut scenario);
        assert!(!said.contains("thing") && !said.contains("zz") && !said.contains("[2J"), "{said}");
    }
}

#[test]
fn g11_binary_fields_of_any_form_are_passed_over_and_never_kept() {
    let details = [
        ("grpc-status", "13"),
        ("grpc-status-details-bin", "CA0SBnNlY3JldA"),
        ("k-bin", "c2VjcmV0,c2VjcmV0="),
        ("k-bin", "not base64 at all!"),
    ];
    let mut scenario = call_with(&[("k-bin", "c2VjcmV0")], &details);
    let call = scenario.only_call();
    assert_eq!((call.status, call.method.as_deref()), (Some(13), Some(METHOD)));
    let said = all_that_was_said(&mut scenario);
    assert!(!said.contains("c2VjcmV0") && !said.contains("bnNlY3JldA"), "{said}");
}

#[test]
fn g12_raw_octets_in_binary_fields_are_understood_where_both_ends_allow_them() {
    for (client, server, expected) in [(1, 1, true), (1, 0, false), (0, 1, false)] {
        let mut scenario = Scenario::connected();
        scenario.send(CLIENT, &settings_with(&[(0xfe03, client)]));
        scenario.send(SERVER, &settings_with(&[(0xfe03, server)]));
        assert_eq!(scenario.finish().summary().binary_metadata, Some(expected));
    }
    assert_eq!(Scenario::connected().finish().summary().binary_metadata, Some(false));
    // SETTINGS from before the join are not known.
    let mut late = Scenario::joined_late();
    late.send(CLIENT, &request(1, METHOD)).send(SERVER, &trailers_only(1, "0")).finish();
    assert_eq!(late.summary().binary_metadata, None);
    // The values themselves: NUL, then any octets, in the middle of everything else.
    let mut scenario = Scenario::connected();
    scenario.observer.trace_frames(true);
    let raw = [0, 0, 1, 2, 0x80, 0xff, b',', b'\n'];
    let mut fields = block(&[(":method", "POST"), (":path", METHOD), ("content-type", "application/grpc")]);
    fields.extend([0x40, 5]);
    fields.extend(b"k-bin");
    fields.push(raw.len() as u8);
    fields.extend(raw);
    fields.extend(block(&[("grpc-timeout", "5S")]));
    scenario
        .send(CLIENT, &frame(0x1, END_HEADERS, 1, &fields))
        .send(SERVER, &trailers_only(1, "0"))
        .wait(1_000);
    let call = scenario.only_call();
    assert_eq!((call.timeout, call.outcome), (Timeout::Ns(5_000_000_000), Outcome::Ok));
    let frames = scenario.frames();
    let seen = frames.iter().flat_map(|frame| frame.headers.iter().flatten());
    assert!(seen.into_iter().any(|(_, value)| value.as_deref() == Some(&raw[..])));
}

#[test]
fn g13_fields_that_are_known_to_occur_change_nothing() {
    let request = [
        ("grpc-accept-encoding", "identity,deflate,gzip"),
        ("user-agent", "grpc-python/1.85.1 grpc-c/58.0.0 (linux; chttp2)"),
        ("traceparent", "00-d23f0824128b2f330c5c7fd0a6a3a450-1818e811892f902b-01"),
        ("baggage", "user=alice"),
        ("grpc-tags-bin", "AAAA"),
        ("grpc-trace-bin", "AAAA"),
        ("x-envoy-attempt-count", "1"),
        ("authorization", "Bearer secret"),
    ];
    let trailers = [("grpc-status", "0"), ("endpoint-load-metrics-bin", "CQAA"), ("lb-cost-bin", "AAAA")];
    let mut scenario = call_with(&request, &trailers);
    let call = scenario.only_call();
    assert_eq!((call.outcome, call.timeout, call.previous_attempts), (Outcome::Ok, Timeout::Absent, None));
    assert!(scenario.anomalies().is_empty());
    let said = all_that_was_said(&mut scenario);
    assert!(!said.contains("alice") && !said.contains("secret"));
}

#[test]
fn r1_an_attempt_carries_the_number_of_those_before_it() {
    for (sent, expected) in [(None, None), (Some("1"), Some(1)), (Some("4"), Some(4)), (Some("+1"), None)] {
        let fields: Vec<(&str, &str)> =
            sent.into_iter().map(|value| ("grpc-previous-rpc-attempts", value)).collect();
        let scenario = call_with(&fields, &[("grpc-status", "14")]);
        assert_eq!(scenario.only_call().previous_attempts, expected);
    }
}

#[test]
fn r2_pushback_is_read_from_trailers_and_nowhere_else() {
    for (value, expected) in [("250", RetryPushback::AfterMs(250)), ("-1", RetryPushback::DoNotRetry)] {
        let scenario = call_with(&[], &[("grpc-status", "14"), ("grpc-retry-pushback-ms", value)]);
        assert_eq!(scenario.only_call().retry_pushback, Some(expected));
    }
    let scenario = call_with(&[("grpc-retry-pushback-ms", "250")], &[("grpc-status", "14")]);
    assert_eq!(scenario.only_call().retry_pushback, None);
    // What is retryable is told by Trailers-Only: no response headers were committed before.
    let mut scenario = Scenario::connected();
    scenario.send(CLIENT, &request(1, METHOD)).send(CLIENT, &data(1, END_STREAM, &[]));
    let only = [(":status", "200"), ("grpc-status", "14"), ("grpc-retry-pushback-ms", "10")];
    scenario.send(SERVER, &headers(1, END_STREAM, &only));
    let call = scenario.only_call();
    assert_eq!(call.retry_pushback, Some(RetryPushback::AfterMs(10)));
    assert_eq!(call.status_source, StatusSource::TrailersOnly);
}

#[test]
fn x1_grpc_web_is_never_given_a_grpc_status() {
    for content_type in ["application/grpc-web", "application/grpc-web+proto", "application/grpc-web-text"] {
        let mut scenario = Scenario::connected();
        let asked = [(":method", "POST"), (":path", METHOD), ("content-type", content_type)];
        scenario.send(CLIENT, &headers(1, 0, &asked)).send(CLIENT, &data(1, END_STREAM, &message(3)));
        scenario.send(SERVER, &headers(1, 0, &[(":status", "200"), ("content-type", content_type)]));
        // The status is in the body, in a frame with the highest bit of its flags set.
        let mut body = message(5);
        body.extend(b"\x80\0\0\0\x0fgrpc-status:5\r\n");
        scenario.send(SERVER, &data(1, END_STREAM, &body)).wait(1_000).finish();
        assert!(scenario.calls().is_empty() && scenario.started() == 0);
        let exchanges = scenario.exchanges();
        assert_eq!(exchanges.len(), 1);
        assert_eq!((exchanges[0].protocol, exchanges[0].http_status), (Protocol::GrpcWeb, Some(200)));
    }
}

#[test]
fn x2_a_call_knows_the_well_known_service_that_it_belongs_to() {
    for (method, expected) in [
        ("/grpc.health.v1.Health/Watch", Some(WellKnown::HealthWatch)),
        ("/grpc.health.v1.Health/Check", Some(WellKnown::Health)),
        (METHOD, None),
    ] {
        let mut scenario = Scenario::connected();
        scenario.send(CLIENT, &request(1, method)).send(CLIENT, &data(1, END_STREAM, &message(1)));
        scenario.send(SERVER, &trailers_only(1, "0"));
        assert_eq!(scenario.only_call().well_known(), expected, "{method}");
        let started = scenario.seen.iter().find_map(|fact| match fact {
            Observation::CallStarted(started) => Some(started.well_known()),
            _ => None,
        });
        assert_eq!(started, Some(expected));
    }
}

#[test]
fn x1_after_a_late_join_grpc_web_is_not_taken_for_grpc() {
    let mut scenario = Scenario::joined_late();
    // Its content type is an entry from before the join, and its messages look like those of gRPC but for the last.
    let asked = frame(0x1, END_HEADERS, 5, &[0x83, 0x86, 0x80 | 62, 0x80 | 63]);
    scenario.send(CLIENT, &asked).send(CLIENT, &data(5, END_STREAM, &message(3)));
    let mut body = message(5);
    body.extend(b"\x80\0\0\0\x0fgrpc-status:5\r\n");
    scenario.send(SERVER, &frame(0x1, END_HEADERS, 5, &[0x88, 0x80 | 70]));
    scenario.send(SERVER, &data(5, END_STREAM, &body)).wait(2_000).finish();
    assert!(scenario.calls().is_empty(), "{:#?}", scenario.calls());
    assert_eq!(scenario.exchanges()[0].protocol, Protocol::Unknown);
}

#[test]
fn g3_an_end_inside_a_message_is_an_anomaly_and_the_message_is_not_counted() {
    let body = message(10);
    for (requests, responses, broken) in [(8, 15, true), (15, 3, true), (15, 15, false), (0, 0, false)] {
        let mut scenario = Scenario::connected();
        scenario.send(CLIENT, &request(1, METHOD)).send(CLIENT, &data(1, END_STREAM, &body[..requests]));
        scenario.send(SERVER, &response(1)).send(SERVER, &data(1, 0, &body[..responses]));
        scenario.send(SERVER, &trailers(1, "0"));
        let call = scenario.only_call();
        assert_eq!(call.request.count, u64::from(requests == 15));
        assert_eq!(call.response.count, u64::from(responses == 15));
        assert_eq!(scenario.anomalies() == ["message_cut_short"], broken, "{:?}", scenario.anomalies());
    }
    // A reset may come at any time.
    let mut scenario = Scenario::connected();
    scenario
        .send(CLIENT, &request(1, METHOD))
        .send(CLIENT, &data(1, 0, &body[..8]))
        .send(CLIENT, &rst_stream(1, 8));
    scenario.wait(1_000).finish();
    assert!(scenario.anomalies().is_empty());
}

#[test]
fn g6_a_status_that_the_specification_does_not_have_is_an_anomaly() {
    for (status, odd) in [("0", false), ("16", false), ("17", true), ("007", true), ("OK", true)] {
        let scenario = call_with(&[], &[("grpc-status", status)]);
        assert_eq!(scenario.anomalies() == ["grpc_status_syntax"], odd, "{status}");
    }
}
