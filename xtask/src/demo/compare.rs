//! Compares, call by call, what the services of the demo wrote down with what was seen.
//!
//! Both are multisets: a call that was made must be seen once on each side, with the same method, outcome, status,
//! timeout and numbers of messages, and nothing else may be seen of the demo's processes. Three things are not for the
//! wire to say, and only these are left open:
//!
//! - A call that somebody gave up has no status of its own. The other end may have answered at the same moment, so
//!   the status may be that answer's (CANCELLED, DEADLINE_EXCEEDED) or none.
//! - A client's clock starts before its request is on the wire. On a busy machine a deadline can pass a little
//!   early by the wire's time, and then it looks like a cancellation, or like neither for sure. These are counted as
//!   `borderline`.
//! - A client can give a call up before its request is on the wire. If no server has written the call down, it need
//!   not be seen. These are counted as `unsent`.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context, Result};
use serde_json::Value;

/// How near to its timeout, in hundredths of it, a call has to end to be called either. The demo cancels in the first
/// quarter or never.
const BORDERLINE_PERCENT: u64 = 25;

/// A call, as a process or an observer tells of it.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// `client`, `server`; of a recording, which has no sides, `wire`.
    pub(crate) side: String,
    /// Zero if it is not known.
    pid: u64,
    pub(crate) method: String,
    call_type: String,
    pub(crate) outcome: String,
    status: Option<u64>,
    timeout_ns: Option<u64>,
    request_messages: u64,
    response_messages: u64,
    pub(crate) duration_ns: Option<u64>,
    /// Everything that was said of it.
    said: String,
}

impl Call {
    /// Reads a line of a service's truth.
    pub(crate) fn of_truth(line: &str) -> Result<Self> {
        Self::parse(line, "elapsed_ns").with_context(|| format!("the truth says {line:?}"))
    }

    /// Reads a line of `calls --json` or `replay --json`.
    pub(crate) fn of_observer(call: &Value) -> Result<Self> {
        Self::from_json(call, "duration_ns").with_context(|| format!("the observer says {call}"))
    }

    fn parse(line: &str, duration: &str) -> Result<Self> {
        Self::from_json(&serde_json::from_str(line)?, duration)
    }

    fn from_json(call: &Value, duration: &str) -> Result<Self> {
        let text = |name: &str| call[name].as_str().map(str::to_owned);
        let number = |name: &str| call[name].as_u64();
        Ok(Call {
            side: text("side").context("no side")?,
            pid: number("pid").unwrap_or(0),
            method: text("method").unwrap_or_else(|| "unresolved".to_owned()),
            call_type: text("call_type").context("no call_type")?,
            outcome: text("outcome").context("no outcome")?,
            status: number("status"),
            timeout_ns: number("timeout_ns"),
            request_messages: number("request_messages").context("no request_messages")?,
            response_messages: number("response_messages").context("no response_messages")?,
            duration_ns: number(duration),
            said: call.to_string(),
        })
    }

    pub(crate) fn pid(&self) -> u64 {
        self.pid
    }

    /// The same call as a recording tells of it.
    pub(crate) fn on_the_wire(mut self) -> Self {
        self.side = "wire".to_owned();
        self.pid = 0;
        self
    }

    /// What both ends of a call write down alike, however it ends.
    fn identity(&self) -> (String, Option<u64>) {
        (self.method.clone(), self.timeout_ns)
    }

    fn was_given_up(&self) -> bool {
        matches!(self.outcome.as_str(), "deadline" | "cancelled")
    }

    /// What must be equal. The call type is what the messages show, which is all of them only if the call succeeded.
    fn key(&self) -> String {
        let Call { side, pid, method, outcome, request_messages, response_messages, .. } = self;
        let call_type = if outcome == "ok" { &self.call_type } else { "any type" };
        let status = match self.status {
            Some(1 | 4) | None if self.was_given_up() => "any".to_owned(),
            Some(status) => status.to_string(),
            None => "none".to_owned(),
        };
        let timeout = self.timeout_ns.map_or("none".to_owned(), |ns| format!("{ns} ns"));
        format!(
            "{side} {pid} {method} {call_type}: {outcome}, status {status}, timeout {timeout}, \
             {request_messages} → {response_messages} messages"
        )
    }

