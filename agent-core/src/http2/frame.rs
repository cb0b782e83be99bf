//! Frame headers, types, flags and the payloads that are read (RFC 9113 §4.1, §6).

/// The client's connection preface, RFC 9113 §3.4.
pub(crate) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Octets of a frame header.
pub(crate) const HEADER_LEN: usize = 9;

pub(crate) const DATA: u8 = 0x0;
pub(crate) const HEADERS: u8 = 0x1;
pub(crate) const PRIORITY: u8 = 0x2;
pub(crate) const RST_STREAM: u8 = 0x3;
pub(crate) const SETTINGS: u8 = 0x4;
pub(crate) const PUSH_PROMISE: u8 = 0x5;
pub(crate) const PING: u8 = 0x6;
pub(crate) const GOAWAY: u8 = 0x7;
pub(crate) const WINDOW_UPDATE: u8 = 0x8;
pub(crate) const CONTINUATION: u8 = 0x9;

/// END_STREAM on DATA and HEADERS.
pub(crate) const END_STREAM: u8 = 0x1;
/// ACK on SETTINGS and PING.
pub(crate) const ACK: u8 = 0x1;
/// END_HEADERS on HEADERS, PUSH_PROMISE and CONTINUATION.
pub(crate) const END_HEADERS: u8 = 0x4;
/// PADDED on DATA, HEADERS and PUSH_PROMISE.
pub(crate) const PADDED: u8 = 0x8;
/// PRIORITY on HEADERS.
pub(crate) const PRIORITY_FLAG: u8 = 0x20;

/// Error codes, RFC 9113 §7.
pub(crate) mod error_code {
    pub(crate) const NO_ERROR: u32 = 0x0;
    pub(crate) const PROTOCOL_ERROR: u32 = 0x1;
    pub(crate) const INTERNAL_ERROR: u32 = 0x2;
    pub(crate) const FLOW_CONTROL_ERROR: u32 = 0x3;
    pub(crate) const SETTINGS_TIMEOUT: u32 = 0x4;
    pub(crate) const FRAME_SIZE_ERROR: u32 = 0x6;
    pub(crate) const REFUSED_STREAM: u32 = 0x7;
    pub(crate) const CANCEL: u32 = 0x8;
    pub(crate) const COMPRESSION_ERROR: u32 = 0x9;
    pub(crate) const CONNECT_ERROR: u32 = 0xa;
    pub(crate) const ENHANCE_YOUR_CALM: u32 = 0xb;
    pub(crate) const INADEQUATE_SECURITY: u32 = 0xc;
}

/// A frame header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    /// Payload length.
    pub(crate) length: u32,
    /// Type, also an unknown one.
    pub(crate) kind: u8,
    /// Flags as sent.
    pub(crate) flags: u8,
    /// Stream id, without the reserved bit.
    pub(crate) stream: u32,
    /// The reserved bit was set; ignored by the RFC, but a sign of lost framing.
    pub(crate) reserved_bit: bool,
}

impl FrameHeader {
    /// Reads the nine octets.
    pub(crate) fn parse(octets: &[u8; HEADER_LEN]) -> FrameHeader {
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = *octets;
        let stream = u32::from_be_bytes([s0, s1, s2, s3]);
        FrameHeader {
            length: u32::from_be_bytes([0, l0, l1, l2]),
            kind,
            flags,
            stream: stream & 0x7fff_ffff,
            reserved_bit: stream >> 31 == 1,
        }
    }

    pub(crate) fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Carries a header block, or a part of one.
    pub(crate) fn carries_header_block(self) -> bool {
        matches!(self.kind, HEADERS | PUSH_PROMISE | CONTINUATION)
    }

    /// What RFC 9113 §4.2 and §6 demand of this header: fixed lengths, stream id zero or not.
    pub(crate) fn fault(self) -> Option<FrameFault> {
        let on_connection = self.stream == 0;
        let (length_ok, stream_ok) = match self.kind {
            DATA => (!self.has(PADDED) || self.length >= 1, !on_connection),
            HEADERS => {
                let least = u32::from(self.has(PADDED)) + 5 * u32::from(self.has(PRIORITY_FLAG));
                (self.length >= least, !on_connection)
            }
            PRIORITY => (self.length == 5, !on_connection),
            RST_STREAM => (self.length == 4, !on_connection),
            SETTINGS if self.has(ACK) => (self.length == 0, on_connection),
            SETTINGS => (self.length.is_multiple_of(6), on_connection),
            PUSH_PROMISE => (self.length >= 4 + u32::from(self.has(PADDED)), !on_connection),
            PING => (self.length == 8, on_connection),
            GOAWAY => (self.length >= 8, on_connection),
            WINDOW_UPDATE => (self.length == 4, true),
            CONTINUATION => (true, !on_connection),
            // Unknown types are skipped whatever they hold (RFC 9113 §5.5).
            _ => (true, true),
        };
        if !stream_ok {
            Some(FrameFault::StreamId)
        } else if !length_ok {
            Some(FrameFault::Size)
        } else {
            None
        }
    }
}

