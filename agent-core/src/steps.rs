//! Counts the steps of parsers, to show that work is bounded by what came in (threat T20). Outside of tests and
//! fuzz targets there is no counter, and counting costs nothing.

#[cfg(any(test, fuzzing))]
mod counter {
    use std::cell::Cell;

    thread_local! {
        static STEPS: Cell<u64> = const { Cell::new(0) };
    }

    pub(crate) fn count() {
        STEPS.set(STEPS.get() + 1);
    }

    /// Steps of this thread since this was last asked.
    pub(crate) fn take() -> u64 {
        STEPS.replace(0)
    }
}

#[cfg(any(test, fuzzing))]
pub(crate) use counter::{count, take};

/// A step: a round of a loop whose number of rounds depends on what came in.
#[cfg(not(any(test, fuzzing)))]
#[inline(always)]
pub(crate) fn count() {}

#[cfg(test)]
mod tests {
    use crate::hpack::{Decoder, ListLimits};
    use crate::http2::reader::{FrameReader, Piece};

    /// Octets that look like nothing in particular, the same in each run.
    fn noise(len: usize) -> Vec<u8> {
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        (0..len).map(|_| next()).collect()
    }

    #[test]
    fn t20_the_frame_reader_takes_at_most_two_steps_for_an_octet() {
        let empty_data = [0, 0, 0, 0, 0, 0, 0, 0, 1].repeat(10_000);
        let padding = [[0, 0, 2, 0, 8, 0, 0, 0, 1, 1, 0].as_slice(), &noise(90_000)].concat();
        for (name, bytes) in [("empty DATA", empty_data), ("padding", padding), ("noise", noise(100_000))] {
            for cut in [1, 2, 8, 9, 10, 1_000, 100_000] {
                let mut reader = FrameReader::in_the_middle(16_384);
                super::take();
                let mut pieces = 0;
                for part in bytes.chunks(cut) {
                    pieces += 1;
                    let _ = reader.start_chunk(true, part);
                    let mut piece = Piece::Bytes(part);
                    while reader.next(&mut piece).is_some() {}
                }
                let steps = super::take();
                let bound = 2 * bytes.len() as u64 + 2 * pieces;
                assert!((1..=bound).contains(&steps), "{name} cut at {cut}: {steps} steps, at most {bound}");
            }
        }
    }

    #[test]
    fn t20_the_decoder_takes_at_most_a_step_for_an_octet() {
        let mut decoder = Decoder::late(65_536);
        let limits = ListLimits { bytes: 65_536, fields: 256 };
        for block in [vec![0xbe; 65_536], vec![0x20; 65_536], vec![0; 65_536], noise(65_536)] {
            super::take();
            let _ = decoder.decode(&block, limits, |_| {});
            let steps = super::take();
            assert!((1..=block.len() as u64).contains(&steps), "{steps} steps");
        }
    }
}
