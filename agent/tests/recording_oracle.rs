//! The recording reader against `pcap-parser`, packet by packet, on every recording of the corpora.

mod corpora;

use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::Path;

use agent::capture::recording::{Container, source};
use pcap_parser::traits::PcapNGPacketBlock;
use pcap_parser::{Block, PcapBlockOwned, PcapError, create_reader};

/// Time in nanoseconds, data and original length.
type Packets = Vec<(u64, Vec<u8>, u32)>;

fn content(path: &Path) -> Vec<u8> {
    let file = BufReader::new(File::open(path).expect("the recording can be opened"));
    let mut bytes = Vec::new();
    source::decompress(file).expect("gzip or plain").read_to_end(&mut bytes).expect("it can be read");
    bytes
}

fn ours(bytes: &[u8]) -> Packets {
    let mut container = Container::open(bytes).expect("it is a recording");
    let mut packets = Vec::new();
    while let Some(packet) = container.next_packet().expect("it is whole") {
        packets.push((packet.time.0, packet.data.to_vec(), packet.original_bytes));
    }
    packets
}

fn theirs(bytes: &[u8]) -> Packets {
    let mut reader = create_reader(4 << 20, bytes).expect("it is a recording");
    let mut packets = Vec::new();
    let mut fraction_ns = 1_000;
    loop {
        match reader.next() {
            Ok((length, block)) => {
                match block {
                    PcapBlockOwned::LegacyHeader(header) => {
                        fraction_ns = if header.is_nanosecond_precision() { 1 } else { 1_000 };
                    }
                    PcapBlockOwned::Legacy(packet) => {
                        let time = u64::from(packet.ts_sec) * 1_000_000_000
                            + u64::from(packet.ts_usec) * fraction_ns;
                        packets.push((time, packet.data[..packet.caplen as usize].to_vec(), packet.origlen));
                    }
                    PcapBlockOwned::NG(Block::EnhancedPacket(packet)) => {
                        // All of the corpora's interfaces count microseconds.
                        let units = u64::from(packet.ts_high) << 32 | u64::from(packet.ts_low);
                        packets.push((units * 1_000, packet.packet_data().to_vec(), packet.origlen));
                    }
                    PcapBlockOwned::NG(_) => {}
                }
                reader.consume(length);
            }
            Err(PcapError::Eof) => return packets,
            Err(PcapError::Incomplete(_)) => reader.refill().expect("it can be read"),
            Err(PcapError::UnexpectedEof) => {
                // It says so at the end of a whole file too, depending on where its buffer stands.
                assert!(reader.data().is_empty(), "the recording is cut");
                return packets;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn every_packet_of_the_corpora_is_read_as_pcap_parser_reads_it() {
    let Some(corpora) = corpora::corpora() else { return };
    let mut recordings = 0;
    for folder in ["live", "deepflow", "wireshark"] {
        for entry in fs::read_dir(corpora.join(folder)).expect("the folder is there") {
            let path = entry.expect("it can be listed").path();
            if !path.to_string_lossy().contains(".pcap") {
                continue;
            }
            let bytes = content(&path);
            let (ours, theirs) = (ours(&bytes), theirs(&bytes));
            assert!(!theirs.is_empty(), "{}", path.display());
            assert_eq!(ours.len(), theirs.len(), "{}", path.display());
            assert!(ours == theirs, "{}", path.display());
            recordings += 1;
        }
    }
    assert!(recordings >= 9, "only {recordings} recordings");
}
