//! From a packet to its TCP segment: link layer, VLAN tags, IPv4 or IPv6.
//!
//! Lengths are those of the wire, which may be more than what was captured. Fragments are not put together:
//! TCP avoids them, and a segment that misses is a hole like any other.

use std::net::{IpAddr, SocketAddr};

use etherparse::{LaxNetSlice, LaxSlicedPacket, TransportSlice};

use super::container::Packet;

/// A TCP segment.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    /// Who sent it.
    pub source: SocketAddr,
    /// To whom.
    pub destination: SocketAddr,
    /// Sequence number of its first byte, or of its SYN.
    pub sequence: u32,
    /// Acknowledgment number, if it has one.
    pub acknowledgment: Option<u32>,
    /// SYN flag.
    pub syn: bool,
    /// FIN flag.
    pub fin: bool,
    /// RST flag.
    pub rst: bool,
    /// What was captured of its data.
    pub data: &'a [u8],
    /// Length of its data on the wire.
    pub wire_bytes: u32,
}

/// Why a packet holds no segment that can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Skipped {
    /// The link type is not understood.
    LinkType,
    /// Neither IPv4 nor IPv6.
    NotIp,
    /// Another protocol than TCP.
    NotTcp,
    /// A part of a fragmented IP packet.
    Fragment,
    /// Captured too short for its headers.
    HeadersCut,
    /// Its headers contradict themselves.
    Malformed,
}

impl Skipped {
    /// The name in summaries.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Skipped::LinkType => "link_type",
            Skipped::NotIp => "not_ip",
            Skipped::NotTcp => "not_tcp",
            Skipped::Fragment => "fragment",
            Skipped::HeadersCut => "headers_cut",
            Skipped::Malformed => "malformed",
        }
    }
}

// LINKTYPE_ numbers, https://www.tcpdump.org/linktypes.html.
const NULL: u16 = 0;
const ETHERNET: u16 = 1;
const RAW_BSD: u16 = 12;
const RAW_OPENBSD: u16 = 14;
const RAW: u16 = 101;
const LOOP: u16 = 108;
const LINUX_SLL: u16 = 113;
const IPV4: u16 = 228;
const IPV6: u16 = 229;
const LINUX_SLL2: u16 = 276;

const ETHER_IPV4: u16 = 0x0800;
const ETHER_IPV6: u16 = 0x86dd;
/// 802.1Q, 802.1ad and the number that was used before it.
const ETHER_VLAN: [u16; 3] = [0x8100, 0x88a8, 0x9100];

/// Finds the TCP segment in `packet`.
///
/// # Errors
/// There is none, for one of the reasons of [`Skipped`].
pub fn dissect<'a>(packet: &Packet<'a>) -> Result<Segment<'a>, Skipped> {
    let link_bytes = link_header_bytes(packet)?;
    let ip = packet.data.get(link_bytes..).ok_or(Skipped::HeadersCut)?;
    let wire_bytes = (packet.original_bytes as usize).saturating_sub(link_bytes);
    ip_segment(ip, wire_bytes)
}

/// Length of everything before the IP header.
fn link_header_bytes(packet: &Packet<'_>) -> Result<usize, Skipped> {
    let data = packet.data;
    let ether_type_at = |at: usize| {
        let bytes = data.get(at..at + 2).ok_or(Skipped::HeadersCut)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    };
    let (mut ether_type, mut at) = match packet.link_type {
        NULL | LOOP => {
            // An address family in the byte order of the machine that captured: 2 is IPv4 everywhere,
            // IPv6 is 10, 23, 24, 28 or 30. The IP version is checked below in any case.
            let family = data.get(..4).ok_or(Skipped::HeadersCut)?;
            let small = matches!(family, [_, 0, 0, 0] | [0, 0, 0, _]);
            return if small { Ok(4) } else { Err(Skipped::NotIp) };
        }
        RAW | RAW_BSD | RAW_OPENBSD | IPV4 | IPV6 => return Ok(0),
        ETHERNET => (ether_type_at(12)?, 14),
        LINUX_SLL => (ether_type_at(14)?, 16),
        LINUX_SLL2 => (ether_type_at(0)?, 20),
        _ => return Err(Skipped::LinkType),
    };
    while ETHER_VLAN.contains(&ether_type) {
        ether_type = ether_type_at(at + 2)?;
        at += 4;
    }
    match ether_type {
        ETHER_IPV4 | ETHER_IPV6 => Ok(at),
        _ => Err(Skipped::NotIp),
    }
}

/// `ip` is what was captured from the IP header on, `wire_bytes` how much there was.
fn ip_segment(ip: &[u8], wire_bytes: usize) -> Result<Segment<'_>, Skipped> {
    match ip.first().map(|byte| byte >> 4) {
        Some(4 | 6) => {}
        Some(_) => return Err(Skipped::NotIp),
        None => return Err(Skipped::HeadersCut),
    }
    let cut_or_malformed = if ip.len() < wire_bytes { Skipped::HeadersCut } else { Skipped::Malformed };
    let sliced = LaxSlicedPacket::from_ip(ip).map_err(|_| cut_or_malformed)?;
    let net = sliced.net.as_ref().ok_or(cut_or_malformed)?;
    // A length of zero stands for a packet that the network card was to cut up: then the recording knows it.
    let (source, destination, claimed_bytes): (IpAddr, IpAddr, usize) = match net {
        LaxNetSlice::Ipv4(slice) => {
            let header = slice.header();
            (header.source_addr().into(), header.destination_addr().into(), header.total_len().into())
        }
        LaxNetSlice::Ipv6(slice) => {
            let header = slice.header();
            let payload = usize::from(header.payload_length());
            let total = if payload == 0 { 0 } else { payload + 40 };
            (header.source_addr().into(), header.destination_addr().into(), total)
        }
        _ => return Err(Skipped::NotIp),
    };
    let payload = net.ip_payload_ref().ok_or(cut_or_malformed)?;
    if payload.fragmented {
        return Err(Skipped::Fragment);
    }
    if payload.ip_number != etherparse::IpNumber::TCP {
        return Err(Skipped::NotTcp);
    }
    let Some(TransportSlice::Tcp(tcp)) = &sliced.transport else {
        return Err(cut_or_malformed);
    };
    let ip_bytes = if claimed_bytes == 0 { wire_bytes } else { claimed_bytes };
    let captured_bytes = ip_bytes.min(ip.len());
    let header_bytes = captured_bytes.checked_sub(tcp.payload().len()).ok_or(Skipped::Malformed)?;
    let data_bytes = ip_bytes.checked_sub(header_bytes).ok_or(Skipped::Malformed)?;
    Ok(Segment {
        source: SocketAddr::new(source, tcp.source_port()),
        destination: SocketAddr::new(destination, tcp.destination_port()),
        sequence: tcp.sequence_number(),
        acknowledgment: tcp.ack().then(|| tcp.acknowledgment_number()),
        syn: tcp.syn(),
        fin: tcp.fin(),
        rst: tcp.rst(),
        data: tcp.payload(),
        wire_bytes: u32::try_from(data_bytes).map_err(|_| Skipped::Malformed)?,
    })
}

#[cfg(test)]
mod tests;
