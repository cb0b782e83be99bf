//! What requests say of the trace that they belong to.

mod support;

use agent_core::Observation;
use agent_core::observation::Traces;
use support::*;

const METHOD: &str = "/shop.Orders/Get";
const W3C: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const OPENCENSUS: &str = "AABL+S81d7NNpqPOkp0ODkc2AQDwZ6oLqQK3AgE";

fn traces(scenario: &Scenario) -> Vec<Traces> {
    let traces = |fact: &Observation| match fact {
        Observation::CallStarted(started) => Some(started.traces),
        _ => None,
    };
    scenario.seen.iter().filter_map(traces).collect()
}

/// A request whose last field is `field` as it stands in a header block, HPACK and all.
fn request_ending_in(stream: u32, field: &[u8]) -> Vec<u8> {
    let mut fields = block(&[
        (":method", "POST"),
        (":scheme", "http"),
        (":path", METHOD),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ]);
    fields.extend(field);
    frame(0x1, END_HEADERS, stream, &fields)
}

/// A literal that enters the table (RFC 7541 §6.2.1).
fn indexed_literal(name: &str, value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x40, name.len() as u8];
    bytes.extend(name.as_bytes());
    bytes.push(value.len() as u8);
    bytes.extend(value);
    bytes
}

/// The field that entered the table last (§6.1).
const NEWEST: &[u8] = &[0xbe];

#[test]
fn requests_of_one_trace_know_each_other_whatever_format_they_use() {
    let mut scenario = Scenario::connected();
    let fields = [
        ("traceparent", W3C),
        ("b3", "4bf92f3577b34da6a3ce929d0e0e4736-e457b5a2e4d86bd1-1"),
        ("x-b3-traceid", "4bf92f3577b34da6a3ce929d0e0e4736"),
        ("grpc-trace-bin", OPENCENSUS),
    ];
    for (stream, field) in (1..).step_by(2).zip(fields) {
        scenario.send(CLIENT, &request_with(stream, METHOD, &[field]));
    }
    // As C-core sends it where raw octets are allowed.
    let id = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736_u128.to_be_bytes();
    let raw = [&[0, 0, 0], id.as_slice(), &[1]].concat();
    scenario.send(CLIENT, &request_ending_in(9, &indexed_literal("grpc-trace-bin", &raw)));
    scenario.send(CLIENT, &request_ending_in(11, NEWEST));
    let traces = traces(&scenario);
    assert_eq!(traces.len(), 6);
    assert!(traces[0].trace.is_some());
    assert!(traces.iter().all(|other| *other == traces[0]), "{traces:?}");
}

#[test]
fn other_traces_and_requests_without_one_are_told_apart() {
    let mut scenario = Scenario::connected();
    scenario.send(CLIENT, &request_with(1, METHOD, &[("traceparent", W3C), ("x-request-id", "a-1")]));
    scenario.send(CLIENT, &request_with(3, METHOD, &[("x-b3-traceid", "a3ce929d0e0e4736")]));
    scenario.send(CLIENT, &request_with(5, METHOD, &[("x-request-id", "a-1"), ("b3", "0")]));
    scenario.send(CLIENT, &request_with(7, METHOD, &[("traceparent", "00-broken"), ("x-request-id", "")]));
    let traces = traces(&scenario);
    assert_ne!(traces[0].trace, traces[1].trace, "64 bits are the lower ones of another id");
    assert!(traces[1].trace.is_some());
    assert_eq!((traces[2].trace, traces[2].request), (None, traces[0].request));
    assert!(traces[0].request.is_some());
    assert_eq!(traces[3], Traces::default());
}

#[test]
fn an_id_from_before_the_join_or_from_a_hole_is_none() {
    let mut scenario = Scenario::joined_late();
    scenario.send_at_boundary(CLIENT, &request_ending_in(9, NEWEST));
    scenario.send(CLIENT, &request_ending_in(11, &indexed_literal("traceparent", W3C.as_bytes())));
    scenario.send(CLIENT, &request_ending_in(13, NEWEST));
    scenario.lose(CLIENT, 60).send_at_boundary(CLIENT, &request_ending_in(17, NEWEST));
    let traces = traces(&scenario);
    assert_eq!((traces[0], traces[3]), (Traces::default(), Traces::default()));
    assert!(traces[1].trace.is_some());
    assert_eq!(traces[1], traces[2], "what was seen to enter the table is known");
}

#[test]
fn t13_ids_are_in_no_output() {
    let mut scenario = Scenario::connected();
    scenario.send(CLIENT, &request_with(1, METHOD, &[("traceparent", W3C), ("x-request-id", "secret-id")]));
    scenario.send(SERVER, &trailers_only(1, "0")).wait(200).finish();
    let said = format!("{:?}", scenario.seen);
    assert!(!said.contains("secret-id") && !said.contains("4bf92f35"), "{said}");
}
