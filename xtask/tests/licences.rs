//! Every dependency may be used under a licence of the list in deny.toml, and comes from the registry.
//!
//! `cargo deny check` reads the same list and knows more; this is what every test run can afford.

use std::fs;

mod metadata;

use metadata::{list, text};

#[test]
fn every_dependency_has_a_licence_that_deny_toml_allows() {
    let allowed = allowed();
    let metadata = metadata::read();
    let forbidden: Vec<String> = list(&metadata, "packages")
        .iter()
        .filter(|package| !is_allowed(text(package, "license"), &allowed))
        .map(|package| format!("{} ({})", text(package, "name"), package["license"]))
        .collect();
    assert!(forbidden.is_empty(), "not allowed by deny.toml: {forbidden:?}");
}

#[test]
fn every_dependency_comes_from_the_registry() {
    let metadata = metadata::read();
    let strange: Vec<&str> = list(&metadata, "packages")
        .iter()
        .filter(|package| package["source"].as_str().is_some_and(|source| !source.starts_with("registry+")))
        .map(|package| text(package, "id"))
        .collect();
    assert!(strange.is_empty(), "from elsewhere than the registry: {strange:?}");
}

/// The list `allow` in the section `[licenses]` of deny.toml.
fn allowed() -> Vec<String> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../deny.toml");
    let toml = fs::read_to_string(path).expect("deny.toml can be read");
    let section =
        toml.split("\n[").find(|section| section.starts_with("licenses]")).expect("it has [licenses]");
    let (_, rest) = section.split_once("\nallow = [").expect("[licenses] has a list `allow`");
    let (items, _) = rest.split_once("\n]").expect("the list ends");
    let names: Vec<String> =
        items.lines().filter_map(|line| line.trim().split('"').nth(1)).map(str::to_owned).collect();
    assert!(names.iter().any(|name| name == "MIT"), "the list was not read: {names:?}");
    names
}

/// Whether an SPDX expression can be satisfied with licences of the list; `/` is an old way to write `OR`.
fn is_allowed(expression: &str, allowed: &[String]) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let tokens: Vec<&str> = spaced.split_whitespace().collect();
    let mut parser = Parser { tokens: &tokens, allowed };
    !tokens.is_empty() && parser.any_of() && parser.tokens.is_empty()
}

struct Parser<'a> {
    tokens: &'a [&'a str],
    allowed: &'a [String],
}

impl<'a> Parser<'a> {
    fn next(&mut self) -> &'a str {
        let (first, rest) = self.tokens.split_first().unwrap_or((&"", &[]));
        self.tokens = rest;
        first
    }

    fn has(&mut self, word: &str) -> bool {
        let is_next = self.tokens.first() == Some(&word);
        if is_next {
            self.next();
        }
        is_next
    }

    fn any_of(&mut self) -> bool {
        let mut result = self.all_of();
        while self.has("OR") {
            // Both sides have to be read, whatever the first one says.
            result |= self.all_of();
        }
        result
    }

    fn all_of(&mut self) -> bool {
        let mut result = self.one();
        while self.has("AND") {
            result &= self.one();
        }
        result
    }

    fn one(&mut self) -> bool {
        if self.has("(") {
            let result = self.any_of();
            return self.has(")") && result;
        }
        let mut licence = self.next().to_owned();
        if self.has("WITH") {
            licence = format!("{licence} WITH {}", self.next());
        }
        self.allowed.contains(&licence)
    }
}

#[test]
fn licence_expressions_are_read_as_spdx_defines_them() {
    let allowed = ["MIT", "Apache-2.0", "Unicode-3.0"].map(str::to_owned);
    for expression in ["MIT", "GPL-2.0-only OR MIT", "MIT/Apache-2.0", "(MIT OR Zlib) AND Unicode-3.0"] {
        assert!(is_allowed(expression, &allowed), "{expression}");
    }
    for expression in [
        "",
        "GPL-2.0-only",
        "MIT AND Zlib",
        "(MIT OR Zlib) AND Zlib",
        "Apache-2.0 WITH LLVM-exception",
        "MIT MIT",
    ] {
        assert!(!is_allowed(expression, &allowed), "{expression}");
    }
}
