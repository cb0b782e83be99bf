//! Every variant of the formats gives the same packets, and no broken file gives a wrong one.

use proptest::prelude::*;

use super::super::testing::{PcapKind, block};
use super::*;

/// Time, link type, data and original length of all packets, and how it ended.
type Read = (Vec<(u64, u16, Vec<u8>, u32)>, Result<(), String>);

fn read(bytes: &[u8]) -> Read {
    let mut packets = Vec::new();
    let mut container = match Container::open(bytes) {
        Ok(container) => container,
        Err(error) => return (packets, Err(error.to_string())),
    };
    loop {
        match container.next_packet() {
            Ok(Some(packet)) => {
                packets.push((packet.time.0, packet.link_type, packet.data.to_vec(), packet.original_bytes));
            }
            Ok(None) => return (packets, Ok(())),
            Err(error) => return (packets, Err(error.to_string())),
        }
    }
}

const FIRST: u64 = 1_795_340_250_137_301_000;

#[test]
fn pcap_of_either_byte_order_and_unit_gives_the_same_packets() {
    for big_endian in [false, true] {
        for nanoseconds in [false, true] {
            let kind = PcapKind { big_endian, nanoseconds };
            let file = kind.file(&[(FIRST, b"one", 3), (FIRST + 1_000, b"tw", 1_500)]);
            let expected = vec![(FIRST, 1, b"one".to_vec(), 3), (FIRST + 1_000, 1, b"tw".to_vec(), 1_500)];
            assert_eq!(read(&file), (expected, Ok(())), "{kind:?}");
        }
    }
}

#[test]
fn nanoseconds_are_kept() {
    let kind = PcapKind { big_endian: false, nanoseconds: true };
    assert_eq!(read(&kind.file(&[(FIRST + 7, b"x", 1)])).0[0].0, FIRST + 7);
}

#[test]
fn the_frame_check_bits_beside_the_link_type_are_not_part_of_it() {
    let mut file = PcapKind { big_endian: false, nanoseconds: false }.file(&[(FIRST, b"x", 1)]);
    file[23] = 0x24;
    assert_eq!(read(&file).0[0].1, 1);
}

/// A section with one interface of this resolution and one packet after `units` of it.
fn pcapng(big_endian: bool, resolution: Option<u8>, offset_seconds: i64, units: u64) -> Vec<u8> {
    let u16 = |value: u16| if big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
    let u32 = |value: u32| if big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
    let i64 = |value: i64| if big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
    let mut section = Vec::new();
    section.extend(u32(0x1a2b_3c4d));
    section.extend([u16(1), u16(0)].concat());
    section.extend([0xff; 8]);
    let mut interface = [u16(113), u16(0)].concat();
    interface.extend(u32(65_535));
    interface.extend([u16(2), u16(3)].concat());
    interface.extend(b"lo0\0");
    if let Some(resolution) = resolution {
        interface.extend([u16(9), u16(1)].concat());
        interface.extend([resolution, 0, 0, 0]);
    }
    interface.extend([u16(14), u16(8)].concat());
    interface.extend(i64(offset_seconds));
    interface.extend([0; 4]);
    let mut packet = Vec::new();
    for field in [0, (units >> 32) as u32, units as u32, 5, 1_500] {
        packet.extend(u32(field));
    }
    packet.extend(b"hello\0\0\0");
    // A comment after the data.
    packet.extend([u16(1), u16(2)].concat());
    packet.extend(b"hi\0\0");
    let mut file = block(big_endian, 0x0a0d_0d0a, &section);
    file.extend(block(big_endian, 1, &interface));
    file.extend(block(big_endian, 5, &[0; 12]));
    file.extend(block(big_endian, 6, &packet));
    file
}

#[test]
fn pcapng_times_follow_the_interface_s_resolution_and_offset() {
    for big_endian in [false, true] {
        for (resolution, offset, units, expected) in [
            (None, 0, FIRST / 1_000, FIRST),
            (Some(6), 0, FIRST / 1_000, FIRST),
            (Some(9), 0, FIRST + 7, FIRST + 7),
            (Some(3), 5, 1_500, 6_500_000_000),
            (Some(0x80 | 10), 0, 1_536, 1_500_000_000),
            (Some(0x80 | 32), 0, 3 << 31, 1_500_000_000),
            (Some(12), -1, 2_000_000_000_000, 1_000_000_000),
            (Some(0x7f), 0, 5, 0),
            (Some(0), i64::MIN, u64::MAX, 9_223_372_036_854_775_807_u64.saturating_mul(1_000_000_000)),
        ] {
            let (packets, end) = read(&pcapng(big_endian, resolution, offset, units));
            assert_eq!(end, Ok(()));
            assert_eq!(
                packets,
                [(expected, 113, b"hello".to_vec(), 1_500)],
                "{resolution:?} {offset} {units}"
            );
        }
    }
}

