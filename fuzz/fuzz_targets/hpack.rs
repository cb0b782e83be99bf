//! Header blocks of one direction, through several decoders at once. The one that saw everything is right; the
//! others joined late, keep less, or want less, and may say that they do not know, but never something else.
#![no_main]

use agent_core::fuzzing::take_steps;
use agent_core::hpack::{Decoder, EntryId, HpackError, ListLimits, Text};
use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    /// After so many steps a second decoder joins.
    joins_after: u8,
    small_cap: u16,
    list_bytes: u16,
    steps: Vec<Step<'a>>,
}

#[derive(Arbitrary, Debug)]
enum Step<'a> {
    Block(&'a [u8]),
    SettingsLimit(u16),
    LargeSettingsLimit(u32),
    ForgetLimit,
    /// A gap, for the decoders that do not see everything.
    Gap,
    Literal {
        incremental: bool,
        name_index: u8,
        name: &'a [u8],
        value: &'a [u8],
    },
    Reference(u8),
    TableSize(u16),
}

const CAP: usize = 64 * 1024;
const ALL: ListLimits = ListLimits { bytes: usize::MAX, fields: usize::MAX };

#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Known(Vec<u8>),
    Unknown(EntryId),
    Unwanted,
}

fn seen(text: Text<'_>) -> Seen {
    match text {
        Text::Known(octets) => Seen::Known(octets.to_vec()),
        Text::Unknown(id) => Seen::Unknown(id),
        Text::Unwanted => Seen::Unwanted,
    }
}

type Fields = Vec<(Seen, Seen)>;

