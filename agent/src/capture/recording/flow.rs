//! One direction of a TCP connection: segments in any order in, bytes in order out, holes where some miss.
//!
//! Sequence numbers (RFC 9293 §3.4) become 64-bit offsets, so that they never wrap. Offset zero is the first
//! byte after the SYN. What was delivered stays: of overlapping segments the first wins. A segment that
//! comes too early is held until the bytes before it arrive, or until it is clear that the recording does
//! not have them: the other end acknowledged them, too much is held, or the wait was too long. Then they are a
//! hole. Where acknowledgments turn out to be recorded before what they acknowledge, they prove nothing.

use std::collections::BTreeMap;

use agent_core::Timestamp;

/// Offset of the first byte of a flow whose beginning was not recorded: anything but zero, with room
/// before it.
pub const JOINED_LATE_OFFSET: u64 = 1 << 32;
/// Bytes that one flow may hold back.
const HELD_BYTES_MAX: usize = 1 << 20;
/// Segments that one flow may hold back.
const HELD_SEGMENTS_MAX: usize = 1_024;
/// How long a segment waits for those before it: longer than a retransmission usually takes.
const HELD_NS_MAX: u64 = 1_000_000_000;
/// A segment further ahead than the largest TCP window (RFC 7323 §2.3) does not belong to this flow.
const AHEAD_BYTES_MAX: u64 = 1 << 30;

/// The client connection preface (RFC 9113 §3.4).
const CLIENT_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Takes what is delivered: offset, time, bytes. Empty bytes say that a hole reaches up to the offset.
pub type Deliver<'a> = dyn FnMut(u64, Timestamp, &[u8]) + 'a;

/// What a flow has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowStatistics {
    /// Bytes delivered.
    pub bytes: u64,
    /// Bytes that came again.
    pub duplicate_bytes: u64,
    /// Places where bytes miss.
    pub holes: u64,
    /// Bytes that miss.
    pub hole_bytes: u64,
    /// Segments that lie outside every window.
    pub implausible_segments: u64,
}

/// One direction of a connection.
#[derive(Debug, Default)]
pub struct FlowReassembly {
    position: Option<Position>,
    joined_late: bool,
    held: BTreeMap<u64, Held>,
    held_bytes: usize,
    /// Offset up to which the other end has acknowledged.
    acknowledged: u64,
    /// The last hole that only an acknowledgment told of: bytes that arrive there were on their way.
    acknowledged_hole: std::ops::Range<u64>,
    acknowledgments_prove_nothing: bool,
    /// Where the last hole ended.
    hole_end: Option<u64>,
    /// Offset of the FIN.
    end: Option<u64>,
    /// Counts.
    pub statistics: FlowStatistics,
}

/// Where the flow is: the sequence number and the offset of the next byte to deliver.
#[derive(Clone, Copy, Debug)]
struct Position {
    sequence: u32,
    offset: u64,
}

impl Position {
    /// Offset of `sequence`; `None` before offset zero.
    fn offset_of(self, sequence: u32) -> Option<u64> {
        let distance = sequence.wrapping_sub(self.sequence) as i32;
        self.offset.checked_add_signed(i64::from(distance))
    }
}

/// A segment that came too early. On the wire it was `wire_bytes` long, of which `bytes` were captured.
#[derive(Debug)]
struct Held {
    time: Timestamp,
    bytes: Vec<u8>,
    wire_bytes: u64,
}

/// The data of a segment.
#[derive(Clone, Copy, Debug)]
pub struct Data<'a> {
    /// Sequence number of the first byte.
    pub sequence: u32,
    /// What was captured.
    pub bytes: &'a [u8],
    /// How much there was.
    pub wire_bytes: u32,
    /// A FIN follows it.
    pub fin: bool,
}

impl FlowReassembly {
    /// The flow's first byte has `sequence`, if nothing is known of it yet.
    pub fn begin(&mut self, sequence: u32) {
        self.position.get_or_insert(Position { sequence, offset: 0 });
    }

    /// Joins the flow in the middle, at `sequence`, unless it has begun.
    pub fn join(&mut self, sequence: u32) {
        if self.position.is_none() {
            self.position = Some(Position { sequence, offset: JOINED_LATE_OFFSET });
            self.joined_late = true;
        }
    }

