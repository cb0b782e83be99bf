//! What operators import is held to what the agent exports: every expression of the dashboards is PromQL, asks for
//! metrics and labels that the catalogue has, and keeps the rules of Grafana's dashboard-linter.

use std::collections::BTreeSet;

use agent::metrics::catalogue::Kind;
use serde_json::Value;
use tests::promql::{Recorded, asks_for_what_is_known, family_of, parse, walk};
use tests::workspace::root;

fn dashboards() -> Vec<(String, Value)> {
    let folder = root().join("dashboards");
    let files = std::fs::read_dir(&folder).expect("the folder of the dashboards");
    let mut dashboards = Vec::new();
    for file in files {
        let path = file.expect("an entry of the folder").path();
        if path.extension().is_some_and(|extension| extension == "json") {
            let text = std::fs::read_to_string(&path).expect("a dashboard");
            let json = serde_json::from_str(&text).expect("a dashboard is JSON");
            dashboards.push((path.display().to_string(), json));
        }
    }
    assert!(!dashboards.is_empty(), "no dashboard in {}", folder.display());
    dashboards
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name].as_array().map_or(&[], Vec::as_slice)
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

/// Graphs, without the rows that group them.
fn graphs(dashboard: &Value) -> impl Iterator<Item = &Value> {
    list(dashboard, "panels").iter().filter(|panel| text(panel, "type") != "row")
}

#[test]
fn every_expression_asks_for_metrics_and_labels_that_the_agent_has() {
    for (file, dashboard) in dashboards() {
        for panel in graphs(&dashboard) {
            for target in list(panel, "targets") {
                asks_for_what_is_known(text(target, "expr"), &Recorded::new(), &file);
            }
        }
    }
}

#[test]
fn every_selector_can_be_narrowed_to_a_job_and_an_instance() {
    for (file, dashboard) in dashboards() {
        for panel in graphs(&dashboard) {
            for target in list(panel, "targets") {
                let expression = text(target, "expr");
                walk(
                    &parse(expression),
                    &mut |selector| {
                        for label in ["job", "instance"] {
                            let wanted = format!("${label}");
                            let found = selector
                                .matchers
                                .matchers
                                .iter()
                                .any(|matcher| matcher.name == label && matcher.value == wanted);
                            assert!(found, "{file}: no {label}=~\"{wanted}\" in a selector of\n{expression}");
                        }
                    },
                    &mut |_| {},
                );
            }
        }
    }
}

#[test]
fn counters_are_asked_for_their_rate_over_the_interval_that_grafana_chooses() {
    for (file, dashboard) in dashboards() {
        for panel in graphs(&dashboard) {
            for target in list(panel, "targets") {
                let expression = text(target, "expr");
                walk(
                    &parse(expression),
                    &mut |selector| {
                        let name = selector.name.as_deref().unwrap_or_default();
                        let grows = family_of(name).is_some_and(|family| !matches!(family.kind, Kind::Gauge));
                        if grows {
                            let selects = expression.match_indices(name).count();
                            let rates = expression.match_indices(&format!("rate({name}{{")).count();
                            assert_eq!(
                                selects, rates,
                                "{file}: {name} grows for ever, but is not under rate() in\n{expression}"
                            );
                        }
                    },
                    &mut |_| {},
                );
                let ranges = expression.matches('[').count();
                assert_eq!(
                    ranges,
                    expression.matches("[$__rate_interval]").count(),
                    "{file}: a fixed range in\n{expression}"
                );
            }
        }
    }
}

#[test]
fn every_panel_says_what_it_shows() {
    for (file, dashboard) in dashboards() {
        assert_eq!(dashboard["schemaVersion"], 42, "{file}");
        assert_eq!(dashboard["editable"], false, "{file}");
        let mut ids = BTreeSet::new();
        for panel in list(&dashboard, "panels") {
            assert!(ids.insert(panel["id"].as_u64()), "{file}: two panels with the id {}", panel["id"]);
        }
        for panel in graphs(&dashboard) {
            let title = text(panel, "title");
            assert!(!title.is_empty(), "{file}: a panel without a title");
            assert!(text(panel, "description").ends_with('.'), "{file}: {title} has no description");
            assert!(
                !text(&panel["fieldConfig"]["defaults"], "unit").is_empty(),
                "{file}: {title} has no unit"
            );
            assert_eq!(text(&panel["datasource"], "uid"), "${datasource}", "{file}: {title}");
            assert!(!list(panel, "targets").is_empty(), "{file}: {title} asks for nothing");
        }
    }
}

#[test]
fn the_variables_that_expressions_use_are_there_and_follow_the_time_range() {
    for (file, dashboard) in dashboards() {
        let variables = list(&dashboard["templating"], "list");
        for name in ["datasource", "job", "instance", "service_name", "rpc_method", "side"] {
            let variable = variables.iter().find(|variable| text(variable, "name") == name);
            let variable = variable.unwrap_or_else(|| panic!("{file}: no variable {name}"));
            if text(variable, "type") == "query" {
                assert_eq!(
                    variable["refresh"], 2,
                    "{file}: {name} is not asked for again when the time range changes"
                );
                assert_eq!(text(&variable["datasource"], "uid"), "${datasource}", "{file}: {name}");
                let query = text(&variable["query"], "query");
                let series =
                    query.strip_prefix("label_values(").and_then(|rest| rest.split(['{', ',']).next());
                assert!(series.and_then(family_of).is_some(), "{file}: {name} asks {query}");
            }
        }
        for panel in graphs(&dashboard) {
            for target in list(panel, "targets") {
                for used in text(target, "expr").split('$').skip(1) {
                    let used =
                        used.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
                    let known = used == "__rate_interval"
                        || variables.iter().any(|variable| text(variable, "name") == used);
                    assert!(known, "{file}: no variable {used:?}");
                }
            }
        }
    }
}
