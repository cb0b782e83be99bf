//! Whom clients ask for, and what stands between them and their servers.

mod support;

use std::sync::Arc;

use agent_core::observation::{Intermediary, Observation};
use agent_core::{Chunk, ConnectionId, Limits, Observer};
use support::*;

const METHOD: &str = "/shop.Orders/Get";

fn authorities(seen: &[Observation]) -> Vec<(u64, Arc<str>)> {
    let authority = |fact: &Observation| match fact {
        Observation::Authority(seen) => Some((seen.connection.0, Arc::clone(&seen.authority))),
        _ => None,
    };
    seen.iter().filter_map(authority).collect()
}

fn intermediaries(scenario: &Scenario) -> Vec<Intermediary> {
    let kind = |fact: &Observation| match fact {
        Observation::Intermediary(seen) => Some(seen.kind),
        _ => None,
    };
    scenario.seen.iter().filter_map(kind).collect()
}

fn ask(stream: u32, authority: &[u8]) -> Vec<u8> {
    let mut fields = block(&[(":method", "POST"), (":scheme", "http"), (":path", METHOD)]);
    fields.extend([0x41, authority.len() as u8]); // `:authority`, enters the table
    fields.extend(authority);
    fields.extend(block(&[("content-type", "application/grpc")]));
    frame(0x1, END_HEADERS, stream, &fields)
}

#[test]
fn an_authority_is_said_once_and_again_when_it_changes() {
    let mut scenario = Scenario::connected();
    for (stream, authority) in (1..).step_by(2).zip(["a:1", "a:1", "b", "b", "a:1", "A:1"]) {
        scenario.send(CLIENT, &ask(stream, authority.as_bytes()));
    }
    let said = authorities(&scenario.seen);
    assert_eq!(said.iter().map(|(_, text)| &**text).collect::<Vec<_>>(), ["a:1", "b", "a:1", "A:1"]);
    assert!(Arc::ptr_eq(&said[0].1, &said[2].1), "one text is kept once");
    let first = |is: fn(&Observation) -> bool| scenario.seen.iter().position(is);
    assert!(
        first(|fact| matches!(fact, Observation::Authority(_)))
            < first(|fact| matches!(fact, Observation::CallStarted(_))),
        "it is known when the call starts"
    );
    // Not text, and the same all the same.
    scenario.send(CLIENT, &ask(21, b"a\xff")).send(CLIENT, &ask(23, b"a\xff"));
    assert_eq!(authorities(&scenario.seen).len(), 5);
    assert_eq!(&*authorities(&scenario.seen)[4].1, "a\u{fffd}");
}

#[test]
fn connections_share_an_authority_and_there_is_a_bound() {
    let mut observer = Observer::new(Limits { authorities: 2, ..Limits::default() });
    let mut seen = Vec::new();
    for (connection, authority) in [(1, "a"), (2, "a"), (3, "b"), (4, "c"), (5, "b")] {
        let bytes = [PREFACE, &settings(), &ask(1, authority.as_bytes())].concat();
        observer.handle_chunk(Chunk {
            connection: ConnectionId(connection),
            flow: CLIENT,
            offset: 0,
            time: agent_core::Timestamp(1),
            boundary: false,
            thread: 0,
            bytes: &bytes,
        });
        seen.extend(std::iter::from_fn(|| observer.poll_observation()));
    }
    let said = authorities(&seen);
    let connections: Vec<u64> = said.iter().map(|(connection, _)| *connection).collect();
    assert_eq!(connections, [1, 2, 3, 5]);
    assert!(Arc::ptr_eq(&said[0].1, &said[1].1) && Arc::ptr_eq(&said[2].1, &said[3].1));
    let limits = seen
        .iter()
        .filter(|fact| matches!(fact, Observation::Anomaly(anomaly) if anomaly.kind == "authorities_limit"));
    assert_eq!(limits.count(), 1);
}

#[test]
fn an_authority_from_before_the_join_or_from_a_hole_is_not_said() {
    let newest = |stream| {
        let mut fields =
            block(&[(":method", "POST"), (":path", METHOD), ("content-type", "application/grpc")]);
        fields.push(0xbe);
        frame(0x1, END_HEADERS, stream, &fields)
    };
    let mut scenario = Scenario::joined_late();
    scenario.send_at_boundary(CLIENT, &newest(9));
    assert!(authorities(&scenario.seen).is_empty());
    scenario.send(CLIENT, &ask(11, b"a")).send(CLIENT, &newest(13));
    scenario.lose(CLIENT, 40).send_at_boundary(CLIENT, &newest(17)).send(CLIENT, &ask(19, b"a"));
    assert_eq!(authorities(&scenario.seen).len(), 1);
    assert_eq!(scenario.started(), 5);
}

#[test]
fn what_stands_between_is_said_once_of_each_kind() {
    let answer = |stream, field| headers(stream, 0, &[(":status", "200"), field]);
    let mut scenario = Scenario::connected();
    for stream in (1..20).step_by(2) {
        scenario.send(CLIENT, &request(stream, METHOD));
    }
    for (stream, field) in [(1, ("server", "nginx")), (3, ("x-envoyed", "1")), (5, ("l5", "d-"))] {
        scenario.send(SERVER, &answer(stream, field));
    }
    assert!(intermediaries(&scenario).is_empty(), "nearly");
    scenario.send(SERVER, &answer(7, ("x-envoy-upstream-service-time", "3")));
    scenario.send(SERVER, &answer(9, ("server", "envoy")));
    scenario.send(SERVER, &answer(11, ("l5d-server-id", "x")));
    scenario.send(SERVER, &headers(11, END_STREAM, &[("grpc-status", "0"), ("via", "2 proxy")]));
    scenario.send(SERVER, &answer(13, ("via", "2 proxy")));
    assert_eq!(intermediaries(&scenario), [Intermediary::Envoy, Intermediary::Linkerd, Intermediary::Via]);
}

#[test]
fn fields_of_the_client_tell_nothing_of_what_answers_it() {
    let mut scenario = Scenario::connected();
    scenario.send(CLIENT, &request_with(1, METHOD, &[("x-envoy-expected-rq-timeout-ms", "5"), ("via", "1")]));
    assert!(intermediaries(&scenario).is_empty());
}

#[test]
fn a_field_whose_name_is_from_before_the_join_or_that_is_in_a_hole_shows_nothing() {
    let mut scenario = Scenario::joined_late();
    let unknown = frame(0x1, END_HEADERS, 9, &[0x88, 0xbe, 0xbf]);
    scenario.send_at_boundary(CLIENT, &request(9, METHOD)).send_at_boundary(SERVER, &unknown);
    scenario.lose(SERVER, 50).send_at_boundary(SERVER, &headers(9, END_STREAM, &[("grpc-status", "0")]));
    assert!(intermediaries(&scenario).is_empty());
    scenario.send(CLIENT, &request(11, METHOD));
    scenario.send(SERVER, &headers(11, 0, &[(":status", "200"), ("server", "envoy")]));
    assert_eq!(intermediaries(&scenario), [Intermediary::Envoy]);
}
