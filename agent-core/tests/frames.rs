//! Frames as a connection takes them (checklist C1, C3, F1–F8, H1): what is skipped, what is an anomaly, what must be decoded.

mod support;

use agent_core::observation::{Outcome, StatusSource};
use agent_core::{Flow, Observation};
use support::*;

const METHOD: &str = "/shop.Orders/Get";

/// A literal that enters the dynamic table (RFC 7541 §6.2.1), without Huffman coding.
fn indexed(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0x40, name.len() as u8];
    bytes.extend(name.as_bytes());
    bytes.push(value.len() as u8);
    bytes.extend(value.as_bytes());
    bytes
}

/// A request whose `:path` is the newest entry of the client's table.
fn request_by_reference(stream: u32) -> Vec<u8> {
    let mut bytes = vec![0x83, 0x86, 0x80 | 62];
    bytes.extend(block(&[("te", "trailers"), ("content-type", "application/grpc")]));
    frame(0x1, END_HEADERS | END_STREAM, stream, &bytes)
}

/// Trailers whose `grpc-status` is the newest entry of the server's table.
fn trailers_by_reference(stream: u32) -> Vec<u8> {
    frame(0x1, END_HEADERS | END_STREAM, stream, &[0x80 | 62])
}

#[test]
fn c1_a_flow_with_preface_or_settings_first_is_http2_and_no_other() {
    let recognised = |client: &[u8], server: &[u8]| {
        let mut scenario = Scenario::new();
        scenario.send(CLIENT, client).send(SERVER, server).finish().summary().http2
    };
    let hello = [PREFACE, &settings()].concat();
    assert!(recognised(&hello, &settings()), "empty SETTINGS are enough");
    assert!(!recognised(PREFACE, b""), "the preface alone is not");
    let ping = frame(0x6, 0, 0, b"12345678");
    assert!(!recognised(&[PREFACE, &ping].concat(), b""), "SETTINGS must be first");
    // A preface that is split over reads, at every place.
    for at in 1..hello.len() {
        let mut scenario = Scenario::new();
        scenario.send(CLIENT, &hello[..at]).send(CLIENT, &hello[at..]);
        assert!(scenario.finish().summary().http2, "split at {at}");
    }
}

#[test]
fn c3_direction_is_found_by_pseudo_header_fields_whichever_end_was_observed() {
    for (client, server) in [(Flow::Sent, Flow::Received), (Flow::Received, Flow::Sent)] {
        let mut scenario = Scenario::joined_late();
        scenario.send(client, &request(5, METHOD)).send(server, &response(5)).send(server, &trailers(5, "0"));
        scenario.wait(1_000);
        let call = scenario.only_call();
        assert_eq!((call.client_flow, call.method.as_deref()), (Some(client), Some(METHOD)));
        // A response alone tells it too.
        let mut scenario = Scenario::joined_late();
        scenario
            .send(server, &response(5))
            .send(client, &request(7, METHOD))
            .send(server, &trailers_only(7, "0"));
        scenario.wait(5_000);
        assert!(scenario.calls().iter().all(|call| call.client_flow == Some(client)));
        assert!(scenario.calls().iter().any(|call| call.method.as_deref() == Some(METHOD)));
    }
}

#[test]
fn c7_both_sides_of_a_connection_are_two_observations_told_by_their_side() {
    use agent_core::observation::Side;
    let sides: Vec<Side> = [(Flow::Sent, Flow::Received), (Flow::Received, Flow::Sent)]
        .into_iter()
        .map(|(client, server)| {
            let mut scenario = Scenario::new();
            scenario.send(client, PREFACE).send(client, &settings()).send(server, &settings());
            scenario.send(client, &request(1, METHOD)).send(server, &trailers_only(1, "0")).wait(1_000);
            Side::of(scenario.only_call().client_flow.expect("it is known"))
        })
        .collect();
    assert_eq!(sides, [Side::Client, Side::Server]);
}

