//! Huffman-coded strings (RFC 7541 §5.2), two symbols a look-up.
//!
//! The string is seen through a window of 64 bits. While eight octets are left the window is loaded anew
//! every four look-ups; the end of the string is one last window, filled up with ones, which is also what valid
//! padding looks like.

use super::HpackError;
use super::huffman_code::{END_OF_STRING, LONGEST_BITS, LOOKUP_BITS, LOOKUPS, RANKS, SYMBOLS};

/// Octets that `coded` octets decode to at most: the shortest code has five bits.
pub(super) fn decoded_len_max(coded: usize) -> usize {
    coded.saturating_mul(8) / 5
}

/// Decodes `coded` into `out`, and returns the decoded length.
///
/// Octets that find no place in `out` are counted but not written. It writes two octets at a time, so the
/// last place of `out` can stay unused: give it one more than what has to fit.
pub(super) fn decode(coded: &[u8], out: &mut [u8]) -> Result<usize, HpackError> {
    walk(coded, |at, symbols| {
        if let Some(place) = out.get_mut(at..at + 2) {
            place.copy_from_slice(&symbols);
        }
    })
}

/// Checks `coded` and returns its decoded length, without decoding it.
pub(super) fn decoded_len(coded: &[u8]) -> Result<usize, HpackError> {
    walk(coded, |_, _| ())
}

/// Goes over the symbols of `coded`, hands them to `put` in pairs with their place, and returns their number.
/// The second symbol of a pair may be meaningless: the next pair then overwrites it.
#[inline(always)]
fn walk(coded: &[u8], mut put: impl FnMut(usize, [u8; 2])) -> Result<usize, HpackError> {
    let mut decoded = 0;
    let mut position = 0; // In bits.
    while let Some(octets) = coded.get(position >> 3..).and_then(<[u8]>::first_chunk::<8>) {
        // At least 57 bits of it are from the string.
        let loaded = u64::from_be_bytes(*octets) << (position & 7);
        let mut window = loaded;
        let mut used = 0;
        for _ in 0..4 {
            let lookup = LOOKUPS[(window >> (64 - LOOKUP_BITS)) as usize];
            put(decoded, lookup.symbols());
            decoded += lookup.count();
            used += lookup.bits();
            window = lookup.shift(window);
        }
        if used == 0 {
            let (symbol, bits) = long_symbol(loaded);
            if symbol == END_OF_STRING {
                return Err(HpackError::HuffmanEndOfString);
            }
            put(decoded, [symbol as u8, 0]);
            decoded += 1;
            used = bits;
        }
        position += used as usize;
    }
    let (mut window, mut left) = last_window(coded, position);
    // Ends: each round takes at least one bit off `left`, or returns.
    loop {
        let lookup = LOOKUPS[(window >> (64 - LOOKUP_BITS)) as usize];
        let (symbols, count, used) = if lookup.count() > 0 && lookup.bits() <= left {
            (lookup.symbols(), lookup.count(), lookup.bits())
        } else if lookup.count() > 0 && lookup.first_bits() <= left {
            (lookup.symbols(), 1, lookup.first_bits())
        } else if left < 8 && window == u64::MAX {
            return Ok(decoded);
        } else if lookup.count() > 0 {
            return Err(HpackError::HuffmanPadding);
        } else {
            let (symbol, bits) = long_symbol(window);
            if bits > left {
                return Err(HpackError::HuffmanPadding);
            }
            if symbol == END_OF_STRING {
                return Err(HpackError::HuffmanEndOfString);
            }
            ([symbol as u8, 0], 1, bits)
        };
        put(decoded, symbols);
        decoded += count;
        left -= used;
        window = window << used | ones(used);
    }
}

/// The window from bit `position`, of which less than eight octets are left, and how many of its bits are
/// from the string; the others are ones.
#[inline(always)]
fn last_window(coded: &[u8], position: usize) -> (u64, u32) {
    if let Some(octets) = coded.last_chunk::<8>() {
        let last = u64::from_be_bytes(*octets);
        // Not below zero: the loop only stops inside of the last eight octets, or behind them.
        let before = (position + 64).saturating_sub(coded.len() * 8).min(64) as u32;
        (last.checked_shl(before).unwrap_or(0) | ones(before), 64 - before)
    } else {
        let bits = 8 * coded.len() as u32;
        let octets = coded.iter().fold(u64::MAX, |window, &octet| window << 8 | u64::from(octet));
        (if bits == 0 { u64::MAX } else { octets << (64 - bits) | ones(64 - bits) }, bits)
    }
}

/// The `count` lowest bits, up to 64.
#[inline(always)]
fn ones(count: u32) -> u64 {
    u64::MAX.checked_shr(64 - count).unwrap_or(0)
}

