//! Matches what was provoked with what was found, one to one.
//!
//! A finding is what was provoked if it has the same name, was seen on the same process and side, has the same cause and
//! method where the truth says them, and lies in the time in which it was provoked. Each provoked one takes one finding; a
//! second finding of the same thing is one that nobody provoked. Only a condition that lasts is said again while it lasts,
//! and the truth says of what it provokes whether it does.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context, Result};
use serde_json::Value;

/// A finding's time is that of a frame; the truth's is that of the code around it. Both are of one clock, but the agent
/// reads it once at its start, and it may be slewed.
const SLACK_NS: u64 = 500_000_000;
/// Seconds of a stall agree within this share: a window takes a moment to fill after its reader has stopped.
const STALL_ERROR_AT_MOST: f64 = 0.05;

/// What both lists say of a finding.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    finding: String,
    /// Name of the process in the scenario.
    process: String,
}

/// A line of a process's truth.
#[derive(Clone, Debug)]
pub(super) struct Provoked {
    key: Key,
    side: Option<String>,
    cause: Option<String>,
    /// Without the leading slash.
    method: Option<String>,
    from_ns: u64,
    /// `u64::MAX` for what did not end.
    until_ns: u64,
    lasts: bool,
    /// How long a sender had to wait, if that is provoked.
    stalled_seconds: Option<f64>,
    said: String,
}

/// A line of `grpcscope findings --live --json`.
#[derive(Clone, Debug)]
pub(super) struct Found {
    key: Key,
    side: Option<String>,
    cause: Option<String>,
    method: Option<String>,
    time_ns: u64,
    stalled_seconds: Option<f64>,
    said: String,
}

impl Provoked {
    /// Reads a line of the truth of a process; `None` for one that tells of something else (calls).
    pub(super) fn of_truth(line: &str, processes: &[String]) -> Result<Option<Self>> {
        let context = || format!("the truth says {line:?}");
        let said: Value = serde_json::from_str(line).with_context(context)?;
        let Some(finding) = text(&said, "finding") else { return Ok(None) };
        let process = text(&said, "service").context("no service").with_context(context)?;
        if !processes.contains(&process) {
            return Err(anyhow::anyhow!("no process {process:?}")).with_context(context);
        }
        Ok(Some(Provoked {
            key: Key { finding, process },
            side: text(&said, "side"),
            cause: text(&said, "cause"),
            method: method(&said),
            from_ns: said["from_ns"].as_u64().context("no from_ns").with_context(context)?,
            until_ns: said["until_ns"].as_u64().unwrap_or(u64::MAX),
            lasts: said["lasts"].as_bool().unwrap_or(false),
            stalled_seconds: said["stalled_seconds"].as_f64(),
            said: line.to_owned(),
        }))
    }

    fn is(&self, found: &Found) -> bool {
        let agrees =
            |provoked: &Option<String>, found: &Option<String>| provoked.is_none() || provoked == found;
        self.key == found.key
            && agrees(&self.side, &found.side)
            && agrees(&self.cause, &found.cause)
            && agrees(&self.method, &found.method)
            && self.stall_error(found).is_none_or(|error| error <= STALL_ERROR_AT_MOST)
            && found.time_ns >= self.from_ns.saturating_sub(SLACK_NS)
            && found.time_ns <= self.until_ns.saturating_add(SLACK_NS)
    }
}

impl Provoked {
    /// How far the seconds that were found are from those that were provoked, as a share of these; infinite if none were
    /// found.
    fn stall_error(&self, found: &Found) -> Option<f64> {
        let provoked = self.stalled_seconds?;
        Some(found.stalled_seconds.map_or(f64::INFINITY, |found| (found - provoked).abs() / provoked))
    }
}

impl Found {
    /// Takes what the observer says of a process of the scenario.
    pub(super) fn of_observer(said: &Value, process: &str) -> Result<Self> {
        let context = || format!("the observer says {said}");
        let time = said["time"].as_f64().context("no time").with_context(context)?;
        Ok(Found {
            key: Key {
                finding: text(said, "finding").context("no finding").with_context(context)?,
                process: process.to_owned(),
            },
            side: text(said, "side"),
            cause: text(said, "cause"),
            method: method(said),
            time_ns: (time * 1e9) as u64,
            stalled_seconds: said["evidence"]["stalled_seconds"].as_f64(),
            said: said.to_string(),
        })
    }
}

fn text(said: &Value, name: &str) -> Option<String> {
    said[name].as_str().map(str::to_owned)
}

fn method(said: &Value) -> Option<String> {
    said["rpc_method"].as_str().map(|method| method.trim_start_matches('/').to_owned())
}

impl fmt::Display for Provoked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.said)
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "on {}: {}", self.key.process, self.said)
    }
}

