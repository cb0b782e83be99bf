//! One flow of bytes, cut anywhere, with holes: the frame reader, and the look for a lost frame boundary.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    late: bool,
    holes: bool,
    is_limit_small: bool,
    cuts: [u8; 5],
    bytes: &'a [u8],
}

fuzz_target!(|data: &[u8]| fuzz::within_time(|| check(data)));

fn check(data: &[u8]) {
    if fuzz::is_recorded_flow(data) {
        // A recorded flow as it is, for corpora that are not ours.
        agent_core::fuzzing::check_frames(data, &[255, 61, 3, 24], false, false, 16_384);
    }
    let Ok(input) = Input::arbitrary_take_rest(arbitrary::Unstructured::new(data)) else { return };
    let payload_limit = if input.is_limit_small { 20 } else { 16_384 };
    agent_core::fuzzing::check_frames(input.bytes, &input.cuts, input.holes, input.late, payload_limit);
}
