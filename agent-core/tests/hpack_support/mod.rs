//! Helpers of the HPACK tests: what a decoder reports as plain data.
#![allow(dead_code, reason = "each test binary uses some of it")]

pub(crate) mod encoder;
pub(crate) mod strategies;
// The code itself, so that the tests can encode. That it is the RFC's is shown by Appendix C, by the corpora and
// by the differential tests.
#[path = "../../src/hpack/huffman_code.rs"]
mod huffman_code;

use agent_core::hpack::{Decoder, EntryId, HpackError, ListLimits, Text};

/// No limit: everything is reported.
pub(crate) const ALL: ListLimits = ListLimits { bytes: usize::MAX, fields: usize::MAX };

/// Hard cap of the table in most tests, the agent's default.
pub(crate) const CAP: usize = 64 * 1024;

/// A name or value, owned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Known(Vec<u8>),
    Unknown(EntryId),
    Unwanted,
}

impl Seen {
    pub(crate) fn from_text(text: Text<'_>) -> Seen {
        match text {
            Text::Known(octets) => Seen::Known(octets.to_vec()),
            Text::Unknown(id) => Seen::Unknown(id),
            Text::Unwanted => Seen::Unwanted,
        }
    }

    pub(crate) fn known(text: impl AsRef<[u8]>) -> Seen {
        Seen::Known(text.as_ref().to_vec())
    }
}

/// A field that a decoder reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SeenField {
    pub(crate) name: Seen,
    pub(crate) value: Seen,
    pub(crate) sensitive: bool,
}

/// Decodes a block and collects what is reported before it ends, or before the error.
pub(crate) fn collect(decoder: &mut Decoder, block: &[u8]) -> (Vec<SeenField>, Result<(), HpackError>) {
    let mut seen = Vec::new();
    let result = decoder.decode(block, ALL, |field| {
        seen.push(SeenField {
            name: Seen::from_text(field.name),
            value: Seen::from_text(field.value),
            sensitive: field.sensitive,
        });
    });
    if let Ok(info) = result {
        assert_eq!((info.fields, info.unreported_fields), (seen.len(), 0));
    }
    (seen, result.map(|_| ()))
}

/// Decodes a block that is right and of which everything is known.
pub(crate) fn fields(decoder: &mut Decoder, block: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let (seen, result) = collect(decoder, block);
    assert_eq!(result, Ok(()));
    seen.into_iter()
        .map(|field| match (field.name, field.value) {
            (Seen::Known(name), Seen::Known(value)) => (name, value),
            other => panic!("not known: {other:?}"),
        })
        .collect()
}

/// The same as text.
pub(crate) fn text_fields(decoder: &mut Decoder, block: &[u8]) -> Vec<(String, String)> {
    fields(decoder, block).into_iter().map(|(name, value)| (text(name), text(value))).collect()
}

fn text(octets: Vec<u8>) -> String {
    String::from_utf8(octets).unwrap()
}

/// What the first `count` dynamic entries hold, newest first. Does not change the table.
pub(crate) fn dynamic_entries(decoder: &mut Decoder, count: u8) -> Vec<(String, String)> {
    let block: Vec<u8> = (0..count).map(|position| 0x80 | (62 + position)).collect();
    text_fields(decoder, &block)
}

/// Octets of spaced hex.
pub(crate) fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        text.chars().filter(|c| !c.is_whitespace()).map(|c| c.to_digit(16).unwrap() as u8).collect();
    assert!(digits.len().is_multiple_of(2), "odd number of digits");
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// Pairs of text, owned.
pub(crate) fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
}
