//! What each representation does to the table, and what is an error: H2–H7, H9, H10 on the wire.

mod hpack_support;

use agent_core::hpack::{Decoder, Field, HpackError, ListLimits, Text};
use hpack_support::encoder::{incremental, integer, size_update, string};
use hpack_support::{ALL, CAP, Seen, collect, dynamic_entries, fields, hex, pairs};

fn error(decoder: &mut Decoder, block: &[u8]) -> HpackError {
    collect(decoder, block).1.unwrap_err()
}

/// A decoder with a table of `bytes`.
fn decoder_of(bytes: usize) -> Decoder {
    let mut decoder = Decoder::synced(CAP);
    decoder.set_settings_limit(bytes as u32);
    fields(&mut decoder, &size_update(bytes));
    decoder
}

#[test]
fn an_empty_block_has_no_fields() {
    assert_eq!(fields(&mut Decoder::synced(CAP), &[]), []);
}

#[test]
fn h2_integers_are_bounded_wherever_they_stand() {
    // T5: an index, a name index, a length, a size update; cut short, too long, too large.
    for first in [0xff, 0x7f, 0x0f, 0x1f, 0x3f] {
        let block = |tail: &[u8]| [&[first], tail].concat();
        assert_eq!(error(&mut Decoder::late(CAP), &block(&[])), HpackError::Truncated);
        assert_eq!(error(&mut Decoder::late(CAP), &block(&[0xff; 40])), HpackError::IntegerTooLong);
        assert_eq!(error(&mut Decoder::late(CAP), &block(&[0x80; 40])), HpackError::IntegerTooLong);
        assert_eq!(error(&mut Decoder::late(CAP), &block(&hex("ffffffff 7f"))), HpackError::IntegerTooLarge);
    }
    assert_eq!(error(&mut Decoder::synced(CAP), &hex("00 7f ffffffff 7f")), HpackError::IntegerTooLarge);
}

#[test]
fn a_string_longer_than_the_block_is_an_error_and_nothing_is_read_past_it() {
    for block in ["00", "00 01", "00 01 61", "00 01 61 02 62", "40 81", "41 82 1c", "04"] {
        assert_eq!(error(&mut Decoder::synced(CAP), &hex(block)), HpackError::Truncated, "{block}");
    }
}

#[test]
fn h3_faults_in_huffman_strings_are_errors() {
    // :path as a literal without indexing. The end-of-string symbol, and then eight bits of padding.
    assert_eq!(error(&mut Decoder::synced(CAP), &hex("04 84 ffffffff")), HpackError::HuffmanEndOfString);
    assert_eq!(error(&mut Decoder::synced(CAP), &hex("04 82 1fff")), HpackError::HuffmanPadding);
    assert_eq!(error(&mut Decoder::synced(CAP), &hex("04 81 18")), HpackError::HuffmanPadding);
    assert_eq!(fields(&mut Decoder::synced(CAP), &hex("04 80")), [(b":path".to_vec(), vec![])]);
}

#[test]
fn h4_an_entry_costs_its_octets_and_32_and_the_oldest_goes_first() {
    let mut decoder = decoder_of(102);
    for (name, value) in [("a", "1"), ("b", "2"), ("c", "3")] {
        fields(&mut decoder, &incremental(name.as_bytes(), value.as_bytes()));
    }
    assert_eq!(dynamic_entries(&mut decoder, 3), pairs(&[("c", "3"), ("b", "2"), ("a", "1")]));
    fields(&mut decoder, &incremental(b"d", b"4"));
    assert_eq!(dynamic_entries(&mut decoder, 3), pairs(&[("d", "4"), ("c", "3"), ("b", "2")]));
    // One octet more needs the place of two.
    fields(&mut decoder, &incremental(b"e", b"55"));
    assert_eq!(dynamic_entries(&mut decoder, 2), pairs(&[("e", "55"), ("d", "4")]));
    assert_eq!(error(&mut decoder, &[0xc0]), HpackError::IndexBeyondTable(64));
}

