//! Findings as lines for people.

use std::fmt::Write as _;
use std::io::{self, Write};

use serde::Serialize;

use super::escape::Escaped;
use super::json;
use super::terminal::Look;
use super::units;
use crate::findings::{Answer, Entry};

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
        self.write_bold(out, &line)
    }

    /// Writes a finding with the time at which it was made.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_entry(&self, out: &mut impl Write, entry: &Entry) -> io::Result<()> {
        let time = units::time_of_day(unix_ns(entry.last_seen), 3);
        let mut text = format!("{time}  {:20}  {:24}  ", service(entry), entry.finding);
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

    /// Writes the agent's list: each entry with its evidence below it.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_answer(&self, out: &mut impl Write, answer: &Answer) -> io::Result<()> {
        let shown = || answer.findings.iter().filter(|entry| entry.verdict != "undecided");
        if shown().next().is_none() {
            writeln!(out, "nothing found")?;
        } else {
            let header =
                format!("{:>7}  {:8}  {:20}  {:24}  {}", "COUNT", "LAST", "SERVICE", "FINDING", "WHAT");
            self.write_bold(out, &header)?;
        }
        for entry in shown() {
            let time = units::time_of_day(unix_ns(entry.last_seen), 0);
            let name =
                if entry.verdict == "quiet" { format!("({})", entry.finding) } else { entry.finding.clone() };
            let mut text =
                format!("{:>7}  {time}  {:20}  {name:24}  {}", entry.count, service(entry), what(entry));
            text.truncate(text.trim_end().len());
            writeln!(out, "{}", self.fitting(&text))?;
            let evidence = evidence(entry);
            if !evidence.is_empty() {
                let text = format!("{:65}{evidence}", "");
                writeln!(out, "{}", self.fitting(&text))?;
            }
        }
        if !answer.undecided.is_empty() {
            let counts = answer.undecided.iter();
            let counts: Vec<String> = counts
                .map(|undecided| format!("{} {}", undecided.count, Escaped(&undecided.finding)))
                .collect();
            writeln!(out, "\ncould not be told: {}", counts.join(", "))?;
        }
        if answer.forgotten > 0 {
            writeln!(out, "{} older entries are not listed any more", answer.forgotten)?;
        }
        Ok(())
    }

    fn write_bold(&self, out: &mut impl Write, line: &str) -> io::Result<()> {
        let line = self.fitting(line);
        if self.look.color { writeln!(out, "\x1b[1m{line}\x1b[0m") } else { writeln!(out, "{line}") }
    }

    /// The part of a line that fits the terminal.
    fn fitting<'a>(&self, line: &'a str) -> &'a str {
        let end = self.look.width.and_then(|width| line.char_indices().nth(width)).map(|(at, _)| at);
        &line[..end.unwrap_or(line.len())]
    }
}

/// A finding as a line of JSON.
#[derive(Serialize)]
struct Line<'a> {
    r#type: &'static str,
    time: f64,
    connection: Option<u64>,
    stream: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<&'a str>,
    #[serde(flatten)]
    entry: &'a Entry,
}

/// Writes a single finding as a line of JSON; `file` is the recording, where there are several.
///
/// # Errors
/// Those of `out`.
pub fn write_json(out: &mut impl Write, entry: &Entry, file: Option<&str>) -> io::Result<()> {
    let (connection, stream) =
        entry.example.as_ref().map(|example| (example.connection, example.stream)).unzip();
    let (time, stream) = (entry.last_seen, stream.flatten());
    json::write_line(out, &Line { r#type: "finding", time, connection, stream, file, entry })
}

/// Below zero, and what does not fit, becomes the nearest that does.
fn unix_ns(seconds: f64) -> u64 {
    (seconds * 1e9) as u64
}

fn service(entry: &Entry) -> String {
    Escaped(entry.service_name.as_deref().unwrap_or("-")).to_string()
}

/// Cause, link, numbers, and where to look: what the sentence may leave out.
fn evidence(entry: &Entry) -> String {
    let mut parts = Vec::new();
    parts.extend(entry.cause.as_ref().map(|cause| format!("cause {cause}")));
    parts.extend(entry.link.as_ref().map(|link| format!("by {link}")));
    parts.extend(entry.evidence.iter().map(|(name, value)| match value {
        serde_json::Value::String(word) => format!("{name} {word}"),
        number => format!("{name} {number}"),
    }));
    parts.extend(entry.pid.map(|pid| format!("pid {pid}")));
    parts.extend(entry.example.as_ref().map(|example| {
        let stream = example.stream.map(|stream| format!(" stream {stream}")).unwrap_or_default();
        match (&example.client, &example.server) {
            (Some(client), Some(server)) => format!("{client} → {server}{stream}"),
            (Some(_) | None, _) => format!("connection {}{stream}", example.connection),
        }
    }));
    Escaped(&parts.join(", ")).to_string()
}

/// Whom a finding is about, and what it says.
#[must_use]
pub fn what(entry: &Entry) -> String {
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