#[test]
fn f1_unknown_types_and_undefined_flags_are_skipped() {
    let mut scenario = Scenario::connected();
    // ALTSVC, ORIGIN, PRIORITY_UPDATE, GREASE: with any flags, on any stream.
    for kind in [0x0a, 0x0c, 0x10, 0x0b, 0xff] {
        scenario.send(CLIENT, &frame(kind, 0xff, 1, b"whatever")).send(SERVER, &frame(kind, 0x1, 0, b""));
    }
    // END_STREAM's bit is nothing on CONTINUATION, WINDOW_UPDATE and RST_STREAM, and undefined bits are nothing.
    let whole = block(&[(":method", "POST"), (":path", METHOD), ("content-type", "application/grpc")]);
    scenario.send(CLIENT, &frame(0x1, 0x40, 1, &whole[..9]));
    scenario.send(CLIENT, &frame(0x9, END_HEADERS | 0x1, 1, &whole[9..]));
    scenario.send(SERVER, &frame(0x8, 0x1, 1, &[0, 0, 0, 9]));
    scenario.send(CLIENT, &data(1, 0x42, &message(3)));
    scenario.send(SERVER, &response(1)).send(SERVER, &trailers(1, "0"));
    assert!(scenario.calls().is_empty(), "the client has not ended");
    scenario.send(CLIENT, &data(1, END_STREAM, &message(4)));
    let call = scenario.only_call();
    assert_eq!((call.outcome, call.request.count), (Outcome::Ok, 2));
    assert!(scenario.anomalies().is_empty(), "{:?}", scenario.anomalies());
}

#[test]
fn f2_padding_that_is_too_long_is_an_anomaly_and_framing_goes_on() {
    let mut scenario = Scenario::connected();
    scenario.send(CLIENT, &request(1, METHOD)).send(CLIENT, &data(1, PADDED, &[9, 0, 0, 0]));
    scenario.send(CLIENT, &frame(0x1, END_HEADERS | PADDED, 3, &[200, 0x83]));
    scenario.send(CLIENT, &frame(0x1, END_HEADERS | PADDED | 0x20, 5, &[0, 0, 0]));
    assert_eq!(scenario.anomalies(), ["frame_padding", "frame_padding", "frame_size"]);
    scenario.send(CLIENT, &request(7, METHOD)).send(SERVER, &trailers_only(7, "0")).wait(1_000);
    assert_eq!(scenario.calls().iter().filter(|call| call.outcome == Outcome::Ok).count(), 1);
}

#[test]
fn f4_frames_of_a_wrong_length_or_stream_are_anomalies_and_change_nothing() {
    let mut scenario = Scenario::connected();
    scenario.send(CLIENT, &request(1, METHOD));
    scenario.send(SERVER, &frame(0x3, 0, 1, &[0, 0, 8])).send(SERVER, &frame(0x4, 0, 0, &[0, 4, 0, 0, 0]));
    scenario.send(SERVER, &frame(0x7, 0, 0, &[0; 7])).send(SERVER, &frame(0x8, 0, 1, &[0; 5]));
    scenario.send(SERVER, &frame(0x4, 0, 1, &[])).send(SERVER, &frame(0x6, 0, 1, b"12345678"));
    scenario.send(SERVER, &frame(0x3, 0, 0, &[0, 0, 0, 8]));
    assert_eq!(scenario.anomalies()[..4], ["frame_size"; 4]);
    assert_eq!(scenario.anomalies()[4..], ["frame_stream_id"; 3]);
    scenario.send(SERVER, &trailers_only(1, "0")).wait(1_000);
    assert_eq!(scenario.only_call().outcome, Outcome::Ok);
}