#[test]
fn a_second_section_may_have_another_byte_order_and_its_own_interfaces() {
    let file = [pcapng(false, None, 0, 1), pcapng(true, Some(9), 0, 2_000)].concat();
    let (packets, end) = read(&file);
    assert_eq!(end, Ok(()));
    assert_eq!(packets.iter().map(|packet| packet.0).collect::<Vec<_>>(), [1_000, 2_000]);
}

#[test]
fn simple_and_obsolete_packet_blocks_are_read() {
    let mut file = pcapng(false, None, 0, 7);
    let mut simple = 3_u32.to_le_bytes().to_vec();
    simple.extend(b"abc");
    file.extend(block(false, 3, &simple));
    let mut obsolete = vec![0; 8];
    for field in [9_u32, 2, 2] {
        obsolete.extend(field.to_le_bytes());
    }
    obsolete.extend(b"de");
    file.extend(block(false, 2, &obsolete));
    let (packets, end) = read(&file);
    assert_eq!(end, Ok(()));
    assert_eq!(packets[1..], [(7_000, 113, b"abc".to_vec(), 3), (9_000, 113, b"de".to_vec(), 2)]);
}

#[test]
fn what_is_no_recording_is_said_to_be_none() {
    for bytes in [&b"#!/bin/sh\necho hello\n"[..], b"ab", b"PRI * HTTP/2.0", b"\x0a\x0d\x0d\x0aabcdefgh"] {
        assert!(read(bytes).1.is_err_and(|text| text.starts_with("no recording")), "{bytes:?}");
    }
    assert_eq!(read(b"").1, Err("no recording: it is empty".to_owned()));
}

#[test]
fn a_cut_recording_gives_the_packets_before_the_cut_and_says_where_it_is() {
    let pcap =
        PcapKind { big_endian: false, nanoseconds: false }.file(&[(FIRST, b"one", 3), (FIRST, b"two", 3)]);
    let ng = [pcapng(false, None, 0, 1), block(false, 6, &[0; 20])].concat();
    for (file, boundaries) in [(&pcap, vec![24, 43, 62]), (&ng, Vec::new())] {
        for end in 4..file.len() {
            let (packets, result) = read(&file[..end]);
            let all = read(file).0;
            assert!(all.starts_with(&packets), "cut at {end}");
            if boundaries.contains(&end) {
                assert_eq!(result, Ok(()));
            } else if !boundaries.is_empty() {
                let expected = format!("truncated after packet {}", packets.len());
                assert!(result.is_err_and(|text| text.contains(&expected)), "cut at {end}");
            }
        }
    }
}

#[test]
fn a_packet_that_is_too_long_to_be_one_is_refused_and_takes_no_memory() {
    let mut file = PcapKind { big_endian: false, nanoseconds: false }.file(&[(FIRST, b"one", 3)]);
    file[24 + 8..24 + 12].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(read(&file).1.is_err_and(|text| text.contains("corrupt after packet 0")));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic_or_run_forever(
        magic in prop::sample::select(vec![
            [0xd4, 0xc3, 0xb2, 0xa1], [0xa1, 0xb2, 0x3c, 0x4d], [0x0a, 0x0d, 0x0d, 0x0a],
        ]),
        rest in prop::collection::vec(any::<u8>(), 0..512),
    ) {
        let mut file = magic.to_vec();
        file.extend(&rest);
        prop_assert!(read(&file).0.len() <= rest.len());
    }

    #[test]
    fn no_flipped_byte_makes_it_panic(at in 0_usize..200, value in any::<u8>()) {
        let mut file = [pcapng(false, Some(9), 3, 77), pcapng(true, None, 0, 1)].concat();
        let at = at % file.len();
        file[at] = value;
        let (packets, _) = read(&file);
        prop_assert!(packets.len() <= 2);
    }
}
