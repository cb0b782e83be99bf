//! The direction in which the crates depend on each other: `agent-ebpf → agent-common ← agent-core ← agent`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

mod metadata;

use metadata::{list, text};

/// What each crate of the product may use of the others, tests aside.
///
/// The agent embeds the kernel object, so its build script may name `agent-ebpf`; that is no use of its code.
const MAY_USE: [(&str, &[&str]); 5] = [
    ("agent-common", &[]),
    ("agent-ebpf", &["agent-common"]),
    ("agent-core", &["agent-common"]),
    ("agent", &["agent-common", "agent-core"]),
    ("proto", &[]),
];

/// The core is pure: whatever reaches the system, or belongs to the way in or the way out, stays outside.
const NEVER_IN_THE_CORE: [&str; 8] =
    ["aya", "axum", "libc", "mio", "prometheus-client", "rustix", "tokio", "tracing"];

#[test]
fn crates_depend_on_each_other_only_in_the_direction_of_the_design() {
    let metadata = metadata::read();
    for (name, allowed) in MAY_USE {
        let package = package(&metadata, name);
        for dependency in list(package, "dependencies") {
            let is_ours = !dependency["path"].is_null();
            let is_of_the_product = dependency["kind"].is_null();
            let used = text(dependency, "name");
            assert!(
                !(is_ours && is_of_the_product) || allowed.contains(&used),
                "{name} uses {used}, against the direction of the design"
            );
        }
    }
}

#[test]
fn the_core_reaches_nothing_of_the_system_not_even_indirectly() {
    let metadata = metadata::read();
    let reached = reachable(&metadata, "agent-core");
    for name in NEVER_IN_THE_CORE {
        assert!(!reached.contains(name), "agent-core depends on {name}: {reached:?}");
    }
    // That the graph is followed at all shows where something indirect is known to be.
    assert!(reachable(&metadata, "xtask").contains("clap_lex"));
}

fn package<'a>(metadata: &'a Value, name: &str) -> &'a Value {
    let mut packages = list(metadata, "packages").iter();
    packages
        .find(|package| text(package, "name") == name)
        .unwrap_or_else(|| panic!("the workspace has {name}"))
}

/// Names of all that a package is built from, without build scripts and tests.
fn reachable(metadata: &Value, name: &str) -> BTreeSet<String> {
    let names: BTreeMap<&str, &str> = list(metadata, "packages")
        .iter()
        .map(|package| (text(package, "id"), text(package, "name")))
        .collect();
    let nodes: BTreeMap<&str, &Value> =
        list(&metadata["resolve"], "nodes").iter().map(|node| (text(node, "id"), node)).collect();
    let mut waiting = vec![text(package(metadata, name), "id")];
    let mut reached = BTreeSet::new();
    while let Some(id) = waiting.pop() {
        for dependency in list(nodes[id], "deps") {
            let is_normal = list(dependency, "dep_kinds").iter().any(|kind| kind["kind"].is_null());
            let used = text(dependency, "pkg");
            if is_normal && reached.insert(names[used].to_owned()) {
                waiting.push(used);
            }
        }
    }
    reached
}
