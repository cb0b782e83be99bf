//! The list: what is put together, what is forgotten, what is said of it.

use std::sync::Arc;

use agent_core::detectors::{self, Finding, Name, Owner, ProcessId, Verdict, deadlines, pinned};
use agent_core::observation::Side;
use agent_core::{ConnectionId, Timestamp};

use super::*;
use crate::metrics::{Format, Metrics, SeriesLimits};

const SECOND: u64 = 1_000_000_000;

fn list() -> (Findings, Arc<Metrics>) {
    let metrics = Arc::new(Metrics::new(SeriesLimits::default()));
    (Findings::new(Arc::clone(&metrics)), metrics)
}

fn missing(method: &str, stream: u32, second: u64) -> Finding {
    let owner = Owner { process: ProcessId(7 << 22 | 42), workload: Arc::from("orders") };
    Finding {
        claim: deadlines::Claim::Missing { invalid: false }.into(),
        verdict: Verdict::Firing,
        about: detectors::About {
            owner: Some(Arc::new(owner)),
            connection: Some(ConnectionId(17)),
            stream: Some(stream),
            side: Some(Side::Client),
            method: Some(Arc::from(method)),
            peer: None,
        },
        time: Timestamp(second * SECOND),
    }
}

fn answer(list: &Findings, filter: &Filter) -> Answer {
    list.answer(filter, Timestamp(100 * SECOND), 0)
}

#[test]
fn findings_that_differ_in_their_numbers_only_are_one_entry_with_the_latest_numbers() {
    let (list, _) = list();
    for (timeout_ns, second) in [(1_000_000, 1), (2_000_000, 5)] {
        let claim = deadlines::Claim::LateCompletion { timeout_ns, past_ns: 3 * timeout_ns };
        list.handle(
            None,
            Finding { claim: claim.into(), ..missing("/shop.Cart/Add", second as u32, second) },
        );
    }
    list.handle(None, missing("/shop.Cart/Add", 9, 6));
    let Answer { findings, undecided, forgotten } = answer(&list, &Filter::default());
    let late = serde_json::to_value(&findings[0]).expect("an entry is JSON");
    assert_eq!(
        late,
        serde_json::json!({
            "finding": "deadline_late_completion", "level": "problem", "verdict": "firing", "cause": null,
            "link": null, "service_name": "orders", "pid": 42, "side": "client", "rpc_method": "shop.Cart/Add",
            "peer": null, "count": 2, "first_seen": 1.0, "last_seen": 5.0,
            "evidence": {"timeout_seconds": 0.002, "past_deadline_seconds": 0.006},
            "sentence": "was completed 6.000 ms after its deadline of 2.000 ms",
            "example": {"connection": 17, "stream": 5, "client": null, "server": null},
        })
    );
    assert_eq!((findings.len(), undecided.len(), forgotten), (2, 0, 0));
    assert_eq!(
        (findings[1].finding.as_str(), findings[1].cause.as_deref()),
        ("deadline_missing", Some("absent"))
    );
}

#[test]
fn what_is_undecided_is_counted_by_finding_and_has_its_own_entry() {
    let (list, metrics) = list();
    list.handle(None, missing("/a.B/C", 1, 1));
    for stream in [3, 5] {
        list.handle(None, Finding { verdict: Verdict::Undecided, ..missing("/a.B/C", stream, 2) });
    }
    let all = answer(&list, &Filter::default());
    assert_eq!(all.undecided, [Undecided { finding: "deadline_missing".into(), count: 2 }]);
    let counts: Vec<(&str, u64)> =
        all.findings.iter().map(|entry| (entry.verdict.as_str(), entry.count)).collect();
    assert_eq!(counts, [("firing", 1), ("undecided", 2)]);
    let text = String::from_utf8(metrics.encode(Format::Text).expect("it can be written")).expect("text");
    let counted = |verdict: &str| {
        text.lines().any(|line| {
            line.starts_with("grpcscope_findings_total{")
                && line.contains(&format!("verdict=\"{verdict}\""))
                && line.ends_with(if verdict == "firing" { " 1" } else { " 2" })
        })
    };
    assert!(counted("firing") && counted("undecided"), "{text}");
}