#[test]
fn f5_a_promised_request_is_decoded_in_the_servers_context_also_on_a_closed_stream() {
    for closed in [false, true] {
        let mut scenario = Scenario::connected();
        scenario.send(CLIENT, &request(1, METHOD)).send(CLIENT, &data(1, END_STREAM, &message(1)));
        if closed {
            scenario.send(SERVER, &trailers_only(1, "0"));
        }
        // The promised request's fields enter the table of the server's encoder.
        let mut promise = 2u32.to_be_bytes().to_vec();
        promise.extend([0x83, 0x86]);
        promise.extend(indexed(":path", "/pushed"));
        promise.extend(indexed("grpc-status", "13"));
        let (first, rest) = promise.split_at(promise.len() - 9);
        scenario.send(SERVER, &frame(0x5, 0, 1, first)).send(SERVER, &frame(0x9, END_HEADERS, 1, rest));
        // The pushed response is no call and no exchange; it counts for the table all the same.
        scenario.send(SERVER, &headers(2, 0, &[(":status", "200")]));
        scenario.send(SERVER, &data(2, END_STREAM, b"pushed"));
        scenario.send(CLIENT, &request(3, METHOD)).send(CLIENT, &data(3, END_STREAM, &message(1)));
        scenario.send(SERVER, &response(3)).send(SERVER, &trailers_by_reference(3));
        let calls = scenario.calls();
        let last = calls.last().expect("a call");
        assert_eq!((last.stream, last.status), (3, Some(13)), "closed: {closed}");
        assert!(scenario.finish().exchanges().is_empty());
        assert!(scenario.anomalies().is_empty(), "{:?}", scenario.anomalies());
    }
}

#[test]
fn f5_a_promise_of_a_client_or_of_no_stream_is_an_anomaly() {
    let mut scenario = Scenario::connected();
    scenario.send(SERVER, &frame(0x5, END_HEADERS, 1, &[0, 0, 0, 0, 0x83]));
    scenario.send(SERVER, &frame(0x5, END_HEADERS, 1, &[0, 0, 0, 3, 0x83]));
    assert_eq!(scenario.anomalies(), ["frame_promised_stream"; 2]);
}

#[test]
fn f6_settings_are_taken_in_order_and_unknown_ones_ignored() {
    let mut scenario = Scenario::connected();
    scenario.observer.trace_frames(true);
    // The table of the client's encoder may be 4,096 again after it was 0; 65,027 is C-core's, 0x0a0a nobody's.
    scenario.send(SERVER, &settings_with(&[(1, 0), (0x0a0a, 7), (65_027, 1), (1, 4_096), (4, 10), (4, 20)]));
    scenario.send(CLIENT, &frame(0x4, 0x1, 0, &[]));
    let mut request = indexed(":path", METHOD);
    request.extend(block(&[(":method", "POST"), ("content-type", "application/grpc")]));
    scenario.send(CLIENT, &frame(0x1, END_HEADERS, 1, &request)).send(CLIENT, &data(1, 0, &message(5)));
    scenario.send(CLIENT, &request_by_reference(3));
    let windows = scenario.frames().iter().find_map(|frame| frame.windows).expect("DATA");
    assert_eq!(windows.stream, Some(10), "20 less 10: the last one wins");
    scenario.finish();
    assert!(scenario.calls().iter().all(|call| call.method.as_deref() == Some(METHOD)));
    assert!(scenario.anomalies().is_empty());
}

#[test]
fn f6_a_smaller_table_is_in_force_once_it_is_acknowledged() {
    // Until the acknowledgement the encoder may not know of it; then a larger table is an error.
    let larger = [0x3f, 0xe1, 0x1f, 0x83]; // Table size update to 4,096.
    for (acknowledged, anomalies) in [(false, 0), (true, 1)] {
        let mut scenario = Scenario::connected();
        scenario.send(CLIENT, &frame(0x4, 0x1, 0, &[]));
        scenario.send(SERVER, &settings_with(&[(1, 100)]));
        if acknowledged {
            scenario.send(CLIENT, &frame(0x4, 0x1, 0, &[]));
        }
        scenario.send(CLIENT, &frame(0x1, END_HEADERS, 1, &larger));
        assert_eq!(scenario.anomalies().len(), anomalies, "acknowledged: {acknowledged}");
    }
}