    /// True if `seen` may be this call, ended so near to its timeout that either word for it is right.
    fn is_borderline_for(&self, seen: &Call) -> bool {
        let near = match (self.timeout_ns, seen.duration_ns) {
            (Some(timeout), Some(duration)) => {
                timeout.abs_diff(duration) <= timeout / 100 * BORDERLINE_PERCENT
            }
            _ => false,
        };
        let renamed = Call { outcome: self.outcome.clone(), ..seen.clone() };
        // An observer that does not dare to say which of the two says `unknown`.
        let leaves_it_open = seen.was_given_up() || seen.outcome == "unknown";
        near && self.was_given_up() && leaves_it_open && renamed.key() == self.key()
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n  {}", self.key(), self.said)
    }
}

/// What is left when everything that agrees is taken away.
#[derive(Debug, Default)]
pub(crate) struct Comparison {
    /// Made, and not seen so.
    pub(crate) missing: Vec<Call>,
    /// Seen, and not made so.
    pub(crate) invented: Vec<Call>,
    /// Agreed, but for deadline and cancellation near the timeout.
    pub(crate) borderline: usize,
    /// Given up before the request was on the wire.
    pub(crate) unsent: usize,
}

impl Comparison {
    pub(crate) fn of(made: Vec<Call>, seen: Vec<Call>) -> Self {
        let mut answered: BTreeMap<_, usize> = BTreeMap::new();
        for call in made.iter().filter(|call| call.side == "server") {
            *answered.entry(call.identity()).or_default() += 1;
        }
        // Those that were answered find their counterpart first.
        for call in made.iter().filter(|call| call.side == "client" && !call.was_given_up()) {
            if let Some(count) = answered.get_mut(&call.identity()) {
                *count = count.saturating_sub(1);
            }
        }
        let mut open: BTreeMap<String, Vec<Call>> = BTreeMap::new();
        for call in made {
            open.entry(call.key()).or_default().push(call);
        }
        let mut invented: Vec<Call> =
            seen.into_iter().filter(|call| open.get_mut(&call.key()).and_then(Vec::pop).is_none()).collect();
        let mut missing: Vec<Call> = open.into_values().flatten().collect();

        let before = missing.len();
        missing.retain(|made| match invented.iter().position(|seen| made.is_borderline_for(seen)) {
            Some(index) => {
                invented.swap_remove(index);
                false
            }
            None => true,
        });
        let borderline = before - missing.len();

        let before = missing.len();
        missing.retain(|made| {
            let has_server = answered.get(&made.identity()).is_some_and(|count| *count > 0);
            made.side != "client" || !made.was_given_up() || has_server
        });
        let unsent = before - missing.len();
        Comparison { missing, invented, borderline, unsent }
    }