/// Why a frame is illegal; the names are the anomaly kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FrameFault {
    /// FRAME_SIZE_ERROR.
    Size,
    /// PROTOCOL_ERROR: on a stream id that this type must not have.
    StreamId,
    /// PROTOCOL_ERROR: padding as long as the payload or longer.
    Padding,
    /// PROTOCOL_ERROR: a promised stream id of zero, or an odd one.
    PromisedStream,
}

impl FrameFault {
    /// The anomaly's name.
    pub(crate) fn kind(self) -> &'static str {
        match self {
            FrameFault::Size => "frame_size",
            FrameFault::StreamId => "frame_stream_id",
            FrameFault::Padding => "frame_padding",
            FrameFault::PromisedStream => "frame_promised_stream",
        }
    }
}

/// The header block fragment of a HEADERS or PUSH_PROMISE payload: without padding, priority and
/// promised stream id (RFC 9113 §6.2, §6.6). CONTINUATION is all fragment.
pub(crate) fn header_block_fragment(header: FrameHeader, payload: &[u8]) -> Result<&[u8], FrameFault> {
    let mut rest = payload;
    let mut padding = 0;
    if header.kind != CONTINUATION && header.has(PADDED) {
        let (first, tail) = rest.split_first().ok_or(FrameFault::Size)?;
        padding = usize::from(*first);
        rest = tail;
    }
    if header.kind == HEADERS && header.has(PRIORITY_FLAG) {
        rest = rest.get(5..).ok_or(FrameFault::Size)?;
    }
    if header.kind == PUSH_PROMISE {
        let (promised, tail) = rest.split_first_chunk::<4>().ok_or(FrameFault::Size)?;
        let promised = u32::from_be_bytes(*promised) & 0x7fff_ffff;
        if promised == 0 || !promised.is_multiple_of(2) {
            return Err(FrameFault::PromisedStream);
        }
        rest = tail;
    }
    let end = rest.len().checked_sub(padding).ok_or(FrameFault::Padding)?;
    rest.get(..end).ok_or(FrameFault::Padding)
}

/// A big-endian u32 at `at`, if the payload has it.
pub(crate) fn u32_at(payload: &[u8], at: usize) -> Option<u32> {
    payload.get(at..)?.first_chunk::<4>().map(|octets| u32::from_be_bytes(*octets))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f1_the_reserved_bit_is_not_part_of_the_stream_id() {
        let header = FrameHeader::parse(&[0, 0, 8, PING, ACK, 0x80, 0, 0, 0]);
        assert_eq!(header.stream, 0);
        assert!(header.reserved_bit);
        assert_eq!(header.fault(), None);
    }

    #[test]
    fn f2_padding_and_priority_are_taken_off_in_wire_order() {
        // Pad length 2, priority 5 octets, fragment "ab", padding 2.
        let header = FrameHeader {
            length: 10,
            kind: HEADERS,
            flags: PADDED | PRIORITY_FLAG | END_HEADERS,
            stream: 1,
            reserved_bit: false,
        };
        let payload = [2, 0, 0, 0, 0, 16, b'a', b'b', 0, 0];
        assert_eq!(header_block_fragment(header, &payload), Ok(&b"ab"[..]));
        let too_long = [5, 0, 0, 0, 0, 16, b'a', b'b', 0, 0];
        assert_eq!(header_block_fragment(header, &too_long), Err(FrameFault::Padding));
        assert_eq!(header_block_fragment(header, &[2, 0, 0]), Err(FrameFault::Size));
    }

    #[test]
    fn f4_fixed_lengths_and_stream_ids_are_checked() {
        let fault = |kind, flags, length, stream| {
            FrameHeader { length, kind, flags, stream, reserved_bit: false }.fault()
        };
        assert_eq!(fault(PING, 0, 7, 0), Some(FrameFault::Size));
        assert_eq!(fault(PING, 0, 8, 1), Some(FrameFault::StreamId));
        assert_eq!(fault(SETTINGS, ACK, 6, 0), Some(FrameFault::Size));
        assert_eq!(fault(SETTINGS, 0, 5, 0), Some(FrameFault::Size));
        assert_eq!(fault(RST_STREAM, 0, 4, 0), Some(FrameFault::StreamId));
        assert_eq!(fault(WINDOW_UPDATE, 0, 4, 0), None);
        assert_eq!(fault(GOAWAY, 0, 7, 0), Some(FrameFault::Size));
        assert_eq!(fault(0x10, 0xff, 3, 9), None, "unknown types are skipped");
    }
}
