//! `grpcscope explain`: what a finding means, and what to do about it.

use std::fmt::Write as _;
use std::io::{self, Write};

use agent_core::detectors::Name;
use anyhow::Context;

use crate::config::Config;
use crate::exit::Failure;
use crate::findings::explain::{Piece, kind, section};
use crate::findings::query;
use crate::output::terminal::Look;

/// Arguments of `explain`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ExplainArgs {
    /// The finding; without it, all of them are listed
    #[arg(value_name = "NAME", value_parser = query::name)]
    pub name: Option<Name>,
}

/// Columns of text where there is no terminal, and the most where there is: longer lines are hard to read.
const COLUMNS_MAX: usize = 100;

/// Prints the list, or the section of a finding.
///
/// # Errors
/// The output does not take it.
pub fn execute(args: &ExplainArgs, config: &Config) -> Result<(), Failure> {
    let look = Look::of_stdout(config.log.color);
    let text = match args.name {
        Some(name) => explained(name, look),
        None => listed(look),
    };
    match io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result.context("write to the standard output")?),
    }
}

fn listed(look: Look) -> String {
    let mut text = String::new();
    for name in Name::ALL {
        let summary = section(*name).map_or("", |section| section.summary());
        wrap(&mut text, look, &format!("{:24}  ", name.as_str()), summary);
    }
    text.push_str("\n`grpcscope explain NAME` says more.\n");
    text
}

fn explained(name: Name, look: Look) -> String {
    let Some(section) = section(name) else { return String::new() };
    let mut text = format!("{} ({})\n\n", bold(look, name.as_str()), kind(name));
    wrap(&mut text, look, "", section.summary());
    let mut settings = false;
    for piece in section.pieces() {
        match piece {
            Piece::Paragraph(part, paragraph) => {
                let part = part.map(|part| bold(look, part.trim_end_matches('.'))).unwrap_or_default();
                let _ = writeln!(text, "\n{part}");
                wrap(&mut text, look, "  ", paragraph);
            }
            Piece::Setting(language, setting) => {
                if !settings {
                    settings = true;
                    text.push('\n');
                }
                wrap(&mut text, look, &format!("  {language:12}  "), setting);
            }
        }
    }
    let thresholds = section.thresholds();
    if !thresholds.is_empty() {
        let _ = writeln!(text, "\n{}", bold(look, "Thresholds"));
    }
    for threshold in thresholds {
        let _ = writeln!(text, "  {}: {}", threshold.key, threshold.default);
        wrap(&mut text, look, "    ", &threshold.text);
    }
    text
}

fn bold(look: Look, text: &str) -> String {
    if look.color { format!("\x1b[1m{text}\x1b[0m") } else { text.to_owned() }
}

/// Writes `text` in lines that fit, the first one behind `first`, the others as far in.
fn wrap(out: &mut String, look: Look, first: &str, text: &str) {
    let indent = first.chars().count();
    let width = look.width.unwrap_or(COLUMNS_MAX).clamp(40, COLUMNS_MAX).max(indent + 20);
    out.push_str(first);
    let mut column = indent;
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if column > indent {
            if column + 1 + length > width {
                let _ = write!(out, "\n{:indent$}", "");
                column = indent;
            } else {
                out.push(' ');
                column += 1;
            }
        }
        out.push_str(word);
        column += length;
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_fit_and_lose_no_word() {
        for width in [None, Some(60), Some(200)] {
            for name in Name::ALL {
                let text = explained(*name, Look { color: false, width });
                let limit = width.unwrap_or(COLUMNS_MAX).min(COLUMNS_MAX);
                // A name is never broken, so a line that is too long has one word, or a name before it.
                let long = text.lines().filter(|line| line.chars().count() > limit);
                let broken = long.filter(|line| line.split_whitespace().count() > 2);
                assert_eq!(broken.collect::<Vec<_>>(), Vec::<&str>::new());
                let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
                let all = words(&text);
                for word in words(section(*name).expect("a section").summary()) {
                    assert!(all.contains(&word), "{word}");
                }
            }
        }
    }
}
