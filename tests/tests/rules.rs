//! The rules that look over all agents: Prometheus' own tool takes them, they say what their tests ask for, and they ask
//! only for what agents export.

use std::path::{Path, PathBuf};
use std::process::Command;

use agent::metrics::catalogue::CATALOGUE;
use tests::{provision, workspace};

/// The namespace of recorded series; those of agents have no colon.
const RECORDED: &str = "grpcscope:";

fn folder() -> PathBuf {
    workspace::root().join("deploy/prometheus")
}

fn promtool(arguments: &[&str], folder: &Path) {
    let program = workspace::cache().join("prometheus/usr/bin/promtool");
    let output = Command::new(program).args(arguments).current_dir(folder).output().expect("promtool starts");
    let text =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success(), "promtool {arguments:?}:\n{text}");
}

#[test]
fn the_rules_are_taken_by_prometheus_and_pass_their_tests() {
    if !provision::is_ready("rules", &["prometheus"]) {
        return;
    }
    promtool(&["check", "rules", "grpcscope.rules.yaml"], &folder());
    promtool(&["test", "rules", "grpcscope.rules.test.yaml"], &folder());
}

#[test]
fn the_rules_ask_for_metrics_that_agents_export_and_for_what_they_record() {
    let rules = std::fs::read_to_string(folder().join("grpcscope.rules.yaml")).expect("the rules");
    let recorded: Vec<&str> = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- record: "))
        .inspect(|name| assert!(name.starts_with(RECORDED), "{name}"))
        .collect();
    assert!(recorded.len() >= 8, "{recorded:?}");
    let mut asked = 0;
    // Whatever has our prefix is a metric, in expressions and in texts.
    let is_of_name = |character: char| character.is_ascii_alphanumeric() || matches!(character, '_' | ':');
    for word in rules.split(|character: char| !is_of_name(character)) {
        if word.starts_with("grpcscope_") {
            assert!(CATALOGUE.iter().any(|family| family.name == word), "agents have no {word}");
            asked += 1;
        } else if word.starts_with(RECORDED) {
            assert!(recorded.contains(&word), "nothing records {word}");
        }
    }
    assert!(asked >= recorded.len(), "{asked}");
}
