//! Which attempts are judged, and by what.

use super::super::synthetic::{Scene, ms, s};
use super::*;
use crate::observation::{Observation, Traces};

const RESERVE: &str = "/shop.Inventory/Reserve";

/// An attempt of one process.
#[derive(Clone)]
struct Attempt {
    connection: u64,
    stream: u32,
    previous: Option<u32>,
    status: u32,
    pushback: Option<RetryPushback>,
    trace: Option<u64>,
    started: Timestamp,
    ended: Timestamp,
}

fn attempt(stream: u32, previous: u32, status: u32, started: Timestamp, ended: Timestamp) -> Attempt {
    let previous = (previous > 0).then_some(previous);
    Attempt { connection: 1, stream, previous, status, pushback: None, trace: None, started, ended }
}

fn play(scene: &mut Scene, attempts: &[Attempt]) -> Vec<String> {
    for attempt in attempts {
        let mut started = scene.started(attempt.stream, RESERVE, attempt.started);
        started.connection = ConnectionId(attempt.connection);
        started.previous_attempts = attempt.previous;
        started.traces = Traces { trace: attempt.trace.map(TraceHash), request: None };
        let traces = started.traces;
        scene.observe(&Observation::CallStarted(started));
        let mut call = scene.call(attempt.stream, RESERVE, attempt.started, attempt.ended);
        call.connection = ConnectionId(attempt.connection);
        call.traces = traces;
        call.previous_attempts = attempt.previous;
        call.status = Some(attempt.status);
        call.outcome = if attempt.status == 0 { Outcome::Ok } else { Outcome::Error };
        call.retry_pushback = attempt.pushback;
        scene.observe(&Observation::CallEnded(Box::new(call)));
    }
    let last = attempts.iter().map(|attempt| attempt.ended).max().unwrap_or_default();
    scene.tick(last.plus(REPORTED_NS));
    scene.said()
}

fn pushback(pushback: RetryPushback, wait_ms: u64) -> Vec<String> {
    let first = Attempt { pushback: Some(pushback), ..attempt(1, 0, 14, s(1), s(2)) };
    let retried = s(2).plus(ms(wait_ms));
    play(&mut Scene::client(), &[first, attempt(3, 1, 0, retried, retried)])
}

#[test]
fn a_retry_after_a_status_that_retrying_cannot_change_is_found() {
    for status in [3, 5, 6, 7, 9, 16] {
        let attempts = [attempt(1, 0, status, s(1), s(2)), attempt(3, 1, 0, s(2).plus(ms(50)), s(3))];
        let said = play(&mut Scene::client(), &attempts);
        let cause = not_retryable(status).expect("a status of the list");
        assert_eq!(said, [format!("firing retry_not_retryable {cause}")]);
    }
    let claim = Claim::NotRetryable { status: 5, previous_attempts: 1, after_ns: ms(50) };
    let said = "was tried again 50.000 ms after NOT_FOUND, which trying again cannot change";
    assert_eq!(claim.to_string(), said);
}

#[test]
fn every_attempt_of_a_chain_is_judged_by_the_one_before_it() {
    let attempts = [
        attempt(1, 0, 14, s(1), s(2)),
        attempt(3, 1, 5, s(3), s(4)),
        attempt(5, 2, 5, s(5), s(6)),
        attempt(7, 3, 0, s(7), s(8)),
    ];
    let found = "firing retry_not_retryable not_found";
    assert_eq!(play(&mut Scene::client(), &attempts), [found, found]);
}

#[test]
fn a_retry_after_unavailable_and_a_new_call_after_not_found_are_no_finding() {
    let attempts = [
        attempt(1, 0, 14, s(1), s(2)),
        attempt(3, 1, 0, s(3), s(4)),
        attempt(5, 0, 5, s(5), s(6)),
        attempt(7, 0, 5, s(6), s(7)),
    ];
    assert!(play(&mut Scene::client(), &attempts).is_empty());
}

#[test]
fn where_two_attempts_fit_that_differ_it_is_undecided() {
    let attempts =
        [attempt(1, 0, 14, s(1), s(2)), attempt(3, 0, 5, s(1), s(2)), attempt(5, 1, 0, s(3), s(4))];
    assert_eq!(play(&mut Scene::client(), &attempts), ["undecided retry_not_retryable not_found"]);
}

