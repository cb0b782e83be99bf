//! DATA that the capturing side leaves out on purpose: what is said of calls stays right, and what cannot be known is not said.

mod support;

use agent_core::observation::{Call, Messages, Observation, OpenCall, Outcome, Stall, StatusSource};
use agent_core::{ConnectionId, Flow, Observer, Timestamp};
use proptest::prelude::*;
use support::*;

const CONNECTION: ConnectionId = ConnectionId(1);
const INITIAL_WINDOW_SIZE: u16 = 4;

fn sheds(scenario: &mut Scenario, leaves_out: bool) -> &mut Scenario {
    scenario.observer.leave_out_data(leaves_out, scenario.now);
    scenario
}

/// As many octets of a flow were left out, and that is owned up to.
fn leave_out(scenario: &mut Scenario, flow: Flow, bytes: usize) {
    scenario.lose(flow, bytes as u64);
    let offset = scenario.offsets[usize::from(flow == Flow::Received)];
    scenario.observer.handle_left_out(CONNECTION, flow, offset, scenario.now);
}

fn open_calls(observer: &Observer) -> Vec<OpenCall> {
    let mut open = Vec::new();
    observer.visit_open_calls(|call| open.push(call.clone()));
    open
}

fn stalls(scenario: &Scenario) -> Vec<Stall> {
    let stall = |fact: &Observation| match fact {
        Observation::Stalled(stall) => Some((**stall).clone()),
        _ => None,
    };
    scenario.seen.iter().filter_map(stall).collect()
}

/// A server-streaming call on stream 1 that has begun.
fn streaming() -> Scenario {
    let mut scenario = Scenario::connected();
    scenario.send(CLIENT, &[request(1, "/a.B/Watch"), data(1, END_STREAM, &message(7))].concat());
    scenario.wait(5).send(SERVER, &response(1));
    scenario.send(SERVER, &data(1, 0, &message(100)));
    scenario
}

#[test]
fn a_call_whose_data_was_left_out_has_its_status_and_times_and_no_messages() {
    let mut scenario = streaming();
    sheds(&mut scenario, true);
    let began = scenario.now.0 - 5_000_000;
    for _ in 0..50 {
        leave_out(scenario.wait(10), SERVER, 9 + 5 + 16_000);
        leave_out(&mut scenario, CLIENT, 13);
    }
    scenario.wait(10).send(SERVER, &trailers(1, "0")).wait(200);
    let call = scenario.only_call();
    assert_eq!(
        (call.outcome, call.status, call.status_source),
        (Outcome::Ok, Some(0), StatusSource::Trailer)
    );
    assert_eq!(call.started, Some(Timestamp(began)));
    assert_eq!(call.ended.map(|ended| ended.0), Some(began + 515_000_000));
    assert_eq!(call.request, Messages { count: 1, bytes: 7, exact: true }, "it had ended before");
    assert!(!call.response.exact);
    // Nothing was lost, and the header tables are what they were.
    scenario.send(CLIENT, &[request(3, "/a.B/Watch"), data(3, END_STREAM, &[])].concat());
    scenario.send(SERVER, &trailers_only(3, "5")).wait(200);
    assert_eq!(scenario.calls()[1].status, Some(5));
    assert!(scenario.anomalies().is_empty(), "{:?}", scenario.anomalies());
    assert_eq!(scenario.finish().summary().flows.map(|flow| flow.desyncs), [0, 0]);
}

/// A record may begin inside of a frame whose header was left out, or of one whose header was seen.
#[test]
fn what_was_left_out_may_end_or_begin_inside_of_a_frame() {
    let mut scenario = streaming();
    sheds(&mut scenario, true);
    let last = data(1, 0, &[7; 400]);
    scenario.send(SERVER, &last[..109]);
    // The rest of that frame, a whole one, and the beginning of a third.
    leave_out(&mut scenario, SERVER, 300 + 500 + 20);
    leave_out(&mut scenario, SERVER, 30);
    scenario.send(SERVER, &trailers(1, "0")).wait(200);
    assert_eq!(scenario.only_call().status, Some(0));
    assert_eq!(scenario.finish().summary().flows[1].desyncs, 0);
}

