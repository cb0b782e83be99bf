//! Every id of the observer's checklist is named by a test, or ARCHITECTURE.md says why it does not apply.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What the checklist has: a letter, and the last number of that letter.
const CHECKLIST: [(char, u32); 11] = [
    ('c', 7),
    ('f', 8),
    ('s', 5),
    ('w', 9),
    ('h', 11),
    ('g', 13),
    ('d', 7),
    ('l', 6),
    ('r', 2),
    ('x', 3),
    ('m', 3),
];

/// Where the tests are.
const CRATES: [&str; 5] = ["agent-core", "agent-common", "agent", "xtask", "tests"];

#[test]
fn every_id_of_the_observers_checklist_has_a_test_that_names_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut named = BTreeSet::new();
    for name in CRATES {
        for path in sources(&root.join(name)) {
            let text = fs::read_to_string(&path).expect("read a source file");
            named.extend(tests(&text).filter_map(id_of));
        }
    }
    let architecture = fs::read_to_string(root.join("ARCHITECTURE.md")).expect("read ARCHITECTURE.md");
    let excused: BTreeSet<String> = excused(&architecture).collect();
    for (letter, last) in CHECKLIST {
        for number in 1..=last {
            let id = format!("{letter}{number}");
            assert!(
                named.contains(&id) || excused.contains(&id),
                "no test is named {id}_…, and ARCHITECTURE.md does not say why"
            );
        }
    }
}

#[test]
fn names_of_tests_are_found() {
    let text = "#[test]\nfn c5_a() {}\n    #[test]\n    #[ignore]\n    fn d1_b(x: u8) {}\nfn c9_helper() {}\n#[test]\nfn plain() {}";
    let found: Vec<&str> = tests(text).collect();
    assert_eq!(found, ["c5_a", "d1_b", "plain"]);
    assert_eq!(id_of("c5_a").as_deref(), Some("c5"));
    assert_eq!(id_of("h11_a").as_deref(), Some("h11"));
    assert_eq!(id_of("plain"), None);
    assert_eq!(id_of("a66_labels"), Some("a66".to_owned()));
    assert_eq!(excused("| G11 | never |\n| id | why |\n| W12 | x |").collect::<Vec<_>>(), ["g11", "w12"]);
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("list a folder") {
        let path = entry.expect("list a folder").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// Names of the functions that follow `#[test]`.
fn tests(text: &str) -> impl Iterator<Item = &str> {
    let mut is_test = false;
    text.lines().filter_map(move |line| {
        let line = line.trim_start();
        if line.starts_with("#[test]") {
            is_test = true;
        }
        let name = line.strip_prefix("fn ")?.split(['(', '<']).next()?;
        std::mem::take(&mut is_test).then_some(name)
    })
}

/// The id that a test's name starts with.
fn id_of(name: &str) -> Option<String> {
    let (id, _) = name.split_once('_')?;
    let digits = id.strip_prefix(|letter: char| letter.is_ascii_lowercase())?;
    (!digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit())).then(|| id.to_owned())
}

/// Ids in the first column of a table.
fn excused(architecture: &str) -> impl Iterator<Item = String> {
    architecture.lines().filter_map(|line| {
        let id = line.strip_prefix("| ")?.split(" |").next()?.to_ascii_lowercase();
        id_of(&format!("{id}_"))
    })
}