#[test]
fn f7_padding_priority_continuation_and_empty_data_together_make_the_same_call() {
    let mut scenario = Scenario::connected();
    let whole = block(&[(":method", "POST"), (":path", METHOD), ("content-type", "application/grpc")]);
    // Pad length 2, exclusive dependency on 0 with weight 16, the first fragment, padding.
    let mut first = vec![2, 0x80, 0, 0, 0, 15];
    first.extend(&whole[..12]);
    first.extend([0, 0]);
    scenario.send(CLIENT, &frame(0x1, PADDED | 0x20, 1, &first));
    scenario.send(CLIENT, &frame(0x9, 0, 1, &[])).send(CLIENT, &frame(0x9, END_HEADERS, 1, &whole[12..]));
    scenario.send(CLIENT, &frame(0x2, 0, 1, &[0, 0, 0, 0, 7]));
    scenario.send(CLIENT, &data(1, 0, &[])).send(CLIENT, &data(1, PADDED, &[3, 0, 0, 0]));
    scenario.send(CLIENT, &data(1, PADDED, &[[1].as_slice(), &message(4), &[0]].concat()));
    scenario.send(CLIENT, &data(1, PADDED | END_STREAM, &[0]));
    scenario.send(SERVER, &response(1)).send(SERVER, &data(1, 0, &[])).send(SERVER, &trailers(1, "0"));
    let call = scenario.only_call();
    assert_eq!((call.method.as_deref(), call.outcome, call.request.bytes), (Some(METHOD), Outcome::Ok, 4));
    assert!(call.request.exact);
    assert!(scenario.anomalies().is_empty(), "{:?}", scenario.anomalies());
}

#[test]
fn f8_interim_responses_may_repeat_and_trailers_need_end_stream() {
    let mut scenario = Scenario::connected();
    scenario.send(CLIENT, &request(1, METHOD)).send(CLIENT, &data(1, END_STREAM, &message(1)));
    for status in ["100", "103", "103"] {
        scenario.send(SERVER, &headers(1, 0, &[(":status", status)]));
    }
    scenario.send(SERVER, &response(1));
    // A middle header block without END_STREAM ends nothing, whatever it says.
    scenario.send(SERVER, &headers(1, 0, &[("grpc-status", "13")]));
    assert!(scenario.calls().is_empty());
    scenario.send(SERVER, &trailers(1, "0"));
    let call = scenario.only_call();
    assert_eq!((call.status, call.status_source), (Some(0), StatusSource::Trailer));
    assert_eq!(call.http_status, Some(200));
}