    /// Something is known of the flow.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.position.is_some()
    }

    /// It is followed from its first byte.
    #[must_use]
    pub fn is_from_the_beginning(&self) -> bool {
        self.position.is_some() && !self.joined_late
    }

    /// Everything up to the FIN was delivered or is a hole.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        matches!((self.end, self.position), (Some(end), Some(position)) if position.offset >= end)
    }

    /// Bytes held back.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Takes the data of a segment. `may_hold` is false when all flows together hold too much already.
    pub fn handle_data(
        &mut self,
        data: Data<'_>,
        time: Timestamp,
        may_hold: bool,
        deliver: &mut Deliver<'_>,
    ) {
        let Some(position) = self.position else { return };
        let wire_bytes = u64::from(data.wire_bytes);
        let Some(start) = position.offset_of(data.sequence) else {
            // From before the first byte: a keep-alive probe (RFC 9293 §3.8.4), or a late copy.
            self.statistics.duplicate_bytes += wire_bytes;
            return;
        };
        let end = start + wire_bytes;
        if start > position.offset + AHEAD_BYTES_MAX {
            self.statistics.implausible_segments += 1;
            return;
        }
        if data.fin {
            self.end.get_or_insert(end);
        }
        if start <= position.offset {
            let seen = position.offset - start;
            self.statistics.duplicate_bytes += seen.min(wire_bytes);
            let late = &self.acknowledged_hole;
            if wire_bytes > 0 && start < late.end && end > late.start {
                self.acknowledgments_prove_nothing = true;
            }
            if end > position.offset {
                let rest = data.bytes.get(seen as usize..).unwrap_or(&[]);
                self.advance(position.offset, rest, wire_bytes - seen, time, deliver);
                self.release_contiguous(Some(time), deliver);
            }
        } else if wire_bytes > 0 {
            self.hold(start, data.bytes, wire_bytes, time);
        }
        self.give_up_waiting(time, may_hold, deliver);
    }

    /// The other end has received everything before `sequence`.
    pub fn handle_acknowledgment(&mut self, sequence: u32, time: Timestamp, deliver: &mut Deliver<'_>) {
        let Some(position) = self.position else { return };
        let Some(offset) = position.offset_of(sequence) else { return };
        if offset <= self.acknowledged || offset > position.offset + AHEAD_BYTES_MAX {
            return;
        }
        self.acknowledged = offset;
        if self.acknowledgments_prove_nothing {
            return;
        }
        self.release_acknowledged(deliver);
        let Some(position) = self.position else { return };
        // One byte more than is known of may be a FIN that is not here. A FIN that was acknowledged has
        // nothing before it on its way.
        let missing_to = self.end.map_or(offset, |end| end.min(offset));
        if missing_to > position.offset + 1 || self.end.is_some_and(|end| end < offset) {
            self.acknowledged_hole = position.offset..missing_to;
            self.skip_to_and_say(missing_to, time, deliver);
        }
    }

    /// Nothing more will come: delivers what is held, with the holes before it.
    pub fn flush(&mut self, time: Timestamp, deliver: &mut Deliver<'_>) {
        while let Some((&start, _)) = self.held.first_key_value() {
            self.skip_to(start);
            self.release_contiguous(None, deliver);
        }
        // What stands before the FIN, or was acknowledged, was sent: if it is not here, it misses.
        self.skip_to_and_say(self.end.unwrap_or(self.acknowledged), time, deliver);
    }

    /// Keeps the parts of a segment that are not held yet.
    fn hold(&mut self, start: u64, bytes: &[u8], wire_bytes: u64, time: Timestamp) {
        let end = start + wire_bytes;
        let mut cursor = start;
        if let Some((&before, held)) = self.held.range(..=start).next_back() {
            cursor = cursor.max(before + held.wire_bytes);
        }
        while cursor < end {
            let next = self.held.range(cursor..end).next();
            let (gap_end, resume) = match next {
                Some((&held_start, held)) => (held_start, held_start + held.wire_bytes),
                None => (end, end),
            };
            if gap_end > cursor {
                let captured = bytes.len() as u64;
                let from = (cursor - start).min(captured) as usize;
                let to = (gap_end - start).min(captured) as usize;
                let piece = Held { time, bytes: bytes[from..to].to_vec(), wire_bytes: gap_end - cursor };
                self.held_bytes += piece.bytes.len();
                self.held.insert(cursor, piece);
            }
            cursor = resume;
        }
    }

    /// Delivers held segments as long as they follow directly. Bytes that waited were of use to nobody before
    /// the missing ones came, at `completed`; without it they keep their own time.
    fn release_contiguous(&mut self, completed: Option<Timestamp>, deliver: &mut Deliver<'_>) {
        while let (Some(position), Some(entry)) = (self.position, self.held.first_entry()) {
            let start = *entry.key();
            if start > position.offset {
                break;
            }
            let held = entry.remove();
            self.held_bytes -= held.bytes.len();
            let seen = position.offset - start;
            if seen < held.wire_bytes {
                let rest = held.bytes.get(seen as usize..).unwrap_or(&[]);
                let time = completed.unwrap_or(held.time);
                self.advance(position.offset, rest, held.wire_bytes - seen, time, deliver);
            }
        }
    }

    /// Delivers `bytes` at `offset`; what was not captured up to `wire_bytes` is a hole.
    fn advance(
        &mut self,
        offset: u64,
        bytes: &[u8],
        wire_bytes: u64,
        time: Timestamp,
        deliver: &mut Deliver<'_>,
    ) {
        let captured = (bytes.len() as u64).min(wire_bytes);
        if captured > 0 {
            deliver(offset, time, &bytes[..captured as usize]);
            self.statistics.bytes += captured;
        }
        self.move_to(offset + captured);
        if captured < wire_bytes {
            self.skip_to_and_say(offset + wire_bytes, time, deliver);
        }
    }

    /// Declares the bytes up to `offset` missing, where no bytes follow that would say so.
    fn skip_to_and_say(&mut self, offset: u64, time: Timestamp, deliver: &mut Deliver<'_>) {
        if self.position.is_some_and(|position| position.offset < offset) {
            self.skip_to(offset);
            deliver(offset, time, &[]);
        }
    }

    /// Declares the bytes up to `offset` missing.
    fn skip_to(&mut self, offset: u64) {
        if let Some(position) = self.position
            && offset > position.offset
        {
            // A hole that grows is one hole.
            self.statistics.holes += u64::from(self.hole_end != Some(position.offset));
            self.statistics.hole_bytes += offset - position.offset;
            self.hole_end = Some(offset);
            self.move_to(offset);
        }
    }

    fn move_to(&mut self, offset: u64) {
        if let Some(position) = &mut self.position {
            let distance = offset - position.offset;
            position.sequence = position.sequence.wrapping_add(distance as u32);
            position.offset = offset;
        }
    }

    fn release_acknowledged(&mut self, deliver: &mut Deliver<'_>) {
        while let Some((&start, _)) = self.held.first_key_value()
            && start <= self.acknowledged
        {
            self.skip_to(start);
            self.release_contiguous(None, deliver);
        }
    }

    fn give_up_waiting(&mut self, now: Timestamp, may_hold: bool, deliver: &mut Deliver<'_>) {
        if !self.acknowledgments_prove_nothing {
            self.release_acknowledged(deliver);
        }
        while let Some((&start, held)) = self.held.first_key_value() {
            let waited = now.since(held.time) > HELD_NS_MAX;
            let too_much = self.held_bytes > HELD_BYTES_MAX || self.held.len() > HELD_SEGMENTS_MAX;
            if !waited && !too_much && may_hold {
                break;
            }
            self.skip_to(start);
            self.release_contiguous(None, deliver);
        }
    }
}

/// The first bytes seen of a flow whose handshake was not recorded are its beginning: it is the client's,
/// or `client_begins` says that the other flow is a client's beginning and these are the server's SETTINGS.
#[must_use]
pub fn looks_like_the_beginning(bytes: &[u8], client_begins: bool) -> bool {
    let preface = bytes.len().min(CLIENT_PREFACE.len());
    if preface >= 4 && bytes[..preface] == CLIENT_PREFACE[..preface] {
        return true;
    }
    // SETTINGS without ACK on stream zero, a multiple of six long (RFC 9113 §6.5).
    client_begins
        && matches!(bytes, [0, high, low, 4, 0, 0, 0, 0, 0, ..]
            if u16::from_be_bytes([*high, *low]).is_multiple_of(6))
}

#[cfg(test)]
mod tests;
