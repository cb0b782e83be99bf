//! The live table: a line for each method, both sides beside each other.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};

use super::compare::Call;

/// What was seen of one method.
#[derive(Default)]
struct Method {
    client: Side,
    server: Side,
    errors: usize,
    deadlines: usize,
    cancelled: usize,
}

/// What was seen of it on one side.
#[derive(Default)]
struct Side {
    calls: usize,
    durations_ns: Vec<u64>,
}

impl Side {
    fn take(&mut self, call: &Call) {
        self.calls += 1;
        self.durations_ns.extend(call.duration_ns);
    }

    /// The duration that so many hundredths of the calls stay below.
    fn percentile(&mut self, hundredths: usize) -> String {
        self.durations_ns.sort_unstable();
        let index =
            (self.durations_ns.len() * hundredths / 100).min(self.durations_ns.len().saturating_sub(1));
        match self.durations_ns.get(index) {
            Some(&ns) if ns < 9_950_000 => format!("{:.1} ms", ns as f64 / 1e6),
            Some(&ns) if ns < 999_500_000 => format!("{:.0} ms", ns as f64 / 1e6),
            Some(&ns) => format!("{:.1} s", ns as f64 / 1e9),
            None => "–".to_owned(),
        }
    }
}

/// Collects calls and shows them.
pub(crate) struct Table {
    methods: BTreeMap<String, Method>,
    /// Lines of the last picture, to be painted over.
    painted: usize,
}

impl Table {
    pub(crate) fn new() -> Self {
        Table { methods: BTreeMap::new(), painted: 0 }
    }

    pub(crate) fn take(&mut self, call: &Call) {
        let method = self.methods.entry(call.method.trim_start_matches('/').to_owned()).or_default();
        // A call is counted as what it was on the client's side; a recording has one side only.
        let counts_outcome = match call.side.as_str() {
            "server" => {
                method.server.take(call);
                false
            }
            _ => {
                method.client.take(call);
                true
            }
        };
        if counts_outcome {
            match call.outcome.as_str() {
                "ok" => {}
                "deadline" => method.deadlines += 1,
                "cancelled" => method.cancelled += 1,
                _ => method.errors += 1,
            }
        }
    }

    /// Paints it over the last one, if standard error is a terminal.
    pub(crate) fn repaint(&mut self, headline: &str) {
        if std::io::stderr().is_terminal() {
            self.paint(headline);
        }
    }

    /// Paints it for good.
    pub(crate) fn paint(&mut self, headline: &str) {
        let mut text = String::new();
        if self.painted > 0 {
            // Up to the first line of the last picture, and clear from there.
            let _ = write!(text, "\x1b[{}A\x1b[J", self.painted);
        }
        let picture = format!("{headline}\n{}", self.text());
        self.painted = if std::io::stderr().is_terminal() { picture.lines().count() } else { 0 };
        text.push_str(&picture);
        // A closed terminal is no reason to stop comparing.
        let _ = std::io::stderr().write_all(text.as_bytes());
    }

    fn text(&mut self) -> String {
        // A recording has no sides.
        let has_sides = self.methods.values().any(|method| method.server.calls > 0);
        let mut text =
            format!("{:<32} {:>13} {:>6} {:>8} {:>9}", "METHOD", "CALLS", "ERRORS", "DEADLINE", "CANCELLED");
        let headings: &[&str] =
            if has_sides { &["CLIENT p50", "p99", "SERVER p50", "p99"] } else { &["p50", "p99"] };
        for heading in headings {
            let _ = write!(text, " {heading:>11}");
        }
        text.push('\n');
        for (name, method) in &mut self.methods {
            let Method { client, server, errors, deadlines, cancelled } = method;
            let mut calls = client.calls.to_string();
            if has_sides {
                let _ = write!(calls, " / {}", server.calls);
            }
            let _ = write!(text, "{name:<32} {calls:>13} {errors:>6} {deadlines:>8} {cancelled:>9}");
            let sides = if has_sides { vec![client, server] } else { vec![client] };
            for side in sides {
                let _ = write!(text, " {:>11} {:>11}", side.percentile(50), side.percentile(99));
            }
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(side: &str, outcome: &str, duration_ns: u64) -> Call {
        let call = serde_json::json!({
            "side": side, "method": "/a.B/C", "call_type": "unary", "outcome": outcome, "status": null,
            "request_messages": 1, "response_messages": 1, "duration_ns": duration_ns,
        });
        Call::of_observer(&call).expect("a whole call")
    }

    #[test]
    fn a_call_that_both_sides_saw_is_one_line_and_one_error() {
        let mut table = Table::new();
        for side in ["client", "server"] {
            table.take(&call(side, "error", 12_000_000));
            table.take(&call(side, "ok", 1_500_000_000));
        }
        let text = table.text();
        let words: Vec<&str> =
            text.lines().nth(1).expect("a line for the method").split_whitespace().collect();
        assert_eq!(
            words,
            ["a.B/C", "2", "/", "2", "1", "0", "0", "1.5", "s", "1.5", "s", "1.5", "s", "1.5", "s"]
        );
    }

    #[test]
    fn a_recording_has_one_column_of_durations() {
        let mut table = Table::new();
        table.take(&call("wire", "deadline", 300_000_000));
        let text = table.text();
        let words: Vec<&str> =
            text.lines().nth(1).expect("a line for the method").split_whitespace().collect();
        assert_eq!(words, ["a.B/C", "1", "0", "1", "0", "300", "ms", "300", "ms"]);
    }
}
