//! What fuzz targets see of the inside: only built for tests, and with `--cfg fuzzing`, which is what cargo-fuzz and
//! `cargo xtask fuzz` set. The functions panic where an invariant does not hold.

use crate::grpc::messages::MessageCounter;
use crate::grpc::{content_type, status, timeout};
use crate::http2::frame::{self, DATA};
use crate::http2::reader::{Event, FrameReader, Piece};
use crate::http2::{resync, settings};
use crate::observation::{Protocol, Timeout};

/// Steps of all parsers on this thread since this was last asked.
pub fn take_steps() -> u64 {
    crate::steps::take()
}

/// Reads one flow in pieces of `cuts` octets each (in turn), where an odd cut leaves a hole instead if `holes`
/// is set; and holds the reader to its promises.
pub fn check_frames(bytes: &[u8], cuts: &[u8], holes: bool, late: bool, payload_limit: usize) {
    let mut reader =
        if late { FrameReader::in_the_middle(payload_limit) } else { FrameReader::at_start(payload_limit) };
    take_steps();
    let mut rest = bytes;
    let mut pieces = 0;
    let mut cuts = cuts.iter().cycle();
    // Payload of the DATA frame that is open: what is left of it.
    let mut open: Option<u64> = None;
    while !rest.is_empty() {
        let cut = cuts.next().copied().unwrap_or(u8::MAX);
        let (head, tail) = rest.split_at(usize::from(cut.max(1)).min(rest.len()));
        rest = tail;
        pieces += 1;
        let is_hole = holes && cut % 4 == 1;
        let mut piece = if is_hole { Piece::Hole(head.len() as u64) } else { Piece::Bytes(head) };
        if !is_hole {
            let was_lost = reader.is_lost();
            let found = reader.start_chunk(cut % 16 == 2, head);
            assert!(found.is_none() || was_lost, "a boundary that was not lost is not found again");
            resync::starts_a_frame(head);
        }
        let mut events = 0;
        while let Some(event) = reader.next(&mut piece) {
            events += 1;
            check_event(&event, &mut open, payload_limit, is_hole);
        }
        assert!(events <= 2 * head.len() + 2, "{events} events of {} octets", head.len());
    }
    let steps = take_steps();
    assert!(
        steps <= 2 * bytes.len() as u64 + 4 * pieces,
        "T20: {steps} steps for {} octets in {pieces} pieces",
        bytes.len()
    );
}

fn check_event(event: &Event<'_>, open: &mut Option<u64>, payload_limit: usize, is_hole: bool) {
    match event {
        Event::Frame(header, payload) => {
            assert!(header.kind != DATA && payload.len() == header.length as usize);
            assert!(payload.len() <= payload_limit, "no payload beyond the limit is kept");
            settings::entries(payload).for_each(drop);
            if header.carries_header_block()
                && header.fault().is_none()
                && let Ok(fragment) = frame::header_block_fragment(*header, payload)
            {
                assert!(fragment.len() <= payload.len());
            }
        }
        Event::PartialFrame(header, payload) => {
            assert!(header.kind != DATA && payload.len() <= payload_limit);
            assert!(payload.len() <= header.length as usize);
            let _ = frame::header_block_fragment(*header, payload);
        }
        Event::DataStart(header) => {
            assert!(header.kind == DATA);
            *open = Some(u64::from(header.length));
        }
        Event::Data(header, bytes) => {
            assert!(header.kind == DATA && !is_hole && !bytes.is_empty());
            let left = open.as_mut().expect("DATA without its start");
            *left = left.checked_sub(bytes.len() as u64).expect("more DATA than announced");
        }
        Event::DataHole(header, len) => {
            assert!(header.kind == DATA);
            let left = open.as_mut().expect("DATA without its start");
            *left = left.checked_sub(*len).expect("more DATA than announced");
        }
        Event::DataEnd(header) => {
            assert!(header.kind == DATA && open.take().is_some());
        }
        Event::BadPadding(_) => assert!(open.is_some()),
        Event::BoundaryLost => *open = None,
        Event::UpgradeBody(bytes) => assert!(!is_hole && !bytes.is_empty()),
        Event::UpgradeBodyHole(len) => assert!(is_hole && *len > 0),
        Event::UpgradeRequest(head) => assert!(head.ends_with(b"\r\n\r\n")),
        Event::UpgradeAccepted | Event::Preface | Event::BoundaryFound | Event::NotHttp2 => {}
    }
}

/// Reads a header field's value as each of gRPC's fields.
pub fn check_field_values(value: &[u8]) {
    if let Timeout::Ns(ns) = timeout::parse(value) {
        assert!((2..=9).contains(&value.len()));
        assert!(value.iter().rev().skip(1).all(u8::is_ascii_digit));
        assert!(ns <= 99_999_999u64.saturating_mul(3_600_000_000_000));
    }
    let (code, well_formed) = status::parse(value);
    assert!(code <= 16);
    if well_formed {
        assert_eq!(code.to_string().as_bytes(), value);
    }
    let protocol = content_type::protocol(value);
    assert!(protocol == Protocol::Http || value.starts_with(b"application/grpc"));
    assert_ne!(protocol, Protocol::Unknown);
}

/// Counts messages in `bytes`, whole and cut at `cut`, with a hole of `hole` octets between the parts.
pub fn check_messages(bytes: &[u8], cut: usize, hole: u64) {
    let mut whole = MessageCounter::new();
    whole.handle_bytes(bytes);
    let messages = whole.messages();
    assert!(messages.exact);
    assert!(messages.count * 5 + messages.bytes <= bytes.len() as u64);
    let (head, tail) = bytes.split_at(cut.min(bytes.len()));
    let mut parts = MessageCounter::new();
    parts.handle_bytes(head);
    parts.handle_hole(0);
    parts.handle_bytes(tail);
    assert_eq!(parts.messages(), messages, "however they are cut");
    assert_eq!(parts.is_empty(), whole.is_empty());
    assert_eq!(parts.looks_like_grpc(), whole.looks_like_grpc());
    let mut holed = MessageCounter::new();
    holed.handle_bytes(head);
    holed.handle_hole(hole);
    holed.handle_bytes(tail);
    let seen = holed.messages();
    assert!(seen.count * 5 + seen.bytes <= (bytes.len() as u64).saturating_add(hole));
    let mut late = MessageCounter::joined_late();
    late.handle_bytes(bytes);
    assert!(!late.messages().exact);
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    /// The committed seeds of a target.
    fn seeds(target: &str) -> Vec<Vec<u8>> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds").join(target);
        let files = fs::read_dir(folder).expect("the seeds are part of the repository");
        files.map(|file| fs::read(file.expect("list the seeds").path()).expect("read a seed")).collect()
    }

    #[test]
    fn t1_the_seeds_of_frames_and_fields_break_no_invariant_however_they_are_cut() {
        let frames = seeds("frames");
        assert!(frames.len() >= 20);
        for bytes in &frames {
            for cuts in [[255, 61, 3, 24], [1, 1, 1, 1], [9, 2, 5, 13]] {
                for (holes, late) in [(false, false), (false, true), (true, false), (true, true)] {
                    super::check_frames(bytes, &cuts, holes, late, 16_384);
                    super::check_frames(bytes, &cuts, holes, late, 20);
                }
            }
        }
        let fields = seeds("grpc_fields");
        assert!(fields.len() >= 20);
        for bytes in &fields {
            super::check_field_values(bytes);
            (0..bytes.len()).for_each(|cut| super::check_messages(bytes, cut, cut as u64));
        }
    }
}
