//! The decoders that are measured. Each decodes all connections of a set, and returns the octets of all names and
//! values: the same number from each, which shows that they do the same work. Only `ours_allow_list` does less.

use std::io::Cursor;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use agent_core::hpack::{Decoder, Field, ListLimits, Text};
use h2::frame::Frame;
use tokio_stream::Stream;

use crate::blocks::Set;
use crate::nghttp2::Inflater;

/// The agent's limits.
const LIMITS: ListLimits = ListLimits { bytes: 64 * 1024, fields: 256 };
const TABLE_CAP_BYTES: usize = 64 * 1024;

/// Ours, with every value decoded: what the peers do.
pub fn ours(set: &Set) -> usize {
    let mut octets = 0;
    for blocks in &set.connections {
        let mut decoder = Decoder::synced(TABLE_CAP_BYTES);
        for block in blocks {
            ours_block(&mut decoder, block, &mut octets);
        }
    }
    octets
}

/// One block of [`ours`].
pub fn ours_block(decoder: &mut Decoder, block: &[u8], octets: &mut usize) {
    decoder
        .decode(block, LIMITS, |field| *octets += len(field.name) + len(field.value))
        .expect("ours refuses a block that was taken for valid");
}

/// Ours as the agent uses it: every name, and the values that the core reads.
pub fn ours_allow_list(set: &Set) -> usize {
    let mut octets = 0;
    for blocks in &set.connections {
        let mut decoder = Decoder::synced(TABLE_CAP_BYTES);
        for block in blocks {
            decoder
                .decode_wanted(block, LIMITS, is_read, |field| {
                    octets += len(field.name) + if is_read(field.name) { len(field.value) } else { 0 };
                })
                .expect("ours refuses a block that was taken for valid");
        }
    }
    octets
}

/// What [`ours_allow_list`] has to return, from values that were all decoded.
pub fn allow_list_octets(set: &Set) -> usize {
    let mut octets = 0;
    for blocks in &set.connections {
        let mut decoder = Decoder::synced(TABLE_CAP_BYTES);
        for block in blocks {
            let on_field = |field: Field<'_>| {
                octets += len(field.name) + if is_read(field.name) { len(field.value) } else { 0 };
            };
            decoder.decode(block, LIMITS, on_field).expect("ours refuses a block that was taken for valid");
        }
    }
    octets
}

fn is_read(name: Text<'_>) -> bool {
    name.known().is_some_and(agent_core::reads_value_of)
}

fn len(text: Text<'_>) -> usize {
    text.known().map_or(0, <[u8]>::len)
}

/// nghttp2's inflater.
pub fn nghttp2(set: &Set) -> usize {
    let mut octets = 0;
    for blocks in &set.connections {
        let mut inflater = Inflater::new();
        for block in blocks {
            inflater.decode(block, |name, value| octets += name.len() + value.len());
        }
    }
    octets
}

/// `hpack`.
pub fn hpack(set: &Set) -> usize {
    let mut octets = 0;
    for blocks in &set.connections {
        let mut decoder = hpack::Decoder::new();
        for block in blocks {
            decoder
                .decode_with_cb(block, |name, value| octets += name.len() + value.len())
                .expect("hpack refuses a block that was taken for valid");
        }
    }
    octets
}

/// `loona-hpack`.
pub fn loona_hpack(set: &Set) -> usize {
    let mut octets = 0;
    for blocks in &set.connections {
        let mut decoder = loona_hpack::Decoder::new();
        for block in blocks {
            decoder
                .decode_with_cb(block, |name, value| octets += name.len() + value.len())
                .expect("loona-hpack refuses a block that was taken for valid");
        }
    }
    octets
}

/// The frames that h2 reads: it does not export its HPACK decoder, only the frame codec around it.
pub fn h2_wire(set: &Set) -> Vec<Vec<u8>> {
    let frames = |blocks: &Vec<Vec<u8>>| {
        let mut wire = Vec::new();
        for block in blocks {
            // HEADERS with END_HEADERS on stream 1.
            wire.extend(&(block.len() as u32).to_be_bytes()[1..]);
            wire.extend([0x01, 0x04, 0, 0, 0, 1]);
            wire.extend(block);
        }
        wire
    };
    set.connections.iter().map(frames).collect()
}

/// h2's codec. Returns the frames read, since its header map does not keep what was sent as it was sent. Frames
/// whose fields HTTP/2 forbids (some stories have `connection`) are read and then refused.
pub fn h2(wire: &[Vec<u8>]) -> usize {
    let mut count = 0;
    let mut context = Context::from_waker(Waker::noop());
    for frames in wire {
        let mut codec: h2::Codec<_, &'static [u8]> = h2::Codec::new(Cursor::new(frames.clone()));
        codec.set_max_recv_frame_size((1 << 24) - 1);
        while let Poll::Ready(Some(frame)) = Pin::new(&mut codec).poll_next(&mut context) {
            count += usize::from(matches!(frame, Ok(Frame::Headers(_)) | Err(_)));
        }
    }
    count
}
