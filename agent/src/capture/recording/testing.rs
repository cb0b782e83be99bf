//! For the tests: writes pcap and pcapng, and makes TCP packets.

use std::net::{IpAddr, SocketAddr};

/// TCP flags.
pub(super) const FIN: u8 = 1;
pub(super) const SYN: u8 = 2;
pub(super) const RST: u8 = 4;
pub(super) const ACK: u8 = 16;

/// A TCP segment to be made into a packet.
#[derive(Clone, Debug)]
pub(super) struct Tcp<'a> {
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    pub(super) sequence: u32,
    pub(super) acknowledgment: u32,
    pub(super) flags: u8,
    pub(super) data: &'a [u8],
}

pub(super) fn tcp<'a>(
    from: &str,
    to: &str,
    flags: u8,
    sequence: u32,
    acknowledgment: u32,
    data: &'a [u8],
) -> Tcp<'a> {
    let address = |text: &str| text.parse().expect("an address with a port");
    Tcp { from: address(from), to: address(to), sequence, acknowledgment, flags, data }
}

impl Tcp<'_> {
    /// The packet from its IP header on.
    pub(super) fn ip(&self) -> Vec<u8> {
        let mut tcp = Vec::new();
        tcp.extend(self.from.port().to_be_bytes());
        tcp.extend(self.to.port().to_be_bytes());
        tcp.extend(self.sequence.to_be_bytes());
        tcp.extend(self.acknowledgment.to_be_bytes());
        // Data offset of eight words: the header has twelve bytes of options.
        tcp.extend([0x80, self.flags, 0xff, 0xff, 0, 0, 0, 0]);
        tcp.extend([1; 12]);
        tcp.extend(self.data);
        let mut packet = match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let mut ip = vec![0x45, 0];
                ip.extend((20 + tcp.len() as u16).to_be_bytes());
                ip.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
                ip.extend(from.octets());
                ip.extend(to.octets());
                ip
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let mut ip = vec![0x60, 0, 0, 0];
                ip.extend((tcp.len() as u16).to_be_bytes());
                ip.extend([6, 64]);
                ip.extend(from.octets());
                ip.extend(to.octets());
                ip
            }
            _ => panic!("a packet has one IP version"),
        };
        packet.extend(tcp);
        packet
    }

    /// The packet in an Ethernet frame.
    pub(super) fn ethernet(&self) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend(if self.from.is_ipv4() { [0x08, 0x00] } else { [0x86, 0xdd] });
        frame.extend(self.ip());
        frame
    }
}

/// Byte order and unit of time of a pcap file.
#[derive(Clone, Copy, Debug)]
pub(super) struct PcapKind {
    pub(super) big_endian: bool,
    pub(super) nanoseconds: bool,
}

impl PcapKind {
    fn u32(self, value: u32) -> [u8; 4] {
        if self.big_endian { value.to_be_bytes() } else { value.to_le_bytes() }
    }

    /// A pcap file of Ethernet packets: time in nanoseconds, data, original length.
    pub(super) fn file(self, packets: &[(u64, &[u8], u32)]) -> Vec<u8> {
        let magic = if self.nanoseconds { 0xa1b2_3c4d } else { 0xa1b2_c3d4 };
        let mut out = Vec::new();
        for field in [magic, if self.big_endian { 0x0002_0004 } else { 0x0004_0002 }, 0, 0, 65_535, 1] {
            out.extend(self.u32(field));
        }
        for (time_ns, data, original) in packets {
            let fraction = (time_ns % 1_000_000_000) as u32;
            let fraction = if self.nanoseconds { fraction } else { fraction / 1_000 };
            for field in [(time_ns / 1_000_000_000) as u32, fraction, data.len() as u32, *original] {
                out.extend(self.u32(field));
            }
            out.extend(*data);
        }
        out
    }
}

/// A pcapng block: its type and body, padded and with its length at both ends.
pub(super) fn block(big_endian: bool, kind: u32, body: &[u8]) -> Vec<u8> {
    let number = |value: u32| if big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
    let total = 12 + body.len().next_multiple_of(4) as u32;
    let mut out = Vec::new();
    out.extend(number(kind));
    out.extend(number(total));
    out.extend(body);
    out.resize(out.len().next_multiple_of(4), 0);
    out.extend(number(total));
    out
}
