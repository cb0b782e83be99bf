//! A decoder that is saved and restored goes on as if nothing had happened.

mod hpack_support;

use agent_core::hpack::{Decoder, SavedEntry, SavedName, SavedTable, Text};
use hpack_support::encoder::{Encoder, incremental};
use hpack_support::strategies::steps;
use hpack_support::{CAP, collect};
use proptest::prelude::*;

fn restored(saved: &SavedTable) -> Option<Decoder> {
    Decoder::restore(saved, CAP, |_| 0)
}

proptest! {
    #[test]
    fn a_restored_decoder_reports_what_the_first_one_would_have(
        steps in steps(false, 4096),
        late in any::<bool>(),
        place in any::<prop::sample::Index>(),
    ) {
        let blocks = Encoder::new(4096).run(&steps);
        let at = place.index(blocks.len());
        // A late one joins half-way to the place at which it is saved, so that it knows a part.
        let mut decoder = if late { Decoder::late(CAP) } else { Decoder::synced(CAP) };
        for block in &blocks[if late { at / 2 } else { 0 }..at] {
            prop_assert_eq!(collect(&mut decoder, &block.wire).1, Ok(()));
        }
        let saved = decoder.save();
        let read: SavedTable = serde_json::from_str(&serde_json::to_string(&saved).unwrap()).unwrap();
        prop_assert_eq!(&read, &saved);
        let mut restored = restored(&read).expect("what was saved can be restored");
        prop_assert_eq!(restored.is_fully_known(), decoder.is_fully_known());
        prop_assert_eq!(restored.save(), saved);
        for block in &blocks[at..] {
            prop_assert_eq!(collect(&mut restored, &block.wire), collect(&mut decoder, &block.wire));
        }
    }
}

#[test]
fn values_that_nobody_wanted_are_not_saved() {
    let mut decoder = Decoder::synced(CAP);
    let block = [incremental(b"authorization", b"secret"), incremental(b":path", b"/a.B/C")].concat();
    let limits = hpack_support::ALL;
    decoder
        .decode_wanted(&block, limits, |name| name == Text::Known(b":path"), |_| {})
        .expect("the block is right");
    let saved = decoder.save();
    assert_eq!(saved.entries[0].value, None);
    assert!(!serde_json::to_string(&saved).unwrap().contains("[115,101,99,114,101,116]"));
    // It still counts for the table.
    let mut restored = restored(&saved).expect("what was saved can be restored");
    let mut seen = Vec::new();
    restored.decode(&[0xbe, 0xbf], limits, |field| seen.push(format!("{:?}", field.value))).unwrap();
    assert_eq!(seen, [format!("{:?}", Text::Known(b"/a.B/C")), String::from("Unwanted")]);
}

#[test]
fn what_nobody_can_have_saved_is_refused() {
    let mut decoder = Decoder::synced(CAP);
    collect(&mut decoder, &[incremental(b"name", b"value"), incremental(b"other", b"value")].concat())
        .1
        .unwrap();
    let good = decoder.save();
    assert!(restored(&good).is_some());
    let refused = |change: fn(&mut SavedTable)| {
        let mut saved = good.clone();
        change(&mut saved);
        assert!(restored(&saved).is_none(), "{saved:?}");
    };
    refused(|saved| saved.maximum = 50);
    refused(|saved| saved.inserted = 1);
    refused(|saved| saved.inserted = -1);
    refused(|saved| saved.entries[0].value_bytes = 4);
    refused(|saved| saved.entries[0].value_bytes = u32::MAX);
    refused(|saved| saved.entries[0].name = SavedName::Static(0));
    refused(|saved| saved.entries[0].name = SavedName::Static(62));
    refused(|saved| saved.entries[0].name = SavedName::Unknown(i64::MIN));
    refused(|saved| {
        let entry = SavedEntry { name: SavedName::Static(1), value_bytes: u32::MAX, value: None };
        saved.entries.push(entry);
    });
    assert!(Decoder::restore(&good, 50, |_| 0).is_none(), "more than may be kept");
}
