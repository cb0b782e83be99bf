//! Segments in, bytes in order out: each case is a list of segments and what must be delivered.

use proptest::prelude::*;

use super::*;

/// What was delivered: offset, time, bytes.
type Delivered = Vec<(u64, u64, Vec<u8>)>;

struct Script {
    flow: FlowReassembly,
    delivered: Delivered,
}

impl Script {
    fn from_sequence(first: u32) -> Self {
        let mut flow = FlowReassembly::default();
        flow.begin(first);
        Script { flow, delivered: Vec::new() }
    }

    fn step(&mut self, act: impl FnOnce(&mut FlowReassembly, &mut Deliver<'_>)) -> &mut Self {
        let delivered = &mut self.delivered;
        act(&mut self.flow, &mut |offset, time, bytes| delivered.push((offset, time.0, bytes.to_vec())));
        self
    }

    fn cut(&mut self, time: u64, sequence: u32, bytes: &[u8], wire_bytes: u32) -> &mut Self {
        let data = Data { sequence, bytes, wire_bytes, fin: false };
        self.step(|flow, deliver| flow.handle_data(data, Timestamp(time), true, deliver))
    }

    fn data(&mut self, time: u64, sequence: u32, bytes: &[u8]) -> &mut Self {
        self.cut(time, sequence, bytes, bytes.len() as u32)
    }

    fn fin(&mut self, time: u64, sequence: u32) -> &mut Self {
        let data = Data { sequence, bytes: &[], wire_bytes: 0, fin: true };
        self.step(|flow, deliver| flow.handle_data(data, Timestamp(time), true, deliver))
    }

    fn ack(&mut self, time: u64, sequence: u32) -> &mut Self {
        self.step(|flow, deliver| flow.handle_acknowledgment(sequence, Timestamp(time), deliver))
    }

    fn flush(&mut self, time: u64) -> &mut Self {
        self.step(|flow, deliver| flow.flush(Timestamp(time), deliver))
    }

    #[track_caller]
    fn delivers(&mut self, expected: &[(u64, u64, &[u8])]) -> &mut Self {
        let expected: Delivered =
            expected.iter().map(|(at, time, bytes)| (*at, *time, bytes.to_vec())).collect();
        assert_eq!(std::mem::take(&mut self.delivered), expected);
        self
    }

    #[track_caller]
    fn counts(&mut self, holes: u64, hole_bytes: u64, duplicate_bytes: u64) -> &mut Self {
        let seen = &self.flow.statistics;
        assert_eq!((seen.holes, seen.hole_bytes, seen.duplicate_bytes), (holes, hole_bytes, duplicate_bytes));
        self
    }
}

#[test]
fn segments_in_order_are_delivered_at_once() {
    Script::from_sequence(100)
        .data(1, 100, b"ab")
        .delivers(&[(0, 1, b"ab")])
        .data(2, 102, b"c")
        .delivers(&[(2, 2, b"c")])
        .counts(0, 0, 0);
}

#[test]
fn segments_out_of_order_wait_and_get_the_time_of_the_one_that_was_missing() {
    Script::from_sequence(100)
        .data(1, 104, b"ef")
        .data(2, 102, b"cd")
        .delivers(&[])
        .data(3, 100, b"ab")
        .delivers(&[(0, 3, b"ab"), (2, 3, b"cd"), (4, 3, b"ef")])
        .counts(0, 0, 0);
}

#[test]
fn sequence_numbers_may_wrap() {
    Script::from_sequence(u32::MAX - 1)
        .data(1, 1, b"de")
        .data(2, u32::MAX - 1, b"abc")
        .delivers(&[(0, 2, b"abc"), (3, 2, b"de")])
        .counts(0, 0, 0);
}

#[test]
fn offsets_go_on_where_sequence_numbers_have_wrapped() {
    let mut script = Script::from_sequence(0);
    let step = 1_u32 << 29;
    for turn in 0..16_u64 {
        let sequence = (turn as u32).wrapping_mul(step);
        script.cut(turn, sequence, b"x", step);
    }
    let offsets: Vec<u64> =
        script.delivered.iter().filter(|(_, _, bytes)| !bytes.is_empty()).map(|d| d.0).collect();
    assert_eq!(offsets, (0..16).map(|turn| turn * u64::from(step)).collect::<Vec<_>>());
}

#[test]
fn retransmissions_are_dropped_and_counted() {
    Script::from_sequence(100)
        .data(1, 100, b"abcd")
        .data(2, 100, b"abcd")
        .data(3, 99, b"?")
        .delivers(&[(0, 1, b"abcd")])
        .counts(0, 0, 5);
}

#[test]
fn of_overlapping_segments_the_first_wins() {
    Script::from_sequence(100)
        .data(1, 100, b"abc")
        .data(2, 101, b"XXde")
        .delivers(&[(0, 1, b"abc"), (3, 2, b"de")])
        .counts(0, 0, 2);
}

#[test]
fn of_overlapping_segments_that_wait_the_first_wins_and_fills_only_gaps() {
    Script::from_sequence(100)
        .data(1, 103, b"dd")
        .data(2, 107, b"hh")
        .data(3, 102, b"CCCCCCCCC")
        .delivers(&[])
        .data(4, 100, b"aaA")
        .delivers(&[(0, 4, b"aaA"), (3, 4, b"dd"), (5, 4, b"CC"), (7, 4, b"hh"), (9, 4, b"CC")])
        .counts(0, 0, 0);
}

#[test]
fn bytes_cut_by_the_snap_length_are_a_hole_that_is_said_at_once() {
    Script::from_sequence(100)
        .cut(1, 100, b"ab", 10)
        .delivers(&[(0, 1, b"ab"), (10, 1, b"")])
        .cut(2, 110, b"", 5)
        .delivers(&[(15, 2, b"")])
        .data(3, 115, b"c")
        .delivers(&[(15, 3, b"c")])
        .counts(1, 13, 0);
}

#[test]
fn a_cut_segment_that_waited_keeps_its_hole() {
    Script::from_sequence(100)
        .cut(1, 102, b"c", 4)
        .data(2, 100, b"ab")
        .delivers(&[(0, 2, b"ab"), (2, 2, b"c"), (6, 2, b"")])
        .counts(1, 3, 0);
}

#[test]
fn bytes_that_the_other_end_has_but_the_recording_has_not_are_a_hole_at_once() {
    Script::from_sequence(100)
        .data(1, 105, b"fg")
        .delivers(&[])
        .ack(2, 104)
        .delivers(&[(4, 2, b"")])
        .ack(3, 107)
        .delivers(&[(5, 1, b"fg")])
        .counts(1, 5, 0)
        .ack(4, 110)
        .delivers(&[(10, 4, b"")])
        .counts(2, 8, 0);
}

#[test]
fn one_acknowledged_byte_more_may_be_a_fin_that_was_not_recorded() {
    Script::from_sequence(100)
        .data(1, 100, b"ab")
        .ack(2, 103)
        .delivers(&[(0, 1, b"ab")])
        .data(3, 103, b"d")
        .delivers(&[(3, 3, b"d")])
        .counts(1, 1, 0);
}

#[test]
fn where_acknowledgments_are_recorded_too_early_they_prove_nothing() {
    Script::from_sequence(100)
        .ack(1, 104)
        .delivers(&[(4, 1, b"")])
        .data(2, 100, b"abcd")
        .ack(3, 108)
        .delivers(&[])
        .data(4, 104, b"efgh")
        .delivers(&[(4, 4, b"efgh")])
        .counts(1, 4, 4);
}

#[test]
fn a_hole_that_grows_is_one_hole() {
    Script::from_sequence(100)
        .ack(1, 104)
        .ack(2, 108)
        .delivers(&[(4, 1, b""), (8, 2, b"")])
        .data(3, 110, b"x")
        .ack(4, 111)
        .delivers(&[(10, 3, b"x")])
        .counts(1, 10, 0);
}

#[test]
fn a_gap_is_given_up_after_a_while() {
    let late = HELD_NS_MAX + 2;
    Script::from_sequence(100)
        .data(1, 105, b"f")
        .data(1 + HELD_NS_MAX, 106, b"g")
        .delivers(&[])
        .data(late, 110, b"k")
        .delivers(&[(5, 1, b"f"), (6, 1 + HELD_NS_MAX, b"g")])
        .flush(late)
        .delivers(&[(10, late, b"k")])
        .counts(2, 8, 0);
}

#[test]
fn memory_for_waiting_segments_is_bounded_by_bytes_and_by_number() {
    let mut script = Script::from_sequence(0);
    for segment in 0..100_u32 {
        script.data(1, 1 + segment * 20_000, &[7; 20_000]);
        assert!(script.flow.held_bytes() <= HELD_BYTES_MAX);
    }
    script.counts(1, 1, 0);
    let mut script = Script::from_sequence(0);
    for segment in 0..=2 * HELD_SEGMENTS_MAX as u32 {
        script.data(1, 1 + segment * 2, b"x");
        assert!(script.flow.held.len() <= HELD_SEGMENTS_MAX);
    }
    assert!(script.flow.statistics.holes > 0);
}

#[test]
fn nothing_waits_when_all_flows_together_hold_too_much() {
    let mut script = Script::from_sequence(100);
    let data = Data { sequence: 105, bytes: b"f", wire_bytes: 1, fin: false };
    script.step(|flow, deliver| flow.handle_data(data, Timestamp(1), false, deliver));
    script.delivers(&[(5, 1, b"f")]).counts(1, 5, 0);
    assert_eq!(script.flow.held_bytes(), 0);
}

#[test]
fn the_flow_is_complete_when_everything_before_the_fin_was_delivered() {
    let mut script = Script::from_sequence(100);
    script.fin(1, 102);
    assert!(!script.flow.is_complete());
    script.data(2, 100, b"ab").delivers(&[(0, 2, b"ab")]);
    assert!(script.flow.is_complete());
}

#[test]
fn an_acknowledged_fin_ends_the_wait_for_what_stood_before_it() {
    let mut script = Script::from_sequence(100);
    script.fin(1, 102).ack(2, 101);
    assert!(!script.flow.is_complete());
    script.ack(3, 103).delivers(&[(2, 3, b"")]).counts(1, 2, 0);
    assert!(script.flow.is_complete());
}

#[test]
fn at_the_end_what_waits_is_delivered_and_what_misses_is_counted() {
    Script::from_sequence(100)
        .data(1, 102, b"c")
        .data(2, 105, b"f")
        .flush(9)
        .delivers(&[(2, 1, b"c"), (5, 2, b"f")])
        .counts(2, 4, 0);
    Script::from_sequence(100).data(1, 100, b"a").ack(2, 104).flush(9).delivers(&[(0, 1, b"a"), (4, 2, b"")]);
}

#[test]
fn a_segment_beyond_every_window_is_not_of_this_flow() {
    let mut script = Script::from_sequence(100);
    script.data(1, 100 + (1 << 30) + 1, b"x").ack(2, 100 + (1 << 30) + 1).flush(3).delivers(&[]);
    assert_eq!(script.flow.statistics.implausible_segments, 1);
}

#[test]
fn a_flow_that_was_joined_late_does_not_start_at_zero() {
    let mut flow = FlowReassembly::default();
    flow.join(7_000);
    assert!(flow.has_begun() && !flow.is_from_the_beginning());
    let mut offsets = Vec::new();
    let data = Data { sequence: 7_000, bytes: b"ab", wire_bytes: 2, fin: false };
    flow.handle_data(data, Timestamp(1), true, &mut |offset, _, _| offsets.push(offset));
    assert_eq!(offsets, [JOINED_LATE_OFFSET]);
    assert_eq!(flow.statistics.holes, 0);
}

#[test]
fn the_beginning_is_the_client_s_preface_or_after_it_the_server_s_settings() {
    let settings = [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0xff, 0xff];
    let ack = [0, 0, 0, 4, 1, 0, 0, 0, 0];
    for (bytes, client_begins, expected) in [
        (CLIENT_PREFACE, false, true),
        (&CLIENT_PREFACE[..9], false, true),
        (b"PRI", false, false),
        (b"PRIVATE", false, false),
        (&settings, true, true),
        (&settings, false, false),
        (&ack, true, false),
        (b"", true, false),
    ] {
        assert_eq!(looks_like_the_beginning(bytes, client_begins), expected, "{bytes:?}");
    }
}

proptest! {
    /// However a stream is cut, repeated and reordered: as long as nothing misses, it comes out as it went in.
    #[test]
    fn any_order_of_any_segments_that_cover_the_stream_gives_the_stream(
        stream in prop::collection::vec(any::<u8>(), 1..400),
        first in any::<u32>(),
        mut pieces in prop::collection::vec((any::<prop::sample::Index>(), 1_usize..60), 0..60),
        order in any::<u64>(),
    ) {
        let mut segments: Vec<(usize, usize)> =
            pieces.drain(..).map(|(from, length)| (from.index(stream.len()), length)).collect();
        segments.extend((0..stream.len()).step_by(37).map(|from| (from, 37)));
        // A cheap shuffle that depends on one number.
        segments.sort_by_key(|&(from, length)| (from as u64 * 31 + length as u64).wrapping_mul(order | 1));
        let mut script = Script::from_sequence(first);
        for (from, length) in segments {
            let bytes = &stream[from..(from + length).min(stream.len())];
            script.data(1, first.wrapping_add(from as u32), bytes);
        }
        let mut next = 0;
        let mut seen: Vec<u8> = Vec::new();
        for (offset, _, bytes) in &script.delivered {
            prop_assert_eq!(*offset, next);
            next += bytes.len() as u64;
            seen.extend(bytes);
        }
        prop_assert_eq!(seen, stream);
        prop_assert_eq!(script.flow.held_bytes(), 0);
        prop_assert_eq!(script.flow.statistics.holes, 0);
    }

    /// Whatever comes, offsets only grow, nothing is delivered twice, and bytes and holes add up.
    #[test]
    fn whatever_comes_the_counts_add_up(
        segments in prop::collection::vec((0_u32..300, 0_u32..40, 0_u32..40, any::<bool>(), 0_u64..3_000_000_000), 0..80),
    ) {
        let mut script = Script::from_sequence(50);
        let mut now = 0;
        for (sequence, captured, cut, is_ack, pause) in segments {
            now += pause / 20;
            if is_ack {
                script.ack(now, sequence);
            } else {
                script.cut(now, sequence, &vec![1; captured as usize], captured + cut);
            }
        }
        script.flush(now);
        let mut next = 0;
        let mut bytes_seen = 0;
        for (offset, _, bytes) in &script.delivered {
            prop_assert!(*offset >= next);
            next = offset + bytes.len() as u64;
            bytes_seen += bytes.len() as u64;
        }
        let statistics = script.flow.statistics;
        prop_assert_eq!(statistics.bytes, bytes_seen);
        prop_assert_eq!(statistics.bytes + statistics.hole_bytes, next);
        prop_assert_eq!(script.flow.held_bytes(), 0);
    }
}
