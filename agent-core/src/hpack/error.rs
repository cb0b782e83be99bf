//! What can be wrong with a header block. All of it is a COMPRESSION_ERROR to the receiver (RFC 7541).

use core::fmt;

/// Why a header block could not be decoded to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HpackError {
    /// The block ends inside a field or a table size update.
    Truncated,
    /// An integer takes more than five continuation octets (§5.1).
    IntegerTooLong,
    /// An integer is larger than 2^32 - 1 (§5.1).
    IntegerTooLarge,
    /// A Huffman-coded string holds the end-of-string symbol (§5.2).
    HuffmanEndOfString,
    /// A Huffman-coded string ends in more than seven bits of padding, or in padding that is not all ones (§5.2).
    HuffmanPadding,
    /// Index zero is used for a field (§6.1).
    IndexZero,
    /// The index is beyond every entry that can be alive (§2.3.3).
    IndexBeyondTable(u32),
    /// A table size update stands after a field (§4.2).
    SizeUpdateAfterField,
    /// A table size update is above what the receiver allows, or above our own cap if that is not known (§6.3).
    SizeUpdateAboveLimit {
        /// The size that the encoder chose.
        bytes: u32,
        /// The largest that it may choose.
        limit: u32,
    },
}

impl fmt::Display for HpackError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HpackError::Truncated => f.write_str("header block ends inside a field"),
            HpackError::IntegerTooLong => f.write_str("integer has more than 5 continuation octets"),
            HpackError::IntegerTooLarge => f.write_str("integer is larger than 2^32 - 1"),
            HpackError::HuffmanEndOfString => f.write_str("end-of-string symbol inside a Huffman string"),
            HpackError::HuffmanPadding => f.write_str("wrong padding at the end of a Huffman string"),
            HpackError::IndexZero => f.write_str("index 0 is not an entry"),
            HpackError::IndexBeyondTable(index) => write!(f, "index {index} is beyond the table"),
            HpackError::SizeUpdateAfterField => f.write_str("table size update after a field"),
            HpackError::SizeUpdateAboveLimit { bytes, limit } => {
                write!(f, "table size update to {bytes} bytes is above the limit of {limit}")
            }
        }
    }
}

impl core::error::Error for HpackError {}
