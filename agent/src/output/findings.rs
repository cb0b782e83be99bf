//! Findings as lines for people.

use std::fmt::Write as _;
use std::io::{self, Write};

use super::escape::Escaped;
use super::terminal::Look;
use super::units;
use crate::findings::Entry;

/// Writes findings as lines.
pub struct FindingLines {
    look: Look,
}

impl FindingLines {
    /// Lines for an output that looks so.
    #[must_use]
    pub fn new(look: Look) -> Self {
        FindingLines { look }
    }

    /// Writes the names of the columns.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_header(&self, out: &mut impl Write) -> io::Result<()> {
        let line = format!("{:12}  {:20}  {:24}  {}", "TIME", "SERVICE", "FINDING", "WHAT");
        let line = self.fitting(&line);
        if self.look.color { writeln!(out, "\x1b[1m{line}\x1b[0m") } else { writeln!(out, "{line}") }
    }

    /// Writes a finding with the time at which it was made.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_entry(&self, out: &mut impl Write, entry: &Entry) -> io::Result<()> {
        // Below zero, and what does not fit, becomes the nearest that does.
        let time = units::time_of_day((entry.last_seen * 1e9) as u64, 3);
        let service = Escaped(entry.service_name.as_deref().unwrap_or("-")).to_string();
        let mut text = format!("{time}  {service:20}  {:24}  ", entry.finding);
        match entry.verdict.as_str() {
            "firing" => {}
            "quiet" => text.push_str("over: "),
            verdict => {
                let _ = write!(text, "{verdict}: ");
            }
        }
        text.push_str(&what(entry));
        writeln!(out, "{}", self.fitting(text.trim_end()))
    }

    /// The part of a line that fits the terminal.
    fn fitting<'a>(&self, line: &'a str) -> &'a str {
        let end = self.look.width.and_then(|width| line.char_indices().nth(width)).map(|(at, _)| at);
        &line[..end.unwrap_or(line.len())]
    }
}

/// Whom a finding is about, and what it says.
fn what(entry: &Entry) -> String {
    let mut text = String::new();
    if let Some(method) = &entry.rpc_method {
        let _ = write!(text, "{} ", Escaped(method));
    }
    match (entry.side.as_deref(), entry.peer.as_deref()) {
        (Some("client"), Some(peer)) => {
            let _ = write!(text, "to {} ", Escaped(peer));
        }
        (Some("server"), Some(peer)) => {
            let _ = write!(text, "from {} ", Escaped(peer));
        }
        (Some(side), None) => {
            let _ = write!(text, "({side}) ");
        }
        (None, Some(peer)) => {
            let _ = write!(text, "with {} ", Escaped(peer));
        }
        (Some(_), Some(_)) | (None, None) => {}
    }
    let _ = write!(text, "{}", Escaped(&entry.sentence));
    text
}
