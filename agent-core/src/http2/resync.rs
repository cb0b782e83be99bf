//! Is this the start of a frame? Judged by the bytes alone, for flows that were joined in the middle or
//! lost their frame boundary (checklist C2, C6).
//!
//! Writers nearly always begin a write, and so a chunk, with a frame; a chunk is believed when headers
//! chain through it. A wrong guess is found out by the next implausible header.

use super::frame::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, FrameHeader, GOAWAY, HEADER_LEN, HEADERS, PADDED, PING,
    PRIORITY, PRIORITY_FLAG, PUSH_PROMISE, RST_STREAM, SETTINGS, WINDOW_UPDATE,
};
use crate::steps;

/// SETTINGS_MAX_FRAME_SIZE's initial value: what a lone header may claim to be believed.
const MODEST_FRAME: u32 = 16_384;
/// A frame longer than this is not believed without knowledge of SETTINGS (C-core advertises 4 MiB).
const LARGEST_FRAME: u32 = 4 * 1024 * 1024;

/// A header that a conforming endpoint could send.
pub(crate) fn is_plausible(header: FrameHeader) -> bool {
    let allowed = match header.kind {
        DATA => END_STREAM | PADDED,
        HEADERS => END_STREAM | END_HEADERS | PADDED | PRIORITY_FLAG,
        SETTINGS | PING => ACK,
        PUSH_PROMISE => END_HEADERS | PADDED,
        CONTINUATION => END_HEADERS,
        PRIORITY | RST_STREAM | GOAWAY | WINDOW_UPDATE => 0,
        _ => return false,
    };
    header.flags & !allowed == 0
        && !header.reserved_bit
        && header.fault().is_none()
        && header.length <= LARGEST_FRAME
        && (header.length <= MODEST_FRAME || header.kind == DATA || header.carries_header_block())
        && !(matches!(header.kind, DATA | HEADERS | CONTINUATION) && header.stream.is_multiple_of(2))
        && !(header.kind == HEADERS && header.length == 0)
}

/// The bytes start with a frame: headers chain through them.
pub(crate) fn starts_a_frame(bytes: &[u8]) -> bool {
    let mut at = 0usize;
    let mut complete = 0;
    loop {
        steps::count();
        let Some(octets) = bytes.get(at..).and_then(|rest| rest.first_chunk::<HEADER_LEN>()) else {
            // Ends exactly with a frame, or in the middle of a header after frames that chained.
            return complete >= 2 || (complete == 1 && at == bytes.len());
        };
        let header = FrameHeader::parse(octets);
        if !is_plausible(header) {
            return false;
        }
        let end = at.saturating_add(HEADER_LEN).saturating_add(header.length as usize);
        if end > bytes.len() {
            return complete >= 1 || (header.length <= MODEST_FRAME && matches!(header.kind, DATA | HEADERS));
        }
        complete += 1;
        if complete >= 8 {
            return true;
        }
        at = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c2_chained_frames_are_believed_and_payload_is_not() {
        let window_update = [0, 0, 4, WINDOW_UPDATE, 0, 0, 0, 0, 0, 0, 0, 0, 9];
        assert!(starts_a_frame(&window_update), "one frame that fills the chunk");
        assert!(!starts_a_frame(&window_update[1..]));
        assert!(!starts_a_frame(&[0; 64]), "zeros would be DATA on stream 0");
        assert!(!starts_a_frame(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"));
        assert!(!starts_a_frame(&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]), "a TLS record");
        assert!(!starts_a_frame(&[]));
    }

    #[test]
    fn c2_a_large_data_frame_is_believed_after_another_frame() {
        let mut bytes = vec![0, 0, 4, WINDOW_UPDATE, 0, 0, 0, 0, 0, 0, 0, 0, 9];
        bytes.extend([0x0f, 0x2f, 0xe4, DATA, 0, 0, 0, 0, 7, 1, 2, 3]);
        assert!(starts_a_frame(&bytes));
        assert!(!starts_a_frame(&bytes[13..]), "alone its length is too much to believe");
    }
}