#[test]
fn data_that_ends_a_stream_ends_its_request() {
    let mut scenario = Scenario::connected();
    sheds(&mut scenario, true);
    scenario.send(CLIENT, &request(1, "/a.B/Upload")).send(SERVER, &response(1));
    leave_out(scenario.wait(5), CLIENT, 70_000);
    let last = data(1, END_STREAM, &[7; 20]);
    scenario.send_at_boundary(CLIENT, &last[..9]).lose(CLIENT, 20).send(CLIENT, &[]);
    let open = open_calls(&scenario.observer);
    assert_eq!(open[0].client_ended, Some(scenario.now));
    assert!(!open[0].request.exact);
    scenario.send(SERVER, &trailers(1, "0")).wait(200);
    assert!(!scenario.only_call().request.exact);
    assert!(scenario.anomalies().is_empty());
}

#[test]
fn windows_are_unknown_for_good_but_for_streams_that_begin_when_it_is_over() {
    let mut scenario = streaming();
    scenario.observer.trace_frames(true);
    let last = |scenario: &Scenario| {
        scenario
            .frames()
            .iter()
            .rev()
            .find_map(|frame| frame.windows)
            .map(|seen| (seen.connection, seen.stream))
    };
    scenario.send(CLIENT, &window_update(1, 10));
    assert_eq!(last(&scenario), Some((Some(65_430), Some(65_440))));
    sheds(&mut scenario, true);
    scenario.send(CLIENT, &window_update(1, 10));
    assert_eq!(last(&scenario), Some((None, None)));
    leave_out(&mut scenario, SERVER, 1_000);
    scenario.send(CLIENT, &settings_with(&[(INITIAL_WINDOW_SIZE, 200)]));
    sheds(&mut scenario, false);
    scenario.send(CLIENT, &request(3, "/a.B/Watch")).send(CLIENT, &window_update(3, 1));
    assert_eq!(last(&scenario), Some((None, None)), "the capturing side may linger");
    scenario.wait(1_000).send(CLIENT, &request(5, "/a.B/Watch")).send(CLIENT, &window_update(5, 1));
    assert_eq!(last(&scenario), Some((None, Some(201))));
    scenario.send(CLIENT, &window_update(1, 1));
    assert_eq!(last(&scenario), Some((None, None)));
}

#[test]
fn no_stall_is_told_from_windows_whose_data_was_left_out() {
    let mut scenario = streaming();
    scenario.send(CLIENT, &settings_with(&[(INITIAL_WINDOW_SIZE, 200)])).send(SERVER, &frame(4, 1, 0, &[]));
    // Inside of a message, with nothing left: a stall.
    scenario.send(SERVER, &data(1, 0, &message(1_000)[..95]));
    let mut open = 0;
    scenario.observer.visit_open_stalls(|_| open += 1);
    assert_eq!(open, 1);
    sheds(&mut scenario, true);
    scenario.observer.visit_open_stalls(|_| panic!("it may be over"));
    scenario.wait(60_000).send(CLIENT, &window_update(1, 5_000));
    scenario.send(SERVER, &data(1, 0, &[])[..9]).send(SERVER, &trailers(1, "0")).wait(200);
    assert_eq!(stalls(&scenario), []);
    assert_eq!(scenario.anomalies(), ["stall_end_unknown"]);
}

#[test]
fn that_a_call_is_silent_is_known_only_from_when_it_is_over() {
    let mut scenario = streaming();
    assert_eq!(open_calls(&scenario.observer)[0].left_out_until, None);
    sheds(&mut scenario, true);
    assert_eq!(open_calls(&scenario.observer)[0].left_out_until, Some(Timestamp(u64::MAX)));
    scenario.wait(5_000);
    sheds(&mut scenario, false);
    let until = scenario.now.plus(1_000_000_000);
    scenario.wait(5_000).send(CLIENT, &request(3, "/a.B/Watch"));
    let of = open_calls(&scenario.observer).iter().map(|call| call.left_out_until).collect::<Vec<_>>();
    assert_eq!(of, [Some(until), None]);
}

/// More would be said of it than was seen: how much its server went on to send.
#[test]
fn nothing_is_said_of_work_after_the_end_that_was_not_all_seen() {
    for begins_first in [true, false] {
        let mut scenario = streaming();
        if begins_first {
            sheds(&mut scenario, true);
        }
        scenario.wait(1).send(CLIENT, &rst_stream(1, 8)).wait(200);
        scenario.send(SERVER, &data(1, 0, &message(50)));
        sheds(&mut scenario, true);
        leave_out(scenario.wait(10), SERVER, 1_000);
        scenario.send(SERVER, &trailers(1, "1")).wait(2_000).finish();
        assert_eq!(scenario.only_call().rst_code, Some(8));
        assert!(!scenario.seen.iter().any(|fact| matches!(fact, Observation::LateWork(_))));
    }
}