#[test]
fn a_filter_leaves_out_what_was_not_asked_for() {
    let (list, _) = list();
    list.handle(None, missing("/a.B/C", 1, 1));
    list.handle(None, Finding { verdict: Verdict::Undecided, ..missing("/a.B/C", 3, 2) });
    let some = |text: &str| Some(text.to_owned());
    let count = |filter: Filter| answer(&list, &filter).findings.len();
    assert_eq!(count(Filter { verdict: Some(Verdict::Undecided), ..Filter::default() }), 1);
    assert_eq!(count(Filter { finding: Some(Name::DeadlineMissing), ..Filter::default() }), 2);
    assert_eq!(count(Filter { finding: Some(Name::Goaway), ..Filter::default() }), 0);
    assert_eq!(count(Filter { service_name: some("orders"), ..Filter::default() }), 2);
    assert_eq!(count(Filter { service_name: some("order"), ..Filter::default() }), 0);
}

#[test]
fn at_the_bound_the_oldest_entries_go_and_are_counted() {
    let (list, metrics) = list();
    for number in 0..1_001 {
        list.handle(None, missing(&format!("/a.B/C{number}"), 1, number));
    }
    let all = list.answer(&Filter::default(), Timestamp(1_001 * SECOND), 0);
    assert_eq!(all.findings.len() as u64 + all.forgotten, 1_001);
    assert!((1..=200).contains(&all.forgotten), "{}", all.forgotten);
    let oldest = all.findings.iter().map(|entry| entry.first_seen as u64).min();
    assert_eq!(oldest, Some(all.forgotten));
    let text = String::from_utf8(metrics.encode(Format::Text).expect("it can be written")).expect("text");
    assert!(text.contains(&format!("\ngrpcscope_findings_forgotten_total {}\n", all.forgotten)), "{text}");
}

#[test]
fn a_method_that_is_none_and_a_peer_that_is_too_long_are_named_so() {
    let (list, _) = list();
    for number in 0..50 {
        let mut finding = missing(&format!("/a\u{1b}[31m{number}/\u{202e}"), 1, 1);
        finding.about.peer = Some(Arc::from("x".repeat(1_000 + number)));
        list.handle(None, finding);
    }
    let all = answer(&list, &Filter::default());
    assert_eq!(all.findings.len(), 1);
    assert_eq!(all.findings[0].rpc_method.as_deref(), Some("invalid"));
    assert_eq!(all.findings[0].peer.as_deref(), Some("invalid"));
}

#[test]
fn what_nothing_happened_to_for_an_hour_is_not_shown() {
    let (list, _) = list();
    list.handle(None, missing("/a.B/C", 1, 1));
    let shown = |second: u64| list.answer(&Filter::default(), Timestamp(second * SECOND), 0).findings.len();
    assert_eq!((shown(3_601), shown(3_602)), (1, 0));
}

fn pinned(connection: u64, stream: Option<u32>, second: u64) -> Finding {
    let claim = pinned::Claim {
        cause: pinned::Cause::Uneven,
        strategy: pinned::Strategy::None,
        window_ns: 60 * SECOND,
        calls: 100 + second,
        busiest_calls: 90,
        connections: 2,
        backends: 3,
        age_ns: 90 * SECOND,
        recycled: 0,
    };
    let finding = missing("/a.B/C", 1, second);
    let about = detectors::About {
        connection: Some(ConnectionId(connection)),
        stream,
        method: None,
        peer: Some(Arc::from("inventory:50051")),
        ..finding.about
    };
    Finding { claim: claim.into(), about, ..finding }
}

