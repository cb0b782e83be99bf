//! Much of one thing on one connection (T2 to T6): memory stays flat, and the end costs what the beginning did.

use std::time::Duration;

use crate::memory;
use crate::processor;
use crate::wire::*;

const KIB: isize = 1024;

/// Does something `times` times, in 100 parts, and shows that the last parts took no longer than the first: what a
/// flood costs depends on its length alone. Medians, since a busy machine makes single parts slow: its caches are shared.
fn linear(times: usize, mut run: impl FnMut(usize)) {
    const PARTS: usize = 100;
    let mut took: Vec<Duration> = Vec::new();
    for part in 0..PARTS {
        took.push(processor::time_of(|| {
            (times / PARTS * part..times / PARTS * (part + 1)).for_each(&mut run);
        }));
    }
    let median = |parts: &[Duration]| {
        let mut parts = parts.to_vec();
        parts.sort();
        parts[parts.len() / 2]
    };
    let (first, last) = (median(&took[10..40]), median(&took[70..]));
    assert!(last <= first * 4, "the end of the flood took {last:?} a part, its beginning {first:?}");
}

/// The connection still works: a call on it is seen.
fn still_works(feeder: &mut Feeder, stream: u32) {
    let before = (feeder.said.started, feeder.said.ended);
    feeder.send(CLIENT, &request(stream, "/still.Works/Here"));
    feeder.send(SERVER, &trailers_only(stream, "0"));
    feeder.wait(200_000_000);
    assert_eq!((feeder.said.started, feeder.said.ended), (before.0 + 1, before.1 + 1));
    assert_eq!(feeder.said.last_method.as_deref(), Some("/still.Works/Here"));
}

#[test]
fn t2_a_million_continuations_cost_neither_memory_nor_more_each() {
    let mut feeder = Feeder::connected();
    let continuation = frame(CONTINUATION, 0, 1, &[0x88; 16_384]);
    let growth = memory::growth_during(|| {
        feeder.send(CLIENT, &frame(HEADERS, 0, 1, &request_block(b"/a.B/C")));
        linear(1_000_000, |_| feeder.send(CLIENT, &continuation));
    });
    println!("T2: {growth} bytes of growth");
    assert!(growth <= 256 * KIB, "{growth}");
    assert_eq!(feeder.said.anomalies("header_block_too_long"), 1, "counted, once for the block");
    feeder.send(CLIENT, &frame(CONTINUATION, END_HEADERS, 1, &[]));
    still_works(&mut feeder, 3);
}

#[test]
fn t2_continuations_cut_anywhere_cost_as_little() {
    let mut feeder = Feeder::connected();
    let continuation = frame(CONTINUATION, 0, 1, &[0x88; 16_384]);
    let growth = memory::growth_during(|| {
        feeder.send(CLIENT, &frame(HEADERS, 0, 1, &request_block(b"/a.B/C")));
        linear(10_000, |_| continuation.chunks(1_448).for_each(|part| feeder.send(CLIENT, part)));
    });
    println!("T2, cut: {growth} bytes of growth");
    assert!(growth <= 256 * KIB, "{growth}");
}

#[test]
fn t2_empty_continuations_are_no_way_around_the_limit() {
    let mut feeder = Feeder::connected();
    let empty = frame(CONTINUATION, 0, 1, &[]).repeat(100);
    let growth = memory::growth_during(|| {
        feeder.send(CLIENT, &frame(HEADERS, 0, 1, &request_block(b"/a.B/C")));
        linear(10_000, |_| feeder.send(CLIENT, &empty));
    });
    println!("T2, empty: {growth} bytes of growth");
    assert!(growth <= 64 * KIB, "{growth}");
}

