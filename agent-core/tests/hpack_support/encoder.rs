//! An HPACK encoder for tests, that uses every representation the RFC allows and knows the truth: what each
//! field is, and in which block what it refers to was said.

use std::collections::VecDeque;

use super::huffman_code::{CODE_BITS, CODES};

/// How a field is to be encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// As an index, if the field is in a table; as [`How::Incremental`] otherwise.
    Indexed,
    Incremental,
    Without,
    Never,
}

/// One thing that is sent.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Field { name: Vec<u8>, value: Vec<u8>, how: How, name_by_index: bool, huffman: bool },
    SizeUpdate(u32),
    EndBlock,
}

/// A field as it was meant.
#[derive(Clone, Debug)]
pub(crate) struct Truth {
    pub(crate) name: Vec<u8>,
    pub(crate) value: Vec<u8>,
    pub(crate) sensitive: bool,
    /// Block in which the name was said; the static table is from before everything, but always known.
    pub(crate) name_block: usize,
    /// Block in which the value was said.
    pub(crate) value_block: usize,
}

/// A block, and what is in it.
#[derive(Clone, Debug, Default)]
pub(crate) struct EncodedBlock {
    pub(crate) wire: Vec<u8>,
    pub(crate) truth: Vec<Truth>,
}

struct Entry {
    name: Vec<u8>,
    value: Vec<u8>,
    name_block: usize,
    value_block: usize,
}

/// Known at any time.
pub(crate) const ALWAYS: usize = usize::MAX;

pub(crate) struct Encoder {
    /// Newest first.
    entries: VecDeque<Entry>,
    maximum: usize,
    block: usize,
}

impl Encoder {
    pub(crate) fn new(maximum: usize) -> Self {
        Encoder { entries: VecDeque::new(), maximum, block: 0 }
    }

    /// Encodes the steps; size updates that do not stand at the start of a block begin a new one.
    pub(crate) fn run(&mut self, steps: &[Step]) -> Vec<EncodedBlock> {
        let mut blocks = Vec::new();
        let mut block = EncodedBlock::default();
        for step in steps {
            let ends = match step {
                Step::Field { .. } => false,
                Step::SizeUpdate(_) => !block.truth.is_empty(),
                Step::EndBlock => !block.wire.is_empty(),
            };
            if ends {
                blocks.push(std::mem::take(&mut block));
                self.block += 1;
            }
            match step {
                Step::Field { name, value, how, name_by_index, huffman } => {
                    let truth = self.field(&mut block.wire, name, value, *how, *name_by_index, *huffman);
                    block.truth.push(truth);
                }
                Step::SizeUpdate(bytes) => self.size_update(&mut block.wire, *bytes),
                Step::EndBlock => {}
            }
        }
        blocks.push(block);
        self.block += 1;
        blocks
    }

    /// What the table holds, newest first.
    pub(crate) fn table(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.entries.iter().map(|entry| (entry.name.clone(), entry.value.clone())).collect()
    }

    fn size_update(&mut self, wire: &mut Vec<u8>, bytes: u32) {
        integer(wire, 0b0010_0000, 5, bytes as usize);
        self.maximum = bytes as usize;
        self.evict(self.maximum);
    }

