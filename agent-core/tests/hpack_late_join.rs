//! Joining late and gaps (H8): what was said before is unknown, what is said is exact, nothing is ever wrong.

mod hpack_support;

use std::collections::BTreeMap;

use agent_core::hpack::{Decoder, EntryId, HpackError};
use hpack_support::encoder::{
    ALWAYS, EncodedBlock, Encoder, Truth, incremental, integer, size_update, string,
};
use hpack_support::strategies::steps;
use hpack_support::{CAP, Seen, SeenField, collect, fields};
use proptest::prelude::*;

/// An entry by its place before the join, or before the gap: 1 is the newest.
fn before(epoch: u32, place: i64) -> Seen {
    Seen::Unknown(EntryId { epoch, ordinal: -place })
}

fn field(name: Seen, value: Seen) -> SeenField {
    SeenField { name, value, sensitive: false }
}

fn decoded(decoder: &mut Decoder, block: &[u8]) -> Vec<SeenField> {
    let (seen, result) = collect(decoder, block);
    assert_eq!(result, Ok(()));
    seen
}

#[test]
fn h8_indices_up_to_the_insertions_since_the_join_are_exact_and_others_keep_their_identity() {
    let mut decoder = Decoder::late(CAP);
    // The newest and the third entry from before.
    let [first, third] = [before(0, 1), before(0, 3)];
    assert_eq!(
        decoded(&mut decoder, &[0xbe, 0xc0]),
        [field(first.clone(), first.clone()), field(third.clone(), third.clone())]
    );
    decoded(&mut decoder, &incremental(b"a", b"1"));
    decoded(&mut decoder, &incremental(b"b", b"2"));
    assert_eq!(
        decoded(&mut decoder, &[0xbe, 0xbf, 0xc0, 0xc2]),
        [
            field(Seen::known("b"), Seen::known("2")),
            field(Seen::known("a"), Seen::known("1")),
            field(first.clone(), first),
            field(third.clone(), third),
        ]
    );
    assert!(!decoder.is_fully_known());
}

#[test]
fn h8_a_literal_under_an_unknown_name_occupies_a_slot_and_its_value_is_known() {
    let mut decoder = Decoder::late(CAP);
    let mut block = Vec::new();
    integer(&mut block, 0x40, 6, 63);
    string(&mut block, b"49999u", false);
    block.extend([0xbe, 0xbf]);
    let name = before(0, 2);
    assert_eq!(
        decoded(&mut decoder, &block),
        [
            field(name.clone(), Seen::known("49999u")),
            field(name, Seen::known("49999u")),
            field(before(0, 1), before(0, 1)),
        ]
    );
}

#[test]
fn h8_trap_i_an_oversize_entry_occupies_no_slot_and_empties_the_table() {
    let mut decoder = Decoder::late(CAP);
    decoder.set_settings_limit(4096);
    decoded(&mut decoder, &incremental(b"a", b"1"));
    decoded(&mut decoder, &incremental(b"oversize", &[b'x'; 4096]));
    assert!(decoder.is_fully_known());
    assert_eq!(fields(&mut decoder, &incremental(b"b", b"2")), [(b"b".to_vec(), b"2".to_vec())]);
    assert_eq!(fields(&mut decoder, &[0xbe]), [(b"b".to_vec(), b"2".to_vec())]);
    assert_eq!(collect(&mut decoder, &[0xbf]).1, Err(HpackError::IndexBeyondTable(63)));
}

#[test]
fn h8_trap_i_an_entry_that_may_be_oversize_makes_nothing_wrong() {
    // Without SETTINGS a table of 64 KiB is possible: there the entry is inserted, in one of 4096 it is not.
    for maximum in [4096, CAP] {
        let mut encoder = Encoder::new(maximum);
        let literal = |name: &str, length| hpack_support::encoder::Step::Field {
            name: name.into(),
            value: vec![b'x'; length],
            how: hpack_support::encoder::How::Indexed,
            name_by_index: true,
            huffman: false,
        };
        let said = encoder.run(&[
            literal("a", 1),
            literal("big", 5000),
            literal("b", 1),
            literal("a", 1),
            literal("b", 1),
        ]);
        let mut decoder = Decoder::late(CAP);
        let seen = fields(&mut decoder, &said[0].wire);
        let truth: Vec<_> = said[0].truth.iter().map(|t| (t.name.clone(), t.value.clone())).collect();
        assert_eq!(seen, truth, "table of {maximum}");
    }
}

#[test]
fn h8_trap_ii_a_size_update_to_zero_leaves_nothing_unknown() {
    let mut decoder = Decoder::late(CAP);
    decoded(&mut decoder, &incremental(b"a", b"1"));
    let block = [size_update(0), size_update(4096), incremental(b"b", b"2")].concat();
    assert_eq!(fields(&mut decoder, &block), [(b"b".to_vec(), b"2".to_vec())]);
    assert!(decoder.is_fully_known());
    assert_eq!(fields(&mut decoder, &[0xbe]), [(b"b".to_vec(), b"2".to_vec())]);
    assert_eq!(collect(&mut decoder, &[0xbf]).1, Err(HpackError::IndexBeyondTable(63)));
}

