//! The one TCP connection of a recording, as chunks: what the core is given in the benches.
//!
//! Small on purpose: it takes a plain pcap file whose segments are in order, and stops where one is not. The
//! agent's reader, which takes everything, would bring the whole agent with it.

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

use agent_core::{Chunk, ConnectionId, Flow, Timestamp};
use etherparse::{SlicedPacket, TransportSlice};
use flate2::read::MultiGzDecoder;

/// Where the recordings are, seen from the repository.
const CORPORA: &str = "../../shared/corpora/live";

/// Magic number of a pcap file with microseconds, little endian.
const MAGIC: [u8; 4] = [0xd4, 0xc3, 0xb2, 0xa1];
const FILE_HEADER_BYTES: usize = 24;
const PACKET_HEADER_BYTES: usize = 16;

/// One connection, from its first byte.
pub struct Recording {
    /// Port of the end that was connected to.
    pub server_port: u16,
    /// In the order of the recording.
    pub pieces: Vec<Piece>,
    /// From the first packet to the last.
    pub duration_ns: u64,
    bytes: Vec<u8>,
}

/// What one segment carried.
pub struct Piece {
    /// [`Flow::Sent`] is the client's.
    pub flow: Flow,
    offset: u64,
    /// Since the first packet.
    time_ns: u64,
    range: Range<usize>,
}

impl Recording {
    /// The packets of a file of the corpora.
    pub fn file(name: &str) -> Result<Vec<u8>, String> {
        let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join(CORPORA).join(name);
        let file = File::open(&path).map_err(|error| {
            format!("{error}: {}; this bench needs the recording, and there is no other", path.display())
        })?;
        let mut bytes = Vec::new();
        MultiGzDecoder::new(file).read_to_end(&mut bytes).map_err(|error| format!("{error}: {name}"))?;
        Ok(bytes)
    }

    /// Reads the packets.
    pub fn read(pcap: &[u8]) -> Result<Recording, String> {
        let mut rest = pcap.strip_prefix(&MAGIC).ok_or("not a pcap file of microseconds")?;
        rest = rest.get(FILE_HEADER_BYTES - MAGIC.len()..).ok_or("no packets")?;
        let mut recording =
            Recording { server_port: 0, pieces: Vec::new(), duration_ns: 0, bytes: Vec::new() };
        let mut begin_ns = None;
        // The sequence number that comes next in each flow.
        let mut next = [None; 2];
        while let Some((header, tail)) = rest.split_first_chunk::<PACKET_HEADER_BYTES>() {
            let word =
                |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
            let (packet, tail) = tail.split_at_checked(word(8) as usize).ok_or("the file is cut short")?;
            rest = tail;
            let now_ns = u64::from(word(0)) * 1_000_000_000 + u64::from(word(4)) * 1_000;
            let time_ns = now_ns.saturating_sub(*begin_ns.get_or_insert(now_ns));
            let sliced = SlicedPacket::from_ethernet(packet).map_err(|error| error.to_string())?;
            let Some(TransportSlice::Tcp(tcp)) = sliced.transport else { return Err("not TCP".into()) };
            if tcp.syn() && !tcp.ack() {
                recording.server_port = tcp.destination_port();
            }
            let flow =
                if tcp.destination_port() == recording.server_port { Flow::Sent } else { Flow::Received };
            let next = &mut next[usize::from(flow == Flow::Received)];
            if tcp.syn() {
                *next = Some((tcp.sequence_number().wrapping_add(1), 0));
            }
            recording.duration_ns = time_ns;
            let payload = tcp.payload();
            if payload.is_empty() {
                continue;
            }
            let Some((sequence, offset)) = next else { return Err("the handshake is missing".into()) };
            if *sequence != tcp.sequence_number() {
                return Err("segments are not in order".into());
            }
            let start = recording.bytes.len();
            recording.bytes.extend(payload);
            let range = start..recording.bytes.len();
            recording.pieces.push(Piece { flow, offset: *offset, time_ns, range });
            *sequence = sequence.wrapping_add(payload.len() as u32);
            *offset += payload.len() as u64;
        }
        Ok(recording)
    }

    /// A piece as a chunk of `connection`, which began at `begin`.
    pub fn chunk(&self, piece: &Piece, connection: ConnectionId, begin: Timestamp) -> Chunk<'_> {
        Chunk {
            connection,
            flow: piece.flow,
            offset: piece.offset,
            time: begin.plus(piece.time_ns),
            boundary: false,
            thread: 1,
            bytes: &self.bytes[piece.range.clone()],
        }
    }
}
