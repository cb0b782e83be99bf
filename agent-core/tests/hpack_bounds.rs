//! What hostile input cannot do: panic, run away, or fill memory (T1, T3, T4, T5, T20).

mod hpack_support;

use agent_core::hpack::{Decoder, ListLimits};
use hpack_support::encoder::{Encoder, incremental, size_update, string};
use hpack_support::strategies::steps;
use hpack_support::{CAP, fields};
use proptest::collection::vec;
use proptest::prelude::*;

/// The agent's defaults.
const LIMITS: ListLimits = ListLimits { bytes: 64 * 1024, fields: 256 };

/// Arena and entries of a full table, each with room to grow by a factor of two.
const HEAP_MAX: usize = 4 * CAP;

#[test]
fn t3_a_bomb_of_references_is_reported_up_to_the_limit_and_the_next_block_is_right() {
    let mut decoder = Decoder::synced(CAP);
    fields(&mut decoder, &incremental(b"bomb", &[b'x'; 4000]));
    let mut reported = 0;
    let info = decoder.decode(&[0xbe; 64 * 1024], LIMITS, |field| {
        reported += field.value.known().unwrap().len();
    });
    let info = info.unwrap();
    assert_eq!(info.fields, 64 * 1024);
    assert!(reported <= LIMITS.bytes, "{reported}");
    assert_eq!(reported, (info.fields - info.unreported_fields) * 4000);
    assert_eq!(fields(&mut decoder, &[0xbe]), [(b"bomb".to_vec(), vec![b'x'; 4000])]);
    assert!(decoder.heap_bytes() <= HEAP_MAX);
}

#[test]
fn t3_strings_that_grow_by_huffman_coding_are_bounded() {
    let mut decoder = Decoder::synced(CAP);
    for pattern in [0x00, 0x10, 0x40] {
        let mut block = vec![pattern];
        string(&mut block, b"name", true);
        string(&mut block, &[b'a'; 2_000_000], true);
        let info = decoder.decode(&block, LIMITS, |_| panic!("larger than the list may be")).unwrap();
        assert_eq!(info.unreported_fields, 1);
        assert!(decoder.heap_bytes() <= HEAP_MAX, "{}", decoder.heap_bytes());
    }
}

#[test]
fn t4_any_table_size_stays_within_the_cap() {
    let mut decoder = Decoder::synced(CAP);
    decoder.set_settings_limit(u32::MAX);
    fields(&mut decoder, &size_update(u32::MAX as usize));
    for number in 0..20_000 {
        fields(&mut decoder, &incremental(b"", format!("{number}").as_bytes()));
        if number % 1000 == 0 {
            fields(&mut decoder, &incremental(b"large", &[b'x'; 30_000]));
        }
    }
    assert!(decoder.heap_bytes() <= HEAP_MAX, "{}", decoder.heap_bytes());
    // Smallest entries: the most that there can be.
    for _ in 0..10_000 {
        fields(&mut decoder, &incremental(b"", b""));
    }
    assert!(decoder.heap_bytes() <= HEAP_MAX, "{}", decoder.heap_bytes());
}

#[test]
fn t4_a_million_size_updates_cost_a_step_each() {
    let mut decoder = Decoder::synced(CAP);
    decoder.set_settings_limit(u32::MAX);
    let block = [size_update(0), size_update(CAP)].concat().repeat(500_000);
    assert_eq!(fields(&mut decoder, &block), []);
    assert!(decoder.heap_bytes() <= HEAP_MAX);
}

#[test]
fn an_arena_that_one_block_has_blown_up_is_given_back() {
    let mut decoder = Decoder::synced(CAP);
    fields(&mut decoder, &incremental(b"a", b"1"));
    let mut block = vec![0x00];
    string(&mut block, b"large", true);
    string(&mut block, &[b'a'; 60_000], true);
    fields(&mut decoder, &block);
    assert!(decoder.heap_bytes() <= 16 * 1024, "{}", decoder.heap_bytes());
    assert_eq!(fields(&mut decoder, &[0xbe]), [(b"a".to_vec(), b"1".to_vec())]);
}

/// Decodes the blocks, and checks what holds for any octets at all.
fn check_any(late: bool, cap: usize, blocks: &[Vec<u8>]) -> Result<(), TestCaseError> {
    let mut decoder = if late { Decoder::late(cap) } else { Decoder::synced(cap) };
    for block in blocks {
        let mut reported = 0;
        let result = decoder.decode(block, LIMITS, |_| reported += 1);
        // T20: each field takes an octet at least.
        prop_assert!(reported <= block.len().min(LIMITS.fields));
        if let Ok(info) = result {
            prop_assert!(info.fields <= block.len());
            prop_assert_eq!(info.fields - info.unreported_fields, reported);
            prop_assert!(info.unknown_fields <= reported);
        } else {
            // Nothing is known any more, unless the table has no room for anything.
            prop_assert!(cap < 32 || !decoder.is_fully_known());
        }
        prop_assert!(decoder.heap_bytes() <= HEAP_MAX);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn t1_random_octets_never_panic(
        blocks in vec(vec(any::<u8>(), 0..300), 1..8),
        late: bool,
        cap in prop_oneof![Just(0), Just(100), Just(4096), Just(CAP)],
    ) {
        check_any(late, cap, &blocks)?;
    }

    #[test]
    fn t1_damaged_blocks_never_panic(
        steps in steps(false, 9000),
        damage in vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()), 0..20),
        late: bool,
        cap in prop_oneof![Just(0), Just(100), Just(4096), Just(CAP)],
    ) {
        let mut blocks: Vec<Vec<u8>> = Encoder::new(4096).run(&steps).into_iter().map(|block| block.wire).collect();
        for (block, at, octet) in damage {
            let index = block.index(blocks.len());
            let block = &mut blocks[index];
            if !block.is_empty() {
                let at = at.index(block.len());
                if octet == 0 { block.truncate(at) } else { block[at] ^= octet }
            }
        }
        check_any(late, cap, &blocks)?;
    }
}