#[test]
fn h8_trap_ii_a_size_update_to_less_cuts_the_old_end_off() {
    let mut decoder = Decoder::late(CAP);
    // Sizes of 34: two of them fit into 70, and not even an empty older one beside them.
    let block = [incremental(b"a", b"1"), incremental(b"b", b"2"), incremental(b"c", b"3")].concat();
    decoded(&mut decoder, &block);
    decoded(&mut decoder, &size_update(70));
    decoded(&mut decoder, &size_update(4096));
    assert!(decoder.is_fully_known());
    let expected = [(b"c".to_vec(), b"3".to_vec()), (b"b".to_vec(), b"2".to_vec())];
    assert_eq!(fields(&mut decoder, &[0xbe, 0xbf]), expected);
    assert_eq!(collect(&mut decoder, &[0xc0]).1, Err(HpackError::IndexBeyondTable(64)));
}

#[test]
fn h8_trap_iii_a_gap_starts_an_epoch_in_which_old_names_are_not_used() {
    let mut decoder = Decoder::synced(CAP);
    decoded(&mut decoder, &incremental(b"a", b"1"));
    assert!(decoder.is_fully_known());
    decoder.start_epoch();
    assert!(!decoder.is_fully_known());
    assert_eq!(decoded(&mut decoder, &[0xbe]), [field(before(1, 1), before(1, 1))]);
    decoder.start_epoch();
    assert_eq!(decoded(&mut decoder, &[0xbe]), [field(before(2, 1), before(2, 1))]);
}

#[test]
fn h8_after_an_error_everything_is_unknown() {
    let mut decoder = Decoder::synced(CAP);
    decoded(&mut decoder, &incremental(b"a", b"1"));
    assert_eq!(collect(&mut decoder, &[0x80]).1, Err(HpackError::IndexZero));
    assert!(!decoder.is_fully_known());
    assert_eq!(decoded(&mut decoder, &[0xbe]), [field(before(1, 1), before(1, 1))]);
}

#[test]
fn h8_churn_through_the_largest_table_leaves_nothing_unknown() {
    let mut decoder = Decoder::late(CAP);
    decoder.set_settings_limit(4096);
    // 64 bytes each: after 63 of them there is room for two of the smallest entries, after 64 for none.
    for number in 0..64 {
        assert!(!decoder.is_fully_known(), "after {number}");
        decoded(&mut decoder, &incremental(b"traceparent", format!("{number:021}").as_bytes()));
    }
    assert!(decoder.is_fully_known());
}

#[test]
fn h8_an_entry_with_an_unknown_name_is_counted_by_its_least_size() {
    let mut decoder = Decoder::late(CAP);
    decoder.set_settings_limit(100);
    let mut block = Vec::new();
    integer(&mut block, 0x40, 6, 62);
    string(&mut block, b"v", false);
    block.extend(incremental(b"a", b"1"));
    // At least 33 + 34 bytes. If the name is no longer than 33 octets both are alive, and it can be referred to.
    block.push(0xbf);
    let seen = decoded(&mut decoder, &block);
    assert_eq!(seen[2], field(before(0, 1), Seen::known("v")));
    // With 34 more it is gone for certain, and with it everything that is unknown.
    decoded(&mut decoder, &incremental(b"b", b"2"));
    assert!(decoder.is_fully_known());
}

#[test]
fn h7_an_index_that_no_table_can_have_is_an_error_even_after_a_late_join() {
    let mut block = Vec::new();
    integer(&mut block, 0x80, 7, 61 + CAP / 32);
    assert_eq!(collect(&mut Decoder::late(CAP), &block).1, Ok(()));
    let mut block = Vec::new();
    integer(&mut block, 0x80, 7, 62 + CAP / 32);
    assert!(matches!(collect(&mut Decoder::late(CAP), &block).1, Err(HpackError::IndexBeyondTable(_))));
}

#[test]
fn h5_a_size_update_is_accepted_up_to_the_cap_while_settings_are_unknown() {
    assert_eq!(collect(&mut Decoder::late(CAP), &size_update(CAP)).1, Ok(()));
    let error = collect(&mut Decoder::late(CAP), &size_update(CAP + 1)).1;
    assert_eq!(error, Err(HpackError::SizeUpdateAboveLimit { bytes: CAP as u32 + 1, limit: CAP as u32 }));
}

