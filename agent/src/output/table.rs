//! Calls as lines for people: columns that stay in place, as wide as the terminal allows.

use std::fmt::Write as _;
use std::io::{self, Write};

use agent_core::observation::{Messages, Outcome, StatusSource, Timeout};

use super::call::{CallLine, outcome_name, status_name};
use super::escape::{Escaped, write_end_of};
use super::terminal::Look;
use super::units;

/// Width of the method's column where the terminal does not limit it.
const METHOD_COLUMNS: usize = 36;
/// Narrowest useful width of the method's column.
const METHOD_COLUMNS_MIN: usize = 16;
/// Columns that everything but the method takes.
const OTHER_COLUMNS: usize = 12 + 2 + 43 + 2 + 2 + 9 + 2 + 19 + 2 + 7 + 2 + 20 + 2 + 9 + 2 + 17;

/// Writes calls as lines.
pub struct Table {
    look: Look,
    method_columns: usize,
}

impl Table {
    /// A table for an output that looks so.
    #[must_use]
    pub fn new(look: Look) -> Self {
        let method_columns = match look.width {
            Some(width) => width.saturating_sub(OTHER_COLUMNS).clamp(METHOD_COLUMNS_MIN, 80),
            None => METHOD_COLUMNS,
        };
        Table { look, method_columns }
    }

    /// Writes the names of the columns.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_header(&self, out: &mut impl Write) -> io::Result<()> {
        let columns = [
            ("TIME", 12),
            ("CLIENT → SERVER", 43),
            ("METHOD", self.method_columns),
            ("OUTCOME", 9),
            ("STATUS", 19),
            ("TOOK", 7),
            ("DEADLINE", 20),
            ("MESSAGES", 9),
            ("BYTES", 0),
        ];
        let mut line = String::new();
        for (name, width) in columns {
            let _ = write!(line, "{name:width$}  ");
        }
        let line = self.fitting(line.trim_end());
        if self.look.color { writeln!(out, "\x1b[1m{line}\x1b[0m") } else { writeln!(out, "{line}") }
    }

    /// Writes a call.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_call(&self, out: &mut impl Write, line: &CallLine) -> io::Result<()> {
        let call = &line.call;
        let mut text = String::new();
        let _ = write!(text, "{}  ", units::time_of_day(line.start_unix_ns(), 3));

        let ends = match (&line.client, &line.server) {
            (Some(client), Some(server)) => format!("{} → {}", Escaped(client), Escaped(server)),
            (Some(client), None) => format!("{} → ?", Escaped(client)),
            (None, Some(server)) => format!("? → {}", Escaped(server)),
            (None, None) => String::from("? → ?"),
        };
        let _ = write!(text, "{ends:43}  ");

        let method = call.method.as_deref().unwrap_or("unresolved");
        let mut shown = String::new();
        match self.look.width {
            Some(_) => write_end_of(&mut shown, &Escaped(method).to_string(), self.method_columns),
            None => shown = Escaped(method).to_string(),
        }
        let _ = write!(text, "{shown:width$}  ", width = self.method_columns);

        let outcome_from = text.len();
        let outcome = if call.outcome == Outcome::Refused { "refused" } else { outcome_name(call.outcome) };
        text.push_str(outcome);
        let outcome_to = text.len();
        let _ = write!(text, "{:pad$}  ", "", pad = 9 - outcome.len());

        let took = line.duration_ns().map_or_else(|| String::from("-"), units::duration);
        let messages = format!("{}/{}", count(call.request), count(call.response));
        let bytes = format!("{}/{}", size(call.request), size(call.response));
        let _ = write!(text, "{:19}  {took:7}  {:20}  {messages:9}  {bytes}", status(line), deadline(line));

        let fitting = self.fitting(text.trim_end());
        if self.look.color && fitting.len() >= outcome_to {
            let (before, rest) = fitting.split_at(outcome_from);
            let (word, after) = rest.split_at(outcome_to - outcome_from);
            writeln!(out, "{before}\x1b[{}m{word}\x1b[0m{after}", color(call.outcome))
        } else {
            writeln!(out, "{fitting}")
        }
    }

    /// The part of a line that fits the terminal: a line that wraps is harder to read than one that is cut.
    fn fitting<'a>(&self, line: &'a str) -> &'a str {
        let end = self.look.width.and_then(|width| line.char_indices().nth(width)).map(|(at, _)| at);
        &line[..end.unwrap_or(line.len())]
    }
}

/// ANSI colour of an outcome.
fn color(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Ok => 32,
        Outcome::Error | Outcome::Refused | Outcome::Aborted => 31,
        Outcome::Deadline => 35,
        Outcome::Cancelled => 33,
        Outcome::Open | Outcome::Unknown => 36,
    }
}

/// The status, in brackets where it was not sent but follows from something else.
fn status(line: &CallLine) -> String {
    let call = &line.call;
    match (call.status, call.status_source, call.rst_code) {
        (Some(status), StatusSource::Trailer | StatusSource::TrailersOnly, _) => {
            status_name(status).into_owned()
        }
        (Some(status), _, _) => format!("({})", status_name(status)),
        (None, _, Some(code)) => format!("RST {}", rst_name(code)),
        (None, _, None) => String::from("-"),
    }
}