#[test]
fn t3_a_bomb_of_references_is_not_kept_and_the_next_block_is_right() {
    let mut feeder = Feeder::connected();
    // An entry of nearly the whole table, then a block of references to it.
    let mut block = request_block(b"/a.B/C");
    block.extend(literal(0x40, b"bomb", &[b'x'; 4_000]));
    feeder.send(CLIENT, &frame(HEADERS, END_HEADERS, 1, &block));
    feeder.send(CLIENT, &frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]));
    let mut bomb = request_block(b"/the.Bomb/C");
    bomb.resize(64 * 1024, 0xbe);
    let bomb = frame(HEADERS, END_HEADERS, 3, &bomb);
    // As many references to an entry of a few octets.
    let mut harmless = request_block(b"/the.Bomb/C");
    harmless.resize(64 * 1024, 0x82);
    let harmless = frame(HEADERS, END_HEADERS, 3, &harmless);
    let before = memory::live();
    let mut fastest = [Duration::MAX; 2];
    for stream in (3..83u32).step_by(2) {
        let kind = (stream / 2 % 2) as usize;
        let mut block = [&bomb, &harmless][kind].clone();
        block[5..9].copy_from_slice(&stream.to_be_bytes());
        fastest[kind] = fastest[kind].min(processor::time_of(|| feeder.send(CLIENT, &block)));
        feeder.send(CLIENT, &frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]));
    }
    let retained = memory::live() - before;
    let [bomb, harmless] = fastest;
    println!("T3: {retained} bytes retained, {bomb:?} a block, {harmless:?} one of small entries");
    assert!(retained <= 64 * KIB, "{retained}");
    assert!(bomb <= harmless * 8, "a reference is not copied: {bomb:?}, {harmless:?}");
    still_works(&mut feeder, 101);
    // The entry is still the newest one: a path by reference to a name that is not there would be an error.
    assert_eq!(feeder.said.anomalies("hpack"), 0);
}

#[test]
fn t4_a_million_table_sizes_cost_neither_memory_nor_more_each() {
    let mut feeder = Feeder::connected();
    // SETTINGS_HEADER_TABLE_SIZE of 2^32 - 1, acknowledged.
    feeder.send(SERVER, &frame(SETTINGS, 0, 0, &[0, 1, 0xff, 0xff, 0xff, 0xff]));
    feeder.send(CLIENT, &frame(SETTINGS, 1, 0, &[]));
    let sizes = [integer(0x20, 0x1f, 0), integer(0x20, 0x1f, 65_536)].concat();
    let mut block = sizes.repeat(50);
    block.extend(request_block(b"/a.B/C"));
    for number in 0..15u8 {
        block.extend(literal(0x40, &[b'a' + number], &[b'x'; 4_000]));
    }
    let mut stream = 1;
    let growth = memory::growth_during(|| {
        linear(10_000, |_| {
            feeder.send(CLIENT, &frame(HEADERS, END_HEADERS, stream, &block));
            feeder.send(CLIENT, &frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]));
            stream += 2;
        });
    });
    println!("T4: {growth} bytes of growth");
    assert_eq!(feeder.said.anomalies("hpack"), 0);
    // The frame itself, twice the table, and what it takes to move it.
    assert!(growth <= 2 * 64 * KIB + 256 * KIB, "{growth}");
    still_works(&mut feeder, stream);
}

#[test]
fn t5_integers_without_end_are_refused_and_the_connection_goes_on() {
    let mut feeder = Feeder::connected();
    let vectors: [&[u8]; 6] = [
        &[0x3f],
        &[0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        &[0xff, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01],
        &[0x80, 0x80, 0x80],
        &[0x40, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f],
        &[0x00, 0x7f, 0xff, 0xff, 0xff, 0x7f, b'a'],
    ];
    for (number, vector) in vectors.iter().enumerate() {
        feeder.send(CLIENT, &frame(HEADERS, END_HEADERS, 2 * number as u32 + 1, vector));
        assert_eq!(feeder.said.anomalies("hpack"), number as u64 + 1, "{vector:x?}");
    }
    still_works(&mut feeder, 101);
}

/// Sends what `pair` makes of each stream id, in packets of 50, and looks at memory after the first packets.
fn rapid_reset(pairs: u32, pair: impl Fn(&mut Feeder, &mut [u8], &mut [u8], u32)) -> (isize, Feeder) {
    let mut feeder = Feeder::connected();
    let (mut headers, mut reset) = (request(1, "/a.B/C"), frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]));
    let mut stream = 1u32;
    let mut round = |feeder: &mut Feeder| {
        headers[5..9].copy_from_slice(&stream.to_be_bytes());
        reset[5..9].copy_from_slice(&stream.to_be_bytes());
        pair(feeder, &mut headers, &mut reset, stream);
        stream += 2;
    };
    (0..1_000).for_each(|_| round(&mut feeder));
    let growth = memory::growth_during(|| linear(pairs as usize, |_| round(&mut feeder)));
    (growth, feeder)
}

