//! What came out: a table for people, a line of JSON for programs, and the bars.

use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::json;

use super::catalogue::{HEALTHY, KEEPING_UP, Scenario};
use super::links::{CHAIN, Links};
use super::matching::{Found, Matching};

/// What was found has to have been provoked, all of it.
const PRECISION_AT_LEAST: f64 = 1.0;
/// And of what was provoked, this share has to be found.
const RECALL_AT_LEAST: f64 = 0.95;
/// So many differences are printed of each kind: the first tell what is wrong.
const SHOWN: usize = 20;

/// How a scenario came out.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) matching: Matching,
    /// Findings that the agent left open.
    pub(super) undecided: Vec<Found>,
    /// What outbound calls were said to belong to, in scenarios that measure that.
    pub(super) links: Vec<Links>,
    /// Events that the agent says it lost.
    pub(super) lost: u64,
    /// Calls that were made, as far as the processes wrote that down.
    pub(super) calls: usize,
    /// How long the processes ran.
    pub(super) took: Duration,
}

/// How all of them came out.
#[derive(Debug, Default)]
pub(super) struct Report(Vec<Played>);

#[derive(Debug)]
struct Played {
    name: &'static str,
    implementation: &'static str,
    took: Duration,
    outcome: Result<Outcome>,
}

impl Played {
    fn is_healthy(&self) -> bool {
        [HEALTHY, KEEPING_UP].contains(&self.name)
    }

    /// What keeps it from being right, if anything does.
    fn fault(&self) -> Option<String> {
        let outcome = match &self.outcome {
            Ok(outcome) => outcome,
            Err(error) => return Some(format!("it did not run: {error:#}")),
        };
        let matching = &outcome.matching;
        if outcome.lost > 0 {
            return Some(format!("the agent lost {} events", outcome.lost));
        }
        if self.is_healthy() {
            return match self.healthy_findings() {
                0 => None,
                count => Some(format!("{count} findings where nothing is wrong")),
            };
        }
        let is_chain = self.name == CHAIN;
        if is_chain && let Some(fault) = outcome.links.iter().find_map(Links::fault) {
            return Some(fault);
        }
        if matching.provoked() == 0 && !is_chain {
            return Some("nothing was provoked".to_owned());
        }
        if matching.precision() < PRECISION_AT_LEAST {
            return Some(format!("{} findings that nobody provoked", matching.unprovoked.len()));
        }
        (matching.recall() < RECALL_AT_LEAST)
            .then(|| format!("{} findings are missed", matching.missed.len()))
    }

    /// Of a healthy scenario: everything that was said, also what was left open, since all connections were seen from their
    /// beginning.
    fn healthy_findings(&self) -> usize {
        match &self.outcome {
            Ok(outcome) if self.is_healthy() => outcome.matching.found() + outcome.undecided.len(),
            Ok(_) | Err(_) => 0,
        }
    }
}

impl Report {
    pub(super) fn take(&mut self, scenario: &Scenario, took: Duration, outcome: Result<Outcome>) {
        let Scenario { name, implementation, .. } = *scenario;
        let played = Played { name, implementation, took, outcome };
        if let Ok(outcome) = &played.outcome {
            list("provoked, but not found", &outcome.matching.missed);
            list("found, but not provoked", &outcome.matching.unprovoked);
            list("left open", &outcome.undecided);
        }
        if let Some(fault) = played.fault() {
            eprintln!("scenarios: {name} ({implementation}): FAILED: {fault}");
        }
        self.0.push(played);
    }

    pub(super) fn print(&self, as_json: bool) {
        println!(
            "{:<24} {:<10} {:>8} {:>6} {:>9} {:>6} {:>9} {:>8} {:>8}  RESULT",
            "SCENARIO", "BY", "PROVOKED", "FOUND", "PRECISION", "RECALL", "UNDECIDED", "CALLS/S", "SECONDS"
        );
        for played in &self.0 {
            let result = played.fault().map_or("ok".to_owned(), |fault| format!("FAILED: {fault}"));
            let numbers = match &played.outcome {
                Ok(Outcome { matching, undecided, calls, took, .. }) => {
                    let rate = match calls {
                        0 => "–".to_owned(),
                        calls => format!("{:.0}", *calls as f64 / took.as_secs_f64()),
                    };
                    format!(
                        "{:>8} {:>6} {:>9.3} {:>6.3} {:>9} {rate:>8}",
                        matching.provoked(),
                        matching.found(),
                        matching.precision(),
                        matching.recall(),
                        undecided.len(),
                    )
                }
                Err(_) => format!("{:>8} {:>6} {:>9} {:>6} {:>9} {:>8}", "–", "–", "–", "–", "–", "–"),
            };
            println!(
                "{:<24} {:<10} {numbers} {:>8.1}  {result}",
                played.name,
                played.implementation,
                played.took.as_secs_f64()
            );
        }
        for (played, links) in self.links() {
            println!("\nlinks of {}\n{}", played.implementation, Links::HEADER);
            links.iter().for_each(|links| println!("{}", links.row()));
        }
        if as_json {
            println!("{}", self.json());
        }
    }

