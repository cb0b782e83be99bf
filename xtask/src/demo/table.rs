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
        let mut text = format!(
            "{:<32} {:>13} {:>6} {:>8} {:>9}   {:>8} {:>8}   {:>8} {:>8}\n",
            "METHOD", "CALLS C / S", "ERRORS", "DEADLINE", "CANCELLED", "C p50", "C p99", "S p50", "S p99"
        );
        for (name, method) in &mut self.methods {
            let Method { client, server, errors, deadlines, cancelled } = method;
            let calls = format!("{} / {}", client.calls, server.calls);
            let _ = writeln!(
                text,
                "{name:<32} {calls:>13} {errors:>6} {deadlines:>8} {cancelled:>9}   {:>8} {:>8}   {:>8} {:>8}",
                client.percentile(50),
                client.percentile(99),
                server.percentile(50),
                server.percentile(99)
            );
        }
        text
    }
}