/// What agrees, and what is left of both lists.
#[derive(Debug, Default)]
pub(super) struct Matching {
    /// Provoked and found.
    pub(super) agreed: usize,
    /// Provoked, and not found.
    pub(super) missed: Vec<Provoked>,
    /// Found, and not provoked.
    pub(super) unprovoked: Vec<Found>,
    /// The largest difference in the seconds of a stall, as a share of those provoked, where any were.
    pub(super) stall_error: Option<f64>,
}

impl Matching {
    pub(super) fn of(provoked: Vec<Provoked>, found: Vec<Found>) -> Self {
        let mut groups: BTreeMap<Key, (Vec<Provoked>, Vec<Found>)> = BTreeMap::new();
        for provoked in provoked {
            groups.entry(provoked.key.clone()).or_default().0.push(provoked);
        }
        for found in found {
            groups.entry(found.key.clone()).or_default().1.push(found);
        }
        let mut matching = Matching::default();
        for (provoked, found) in groups.into_values() {
            matching.take(provoked, found);
        }
        matching
    }

    fn take(&mut self, provoked: Vec<Provoked>, found: Vec<Found>) {
        let mut takers: Vec<Option<usize>> = vec![None; found.len()];
        for index in 0..provoked.len() {
            let mut tried = vec![false; found.len()];
            find_one_for(index, &provoked, &found, &mut takers, &mut tried);
        }
        for (found, taker) in found.iter().zip(&takers) {
            let error = taker.and_then(|taker| provoked[taker].stall_error(found));
            self.stall_error = self.stall_error.into_iter().chain(error).reduce(f64::max);
        }
        let mut has_one = vec![false; provoked.len()];
        for taker in takers.iter().flatten() {
            has_one[*taker] = true;
        }
        self.agreed += has_one.iter().filter(|has_one| **has_one).count();
        for (found, taker) in found.into_iter().zip(takers) {
            let is_said_again = provoked.iter().any(|provoked| provoked.lasts && provoked.is(&found));
            if taker.is_none() && !is_said_again {
                self.unprovoked.push(found);
            }
        }
        let missed = provoked.into_iter().zip(has_one).filter(|(_, has_one)| !has_one);
        self.missed.extend(missed.map(|(provoked, _)| provoked));
    }

    pub(super) fn provoked(&self) -> usize {
        self.agreed + self.missed.len()
    }

    pub(super) fn found(&self) -> usize {
        self.agreed + self.unprovoked.len()
    }

    /// Share of what was found that was provoked; one if nothing was found.
    pub(super) fn precision(&self) -> f64 {
        share(self.agreed, self.found())
    }

    /// Share of what was provoked that was found; one if nothing was provoked.
    pub(super) fn recall(&self) -> f64 {
        share(self.agreed, self.provoked())
    }
}

fn share(part: usize, whole: usize) -> f64 {
    if whole == 0 { 1.0 } else { part as f64 / whole as f64 }
}

