//! Damage to the bytes of the flows: they begin late, end early, have holes, and come in other pieces.

use std::ops::Range;

use agent_core::{Chunk, ConnectionId, Flow, Timestamp};

use crate::plan::{Mutation, Plan};
use crate::random::Random;
use crate::recording::{Conversation, FLOWS, Frame, Step, index};
use crate::replay::Watch;

/// HEADERS (RFC 9113 §6.2).
const HEADERS: u8 = 1;

/// What is left of the two flows.
#[derive(Debug)]
struct Cut {
    /// Bytes before this place are not there.
    start: [u64; 2],
    /// Bytes from this place on are not there.
    end: [u64; 2],
    /// Neither are these, in order.
    holes: [Vec<Range<u64>>; 2],
    /// Pieces are split once in so many bytes.
    split: Option<u64>,
}

/// Replays what the plan leaves.
#[must_use]
pub fn replay(conversation: &Conversation, plan: &Plan) -> Watch {
    let mut random = plan.random.clone();
    let steps = &conversation.steps[plan.window.clone()];
    let cut = Cut::plan(conversation, steps, plan, &mut random);
    let mut watch = Watch::default();
    for step in steps {
        watch.handle_time(step.time());
        match step {
            Step::Bytes { flow, offset, at, time } => {
                let bytes = conversation.bytes(*flow, at);
                cut.feed(&mut watch, *flow, *offset, bytes, *time, &mut random);
            }
            Step::Closed(time) => watch.handle_close(ConnectionId(0), *time),
            Step::Ended(time) => watch.handle_end(ConnectionId(0), *time),
        }
        watch.handle_time(step.time());
    }
    watch.finish()
}

impl Cut {
    fn plan(conversation: &Conversation, steps: &[Step], plan: &Plan, random: &mut Random) -> Cut {
        let span = FLOWS.map(|flow| span(steps, flow));
        let mut cut = Cut {
            start: [span[0].start, span[1].start],
            end: [span[0].end, span[1].end],
            holes: [Vec::new(), Vec::new()],
            split: match random.below(4) {
                0 => Some(random.between(2, 64)),
                1 => Some(random.between(64, 4_096)),
                _ => None,
            },
        };
        let flow = random.below(2);
        match plan.mutation {
            Mutation::FrontEach => {
                for (start, span) in cut.start.iter_mut().zip(&span) {
                    *start = random.between(span.start, span.start + (span.end - span.start) / 2 + 1);
                }
            }
            Mutation::Tail => {
                for (end, span) in cut.end.iter_mut().zip(&span) {
                    if random.below(3) > 0 {
                        *end = random.between(span.start + (span.end - span.start) / 2, span.end + 1);
                    }
                }
            }
            Mutation::Hole => cut.add_hole(flow, any_hole(&span[flow], 200_000, random)),
            Mutation::SmallHoles => {
                for _ in 0..random.between(2, 40) {
                    let flow = random.below(2);
                    cut.add_hole(flow, any_hole(&span[flow], 64, random));
                }
            }
            Mutation::HeaderHoles | Mutation::FrameHoles => {
                for _ in 0..random.between(1, 5) {
                    let flow = random.below(2);
                    let frames = frames_in(&conversation.frames[flow], &span[flow]);
                    let hole = if plan.mutation == Mutation::HeaderHoles {
                        header_hole(frames, random)
                    } else {
                        frame_hole(frames, random)
                    };
                    cut.add_hole(flow, hole);
                }
            }
            // The window's beginning is the damage; inside of its first packet any byte may be the first one.
            _ => {}
        }
        let late = plan.window.start > 0;
        if plan.mutation == Mutation::FrontTogether || (late && random.once_in(2)) {
            for (start, flow) in cut.start.iter_mut().zip(FLOWS) {
                let first = steps.iter().find_map(|step| match step {
                    Step::Bytes { flow: of, at, .. } if *of == flow => Some(at.len() as u64),
                    Step::Bytes { .. } | Step::Closed(_) | Step::Ended(_) => None,
                });
                *start = (*start).max(*start + random.between(0, first.unwrap_or(0) + 1));
            }
        }
        cut
    }

