//! DATA that the walker leaves out where the agent has to save, switched on and off at random: whatever begins or ends a call is
//! shipped, and what is missing is what the flag of a record says it is.

use std::collections::HashMap;

use agent_common::flow::{Flow, PHASE_HEADER, PHASE_PREFACE, Walk};
use agent_common::frame::{CONTINUATION, DATA, END_STREAM, HEADER_BYTES, WINDOW_UPDATE};
use agent_common::walk;
use proptest::prelude::*;
use tests::traffic::{Random, Traffic};

use super::{SHIPPED, STREAMS, buffers, describe, ship, walk_call};

/// A frame of the traffic.
struct Frame {
    from: usize,
    to: usize,
    kind: u32,
    flags: u32,
    stream: u32,
}

impl Frame {
    fn is_plain(&self) -> bool {
        self.kind == WINDOW_UPDATE || (self.kind == DATA && self.flags & END_STREAM == 0)
    }

    /// Octets of it that are told whatever is shed.
    fn told(&self) -> std::ops::Range<usize> {
        let header = self.from + HEADER_BYTES as usize;
        if self.is_plain() {
            self.from..self.from
        } else if self.kind == DATA || self.kind > CONTINUATION {
            self.from..header
        } else {
            self.from..self.to
        }
    }
}

fn frames(traffic: &Traffic) -> Vec<Frame> {
    let read = |from: &usize| {
        let header = &traffic.bytes[*from..];
        let number = |octets: &[u8]| octets.iter().fold(0, |number, octet| number << 8 | u32::from(*octet));
        let to = from + HEADER_BYTES as usize + number(&header[..3]) as usize;
        let stream = number(&header[5..9]) & 0x7fff_ffff;
        Frame { from: *from, to, kind: header[3].into(), flags: header[4].into(), stream }
    };
    traffic.frames.iter().map(read).collect()
}

/// What user space knows of a flow: the frames before `at` that it has seen or was told to step over.
struct Seen<'a> {
    traffic: &'a Traffic,
    frames: Vec<Frame>,
    shipped: Vec<bool>,
    at: usize,
}

impl Seen<'_> {
    /// A hole up to `to`; `shed`: the record says that calls were left out before it.
    fn step_over(&mut self, to: usize, shed: bool) -> Result<(), String> {
        let from = std::mem::replace(&mut self.at, to);
        if from == to {
            return Ok(());
        }
        let fault = Err(format!("the hole from {from} to {to} (shed: {shed}) cannot be stepped over"));
        let mut next = self.frames.partition_point(|frame| frame.from < from);
        if let Some(inside) = next.checked_sub(1).map(|last| &self.frames[last])
            && from < inside.to
        {
            // In a payload that is left out, of a frame of which user space has seen the header, or stepped over it.
            if from < inside.from + HEADER_BYTES as usize || (1..=CONTINUATION).contains(&inside.kind) {
                return fault;
            }
            if to <= inside.to {
                return Ok(());
            }
            if inside.kind != DATA {
                return fault;
            }
        }
        if !shed {
            return fault;
        }
        while next < self.frames.len() && self.frames[next].from < to {
            let frame = &self.frames[next];
            if !frame.is_plain() {
                return fault;
            }
            // The record may begin inside of the last one.
            if to < frame.to && (frame.kind != DATA || to < frame.from + HEADER_BYTES as usize) {
                return fault;
            }
            next += 1;
        }
        Ok(())
    }

    fn take(&mut self, first: usize, boundary: bool, bytes: &[u8]) -> Result<(), String> {
        if boundary && self.traffic.frames.binary_search(&first).is_err() {
            return Err(format!("no frame starts at {first}"));
        }
        if self.traffic.bytes.get(first..first + bytes.len()) != Some(bytes) {
            return Err(format!("what was shipped for {first} is not what was sent"));
        }
        self.shipped[first..first + bytes.len()].fill(true);
        self.at = first + bytes.len();
        Ok(())
    }
}

