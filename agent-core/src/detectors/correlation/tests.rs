//! What is linked, and what is not.

use proptest::prelude::*;

use super::super::hops_scene::{CALLS, Ends, Hop, SERVED, at, trace};
use super::threads::CLEAN_CALLS;
use super::{Correlation, Evidence};
use crate::input::{ConnectionId, Flow};
use crate::observation::{Sync, TraceHash, Traces};

const TRACE: Correlation = Correlation::Linked(Evidence::Trace);
const THREAD: Correlation = Correlation::Linked(Evidence::Thread);
const SOLE: Correlation = Correlation::Linked(Evidence::Sole);

fn inbound(stream: u32) -> Option<(ConnectionId, u32)> {
    Some((ConnectionId(SERVED), stream))
}

#[test]
fn the_same_trace_links_among_many() {
    let mut hop = Hop::new();
    hop.inbound(1, at(0), |call| call.traces = trace(1));
    hop.inbound(3, at(1), |call| call.traces = trace(3));
    let found = hop.outbound(1, at(2), |call| call.traces = trace(3));
    assert_eq!((found.correlation, found.inbound), (TRACE, inbound(3)));
}

#[test]
fn a_trace_that_two_inbound_calls_have_is_no_evidence() {
    let mut hop = Hop::new();
    hop.inbound(1, at(0), |call| call.traces = trace(1));
    hop.inbound(3, at(1), |call| call.traces = trace(1));
    let found = hop.outbound(1, at(2), |call| call.traces = trace(1));
    assert_eq!((found.correlation, found.inbound), (Correlation::Ambiguous, None));
    // Also when one of them has just ended: its handler may have left something to do.
    hop.answer(1, at(3));
    let found = hop.outbound(3, at(4), |call| call.traces = trace(1));
    assert_eq!(found.correlation, SOLE);
    hop.tick(at(2_000));
    let found = hop.outbound(5, at(2_001), |call| call.traces = trace(1));
    assert_eq!((found.correlation, found.inbound), (TRACE, inbound(3)));
}

#[test]
fn a_request_id_tells_calls_of_one_trace_apart() {
    let with_request = |request| Traces { trace: Some(TraceHash(1)), request: Some(TraceHash(request)) };
    let mut hop = Hop::new();
    hop.inbound(1, at(0), |call| call.traces = with_request(10));
    hop.inbound(3, at(1), |call| call.traces = with_request(30));
    let found = hop.outbound(1, at(2), |call| call.traces = with_request(30));
    assert_eq!((found.correlation, found.inbound), (TRACE, inbound(3)));
    // The same text in another field is another id.
    let found = hop.outbound(3, at(3), |call| call.traces = trace(30));
    assert_eq!(found.correlation, Correlation::Ambiguous);
}

#[test]
fn the_only_open_call_is_the_origin() {
    let mut hop = Hop::new();
    hop.inbound(1, at(0), |_| {});
    let found = hop.outbound(1, at(1), |_| {});
    assert_eq!((found.correlation, found.inbound), (SOLE, inbound(1)));
    hop.inbound(3, at(2), |_| {});
    assert_eq!(hop.correlation(3, at(3)), Correlation::Ambiguous);
    hop.answer(1, at(4));
    let found = hop.outbound(5, at(5), |_| {});
    assert_eq!((found.correlation, found.inbound), (SOLE, inbound(3)));
}

#[test]
fn a_root_belongs_to_nothing_and_its_method_to_nobody_for_a_while() {
    let mut hop = Hop::new();
    assert_eq!(hop.correlation(1, at(0)), Correlation::None);
    hop.inbound(1, at(1), |_| {});
    assert_eq!(hop.correlation(3, at(2)), Correlation::Ambiguous);
    hop.begin(CALLS, 5, "/shop.Mail/Send", at(3), |_| {});
    assert_eq!(hop.detectors.take_correlated().map(|found| found.correlation), Some(SOLE));
    assert_eq!(hop.correlation(7, at(600_001)), SOLE);
}

#[test]
fn traces_that_differ_refute_the_only_open_call() {
    let mut hop = Hop::new();
    hop.inbound(1, at(0), |call| call.traces = trace(1));
    assert_eq!(hop.outbound(1, at(1), |call| call.traces = trace(2)).correlation, Correlation::Ambiguous);
    assert_eq!(hop.outbound(3, at(2), |_| {}).correlation, SOLE);
}