/// A flow's last calls may have been left out before it was over, and are owned up to long after.
#[test]
fn what_is_owned_up_to_late_takes_the_messages_of_the_streams_that_are_open() {
    let mut scenario = streaming();
    scenario.wait(60_000);
    leave_out(&mut scenario, SERVER, 500);
    scenario.send(SERVER, &data(1, 0, &message(100))).send(SERVER, &trailers(1, "0")).wait(200);
    assert!(!scenario.only_call().response.exact);
    assert_eq!(scenario.finish().summary().flows[1].send_window, None);
}

#[test]
fn a_hole_where_no_data_can_have_been_is_a_loss() {
    let mut scenario = streaming();
    sheds(&mut scenario, true);
    scenario.send(SERVER, &trailers(1, "0")[..12]);
    leave_out(&mut scenario, SERVER, 1_000);
    scenario.send_at_boundary(SERVER, &data(1, 0, &[])).wait(61_000);
    assert_eq!(scenario.only_call().outcome, Outcome::Unknown);
    assert_eq!(scenario.finish().summary().flows[1].desyncs, 1);
    // Nor is anything made of a connection that is not followed.
    scenario.observer.handle_left_out(ConnectionId(9), SERVER, 7, Timestamp(1));
}

/// What one socket call moves: frames, and whether they need not be told.
type Moved = (Flow, Vec<(Vec<u8>, bool)>);

/// What is done to a stream.
#[derive(Clone, Debug)]
enum Step {
    Open { and_end: bool, size: usize },
    FromClient { ends: bool, size: usize },
    Respond,
    FromServer { size: usize },
    Finish { status: u32 },
    Reset,
    Credit { flow: Flow, of_stream: bool, bytes: u32 },
    Initial { flow: Flow, bytes: u32 },
}

fn steps() -> impl Strategy<Value = (u32, Step, u64)> {
    let flow = || prop_oneof![Just(CLIENT), Just(SERVER)];
    let step = prop_oneof![
        3 => (any::<bool>(), 0..300usize).prop_map(|(and_end, size)| Step::Open { and_end, size }),
        2 => (any::<bool>(), 0..300usize).prop_map(|(ends, size)| Step::FromClient { ends, size }),
        3 => Just(Step::Respond),
        6 => (0..300usize).prop_map(|size| Step::FromServer { size }),
        2 => (0..17u32).prop_map(|status| Step::Finish { status }),
        1 => Just(Step::Reset),
        3 => (flow(), any::<bool>(), 1..400u32)
            .prop_map(|(flow, of_stream, bytes)| Step::Credit { flow, of_stream, bytes }),
        1 => (flow(), 50..500u32).prop_map(|(flow, bytes)| Step::Initial { flow, bytes }),
    ];
    (0..4u32, step, 0..400u64)
}

/// A conversation of which four streams are open at most: the calls that make it, each with the time before it.
fn conversation(steps: &[(u32, Step, u64)]) -> Vec<(Moved, u64)> {
    // By place: stream, the client has ended it, the server has begun to respond.
    let mut streams = [None::<(u32, bool, bool)>; 4];
    let mut next = 1;
    let mut all = Vec::new();
    for (place, step, ms) in steps {
        let stream = &mut streams[*place as usize];
        let mut frames = Vec::new();
        let flow = match (step, *stream) {
            (Step::Open { and_end, size }, None) => {
                frames.push((request(next, "/a.B/C"), false));
                if *and_end {
                    frames.push((data(next, END_STREAM, &message(*size)), false));
                }
                *stream = Some((next, *and_end, false));
                next += 2;
                CLIENT
            }
            (Step::FromClient { ends, size }, Some((id, false, begun))) => {
                let flags = if *ends { END_STREAM } else { 0 };
                frames.push((data(id, flags, &message(*size)), !ends));
                *stream = Some((id, *ends, begun));
                CLIENT
            }
            (Step::Respond, Some((id, ended, false))) => {
                frames.push((response(id), false));
                *stream = Some((id, ended, true));
                SERVER
            }
            (Step::FromServer { size }, Some((id, _, true))) => {
                // A message in two frames, now and then.
                let whole = message(*size);
                let (first, second) = whole.split_at(if size % 3 == 0 { whole.len() / 2 } else { 0 });
                frames.push((data(id, 0, first), true));
                frames.push((data(id, 0, second), true));
                SERVER
            }
            (Step::Finish { status }, Some((id, _, begun))) => {
                let status = status.to_string();
                frames.push((if begun { trailers(id, &status) } else { trailers_only(id, &status) }, false));
                *stream = None;
                SERVER
            }
            (Step::Reset, Some((id, _, _))) => {
                frames.push((rst_stream(id, 8), false));
                *stream = None;
                CLIENT
            }
            (Step::Credit { flow, of_stream, bytes }, Some((id, _, _))) => {
                frames.push((window_update(if *of_stream { id } else { 0 }, *bytes), true));
                *flow
            }
            (Step::Initial { flow, bytes }, _) => {
                frames.push((settings_with(&[(INITIAL_WINDOW_SIZE, *bytes)]), false));
                *flow
            }
            _ => continue,
        };
        all.push(((flow, frames), *ms));
    }
    all
}

