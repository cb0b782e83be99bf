//! Packets in, events out, one line each.

use super::super::testing::{ACK, FIN, RST, SYN, Tcp, tcp};
use super::*;

const CLIENT: &str = "10.0.0.1:40000";
const SERVER: &str = "10.0.0.2:50051";
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

fn c2s(flags: u8, sequence: u32, acknowledgment: u32, data: &[u8]) -> Tcp<'_> {
    tcp(CLIENT, SERVER, flags, sequence, acknowledgment, data)
}

fn s2c(flags: u8, sequence: u32, acknowledgment: u32, data: &[u8]) -> Tcp<'_> {
    tcp(SERVER, CLIENT, flags, sequence, acknowledgment, data)
}

/// The events of these segments, as text, and the counts.
fn events(segments: &[Tcp<'_>]) -> (Vec<String>, Statistics) {
    let mut tracker = Tracker::new(0);
    let mut lines = Vec::new();
    let mut sink = |event: Event<'_>| lines.push(line(&event));
    for (time, segment) in segments.iter().enumerate() {
        let data = segment.ethernet();
        let time = Timestamp(time as u64);
        let packet = Packet { time, link_type: 1, data: &data, original_bytes: data.len() as u32 };
        tracker.handle_packet(&packet, &mut sink);
    }
    let statistics = tracker.finish(&mut sink).clone();
    (lines, statistics)
}

fn line(event: &Event<'_>) -> String {
    let opened_by = |endpoints: &Endpoints| match endpoints.opened_by {
        Some(Flow::Sent) => "opened by first",
        Some(Flow::Received) => "opened by second",
        None => "joined late",
    };
    match event {
        Event::Opened { connection, endpoints } => {
            format!("{} {} {} {}", connection.0, endpoints.first, endpoints.second, opened_by(endpoints))
        }
        Event::Updated { connection, endpoints } => format!("{} {}", connection.0, opened_by(endpoints)),
        Event::Chunk(chunk) => {
            let text = String::from_utf8_lossy(chunk.bytes).escape_default().to_string();
            format!("{} {:?} {} {text}", chunk.connection.0, chunk.flow, chunk.offset)
        }
        Event::Closed { connection, flow, reset, .. } => {
            format!("{} {flow:?} {}", connection.0, if *reset { "reset" } else { "closed" })
        }
        Event::Ended { connection, .. } => format!("{} ended", connection.0),
    }
}

#[test]
fn a_connection_from_its_handshake_to_its_end() {
    let (lines, statistics) = events(&[
        c2s(SYN, 99, 0, b""),
        s2c(SYN | ACK, 499, 100, b""),
        c2s(ACK, 100, 500, b""),
        c2s(ACK, 100, 500, b"request"),
        s2c(ACK, 500, 107, b"response"),
        s2c(FIN | ACK, 508, 107, b""),
        c2s(FIN | ACK, 107, 509, b""),
        s2c(ACK, 509, 108, b""),
    ]);
    assert_eq!(
        lines,
        [
            "0 10.0.0.1:40000 10.0.0.2:50051 opened by first",
            "0 Sent 0 request",
            "0 Received 0 response",
            "0 Received closed",
            "0 Sent closed",
            "0 ended",
        ]
    );
    assert_eq!((statistics.packets, statistics.connections, statistics.flows.bytes), (8, 1, 15));
    assert_eq!(statistics.skipped, BTreeMap::new());
}

#[test]
fn both_directions_are_put_in_order_on_their_own() {
    let (lines, _) = events(&[
        c2s(SYN, 99, 0, b""),
        s2c(SYN | ACK, 499, 100, b""),
        c2s(ACK, 102, 500, b"c"),
        s2c(ACK, 501, 100, b"y"),
        c2s(ACK, 100, 500, b"ab"),
        s2c(ACK, 500, 103, b"x"),
    ]);
    assert_eq!(lines[1..], ["0 Sent 0 ab", "0 Sent 2 c", "0 Received 0 x", "0 Received 1 y"]);
}

#[test]
fn without_a_handshake_the_flows_are_joined_late() {
    let (lines, _) = events(&[s2c(ACK, 500, 107, b"response"), c2s(ACK, 107, 508, b"next")]);
    assert_eq!(
        lines,
        [
            "0 10.0.0.2:50051 10.0.0.1:40000 joined late",
            "0 Sent 4294967296 response",
            "0 Received 4294967296 next",
        ]
    );
}

#[test]
fn without_a_handshake_the_preface_is_the_beginning_of_both_flows() {
    let (lines, _) = events(&[c2s(ACK, 100, 500, PREFACE), s2c(ACK, 500, 124, SETTINGS)]);
    assert!(lines[1].starts_with("0 Sent 0 PRI * "), "{lines:?}");
    assert!(lines[2].starts_with("0 Received 0 "), "{lines:?}");
}

#[test]
fn settings_alone_are_not_the_beginning() {
    let (lines, _) = events(&[s2c(ACK, 500, 124, SETTINGS), c2s(ACK, 100, 500, b"more")]);
    assert!(lines[1].starts_with("0 Sent 4294967296 "), "{lines:?}");
}

#[test]
fn the_answer_to_a_syn_that_was_not_recorded_tells_where_both_flows_begin() {
    let (lines, _) =
        events(&[s2c(SYN | ACK, 499, 100, b""), c2s(ACK, 102, 500, b"c"), c2s(ACK, 100, 500, b"ab")]);
    assert_eq!(
        lines,
        ["0 10.0.0.2:50051 10.0.0.1:40000 opened by second", "0 Received 0 ab", "0 Received 2 c",]
    );
}

#[test]
fn data_that_travels_with_the_syn_stands_at_the_beginning() {
    let (lines, _) =
        events(&[c2s(SYN, 99, 0, b"fast"), s2c(SYN | ACK, 499, 104, b""), c2s(ACK, 104, 500, b"er")]);
    assert_eq!(lines[1..], ["0 Sent 0 fast", "0 Sent 4 er"]);
}

#[test]
fn a_repeated_syn_is_the_same_connection_and_another_sequence_number_a_new_one() {
    let (lines, statistics) = events(&[
        c2s(SYN, 99, 0, b""),
        c2s(SYN, 99, 0, b""),
        c2s(ACK, 100, 500, b"one"),
        c2s(SYN, 7_099, 0, b""),
        c2s(ACK, 7_100, 500, b"two"),
    ]);
    assert_eq!(
        lines,
        [
            "0 10.0.0.1:40000 10.0.0.2:50051 opened by first",
            "0 Sent 0 one",
            "0 ended",
            "1 10.0.0.1:40000 10.0.0.2:50051 opened by first",
            "1 Sent 0 two",
        ]
    );
    assert_eq!(statistics.connections, 2);
}

#[test]
fn ports_may_be_used_again_after_the_end_and_late_packets_belong_to_nobody() {
    let (lines, statistics) = events(&[
        c2s(SYN, 99, 0, b""),
        s2c(RST | ACK, 0, 100, b""),
        s2c(ACK, 500, 107, b"late"),
        c2s(ACK, 100, 504, b""),
        c2s(SYN, 99, 0, b""),
        c2s(SYN, 8_099, 0, b""),
        c2s(ACK, 8_100, 500, b"new"),
    ]);
    assert_eq!(
        lines,
        [
            "0 10.0.0.1:40000 10.0.0.2:50051 opened by first",
            "0 Received reset",
            "0 ended",
            "1 10.0.0.1:40000 10.0.0.2:50051 opened by first",
            "1 Sent 0 new",
        ]
    );
    assert_eq!(statistics.skipped, BTreeMap::from([("after_close", 1)]));
}

#[test]
fn a_reset_delivers_what_waited_with_its_hole_first() {
    let (lines, statistics) =
        events(&[c2s(SYN, 99, 0, b""), c2s(ACK, 103, 500, b"d"), c2s(RST, 104, 0, b"")]);
    assert_eq!(lines[1..], ["0 Sent 3 d", "0 Sent reset", "0 ended"]);
    assert_eq!((statistics.flows.holes, statistics.flows.hole_bytes), (1, 3));
}

#[test]
fn connections_are_numbered_by_their_first_packet_whatever_it_is() {
    let other = "10.0.0.9:1234";
    let (lines, _) = events(&[
        tcp(other, SERVER, ACK, 5, 5, b""),
        c2s(SYN, 99, 0, b""),
        tcp(SERVER, other, ACK, 5, 5, b"x"),
    ]);
    assert_eq!(
        lines,
        [
            "0 10.0.0.9:1234 10.0.0.2:50051 joined late",
            "1 10.0.0.1:40000 10.0.0.2:50051 opened by first",
            "0 Received 4294967296 x",
        ]
    );
}

#[test]
fn the_number_of_connections_is_bounded_and_the_silent_ones_go_first() {
    let mut tracker = Tracker::new(0);
    let (mut opened, mut ended) = (0_u64, Vec::new());
    let mut sink = |event: Event<'_>| match event {
        Event::Opened { .. } => opened += 1,
        Event::Ended { connection, .. } => ended.push(connection.0),
        Event::Updated { .. } | Event::Chunk(_) | Event::Closed { .. } => {}
    };
    for number in 0..=CONNECTIONS_MAX as u32 {
        let client = format!("10.{}.{}.{}:40000", number >> 16, number >> 8 & 0xff, number & 0xff);
        let data = tcp(&client, "172.16.0.1:50051", SYN, 99, 0, b"").ethernet();
        let packet = Packet {
            time: Timestamp(number.into()),
            link_type: 1,
            data: &data,
            original_bytes: data.len() as u32,
        };
        tracker.handle_packet(&packet, &mut sink);
        assert!(tracker.live <= CONNECTIONS_MAX);
    }
    assert_eq!(opened, CONNECTIONS_MAX as u64 + 1);
    assert_eq!(ended, (0..(CONNECTIONS_MAX / EVICTION_SHARE) as u64).collect::<Vec<_>>());
    assert_eq!(tracker.statistics().evicted_connections, ended.len() as u64);
}
