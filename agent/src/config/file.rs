//! The configuration file: YAML in, settings or a line that says what is wrong and where out.

use std::fs;
use std::path::Path;

use super::{Config, ConfigError};

/// A configuration file is small; something larger is another file.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Reads the file at `path`.
///
/// # Errors
/// It cannot be read, is no YAML, has a key that is not known or a value that makes no sense.
pub fn read(path: &Path) -> Result<Config, ConfigError> {
    let shown = path.display();
    let bytes = fs::metadata(path).map(|metadata| metadata.len());
    let text = match bytes {
        Ok(bytes) if bytes > FILE_BYTES_MAX => {
            return Err(ConfigError(format!("{shown}: {bytes} bytes are too much for a configuration file")));
        }
        Ok(_) => fs::read_to_string(path),
        Err(error) => Err(error),
    };
    let text =
        text.map_err(|error| ConfigError(format!("{shown}: cannot read the configuration: {error}")))?;
    parse(&text).map_err(|error| ConfigError(format!("{shown}:{error}")))
}

/// Reads the text of a file.
///
/// # Errors
/// As [`read`]; the text begins with line and column.
pub fn parse(text: &str) -> Result<Config, ConfigError> {
    // Nothing but comments means nothing but defaults.
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(Config::default());
    }
    serde_saphyr::from_str(text).map_err(|error| ConfigError(describe(&error)))
}

fn describe(error: &serde_saphyr::Error) -> String {
    let error = error.without_snippet();
    let place = error.location().map(|at| format!("{}:{}: ", at.line(), at.column())).unwrap_or_default();
    let text = match error {
        serde_saphyr::Error::SerdeUnknownField { field, expected, .. } => {
            format!("unknown key `{field}`{}", advice(field, expected))
        }
        serde_saphyr::Error::SerdeUnknownVariant { variant, expected, .. } => {
            format!("unknown value `{variant}`{}", advice(variant, expected))
        }
        other => {
            let text = other.to_string();
            let first = text.lines().next().unwrap_or("not understood");
            // The text repeats the place, and names integers as Rust does.
            let text = first.rsplit_once(" at line ").map_or(first, |(text, _)| text);
            if text.starts_with("invalid u") { String::from("not a whole number") } else { text.to_owned() }
        }
    };
    format!("{place}{text}")
}

/// `, did you mean …?` where one of the possible words is near, and all of them otherwise.
fn advice(word: &str, possible: &[&str]) -> String {
    let nearest = possible.iter().map(|candidate| (distance(word, candidate), candidate)).min();
    match nearest {
        Some((distance, candidate)) if distance <= 1 + candidate.chars().count() / 4 => {
            format!(", did you mean `{candidate}`?")
        }
        _ => format!(", possible here: {}", possible.join(", ")),
    }
}

/// Single-character edits, and swaps of neighbours, that turn one word into the other.
fn distance(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=to.len()).collect()];
    for (i, a) in from.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, b) in to.iter().enumerate() {
            let mut best = (rows[i][j] + usize::from(a != b)).min(rows[i][j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *a == to[j - 1] && from[i - 1] == *b {
                best = best.min(rows[i - 1][j - 1] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[from.len()][to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distance_counts_edits_and_swaps() {
        for (from, to, expected) in
            [("", "abc", 3), ("lisen", "listen", 1), ("litsen", "listen", 1), ("a", "b", 1)]
        {
            assert_eq!(distance(from, to), expected, "{from} {to}");
        }
    }

    #[test]
    fn a_word_that_is_like_no_other_gets_the_list() {
        assert_eq!(advice("lisen", &["listen"]), ", did you mean `listen`?");
        assert_eq!(advice("port", &["listen", "other"]), ", possible here: listen, other");
    }
}