#[test]
fn what_is_left_open_has_the_numbers_of_the_attempt_that_would_make_it_true() {
    let attempts =
        [attempt(1, 0, 5, s(1), s(2)), attempt(3, 0, 14, s(1), s(2)), attempt(5, 1, 0, s(3), s(4))];
    assert_eq!(play(&mut Scene::client(), &attempts), ["undecided retry_not_retryable not_found"]);
}

#[test]
fn where_all_that_fit_say_the_same_it_does_not_matter_which_it_was() {
    let attempts = [attempt(1, 0, 5, s(1), s(2)), attempt(3, 0, 5, s(1), s(2)), attempt(5, 1, 0, s(3), s(4))];
    assert_eq!(play(&mut Scene::client(), &attempts), ["firing retry_not_retryable not_found"]);
}

#[test]
fn the_trace_tells_which_attempt_it_was() {
    let traced = |trace, attempt: Attempt| Attempt { trace: Some(trace), ..attempt };
    let attempts = [
        traced(1, attempt(1, 0, 14, s(1), s(2))),
        traced(2, attempt(3, 0, 5, s(1), s(2))),
        traced(1, attempt(5, 1, 0, s(3), s(4))),
    ];
    assert!(play(&mut Scene::client(), &attempts).is_empty());
    let attempts = [attempts[0].clone(), attempts[1].clone(), traced(2, attempt(5, 1, 0, s(3), s(4)))];
    assert_eq!(play(&mut Scene::client(), &attempts), ["firing retry_not_retryable not_found"]);
}

#[test]
fn a_server_claims_only_what_the_trace_proves() {
    let attempts = [attempt(1, 0, 5, s(1), s(2)), attempt(3, 1, 0, s(3), s(4))];
    assert_eq!(play(&mut Scene::server(), &attempts), ["undecided retry_not_retryable not_found"]);
    let attempts = attempts.map(|attempt| Attempt { trace: Some(9), ..attempt });
    assert_eq!(play(&mut Scene::server(), &attempts), ["firing retry_not_retryable not_found"]);
}

#[test]
fn a_server_knows_nothing_of_attempts_on_other_connections_without_a_trace() {
    let mut scene = Scene::server();
    scene.connect(2);
    let mut retry = attempt(3, 1, 0, s(3), s(4));
    retry.connection = 2;
    assert!(play(&mut scene, &[attempt(1, 0, 5, s(1), s(2)), retry]).is_empty());
}

#[test]
fn pushback_that_is_ignored_is_found_and_a_timer_that_is_a_little_early_is_not() {
    let early = ["firing retry_pushback_ignored too_early"];
    assert_eq!(pushback(RetryPushback::AfterMs(1_000), 100), early);
    assert_eq!(pushback(RetryPushback::AfterMs(1_000), 994), early);
    assert!(pushback(RetryPushback::AfterMs(1_000), 995).is_empty());
    assert_eq!(pushback(RetryPushback::DoNotRetry, 60_000), ["firing retry_pushback_ignored do_not_retry"]);
}

#[test]
fn after_a_late_join_or_a_hole_another_attempt_may_have_been_missed() {
    for sync in [Sync::Late, Sync::Desynced] {
        let mut scene = Scene::client();
        scene.status(sync, s(1));
        let attempts = [attempt(1, 0, 5, s(1), s(2)), attempt(3, 1, 0, s(3), s(4))];
        let said = play(&mut scene, &attempts);
        assert_eq!(said, ["undecided retry_not_retryable not_found"], "{sync:?}");
    }
}

#[test]
fn a_hedge_that_its_client_gave_up_may_not_have_followed_the_failure() {
    let mut scene = Scene::client();
    let mut hedge = scene.call(3, RESERVE, s(3), s(4));
    (hedge.previous_attempts, hedge.outcome) = (Some(1), Outcome::Cancelled);
    assert!(play(&mut scene, &[attempt(1, 0, 5, s(1), s(2))]).is_empty());
    scene.observe(&Observation::CallEnded(Box::new(hedge)));
    scene.tick(s(6));
    assert_eq!(scene.said(), ["undecided retry_not_retryable not_found"]);
}

#[test]
fn what_failed_is_remembered_in_bounds_and_what_was_forgotten_makes_undecided() {
    let mut scene = Scene::client();
    let mut attempts: Vec<Attempt> =
        (0..FAILURES as u32 + 1).map(|at| attempt(2 * at + 1, 0, 5, s(1), s(2))).collect();
    attempts.push(attempt(9_999, 1, 0, s(3), s(4)));
    assert_eq!(play(&mut scene, &attempts), ["undecided retry_not_retryable not_found"]);
}