fn firing(metrics: &Metrics) -> f64 {
    let text = String::from_utf8(metrics.encode(Format::Text).expect("it can be written")).expect("text");
    let values = text.lines().filter(|line| line.starts_with("grpcscope_findings_firing{"));
    values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

#[test]
fn what_lasts_is_one_finding_from_its_begin_to_its_end_and_stays_visible_as_quiet() {
    let (list, metrics) = list();
    // The busiest connection is another one after a minute.
    list.handle(None, pinned(1, None, 1));
    list.handle(None, pinned(2, None, 61));
    let all = answer(&list, &Filter::default());
    assert_eq!((all.findings[0].verdict.as_str(), all.findings[0].count), ("firing", 1));
    assert_eq!(all.findings[0].evidence["calls"], 161);
    assert_eq!(firing(&metrics), 1.0);

    list.handle(None, Finding { verdict: Verdict::Quiet, ..pinned(2, None, 70) });
    let all = answer(&list, &Filter::default());
    assert_eq!((all.findings[0].verdict.as_str(), all.findings[0].last_seen), ("quiet", 70.0));
    assert_eq!(firing(&metrics), 0.0);
    // Its end is said once.
    list.handle(None, Finding { verdict: Verdict::Quiet, ..pinned(2, None, 80) });
    assert_eq!(answer(&list, &Filter::default()).findings[0].last_seen, 70.0);

    list.handle(None, pinned(3, None, 90));
    let all = answer(&list, &Filter::default());
    assert_eq!(
        (all.findings.len(), all.findings[0].verdict.as_str(), all.findings[0].count),
        (1, "firing", 2)
    );
}

#[test]
fn what_lasts_on_a_stream_ends_with_its_connection_at_the_latest() {
    let (list, metrics) = list();
    for (connection, stream) in [(1, 1), (1, 3), (2, 1)] {
        list.handle(None, pinned(connection, Some(stream), 1));
    }
    assert_eq!(firing(&metrics), 3.0);
    list.end_connection(ConnectionId(1), Timestamp(5 * SECOND));
    assert_eq!(firing(&metrics), 1.0);
    assert_eq!(answer(&list, &Filter::default()).findings[0].verdict, "firing");
    list.end_connection(ConnectionId(2), Timestamp(9 * SECOND));
    assert_eq!(firing(&metrics), 0.0);
    let all = answer(&list, &Filter::default());
    assert_eq!((all.findings[0].verdict.as_str(), all.findings[0].last_seen), ("quiet", 9.0));
}

#[test]
fn the_same_with_another_cause_is_another_entry_and_the_first_is_over() {
    let (list, metrics) = list();
    list.handle(None, pinned(1, None, 1));
    let mut other = pinned(1, None, 2);
    if let detectors::Claim::Pinned(claim) = &mut other.claim {
        claim.cause = pinned::Cause::SingleAddress;
    }
    list.handle(None, other);
    let all = answer(&list, &Filter::default());
    let causes: Vec<(Option<&str>, &str)> =
        all.findings.iter().map(|entry| (entry.cause.as_deref(), entry.verdict.as_str())).collect();
    assert_eq!(causes, [(Some("single_address"), "firing"), (Some("uneven"), "quiet")]);
    assert_eq!(firing(&metrics), 1.0);
}

#[test]
fn each_finding_counts_in_its_own_entry_however_they_follow_one_another() {
    let (list, _) = list();
    let kinds = 9;
    let of_kind = |kind: u64, second| {
        let mut finding =
            missing(if kind.is_multiple_of(3) { "/shop.Cart/Add" } else { "/shop.Cart/Get" }, 1, second);
        if kind % 3 == 2 {
            finding.about.side = Some(Side::Server);
        }
        finding.about.peer = (kind >= 3).then(|| Arc::from(format!("cart{}", kind / 6)));
        finding
    };
    let mut expected = [0; 9];
    for step in 0..500_u64 {
        let kind = (step * step / 7) % kinds;
        expected[kind as usize] += 1;
        list.handle(None, of_kind(kind, 50 + step / 100));
        if step.is_multiple_of(100) {
            // Entries that are older go, and places change.
            for other in 0..990 {
                list.handle(None, missing(&format!("/s.S/M{step}x{other}"), 1, 1 + step / 100));
            }
        }
    }
    let Answer { findings, forgotten, .. } = answer(&list, &Filter::default());
    assert!(forgotten > 0);
    for kind in 0..kinds {
        let finding = of_kind(kind, 0);
        let is = |entry: &&Entry| {
            entry.rpc_method.as_deref() == finding.about.method.as_deref().map(|path| &path[1..])
                && entry.side.as_deref() == finding.about.side.map(Side::as_str)
                && entry.peer.as_deref() == finding.about.peer.as_deref()
        };
        let counts: Vec<u64> = findings.iter().filter(is).map(|entry| entry.count).collect();
        let all: Vec<u64> = [expected[kind as usize]].into_iter().filter(|count| *count > 0).collect();
        assert_eq!(counts, all, "{kind}");
    }
}