/// An augmenting path: a finding for `index`, if need be by finding another for who has it, so that as many as can be
/// have one.
fn find_one_for(
    index: usize,
    provoked: &[Provoked],
    found: &[Found],
    takers: &mut [Option<usize>],
    tried: &mut [bool],
) -> bool {
    for candidate in 0..found.len() {
        if tried[candidate] || !provoked[index].is(&found[candidate]) {
            continue;
        }
        tried[candidate] = true;
        let is_free = match takers[candidate] {
            None => true,
            Some(other) => find_one_for(other, provoked, found, takers, tried),
        };
        if is_free {
            takers[candidate] = Some(index);
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn with(mut object: Value, changes: &Value) -> Value {
        for (name, value) in changes.as_object().expect("changes are an object") {
            object[name.as_str()] = value.clone();
        }
        object
    }

    /// A missing deadline that `orders` provoked as a client between second 100 and 101.
    fn provoked(changes: &Value) -> Provoked {
        let truth = json!({
            "finding": "deadline_missing", "cause": "absent", "service": "orders", "side": "client",
            "rpc_method": "shop.v1.Inventory/GetStock", "from_ns": 100 * SECOND, "until_ns": 101 * SECOND,
        });
        let line = with(truth, changes).to_string();
        let provoked = Provoked::of_truth(&line, &["orders".to_owned(), "inventory".to_owned()]);
        provoked.expect("a whole line").expect("a finding")
    }

    /// The same as it is found.
    fn found(changes: &Value) -> Found {
        let line = json!({
            "finding": "deadline_missing", "cause": "absent", "side": "client", "pid": 7,
            "rpc_method": "shop.v1.Inventory/GetStock", "time": 100.5,
        });
        let line = with(line, changes);
        Found::of_observer(&line, line["process"].as_str().unwrap_or("orders")).expect("a whole line")
    }

    fn shares(provoked: Vec<Provoked>, found: Vec<Found>) -> (f64, f64) {
        let matching = Matching::of(provoked, found);
        (matching.precision(), matching.recall())
    }

    #[test]
    fn what_was_provoked_and_is_found_agrees() {
        assert_eq!(shares(vec![provoked(&json!({}))], vec![found(&json!({}))]), (1.0, 1.0));
        assert_eq!(shares(vec![], vec![]), (1.0, 1.0));
    }

    #[test]
    fn seconds_of_a_stall_agree_within_a_twentieth() {
        let stalled = |seconds: f64| found(&json!({"evidence": {"stalled_seconds": seconds}}));
        let two = || vec![provoked(&json!({"stalled_seconds": 2.0}))];
        assert_eq!(shares(two(), vec![stalled(1.91)]), (1.0, 1.0));
        assert!(
            (Matching::of(two(), vec![stalled(1.91)]).stall_error.expect("there are seconds") - 0.045).abs()
                < 1e-9
        );
        for wrong in [stalled(1.89), stalled(2.11), found(&json!({}))] {
            assert_eq!(shares(two(), vec![wrong]), (0.0, 0.0));
        }
        assert_eq!(Matching::of(vec![provoked(&json!({}))], vec![stalled(2.0)]).stall_error, None);
    }

    #[test]
    fn what_nobody_provoked_lowers_precision() {
        let other = found(&json!({"finding": "goaway"}));
        assert_eq!(shares(vec![provoked(&json!({}))], vec![found(&json!({})), other.clone()]), (0.5, 1.0));
        assert_eq!(shares(vec![], vec![other]), (0.0, 1.0));
    }

    #[test]
    fn what_is_missed_lowers_recall() {
        let two = vec![provoked(&json!({})), provoked(&json!({}))];
        assert_eq!(shares(two.clone(), vec![found(&json!({}))]), (1.0, 0.5));
        assert_eq!(shares(two, vec![]), (1.0, 0.0));
    }

    #[test]
    fn the_same_thing_found_twice_was_provoked_once() {
        let twice = vec![found(&json!({})), found(&json!({}))];
        assert_eq!(shares(vec![provoked(&json!({}))], twice), (0.5, 1.0));
    }

    #[test]
    fn a_condition_that_lasts_may_be_said_again_while_it_lasts() {
        let lasting = vec![provoked(&json!({"lasts": true, "until_ns": 190 * SECOND}))];
        let again = vec![found(&json!({})), found(&json!({"time": 160.5}))];
        let matching = Matching::of(lasting.clone(), again);
        assert_eq!((matching.found(), matching.precision(), matching.recall()), (1, 1.0, 1.0));
        let after = vec![found(&json!({})), found(&json!({"time": 220.5}))];
        assert_eq!(shares(lasting, after), (0.5, 1.0));
    }

    #[test]
    fn what_does_not_end_is_found_at_any_time_after_its_beginning() {
        let open = || vec![provoked(&json!({"until_ns": null}))];
        assert_eq!(shares(open(), vec![found(&json!({"time": 1e9}))]), (1.0, 1.0));
        assert_eq!(shares(open(), vec![found(&json!({"time": 90.0}))]), (0.0, 0.0));
    }

    #[test]
    fn every_field_that_differs_is_another_finding() {
        for changes in [
            json!({"finding": "deadline_absurd"}),
            json!({"cause": "invalid"}),
            json!({"cause": null}),
            json!({"side": "server"}),
            json!({"process": "inventory"}),
            json!({"rpc_method": "shop.v1.Inventory/Reserve"}),
            json!({"rpc_method": null}),
            json!({"time": 98.0}),
            json!({"time": 103.0}),
        ] {
            assert_eq!(shares(vec![provoked(&json!({}))], vec![found(&changes)]), (0.0, 0.0), "{changes}");
        }
    }

    #[test]
    fn what_the_truth_leaves_open_may_be_anything() {
        let open = provoked(&json!({"cause": null, "rpc_method": null, "side": null}));
        assert_eq!(shares(vec![open], vec![found(&json!({"cause": "invalid"}))]), (1.0, 1.0));
    }

    #[test]
    fn a_finding_that_fits_two_goes_where_it_is_needed() {
        let open = provoked(&json!({"cause": null}));
        let closed = provoked(&json!({}));
        let both = vec![found(&json!({})), found(&json!({"cause": "invalid"}))];
        for provoked in [vec![open.clone(), closed.clone()], vec![closed, open]] {
            assert_eq!(shares(provoked.clone(), both.clone()), (1.0, 1.0));
            assert_eq!(shares(provoked, both.iter().rev().cloned().collect()), (1.0, 1.0));
        }
    }

    #[test]
    fn calls_in_the_truth_are_not_findings_and_unknown_processes_are_errors() {
        let processes = ["orders".to_owned()];
        let call = r#"{"service": "orders", "side": "client", "method": "/a.B/C"}"#;
        assert!(Provoked::of_truth(call, &processes).expect("an object").is_none());
        let unknown = r#"{"finding": "goaway", "service": "ordres", "from_ns": 1}"#;
        assert!(Provoked::of_truth(unknown, &processes).is_err());
        let timeless = r#"{"finding": "goaway", "service": "orders"}"#;
        assert!(Provoked::of_truth(timeless, &processes).is_err());
        assert!(Provoked::of_truth("{", &processes).is_err());
    }
}
