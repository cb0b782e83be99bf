//! Integers and the reading position in a block (RFC 7541 §5.1).

use super::HpackError;

/// Continuation octets that are accepted: five carry 35 bits, enough for any value up to 2^32 - 1. A peer that
/// pads with zero octets is cut off here (CVE-2023-33953).
const CONTINUATION_OCTETS_MAX: u32 = 5;

/// What is left of a header block.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(block: &'a [u8]) -> Self {
        Reader { rest: block }
    }

    /// Takes the next octet; `None` at the end of the block.
    #[inline]
    pub(super) fn octet(&mut self) -> Option<u8> {
        let (&first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(first)
    }

    /// Takes `count` octets.
    #[inline]
    pub(super) fn octets(&mut self, count: u32) -> Result<&'a [u8], HpackError> {
        let (taken, rest) = self.rest.split_at_checked(count as usize).ok_or(HpackError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    /// Takes the rest of an integer whose first octet is `first` and has its low bits in `mask`.
    #[inline]
    pub(super) fn integer(&mut self, first: u8, mask: u8) -> Result<u32, HpackError> {
        let prefix = first & mask;
        if prefix < mask { Ok(u32::from(prefix)) } else { self.continued_integer(mask) }
    }

    fn continued_integer(&mut self, mask: u8) -> Result<u32, HpackError> {
        let mut value = u64::from(mask);
        for place in 0..CONTINUATION_OCTETS_MAX {
            let octet = self.octet().ok_or(HpackError::Truncated)?;
            // At most 255 + 127 << 28: far from the end of 64 bits.
            value += u64::from(octet & 0x7f) << (7 * place);
            if octet & 0x80 == 0 {
                return u32::try_from(value).map_err(|_| HpackError::IntegerTooLarge);
            }
        }
        Err(HpackError::IntegerTooLong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(octets: &[u8], mask: u8) -> Result<u32, HpackError> {
        let mut reader = Reader::new(octets);
        let first = reader.octet().ok_or(HpackError::Truncated)?;
        reader.integer(first, mask)
    }

    #[test]
    fn h2_the_examples_of_appendix_c_1() {
        assert_eq!(read(&[0b1110_1010], 0x1f), Ok(10));
        assert_eq!(read(&[0x1f, 0b1001_1010, 0b0000_1010], 0x1f), Ok(1337));
        assert_eq!(read(&[0b0010_1010], 0xff), Ok(42));
    }

    #[test]
    fn h2_the_largest_value_is_read_and_one_more_is_refused() {
        assert_eq!(read(&[0x7f, 0x80, 0xff, 0xff, 0xff, 0x0f], 0x7f), Ok(u32::MAX));
        assert_eq!(read(&[0x7f, 0x81, 0xff, 0xff, 0xff, 0x0f], 0x7f), Err(HpackError::IntegerTooLarge));
        assert_eq!(read(&[0x7f, 0xff, 0xff, 0xff, 0xff, 0x7f], 0x7f), Err(HpackError::IntegerTooLarge));
    }

    #[test]
    fn h2_zero_continuation_octets_are_not_read_for_ever() {
        assert_eq!(read(&[0x7f, 0x80, 0x80, 0x80, 0x80, 0x00], 0x7f), Ok(127));
        assert_eq!(read(&[0x7f, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00], 0x7f), Err(HpackError::IntegerTooLong));
    }

    #[test]
    fn h2_an_integer_cut_short_is_an_error() {
        assert_eq!(read(&[0x3f], 0x3f), Err(HpackError::Truncated));
        assert_eq!(read(&[0x7f, 0xff, 0xff], 0x7f), Err(HpackError::Truncated));
    }
}
