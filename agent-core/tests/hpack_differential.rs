//! The same blocks through other decoders: loona-hpack's, and h2's own behind its frame codec.

mod hpack_support;

use std::io::Cursor;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use agent_core::hpack::Decoder;
use h2::frame::Frame;
use hpack_support::encoder::Encoder;
use hpack_support::strategies::steps;
use hpack_support::{CAP, Seen, collect, fields};
use proptest::collection::vec;
use proptest::prelude::*;
use tokio_stream::Stream;

/// Largest table in these tests: what SETTINGS say to all decoders.
const TABLE_BYTES: u32 = 9000;

fn ours() -> Decoder {
    let mut decoder = Decoder::synced(CAP);
    decoder.set_settings_limit(TABLE_BYTES);
    decoder
}

fn loona() -> loona_hpack::Decoder<'static> {
    let mut decoder = loona_hpack::Decoder::new();
    decoder.set_max_allowed_table_size(TABLE_BYTES as usize);
    decoder
}

/// What h2 reads from the blocks, sorted by name: its map does not keep the order of different names.
fn h2_fields(blocks: &[Vec<u8>]) -> Vec<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut wire = Vec::new();
    for block in blocks {
        // HEADERS with END_HEADERS on stream 1.
        wire.extend(&(block.len() as u32).to_be_bytes()[1..]);
        wire.extend([0x01, 0x04, 0, 0, 0, 1]);
        wire.extend(block);
    }
    let mut codec: h2::Codec<_, &'static [u8]> = h2::Codec::new(Cursor::new(wire));
    codec.set_max_recv_frame_size((1 << 24) - 1);
    codec.set_recv_header_table_size(TABLE_BYTES as usize);
    let mut lists = Vec::new();
    let mut context = Context::from_waker(Waker::noop());
    while let Poll::Ready(Some(frame)) = Pin::new(&mut codec).poll_next(&mut context) {
        let Frame::Headers(headers) = frame.unwrap() else { panic!("not HEADERS") };
        let list = headers.fields().iter();
        lists.push(by_name(
            list.map(|(name, value)| (name.as_str().as_bytes().to_vec(), value.as_bytes().to_vec()))
                .collect(),
        ));
    }
    lists
}

/// Sorted by name; fields of one name keep their order.
fn by_name(mut fields: Vec<(Vec<u8>, Vec<u8>)>) -> Vec<(Vec<u8>, Vec<u8>)> {
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    fields
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn loona_hpack_and_ours_read_the_same_fields(steps in steps(false, TABLE_BYTES)) {
        let (mut ours, mut loona) = (ours(), loona());
        let mut waiting = Vec::new();
        for block in Encoder::new(4096).run(&steps) {
            let truth: Vec<_> = block.truth.into_iter().map(|field| (field.name, field.value)).collect();
            let list = fields(&mut ours, &block.wire);
            prop_assert_eq!(&list, &truth);
            waiting.extend(block.wire);
            // It refuses a block of nothing but size updates, which the RFC allows: they join the next block.
            if !list.is_empty() {
                prop_assert_eq!(list, loona.decode(&std::mem::take(&mut waiting)).unwrap());
            }
        }
    }

    #[test]
    fn h2_and_ours_read_the_same_fields(steps in steps(true, TABLE_BYTES)) {
        let blocks: Vec<_> = Encoder::new(4096).run(&steps).into_iter().map(|block| block.wire).collect();
        let mut decoder = ours();
        let lists: Vec<_> = blocks.iter().map(|block| by_name(fields(&mut decoder, block))).collect();
        prop_assert_eq!(lists, h2_fields(&blocks));
    }

    #[test]
    fn where_both_read_random_octets_they_read_the_same(block in vec(any::<u8>(), 1..16)) {
        let (seen, result) = collect(&mut ours(), &block);
        if let (Ok(theirs), Ok(())) = (loona().decode(&block), result) {
            let theirs: Vec<_> =
                theirs.into_iter().map(|(name, value)| (Seen::known(name), Seen::known(value))).collect();
            let ours: Vec<_> = seen.into_iter().map(|field| (field.name, field.value)).collect();
            prop_assert_eq!(ours, theirs);
        }
    }
}