#[test]
fn h4_an_oversize_entry_is_reported_empties_the_table_and_is_not_inserted() {
    let mut decoder = decoder_of(100);
    fields(&mut decoder, &incremental(b"a", b"1"));
    let value = [b'x'; 68];
    assert_eq!(fields(&mut decoder, &incremental(b"k", &value)), [(b"k".to_vec(), value.to_vec())]);
    assert!(decoder.is_fully_known());
    assert_eq!(error(&mut decoder, &[0xbe]), HpackError::IndexBeyondTable(62));
}

#[test]
fn h4_a_name_may_be_taken_from_the_entry_that_the_insertion_evicts() {
    let mut decoder = decoder_of(100);
    fields(&mut decoder, &incremental(b"long-name", b"first"));
    let mut block = Vec::new();
    integer(&mut block, 0x40, 6, 62);
    string(&mut block, &[b'v'; 59], false);
    let expected = [(b"long-name".to_vec(), vec![b'v'; 59])];
    assert_eq!(fields(&mut decoder, &block), expected);
    assert_eq!(fields(&mut decoder, &[0xbe]), expected);
    assert_eq!(error(&mut decoder, &[0xbf]), HpackError::IndexBeyondTable(63));
}

#[test]
fn h4_a_name_may_be_taken_from_an_entry_when_the_new_one_is_oversize() {
    let mut decoder = decoder_of(100);
    fields(&mut decoder, &incremental(b"long-name", b"first"));
    let mut block = Vec::new();
    integer(&mut block, 0x40, 6, 62);
    string(&mut block, &[b'v'; 60], true);
    assert_eq!(fields(&mut decoder, &block), [(b"long-name".to_vec(), vec![b'v'; 60])]);
    assert_eq!(error(&mut decoder, &[0xbe]), HpackError::IndexBeyondTable(62));
}

#[test]
fn h5_size_updates_stand_at_the_start_of_a_block_only() {
    let block = [size_update(0), size_update(4096), vec![0x82]].concat();
    assert_eq!(fields(&mut Decoder::synced(CAP), &block).len(), 1);
    let block = [vec![0x82], size_update(4096)].concat();
    assert_eq!(error(&mut Decoder::synced(CAP), &block), HpackError::SizeUpdateAfterField);
}

#[test]
fn h5_a_size_update_above_settings_is_an_error() {
    let mut decoder = Decoder::synced(CAP);
    let above = |bytes, limit| HpackError::SizeUpdateAboveLimit { bytes, limit };
    assert_eq!(error(&mut decoder, &size_update(4097)), above(4097, 4096));
    decoder.set_settings_limit(100);
    assert_eq!(error(&mut decoder, &size_update(101)), above(101, 100));
    decoder.set_settings_limit(1 << 20);
    assert_eq!(fields(&mut decoder, &size_update(1 << 20)), []);
}

#[test]
fn h5_a_size_update_evicts_and_zero_flushes() {
    let mut decoder = decoder_of(200);
    for name in [b"a", b"b", b"c"] {
        fields(&mut decoder, &incremental(name, b"1"));
    }
    fields(&mut decoder, &size_update(68));
    fields(&mut decoder, &size_update(200));
    assert_eq!(dynamic_entries(&mut decoder, 2), pairs(&[("c", "1"), ("b", "1")]));
    fields(&mut decoder, &size_update(0));
    fields(&mut decoder, &size_update(200));
    assert_eq!(error(&mut decoder, &[0xbe]), HpackError::IndexBeyondTable(62));
}

#[test]
fn h6_without_indexing_and_never_indexed_do_not_enter_the_table() {
    let mut decoder = Decoder::synced(CAP);
    let (seen, _) = collect(&mut decoder, &hex("00 01 61 01 31  10 01 62 01 32"));
    assert_eq!(seen.iter().map(|field| field.sensitive).collect::<Vec<_>>(), [false, true]);
    assert_eq!(seen[1].value, Seen::known("2"));
    assert_eq!(error(&mut decoder, &[0xbe]), HpackError::IndexBeyondTable(62));
}

#[test]
fn h7_index_zero_is_an_error() {
    assert_eq!(error(&mut Decoder::synced(CAP), &[0x80]), HpackError::IndexZero);
    assert_eq!(error(&mut Decoder::late(CAP), &[0x80]), HpackError::IndexZero);
}

