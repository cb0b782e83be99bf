//! Links between calls, measured: what the agent says an outbound call belongs to, against what it does belong to.
//!
//! The caller of a chain puts a number into each method, and the hop calls on by the same one. So a link is right if both its
//! calls have the same method.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// The scenario of it.
pub(super) const CHAIN: &str = "chain";
/// Calls of each load, enough for a share in percent.
pub(super) const CALLS: usize = 600;

/// Names of methods where there is no traceparent. Other evidence asks for what is known of an outbound method, and the agent
/// remembers 256 of them a process: with more, that bound would be measured. With more calls in flight than names, a wrong link is taken
/// for a right one once in so many.
pub(super) const METHODS: usize = 240;

/// What the caller of a chain does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Load {
    pub(super) in_flight: usize,
    pub(super) traceparent: bool,
}

impl Load {
    /// One after the other.
    pub(super) fn all() -> impl Iterator<Item = Load> {
        [1, 10, 100]
            .into_iter()
            .flat_map(|in_flight| [true, false].map(|traceparent| Load { in_flight, traceparent }))
    }

    /// The name of a process that plays this part under this load.
    pub(super) fn name(self, part: &str) -> String {
        let trace = if self.traceparent { "trace" } else { "blank" };
        format!("{part}-{}-{trace}", self.in_flight)
    }
}

/// What was said of the outbound calls of a hop under a load.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Links {
    pub(super) in_flight: usize,
    pub(super) traceparent: bool,
    pub(super) calls: usize,
    trace: usize,
    thread: usize,
    sole: usize,
    ambiguous: usize,
    none: usize,
    undecided: usize,
    pub(super) wrong: Wrong,
}

/// Links to a call that the outbound one does not belong to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) trace: usize,
    pub(super) thread: usize,
    pub(super) sole: usize,
}

impl Links {
    /// Sorts the agent's lines by load; `processes` has the names of processes by their ids.
    pub(super) fn of(lines: &[Value], processes: &BTreeMap<u64, String>) -> Result<Vec<Links>> {
        let loads: BTreeMap<String, Load> = Load::all().map(|load| (load.name(MIDDLE), load)).collect();
        let empty = |load: Load| {
            let Load { in_flight, traceparent } = load;
            (load, Links { in_flight, traceparent, ..Links::default() })
        };
        let mut all: BTreeMap<Load, Links> = Load::all().map(empty).collect();
        for line in lines.iter().filter(|line| line["type"] == "link") {
            let load =
                line["pid"].as_u64().and_then(|pid| processes.get(&pid)).and_then(|name| loads.get(name));
            // Of another process of this machine, or of the caller, who serves nothing.
            let Some(links) = load.and_then(|load| all.get_mut(load)) else { continue };
            links.take(line).with_context(|| format!("`grpcscope findings --links` says {line}"))?;
        }
        Ok(all.into_values().collect())
    }

    fn take(&mut self, line: &Value) -> Result<()> {
        self.calls += 1;
        let (linked, wrong) = match line["evidence"].as_str().context("no evidence")? {
            "trace" => (&mut self.trace, &mut self.wrong.trace),
            "thread" => (&mut self.thread, &mut self.wrong.thread),
            "sole" => (&mut self.sole, &mut self.wrong.sole),
            other => {
                *match other {
                    "ambiguous" => &mut self.ambiguous,
                    "none" => &mut self.none,
                    "undecided" => &mut self.undecided,
                    _ => bail!("evidence of an unknown kind"),
                } += 1;
                return Ok(());
            }
        };
        let method = |call: &str| line[call]["rpc_method"].as_str().context("a call without a method");
        *linked += 1;
        *wrong += usize::from(method("outbound")? != method("inbound")?);
        Ok(())
    }

    /// What keeps it from being right, if anything does: traces and threads may not lie, other evidence is counted.
    pub(super) fn fault(&self) -> Option<String> {
        let Links { in_flight, calls, .. } = self;
        if *calls != CALLS {
            return Some(format!("{calls} outbound calls of {CALLS} were seen with {in_flight} in flight"));
        }
        let wrong = [("trace", self.wrong.trace), ("thread", self.wrong.thread)];
        let (by, count) = wrong.into_iter().find(|(_, count)| *count > 0)?;
        Some(format!("{count} links by {by} are wrong with {in_flight} in flight"))
    }

