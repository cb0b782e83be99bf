//! docs/threats.md names tests that exist.

use std::fs;
use std::path::Path;

fn sources(folder: &Path, text: &mut String) {
    for entry in fs::read_dir(folder).expect("read a folder of the repository") {
        let path = entry.expect("read a folder of the repository").path();
        let is_ours = !path.ends_with("target") && !path.ends_with("node_modules");
        if path.is_dir() && is_ours {
            sources(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&fs::read_to_string(&path).expect("read a source file"));
        }
    }
}

#[test]
fn every_test_that_the_threats_name_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the root");
    let threats = fs::read_to_string(root.join("docs/threats.md")).expect("read docs/threats.md");
    let mut code = String::new();
    ["agent-core", "agent"].iter().for_each(|crate_name| sources(&root.join(crate_name), &mut code));
    let is_test = |name: &&str| {
        name.strip_prefix('t').is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()))
    };
    let named: Vec<&str> = threats.split('`').filter(is_test).collect();
    assert!(named.len() >= 20, "{named:?}");
    for name in named {
        assert!(code.contains(&format!("fn {name}(")), "there is no test `{name}`");
    }
}