#[test]
fn t6_ten_million_calls_that_are_reset_at_once_leave_nothing() {
    const PAIRS: u32 = 10_000_000;
    let (growth, mut feeder) = rapid_reset(PAIRS, |feeder, headers, reset, _| {
        feeder.send(CLIENT, headers);
        feeder.send(CLIENT, reset);
    });
    println!("T6, client resets: {growth} bytes of growth");
    assert!(growth <= 1_024 * KIB, "{growth}");
    feeder.finish();
    assert_eq!(
        (feeder.said.started, feeder.said.ended),
        (u64::from(PAIRS) + 1_000, u64::from(PAIRS) + 1_000)
    );
}

#[test]
fn t6_calls_that_the_server_is_made_to_reset_leave_nothing() {
    // The clock stands still: what is kept for a moment after an end must not pile up either.
    let (growth, feeder) = rapid_reset(1_000_000, |feeder, headers, reset, _| {
        feeder.send(CLIENT, headers);
        feeder.send(SERVER, reset);
    });
    println!("T6, server resets: {growth} bytes of growth");
    assert!(growth <= 1_024 * KIB, "{growth}");
    assert_eq!(feeder.said.started, 1_001_000);
}

#[test]
fn t6_calls_that_end_from_one_side_only_are_bounded_in_streams_and_timers() {
    let mut feeder = Feeder::connected();
    let mut growth_of_all = 0;
    let growth = memory::growth_during(|| {
        for stream in (1..400_001u32).step_by(2) {
            feeder.send(CLIENT, &request(stream, "/a.B/C"));
            // The response ends and the request does not, again and again.
            feeder.send(SERVER, &trailers_only(stream, "0"));
            feeder.send(SERVER, &trailers_only(stream, "0"));
            feeder.send(SERVER, &frame(DATA, END_STREAM, stream, &[]));
        }
        growth_of_all = feeder.observer.state_bytes();
    });
    println!("T6, half ends: {growth} bytes of growth, {growth_of_all} counted");
    assert!(growth <= 4_096 * KIB, "4,096 streams and their timers: {growth}");
    assert!(feeder.said.anomalies("streams_limit") > 0);
    feeder.wait(200_000_000);
    let left = feeder.observer.state_bytes();
    assert!(left <= 256 * 1024, "given back once they have ended: {left}");
}

