//! What must not change what is observed: how bytes are cut, holes inside DATA, other connections.

mod support;

use agent_core::observation::{Call, Observation};
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
