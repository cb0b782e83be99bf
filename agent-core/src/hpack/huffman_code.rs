//! The Huffman code of HPACK as data (RFC 7541 Appendix B), and the look-up tables made from it.
//!
//! The code is canonical: codes of one length count up in the order of their symbols, and each length
//! continues where the shorter one ended. The lengths alone therefore define it.

/// The symbol that is never sent, whose beginning is the padding.
pub(super) const END_OF_STRING: u16 = 256;

/// Bits of the code of each octet, and of the end of string at last.
pub(super) const CODE_BITS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28,
    28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6,
    6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7,
    8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7,
    15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24,
    23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23,
    23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26,
    26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20,
    21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27,
    27, 27, 26, 30,
];

/// Longest code.
pub(super) const LONGEST_BITS: u32 = 30;

/// Bits that one look-up sees. With 12, two symbols come out of nearly every look-up of header text, whose
/// codes have 5 to 7 bits, and the table takes 16 KiB, half of a first-level cache.
pub(super) const LOOKUP_BITS: u32 = 12;

/// What the next [`LOOKUP_BITS`] bits begin with: up to two whole symbols, packed into 32 bits.
///
/// The length of the codes is in the lowest bits: a shift by the whole number is then a shift by that length
/// (the processor ignores higher bits), which is a step less in the chain from one look-up to the next.
#[derive(Clone, Copy)]
pub(super) struct Lookup(u32);

impl Lookup {
    const fn new(symbols: [u8; 2], count: u32, bits: u32, first_bits: u32) -> Self {
        Lookup(bits | (u16::from_le_bytes(symbols) as u32) << 8 | count << 24 | first_bits << 26)
    }

    /// The symbols in the order of the string; the second is meaningless if there is only one.
    #[inline]
    pub(super) const fn symbols(self) -> [u8; 2] {
        ((self.0 >> 8) as u16).to_le_bytes()
    }

    /// Bits of all its symbols.
    #[inline]
    pub(super) const fn bits(self) -> u32 {
        self.0 & 0xff
    }

    /// Bits of the first symbol.
    #[inline]
    pub(super) const fn first_bits(self) -> u32 {
        self.0 >> 26
    }

    /// How many symbols: zero if the first one is longer than the look-up sees.
    #[inline]
    pub(super) const fn count(self) -> usize {
        (self.0 >> 24 & 3) as usize
    }

    /// The window without its symbols.
    #[inline]
    pub(super) const fn shift(self, window: u64) -> u64 {
        window.wrapping_shl(self.0)
    }
}

/// Look-ups by the next [`LOOKUP_BITS`] bits.
pub(super) static LOOKUPS: [Lookup; 1 << LOOKUP_BITS] = lookups();

/// Codes of one length, in a window of [`LONGEST_BITS`] bits.
#[derive(Clone, Copy)]
pub(super) struct Rank {
    /// First window value above the codes of this length.
    pub(super) end: u32,
    /// First window value of them.
    pub(super) start: u32,
    /// Where their symbols start in [`SYMBOLS`].
    pub(super) first_symbol: u16,
}

/// The codes by their length in bits.
pub(super) static RANKS: [Rank; LONGEST_BITS as usize + 1] = ranks();

/// All symbols, by code.
pub(super) static SYMBOLS: [u16; 257] = symbols();

/// The code of each symbol, in its low bits.
#[cfg(test)]
pub(super) const CODES: [u32; 257] = codes();

const fn symbols() -> [u16; 257] {
    let mut symbols = [0; 257];
    let mut filled = 0;
    let mut bits = 1;
    while bits <= LONGEST_BITS {
        let mut symbol = 0;
        while symbol < 257 {
            if CODE_BITS[symbol] as u32 == bits {
                symbols[filled] = symbol as u16;
                filled += 1;
            }
            symbol += 1;
        }
        bits += 1;
    }
    symbols
}

const fn codes() -> [u32; 257] {
    let symbols = symbols();
    let mut codes = [0; 257];
    let mut code = 0_u32;
    let mut bits = 0;
    let mut at = 0;
    while at < 257 {
        let symbol = symbols[at] as usize;
        code <<= CODE_BITS[symbol] - bits;
        bits = CODE_BITS[symbol];
        codes[symbol] = code;
        code += 1;
        at += 1;
    }
    codes
}

const fn ranks() -> [Rank; LONGEST_BITS as usize + 1] {
    let mut ranks = [Rank { end: 0, start: 0, first_symbol: 0 }; LONGEST_BITS as usize + 1];
    let mut end = 0;
    let mut filled = 0;
    let mut bits = 1;
    while bits <= LONGEST_BITS {
        let mut count = 0;
        let mut symbol = 0;
        while symbol < 257 {
            if CODE_BITS[symbol] as u32 == bits {
                count += 1;
            }
            symbol += 1;
        }
        let start = end;
        end += count << (LONGEST_BITS - bits);
        ranks[bits as usize] = Rank { end, start, first_symbol: filled };
        filled += count as u16;
        bits += 1;
    }
    ranks
}

const fn lookups() -> [Lookup; 1 << LOOKUP_BITS] {
    let codes = codes();
    let mut table = [Lookup(0); 1 << LOOKUP_BITS];
    let mut first = 0;
    while first < 256 {
        let first_bits = CODE_BITS[first] as u32;
        if first_bits <= LOOKUP_BITS {
            let free = LOOKUP_BITS - first_bits;
            let start = codes[first] << free;
            let one = Lookup::new([first as u8, 0], 1, first_bits, first_bits);
            let mut tail = 0;
            while tail < 1 << free {
                table[(start + tail) as usize] = one;
                tail += 1;
            }
            let mut second = 0;
            while second < 256 {
                let second_bits = CODE_BITS[second] as u32;
                if second_bits <= free {
                    let both =
                        Lookup::new([first as u8, second as u8], 2, first_bits + second_bits, first_bits);
                    let start = start + (codes[second] << (free - second_bits));
                    let mut tail = 0;
                    while tail < 1 << (free - second_bits) {
                        table[(start + tail) as usize] = both;
                        tail += 1;
                    }
                }
                second += 1;
            }
        }
        first += 1;
    }
    table
}