/// The first symbol of the window and the length of its code, when it is longer than a look-up.
#[cold]
fn long_symbol(window: u64) -> (u16, u32) {
    let code = (window >> (64 - LONGEST_BITS)) as u32;
    for bits in LOOKUP_BITS + 1..LONGEST_BITS {
        let rank = RANKS[bits as usize];
        if code < rank.end {
            let symbol = rank.first_symbol as usize + ((code - rank.start) >> (LONGEST_BITS - bits)) as usize;
            return (SYMBOLS[symbol], bits);
        }
    }
    let rank = RANKS[LONGEST_BITS as usize];
    (SYMBOLS[rank.first_symbol as usize + (code - rank.start) as usize], LONGEST_BITS)
}

#[cfg(test)]
mod tests {
    use super::super::huffman_code::{CODE_BITS, CODES};
    use super::*;

    /// Codes the symbols, and fills the last octet with ones.
    fn encode(symbols: impl IntoIterator<Item = usize>) -> Vec<u8> {
        let mut bits = Vec::new();
        for symbol in symbols {
            let length = u32::from(CODE_BITS[symbol]);
            bits.extend((0..length).rev().map(|bit| CODES[symbol] >> bit & 1 == 1));
        }
        bits.resize(bits.len().next_multiple_of(8), true);
        bits.chunks(8).map(|octet| octet.iter().fold(0, |sum, &bit| sum << 1 | u8::from(bit))).collect()
    }

    fn decode_all(coded: &[u8]) -> Result<Vec<u8>, HpackError> {
        let mut out = vec![0; decoded_len_max(coded.len()) + 1];
        let decoded = decode(coded, &mut out)?;
        assert_eq!(decoded_len(coded), Ok(decoded));
        out.truncate(decoded);
        Ok(out)
    }

    #[test]
    fn h3_codes_are_those_of_appendix_b() {
        for (symbol, code, bits) in [
            (0, 0x1ff8, 13),
            (48, 0x0, 5),
            (97, 0x3, 5),
            (122, 0x7b, 7),
            (255, 0x3ff_ffee, 26),
            (256, 0x3fff_ffff, 30),
        ] {
            assert_eq!((CODES[symbol], CODE_BITS[symbol]), (code, bits), "symbol {symbol}");
        }
    }

    #[test]
    fn h3_an_empty_string_is_empty() {
        assert_eq!(decode_all(&[]), Ok(vec![]));
    }

    #[test]
    fn h3_every_pair_of_octets_at_every_bit_offset() {
        for first in 0..256 {
            for second in 0..256 {
                // Each 'a' moves what follows by five bits, so that all offsets occur with eight of them.
                let before = (first + second) % 19;
                let text: Vec<usize> = [97].repeat(before).into_iter().chain([first, second, 98]).collect();
                let expected: Vec<u8> = text.iter().map(|&symbol| symbol as u8).collect();
                assert_eq!(decode_all(&encode(text)), Ok(expected));
            }
        }
    }

    #[test]
    fn h3_the_end_of_string_symbol_is_an_error_wherever_it_stands() {
        for before in 0..24 {
            for after in 0..24 {
                let text = [97].repeat(before).into_iter().chain([256]).chain([97].repeat(after));
                let result = decode_all(&encode(text));
                assert_eq!(result, Err(HpackError::HuffmanEndOfString), "{before} before, {after} after");
            }
        }
    }

    #[test]
    fn h3_padding_of_more_than_seven_bits_is_an_error() {
        for length in 0..24 {
            let mut coded = encode([97].repeat(length));
            coded.push(0xff);
            assert_eq!(decode_all(&coded), Err(HpackError::HuffmanPadding), "{length} symbols");
        }
    }

    #[test]
    fn h3_padding_that_is_not_all_ones_is_an_error() {
        for length in 1..24 {
            // No symbol is shorter than five bits: what is shorter can only be padding.
            let padding = (8 - length * 5 % 8) % 8;
            for bit in 0..if padding < 5 { padding } else { 0 } {
                let mut coded = encode([97].repeat(length));
                *coded.last_mut().unwrap() ^= 1 << bit;
                assert_eq!(
                    decode_all(&coded),
                    Err(HpackError::HuffmanPadding),
                    "{length} symbols, bit {bit}"
                );
            }
        }
    }

    #[test]
    fn h3_what_does_not_fit_is_counted_and_not_written() {
        let coded = encode([97].repeat(40));
        let mut out = [0; 11];
        assert_eq!(decode(&coded, &mut out), Ok(40));
        assert_eq!(out[..10], [97; 10]);
    }
}
