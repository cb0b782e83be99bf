use super::*;
use crate::truth::Outcome;

const SECOND: u64 = 1_000_000_000;

fn made(method: &str, code: u32) -> ClientCall {
    ClientCall {
        side: "client".into(),
        id: 1,
        method: format!("/{SERVICE}/{method}"),
        call_type: CallType::Unary,
        timeout_ns: None,
        code,
        outcome: Outcome::of(code),
        sent_msgs: 1,
        sent_bytes: 10,
        recv_msgs: u64::from(code == 0),
        recv_bytes: if code == 0 { 10 } else { 0 },
        t0_ns: 100 * SECOND,
        t1_ns: 101 * SECOND,
        cancelled_by_client: false,
    }
}

fn seen(method: &str) -> Call {
    Call {
        conn: 0,
        stream: 1,
        side: "client".into(),
        method: Some(format!("/{SERVICE}/{method}")),
        call_type: "unary".into(),
        timeout_ns: None,
        start_ns: 100 * SECOND + 1,
        duration_ns: Some(SECOND / 2),
        outcome: "ok".into(),
        status: Some(0),
        status_source: "trailer".into(),
        ended_by: Some("server".into()),
        rst_code: None,
        request_messages: 1,
        response_messages: 1,
        request_bytes: 10,
        response_bytes: 10,
        messages_exact: true,
        pid: None,
        service: None,
    }
}

fn handled(sent: u64) -> ServerCall {
    ServerCall {
        side: "server".into(),
        id: 1,
        method: String::new(),
        code: Some(0),
        recv_msgs: 1,
        recv_bytes: 10,
        sent_msgs: sent,
        sent_bytes: sent * 10,
        cancelled: false,
    }
}

fn run(truths: &[Truth], calls: &[Call]) -> Comparison {
    compare(truths, calls, Joined::FromTheStart)
}

fn truth(made: ClientCall) -> Truth {
    Truth { made, handled: Some(handled(1)) }
}

#[test]
fn a_call_that_was_seen_as_it_was_made_fits() {
    let result = run(&[truth(made("Unary", 0))], &[seen("Unary")]);
    assert_eq!((result.matched, result.missing.len(), result.invented.len()), (1, 0, 0));
    result.check("one call").unwrap();
}

#[test]
fn every_wrong_field_is_a_difference() {
    type Change = fn(&mut Call);
    let changes: [(&str, Change); 11] = [
        ("method", |call| call.method = Some("/other/M".into())),
        ("no method", |call| call.method = None),
        ("outcome", |call| call.outcome = "error".into()),
        ("status", |call| call.status = Some(2)),
        ("source", |call| call.status_source = "rst".into()),
        ("timeout", |call| call.timeout_ns = Some(SECOND)),
        ("requests", |call| call.request_messages = 2),
        ("bytes", |call| call.response_bytes = 11),
        ("type", |call| call.call_type = "bidi".into()),
        ("early", |call| call.start_ns = 99 * SECOND),
        ("late", |call| call.duration_ns = Some(2 * SECOND)),
    ];
    for (what, change) in changes {
        let mut call = seen("Unary");
        change(&mut call);
        let result = run(&[truth(made("Unary", 0))], &[call]);
        assert_eq!((result.missing.len(), result.invented.len()), (1, 1), "{what}");
    }
}

#[test]
fn a_call_seen_twice_and_a_call_not_seen_are_differences() {
    let result = run(&[truth(made("Unary", 0))], &[seen("Unary"), seen("Unary")]);
    assert_eq!((result.missing.len(), result.invented.len()), (0, 1));
    let result = run(&[truth(made("Unary", 0))], &[]);
    assert_eq!((result.missing.len(), result.invented.len()), (1, 0));
    assert!(result.check("one call").unwrap_err().to_string().contains("not seen"));
}

#[test]
fn the_matching_finds_the_only_assignment_whatever_the_order() {
    // The first call could be either of the observed ones, the second only the first of them.
    let mut wide = made("Unary", 0);
    wide.t1_ns += 10 * SECOND;
    let mut later = seen("Unary");
    later.start_ns += 5 * SECOND;
    let truths = [truth(wide), truth(made("Unary", 0))];
    for calls in [[seen("Unary"), later.clone()], [later.clone(), seen("Unary")]] {
        run(&truths, &calls).check("two calls").unwrap();
    }
}