    fn add_hole(&mut self, flow: usize, hole: Range<u64>) {
        if hole.is_empty() {
            return;
        }
        self.holes[flow].push(hole);
        self.holes[flow].sort_by_key(|hole| hole.start);
    }

    /// Hands on what is left of some bytes. What is missing at their end is told at once: nobody can own up to
    /// a loss that he does not know of yet.
    fn feed(
        &self,
        watch: &mut Watch,
        flow: Flow,
        offset: u64,
        bytes: &[u8],
        time: Timestamp,
        random: &mut Random,
    ) {
        let at = index(flow);
        let end = offset + bytes.len() as u64;
        let mut next = offset.max(self.start[at]).min(end);
        let last = end.min(self.end[at]);
        let mut seen_to = next;
        while next < last {
            let hole = self.holes[at].iter().find(|hole| hole.end > next);
            if let Some(hole) = hole.filter(|hole| hole.start <= next) {
                next = hole.end;
                continue;
            }
            let mut to = hole.map_or(last, |hole| hole.start.min(last));
            if let Some(split) = self.split {
                to = to.min(next + random.between(1, 2 * split));
            }
            self.send(watch, flow, next, &bytes[(next - offset) as usize..(to - offset) as usize], time);
            next = to;
            seen_to = to;
        }
        if seen_to < end {
            self.send(watch, flow, end, &[], time);
        }
    }

    fn send(&self, watch: &mut Watch, flow: Flow, offset: u64, bytes: &[u8], time: Timestamp) {
        let connection = ConnectionId(0);
        watch.handle_chunk(Chunk { connection, flow, offset, time, boundary: false, thread: 0, bytes });
    }
}

/// The places of a flow that some steps cover.
fn span(steps: &[Step], of: Flow) -> Range<u64> {
    let mut places = steps.iter().filter_map(|step| match step {
        Step::Bytes { flow, offset, at, .. } if *flow == of => Some(*offset..offset + at.len() as u64),
        Step::Bytes { .. } | Step::Closed(_) | Step::Ended(_) => None,
    });
    let first = places.next().unwrap_or(0..0);
    places.fold(first, |span, place| span.start.min(place.start)..span.end.max(place.end))
}

fn any_hole(span: &Range<u64>, most: u64, random: &mut Random) -> Range<u64> {
    let start = random.between(span.start, span.end + 1);
    start..start + random.of_any_size(most)
}

/// The frames that begin in a span.
fn frames_in<'a>(frames: &'a [Frame], span: &Range<u64>) -> &'a [Frame] {
    let from = frames.partition_point(|frame| frame.offset < span.start);
    let to = frames.partition_point(|frame| frame.offset < span.end);
    &frames[from..to.max(from)]
}

/// From somewhere in a HEADERS frame to somewhere in the same, or in one of the next.
fn header_hole(frames: &[Frame], random: &mut Random) -> Range<u64> {
    let headers: Vec<&Frame> = frames.iter().filter(|frame| frame.kind == HEADERS).collect();
    if headers.is_empty() {
        return 0..0;
    }
    let from = random.below(headers.len());
    let start = random.between(headers[from].offset, headers[from].end);
    let to = if random.once_in(2) { from } else { (from + 1 + random.below(4)).min(headers.len() - 1) };
    let end = random.between(headers[to].offset.max(start), headers[to].end) + 1;
    start..end
}

/// Whole frames, one or several.
fn frame_hole(frames: &[Frame], random: &mut Random) -> Range<u64> {
    if frames.is_empty() {
        return 0..0;
    }
    let from = random.below(frames.len());
    let to = (from + random.of_any_size(6) as usize - 1).min(frames.len() - 1);
    frames[from].offset..frames[to].end
}
