//! The log: one line an event on the standard error, for people or as JSON.
//!
//! Times are RFC 3339 in UTC. No byte of a line but its end can be a control character, whatever a field
//! holds: what comes from the wire or from another process could otherwise forge lines or move the cursor.

use std::fmt::{self, Write as _};
use std::io::{IsTerminal, stderr};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::config::{LogConfig, LogFormat};
use crate::output::escape::Escaped;
use crate::output::{json, units};

/// Starts the log of this process.
///
/// # Errors
/// It was started before.
pub fn start(config: &LogConfig) -> anyhow::Result<()> {
    let line =
        Line { format: config.format, color: config.color.resolve(stderr().is_terminal()), now: now_ns };
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(config.level.as_str()))
        .with_writer(stderr)
        .event_format(line)
        .try_init()
        .map_err(|error| anyhow::anyhow!("start the log: {error}"))
}

fn now_ns() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX)
}

/// How an event becomes a line.
struct Line {
    format: LogFormat,
    color: bool,
    now: fn() -> u64,
}

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let metadata = event.metadata();
        // Events of the `log` crate carry their target in a field.
        let target = fields.log_target.take().unwrap_or_else(|| metadata.target().to_owned());
        self.write(writer, *metadata.level(), &target, fields)
    }
}

impl Line {
    fn write(&self, mut out: impl fmt::Write, level: Level, target: &str, fields: Fields) -> fmt::Result {
        let time = units::rfc3339((self.now)(), 6);
        match self.format {
            LogFormat::Json => {
                let mut object = Map::new();
                object.insert("ts".into(), time.into());
                object.insert("level".into(), level.as_str().to_lowercase().into());
                object.insert("target".into(), target.into());
                object.insert("msg".into(), fields.message.into());
                for (name, value) in fields.others {
                    object.entry(name).or_insert_with(|| value.into());
                }
                let mut line = Vec::new();
                json::write_line(&mut line, &Value::Object(object)).map_err(|_| fmt::Error)?;
                out.write_str(std::str::from_utf8(&line).map_err(|_| fmt::Error)?)
            }
            LogFormat::Text => {
                if self.color {
                    let color = match level {
                        Level::ERROR => 31,
                        Level::WARN => 33,
                        Level::INFO => 32,
                        Level::DEBUG => 36,
                        Level::TRACE => 35,
                    };
                    write!(out, "{time} \x1b[{color}m{level:5}\x1b[0m ")?;
                } else {
                    write!(out, "{time} {level:5} ")?;
                }
                write!(out, "{}: {}", Escaped(target), Escaped(&fields.message))?;
                for (name, value) in &fields.others {
                    write!(out, " {name}={}", Escaped(value))?;
                }
                out.write_str("\n")
            }
        }
    }
}

/// The fields of an event as text.
#[derive(Default)]
struct Fields {
    message: String,
    log_target: Option<String>,
    others: Vec<(String, String)>,
}

impl Fields {
    fn add(&mut self, field: &Field, value: String) {
        match field.name() {
            "message" => self.message = value,
            "log.target" => self.log_target = Some(value),
            name if name.starts_with("log.") => {}
            name => self.others.push((name.to_owned(), value)),
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value.to_owned());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let mut text = value.to_string();
        let mut source = value.source();
        while let Some(cause) = source {
            let _ = write!(text, ": {cause}");
            source = cause.source();
        }
        self.add(field, text);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(format: LogFormat) -> String {
        let fields = Fields {
            message: "cannot follow\n\x1b[31mfake".into(),
            log_target: None,
            others: vec![("path".into(), "/a\0b\u{9b}".into()), ("pid".into(), "7".into())],
        };
        let mut out = String::new();
        Line { format, color: false, now: || 1_795_340_250_137_301_000 }
            .write(&mut out, Level::WARN, "agent::capture", fields)
            .expect("a string takes everything");
        out
    }

    #[test]
    fn a_line_of_text_has_time_level_target_message_and_escaped_fields() {
        assert_eq!(
            line(LogFormat::Text),
            "2026-11-22T09:37:30.137301Z WARN  agent::capture: cannot follow\\n\\x1b[31mfake path=/a\\x00b\\u{9b} pid=7\n"
        );
    }

    #[test]
    fn a_line_of_json_has_the_same_in_fields_and_no_control_character() {
        let text = line(LogFormat::Json);
        assert!(!text.trim_end_matches('\n').chars().any(char::is_control), "{text:?}");
        let value: Value = serde_json::from_str(&text).expect("it is JSON");
        assert_eq!(value["ts"], "2026-11-22T09:37:30.137301Z");
        assert_eq!(value["level"], "warn");
        assert_eq!(value["msg"], "cannot follow\n\x1b[31mfake");
        assert_eq!(value["path"], "/a\0b\u{9b}");
    }
}