#[test]
fn a_call_given_up_before_its_server_saw_it_may_be_missing_and_only_then() {
    let mut slow = made("Slow", 4);
    slow.timeout_ns = Some(50_000_000);
    let unseen = Truth { made: slow.clone(), handled: None };
    let result = run(&[unseen], &[]);
    assert_eq!((result.never_sent, result.missing.len()), (1, 0));
    let result = run(&[truth(slow)], &[]);
    assert_eq!((result.never_sent, result.missing.len()), (0, 1));
}

#[test]
fn a_deadline_is_not_a_cancel_except_where_less_than_it_has_passed_on_the_wire() {
    let mut slow = made("Slow", 4);
    slow.timeout_ns = Some(50_000_000);
    let truths = [truth(slow)];
    let mut call = seen("Slow");
    call.timeout_ns = Some(50_000_000);
    call.outcome = "cancelled".into();
    call.call_type = "unknown".into();
    call.status = None;
    call.response_messages = 0;
    call.response_bytes = 0;
    call.duration_ns = Some(45_000_000);
    let missing = |call: &Call| run(&truths, std::slice::from_ref(call)).missing.len();
    assert_eq!(missing(&call), 0);
    call.duration_ns = Some(49_500_000);
    assert_eq!(missing(&call), 1);
    call.duration_ns = Some(51_000_000);
    assert_eq!(missing(&call), 1);
    call.outcome = "deadline".into();
    assert_eq!(missing(&call), 0);
}

#[test]
fn unknown_fits_only_the_late_and_wrong_fits_nobody() {
    let truths = [truth(made("Unary", 0))];
    let mut call = seen("Unary");
    call.method = None;
    call.status = None;
    call.status_source = "unknown".into();
    call.outcome = "unknown".into();
    let missing = |call: &Call, joined| compare(&truths, std::slice::from_ref(call), joined).missing.len();
    assert_eq!(missing(&call, Joined::FromTheStart), 1);
    assert_eq!(missing(&call, Joined::Late), 0);
    call.status = Some(13);
    assert_eq!(missing(&call, Joined::Late), 1);
}

#[test]
fn what_was_lost_of_a_call_is_unknown_only_where_the_observer_says_so() {
    let truths = [truth(made("Unary", 0))];
    let missing = |call: &Call| compare(&truths, std::slice::from_ref(call), Joined::Late).missing.len();
    let mut call = seen("Unary");
    call.response_bytes = 3;
    assert_eq!(missing(&call), 1, "inexact, and said to be exact");
    call.messages_exact = false;
    assert_eq!(missing(&call), 0);
    call.duration_ns = None;
    assert_eq!(missing(&call), 0, "its beginning may be lost");
    let from_the_start = compare(&truths, std::slice::from_ref(&call), Joined::FromTheStart);
    assert_eq!(from_the_start.missing.len(), 1);
}

/// A server stood still for two seconds inside of its send, after the client had its answer (emulated 6.12, one processor not run).
#[test]
fn a_call_that_is_seen_to_end_late_fits_only_where_the_machine_stood_still_for_as_long() {
    let truths = [truth(made("Unary", 0))];
    let mut call = seen("Unary");
    call.duration_ns = Some(3 * SECOND);
    let missing =
        |slack_ns| compare_within(&truths, &[call.clone()], Joined::FromTheStart, slack_ns).missing.len();
    assert_eq!((missing(CLOCK_SLACK_NS), missing(SECOND), missing(2 * SECOND + 1)), (1, 1, 0));
}

#[test]
fn an_error_after_messages_counts_those_that_the_server_sent() {
    let mut call = made("FailAfter", 13);
    call.call_type = CallType::ServerStream;
    call.recv_msgs = 1;
    let truths = [Truth { made: call, handled: Some(handled(3)) }];
    let mut observed = seen("FailAfter");
    observed.call_type = "server_stream".into();
    observed.outcome = "error".into();
    observed.status = Some(13);
    observed.response_messages = 3;
    observed.response_bytes = 30;
    run(&truths, std::slice::from_ref(&observed)).check("one call").unwrap();
    observed.response_messages = 2;
    assert_eq!(run(&truths, &[observed]).missing.len(), 1);
}
