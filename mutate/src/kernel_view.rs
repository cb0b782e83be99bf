//! The kernel side's view of a conversation: chunks with holes in, and what it is like when records are lost.
//!
//! Made from the frames of the recording by the rules of the ring's contract and not by the walker's own code,
//! which speaks to raw memory: headers and all payloads but DATA go up, of DATA the message prefixes; a chunk that
//! starts a frame says so; where a call's last bytes were left out, an empty chunk says how far it reached. A flow
//! that is joined late begins with the first call that begins with a frame and confirms it.

use std::collections::HashMap;
use std::ops::Range;

use agent_core::{Chunk, ConnectionId, Flow, Timestamp};

use crate::plan::{Mutation, Plan};
use crate::random::Random;
use crate::recording::{Conversation, FLOWS, FRAME_HEADER_BYTES, Frame, Step, index};
use crate::replay::Watch;

/// DATA (RFC 9113 §6.1).
const DATA: u8 = 0;
/// PADDED.
const PADDED: u8 = 8;
/// Octets before each message.
const PREFIX_BYTES: u64 = 5;
/// Frames that confirm a guessed boundary, if they do not fill the call.
const CONFIRMING_FRAMES: usize = 3;

/// Replays what the plan leaves. Flows whose frames are not known are left out.
#[must_use]
pub fn replay(conversation: &Conversation, plan: &Plan) -> Watch {
    let mut random = plan.random.clone();
    let steps = &conversation.steps[plan.window.clone()];
    let losses = Losses::plan(plan.mutation, steps.len(), &mut random);
    // Whether a flow's boundary is known to the kernel side.
    let mut synced = [plan.window.start == 0; 2];
    let mut views = FLOWS.map(|flow| FlowView::new(conversation, flow, steps));
    let mut watch = Watch::default();
    for (number, step) in steps.iter().enumerate() {
        watch.handle_time(step.time());
        match step {
            Step::Bytes { flow, offset, at, time } => {
                let view = &mut views[index(*flow)];
                let call = *offset..offset + at.len() as u64;
                synced[index(*flow)] |= view.confirms(&call);
                let bytes = conversation.bytes(*flow, at);
                let lost = losses.include(number, &mut random);
                if synced[index(*flow)] && !view.frames.is_empty() {
                    view.pass(&mut watch, &call, bytes, *time, lost);
                    watch.set_untold(*flow, lost);
                }
            }
            Step::Closed(time) | Step::Ended(time) => {
                for view in &views {
                    view.tell_end(&mut watch, *time);
                }
                if matches!(step, Step::Ended(_)) {
                    watch.handle_end(ConnectionId(0), *time);
                } else {
                    watch.handle_close(ConnectionId(0), *time);
                }
            }
        }
        watch.handle_time(step.time());
    }
    watch.finish()
}

/// Which records are lost.
#[derive(Debug)]
enum Losses {
    Nothing,
    OneIn(usize),
    Stretch(Range<usize>),
}

impl Losses {
    fn plan(mutation: Mutation, steps: usize, random: &mut Random) -> Losses {
        match mutation {
            Mutation::KernelRecordsLost => Losses::OneIn(random.between(2, 60) as usize),
            Mutation::KernelStretchLost => {
                let from = random.below(steps);
                Losses::Stretch(from..from + random.of_any_size(60) as usize)
            }
            _ => Losses::Nothing,
        }
    }

    fn include(&self, number: usize, random: &mut Random) -> bool {
        match self {
            Losses::Nothing => false,
            Losses::OneIn(times) => random.once_in(*times),
            Losses::Stretch(range) => range.contains(&number),
        }
    }
}

/// A flow's frames from the window on, and where its streams are inside their messages.
struct FlowView<'a> {
    flow: Flow,
    frames: &'a [Frame],
    /// Octets left of the current message of a stream, and of the current prefix, by stream.
    messages: HashMap<u32, Message>,
    /// Octets of DATA that were looked at already.
    looked_at: u64,
    /// A hole up to here is known to the kernel side and not told yet.
    lost_to: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Message {
    prefix: u64,
    prefix_left: u64,
    left: u64,
    /// Where prefixes are is not known any more.
    is_lost: bool,
}

impl Default for Message {
    fn default() -> Self {
        Message { prefix: 0, prefix_left: PREFIX_BYTES, left: 0, is_lost: false }
    }
}

impl<'a> FlowView<'a> {
    fn new(conversation: &'a Conversation, flow: Flow, steps: &[Step]) -> Self {
        let start = steps.iter().find_map(|step| match step {
            Step::Bytes { flow: of, offset, .. } if *of == flow => Some(*offset),
            Step::Bytes { .. } | Step::Closed(_) | Step::Ended(_) => None,
        });
        let frames = &conversation.frames[index(flow)];
        let from = frames.partition_point(|frame| frame.end <= start.unwrap_or(u64::MAX));
        FlowView { flow, frames: &frames[from..], messages: HashMap::new(), looked_at: 0, lost_to: None }
    }

