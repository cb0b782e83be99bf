//! What must not change what is observed: how bytes are cut, holes inside DATA, other connections.

mod support;

use std::collections::BTreeSet;

use agent_core::observation::{Call, FlowSummary, Observation, Sync, WindowsSeen};
use agent_core::{Chunk, ConnectionId, Flow, Limits, Observer, Timestamp};
use proptest::prelude::*;
use support::*;

/// A step of a conversation: who sends what.
type Step = (Flow, Vec<u8>);

/// What one call looks like.
#[derive(Clone, Debug)]
enum Shape {
    Unary { request: usize, response: usize },
    Stream { messages: Vec<usize> },
    Fails,
    Cancelled,
    Open,
}

fn shape() -> impl Strategy<Value = Shape> {
    prop_oneof![
        (0..3_000usize, 0..3_000usize).prop_map(|(request, response)| Shape::Unary { request, response }),
        prop::collection::vec(0..300usize, 0..6).prop_map(|messages| Shape::Stream { messages }),
        Just(Shape::Fails),
        Just(Shape::Cancelled),
        Just(Shape::Open),
    ]
}

fn steps(shapes: &[Shape]) -> Vec<Step> {
    let mut hello = PREFACE.to_vec();
    hello.extend(settings());
    let mut steps = vec![(CLIENT, hello), (SERVER, settings())];
    for (nth, shape) in shapes.iter().enumerate() {
        let id = nth as u32 * 2 + 1;
        let method = format!("/a.B/{}", nth % 3);
        steps.push((CLIENT, request_with(id, &method, &[("grpc-timeout", "5S")])));
        match shape {
            Shape::Unary { request, response: len } => {
                steps.push((CLIENT, data(id, END_STREAM, &message(*request))));
                steps.push((SERVER, response(id)));
                steps.push((SERVER, data(id, 0, &message(*len))));
                steps.push((SERVER, trailers(id, "0")));
            }
            Shape::Stream { messages } => {
                steps.push((SERVER, response(id)));
                for len in messages {
                    let bytes = message(*len);
                    let (front, back) = bytes.split_at(bytes.len() / 2);
                    steps.push((CLIENT, data(id, 0, front)));
                    steps.push((CLIENT, data(id, 0, back)));
                    let mut padded = vec![3];
                    padded.extend(message(*len));
                    padded.extend([0; 3]);
                    steps.push((SERVER, data(id, PADDED, &padded)));
                }
                steps.push((CLIENT, data(id, END_STREAM, &[])));
                steps.push((SERVER, trailers(id, "0")));
            }
            Shape::Fails => steps.push((SERVER, trailers_only(id, "5"))),
            Shape::Cancelled => steps.push((CLIENT, rst_stream(id, 8))),
            Shape::Open => {}
        }
    }
    steps
}

/// Runs connections that take turns; the bytes of each step are cut at multiples of `cut`, and bodies
/// longer than `keep` lose what is beyond it.
fn observe(connections: &[Vec<Step>], cut: usize, keep: Option<usize>) -> Vec<Vec<Call>> {
    let mut observer = Observer::new(Limits::default());
    let mut offsets = vec![[0u64; 2]; connections.len()];
    let longest = connections.iter().map(Vec::len).max().unwrap_or(0);
    for nth in 0..longest {
        for (number, steps) in connections.iter().enumerate() {
            let Some((flow, bytes)) = steps.get(nth) else { continue };
            let offset = &mut offsets[number][usize::from(*flow == Flow::Received)];
            let is_data = bytes.len() > 9 && bytes[3] == 0;
            let seen = if is_data { bytes.len().min(keep.unwrap_or(usize::MAX)) } else { bytes.len() };
            for part in bytes[..seen].chunks(cut) {
                observer.handle_chunk(Chunk {
                    connection: ConnectionId(number as u64),
                    flow: *flow,
                    offset: *offset,
                    time: Timestamp(nth as u64 * 1_000_000),
                    boundary: false,
                    thread: 0,
                    bytes: part,
                });
                *offset += part.len() as u64;
            }
            *offset += (bytes.len() - seen) as u64;
        }
    }
    // Holes at the very end of a flow show only with the next byte.
    observer.finish(Timestamp(longest as u64 * 1_000_000));
    let mut calls = vec![Vec::new(); connections.len()];
    let mut started = 0;
    let mut ended = 0;
    while let Some(fact) = observer.poll_observation() {
        match fact {
            Observation::CallStarted(_) => started += 1,
            Observation::CallEnded(call) => {
                ended += 1;
                calls[usize::try_from(call.connection.0).expect("a small number")].push(*call);
            }
            _ => {}
        }
    }
    assert_eq!(started, ended, "M3");
    for list in &mut calls {
        list.sort_by_key(|call| call.stream);
    }
    calls
}