    /// Calls that differ: one made and one seen otherwise are one mismatch.
    pub(crate) fn mismatches(&self) -> usize {
        self.missing.len().max(self.invented.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(changes: &Value) -> Call {
        let mut call = serde_json::json!({
            "side": "client", "pid": 7, "method": "/a.B/C", "call_type": "unary", "outcome": "ok", "status": 0,
            "timeout_ns": 300_000_000_u64, "request_messages": 1, "response_messages": 1, "duration_ns": 5_000_000,
        });
        for (name, value) in changes.as_object().expect("changes are an object") {
            call[name.as_str()] = value.clone();
        }
        Call::of_observer(&call).expect("a whole call")
    }

    fn compare(made: &Value, seen: &Value) -> Comparison {
        Comparison::of(vec![call(made)], vec![call(seen)])
    }

    #[test]
    fn the_same_calls_in_another_order_agree() {
        let (a, b) = (call(&serde_json::json!({})), call(&serde_json::json!({"method": "/a.B/D"})));
        let comparison = Comparison::of(vec![a.clone(), b.clone(), a.clone()], vec![b, a.clone(), a]);
        assert_eq!((comparison.mismatches(), comparison.borderline), (0, 0));
    }

    #[test]
    fn every_field_that_differs_is_a_mismatch() {
        for (field, value) in [
            ("side", serde_json::json!("server")),
            ("pid", serde_json::json!(8)),
            ("method", serde_json::json!("/a.B/D")),
            ("method", Value::Null),
            ("call_type", serde_json::json!("unknown")),
            ("outcome", serde_json::json!("error")),
            ("status", serde_json::json!(5)),
            ("status", Value::Null),
            ("timeout_ns", Value::Null),
            ("timeout_ns", serde_json::json!(300_000_001_u64)),
            ("request_messages", serde_json::json!(2)),
            ("response_messages", serde_json::json!(0)),
        ] {
            let comparison = compare(&serde_json::json!({}), &serde_json::json!({field: value}));
            assert_eq!(comparison.mismatches(), 1, "{field} = {value}");
        }
    }

    #[test]
    fn a_call_that_is_missing_or_seen_twice_is_a_mismatch() {
        let one = call(&serde_json::json!({}));
        assert_eq!(Comparison::of(vec![one.clone()], vec![]).mismatches(), 1);
        assert_eq!(Comparison::of(vec![one.clone()], vec![one.clone(), one]).mismatches(), 1);
    }

    #[test]
    fn only_a_call_that_was_given_up_and_that_no_server_knows_may_be_unseen() {
        let cancelled = call(&serde_json::json!({"outcome": "cancelled", "status": null}));
        let unsent = Comparison::of(vec![cancelled.clone()], vec![]);
        assert_eq!((unsent.mismatches(), unsent.unsent), (0, 1));

        let known =
            call(&serde_json::json!({"side": "server", "pid": 8, "outcome": "cancelled", "status": null}));
        let missed = Comparison::of(vec![cancelled.clone(), known.clone()], vec![known.clone()]);
        assert_eq!((missed.mismatches(), missed.unsent), (1, 0));

        let answered = call(&serde_json::json!({}));
        let its_server = call(&serde_json::json!({"side": "server", "pid": 8}));
        let both = vec![answered.clone(), its_server.clone()];
        let beside = Comparison::of([both.clone(), vec![cancelled]].concat(), both);
        assert_eq!((beside.mismatches(), beside.unsent), (0, 1));
    }

    #[test]
    fn the_status_of_a_given_up_call_may_be_the_other_ends_answer_but_no_error() {
        let made = serde_json::json!({"outcome": "deadline", "status": null});
        assert_eq!(compare(&made, &serde_json::json!({"outcome": "deadline", "status": 1})).mismatches(), 0);
        assert_eq!(compare(&made, &serde_json::json!({"outcome": "deadline", "status": 4})).mismatches(), 0);
        assert_eq!(compare(&made, &serde_json::json!({"outcome": "deadline", "status": 14})).mismatches(), 1);
    }

    #[test]
    fn only_beside_the_deadline_may_a_cancellation_be_called_one() {
        let made = serde_json::json!({"outcome": "deadline", "status": null});
        let seen = |duration_ns: u64| serde_json::json!({"outcome": "cancelled", "status": null, "duration_ns": duration_ns});
        let near = compare(&made, &seen(290_000_000));
        assert_eq!((near.mismatches(), near.borderline), (0, 1));
        let open = serde_json::json!({"outcome": "unknown", "status": null, "duration_ns": 290_000_000});
        let open = compare(&made, &open);
        assert_eq!((open.mismatches(), open.borderline), (0, 1));
        let far = compare(&made, &seen(220_000_000));
        assert_eq!((far.mismatches(), far.borderline), (1, 0));
    }
}