fn decode(
    decoder: &mut Decoder,
    block: &[u8],
    limits: ListLimits,
    wants: impl Fn(Text<'_>) -> bool,
) -> (Fields, Result<(), HpackError>) {
    let mut fields = Vec::new();
    take_steps();
    let result = decoder.decode_wanted(block, limits, wants, |field| {
        fields.push((seen(field.name), seen(field.value)));
    });
    assert!(take_steps() <= block.len() as u64, "T20: an octet at least for each field");
    assert!(decoder.heap_bytes() <= 8 * CAP, "T4: {} bytes", decoder.heap_bytes());
    if let Ok(info) = result {
        assert_eq!(info.fields - info.unreported_fields, fields.len());
    }
    (fields, result.map(|_| ()))
}

/// Whatever `less` knows is what `truth` knows.
fn agrees(less: &Fields, truth: &Fields) {
    assert!(less.len() <= truth.len());
    for ((name, value), (true_name, true_value)) in less.iter().zip(truth) {
        assert!(!matches!(name, Seen::Known(_)) || name == true_name, "{name:?}, but it is {true_name:?}");
        assert!(
            !matches!(value, Seen::Known(_)) || value == true_value,
            "{value:?}, but it is {true_value:?}"
        );
    }
}

/// The parts of a literal or reference on the wire, without Huffman coding.
fn integer(out: &mut Vec<u8>, pattern: u8, mask: u8, value: usize) {
    if value < usize::from(mask) {
        out.push(pattern | value as u8);
        return;
    }
    out.push(pattern | mask);
    let mut rest = value - usize::from(mask);
    while rest >= 128 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

fn string(out: &mut Vec<u8>, octets: &[u8]) {
    integer(out, 0, 0x7f, octets.len());
    out.extend(octets);
}

fuzz_target!(|data: &[u8]| fuzz::within_time(|| check(data)));

fn check(data: &[u8]) {
    let Ok(input) = Input::arbitrary_take_rest(arbitrary::Unstructured::new(data)) else { return };
    let mut truth = Decoder::synced(CAP);
    let mut small = Decoder::synced(usize::from(input.small_cap));
    let mut sparing = Decoder::synced(CAP);
    let mut late: Option<Decoder> = None;
    let limits = ListLimits { bytes: usize::from(input.list_bytes), fields: 20 };
    let mut is_truth_whole = true;
    let mut limit: Option<u32> = Some(4096);
    // A lower limit obliges the encoder to a size update (§4.2), and these are sent at random. After a gap, or without
    // SETTINGS, a decoder counts on it, and takes entries for gone that one that saw everything still has.
    let mut is_encoder_lawful = true;
    for (number, step) in input.steps.iter().enumerate() {
        if number == usize::from(input.joins_after % 16) {
            let mut decoder = Decoder::late(CAP);
            if let Some(limit) = limit {
                decoder.set_settings_limit(limit);
            }
            late = Some(decoder);
        }
        let mut block = Vec::new();
        match step {
            Step::Block(octets) => block.extend(*octets),
            Step::Literal { incremental, name_index, name, value } => {
                let (pattern, mask) = if *incremental { (0x40, 0x3f) } else { (0, 0x0f) };
                integer(&mut block, pattern, mask, usize::from(*name_index % 70));
                if name_index % 70 == 0 {
                    string(&mut block, name);
                }
                string(&mut block, value);
            }
            Step::Reference(index) => integer(&mut block, 0x80, 0x7f, usize::from(*index)),
            Step::TableSize(bytes) => integer(&mut block, 0x20, 0x1f, usize::from(*bytes)),
            Step::SettingsLimit(_) | Step::LargeSettingsLimit(_) => {
                let bytes = match step {
                    Step::SettingsLimit(bytes) => u32::from(*bytes),
                    Step::LargeSettingsLimit(bytes) => *bytes,
                    _ => 4096,
                };
                is_encoder_lawful &= limit.is_none_or(|limit| bytes >= limit);
                limit = Some(bytes);
                for decoder in [&mut truth, &mut small, &mut sparing].into_iter().chain(&mut late) {
                    decoder.set_settings_limit(bytes);
                }
                continue;
            }
            Step::ForgetLimit => {
                is_encoder_lawful = false;
                if let Some(late) = &mut late {
                    late.forget_settings_limit();
                    // What it refuses from here on the others may accept.
                    late.start_epoch();
                }
                continue;
            }
            Step::Gap => {
                small.start_epoch();
                if let Some(late) = &mut late {
                    late.start_epoch();
                }
                continue;
            }
        }
        let (fields, result) = decode(&mut truth, &block, ALL, |_| true);
        let is_right = result.is_ok();
        if is_right && is_truth_whole && truth.is_fully_known() {
            let whole = |field: &(Seen, Seen)| matches!(field, (Seen::Known(_), Seen::Known(_)));
            assert!(fields.iter().all(whole), "H1: it saw everything");
        }
        let (less, result) = decode(&mut small, &block, limits, |_| true);
        agrees_if(is_truth_whole && is_right, &less, &fields);
        if is_truth_whole && is_right && is_encoder_lawful {
            assert_eq!(result, Ok(()), "what is not known is no error");
        }
        let wants = |name: Text<'_>| name.known().is_some_and(|name| name.len() % 2 == 0);
        let (less, result) = decode(&mut sparing, &block, ALL, wants);
        agrees_if(is_truth_whole && is_right, &less, &fields);
        if is_truth_whole && is_right {
            assert_eq!(result, Ok(()), "what is wanted changes nothing");
            assert_eq!(less.len(), fields.len());
        }
        if let Some(late) = &mut late {
            let (less, result) = decode(late, &block, ALL, |_| true);
            agrees_if(is_truth_whole && is_right, &less, &fields);
            if is_truth_whole && is_right && is_encoder_lawful {
                assert_eq!(result, Ok(()), "what is not known is no error");
                assert_eq!(less.len(), fields.len());
            }
        }
        // After an error all of them start anew, at different places perhaps: nothing can be compared.
        is_truth_whole &= is_right;
    }
}

fn agrees_if(comparable: bool, less: &Fields, truth: &Fields) {
    if comparable {
        agrees(less, truth);
    }
}
