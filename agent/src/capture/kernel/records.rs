//! From the bytes of a record to [`Captured`].

use agent_common::ring::{
    CHUNK_BOUNDARY, Endpoints, FLAG_FINAL, FLAG_MORE, FLAG_RESET, FLAG_SHED, FLAG_TENTATIVE, FLAG_UNSEEN_END,
    FLOW_RECEIVED, FLOW_SENT, KIND_CLOSE, KIND_DATA, KIND_OPEN, KIND_UNSEEN, RecordHeader,
};
use agent_core::{Chunk, ConnectionId, Flow, Timestamp};
use foldhash::HashMap;

use super::captured::Captured;
use super::tentative::Tentative;

/// Flows whose record numbers are remembered; beyond it all are forgotten, and their losses with them.
const FLOWS_MAX: usize = 1 << 18;

/// In place of a flow: the connection was told of.
const OPENED: u8 = 2;

/// What the next record of a flow goes on from.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// Its number.
    sequence: u32,
    /// Where the flow has got to.
    end: u64,
}

/// Reads records and checks their numbers.
#[derive(Debug, Default)]
pub struct Reader {
    next: HashMap<(u64, u8), Place>,
    forgot: bool,
    tentative: Tentative,
    received: u64,
    opened: u64,
    malformed: u64,
    missing: u64,
}

impl Reader {
    /// Records read.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Those of them that tell of a new connection.
    #[must_use]
    pub fn opened(&self) -> u64 {
        self.opened
    }

    /// Records that made no sense.
    #[must_use]
    pub fn malformed(&self) -> u64 {
        self.malformed
    }

    /// Records that were missing.
    #[must_use]
    pub fn missing(&self) -> u64 {
        self.missing
    }

    /// What comes now is from other programs, which number their records from zero; totals stay.
    pub fn begin_anew(&mut self) {
        self.next.clear();
        self.tentative.clear();
        self.forgot = false;
    }

