//! HTTP/2 after an HTTP/1.1 upgrade, and HTTP/1.1 that stays what it is (checklist C5, X1).

mod support;

use agent_core::Observation;
use agent_core::observation::{CallType, Messages, Outcome, Timeout};
use support::*;

/// INITIAL_WINDOW_SIZE 1,000 and HEADER_TABLE_SIZE 0, in base64url.
const SETTINGS: &str = "AAQAAAPoAAEAAAAA";
const ACCEPTED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n";

fn request_head(more: &str) -> Vec<u8> {
    let head = format!(
        "POST /shop.Orders/Get HTTP/1.1\r\nHost: svc\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
         HTTP2-Settings: {SETTINGS}\r\nContent-Type: application/grpc\r\ngrpc-timeout: 5S\r\nTE: trailers\r\n{more}\r\n"
    );
    head.into_bytes()
}

/// The client's part, the server's agreement and hello, then the client's preface.
fn upgraded(cut: usize) -> Scenario {
    let mut scenario = Scenario::new();
    scenario.observer.trace_frames(true);
    let mut asked = request_head("Content-Length: 15\r\n");
    asked.extend(message(10));
    for part in asked.chunks(cut) {
        scenario.send(CLIENT, part);
    }
    let mut agreed = ACCEPTED.to_vec();
    agreed.extend(settings());
    for part in agreed.chunks(cut) {
        scenario.send(SERVER, part);
    }
    let mut hello = PREFACE.to_vec();
    hello.extend(settings_with(&[(4, 2_000)]));
    for part in hello.chunks(cut) {
        scenario.send(CLIENT, part);
    }
    scenario
}

#[test]
fn c5_the_request_that_asked_for_http2_is_stream_one_and_half_closed() {
    for cut in [1, 7, 10_000] {
        let mut scenario = upgraded(cut);
        assert_eq!(scenario.started(), 1, "cut at {cut}");
        scenario.wait(3);
        scenario.send(SERVER, &response(1)).send(SERVER, &data(1, 0, &message(20)));
        scenario.send(SERVER, &trailers(1, "0"));
        // Both ends have ended: nothing is waited for.
        let call = scenario.only_call();
        assert_eq!((call.stream, call.method.as_deref()), (1, Some("/shop.Orders/Get")));
        assert_eq!((call.outcome, call.call_type), (Outcome::Ok, CallType::Unary));
        assert_eq!(call.timeout, Timeout::Ns(5_000_000_000));
        assert_eq!(call.request, Messages { count: 1, bytes: 10, exact: true });
        assert_eq!(call.client_flow, Some(CLIENT));
        // The connection goes on as any other.
        scenario.send(CLIENT, &request(3, "/shop.Orders/List")).send(SERVER, &trailers_only(3, "5"));
        scenario.wait(1_000);
        assert_eq!(scenario.calls()[1].status, Some(5));
        assert!(scenario.finish().summary().http2);
        assert!(scenario.anomalies().is_empty(), "{:?}", scenario.anomalies());
    }
}

#[test]
fn c5_the_settings_of_the_upgrade_apply_until_the_clients_frame_does() {
    let mut scenario = Scenario::new();
    scenario.observer.trace_frames(true);
    scenario.send(CLIENT, &request_head(""));
    let mut agreed = ACCEPTED.to_vec();
    agreed.extend(settings());
    agreed.extend(response(1));
    agreed.extend(data(1, 0, &message(95)));
    scenario.send(SERVER, &agreed);
    let window = scenario.frames().iter().rev().find_map(|frame| frame.windows).expect("DATA");
    assert_eq!((window.connection, window.stream), (Some(65_435), Some(900)), "of 1,000");
    // Its HEADER_TABLE_SIZE is zero, so that a table size update to more is an error.
    scenario.send(SERVER, &frame(0x1, END_HEADERS | END_STREAM, 1, &[0x3f, 0xe1, 0x1f, 0x88]));
    assert_eq!(scenario.anomalies(), ["hpack"]);
    let mut scenario = upgraded(10_000);
    scenario.send(SERVER, &response(1)).send(SERVER, &data(1, 0, &message(95)));
    let window = scenario.frames().iter().rev().find_map(|frame| frame.windows).expect("DATA");
    assert_eq!(window.stream, Some(1_900), "of 2,000, by SETTINGS after the preface");
}

#[test]
fn c5_an_answer_that_is_seen_before_the_request_makes_no_difference() {
    let mut scenario = Scenario::new();
    let mut agreed = ACCEPTED.to_vec();
    agreed.extend(settings());
    agreed.extend(response(1));
    scenario.send(SERVER, &agreed).send(CLIENT, &request_head(""));
    scenario.send(CLIENT, PREFACE).send(CLIENT, &settings()).send(SERVER, &trailers(1, "0"));
    let call = scenario.only_call();
    assert_eq!((call.method.as_deref(), call.outcome), (Some("/shop.Orders/Get"), Outcome::Ok));
}

#[test]
fn c5_http1_without_an_agreed_upgrade_is_not_http2() {
    let plain = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec();
    let ok = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    for (asked, answer) in [(plain, &ok[..]), (request_head(""), ok)] {
        let mut scenario = Scenario::new();
        scenario.send(CLIENT, &asked).send(SERVER, answer).send(CLIENT, &asked).send(SERVER, answer);
        scenario.finish();
        assert!(scenario.calls().is_empty() && scenario.exchanges().is_empty());
        assert!(!scenario.summary().http2);
    }
}

#[test]
fn c5_an_endless_head_is_given_up() {
    let mut scenario = Scenario::new();
    scenario.send(CLIENT, b"GET / HTTP/1.1\r\n");
    for _ in 0..1_000 {
        scenario.send(CLIENT, b"x-more: of the same\r\n");
    }
    assert_eq!(scenario.anomalies(), ["not_http2"]);
    assert!(!scenario.finish().summary().http2);
}

#[test]
fn x1_grpc_web_over_http1_is_no_http2_and_no_call_is_invented() {
    let mut scenario = Scenario::new();
    let mut asked =
        b"POST /shop.Orders/Get HTTP/1.1\r\nHost: a\r\nContent-Type: application/grpc-web+proto\r\n\
        Content-Length: 15\r\n\r\n"
            .to_vec();
    asked.extend(message(10));
    let mut answer =
        b"HTTP/1.1 200 OK\r\nContent-Type: application/grpc-web+proto\r\nContent-Length: 40\r\n\r\n".to_vec();
    answer.extend(message(15));
    answer.extend(b"\x80\0\0\0\x0fgrpc-status:0\r\n");
    for _ in 0..2 {
        scenario.send(CLIENT, &asked).send(SERVER, &answer);
    }
    scenario.finish();
    assert!(!scenario.summary().http2);
    let calls = scenario.seen.iter().any(|fact| {
        matches!(
            fact,
            Observation::CallStarted(_) | Observation::CallEnded(_) | Observation::ExchangeEnded(_)
        )
    });
    assert!(!calls);
}