#[test]
fn a_watch_that_is_always_open_is_neither_an_origin_nor_in_the_way() {
    let mut hop = Hop::new();
    hop.begin(SERVED, 1, "/grpc.health.v1.Health/Watch", at(0), |_| {});
    assert_eq!(hop.correlation(1, at(1)), Correlation::None);
    let mut hop = Hop::new();
    hop.begin(SERVED, 1, "/grpc.health.v1.Health/Watch", at(0), |_| {});
    hop.inbound(3, at(1), |_| {});
    let found = hop.outbound(1, at(2), |_| {});
    assert_eq!((found.correlation, found.inbound), (SOLE, inbound(3)));
}

#[test]
fn a_health_check_is_no_origin_and_in_the_way_while_it_is_open() {
    let mut hop = Hop::new();
    hop.inbound(1, at(0), |_| {});
    hop.begin(SERVED, 3, "/grpc.health.v1.Health/Check", at(1), |_| {});
    assert_eq!(hop.correlation(1, at(2)), Correlation::Ambiguous);
    hop.answer(3, at(3));
    assert_eq!(hop.correlation(3, at(4)), SOLE);
    hop.answer(1, at(5));
    hop.begin(SERVED, 5, "/grpc.health.v1.Health/Check", at(6), |_| {});
    assert_eq!(hop.correlation(5, at(7)), Correlation::Ambiguous);
}

#[test]
fn outbound_calls_of_the_infrastructure_are_not_spoken_of() {
    let mut hop = Hop::new();
    hop.inbound(1, at(0), |_| {});
    hop.begin(CALLS, 1, "/grpc.health.v1.Health/Check", at(1), |_| {});
    assert_eq!(hop.detectors.take_correlated(), None);
}

/// Calls that are open together, each read by a thread of its own; the ids of the streams of the last ones.
fn thread_per_call(hop: &mut Hop, calls: u32) {
    for call in 0..calls {
        let stream = 2 * call + 1;
        hop.inbound(stream, at(u64::from(call)), |begun| begun.thread = 100 + call);
    }
}

#[test]
fn the_thread_that_read_the_request_writes_its_outbound_calls() {
    let mut hop = Hop::new();
    thread_per_call(&mut hop, CLEAN_CALLS + 1);
    let found = hop.outbound(1, at(50), |call| call.thread = 105);
    assert_eq!((found.correlation, found.inbound), (THREAD, inbound(11)));
    let found = hop.outbound(3, at(51), |call| call.thread = 99);
    assert_eq!(found.correlation, Correlation::Ambiguous);
}

#[test]
fn threads_are_no_evidence_before_enough_calls_were_open_at_once() {
    let mut hop = Hop::new();
    thread_per_call(&mut hop, CLEAN_CALLS);
    assert_eq!(hop.outbound(1, at(50), |call| call.thread = 105).correlation, Correlation::Ambiguous);
}

#[test]
fn a_thread_that_reads_a_second_request_while_its_first_is_open_ends_all_trust_in_threads() {
    let mut hop = Hop::new();
    thread_per_call(&mut hop, CLEAN_CALLS + 1);
    hop.inbound(1_001, at(60), |call| call.thread = 105);
    for (stream, thread) in [(1, 105), (3, 106)] {
        let found = hop.outbound(stream, at(61), |call| call.thread = thread);
        assert_eq!(found.correlation, Correlation::Ambiguous, "{thread}");
    }
}

#[test]
fn a_thread_is_used_again_after_its_call_has_ended() {
    let mut hop = Hop::new();
    thread_per_call(&mut hop, CLEAN_CALLS + 1);
    hop.answer(11, at(60));
    assert_eq!(hop.outbound(1, at(61), |call| call.thread = 105).correlation, Correlation::Ambiguous);
    hop.inbound(1_001, at(62), |call| call.thread = 105);
    let found = hop.outbound(3, at(63), |call| call.thread = 105);
    assert_eq!((found.correlation, found.inbound), (THREAD, inbound(1_001)));
}

#[test]
fn the_thread_that_counts_is_the_one_that_read_the_end_of_the_request() {
    let mut hop = Hop::new();
    thread_per_call(&mut hop, CLEAN_CALLS + 1);
    hop.inbound(1_001, at(60), |call| call.thread = 7);
    hop.request_ended(1_001, 8, at(61));
    let found = hop.outbound(1, at(62), |call| call.thread = 8);
    assert_eq!((found.correlation, found.inbound), (THREAD, inbound(1_001)));
    assert_eq!(hop.outbound(3, at(63), |call| call.thread = 7).correlation, Correlation::Ambiguous);
}

#[test]
fn a_trace_that_disagrees_ends_all_trust_in_threads() {
    let mut hop = Hop::new();
    thread_per_call(&mut hop, CLEAN_CALLS + 1);
    hop.inbound(1_001, at(60), |call| (call.thread, call.traces) = (7, trace(7)));
    assert_eq!(
        hop.outbound(1, at(61), |call| (call.thread, call.traces) = (105, trace(7))).correlation,
        TRACE
    );
    assert_eq!(hop.outbound(3, at(62), |call| call.thread = 106).correlation, Correlation::Ambiguous);
}

