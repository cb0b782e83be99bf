//! Makes text from the wire harmless: no byte of it can move a cursor, colour a terminal, break a line or
//! turn the reading direction.

use std::fmt::{self, Write};

/// The character must not reach a terminal, a log or a line of JSON as it is.
///
/// Control characters of both sets (C0 with DEL, and C1, which some terminals obey like escape sequences),
/// line and paragraph separators, and the characters that embed or override the reading direction.
#[must_use]
pub fn is_hostile(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// Displays text with hostile characters as `\n`, `\t`, `\x1b` or `\u{202e}`, and a backslash as `\\`.
#[derive(Clone, Copy, Debug)]
pub struct Escaped<'a>(pub &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut plain_from = 0;
        for (at, c) in self.0.char_indices() {
            if !is_hostile(c) && c != '\\' {
                continue;
            }
            f.write_str(&self.0[plain_from..at])?;
            plain_from = at + c.len_utf8();
            match c {
                '\\' => f.write_str("\\\\")?,
                '\n' => f.write_str("\\n")?,
                '\r' => f.write_str("\\r")?,
                '\t' => f.write_str("\\t")?,
                _ if u32::from(c) < 0x80 => write!(f, "\\x{:02x}", u32::from(c))?,
                _ => write!(f, "\\u{{{:x}}}", u32::from(c))?,
            }
        }
        f.write_str(&self.0[plain_from..])
    }
}

/// Shortens `text` to `width` characters: what misses at the front is shown as `…`, since the end of a method
/// name says more than its package.
pub fn write_end_of(out: &mut String, text: &str, width: usize) {
    let length = text.chars().count();
    if length <= width {
        out.push_str(text);
    } else if width > 0 {
        let _ = out.write_char('…');
        out.extend(text.chars().skip(length - (width - 1)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_ansi_sequences_and_direction_overrides_become_visible() {
        let hostile = "a\x1b[31mred\0\n\r\t\x7f\u{9b}2J\u{202e}evil\u{2028}\\";
        let shown = Escaped(hostile).to_string();
        assert_eq!(shown, r"a\x1b[31mred\x00\n\r\t\x7f\u{9b}2J\u{202e}evil\u{2028}\\");
        assert!(!shown.chars().any(is_hostile));
    }

    #[test]
    fn ordinary_text_of_any_language_stays_as_it_is() {
        let text = "/pkg.Größe/取得 é";
        assert_eq!(Escaped(text).to_string(), text);
    }

    #[test]
    fn a_long_name_keeps_its_end() {
        let mut out = String::new();
        write_end_of(&mut out, "/very.long.package.Service/Method", 16);
        assert_eq!(out, "….Service/Method");
        assert_eq!(out.chars().count(), 16);
    }
}