    /// Of those that have any.
    fn links(&self) -> impl Iterator<Item = (&Played, &[Links])> {
        self.0.iter().filter_map(|played| {
            let links = &played.outcome.as_ref().ok()?.links;
            (!links.is_empty()).then_some((played, links.as_slice()))
        })
    }

    fn json(&self) -> serde_json::Value {
        let scenarios = self.0.iter().map(|played| {
            let mut object = json!({"name": played.name, "implementation": played.implementation});
            match &played.outcome {
                Ok(Outcome { matching, undecided, links: _, lost, calls, took }) => {
                    object["provoked"] = json!(matching.provoked());
                    object["found"] = json!(matching.found());
                    object["precision"] = json!(matching.precision());
                    object["recall"] = json!(matching.recall());
                    object["undecided"] = json!(undecided.len());
                    object["lost"] = json!(lost);
                    if let Some(error) = matching.stall_error {
                        object["stall_seconds_error"] = json!(error);
                    }
                    if *calls > 0 {
                        object["calls_per_second"] = json!((*calls as f64 / took.as_secs_f64()).round());
                    }
                }
                Err(error) => object["error"] = json!(format!("{error:#}")),
            }
            object
        });
        let mut line = json!({"scenarios": scenarios.collect::<Vec<_>>()});
        let links: Vec<serde_json::Value> = self
            .links()
            .flat_map(|(played, links)| links.iter().map(|links| links.json(played.implementation)))
            .collect();
        if !links.is_empty() {
            line["links"] = json!(links);
        }
        line["failed"] = json!(self.0.iter().filter(|played| played.fault().is_some()).count());
        line["healthy_findings"] = json!(self.healthy_findings());
        line
    }

    /// Everything that was said where nothing is wrong. `None` if that cannot be known: there was no healthy run, or one that did
    /// not run, or of which the agent lost events.
    fn healthy_findings(&self) -> Option<usize> {
        let mut runs = self.0.iter().filter(|played| played.is_healthy()).peekable();
        runs.peek()?;
        let findings = |played: &Played| {
            let is_whole = played.outcome.as_ref().is_ok_and(|outcome| outcome.lost == 0);
            is_whole.then(|| played.healthy_findings())
        };
        runs.map(findings).sum()
    }

    /// Fails if anything is not as it should be.
    pub(super) fn verdict(&self) -> Result<()> {
        let failed = self.0.iter().filter(|played| played.fault().is_some());
        let failed: Vec<String> =
            failed.map(|played| format!("{} ({})", played.name, played.implementation)).collect();
        if !failed.is_empty() {
            bail!("{} of {} scenarios failed: {}", failed.len(), self.0.len(), failed.join(", "));
        }
        Ok(())
    }
}

fn list<T: std::fmt::Display>(what: &str, items: &[T]) {
    for item in items.iter().take(SHOWN) {
        eprintln!("  {what}: {item}");
    }
    if items.len() > SHOWN {
        eprintln!("  … and {} more {what}", items.len() - SHOWN);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn played(name: &'static str, outcome: Result<Outcome>) -> Played {
        Played { name, implementation: "tonic", took: Duration::from_secs(20), outcome }
    }

    /// Nothing was provoked, and nothing found.
    fn quiet(lost: u64) -> Outcome {
        Outcome {
            matching: Matching::of(Vec::new(), Vec::new()),
            undecided: Vec::new(),
            links: Vec::new(),
            lost,
            calls: 4_000,
            took: Duration::from_secs(10),
        }
    }

    #[test]
    fn a_healthy_run_that_found_nothing_is_a_zero_with_the_rate_of_its_load() {
        let report = Report(vec![played(HEALTHY, Ok(quiet(0))), played(KEEPING_UP, Ok(quiet(0)))]);
        let line = report.json();
        assert_eq!((&line["healthy_findings"], &line["failed"]), (&json!(0), &json!(0)));
        assert_eq!(line["scenarios"][0]["calls_per_second"], 400.0);
    }

    #[test]
    fn a_healthy_run_that_did_not_run_or_lost_events_is_no_zero() {
        for outcome in [Err(anyhow::anyhow!("no python")), Ok(quiet(3))] {
            let report = Report(vec![played(HEALTHY, Ok(quiet(0))), played(HEALTHY, outcome)]);
            let line = report.json();
            assert_eq!((&line["healthy_findings"], &line["failed"]), (&json!(null), &json!(1)));
            assert!(report.verdict().is_err());
        }
    }

    #[test]
    fn without_a_healthy_run_nothing_is_said_of_one() {
        let line = Report(vec![played("no_deadline", Ok(quiet(0)))]).json();
        // Nothing was provoked, so that it proves nothing.
        assert_eq!((&line["healthy_findings"], &line["failed"]), (&json!(null), &json!(1)));
    }
}