/// What was observed of one connection.
struct Followed {
    calls: Vec<Call>,
    /// Windows after every frame that changes one, by flow, in the order of that flow.
    windows: [Vec<WindowsSeen>; 2],
    flows: [FlowSummary; 2],
}

/// Runs the first `count` steps of one connection, in order. Each step's bytes are cut after the numbers of bytes in
/// `cuts`, by turns; with `hole`, a seed and a length, every DATA payload loses a part of that length somewhere. Asserts
/// after every step what must always hold (checklist M3).
fn follow(steps: &[Step], cuts: &[usize], hole: Option<(u64, usize)>, count: usize) -> Followed {
    let mut observer = Observer::new(Limits::default());
    observer.trace_frames(true);
    let mut offsets = [0u64; 2];
    let (mut seen, mut lost) = ([0u64; 2], [0u64; 2]);
    let mut cuts = cuts.iter().copied().cycle();
    let mut calls = Vec::new();
    let mut windows = [Vec::new(), Vec::new()];
    let mut flows = None;
    let mut open = BTreeSet::new();
    let mut drain = |observer: &mut Observer| {
        while let Some(fact) = observer.poll_observation() {
            match fact {
                Observation::CallStarted(started) => assert!(open.insert(started.stream), "started once"),
                Observation::CallEnded(call) => {
                    assert!(open.remove(&call.stream), "started before, and ended once");
                    calls.push(*call);
                }
                Observation::Frame(frame) => {
                    windows[usize::from(frame.flow == SERVER)].extend(frame.windows);
                }
                Observation::ConnectionEnded(summary) => flows = Some(summary.flows),
                _ => {}
            }
        }
        open.len()
    };
    for (nth, (flow, bytes)) in steps.iter().take(count).enumerate() {
        let at = usize::from(*flow == SERVER);
        let time = Timestamp(nth as u64 * 1_000_000);
        let mut send = |observer: &mut Observer, mut bytes: &[u8]| {
            while !bytes.is_empty() {
                let (part, rest) = bytes.split_at(cuts.next().unwrap_or(usize::MAX).min(bytes.len()));
                observer.handle_chunk(chunk(*flow, offsets[at], time, part));
                offsets[at] += part.len() as u64;
                seen[at] += part.len() as u64;
                bytes = rest;
            }
        };
        let payload = bytes.len().saturating_sub(9);
        match hole {
            Some((seed, len)) if payload > 0 && bytes[3] == 0 => {
                let from =
                    9 + usize::try_from(seed.wrapping_mul(nth as u64 + 1) % payload as u64).expect("small");
                let to = (from + len).min(bytes.len());
                send(&mut observer, &bytes[..from]);
                offsets[at] += (to - from) as u64;
                lost[at] += (to - from) as u64;
                // The hole is told at once: it reaches up to here.
                observer.handle_chunk(chunk(*flow, offsets[at], time, &[]));
                let mut send = |observer: &mut Observer, bytes: &[u8]| {
                    observer.handle_chunk(chunk(*flow, offsets[at], time, bytes));
                    offsets[at] += bytes.len() as u64;
                    seen[at] += bytes.len() as u64;
                };
                send(&mut observer, &bytes[to..]);
            }
            _ => send(&mut observer, bytes),
        }
        drain(&mut observer);
    }
    observer.finish(Timestamp(count as u64 * 1_000_000));
    assert_eq!(drain(&mut observer), 0, "started = ended, nothing is in flight after the end");
    calls.sort_by_key(|call| call.stream);
    if let Some(flows) = flows {
        let [sent, received]: [FlowSummary; 2] = flows;
        assert_eq!([sent.bytes, received.bytes], seen, "bytes that were seen");
        assert_eq!([sent.hole_bytes, received.hole_bytes], lost, "bytes that were not");
        assert_eq!([seen[0] + lost[0], seen[1] + lost[1]], offsets, "and there are no others");
    } else {
        assert_eq!(offsets, [0, 0]);
    }
    Followed { calls, windows, flows: flows.unwrap_or(EMPTY) }
}