#[test]
fn a_call_that_was_given_up_stays_in_the_way_while_its_handler_may_go_on() {
    let mut hop = Hop::new();
    hop.inbound(1, at(0), |_| {});
    hop.end(SERVED, 1, at(10), &Ends::Cancelled);
    hop.inbound(3, at(20), |_| {});
    assert_eq!(hop.correlation(1, at(21)), Correlation::Ambiguous);
    assert_eq!(hop.correlation(3, at(10_011)), SOLE);
}

#[test]
fn a_call_whose_handler_has_heard_of_its_end_is_not_in_the_way() {
    let mut hop = Hop::new();
    hop.inbound(1, at(0), |_| {});
    assert_eq!(hop.correlation(1, at(1)), SOLE);
    hop.end(SERVED, 1, at(10), &Ends::Cancelled);
    hop.end(CALLS, 1, at(11), &Ends::Cancelled);
    hop.inbound(3, at(20), |_| {});
    let found = hop.outbound(3, at(21), |_| {});
    assert_eq!((found.correlation, found.inbound), (SOLE, inbound(3)));
}

#[test]
fn after_a_call_was_given_up_only_methods_that_were_called_for_others_belong_to_it() {
    let mut hop = Hop::new();
    hop.inbound(1, at(0), |_| {});
    assert_eq!(hop.correlation(1, at(1)), SOLE);
    hop.end(SERVED, 1, at(10), &Ends::Cancelled);
    let found = hop.outbound(3, at(11), |_| {});
    assert_eq!((found.correlation, found.inbound), (SOLE, inbound(1)));
    hop.begin(CALLS, 5, "/shop.Mail/Send", at(12), |_| {});
    assert_eq!(hop.detectors.take_correlated().map(|found| found.correlation), Some(Correlation::Ambiguous));
}

#[test]
fn a_connection_that_was_joined_late_leaves_sole_and_thread_undecided_and_traces_after_a_while_not() {
    let mut hop = Hop::new();
    hop.connect(3, Some(1), Flow::Received, Sync::Late, at(0));
    hop.inbound(1, at(1), |_| {});
    assert_eq!(hop.correlation(1, at(2)), Correlation::Undecided);
    hop.inbound(3, at(3), |call| call.traces = trace(3));
    let with_trace =
        |hop: &mut Hop, stream, time| hop.outbound(stream, time, |call| call.traces = trace(3)).correlation;
    assert_eq!(with_trace(&mut hop, 3, at(4)), Correlation::Undecided);
    assert_eq!(with_trace(&mut hop, 5, at(11_000)), TRACE);
    // A call of which the trace could not be read may be of the same trace.
    hop.begin(3, 1, "/shop.Orders/Place", at(11_001), |_| {});
    assert_eq!(with_trace(&mut hop, 7, at(11_002)), Correlation::Undecided);
    hop.end(3, 1, at(11_003), &Ends::Ok);
    assert_eq!(with_trace(&mut hop, 9, at(11_004)), TRACE);
    hop.answer(3, at(11_005));
    assert_eq!(hop.correlation(11, at(100_000)), Correlation::Undecided);
}

#[test]
fn a_hole_leaves_everything_undecided_until_what_it_hid_is_over() {
    let mut hop = Hop::new();
    hop.inbound(1, at(0), |call| call.traces = trace(1));
    hop.status(SERVED, Flow::Received, Sync::Desynced, at(1));
    assert_eq!(hop.outbound(1, at(2), |call| call.traces = trace(1)).correlation, Correlation::Undecided);
    hop.status(SERVED, Flow::Received, Sync::Synced, at(3));
    assert_eq!(hop.correlation(3, at(4)), Correlation::Undecided);
    assert_eq!(hop.outbound(5, at(10_004), |call| call.traces = trace(1)).correlation, TRACE);
    assert_eq!(hop.correlation(7, at(60_004)), SOLE);
}

#[test]
fn a_client_connection_that_was_joined_late_hides_no_inbound_call() {
    let mut hop = Hop::new();
    hop.connect(3, Some(1), Flow::Sent, Sync::Late, at(0));
    hop.inbound(1, at(1), |_| {});
    assert_eq!(hop.correlation(1, at(2)), SOLE);
}