#[test]
fn h1_blocks_of_ignored_refused_reset_and_closed_streams_update_the_table() {
    /// What it is called, and what comes before.
    type Case = (&'static str, fn(&mut Scenario));
    // Each case sends, on a stream that nobody follows, a block that inserts what a later request refers to.
    let insertion = || {
        let mut bytes = block(&[(":method", "POST")]);
        bytes.extend(indexed(":path", METHOD));
        bytes
    };
    let cases: [Case; 4] = [
        ("refused by GOAWAY", |s| _ = s.send(SERVER, &goaway(0, 0))),
        ("reset before", |s| _ = s.send(CLIENT, &request(1, "/a.B/C")).send(CLIENT, &rst_stream(1, 8))),
        ("closed", |s| {
            _ = s.send(CLIENT, &request(1, "/a.B/C")).send(CLIENT, &data(1, END_STREAM, &[]));
            _ = s.send(SERVER, &trailers_only(1, "0"));
        }),
        ("a server's id", |_| {}),
    ];
    for (name, prepare) in cases {
        let mut scenario = Scenario::connected();
        prepare(&mut scenario);
        let ignored = if name == "a server's id" { 2 } else { 1 };
        scenario.send(CLIENT, &frame(0x1, END_HEADERS | END_STREAM, ignored, &insertion()));
        scenario.send(CLIENT, &request_by_reference(9)).wait(1_000).finish();
        let calls = scenario.calls();
        let later = calls.iter().find(|call| call.stream == 9).expect("the later request");
        assert_eq!(later.method.as_deref(), Some(METHOD), "{name}");
    }
}

#[test]
fn h1_blocks_are_decoded_in_the_order_of_the_wire_and_not_of_completion() {
    let mut scenario = Scenario::connected();
    for stream in [1, 3] {
        scenario.send(CLIENT, &request(stream, METHOD)).send(CLIENT, &data(stream, END_STREAM, &message(1)));
    }
    // The trailers of stream 3 come first and insert; those of 1 refer to them.
    let mut inserting = vec![0x88];
    inserting.extend(block(&[("content-type", "application/grpc")]));
    inserting.extend(indexed("grpc-status", "7"));
    scenario.send(SERVER, &frame(0x1, END_HEADERS | END_STREAM, 3, &inserting));
    scenario.send(SERVER, &response(1)).send(SERVER, &trailers_by_reference(1));
    let statuses: Vec<_> = scenario.calls().iter().map(|call| (call.stream, call.status)).collect();
    assert_eq!(statuses, [(3, Some(7)), (1, Some(7))]);
}

#[test]
fn s1_ids_that_a_client_skips_are_closed_and_used_ones_do_not_come_back() {
    let mut scenario = Scenario::connected();
    scenario.send(CLIENT, &request(7, METHOD)).send(SERVER, &trailers_only(7, "0"));
    // 3 was skipped: a request on it is not allowed, and its answer is not followed.
    scenario.send(CLIENT, &request(3, METHOD)).send(SERVER, &trailers_only(3, "0"));
    assert_eq!(scenario.anomalies(), ["stream_id_reused"]);
    // The last id that there is.
    scenario.send(CLIENT, &request(0x7fff_ffff, METHOD)).send(SERVER, &trailers_only(0x7fff_ffff, "0"));
    scenario.wait(5_000).finish();
    let ids: Vec<u32> = scenario.calls().iter().map(|call| call.stream).collect();
    assert_eq!(ids, [7, 0x7fff_ffff]);
}

#[test]
fn s2_after_a_reset_by_either_end_what_still_arrives_changes_nothing() {
    for (by, ended) in [(CLIENT, Outcome::Cancelled), (SERVER, Outcome::Error)] {
        let mut scenario = Scenario::connected();
        scenario.send(CLIENT, &request(1, METHOD)).send(CLIENT, &data(1, 0, &message(1)));
        scenario.send(by, &rst_stream(1, if by == CLIENT { 8 } else { 2 }));
        scenario.send(CLIENT, &data(1, 0, &message(9))).send(CLIENT, &data(1, END_STREAM, &[]));
        scenario.send(SERVER, &response(1)).send(SERVER, &data(1, 0, &message(9)));
        scenario.send(SERVER, &trailers(1, "0")).wait(5_000).finish();
        let call = scenario.only_call();
        assert_eq!((call.outcome, call.request.count, call.response.count), (ended, 1, 0));
        assert_eq!(scenario.started(), 1);
    }
    // END_STREAM both ways closes it too.
    let mut scenario = Scenario::connected();
    scenario.send(CLIENT, &request(1, METHOD)).send(CLIENT, &data(1, END_STREAM, &message(1)));
    scenario.send(SERVER, &trailers_only(1, "0"));
    assert_eq!(scenario.calls().len(), 1);
    let facts = scenario.seen.len();
    scenario.send(SERVER, &rst_stream(1, 0)).send(SERVER, &trailers(1, "4")).wait(5_000);
    let new: Vec<&Observation> = scenario.seen[facts..].iter().collect();
    assert!(new.is_empty(), "{new:?}");
}

#[test]
fn f4_a_frame_is_too_long_above_the_largest_size_that_was_ever_allowed() {
    let mut scenario = Scenario::connected();
    scenario.send(CLIENT, &request(1, METHOD)).send(CLIENT, &data(1, 0, &[0; 16_384]));
    scenario.send(SERVER, &settings_with(&[(5, 30_000)])).send(CLIENT, &data(1, 0, &[0; 30_000]));
    // The client may not know yet that it is to be less again.
    scenario.send(SERVER, &settings_with(&[(5, 20_000)])).send(CLIENT, &data(1, 0, &[0; 30_000]));
    assert!(scenario.anomalies().is_empty());
    scenario.send(CLIENT, &data(1, 0, &[0; 30_001]));
    assert_eq!(scenario.anomalies(), ["frame_size"]);
    // Of a connection that was joined late nobody knows: C-core allows 4 MiB.
    let mut scenario = Scenario::joined_late();
    scenario.send(CLIENT, &request(1, METHOD)).send(CLIENT, &data(1, 0, &[0; 30_001]));
    assert!(scenario.anomalies().is_empty());
}