fn chunk(flow: Flow, offset: u64, time: Timestamp, bytes: &[u8]) -> Chunk<'_> {
    Chunk { connection: ConnectionId(1), flow, offset, time, boundary: false, thread: 0, bytes }
}

const EMPTY: [FlowSummary; 2] = [FlowSummary {
    sync: Sync::Synced,
    frames: 0,
    header_blocks: 0,
    bytes: 0,
    hole_bytes: 0,
    desyncs: 0,
    send_window: None,
}; 2];

fn summary(calls: &[Call]) -> Vec<String> {
    calls
        .iter()
        .map(|call| {
            format!(
                "{} {:?} {:?} {:?} {:?} {:?} {:?} {:?}",
                call.stream,
                call.method,
                call.call_type,
                call.outcome,
                call.status,
                call.request,
                call.response,
                call.timeout
            )
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn cutting_the_bytes_anywhere_changes_nothing(
        shapes in prop::collection::vec(shape(), 1..8), cut in 1..40usize
    ) {
        let steps = steps(&shapes);
        let whole = observe(std::slice::from_ref(&steps), usize::MAX, None);
        prop_assert_eq!(whole[0].len(), shapes.len());
        let cut = observe(&[steps], cut, None);
        prop_assert_eq!(summary(&cut[0]), summary(&whole[0]));
    }

    #[test]
    fn a_hole_inside_a_message_changes_nothing(shapes in prop::collection::vec(shape(), 1..8)) {
        // The message of a call that stays open may end in a hole that nothing follows.
        let mut shapes = shapes;
        shapes.push(Shape::Fails);
        let steps: Vec<Step> = steps(&shapes);
        // Only frames that hold a whole message: the split halves of streams keep their bytes.
        let whole = observe(std::slice::from_ref(&steps), usize::MAX, None);
        let unary_only = shapes.iter().all(|shape| !matches!(shape, Shape::Stream { .. }));
        if unary_only {
            let holed = observe(&[steps], usize::MAX, Some(14));
            prop_assert_eq!(summary(&holed[0]), summary(&whole[0]));
        }
    }

    #[test]
    fn interleaving_connections_changes_nothing(
        first in prop::collection::vec(shape(), 1..5), second in prop::collection::vec(shape(), 1..5)
    ) {
        let (first, second) = (steps(&first), steps(&second));
        let alone = [observe(std::slice::from_ref(&first), 7, None), observe(std::slice::from_ref(&second), 7, None)];
        let together = observe(&[first, second], 7, None);
        prop_assert_eq!(summary(&together[0]), summary(&alone[0][0]));
        prop_assert_eq!(summary(&together[1]), summary(&alone[1][0]));
    }

    #[test]
    fn cutting_the_bytes_at_any_places_changes_no_call_window_or_count(
        shapes in prop::collection::vec(shape(), 1..6), cuts in prop::collection::vec(1..200usize, 1..30)
    ) {
        let steps = steps(&shapes);
        let whole = follow(&steps, &[usize::MAX], None, steps.len());
        let cut = follow(&steps, &cuts, None, steps.len());
        prop_assert_eq!(summary(&cut.calls), summary(&whole.calls));
        prop_assert_eq!(&cut.windows, &whole.windows);
        prop_assert_eq!(cut.flows, whole.flows);
    }

    #[test]
    fn c4_a_hole_anywhere_inside_data_changes_nothing_but_the_counts_of_what_was_in_it(
        shapes in prop::collection::vec(shape(), 1..6), seed in any::<u64>(), len in 1..400usize
    ) {
        let steps = steps(&shapes);
        let whole = follow(&steps, &[usize::MAX], None, steps.len());
        let holed = follow(&steps, &[usize::MAX], Some((seed, len)), steps.len());
        // What ends how, and the windows: DATA counts by the length in its header.
        let ends = |calls: &[Call]| -> Vec<String> {
            let end = |call: &Call| {
                let counted = (call.stream, call.method.clone(), call.outcome, call.status, call.timeout);
                format!("{counted:?} {:?} {:?} {:?}", call.started, call.ended, call.status_source)
            };
            calls.iter().map(end).collect()
        };
        prop_assert_eq!(ends(&holed.calls), ends(&whole.calls));
        prop_assert_eq!(&holed.windows, &whole.windows);
        for (holed, whole) in holed.calls.iter().zip(&whole.calls) {
            for (holed, whole) in [(holed.request, whole.request), (holed.response, whole.response)] {
                // Exact counts are right, others are not too high.
                prop_assert!(holed.count <= whole.count && holed.bytes <= whole.bytes);
                prop_assert!(!holed.exact || holed == whole);
            }
        }
        prop_assert_eq!(holed.flows.iter().map(|flow| flow.desyncs).sum::<u64>(), 0);
    }

    #[test]
    fn m3_calls_and_bytes_are_conserved_after_every_step(
        shapes in prop::collection::vec(shape(), 1..6),
        cuts in prop::collection::vec(1..60usize, 1..10),
        seed in any::<u64>(),
        steps_seen in 0..60usize,
    ) {
        let steps = steps(&shapes);
        // `follow` asserts that calls start and end once, and that bytes are seen or missing.
        follow(&steps, &cuts, Some((seed, 5)), steps_seen.min(steps.len()));
        follow(&steps, &cuts, None, steps_seen.min(steps.len()));
    }

    #[test]
    fn m3_bytes_are_conserved_whatever_they_are_and_wherever_holes_are(
        pieces in prop::collection::vec((any::<bool>(), 0..30u64, prop::collection::vec(any::<u8>(), 0..60)), 0..40),
        preface in any::<bool>(),
    ) {
        let mut scenario = if preface { Scenario::connected() } else { Scenario::new() };
        let mut seen = scenario.offsets;
        let mut lost = [0u64; 2];
        for (client, hole, bytes) in pieces {
            let at = usize::from(!client);
            let flow = if client { CLIENT } else { SERVER };
            // A flow that was not seen from its start has no holes before the join.
            let hole = if scenario.offsets[at] == 0 { 0 } else { hole % 4 * hole };
            scenario.lose(flow, hole).send(flow, &bytes);
            seen[at] += bytes.len() as u64;
            lost[at] += hole;
        }
        let started = scenario.started();
        scenario.finish();
        prop_assert!(started <= scenario.started() && scenario.started() == scenario.calls().len());
        if scenario.offsets != [0, 0] {
            let flows = scenario.summary().flows;
            prop_assert_eq!([flows[0].bytes, flows[1].bytes], seen);
            prop_assert_eq!([flows[0].hole_bytes, flows[1].hole_bytes], lost);
        }
    }

    #[test]
    fn t1_random_bytes_and_holes_never_panic(
        pieces in prop::collection::vec((any::<bool>(), 0..50u64, prop::collection::vec(any::<u8>(), 0..60)), 0..40),
        preface in any::<bool>(),
    ) {
        let mut scenario = if preface { Scenario::connected() } else { Scenario::joined_late() };
        for (client, hole, bytes) in pieces {
            let flow = if client { CLIENT } else { SERVER };
            scenario.lose(flow, hole % 3 * hole).send_at_boundary(flow, &bytes);
        }
        scenario.finish();
        prop_assert_eq!(scenario.started(), scenario.calls().len());
    }
}