/// Plays a call as the kernel side tells of it when it sheds: DATA is its header, and calls of which nothing has to be told are
/// nothing at all, owned up to with the next one.
fn send_shedding(scenario: &mut Scenario, (flow, frames): &Moved, pending: &mut [bool; 2]) {
    let pending = &mut pending[usize::from(*flow == SERVER)];
    if frames.iter().all(|(_, is_plain)| *is_plain) {
        *pending = true;
        scenario.lose(*flow, frames.iter().map(|(bytes, _)| bytes.len() as u64).sum());
        return;
    }
    if std::mem::take(pending) {
        leave_out(scenario, *flow, 0);
    }
    for (bytes, _) in frames {
        let kept = if bytes[3] == 0 { 9 } else { bytes.len() };
        scenario.send_at_boundary(*flow, &bytes[..kept]).lose(*flow, (bytes.len() - kept) as u64);
    }
    scenario.send(*flow, &[]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Beside an observer that sees everything: the same calls with the same ends and times; messages, windows and stalls are those
    /// or none.
    #[test]
    fn whatever_is_left_out_nothing_that_is_said_is_wrong(
        steps in prop::collection::vec(steps(), 1..120),
        from in 0..60usize,
        lasts in 0..60usize,
        lingers in 0..4usize,
    ) {
        let (mut whole, mut shed) = (Scenario::connected(), Scenario::connected());
        let mut pending = [false; 2];
        for (at, (moved, ms)) in conversation(&steps).iter().enumerate() {
            whole.wait(*ms);
            shed.wait(*ms);
            if at == from {
                sheds(&mut shed, true);
            } else if at == from + lasts {
                sheds(&mut shed, false);
            }
            let (flow, frames) = moved;
            let bytes: Vec<u8> = frames.iter().flat_map(|(bytes, _)| bytes).copied().collect();
            whole.send(*flow, &bytes);
            // The kernel side may go on for a moment, within which no stream is known to be whole.
            let sheds_now = (from..from + lasts).contains(&at)
                || (lasts > 0 && (from + lasts..from + lasts + lingers).contains(&at) && *ms < 200);
            if sheds_now {
                send_shedding(&mut shed, moved, &mut pending);
            } else {
                if std::mem::take(&mut pending[usize::from(*flow == SERVER)]) {
                    leave_out(&mut shed, *flow, 0);
                }
                shed.send(*flow, &bytes);
            }
        }
        for scenario in [&mut whole, &mut shed] {
            scenario.wait(2_000).finish();
        }
        let (all, told) = (whole.calls(), shed.calls());
        prop_assert_eq!(all.len(), told.len());
        for (call, told) in all.iter().zip(&told) {
            let ends = |call: &Call| {
                let Call { stream, outcome, status, status_source, ended_by, rst_code, .. } = *call;
                let times = (call.started, call.first_response, call.ended);
                (stream, outcome, status, status_source, ended_by, rst_code, times, call.method.clone(), call.timeout)
            };
            prop_assert_eq!(ends(call), ends(told));
            for (of_all, of_told) in [(call.request, told.request), (call.response, told.response)] {
                prop_assert!(!of_told.exact || of_all == of_told, "{:?} and {:?}", of_all, of_told);
                prop_assert!(of_told.count <= of_all.count && of_told.bytes <= of_all.bytes);
            }
        }
        let (all, told) = (whole.summary(), shed.summary());
        for (of_all, of_told) in all.flows.iter().zip(&told.flows) {
            prop_assert!(of_told.send_window.is_none() || of_told.send_window == of_all.send_window);
            prop_assert_eq!(of_told.desyncs, 0);
        }
        let in_all = stalls(&whole);
        for stall in stalls(&shed) {
            let same = |other: &Stall| {
                (other.flow, other.window, other.stream, other.from, other.until)
                    == (stall.flow, stall.window, stall.stream, stall.from, stall.until)
            };
            prop_assert!(in_all.iter().any(same), "{:?} is not among {:?}", stall, in_all);
        }
    }
}