#[test]
fn t6_floods_of_frames_that_say_nothing_leave_nothing() {
    let ping = frame(PING, 0, 0, &[0; 8]);
    let ping_ack = frame(PING, 1, 0, &[0; 8]);
    let settings = frame(SETTINGS, 0, 0, &[0, 1, 0, 0, 0x20, 0]);
    let settings_empty = frame(SETTINGS, 0, 0, &[]);
    let settings_ack = frame(SETTINGS, 1, 0, &[]);
    let empty_data = frame(DATA, 0, 1, &[]);
    let empty_data_on_closed = frame(DATA, END_STREAM, 77, &[]);
    let window_update = frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]);
    let goaway = frame(GOAWAY, 0, 0, &[0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
    let unknown = frame(0xfa, 0xff, 5, &[1, 2, 3]);
    let illegal = frame(PING, 0, 9, &[0; 8]);
    for (name, bytes) in [
        ("PING", &ping),
        ("PING ACK", &ping_ack),
        ("SETTINGS", &settings),
        ("empty SETTINGS", &settings_empty),
        ("SETTINGS ACK", &settings_ack),
        ("empty DATA", &empty_data),
        ("DATA on a stream that was never opened", &empty_data_on_closed),
        ("WINDOW_UPDATE", &window_update),
        ("GOAWAY", &goaway),
        ("unknown type", &unknown),
        ("PING on a stream", &illegal),
    ] {
        for flow in [CLIENT, SERVER] {
            let mut feeder = Feeder::connected();
            feeder.send(CLIENT, &request(1, "/a.B/C"));
            let packet = bytes.repeat(100);
            feeder.send(flow, &packet);
            let growth = memory::growth_during(|| linear(10_000, |_| feeder.send(flow, &packet)));
            assert!(growth <= 64 * KIB, "{name}: {growth}");
            feeder.finish();
            assert_eq!(
                (feeder.said.started, feeder.said.ended),
                (1, 1),
                "{name}: the one call, and no other"
            );
        }
    }
}

#[test]
fn t6_goaway_frames_over_many_open_streams_do_not_cost_a_step_for_each_stream() {
    let mut feeder = Feeder::connected();
    for number in 0..4_096u32 {
        feeder.send(CLIENT, &request(0x7000_0001 + 2 * number, "/a.B/C"));
    }
    linear(100_000, |number| {
        let last = 0x6fff_ffff - number as u32;
        let payload = [last.to_be_bytes(), [0; 4]].concat();
        feeder.send(SERVER, &frame(GOAWAY, 0, 0, &payload));
    });
    assert_eq!(feeder.said.anomalies("goaway_limit"), 100_000 - 64);
    feeder.finish();
    assert_eq!((feeder.said.started, feeder.said.ended), (4_096, 4_096));
}

#[test]
fn t20_chunks_that_pass_unread_do_not_cost_a_step_for_each_stream() {
    let [few, many] = [4, 4_096u32].map(|streams| {
        let mut feeder = Feeder::connected();
        for number in 0..streams {
            feeder.send(CLIENT, &request(2 * number + 1, "/a.B/C"));
        }
        // The server's flow loses its frame boundary, and nothing that follows looks like a frame.
        feeder.lose(SERVER, 100);
        feeder.send(SERVER, &[0xff; 20]);
        processor::time_of(|| (0..100_000).for_each(|_| feeder.send(SERVER, &[0xff])))
    });
    println!("T20, unread: 100,000 chunks take {few:?} beside 4 open streams, {many:?} beside 4,096");
    // Looking at each stream for each chunk takes hundreds of times as long.
    assert!(many <= few * 20, "{few:?}, {many:?}");
}

#[test]
fn t6_windows_that_are_empty_all_the_time_cost_as_little_with_many_streams() {
    let mut took = [Duration::ZERO; 2];
    for (took, streams) in took.iter_mut().zip([10u32, 4_000]) {
        let mut feeder = Feeder::connected();
        let settings = [0, 4, 0x7f, 0xff, 0xff, 0xff];
        feeder.send(SERVER, &frame(SETTINGS, 0, 0, &settings));
        for number in 0..streams {
            feeder.send(CLIENT, &request(2 * number + 1, "/a.B/C"));
            // The beginning of a long message.
            feeder.send(CLIENT, &frame(DATA, 0, 2 * number + 1, &[0, 0, 0xff, 0xff, 0xff, 0]));
        }
        let used = 6 * streams as usize;
        feeder.send(
            CLIENT,
            &vec![0; 65_535 - used].chunks(16_384).fold(Vec::new(), |mut frames, part| {
                frames.extend(frame(DATA, 0, 1, part));
                frames
            }),
        );
        // Each octet of credit is used at once, so that each pair of frames is a stall.
        let credit = frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]);
        let octet = frame(DATA, 0, 1, &[0]);
        *took = processor::time_of(|| {
            for _ in 0..20_000 {
                feeder.send(SERVER, &credit);
                feeder.send(CLIENT, &octet);
            }
        });
        assert_eq!(feeder.said.stalls, 20_000);
    }
    let [few, many] = took;
    println!("T6, empty windows: {few:?} with 10 streams, {many:?} with 4,000");
    assert!(many <= few * 8, "{many:?} with 4,000 streams, {few:?} with 10");
}
