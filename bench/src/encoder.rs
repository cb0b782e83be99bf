//! A plain HPACK encoder for traffic that has to be the same everywhere, whatever library is installed: every string
//! is Huffman-coded, every field enters the table, and what is in a table is sent as its index.

use std::collections::VecDeque;

use crate::traffic::Field;

#[expect(dead_code, reason = "the decoder's tables come with it")]
#[path = "../../agent-core/src/hpack/huffman_code.rs"]
mod huffman_code;

use huffman_code::{CODE_BITS, SYMBOLS};

const TABLE_BYTES: usize = 4096;
const ENTRY_OVERHEAD_BYTES: usize = 32;
const STATIC_ENTRIES: usize = 61;

/// Part of the static table (RFC 7541 Appendix A), with the indices.
const STATIC: [(usize, &str, &str); 8] = [
    (1, ":authority", ""),
    (3, ":method", "POST"),
    (4, ":path", "/"),
    (6, ":scheme", "http"),
    (8, ":status", "200"),
    (31, "content-type", ""),
    (58, "user-agent", ""),
    (59, "vary", ""),
];

/// One direction of a connection.
#[derive(Default)]
pub struct Encoder {
    /// Newest first.
    entries: VecDeque<Field>,
}

impl Encoder {
    /// With an empty table of the default size.
    pub fn new() -> Self {
        Encoder::default()
    }

    /// Encodes a header list.
    pub fn encode(&mut self, fields: &[Field]) -> Vec<u8> {
        let mut block = Vec::new();
        for field in fields {
            self.encode_field(&mut block, field);
        }
        block
    }

    fn encode_field(&mut self, block: &mut Vec<u8>, field: &Field) {
        let in_static = STATIC.iter().find(|(_, name, value)| (*name, *value) == (field.0, field.1.as_str()));
        if let Some((index, ..)) = in_static {
            return integer(block, 0b1000_0000, 7, *index);
        }
        if let Some(place) = self.entries.iter().position(|entry| entry == field) {
            return integer(block, 0b1000_0000, 7, STATIC_ENTRIES + 1 + place);
        }
        let of_static = STATIC.iter().find(|(_, name, _)| *name == field.0).map(|(index, ..)| *index);
        let of_entry = || self.entries.iter().position(|entry| entry.0 == field.0);
        match of_static.or_else(|| of_entry().map(|place| STATIC_ENTRIES + 1 + place)) {
            Some(index) => integer(block, 0b0100_0000, 6, index),
            None => {
                block.push(0b0100_0000);
                string(block, field.0);
            }
        }
        string(block, &field.1);
        self.entries.push_front(field.clone());
        let mut size = 0;
        self.entries.retain(|(name, value)| {
            size += name.len() + value.len() + ENTRY_OVERHEAD_BYTES;
            size <= TABLE_BYTES
        });
    }
}

/// An integer with a prefix of `bits` bits behind `pattern` (RFC 7541 §5.1).
fn integer(block: &mut Vec<u8>, pattern: u8, bits: u32, value: usize) {
    let mask = (1 << bits) - 1;
    if value < mask {
        return block.push(pattern | value as u8);
    }
    block.push(pattern | mask as u8);
    let mut rest = value - mask;
    while rest >= 128 {
        block.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    block.push(rest as u8);
}

/// A Huffman-coded string (RFC 7541 §5.2).
fn string(block: &mut Vec<u8>, text: &str) {
    let mut coded = Vec::new();
    let (mut waiting, mut bits) = (0_u64, 0);
    for octet in text.bytes() {
        let (code, length) = code(u16::from(octet));
        waiting = waiting << length | u64::from(code);
        bits += length;
        while bits >= 8 {
            bits -= 8;
            coded.push((waiting >> bits) as u8);
        }
    }
    if bits > 0 {
        coded.push((waiting << (8 - bits)) as u8 | ((1_u16 << (8 - bits)) - 1) as u8);
    }
    integer(block, 0b1000_0000, 7, coded.len());
    block.extend(coded);
}

/// The code of a symbol, and its length: codes count up in the order of [`SYMBOLS`].
fn code(wanted: u16) -> (u32, u32) {
    let (mut code, mut bits) = (0_u32, 0);
    for symbol in SYMBOLS {
        let length = u32::from(CODE_BITS[usize::from(symbol)]);
        code <<= length - bits;
        bits = length;
        if symbol == wanted {
            break;
        }
        code += 1;
    }
    (code, bits)
}
