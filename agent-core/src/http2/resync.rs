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

/// SETTINGS_MAX_FRAME_SIZE's initial value.
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
///
/// Headers of DATA are weak evidence, since they are mostly zeros. Empty DATA is none at all where it comes first:
/// the tail of a WINDOW_UPDATE reads as one, and the chain behind it is real.
pub(crate) fn starts_a_frame(bytes: &[u8]) -> bool {
    let mut at = 0usize;
    let mut complete = 0;
    let mut is_all_data = true;
    loop {
        steps::count();
        let Some(octets) = bytes.get(at..).and_then(|rest| rest.first_chunk::<HEADER_LEN>()) else {
            let tiles = at == bytes.len() && complete >= 1;
            return tiles || (complete >= 2 && !is_all_data) || complete >= DATA_FRAMES;
        };
        let header = FrameHeader::parse(octets);
        if !is_plausible(header) || (at == 0 && header.kind == DATA && header.length == 0) {
            return false;
        }
        is_all_data &= header.kind == DATA;
        let end = at.saturating_add(HEADER_LEN).saturating_add(header.length as usize);
        if end > bytes.len() {
            // One header alone proves nothing: it is believed behind a frame that ends where it begins.
            return (complete >= 1 && !is_all_data) || complete >= DATA_FRAMES;
        }
        complete += 1;
        if complete >= 8 {
            return true;
        }
        at = end;
    }
}

/// As many frames of nothing but DATA that follow each other are believed.
const DATA_FRAMES: usize = 3;

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

    /// A chunk of a message whose bytes were `00 35 00 00 00 00 0f 0a 05 …` was taken for DATA of 13,568 octets, and
    /// the responses behind it went down in that.
    #[test]
    fn c2_one_header_that_nothing_follows_is_not_believed() {
        let message = [0, 0x35, 0, DATA, 0, 0, 0x0f, 0x0a, 5, 0x6f, 0x72, 0x64, 0x2d, 0x31];
        assert!(!starts_a_frame(&message));
        assert!(!starts_a_frame(&[
            0, 0, 6, DATA, 0, 0x40, 0, 0xfe, 3, 0, 0, 0, 1, 0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 0x3f
        ]));
        let behind_a_frame = [&[0, 0, 4, WINDOW_UPDATE, 0, 0, 0, 0, 0, 0, 0, 0, 9][..], &message].concat();
        assert!(starts_a_frame(&behind_a_frame));
    }

    /// A chunk that began inside a WINDOW_UPDATE on stream 1, with an increment of 5, ended the request on stream 5.
    #[test]
    fn c2_the_tail_of_a_window_update_is_not_the_end_of_another_stream() {
        let window_update = [0, 0, 4, WINDOW_UPDATE, 0, 0, 0, 0, 1, 0, 0, 0, 5];
        let ping = [0, 0, 8, PING, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
        let bytes = [&window_update[..], &ping].concat();
        assert!(starts_a_frame(&bytes));
        assert!(!starts_a_frame(&bytes[4..]), "reads as empty DATA with END_STREAM, and then PING");
    }

    #[test]
    fn c2_a_large_data_frame_is_believed_after_another_frame() {
        let mut bytes = vec![0, 0, 4, WINDOW_UPDATE, 0, 0, 0, 0, 0, 0, 0, 0, 9];
        bytes.extend([0x0f, 0x2f, 0xe4, DATA, 0, 0, 0, 0, 7, 1, 2, 3]);
        assert!(starts_a_frame(&bytes));
        assert!(!starts_a_frame(&bytes[13..]), "alone its length is too much to believe");
    }
}