    fn field(
        &mut self,
        wire: &mut Vec<u8>,
        name: &[u8],
        value: &[u8],
        how: How,
        name_by_index: bool,
        huffman: bool,
    ) -> Truth {
        let mut truth = Truth {
            name: name.to_vec(),
            value: value.to_vec(),
            sensitive: how == How::Never,
            name_block: self.block,
            value_block: self.block,
        };
        if how == How::Indexed {
            if let Some(at) = self.entries.iter().position(|entry| entry.name == name && entry.value == value)
            {
                integer(wire, 0b1000_0000, 7, 62 + at);
                truth.name_block = self.entries[at].name_block;
                truth.value_block = self.entries[at].value_block;
                return truth;
            }
            if let Some(at) =
                STATIC.iter().position(|entry| (entry.1.as_bytes(), entry.2.as_bytes()) == (name, value))
            {
                integer(wire, 0b1000_0000, 7, STATIC[at].0);
                truth.name_block = ALWAYS;
                truth.value_block = ALWAYS;
                return truth;
            }
        }
        let (pattern, prefix) = match how {
            How::Indexed | How::Incremental => (0b0100_0000, 6),
            How::Without => (0, 4),
            How::Never => (0b0001_0000, 4),
        };
        let dynamic = self.entries.iter().position(|entry| entry.name == name);
        let fixed = STATIC.iter().find(|entry| entry.1.as_bytes() == name);
        match (name_by_index, dynamic, fixed) {
            (true, Some(at), _) => {
                integer(wire, pattern, prefix, 62 + at);
                truth.name_block = self.entries[at].name_block;
            }
            (true, None, Some(entry)) => {
                integer(wire, pattern, prefix, entry.0);
                truth.name_block = ALWAYS;
            }
            (false, _, _) | (true, None, None) => {
                integer(wire, pattern, prefix, 0);
                string(wire, name, huffman);
            }
        }
        string(wire, value, huffman);
        if matches!(how, How::Indexed | How::Incremental) {
            self.insert(&truth);
        }
        truth
    }

    fn insert(&mut self, truth: &Truth) {
        let size = truth.name.len() + truth.value.len() + 32;
        if size > self.maximum {
            self.entries.clear();
            return;
        }
        self.evict(self.maximum - size);
        self.entries.push_front(Entry {
            name: truth.name.clone(),
            value: truth.value.clone(),
            // Whoever has not seen this insertion does not know which name the entry has.
            name_block: truth.name_block.min(self.block),
            value_block: truth.value_block,
        });
    }

    fn evict(&mut self, bytes: usize) {
        let mut size = 0;
        self.entries.retain(|entry| {
            size += entry.name.len() + entry.value.len() + 32;
            size <= bytes
        });
    }
}

/// Part of the static table, with the indices.
const STATIC: [(usize, &str, &str); 9] = [
    (1, ":authority", ""),
    (3, ":method", "POST"),
    (4, ":path", "/"),
    (6, ":scheme", "http"),
    (8, ":status", "200"),
    (31, "content-type", ""),
    (32, "cookie", ""),
    (58, "user-agent", ""),
    (61, "www-authenticate", ""),
];

/// An integer with a prefix of `bits` bits behind `pattern` (RFC 7541 §5.1).
pub(crate) fn integer(wire: &mut Vec<u8>, pattern: u8, bits: u32, value: usize) {
    let mask = (1 << bits) - 1;
    if value < mask {
        wire.push(pattern | value as u8);
        return;
    }
    wire.push(pattern | mask as u8);
    let mut rest = value - mask;
    while rest >= 128 {
        wire.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    wire.push(rest as u8);
}

/// A string literal (RFC 7541 §5.2).
pub(crate) fn string(wire: &mut Vec<u8>, octets: &[u8], huffman: bool) {
    let coded = if huffman { huffman_code(octets) } else { octets.to_vec() };
    integer(wire, if huffman { 0x80 } else { 0 }, 7, coded.len());
    wire.extend(coded);
}

/// Whole literal with incremental indexing, both strings plain.
pub(crate) fn incremental(name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut wire = vec![0x40];
    string(&mut wire, name, false);
    string(&mut wire, value, false);
    wire
}

/// A size update.
pub(crate) fn size_update(bytes: usize) -> Vec<u8> {
    let mut wire = Vec::new();
    integer(&mut wire, 0b0010_0000, 5, bytes);
    wire
}

fn huffman_code(octets: &[u8]) -> Vec<u8> {
    let mut coded = Vec::new();
    let (mut waiting, mut bits) = (0_u64, 0);
    for &octet in octets {
        let length = u32::from(CODE_BITS[octet as usize]);
        waiting = waiting << length | u64::from(CODES[octet as usize]);
        bits += length;
        while bits >= 8 {
            bits -= 8;
            coded.push((waiting >> bits) as u8);
        }
    }
    if bits > 0 {
        coded.push((waiting << (8 - bits) | ((1 << (8 - bits)) - 1)) as u8);
    }
    coded
}
