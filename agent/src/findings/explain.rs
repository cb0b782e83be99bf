//! What each finding means, and what to do about it: the sections of `docs/findings.md`, which is part of the program.
//!
//! The page is written by hand but for two tables, which come from the code: the names, and the thresholds with their
//! defaults. Tests hold that it has all parts of every finding and that the tables are right.

use agent_core::detectors::Name;

use crate::config::findings::{Documented, FindingsConfig};

/// The page.
const PAGE: &str = include_str!("../../../docs/findings.md");

/// Begins the part of a section that names its thresholds.
const THRESHOLDS: &str = "**Thresholds.** ";

/// A section of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Section {
    text: &'static str,
}

/// A piece of a section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// A paragraph, with the word that it begins with in bold.
    Paragraph(Option<&'static str>, &'static str),
    /// A language, and the settings that it has.
    Setting(&'static str, &'static str),
}

/// The section of a finding. Every finding has one; a test holds that.
#[must_use]
pub fn section(name: Name) -> Option<Section> {
    let heading = format!("\n## {}\n", name.as_str());
    let (_, rest) = PAGE.split_once(heading.as_str())?;
    let text = rest.split("\n## ").next()?.split("\n# ").next()?;
    Some(Section { text: text.trim() })
}

impl Section {
    /// What the finding says, in a sentence.
    #[must_use]
    pub fn summary(&self) -> &'static str {
        self.text.lines().next().unwrap_or_default()
    }

    /// Its paragraphs and settings, without the summary and the thresholds.
    pub fn pieces(&self) -> impl Iterator<Item = Piece> + use<> {
        let blocks = self.text.split("\n\n").skip(1).filter(|block| !block.starts_with(THRESHOLDS));
        blocks.flat_map(|block| -> Box<dyn Iterator<Item = Piece>> {
            if block.starts_with('|') {
                return Box::new(block.lines().skip(2).filter_map(|row| {
                    let (language, setting) = row.trim_matches('|').split_once('|')?;
                    Some(Piece::Setting(language.trim(), setting.trim()))
                }));
            }
            let bold = block.strip_prefix("**").and_then(|rest| rest.split_once("**"));
            let (bold, text) = bold.map_or((None, block), |(bold, text)| (Some(bold), text.trim_start()));
            Box::new(std::iter::once(Piece::Paragraph(bold, text)))
        })
    }

    /// The thresholds that it names.
    #[must_use]
    pub fn thresholds(&self) -> Vec<Documented> {
        let line = self.text.lines().find_map(|line| line.strip_prefix(THRESHOLDS)).unwrap_or_default();
        let sections: Vec<String> = line
            .split('`')
            .filter(|text| text.starts_with("findings."))
            .map(|name| format!("{name}."))
            .collect();
        let documented = FindingsConfig::documented().into_iter();
        documented
            .filter(|one| sections.iter().any(|section| one.key.starts_with(section.as_str())))
            .collect()
    }
}

/// `problem` or `notice`, and whether it is an event or lasts.
#[must_use]
pub fn kind(name: Name) -> String {
    format!("{}, {}", name.level().as_str(), if name.lasts() { "lasts" } else { "event" })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const PARTS: [&str; 4] =
        ["What it means.", "Why it hurts.", "What the agent needs to see.", "What to change."];
    const LANGUAGES: [&str; 5] = ["Go", "Java", "C++, Python", "Node", "Rust (tonic)"];

    #[test]
    fn every_finding_is_explained_with_all_parts_and_all_languages() {
        for name in Name::ALL {
            let section = section(*name).unwrap_or_else(|| panic!("no section of {}", name.as_str()));
            let (mut parts, mut languages) = (Vec::new(), Vec::new());
            for piece in section.pieces() {
                let (what, text) = match piece {
                    Piece::Paragraph(part, text) => {
                        let part = part.unwrap_or_else(|| panic!("{}: {text:?} is no part", name.as_str()));
                        parts.push(part);
                        (part, text)
                    }
                    Piece::Setting(language, text) => {
                        languages.push(language);
                        (language, text)
                    }
                };
                assert!(text.len() > 8, "{}: {what} says nothing", name.as_str());
            }
            assert_eq!(
                (parts.as_slice(), languages.as_slice()),
                (&PARTS[..], &LANGUAGES[..]),
                "{}",
                name.as_str()
            );
            assert!(section.summary().ends_with('.'), "{}", name.as_str());
        }
    }

    #[test]
    fn every_section_is_a_finding_in_the_order_of_the_code() {
        let sections: Vec<&str> = PAGE.lines().filter_map(|line| line.strip_prefix("## ")).collect();
        let names: Vec<&str> = Name::ALL.iter().map(|name| name.as_str()).collect();
        assert_eq!(sections, names);
    }

    #[test]
    fn every_threshold_belongs_to_a_section_and_every_section_names_some_that_there_are() {
        let mut named = BTreeSet::new();
        for name in Name::ALL {
            let section = section(*name).expect("a section");
            let thresholds = section.thresholds();
            assert_eq!(thresholds.is_empty(), !section.text.contains(THRESHOLDS), "{}", name.as_str());
            named.extend(thresholds.into_iter().map(|documented| documented.key));
        }
        let all: BTreeSet<String> =
            FindingsConfig::documented().into_iter().map(|documented| documented.key).collect();
        assert_eq!(named, all);
    }

    #[test]
    fn the_page_of_findings_has_the_names_and_thresholds_of_the_code() {
        let index = Name::ALL.iter().map(|name| {
            let summary = section(*name).map_or("", |section| section.summary());
            format!("| [`{0}`](#{0}) | {1} | {summary} |\n", name.as_str(), kind(*name))
        });
        let index = format!("| finding | kind | says |\n|---|---|---|\n{}", index.collect::<String>());
        let thresholds = FindingsConfig::documented().into_iter().map(|documented| {
            format!("| `{}` | {} | {} |\n", documented.key, documented.default, documented.text)
        });
        let thresholds =
            format!("| setting | default | what it is |\n|---|---|---|\n{}", thresholds.collect::<String>());
        let page = between(&between(PAGE, "index", &index), "thresholds", &thresholds);
        if std::env::var_os("GRPCSCOPE_BLESS").is_some() {
            let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/findings.md");
            std::fs::write(path, &page).expect("the page can be written");
        } else {
            assert!(page == PAGE, "docs/findings.md is out of date: run the test with GRPCSCOPE_BLESS=1");
        }
    }

    fn between(page: &str, what: &str, table: &str) -> String {
        let begin = format!("<!-- {what} -->\n");
        let (before, rest) = page.split_once(&begin).expect("the table's place");
        let (_, after) = rest.split_once("<!-- end -->").expect("the table's end");
        format!("{before}{begin}\n{table}\n<!-- end -->{after}")
    }
}