/// Compares what is seen of a block with the truth: what was said since block `since` is known, other
/// things are unknown, and an identity always stands for the same entry.
fn check_block(
    place: &str,
    seen: &[SeenField],
    truth: &[Truth],
    since: usize,
    identities: &mut BTreeMap<EntryId, (Vec<u8>, Option<Vec<u8>>)>,
) {
    assert_eq!(seen.len(), truth.len(), "{place}");
    for (seen, truth) in seen.iter().zip(truth) {
        assert_eq!(seen.sensitive, truth.sensitive, "{place}");
        match (&seen.name, truth.name_block == ALWAYS || truth.name_block >= since) {
            (name, true) => assert_eq!(*name, Seen::known(&truth.name), "{place}"),
            (Seen::Unknown(id), false) => {
                let known = identities.entry(*id).or_insert_with(|| (truth.name.clone(), None));
                assert_eq!(known.0, truth.name, "{place}: {id:?}");
            }
            (other, false) => panic!("{place}: {other:?} cannot be known"),
        }
        match (&seen.value, truth.value_block == ALWAYS || truth.value_block >= since) {
            (value, true) => assert_eq!(*value, Seen::known(&truth.value), "{place}"),
            (Seen::Unknown(id), false) => {
                let known = identities.entry(*id).or_insert_with(|| (truth.name.clone(), None));
                assert_eq!(
                    known.1.get_or_insert_with(|| truth.value.clone()),
                    &truth.value,
                    "{place}: {id:?}"
                );
            }
            (other, false) => panic!("{place}: {other:?} cannot be known"),
        }
    }
}

fn check_blocks(decoder: &mut Decoder, blocks: &[EncodedBlock], since: usize, first: usize) {
    let mut identities = BTreeMap::new();
    for (number, block) in blocks.iter().enumerate().skip(first) {
        let (seen, result) = collect(decoder, &block.wire);
        assert_eq!(result, Ok(()), "block {number}");
        check_block(&format!("block {number}"), &seen, &block.truth, since, &mut identities);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn h8_joined_anywhere_exactly_what_was_said_since_is_known(
        steps in steps(false, 9000),
        start in prop_oneof![Just(4096_usize), 0..9000_usize],
        join in 0.0..1.0,
        settings_seen: bool,
    ) {
        let blocks = Encoder::new(start).run(&steps);
        let join = (blocks.len() as f64 * join) as usize;
        let mut decoder = Decoder::late(CAP);
        if settings_seen {
            decoder.set_settings_limit(9000);
        }
        check_blocks(&mut decoder, &blocks, join, join);
    }

    #[test]
    fn h8_after_a_gap_anywhere_exactly_what_was_said_since_is_known(
        steps in steps(false, 9000),
        gap in (0.0..1.0, 0.0..1.0),
    ) {
        let blocks = Encoder::new(4096).run(&steps);
        let from = (blocks.len() as f64 * gap.0) as usize;
        let to = from + ((blocks.len() - from) as f64 * gap.1) as usize;
        let mut decoder = Decoder::synced(CAP);
        decoder.set_settings_limit(9000);
        check_blocks(&mut decoder, &blocks[..from], 0, 0);
        decoder.start_epoch();
        check_blocks(&mut decoder, &blocks, to, to);
    }

    #[test]
    fn a_memory_cap_below_the_table_makes_things_unknown_and_never_wrong(
        steps in steps(false, 9000),
        cap in 0_usize..2000,
        late: bool,
    ) {
        let blocks = Encoder::new(4096).run(&steps);
        let mut decoder = if late { Decoder::late(cap) } else { Decoder::synced(cap) };
        decoder.set_settings_limit(9000);
        let mut identities = BTreeMap::new();
        for block in &blocks {
            let (seen, result) = collect(&mut decoder, &block.wire);
            prop_assert_eq!(result, Ok(()));
            prop_assert_eq!(seen.len(), block.truth.len());
            for (seen, truth) in seen.iter().zip(&block.truth) {
                // What the decoder does not know is given its true place, so that only identities are compared.
                let mut truth = truth.clone();
                if matches!(seen.name, Seen::Unknown(_)) {
                    truth.name_block = 0;
                } else {
                    truth.name_block = ALWAYS;
                }
                truth.value_block = if matches!(seen.value, Seen::Unknown(_)) { 0 } else { ALWAYS };
                check_block("capped", std::slice::from_ref(seen), &[truth], 1, &mut identities);
            }
        }
    }

    #[test]
    fn fully_known_means_that_the_whole_table_can_be_read(
        steps in steps(false, 4096),
        join in 0.0..1.0,
    ) {
        let mut encoder = Encoder::new(4096);
        let blocks = encoder.run(&steps);
        let join = (blocks.len() as f64 * join) as usize;
        let mut decoder = Decoder::late(CAP);
        decoder.set_settings_limit(4096);
        for block in &blocks[join..] {
            prop_assert_eq!(collect(&mut decoder, &block.wire).1, Ok(()));
        }
        if decoder.is_fully_known() {
            let table = encoder.table();
            let mut block = Vec::new();
            for position in 0..table.len() {
                integer(&mut block, 0x80, 7, 62 + position);
            }
            prop_assert_eq!(fields(&mut decoder, &block), table);
        }
    }
}