/// Walks one flow, and in each call DATA is shed or not; how many calls made no record.
fn walk_shedding(
    traffic: &Traffic,
    from_client: bool,
    calls: &[(Vec<usize>, bool)],
) -> Result<usize, String> {
    STREAMS.with_borrow_mut(HashMap::clear);
    SHIPPED.take();
    let mut flow = Flow { first: 1, ..Flow::default() };
    flow.phase = (if from_client { PHASE_PREFACE } else { PHASE_HEADER }) as u8;
    // SAFETY: all zeros is a valid `Walk`.
    let mut walk: Box<Walk> = unsafe { Box::new(std::mem::zeroed()) };
    let shipped = vec![false; traffic.bytes.len()];
    let mut seen = Seen { traffic, frames: frames(traffic), shipped, at: 0 };
    let (mut at, mut left_out, mut shed_until, mut shed) = (0, 0, 0, false);
    for (call, sheds) in calls {
        let start = at;
        let (walk, flow): (*mut Walk, *mut Flow) = (&raw mut *walk, &raw mut flow);
        // SAFETY: both live, and nobody else uses them.
        let (is_shed, makes_record) = unsafe {
            let (end, _iovecs) = describe(walk, &traffic.bytes, start, call);
            at = end;
            walk::begin(walk, false);
            walk::prepare_shedding(walk, flow, *sheds);
            walk_call(walk, flow, at - start, call.len())
                .map_err(|fault| format!("the call at {start}: {fault}"))?;
            let is_shed = walk::is_shed(walk, flow);
            if is_shed {
                shed = true;
                left_out += 1;
            } else {
                ship(walk);
            }
            (is_shed, walk::payload(walk) != 0 || (*walk).data_ended != 0)
        };
        if *sheds {
            shed_until = at;
        }
        let records = SHIPPED.take();
        if is_shed && !records.is_empty() {
            return Err(format!("the call at {start} made a record, and is left out"));
        }
        if !is_shed && (makes_record || !records.is_empty()) {
            let mut before = std::mem::take(&mut shed);
            for (delta, boundary, bytes) in records {
                let first = start + delta as usize;
                seen.step_over(first, std::mem::take(&mut before))?;
                seen.take(first, boundary, &bytes)?;
            }
            // Otherwise the call was too long for one record, and of its end there was nothing to say.
            if makes_record {
                seen.step_over(at, before)?;
            }
        }
        // Ends of streams are told at once.
        let complete = &seen.frames[..seen.frames.partition_point(|frame| frame.to <= at)];
        if let Some(end) = complete.iter().rfind(|frame| !frame.is_plain())
            && seen.at < end.to
        {
            return Err(format!("the frame at {} has ended, and that was not told", end.from));
        }
    }
    // Streams that began when all of it was over are seen as ever.
    let mut first_frames = HashMap::new();
    for frame in &seen.frames {
        first_frames.entry(frame.stream).or_insert(frame.from);
    }
    for frame in seen.frames.iter().take_while(|frame| frame.to <= at) {
        let is_new = first_frames[&frame.stream] >= shed_until && frame.stream != 0;
        for place in frame.from..frame.to {
            let wanted = frame.told().contains(&place) || (is_new && traffic.ship[place]);
            if wanted && !seen.shipped[place] {
                return Err(format!("byte {place} of the frame at {} was not shipped", frame.from));
            }
            if is_new && seen.shipped[place] && !traffic.ship[place] {
                return Err(format!("byte {place} of the frame at {} was shipped", frame.from));
            }
        }
    }
    Ok(left_out)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn what_is_shed_is_data_that_ends_nothing_and_is_told_as_that(
        seed in any::<u64>(),
        from_client in any::<bool>(),
        size in 200..60_000usize,
        calls in prop::collection::vec((buffers(), prop::bool::weighted(0.6)), 1..200),
        ends_at in 0..200usize,
    ) {
        let traffic = Traffic::generate(&mut Random::new(seed), size, from_client, 1, false);
        let calls: Vec<_> =
            calls.into_iter().enumerate().map(|(at, (call, sheds))| (call, sheds && at < ends_at)).collect();
        if let Err(fault) = walk_shedding(&traffic, from_client, &calls) {
            return Err(TestCaseError::fail(fault));
        }
    }
}

/// A stream of messages of 64 KiB in frames of 16 KiB, a call each: the sender makes a record for what begins the stream and one for
/// what ends it.
#[test]
fn calls_that_move_nothing_but_data_make_no_record() {
    let mut traffic = Traffic::default();
    traffic.frame_of(4, 0, 0, &[], 0);
    traffic.frame_of(1, 4, 1, &[0x82; 40], 40);
    let begun = traffic.bytes.len();
    for frame in 0..400 {
        let prefix = if frame % 4 == 0 { [0, 0, 0, 0xff, 0xfb] } else { [7; 5] };
        traffic.frame_of(0, 0, 1, &[&prefix[..], &[7; 16_379]].concat(), 5);
        if frame % 3 == 0 {
            traffic.frame_of(8, 0, 0, &[0, 0, 1, 0], 4);
        }
    }
    let ended = traffic.bytes.len();
    traffic.frame_of(1, 5, 1, &[0x82; 20], 20);
    let mut calls = vec![(vec![begun], true)];
    let mut left = ended - begun;
    let mut number = 0;
    while left > 0 {
        // Frame headers are cut now and then: such calls are told of.
        let len = [65_536, 16_384, 3, 40_000][number % 4].min(left);
        calls.push((vec![len], true));
        left -= len;
        number += 1;
    }
    calls.push((vec![traffic.bytes.len() - ended], true));
    let left_out = walk_shedding(&traffic, false, &calls).expect("it holds");
    assert!(left_out * 10 > calls.len() * 9, "{left_out} of {}", calls.len());
}

/// END_STREAM on DATA that goes on over calls: its header is told at once, and its end when it comes.
#[test]
fn data_that_ends_a_stream_is_told_and_so_is_its_end() {
    let mut traffic = Traffic::default();
    traffic.frame_of(4, 0, 0, &[], 0);
    traffic.frame_of(0, 0, 1, &[9; 3_000], 0);
    traffic.frame_of(0, 1, 1, &[9; 3_000], 0);
    traffic.frame_of(0, 0, 3, &[9; 3_000], 0);
    for step in [1, 8, 9, 10, 500, 3_009, 3_018, 6_030, 20_000] {
        let calls: Vec<_> = (0..traffic.bytes.len().div_ceil(step)).map(|_| (vec![step], true)).collect();
        walk_shedding(&traffic, false, &calls).expect("it holds");
    }
}
