//! The rules that look over all agents: Prometheus' own tool takes them, they say what their tests ask for, and they ask
//! only for what agents export.

use std::path::{Path, PathBuf};
use std::process::Command;

use tests::promql::{Recorded, asks_for_what_is_known, labels_of, parse};
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

/// A file of rules, as far as it is looked at.
#[derive(serde::Deserialize)]
struct Rules {
    groups: Vec<Group>,
}

#[derive(serde::Deserialize)]
struct Group {
    rules: Vec<Rule>,
}

#[derive(serde::Deserialize)]
struct Rule {
    record: Option<String>,
    alert: Option<String>,
    expr: String,
}

#[test]
fn the_rules_ask_for_metrics_and_labels_that_agents_export_or_rules_record() {
    let text = std::fs::read_to_string(folder().join("grpcscope.rules.yaml")).expect("the rules");
    let rules: Rules = serde_saphyr::from_str(&text).expect("a file of rules");
    let rules = || rules.groups.iter().flat_map(|group| &group.rules);
    let recorded: Recorded = rules()
        .filter_map(|rule| Some((rule.record.clone()?, labels_of(&parse(&rule.expr)))))
        .inspect(|(name, labels)| assert!(name.starts_with(RECORDED) && !labels.is_empty(), "{name}"))
        .collect();
    assert!(recorded.len() >= 8, "{recorded:?}");
    for rule in rules() {
        let name = rule.record.as_ref().or(rule.alert.as_ref()).expect("it records, or alerts");
        asks_for_what_is_known(&rule.expr, &recorded, name);
    }
}
