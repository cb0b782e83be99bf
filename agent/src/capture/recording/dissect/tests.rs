//! The same segment comes out of every link layer, and nothing comes out of what is no segment.

use std::net::SocketAddr;

use agent_core::Timestamp;
use proptest::prelude::*;

use super::super::testing::{ACK, FIN, SYN, tcp};
use super::*;

const V4: (&str, &str) = ("10.0.0.1:40000", "10.0.0.2:443");
const V6: (&str, &str) = ("[fd00::1]:40000", "[fd00::2]:443");

fn packet(link_type: u16, data: &[u8]) -> Packet<'_> {
    Packet { time: Timestamp(0), link_type, data, original_bytes: data.len() as u32 }
}

fn with_header(header: &[u8], ip: &[u8]) -> Vec<u8> {
    [header, ip].concat()
}

#[test]
fn every_link_layer_gives_the_same_segment() {
    for (from, to) in [V4, V6] {
        let ip = tcp(from, to, ACK | FIN, 7, 9, b"payload").ip();
        let ether_type: &[u8] = if from.starts_with('[') { &[0x86, 0xdd] } else { &[0x08, 0x00] };
        let family: u8 = if from.starts_with('[') { 10 } else { 2 };
        let cases = [
            (ETHERNET, [&[0; 12], ether_type].concat()),
            (ETHERNET, [&[0; 12], &[0x81, 0x00, 0, 5][..], ether_type].concat()),
            (ETHERNET, [&[0; 12], &[0x88, 0xa8, 0, 5, 0x81, 0x00, 0, 6][..], ether_type].concat()),
            (LINUX_SLL, [&[0; 14], ether_type].concat()),
            (LINUX_SLL2, [ether_type, &[0; 18]].concat()),
            (RAW, Vec::new()),
            (RAW_BSD, Vec::new()),
            (IPV4, Vec::new()),
            (NULL, vec![family, 0, 0, 0]),
            (NULL, vec![0, 0, 0, family]),
            (LOOP, vec![0, 0, 0, family]),
        ];
        for (link_type, header) in cases {
            let data = with_header(&header, &ip);
            let segment = dissect(&packet(link_type, &data)).expect("it is a segment");
            assert_eq!(segment.source, from.parse::<SocketAddr>().expect("an address"));
            assert_eq!(segment.destination, to.parse::<SocketAddr>().expect("an address"));
            assert_eq!((segment.sequence, segment.acknowledgment), (7, Some(9)));
            assert_eq!((segment.syn, segment.fin, segment.rst), (false, true, false));
            assert_eq!((segment.data, segment.wire_bytes), (&b"payload"[..], 7));
        }
    }
}

#[test]
fn a_segment_without_ack_has_no_acknowledgment() {
    let data = tcp(V4.0, V4.1, SYN, 7, 9, b"").ethernet();
    let segment = dissect(&packet(ETHERNET, &data)).expect("it is a segment");
    assert_eq!((segment.syn, segment.acknowledgment), (true, None));
}

#[test]
fn padding_of_short_ethernet_frames_is_not_data() {
    let mut data = tcp(V4.0, V4.1, ACK, 7, 9, b"").ethernet();
    data.extend([0; 6]);
    let segment = dissect(&packet(ETHERNET, &data)).expect("it is a segment");
    assert_eq!((segment.data, segment.wire_bytes), (&b""[..], 0));
}

#[test]
fn a_packet_cut_by_the_snap_length_keeps_its_length_on_the_wire() {
    for (from, to) in [V4, V6] {
        let whole = tcp(from, to, ACK, 7, 9, &[1; 1_000]).ethernet();
        let cut = whole.len() - 900;
        let packet = Packet { original_bytes: whole.len() as u32, ..packet(ETHERNET, &whole[..cut]) };
        let segment = dissect(&packet).expect("the headers are there");
        assert_eq!((segment.data.len(), segment.wire_bytes), (100, 1_000));
        let packet = Packet { data: &whole[..60], ..packet };
        assert_eq!(dissect(&packet).err(), Some(Skipped::HeadersCut));
    }
}

#[test]
fn a_length_of_zero_is_that_of_a_packet_larger_than_the_field() {
    for (from, to, field) in [(V4.0, V4.1, 2..4), (V6.0, V6.1, 4..6)] {
        let mut ip = tcp(from, to, ACK, 7, 9, &[1; 3_000]).ip();
        ip[field].fill(0);
        let whole = ip.len() as u32;
        let segment = dissect(&packet(RAW, &ip)).expect("it is a segment");
        assert_eq!((segment.data.len(), segment.wire_bytes), (3_000, 3_000));
        let cut = Packet { original_bytes: whole, ..packet(RAW, &ip[..500]) };
        assert_eq!(dissect(&cut).expect("the headers are there").wire_bytes, 3_000);
    }
}

#[test]
fn what_is_no_segment_is_skipped_for_its_reason() {
    let whole = tcp(V4.0, V4.1, ACK, 7, 9, b"payload").ethernet();
    let changed = |at: usize, value: u8| {
        let mut data = whole.clone();
        data[at] = value;
        data
    };
    let arp = changed(13, 0x06);
    let udp = changed(14 + 9, 17);
    let fragment = changed(14 + 6, 0x20);
    let later_fragment = changed(14 + 7, 0x10);
    let short_tcp = changed(14 + 20 + 12, 0x10);
    let long_tcp = changed(14 + 20 + 12, 0xf0);
    let version = changed(14, 0x75);
    for (link_type, data, expected) in [
        (ETHERNET, &arp, Skipped::NotIp),
        (ETHERNET, &udp, Skipped::NotTcp),
        (ETHERNET, &fragment, Skipped::Fragment),
        (ETHERNET, &later_fragment, Skipped::Fragment),
        (ETHERNET, &short_tcp, Skipped::Malformed),
        (ETHERNET, &long_tcp, Skipped::Malformed),
        (ETHERNET, &version, Skipped::NotIp),
        (147, &whole, Skipped::LinkType),
    ] {
        assert_eq!(dissect(&packet(link_type, data)).err(), Some(expected), "{data:02x?}");
    }
}

proptest! {
    #[test]
    fn no_packet_makes_it_panic_or_invent_data(
        link_type in prop::sample::select(vec![NULL, ETHERNET, RAW, LINUX_SLL, LINUX_SLL2]),
        noise in prop::collection::vec(any::<u8>(), 0..128),
        at in 0_usize..80,
        value in any::<u8>(),
        original in any::<u32>(),
    ) {
        let mut data = tcp(V6.0, V6.1, ACK, 7, 9, &noise).ethernet();
        let at = at % data.len();
        data[at] = value;
        for data in [&data, &noise] {
            let packet = Packet { original_bytes: original.max(data.len() as u32), ..packet(link_type, data) };
            if let Ok(segment) = dissect(&packet) {
                prop_assert!(segment.data.len() as u64 <= u64::from(segment.wire_bytes).max(data.len() as u64));
            }
        }
    }
}