#[test]
fn without_a_process_nothing_is_known() {
    let mut hop = Hop::new();
    hop.connect(3, None, Flow::Received, Sync::Synced, at(0));
    hop.connect(4, None, Flow::Sent, Sync::Synced, at(0));
    hop.begin(3, 1, "/shop.Orders/Place", at(1), |call| call.traces = trace(1));
    hop.begin(4, 1, "/shop.Stock/Reserve", at(2), |call| call.traces = trace(1));
    let found = hop.detectors.take_correlated().map(|found| found.correlation);
    assert_eq!(found, Some(Correlation::Undecided));
}

#[test]
fn a_call_that_is_told_of_long_after_it_began_is_not_linked_to_what_is_open_now() {
    let mut hop = Hop::new();
    hop.inbound(1, at(1_000), |_| {});
    assert_eq!(hop.correlation(1, at(1_001)), SOLE);
    assert_eq!(hop.correlation(3, at(500)), Correlation::Undecided);
    // Records of two processors may come in the other order.
    assert_eq!(hop.correlation(5, at(1_000)), SOLE);
}

#[test]
fn calls_beyond_the_bound_are_counted_and_leave_the_rest_undecided() {
    let mut hop = Hop::new();
    for call in 0..16_385 {
        hop.inbound(2 * call + 1, at(0), |_| {});
    }
    assert_eq!(hop.detectors.forgotten(), 1);
    for call in 0..16_383 {
        hop.answer(2 * call + 1, at(1));
    }
    assert_eq!(hop.correlation(1, at(2)), Correlation::Undecided);
    hop.answer(2 * 16_384 + 1, at(3));
    assert_eq!(hop.correlation(3, at(4)), SOLE);
}

#[test]
fn calls_that_were_given_up_are_remembered_up_to_a_bound() {
    let mut hop = Hop::new();
    for call in 0..1_025 {
        hop.inbound(2 * call + 1, at(0), |begun| begun.traces = trace(u64::from(call)));
        hop.end(SERVED, 2 * call + 1, at(1), &Ends::Cancelled);
    }
    assert_eq!(hop.detectors.forgotten(), 1);
    let mut link = |stream, id| hop.outbound(stream, at(2), |call| call.traces = trace(id)).inbound;
    assert_eq!((link(1, 0), link(3, 1)), (None, inbound(3)));
}

#[test]
fn a_connection_that_goes_takes_its_calls_along() {
    let mut hop = Hop::new();
    hop.connect(3, Some(1), Flow::Received, Sync::Late, at(0));
    hop.begin(3, 1, "/shop.Orders/Place", at(1), |_| {});
    hop.inbound(1, at(2), |_| {});
    hop.detectors.forget(ConnectionId(3));
    assert_eq!(hop.correlation(1, at(60_001)), SOLE);
}

proptest! {
    /// Whatever happens, a link goes to a call of the same process that began before.
    #[test]
    fn links_never_go_to_another_process(steps in prop::collection::vec((0u8..5, 0u64..3, 0u32..6, 0u64..4), 1..300)) {
        let mut hop = Hop::new();
        for process in 0..3 {
            hop.connect(10 + process, Some(10 + process), Flow::Received, Sync::Synced, at(0));
            hop.connect(20 + process, Some(10 + process), Flow::Sent, Sync::Synced, at(0));
        }
        let mut begun = std::collections::BTreeSet::new();
        let mut stream = 1;
        for (time, (what, process, thread, id)) in steps.into_iter().enumerate() {
            let (time, (served, calls)) = (at(time as u64 * 7), (10 + process, 20 + process));
            stream += 2;
            let of = |call: &mut crate::observation::CallStarted| {
                call.thread = thread;
                call.traces = if id == 0 { Traces::default() } else { trace(id) };
            };
            match what {
                0 => {
                    hop.begin(served, stream, "/shop.Orders/Place", time, of);
                    begun.insert((ConnectionId(served), stream));
                }
                1 => {
                    let open = begun.iter().find(|(connection, _)| connection.0 == served).copied();
                    if let Some((_, stream)) = open {
                        let how = if id == 0 { Ends::Cancelled } else { Ends::Ok };
                        hop.end(served, stream, time, &how);
                    }
                }
                2 => hop.tick(time),
                3 => hop.end(calls, stream.saturating_sub(4), time, &Ends::Ok),
                _ => {
                    hop.begin(calls, stream, "/shop.Stock/Reserve", time, of);
                    let found = hop.detectors.take_correlated().expect("said of each call");
                    prop_assert_eq!(found.inbound.is_some(), matches!(found.correlation, Correlation::Linked(_)));
                    if let Some(inbound) = found.inbound {
                        prop_assert_eq!(inbound.0, ConnectionId(served));
                        prop_assert!(begun.contains(&inbound));
                    }
                }
            }
        }
    }
}