/// The name of an HTTP/2 error code (RFC 9113 §7).
fn rst_name(code: u32) -> String {
    const NAMES: [&str; 14] = [
        "NO_ERROR",
        "PROTOCOL_ERROR",
        "INTERNAL_ERROR",
        "FLOW_CONTROL",
        "SETTINGS_TIMEOUT",
        "STREAM_CLOSED",
        "FRAME_SIZE",
        "REFUSED_STREAM",
        "CANCEL",
        "COMPRESSION",
        "CONNECT_ERROR",
        "ENHANCE_YOUR_CALM",
        "INADEQUATE_SECURITY",
        "HTTP_1_1_REQUIRED",
    ];
    NAMES.get(code as usize).map_or_else(|| code.to_string(), |name| (*name).to_owned())
}

/// The deadline as sent, and what was left of it: `5s, 4.99s left` or `50ms, 1.3ms over`.
fn deadline(line: &CallLine) -> String {
    match line.call.timeout {
        Timeout::Absent => String::from("-"),
        Timeout::Invalid => String::from("invalid"),
        Timeout::Unknown => String::from("?"),
        Timeout::Ns(timeout) => {
            let timeout = units::duration(timeout);
            match line.deadline_left_ns() {
                None => timeout,
                Some(left @ 0..) => format!("{timeout}, {} left", units::duration(left.unsigned_abs())),
                Some(over) => format!("{timeout}, {} over", units::duration(over.unsigned_abs())),
            }
        }
    }
}

fn count(messages: Messages) -> String {
    if messages.exact { messages.count.to_string() } else { format!("{}+", messages.count) }
}

fn size(messages: Messages) -> String {
    let size = units::bytes(messages.bytes);
    if messages.exact { size } else { format!("{size}+") }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use agent_core::observation::{Call, CallType, EndedBy, Traces};
    use agent_core::{ConnectionId, Flow, Timestamp};

    use super::*;

    fn line(method: &str, outcome: Outcome) -> CallLine {
        let start = Timestamp(1_795_340_250_137_706_000);
        let messages = Messages { count: 1, bytes: 77, exact: true };
        let call = Call {
            connection: ConnectionId(0),
            stream: 1,
            client_flow: Some(Flow::Sent),
            method: Some(Arc::from(method)),
            call_type: CallType::Unary,
            timeout: Timeout::Ns(5_000_000_000),
            started: Some(start),
            first_seen: start,
            first_response: None,
            ended: Some(start.plus(1_351_000)),
            outcome,
            status: Some(0),
            status_source: StatusSource::Trailer,
            ended_by: Some(EndedBy::Server),
            rst_code: None,
            http_status: Some(200),
            request: messages,
            response: Messages { exact: false, ..messages },
            previous_attempts: None,
            method_ref: None,
            retry_pushback: None,
            traces: Traces::default(),
            thread: 0,
        };
        CallLine {
            connection: 0,
            side: None,
            client: Some("127.0.0.1:42878".into()),
            server: Some("127.0.0.1:50061".into()),
            process: None,
            unix_offset_ns: 0,
            file: None,
            call,
        }
    }

    fn shown(look: Look, line: &CallLine) -> String {
        let mut out = Vec::new();
        Table::new(look).write_call(&mut out, line).expect("a vector takes everything");
        String::from_utf8(out).expect("lines are UTF-8")
    }

    #[test]
    fn a_call_is_one_line_with_everything_in_its_column() {
        let text = shown(Look { color: false, width: None }, &line("/corp.test.Echo/Unary", Outcome::Ok));
        assert_eq!(
            text,
            "09:37:30.137  127.0.0.1:42878 → 127.0.0.1:50061            /corp.test.Echo/Unary                 ok         \
             OK                   1.35ms   5s, 4.99s left        1/1+       77B/77B+\n"
        );
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        for width in [20, 80, 120, 200] {
            let long = line(&format!("/{}/Method", "package.".repeat(40)), Outcome::Deadline);
            let text = shown(Look { color: false, width: Some(width) }, &long);
            assert!(text.trim_end_matches('\n').chars().count() <= width, "{text}");
        }
    }

    #[test]
    fn hostile_method_names_stay_on_their_line_without_colours() {
        let text = shown(Look { color: false, width: None }, &line("/a\n\x1b[2J/b", Outcome::Ok));
        assert_eq!(text.matches('\n').count(), 1);
        assert!(text.contains(r"/a\n\x1b[2J/b"), "{text}");
    }

    #[test]
    fn colours_change_nothing_but_colours() {
        let call = line("/corp.test.Echo/Unary", Outcome::Cancelled);
        let plain = shown(Look { color: false, width: None }, &call);
        let colored = shown(Look { color: true, width: None }, &call);
        assert_eq!(colored.replace("\x1b[33m", "").replace("\x1b[0m", ""), plain);
        assert_ne!(colored, plain);
    }
}
