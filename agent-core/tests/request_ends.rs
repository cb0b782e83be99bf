//! The end of a request, where it is read apart from the header block.

mod support;

use agent_core::observation::{Observation, RequestEnded};
use support::*;

const METHOD: &str = "/shop.Orders/Put";

/// The flow of the client at a socket that receives the requests.
const FROM_CLIENT: agent_core::Flow = SERVER;
const FROM_SERVER: agent_core::Flow = CLIENT;

fn request_ends(scenario: &Scenario) -> Vec<RequestEnded> {
    let ended = |fact: &Observation| match fact {
        Observation::RequestEnded(ended) => Some(*ended),
        _ => None,
    };
    scenario.seen.iter().filter_map(ended).collect()
}

/// A connection at the server's socket.
fn accepted() -> Scenario {
    let mut scenario = Scenario::new();
    scenario.send(FROM_CLIENT, &[PREFACE, &settings()].concat()).send(FROM_SERVER, &settings());
    scenario
}

#[test]
fn the_end_is_said_if_it_is_in_another_chunk_than_the_header_block() {
    let mut scenario = accepted();
    scenario.send(FROM_CLIENT, &request(1, METHOD)).wait(5);
    scenario.send(FROM_CLIENT, &data(1, 0, &message(5)));
    assert!(request_ends(&scenario).is_empty());
    // The next request is in the chunk of the end, and its own end in one with a third request.
    scenario.wait(5).send(FROM_CLIENT, &[data(1, END_STREAM, &[]), request(3, METHOD)].concat());
    let first = scenario.now;
    scenario.wait(5).send(FROM_CLIENT, &[request(5, METHOD), data(3, END_STREAM, &[])].concat());
    let ends: Vec<_> = request_ends(&scenario).iter().map(|end| (end.stream, end.thread, end.time)).collect();
    assert_eq!(ends, [(1, 7, first), (3, 7, scenario.now)]);
    // Trailers of a client.
    scenario.send(FROM_CLIENT, &headers(5, END_STREAM, &[("a", "b")]));
    assert_eq!(request_ends(&scenario).len(), 3);
    let position = |is: fn(&Observation) -> bool| scenario.seen.iter().position(is).expect("it was said");
    assert!(
        position(|fact| matches!(fact, Observation::CallStarted(_)))
            < position(|fact| matches!(fact, Observation::RequestEnded(_)))
    );
}

#[test]
fn it_is_not_said_if_it_is_in_the_same_chunk_or_at_the_clients_socket() {
    let mut scenario = accepted();
    scenario.send(FROM_CLIENT, &[request(1, METHOD), data(1, END_STREAM, &message(5))].concat());
    let both = [request(3, METHOD), request(5, METHOD), data(3, END_STREAM, &[]), data(5, END_STREAM, &[])];
    scenario.send(FROM_CLIENT, &both.concat());
    let fields =
        [(":method", "POST"), (":scheme", "http"), (":path", METHOD), ("content-type", "application/grpc")];
    scenario.send(FROM_CLIENT, &headers(7, END_STREAM, &fields));
    // The server's own end is none of a request.
    scenario.send(FROM_SERVER, &trailers_only(1, "0"));
    assert!(request_ends(&scenario).is_empty());

    let mut client = Scenario::connected();
    client.send(CLIENT, &request(1, METHOD)).send(CLIENT, &data(1, END_STREAM, &message(5)));
    assert!(request_ends(&client).is_empty());
}

#[test]
fn on_a_connection_that_was_joined_late_it_follows_the_call_that_was_started() {
    let mut scenario = Scenario::joined_late();
    // The content type is an entry from before the join: only the response tells that it is gRPC.
    let mut fields = block(&[(":method", "POST"), (":path", METHOD)]);
    fields.push(0xbe);
    scenario.send_at_boundary(FROM_CLIENT, &frame(0x1, END_HEADERS, 9, &fields)).wait(5);
    scenario.send(FROM_CLIENT, &data(9, END_STREAM, &message(5)));
    let ended = scenario.now;
    assert!(request_ends(&scenario).is_empty(), "it is not known to be a call");
    scenario.wait(5).send_at_boundary(FROM_SERVER, &response(9));
    let ends: Vec<_> = request_ends(&scenario).iter().map(|end| (end.stream, end.time)).collect();
    assert_eq!((scenario.started(), ends), (1, vec![(9, ended)]));
}

#[test]
fn an_end_in_a_hole_is_not_said() {
    let mut scenario = accepted();
    scenario.send(FROM_CLIENT, &request(1, METHOD)).lose(FROM_CLIENT, 14);
    scenario.send_at_boundary(FROM_CLIENT, &window_update(0, 9));
    scenario.send(FROM_SERVER, &response(1)).send(FROM_SERVER, &trailers(1, "0")).wait(200);
    assert_eq!((scenario.calls().len(), request_ends(&scenario).len()), (1, 0));
}
