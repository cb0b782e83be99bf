//! Digits of base64 (RFC 4648 §4 and §5). What is decoded with them is short and of a known form, each in its own place.

/// The last two digits: what the alphabets differ in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Alphabet {
    /// `+` and `/` (§4), as in values of `-bin` fields.
    Standard,
    /// `-` and `_` (§5), as in `HTTP2-Settings`.
    Url,
}

/// The six bits of a digit; `None` if it is none.
pub(crate) fn sextet(digit: u8, alphabet: Alphabet) -> Option<u32> {
    let value = match (digit, alphabet) {
        (b'A'..=b'Z', _) => digit - b'A',
        (b'a'..=b'z', _) => digit - b'a' + 26,
        (b'0'..=b'9', _) => digit - b'0' + 52,
        (b'+', Alphabet::Standard) | (b'-', Alphabet::Url) => 62,
        (b'/', Alphabet::Standard) | (b'_', Alphabet::Url) => 63,
        _ => return None,
    };
    Some(u32::from(value))
}
