//! What is said of the deadlines of single calls.

mod support;

use agent_core::ConnectionId;
use agent_core::detectors::{Detectors, Finding, Owner, Party, ProcessId, Thresholds, Verdict};
use agent_core::observation::Side;
use support::*;

const METHOD: &str = "/shop.Orders/Get";

/// What is found of a whole scenario.
fn findings(scenario: &Scenario) -> Vec<Finding> {
    let mut detectors = Detectors::new(Thresholds::default());
    let owner = Owner { process: ProcessId(1), workload: "shop".into() };
    detectors.handle_connection(ConnectionId(1), Party { owner: Some(owner.into()), ends: None });
    scenario.seen.iter().for_each(|observation| detectors.handle_observation(observation));
    std::iter::from_fn(|| detectors.poll_finding()).collect()
}

/// The same as words: verdict, name, cause.
fn said(scenario: &Scenario) -> Vec<String> {
    let words = |finding: &Finding| {
        let cause = finding.claim.claims().cause().map(|cause| format!(" {cause}")).unwrap_or_default();
        format!("{} {}{cause}", finding.verdict.as_str(), finding.name().as_str())
    };
    findings(scenario).iter().map(words).collect()
}

fn with_timeout(timeout: &str) -> Scenario {
    let mut scenario = Scenario::connected();
    scenario.send(CLIENT, &request_with(1, METHOD, &[("grpc-timeout", timeout)]));
    scenario
}

#[test]
fn a_call_without_a_deadline_is_told_and_one_with_a_deadline_is_not() {
    let mut scenario = Scenario::connected();
    scenario.send(CLIENT, &request(1, METHOD)).send(SERVER, &trailers_only(1, "0"));
    assert_eq!(said(&scenario), ["firing deadline_missing absent"]);
    let mut scenario = with_timeout("1s");
    scenario.send(SERVER, &trailers_only(1, "0"));
    assert_eq!(said(&scenario), ["firing deadline_missing invalid"]);
    let mut scenario = with_timeout("1S");
    scenario.send(SERVER, &trailers_only(1, "0"));
    assert!(said(&scenario).is_empty());
}

#[test]
fn streams_of_the_infrastructure_need_no_deadline() {
    let mut scenario = Scenario::connected();
    scenario.send(CLIENT, &request(1, "/grpc.health.v1.Health/Watch"));
    assert!(said(&scenario).is_empty());
}

#[test]
fn a_finding_in_the_first_chunk_of_a_connection_knows_its_side() {
    let mut scenario = Scenario::new();
    scenario.send(CLIENT, &[PREFACE, &settings(), &request(1, METHOD)].concat());
    let findings = findings(&scenario);
    assert_eq!(findings.len(), 1);
    assert_eq!(
        findings[0].about.side,
        Some(if CLIENT == agent_core::Flow::Sent { Side::Client } else { Side::Server })
    );
}

#[test]
fn a_deadline_of_hours_is_absurd_and_one_hour_is_not() {
    for (timeout, expected) in [("1H", vec![]), ("2H", vec!["firing deadline_absurd too_long"])] {
        let mut scenario = with_timeout(timeout);
        scenario.send(CLIENT, &data(1, 1, &message(1)));
        scenario.send(SERVER, &[response(1), data(1, 0, &message(1)), trailers(1, "0")].concat());
        assert_eq!(said(&scenario), expected, "{timeout}");
    }
    assert_eq!(said(&with_timeout("0m")), ["firing deadline_absurd zero"]);
}

#[test]
fn who_gave_up_at_the_deadline_is_told() {
    let mut scenario = with_timeout("50m");
    scenario.wait(51).send(CLIENT, &rst_stream(1, 8));
    assert_eq!(said(&scenario), ["firing deadline_exceeded client"]);
    let mut scenario = with_timeout("50m");
    scenario.wait(50).send(SERVER, &trailers_only(1, "4")).wait(1_000);
    assert_eq!(said(&scenario), ["firing deadline_exceeded server"]);
    let mut scenario = with_timeout("50m");
    scenario.wait(20).send(CLIENT, &rst_stream(1, 8));
    assert!(said(&scenario).is_empty(), "a cancellation");
}

#[test]
fn a_completion_is_late_when_it_comes_clearly_after_the_deadline() {
    for (after_ms, expected) in [(54, vec![]), (57, vec!["firing deadline_late_completion"])] {
        let mut scenario = with_timeout("50m");
        scenario.wait(after_ms).send(SERVER, &trailers_only(1, "0")).wait(1_000);
        assert_eq!(said(&scenario), expected, "{after_ms}");
    }
}

#[test]
fn after_a_late_join_a_deadline_that_was_not_read_is_left_open() {
    let mut scenario = Scenario::joined_late();
    // Two of the fields, one of which is the path, refer to entries that were made before.
    let mut fields = block(&[(":method", "POST"), ("te", "trailers"), ("content-type", "application/grpc")]);
    fields.extend([0xbe, 0xbf]);
    scenario.send_at_boundary(CLIENT, &frame(0x1, 0x4, 5, &fields));
    scenario.send_at_boundary(SERVER, &response(5)).send(SERVER, &trailers(5, "0"));
    let findings = findings(&scenario);
    assert!(!findings.is_empty(), "the call was seen");
    assert!(findings.iter().all(|finding| finding.verdict == Verdict::Undecided), "{findings:?}");
}
