//! The 9-byte frame header (RFC 9113 §4.1), and which headers can be believed.

/// DATA (RFC 9113 §6.1).
pub const DATA: u32 = 0;
/// RST_STREAM (RFC 9113 §6.4).
pub const RST_STREAM: u32 = 3;
/// SETTINGS (RFC 9113 §6.5).
pub const SETTINGS: u32 = 4;
/// WINDOW_UPDATE (RFC 9113 §6.9).
pub const WINDOW_UPDATE: u32 = 8;
/// CONTINUATION (RFC 9113 §6.10), the last of the types that are shipped whole.
pub const CONTINUATION: u32 = 9;
/// Bytes of a frame header.
pub const HEADER_BYTES: u64 = 9;
/// END_STREAM of DATA and HEADERS.
pub const END_STREAM: u32 = 0x1;
/// PADDED of DATA, HEADERS and PUSH_PROMISE.
pub const PADDED: u32 = 0x8;

/// The client connection preface (RFC 9113 §3.4), padded to a power of two.
pub static PREFACE: [u8; 32] = *b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\0\0\0\0\0";
/// Bytes of the preface.
pub const PREFACE_BYTES: u64 = 24;

/// A decoded frame header. Plain numbers: the verifier follows them best.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Payload bytes.
    pub length: u32,
    /// Type.
    pub kind: u32,
    /// Flags.
    pub flags: u32,
    /// Stream identifier, with the reserved bit.
    pub stream: u32,
}

impl FrameHeader {
    /// From the first byte and the other eight as one big-endian number.
    #[inline(always)]
    #[must_use]
    pub fn from_parts(first: u64, rest: u64) -> FrameHeader {
        FrameHeader {
            length: ((first & 0xff) << 16 | rest >> 48) as u32,
            kind: (rest >> 40 & 0xff) as u32,
            flags: (rest >> 32 & 0xff) as u32,
            stream: rest as u32,
        }
    }

    /// One for what may be left out where the agent has to save, zero for everything else: DATA without END_STREAM, and
    /// WINDOW_UPDATE, which says nothing where DATA is not counted. A number, so that it takes no branch.
    #[inline(always)]
    #[must_use]
    pub fn is_plain(self) -> u64 {
        let is = |kind: u32| u64::from(self.kind ^ kind).wrapping_sub(1) >> 63;
        let continues = u64::from((self.flags & END_STREAM) ^ END_STREAM);
        is(DATA) & continues | is(WINDOW_UPDATE)
    }

    /// Whether a peer that follows RFC 9113 §6 could have sent it: the lengths and stream identifiers that
    /// each type demands. Unknown types are legal with any content (§5.5).
    #[inline(always)]
    #[must_use]
    pub fn is_legal(self) -> bool {
        let FrameHeader { length, kind, flags, stream } = self;
        let on_connection = stream & 0x7fff_ffff == 0;
        // SETTINGS 4, PING 6 and GOAWAY 7 belong to the connection; WINDOW_UPDATE 8 to either.
        if kind == SETTINGS {
            return on_connection && length % 6 == 0 && (flags & 1 == 0 || length == 0);
        }
        if kind == 6 {
            return on_connection && length == 8;
        }
        if kind == 7 {
            return on_connection && length >= 8;
        }
        if kind == 8 {
            return length == 4;
        }
        if kind > CONTINUATION {
            return true;
        }
        if on_connection {
            return false;
        }
        if kind == 2 {
            return length == 5;
        }
        if kind == RST_STREAM {
            return length == 4;
        }
        !(kind == DATA && flags & PADDED != 0 && length == 0)
    }

    /// Whether it is credible as the header of a frame when the boundary is not known: the rules of
    /// [`FrameHeader::is_legal`], a known type, the reserved bit zero, no flag that the type does not
    /// define, lengths that are seen in practice (gRPC C-core sends DATA of 1 MiB and more), and for DATA and
    /// HEADERS a stream that a client opened.
    #[inline(always)]
    #[must_use]
    pub fn is_credible(self) -> bool {
        let FrameHeader { length, kind, flags, stream } = self;
        if kind > CONTINUATION || stream >> 31 != 0 || !self.is_legal() {
            return false;
        }
        // A nibble pair for each type, four types a word: DATA 09, HEADERS 2d, PRIORITY 00, RST_STREAM 00;
        // SETTINGS 01, PUSH_PROMISE 0c, PING 01, GOAWAY 00; WINDOW_UPDATE 00, CONTINUATION 04.
        let defined = if kind < 4 {
            0x0000_2d09 >> (kind * 8)
        } else if kind < 8 {
            0x0001_0c01 >> ((kind - 4) * 8)
        } else {
            0x0000_0400 >> ((kind - 8) * 8)
        } & 0xff;
        if flags & !defined != 0 {
            return false;
        }
        if kind <= 1 && stream & 1 == 0 {
            return false;
        }
        let longest = if kind == DATA { 8 << 20 } else { 1 << 20 };
        length <= longest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(length: u32, kind: u32, flags: u32, stream: u32) -> FrameHeader {
        FrameHeader { length, kind, flags, stream }
    }

    #[test]
    fn header_is_read_from_nine_bytes() {
        let rest = u64::from_be_bytes([0x02, 0x03, 0x01, 0x25, 0, 0, 0, 7]);
        assert_eq!(FrameHeader::from_parts(1, rest), header(0x01_0203, 1, 0x25, 7));
    }

    #[test]
    fn plain_is_data_that_ends_nothing_and_credit() {
        for (length, kind, flags, plain) in [
            (0, DATA, 0, 1),
            (900, DATA, PADDED, 1),
            (0, DATA, END_STREAM, 0),
            (9, DATA, END_STREAM | PADDED, 0),
            (4, WINDOW_UPDATE, 0, 1),
            (4, WINDOW_UPDATE, 1, 1),
            (10, 1, 4, 0),
            (4, RST_STREAM, 0, 0),
            (0, SETTINGS, 1, 0),
            (8, 6, 0, 0),
            (17, 7, 0, 0),
            (10, CONTINUATION, 4, 0),
            (10, 0xff, 0, 0),
        ] {
            assert_eq!(header(length, kind, flags, 1).is_plain(), plain, "type {kind}, flags {flags}");
        }
    }

    #[test]
    fn every_control_frame_of_a_grpc_connection_is_credible() {
        for h in [
            header(0, SETTINGS, 1, 0),
            header(36, SETTINGS, 0, 0),
            header(8, 6, 1, 0),
            header(4, 8, 0, 0),
            header(4, 8, 0, 5),
            header(4, 3, 0, 1),
            header(17, 7, 0, 0),
            header(5, 2, 0, 3),
            header(120, 1, 0x24, 9),
            header(2, 9, 4, 9),
            header(1_048_576, 0, 1, 9),
            header(40, 5, 4, 1),
        ] {
            assert!(h.is_legal() && h.is_credible(), "{h:?}");
        }
    }

    #[test]
    fn zeros_text_and_wrong_lengths_are_not_credible() {
        for h in [
            header(0, 0, 0, 0),
            header(0x47_4554, 0x20, 0x2f, 0x2048_5454),
            header(9, 6, 0, 0),
            header(5, 8, 0, 1),
            header(7, SETTINGS, 0, 0),
            header(6, SETTINGS, 1, 0),
            header(3, 3, 0, 1),
            header(100, 1, 0x40, 1),
            header(100, 1, 4, 2),
            header(100, 0, 0, 0x8000_0001),
            header(0, 0, 8, 1),
            header(10, 10, 0, 0),
        ] {
            assert!(!h.is_credible(), "{h:?}");
        }
    }
}