    /// The call begins with a frame, and holds enough of them to be sure.
    fn confirms(&self, call: &Range<u64>) -> bool {
        let from = self.frames.partition_point(|frame| frame.offset < call.start);
        let inside = self.frames[from..].iter().take_while(|frame| frame.end <= call.end);
        let starts = self.frames.get(from).is_some_and(|frame| frame.offset == call.start);
        let (count, end) = inside.fold((0, call.start), |(count, _), frame| (count + 1, frame.end));
        starts && (count >= CONFIRMING_FRAMES || (count >= 1 && end == call.end))
    }

    /// The number of a record that tells of an end shows that records are missing before it.
    fn tell_end(&self, watch: &mut Watch, time: Timestamp) {
        if let Some(offset) = self.lost_to {
            watch.handle_chunk(Chunk::empty(ConnectionId(0), self.flow, offset, time));
            watch.set_untold(self.flow, false);
        }
    }

    /// Sends one call's bytes as one record.
    fn pass(&mut self, watch: &mut Watch, call: &Range<u64>, bytes: &[u8], time: Timestamp, lost: bool) {
        let mut chunks: Vec<(Range<u64>, bool)> = Vec::new();
        if self.frames.first().is_some_and(|frame| call.start < frame.offset) {
            // The client's preface.
            chunks.push((call.start..self.frames[0].offset.min(call.end), true));
        }
        let done = self.frames.partition_point(|frame| frame.end <= call.start);
        self.frames = &self.frames[done..];
        for frame in self.frames.iter().take_while(|frame| frame.offset < call.end) {
            for (part, starts) in shipped(frame, call, bytes, &mut self.messages, &mut self.looked_at) {
                match chunks.last_mut() {
                    Some((last, begins)) if last.end == part.start && (!starts || *begins) => {
                        last.end = part.end;
                    }
                    _ => chunks.push((part, starts)),
                }
            }
        }
        self.lost_to = lost.then_some(call.end);
        if lost {
            return;
        }
        let connection = ConnectionId(0);
        let mut send = |offset, boundary, bytes| {
            let chunk = Chunk { connection, flow: self.flow, offset, time, boundary, thread: 0, bytes };
            watch.handle_chunk(chunk);
        };
        let mut end = call.start;
        for (part, starts) in chunks {
            let at = (part.start - call.start) as usize..(part.end - call.start) as usize;
            send(part.start, starts, &bytes[at]);
            end = part.end;
        }
        if end < call.end {
            send(call.end, false, &[]);
        }
    }
}

/// The parts of a frame that are sent of a call, and whether they begin with the frame.
fn shipped(
    frame: &Frame,
    call: &Range<u64>,
    bytes: &[u8],
    messages: &mut HashMap<u32, Message>,
    looked_at: &mut u64,
) -> Vec<(Range<u64>, bool)> {
    let clip = |from: u64, to: u64| from.max(call.start)..to.min(call.end);
    let payload = frame.offset + FRAME_HEADER_BYTES;
    // Padding does not occur where gRPC is spoken; such a frame is sent whole.
    let whole = frame.kind != DATA || frame.flags & PADDED != 0;
    let head = clip(frame.offset, if whole { frame.end } else { payload });
    let mut parts = Vec::new();
    if !head.is_empty() {
        let starts = head.start == frame.offset;
        parts.push((head, starts));
    }
    if whole {
        return parts;
    }
    let body = clip(payload.max(*looked_at), frame.end);
    *looked_at = (*looked_at).max(body.end);
    let message = messages.entry(frame.stream).or_default();
    // A message that was joined in the middle: where the next one begins is not known.
    message.is_lost |= body.start > payload.max(call.start);
    let mut at = body.start;
    while at < body.end && !message.is_lost {
        if message.left > 0 {
            let n = message.left.min(body.end - at);
            message.left -= n;
            at += n;
            continue;
        }
        let n = message.prefix_left.min(body.end - at);
        for octet in &bytes[(at - call.start) as usize..(at + n - call.start) as usize] {
            message.prefix = message.prefix << 8 | u64::from(*octet);
        }
        parts.push((at..at + n, false));
        at += n;
        message.prefix_left -= n;
        if message.prefix_left == 0 {
            message.is_lost = message.prefix >> 32 > 1;
            *message = Message {
                left: message.prefix & 0xffff_ffff,
                is_lost: message.is_lost,
                ..Message::default()
            };
        }
    }
    parts
}
