//! Recordings that tests make themselves: frames, and a connection that carries them.
#![allow(dead_code, reason = "each test file uses a part of it")]

use agent_common::ring::Endpoints;

/// What a client begins with (RFC 9113 §3.4).
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The ends of a connection as the kernel side tells of them: IPv4 addresses and ports, and nothing else.
pub(crate) fn endpoints(local: ([u8; 4], u16), peer: ([u8; 4], u16)) -> Endpoints {
    let mapped = |address: [u8; 4]| std::net::Ipv4Addr::from(address).to_ipv6_mapped().octets();
    Endpoints {
        local_address: mapped(local.0),
        peer_address: mapped(peer.0),
        local_port: local.1,
        peer_port: peer.1,
        family: libc::AF_INET as u16,
        reserved: 0,
        network_namespace: 0,
        recognised: 0,
        cgroup: 0,
        comm: [0; 16],
    }
}

/// An HTTP/2 frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

/// A HEADERS frame of literal fields that enter no table (RFC 7541 §6.2.2).
pub(crate) fn headers(flags: u8, stream: u32, fields: &[(&str, &[u8])]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        assert!(name.len() < 127 && value.len() < 127, "a length of one octet");
        block.extend([0, name.len() as u8]);
        block.extend(name.as_bytes());
        block.push(value.len() as u8);
        block.extend(*value);
    }
    frame(1, flags, stream, &block)
}

/// A recording of one connection, IPv4 without link layer: who sends, and what.
pub(crate) fn recording(parts: &[(bool, Vec<u8>)]) -> Vec<u8> {
    let mut out = Vec::new();
    for field in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 262_144, 101] {
        out.extend(field.to_le_bytes());
    }
    // Each sequence number of the handshake is 0, so that data begins at 1.
    let mut next = [0_u32, 0];
    let mut packet = |client: bool, flags: u8, data: &[u8]| {
        let (from, to) = if client { (0, 1) } else { (1, 0) };
        let mut tcp = Vec::new();
        for port in if client { [40_000_u16, 50_051] } else { [50_051, 40_000] } {
            tcp.extend(port.to_be_bytes());
        }
        tcp.extend(next[from].to_be_bytes());
        tcp.extend(next[to].to_be_bytes());
        tcp.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
        tcp.extend(data);
        next[from] += data.len() as u32 + u32::from(flags & 2 != 0);
        let total = 20 + tcp.len() as u16;
        let mut ip = vec![0x45, 0];
        ip.extend(total.to_be_bytes());
        ip.extend([0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1 + from as u8, 10, 0, 0, 1 + to as u8]);
        ip.extend(tcp);
        for field in [1_700_000_000, 0, u32::from(total), u32::from(total)] {
            out.extend(field.to_le_bytes());
        }
        out.extend(ip);
    };
    packet(true, 2, &[]);
    packet(false, 0x12, &[]);
    for (client, data) in parts {
        packet(*client, 0x10, data);
    }
    out
}