    /// Takes one record of the ring.
    pub fn handle_record(&mut self, bytes: &[u8], sink: &mut dyn FnMut(Captured<'_>)) {
        self.received += 1;
        if self.read(bytes, sink).is_none() {
            self.malformed += 1;
        }
    }

    fn read(&mut self, bytes: &[u8], sink: &mut dyn FnMut(Captured<'_>)) -> Option<()> {
        let header = header(bytes)?;
        let payload = bytes.get(size_of::<RecordHeader>()..)?.get(..header.payload as usize)?;
        let connection = ConnectionId(header.connection);
        let time = Timestamp(header.time_ns);
        let flow = match header.flow {
            FLOW_SENT => Flow::Sent,
            FLOW_RECEIVED => Flow::Received,
            _ => return None,
        };
        if header.flags & FLAG_TENTATIVE != 0 {
            self.tentative.keep(header, payload);
            return Some(());
        }
        // Of a flow whose last record is not known it cannot be told whether others are missing.
        let sheds =
            header.flags & FLAG_SHED != 0 && self.next.contains_key(&(header.connection, header.flow));
        let (records, bytes, missed) = self.go_on(&header);
        if records > 0 {
            sink(Captured::Lost { connection, flow, records, time });
        }
        // Up to `offset` the flow was not seen.
        let hole = |offset| {
            let chunk = Chunk::empty(connection, flow, offset, time);
            Captured::Chunk { pid: header.pid, moved: 0, chunk }
        };
        match header.kind {
            KIND_OPEN => {
                self.opened += 1;
                let endpoints = endpoints(payload)?;
                // Two threads that use a new socket at once may both tell of it.
                let place = Place { sequence: 0, end: 0 };
                if self.next.insert((header.connection, OPENED), place).is_some() {
                    return Some(());
                }
                let RecordHeader { pid, thread, .. } = header;
                sink(Captured::Open { connection, time, pid, thread, endpoints: &endpoints });
            }
            KIND_DATA => {
                for before in self.tentative.confirmed_by(&header) {
                    chunks(&before.header, flow, &before.payload, sink)?;
                }
                // With records that are missing it would be one hole with what was in these.
                if sheds && records == 0 {
                    let offset = first_of(&header, payload)?;
                    sink(Captured::LeftOut { connection, flow, offset, time });
                }
                chunks(&header, flow, payload, sink)?;
            }
            KIND_UNSEEN => {
                // At once, and not only when something follows that shows it: perhaps nothing does.
                sink(hole(header.offset.checked_add(header.moved.into())?));
            }
            KIND_CLOSE => {
                let is_final = header.flags & FLAG_FINAL != 0;
                if is_final {
                    if header.flow == FLOW_SENT && self.lacks_received(&header) {
                        let (flow, reset, is_final, unseen) = (Flow::Received, false, false, true);
                        sink(Captured::Close { connection, flow, reset, is_final, unseen, time });
                    }
                    for of in [FLOW_SENT, FLOW_RECEIVED, OPENED] {
                        self.next.remove(&(header.connection, of));
                    }
                }
                if records > 0 {
                    // The last bytes of the flow are among what is missing: a hole reaches up to its end.
                    sink(hole(header.offset));
                }
                if bytes > 0 {
                    sink(Captured::Moved { connection, bytes, missed });
                }
                let reset = header.flags & FLAG_RESET != 0;
                let unseen = header.flags & FLAG_UNSEEN_END != 0;
                sink(Captured::Close { connection, flow, reset, is_final, unseen, time });
            }
            _ => return None,
        }
        // Of a connection that ends it is said before its end.
        if bytes > 0 && header.kind != KIND_CLOSE {
            sink(Captured::Moved { connection, bytes, missed });
        }
        Some(())
    }

    /// By the last record of a connection, the flow received has had more records than have come.
    fn lacks_received(&self, end: &RecordHeader) -> bool {
        let come = self.next.get(&(end.connection, FLOW_RECEIVED)).map_or(0, |place| place.sequence);
        let missing = end.moved.wrapping_sub(come);
        missing > 0 && missing <= u32::MAX / 2 && !self.forgot
    }

    /// Takes a record's number and place: records that are missing before it, bytes from where the flow was before to
    /// where it is now, and those of them that were not seen.
    fn go_on(&mut self, header: &RecordHeader) -> (u32, u64, u64) {
        if self.next.len() >= FLOWS_MAX {
            self.next.clear();
            self.forgot = true;
        }
        let before = self.next.get(&(header.connection, header.flow)).copied();
        let start = before.map_or(header.offset, |before| before.end);
        let moves = header.kind == KIND_DATA || header.kind == KIND_UNSEEN;
        let moved = if moves { u64::from(header.moved) } else { 0 };
        let end = header.offset.saturating_add(moved).max(start);
        let place = Place { sequence: header.sequence.wrapping_add(1), end };
        self.next.insert((header.connection, header.flow), place);
        let missing = match before {
            Some(before) => header.sequence.wrapping_sub(before.sequence),
            None if self.forgot => 0,
            None => header.sequence,
        };
        // A number that goes back is that of a flow whose two threads overtook each other.
        let missing = if missing > u32::MAX / 2 { 0 } else { missing };
        self.missing += u64::from(missing);
        let mut missed = if header.kind == KIND_UNSEEN { moved } else { 0 };
        if missing > 0 {
            // What was in those records is not known: perhaps all that lies between.
            missed = missed.saturating_add(header.offset.saturating_sub(start));
        }
        (missing, end - start, missed.min(end - start))
    }
}

/// Where the first chunk of a record begins, or the end of its call if it has none.
fn first_of(header: &RecordHeader, payload: &[u8]) -> Option<u64> {
    let delta = payload.first_chunk().map_or(header.moved, |delta| u32::from_ne_bytes(*delta));
    header.offset.checked_add(delta.into())
}

fn chunks(
    header: &RecordHeader,
    flow: Flow,
    payload: &[u8],
    sink: &mut dyn FnMut(Captured<'_>),
) -> Option<()> {
    let RecordHeader { pid, moved, thread, .. } = *header;
    let (connection, time) = (ConnectionId(header.connection), Timestamp(header.time_ns));
    let mut emit = |offset, boundary, bytes| {
        let chunk = Chunk { connection, flow, offset, time, boundary, thread, bytes };
        sink(Captured::Chunk { pid, moved, chunk });
    };
    let mut end = header.offset;
    let mut rest = payload;
    while !rest.is_empty() {
        let (head, tail) = rest.split_at_checked(8)?;
        let delta = u32::from_ne_bytes(*head.first_chunk()?);
        let len = usize::from(u16::from_ne_bytes([head[4], head[5]]));
        let flags = u16::from_ne_bytes([head[6], head[7]]);
        let bytes = tail.get(..len)?;
        let offset = header.offset.checked_add(delta.into())?;
        emit(offset, flags & CHUNK_BOUNDARY != 0, bytes);
        end = offset.checked_add(len as u64)?;
        rest = tail.get(len.next_multiple_of(8)..).unwrap_or(&[]);
    }
    let call_end = header.offset.checked_add(moved.into())?;
    if header.flags & FLAG_MORE == 0 && end < call_end {
        emit(call_end, false, &[]);
    }
    Some(())
}

fn header(bytes: &[u8]) -> Option<RecordHeader> {
    let bytes: &[u8; 48] = bytes.first_chunk()?;
    let long = |at: usize| bytes[at..].first_chunk().copied().map(u64::from_ne_bytes);
    let word = |at: usize| bytes[at..].first_chunk().copied().map(u32::from_ne_bytes);
    Some(RecordHeader {
        time_ns: long(0)?,
        connection: long(8)?,
        offset: long(16)?,
        moved: word(24)?,
        sequence: word(28)?,
        pid: word(32)?,
        thread: word(36)?,
        payload: word(40)?,
        kind: bytes[44],
        flow: bytes[45],
        flags: bytes[46],
        reserved: bytes[47],
    })
}

fn endpoints(bytes: &[u8]) -> Option<Endpoints> {
    let bytes: &[u8; 72] = bytes.first_chunk()?;
    let half = |at: usize| bytes[at..].first_chunk().copied().map(u16::from_ne_bytes);
    let word = |at: usize| bytes[at..].first_chunk().copied().map(u32::from_ne_bytes);
    Some(Endpoints {
        local_address: *bytes[0..].first_chunk()?,
        peer_address: *bytes[16..].first_chunk()?,
        local_port: half(32)?,
        peer_port: half(34)?,
        family: half(36)?,
        reserved: half(38)?,
        network_namespace: word(40)?,
        recognised: word(44)?,
        cgroup: bytes[48..].first_chunk().copied().map(u64::from_ne_bytes)?,
        comm: *bytes[56..].first_chunk()?,
    })
}

#[cfg(test)]
mod tests {
    use super::super::tentative::{TENTATIVE_MAX, TENTATIVE_NS};
    use super::*;

    fn record(kind: u8, flags: u8, sequence: u32, moved: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(1000u64.to_ne_bytes());
        bytes.extend(7u64.to_ne_bytes());
        bytes.extend(100u64.to_ne_bytes());
        for number in [moved, sequence, 11, 12, payload.len() as u32] {
            bytes.extend(number.to_ne_bytes());
        }
        bytes.extend([kind, FLOW_SENT, flags, 0]);
        bytes.extend(payload);
        bytes
    }

    fn chunk(delta: u32, flags: u16, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend(delta.to_ne_bytes());
        out.extend((bytes.len() as u16).to_ne_bytes());
        out.extend(flags.to_ne_bytes());
        out.extend(bytes);
        out.resize(out.len().next_multiple_of(8), 0xaa);
        out
    }

    fn seen(reader: &mut Reader, bytes: &[u8]) -> Vec<String> {
        let mut all = Vec::new();
        reader.handle_record(bytes, &mut |captured| {
            all.push(match captured {
                Captured::Moved { .. } => return,
                Captured::Chunk { chunk, .. } => {
                    format!("{}{} {:?}", chunk.offset, if chunk.boundary { "!" } else { "" }, chunk.bytes)
                }
                Captured::LeftOut { offset, .. } => format!("left out to {offset}"),
                Captured::Lost { records, .. } => format!("lost {records}"),
                Captured::Close { unseen: true, .. } => "close with an unseen end".to_owned(),
                Captured::Close { reset, is_final, .. } => format!("close {reset} {is_final}"),
                Captured::Open { endpoints, .. } => format!("open {}", endpoints.local_port),
            });
        });
        all
    }

    #[test]
    fn chunks_stand_where_they_were_in_the_flow_and_the_last_hole_is_told() {
        let mut payload = chunk(0, CHUNK_BOUNDARY, &[1, 2, 3]);
        payload.extend(chunk(20, 0, &[4]));
        let mut reader = Reader::default();
        let record = record(KIND_DATA, 0, 0, 50, &payload);
        assert_eq!(seen(&mut reader, &record), ["100! [1, 2, 3]", "120 [4]", "150 []"]);
    }

    #[test]
    fn a_record_that_others_of_its_call_follow_tells_no_last_hole() {
        let mut reader = Reader::default();
        let record = record(KIND_DATA, FLAG_MORE, 0, 50, &chunk(0, 0, &[1]));
        assert_eq!(seen(&mut reader, &record), ["100 [1]"]);
    }

    #[test]
    fn what_was_left_out_before_a_record_reaches_up_to_its_first_chunk_unless_records_are_missing() {
        let mut reader = Reader::default();
        let shed = |sequence, payload: &[u8]| record(KIND_DATA, FLAG_SHED, sequence, 50, payload);
        assert_eq!(
            seen(&mut reader, &shed(0, &[])),
            ["150 []"],
            "of the flow's first record nothing is known"
        );
        assert_eq!(
            seen(&mut reader, &shed(1, &chunk(20, CHUNK_BOUNDARY, &[1]))),
            ["left out to 120", "120! [1]", "150 []"]
        );
        assert_eq!(seen(&mut reader, &shed(2, &[])), ["left out to 150", "150 []"]);
        assert_eq!(
            seen(&mut reader, &shed(4, &chunk(20, CHUNK_BOUNDARY, &[1]))),
            ["lost 1", "120! [1]", "150 []"]
        );
    }

    #[test]
    fn missing_numbers_are_a_loss_of_that_many() {
        let mut reader = Reader::default();
        assert_eq!(seen(&mut reader, &record(KIND_CLOSE, 0, 0, 0, &[])), ["close false false"]);
        assert_eq!(
            seen(&mut reader, &record(KIND_CLOSE, FLAG_RESET, 3, 0, &[])),
            ["lost 2", "100 []", "close true false"]
        );
        assert_eq!(reader.missing(), 2);
    }

    /// Bytes and missed bytes of each record, whose offset is 100 unless the test says otherwise.
    fn moved(reader: &mut Reader, mut bytes: Vec<u8>, offset: u64) -> (u64, u64) {
        bytes[16..24].copy_from_slice(&offset.to_ne_bytes());
        let mut all = (0, 0);
        reader.handle_record(&bytes, &mut |captured| {
            if let Captured::Moved { bytes, missed, .. } = captured {
                all = (all.0 + bytes, all.1 + missed);
            }
        });
        all
    }

    #[test]
    fn bytes_that_were_left_out_are_not_missed_and_those_that_nobody_saw_are() {
        let mut reader = Reader::default();
        let data = |sequence, moved| record(KIND_DATA, 0, sequence, moved, &chunk(0, 0, &[1]));
        assert_eq!(moved(&mut reader, data(0, 50), 100), (50, 0));
        // A call inside of a message made no record.
        assert_eq!(moved(&mut reader, data(1, 10), 1150), (1010, 0));
        let unseen = record(KIND_UNSEEN, 0, 2, 40, &[]);
        assert_eq!(moved(&mut reader, unseen, 1160), (40, 40));
        assert_eq!(moved(&mut reader, data(3, 5), 1200), (5, 0));
        // Two records are lost: of what lies between nothing is known.
        assert_eq!(moved(&mut reader, data(6, 5), 1300), (100, 95));
        // Several records of one call repeat its place.
        assert_eq!(moved(&mut reader, data(7, 5), 1300), (0, 0));
        let end = record(KIND_CLOSE, 0, 8, 0, &[]);
        assert_eq!(moved(&mut reader, end, 1335), (30, 0));
    }

    /// What a flow had carried last was not seen: nothing came behind it that would have shown that, and answered calls were said to
    /// be aborted by the end of their connection.
    #[test]
    fn bytes_that_nobody_saw_are_a_hole_whatever_follows() {
        let mut reader = Reader::default();
        assert_eq!(seen(&mut reader, &record(KIND_UNSEEN, 0, 0, 40, &[])), ["140 []"]);
        assert_eq!(moved(&mut reader, record(KIND_UNSEEN, 0, 1, 40, &[]), 140), (40, 40));
        assert_eq!(seen(&mut reader, &record(KIND_CLOSE, FLAG_FINAL, 2, 0, &[])), ["close false true"]);
    }

    #[test]
    fn an_end_that_may_not_have_been_seen_is_told_as_such() {
        let end = record(KIND_CLOSE, FLAG_FINAL | FLAG_UNSEEN_END, 0, 0, &[]);
        assert_eq!(seen(&mut Reader::default(), &end), ["close with an unseen end"]);
    }

    /// The records with the answer were lost, and the next record was the end of the other flow: the call was said to be aborted.
    #[test]
    fn a_loss_at_the_end_of_what_was_received_is_told_with_the_end_of_the_connection() {
        let received = |sequence| {
            let mut bytes = record(KIND_DATA, 0, sequence, 3, &chunk(0, 0, &[1, 2, 3]));
            bytes[45] = FLOW_RECEIVED;
            bytes
        };
        for (records, ends) in
            [(1, vec!["close false true"]), (3, vec!["close with an unseen end", "close false true"])]
        {
            let mut reader = Reader::default();
            seen(&mut reader, &received(0));
            assert_eq!(seen(&mut reader, &record(KIND_CLOSE, FLAG_FINAL, 0, records, &[])), ends);
        }
    }

    #[test]
    fn other_programs_count_their_records_from_zero() {
        let mut reader = Reader::default();
        for sequence in 0..5 {
            assert_eq!(seen(&mut reader, &record(KIND_CLOSE, 0, sequence, 0, &[])), ["close false false"]);
        }
        reader.begin_anew();
        assert_eq!(
            seen(&mut reader, &record(KIND_CLOSE, 0, 1, 0, &[])),
            ["lost 1", "100 []", "close false false"]
        );
        assert_eq!((reader.received(), reader.missing()), (6, 1));
    }

    /// A call whose last records were lost before its socket was closed was reported as aborted.
    #[test]
    fn a_loss_right_before_the_end_of_a_flow_is_a_hole_up_to_its_end() {
        let mut reader = Reader::default();
        assert_eq!(
            seen(&mut reader, &record(KIND_DATA, 0, 0, 3, &chunk(0, 0, &[1, 2, 3]))),
            ["100 [1, 2, 3]"]
        );
        // The test's records all have offset 100: the second one stands for whatever was lost.
        assert_eq!(
            seen(&mut reader, &record(KIND_CLOSE, FLAG_FINAL, 2, 0, &[])),
            ["lost 1", "100 []", "close false true"]
        );
    }

    /// A record of a call of `moved` bytes at `offset` of the flow, a whole chunk.
    fn call(offset: u64, time_ns: u64, flags: u8, sequence: u32, bytes: &[u8]) -> Vec<u8> {
        let mut record = record(KIND_DATA, flags, sequence, bytes.len() as u32, &chunk(0, 0, bytes));
        record[..8].copy_from_slice(&time_ns.to_ne_bytes());
        record[16..24].copy_from_slice(&offset.to_ne_bytes());
        record
    }

    #[test]
    fn tentative_calls_count_once_a_call_goes_on_where_they_ended() {
        let mut reader = Reader::default();
        assert!(seen(&mut reader, &call(100, 10, FLAG_TENTATIVE, 0, &[1, 2])).is_empty());
        assert!(seen(&mut reader, &call(102, 11, FLAG_TENTATIVE, 0, &[3])).is_empty());
        assert_eq!(seen(&mut reader, &call(103, 12, 0, 0, &[4])), ["100 [1, 2]", "102 [3]", "103 [4]"]);
        assert_eq!(seen(&mut reader, &call(104, 13, 0, 1, &[5])), ["104 [5]"]);
        assert_eq!((reader.missing(), reader.malformed()), (0, 0));
    }

    #[test]
    fn tentative_calls_that_nothing_goes_on_from_are_forgotten() {
        let mut reader = Reader::default();
        // Refuted: the frames began anew behind them.
        assert!(seen(&mut reader, &call(100, 10, FLAG_TENTATIVE, 0, &[1])).is_empty());
        assert!(seen(&mut reader, &call(107, 11, FLAG_TENTATIVE, 0, &[2])).is_empty());
        assert_eq!(seen(&mut reader, &call(108, 12, 0, 0, &[3])), ["107 [2]", "108 [3]"]);
        // Too long ago.
        assert!(seen(&mut reader, &call(109, 13, FLAG_TENTATIVE, 1, &[4])).is_empty());
        assert_eq!(seen(&mut reader, &call(110, 14 + TENTATIVE_NS, 0, 1, &[5])), ["110 [5]"]);
        // Too many.
        for connection in 0..=TENTATIVE_MAX as u64 {
            let mut bytes = call(200, 20, FLAG_TENTATIVE, 0, &[6]);
            bytes[8..16].copy_from_slice(&connection.to_ne_bytes());
            assert!(seen(&mut reader, &bytes).is_empty());
        }
        let mut first = call(201, 21, 0, 0, &[7]);
        first[8..16].copy_from_slice(&0u64.to_ne_bytes());
        assert_eq!(seen(&mut reader, &first), ["201 [7]"]);
        let mut last = call(201, 21, 0, 0, &[7]);
        last[8..16].copy_from_slice(&(TENTATIVE_MAX as u64).to_ne_bytes());
        assert_eq!(seen(&mut reader, &last), ["200 [6]", "201 [7]"]);
    }

    #[test]
    fn what_is_cut_or_of_no_kind_is_counted() {
        let mut reader = Reader::default();
        let whole = record(KIND_DATA, 0, 0, 3, &chunk(0, 0, &[1, 2, 3]));
        for end in 0..whole.len() - 5 {
            assert!(seen(&mut reader, &whole[..end]).iter().all(|line| line.starts_with("lost")));
        }
        assert!(seen(&mut reader, &record(9, 0, 0, 0, &[])).is_empty());
        assert_eq!(reader.malformed(), whole.len() as u64 - 5 + 1);
    }
}