    /// The object of the result; `implementation` is the one of the scenario.
    pub(super) fn json(&self, implementation: &str) -> Value {
        let Links { in_flight, traceparent, calls, trace, thread, sole, ambiguous, none, undecided, wrong } =
            self;
        json!({
            "implementation": implementation, "in_flight": in_flight, "traceparent": traceparent, "calls": calls,
            "trace": trace, "thread": thread, "sole": sole, "ambiguous": ambiguous, "none": none, "undecided": undecided,
            "wrong": {"trace": wrong.trace, "thread": wrong.thread, "sole": wrong.sole},
        })
    }

    pub(super) const HEADER: &str = "IN FLIGHT  TRACEPARENT  CALLS  TRACE  THREAD  SOLE  AMBIGUOUS  NONE  UNDECIDED  WRONG: TRACE  THREAD  SOLE";

    pub(super) fn row(&self) -> String {
        let Links { in_flight, traceparent, calls, trace, thread, sole, ambiguous, none, undecided, wrong } =
            self;
        let traceparent = if *traceparent { "yes" } else { "no" };
        format!(
            "{in_flight:>9}  {traceparent:>11}  {calls:>5}  {trace:>5}  {thread:>6}  {sole:>4}  {ambiguous:>9}  {none:>4}  \
             {undecided:>9}  {:>12}  {:>6}  {:>4}",
            wrong.trace, wrong.thread, wrong.sole
        )
    }
}

/// The hop of the chain.
pub(super) const MIDDLE: &str = "middle";

#[cfg(test)]
mod tests {
    use super::*;

    fn link(pid: u64, evidence: &str, outbound: &str, inbound: Option<&str>) -> Value {
        let inbound = inbound.map(|method| json!({"connection": 1, "stream": 1, "rpc_method": method}));
        json!({"type": "link", "pid": pid, "evidence": evidence, "inbound": inbound,
            "outbound": {"connection": 2, "stream": 1, "rpc_method": outbound}})
    }

    fn of(lines: &[Value]) -> Result<Links> {
        let processes =
            BTreeMap::from([(7, "middle-10-trace".to_owned()), (8, "caller-10-trace".to_owned())]);
        let all = Links::of(lines, &processes)?;
        assert_eq!(all.len(), 6);
        Ok(all.into_iter().find(|links| links.in_flight == 10 && links.traceparent).expect("it is a load"))
    }

    #[test]
    fn a_link_to_another_number_is_wrong() {
        let links = of(&[
            link(7, "trace", "s/C1", Some("s/C1")),
            link(7, "sole", "s/C1", Some("s/C2")),
            link(7, "ambiguous", "s/C3", None),
            link(8, "none", "s/C4", None),
            link(9, "trace", "s/C5", Some("s/C6")),
        ])
        .expect("all lines are links");
        assert_eq!((links.calls, links.trace, links.sole, links.ambiguous, links.none), (3, 1, 1, 1, 0));
        assert_eq!(links.wrong, Wrong { trace: 0, thread: 0, sole: 1 });
        assert!(links.fault().expect("calls are missing").starts_with("3 outbound calls"));
    }

    #[test]
    fn a_wrong_link_by_trace_or_thread_is_a_fault_and_one_by_other_evidence_is_counted() {
        let (right, wrong) = (Some("s/C1"), Some("s/C2"));
        let mut lines = vec![link(7, "trace", "s/C1", right); CALLS - 1];
        lines.push(link(7, "sole", "s/C1", wrong));
        assert_eq!(of(&lines).expect("all lines are links").fault(), None);
        for evidence in ["trace", "thread"] {
            lines[0] = link(7, evidence, "s/C1", wrong);
            let fault = of(&lines).expect("all lines are links").fault().expect("it is wrong");
            assert!(fault.starts_with(&format!("1 links by {evidence}")), "{fault}");
        }
    }

    #[test]
    fn a_link_that_cannot_be_judged_is_an_error() {
        let unnamed = json!({"type": "link", "pid": 7, "evidence": "trace", "inbound": {"rpc_method": null},
            "outbound": {"rpc_method": "s/C1"}});
        assert!(of(&[unnamed]).is_err());
        assert!(of(&[link(7, "hearsay", "s/C1", None)]).is_err());
    }
}