#[test]
fn h7_an_index_beyond_the_table_is_an_error_if_everything_is_known() {
    assert_eq!(fields(&mut Decoder::synced(CAP), &[0x80 | 61]).len(), 1);
    assert_eq!(error(&mut Decoder::synced(CAP), &[0x80 | 62]), HpackError::IndexBeyondTable(62));
    // Also as the name of a literal.
    assert_eq!(error(&mut Decoder::synced(CAP), &hex("7f 00 01 61")), HpackError::IndexBeyondTable(63));
}

#[test]
fn h9_above_a_limit_nothing_is_reported_and_the_table_stays_right() {
    let limits = [ListLimits { bytes: 100, fields: 100 }, ListLimits { bytes: usize::MAX, fields: 2 }];
    for limits in limits {
        let mut decoder = Decoder::synced(CAP);
        let block = [incremental(b"a", b"1"), vec![0x82], incremental(b"b", b"2"), vec![0x86]].concat();
        let mut names = Vec::new();
        let info =
            decoder.decode(&block, limits, |field| names.push(field.name.known().unwrap().to_vec())).unwrap();
        assert_eq!(names, [b"a".to_vec(), b":method".to_vec()]);
        assert_eq!((info.fields, info.unreported_fields), (4, 2));
        assert_eq!(dynamic_entries(&mut decoder, 2), pairs(&[("b", "2"), ("a", "1")]));
    }
}

#[test]
fn h9_a_field_above_the_limits_is_inserted_all_the_same() {
    for huffman in [false, true] {
        let mut decoder = Decoder::synced(CAP);
        let mut block = vec![0x40];
        string(&mut block, b"name", huffman);
        string(&mut block, &[b'v'; 1000], huffman);
        let info =
            decoder.decode(&block, ListLimits { bytes: 500, fields: 9 }, |_| panic!("reported")).unwrap();
        assert_eq!((info.fields, info.unreported_fields), (1, 1));
        assert_eq!(fields(&mut decoder, &[0xbe]), [(b"name".to_vec(), vec![b'v'; 1000])]);
    }
}

#[test]
fn h10_values_are_octets_whatever_they_are() {
    let all: Vec<u8> = (0..=255).collect();
    for huffman in [false, true] {
        for pattern in [0x00, 0x10, 0x40] {
            let mut block = vec![pattern];
            string(&mut block, b"k-bin", huffman);
            string(&mut block, &all, huffman);
            assert_eq!(fields(&mut Decoder::synced(CAP), &block), [(b"k-bin".to_vec(), all.clone())]);
        }
    }
}

#[test]
fn a_value_that_nobody_wants_is_named_and_its_entry_has_its_size() {
    let mut decoder = decoder_of(110);
    let mut seen = Vec::new();
    let mut decode = |decoder: &mut Decoder, block: &[u8]| {
        seen.clear();
        let wants = |name: Text<'_>| name != Text::Known(b"authorization");
        let see = |field: Field<'_>| seen.push((Seen::from_text(field.name), Seen::from_text(field.value)));
        decoder.decode_wanted(block, ALL, wants, see).unwrap();
        seen.clone()
    };
    let name = Seen::known("authorization");
    for huffman in [false, true] {
        for pattern in [0x40, 0x00, 0x10] {
            let mut block = vec![pattern];
            string(&mut block, b"authorization", huffman);
            string(&mut block, b"Bearer 123", huffman);
            assert_eq!(decode(&mut decoder, &block), [(name.clone(), Seen::Unwanted)]);
        }
    }
    assert_eq!(decode(&mut decoder, &[0xbe, 0xbf]), [(name.clone(), Seen::Unwanted), (name, Seen::Unwanted)]);
    // 2 x 55 octets: one of them goes for an entry of any size.
    decode(&mut decoder, &incremental(b"", b""));
    let mut block = Vec::new();
    integer(&mut block, 0x80, 7, 64);
    assert_eq!(error(&mut decoder, &block), HpackError::IndexBeyondTable(64));
}
