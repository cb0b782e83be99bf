//! The text format 0.0.4 of Prometheus.
//!
//! `prometheus-client` writes OpenMetrics only, which differs: there a counter's TYPE line has no `_total`,
//! and types, units and an end mark exist that 0.0.4 does not know.

use std::fmt::{self, Write};

use super::catalogue::Family;
use super::exposition::{Families, Labels, Rows, Value};

/// Writes 0.0.4.
#[derive(Default)]
pub(super) struct Text {
    pub(super) out: String,
}

impl Families for Text {
    fn family(&mut self, family: &'static Family, rows: &Rows<'_>) -> fmt::Result {
        writeln!(self.out, "# HELP {} {}", family.name, escaped(family.help, false))?;
        writeln!(self.out, "# TYPE {} {}", family.name, family.kind.as_str())?;
        for (labels, value) in rows {
            match value {
                Value::Whole(value) => self.sample(family.name, "", labels, None, *value)?,
                Value::Real(value) => self.sample(family.name, "", labels, None, Float(*value))?,
                Value::Histogram(histogram) => {
                    let mut cumulated = 0u64;
                    for (bound, count) in histogram.classic() {
                        cumulated += count;
                        self.sample(family.name, "_bucket", labels, Some(Float(bound)), cumulated)?;
                    }
                    self.sample(family.name, "_sum", labels, None, Float(histogram.sum()))?;
                    self.sample(family.name, "_count", labels, None, histogram.count())?;
                }
            }
        }
        Ok(())
    }
}

impl Text {
    fn sample(
        &mut self,
        name: &str,
        suffix: &str,
        labels: &Labels,
        bound: Option<Float>,
        value: impl fmt::Display,
    ) -> fmt::Result {
        self.out.write_str(name)?;
        self.out.write_str(suffix)?;
        let mut separator = '{';
        for (name, value) in labels {
            write!(self.out, "{separator}{name}=\"{}\"", escaped(value, true))?;
            separator = ',';
        }
        if let Some(bound) = bound {
            write!(self.out, "{separator}le=\"{bound}\"")?;
            separator = ',';
        }
        if separator == ',' {
            self.out.write_char('}')?;
        }
        writeln!(self.out, " {value}")
    }
}

/// A number as OpenMetrics writes it too (`1.0`, not `1`), so that a bucket has the same name in both.
struct Float(f64);

impl fmt::Display for Float {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == f64::INFINITY { f.write_str("+Inf") } else { write!(f, "{:?}", self.0) }
    }
}

/// Escapes backslash and line feed, and in a label's value the quote.
fn escaped(text: &str, quote: bool) -> impl fmt::Display + '_ {
    fmt::from_fn(move |f| {
        for character in text.chars() {
            match character {
                '\\' => f.write_str("\\\\")?,
                '\n' => f.write_str("\\n")?,
                '"' if quote => f.write_str("\\\"")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    })
}
