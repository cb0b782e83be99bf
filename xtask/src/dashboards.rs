//! Writes `dashboards/overview.json`, the Grafana dashboard (classic schema), from the short description below.
//!
//! The rules are those of Grafana's dashboard-linter: a data source variable, `job` and `instance` in every selector,
//! `$__rate_interval` in every rate, and a title, a description and a unit on every panel. Tests hold the file to
//! this description, and every expression to the agent's catalogue of metrics.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::repo;

/// Write the Grafana dashboard.
#[derive(clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_: &Args) -> Result<()> {
    let path = repo::root().join(PATH);
    std::fs::write(&path, overview()).with_context(|| format!("write {}", path.display()))?;
    println!("wrote {PATH}");
    Ok(())
}

const PATH: &str = "dashboards/overview.json";

/// A section of the dashboard.
struct Row {
    title: &'static str,
    panels: &'static [Panel],
}

/// A graph. `@agent`, `@service` and `@calls` in an expression stand for the selectors [`AGENT`], [`SERVICE`] and [`CALLS`].
struct Panel {
    title: &'static str,
    description: &'static str,
    unit: &'static str,
    /// Expression and legend.
    queries: &'static [(&'static str, &'static str)],
}

/// Selects agents.
const AGENT: &str = r#"job=~"$job", instance=~"$instance""#;
/// Selects what agents say of workloads.
const SERVICE: &str = r#"job=~"$job", instance=~"$instance", service_name=~"$service_name""#;
/// Selects what agents say of methods.
const CALLS: &str =
    r#"job=~"$job", instance=~"$instance", service_name=~"$service_name", rpc_method=~"$rpc_method""#;

const ROWS: &[Row] = &[
    Row {
        title: "Calls",
        panels: &[
            Panel {
                title: "Calls by method",
                description: "Calls that ended, a second. A call inside the cluster is seen by both of its ends: choose one side above to count it once.",
                unit: "reqps",
                queries: &[(
                    r#"sum by (rpc_method) (rate(grpcscope_calls_ended_total{@calls, side=~"$side"}[$__rate_interval]))"#,
                    "{{rpc_method}}",
                )],
            },
            Panel {
                title: "Calls by outcome",
                description: "How calls ended: ok, error, deadline (in any of its shapes on the wire), cancelled, aborted with their connection, refused. Unresolved: the end was not seen.",
                unit: "reqps",
                queries: &[(
                    r#"sum by (outcome) (rate(grpcscope_calls_ended_total{@calls, side=~"$side"}[$__rate_interval]))"#,
                    "{{outcome}}",
                )],
            },
            Panel {
                title: "Errors by status, served",
                description: "Share of the served calls that ended with another status than OK. Status none: nothing was answered, since the caller cancelled or the connection was lost.",
                unit: "percentunit",
                queries: &[(
                    r#"sum by (rpc_response_status_code) (rate(rpc_server_call_duration_seconds_count{@calls, rpc_response_status_code!="OK"}[$__rate_interval])) / on () group_left () sum (rate(rpc_server_call_duration_seconds_count{@calls}[$__rate_interval]))"#,
                    "{{rpc_response_status_code}}",
                )],
            },
            Panel {
                title: "Errors by status, called",
                description: "The same as the callers saw it.",
                unit: "percentunit",
                queries: &[(
                    r#"sum by (rpc_response_status_code) (rate(rpc_client_call_duration_seconds_count{@calls, rpc_response_status_code!="OK"}[$__rate_interval])) / on () group_left () sum (rate(rpc_client_call_duration_seconds_count{@calls}[$__rate_interval]))"#,
                    "{{rpc_response_status_code}}",
                )],
            },
            Panel {
                title: "In flight",
                description: "Calls that were seen to start and have not ended.",
                unit: "short",
                queries: &[(
                    r#"sum by (service_name, side) (grpcscope_calls_in_flight{@calls, side=~"$side"})"#,
                    "{{service_name}}, {{side}}",
                )],
            },
            Panel {
                title: "Messages",
                description: "Messages of calls that ended, a second, as the workloads sent and received them.",
                unit: "cps",
                queries: &[(
                    r#"sum by (service_name, direction) (rate(grpcscope_call_messages_total{@calls, side=~"$side"}[$__rate_interval]))"#,
                    "{{service_name}}, {{direction}}",
                )],
            },
        ],
    },
    Row {
        title: "Findings",
        panels: &[
            Panel {
                title: "Found",
                description: "What was found, a second, by finding: an event each time, what lasts each time that it begins. `grpcscope explain NAME` says what it means and what to change.",
                unit: "cps",
                queries: &[(
                    r#"sum by (finding) (rate(grpcscope_findings_total{@service, side=~"$side", verdict="firing"}[$__rate_interval]))"#,
                    "{{finding}}",
                )],
            },
            Panel {
                title: "Holds now",
                description: "Findings that last and hold now, by workload and cause.",
                unit: "short",
                queries: &[(
                    r#"sum by (finding, service_name, cause) (grpcscope_findings_firing{@service, side=~"$side"}) > 0"#,
                    "{{finding}} {{service_name}} {{cause}}",
                )],
            },
            Panel {
                title: "Could not be told",
                description: "Times a second that a finding was left undecided, since the connection was joined late or bytes were lost.",
                unit: "cps",
                queries: &[(
                    r#"sum by (finding) (rate(grpcscope_findings_total{@service, side=~"$side", verdict="undecided"}[$__rate_interval]))"#,
                    "{{finding}}",
                )],
            },
        ],
    },
    Row {
        title: "Latency",
        panels: &[
            Panel {
                title: "Duration, served",
                description: "From the request's headers to the call's end on the server's side. A stream lasts as long as it is open.",
                unit: "s",
                queries: &[
                    (
                        "histogram_quantile(0.5, sum by (le) (rate(rpc_server_call_duration_seconds_bucket{@calls}[$__rate_interval])))",
                        "half",
                    ),
                    (
                        "histogram_quantile(0.9, sum by (le) (rate(rpc_server_call_duration_seconds_bucket{@calls}[$__rate_interval])))",
                        "9 of 10",
                    ),
                    (
                        "histogram_quantile(0.99, sum by (le) (rate(rpc_server_call_duration_seconds_bucket{@calls}[$__rate_interval])))",
                        "99 of 100",
                    ),
                ],
            },
            Panel {
                title: "Duration, called",
                description: "The same on the client's side; the difference is the network and the queues between the two.",
                unit: "s",
                queries: &[
                    (
                        "histogram_quantile(0.5, sum by (le) (rate(rpc_client_call_duration_seconds_bucket{@calls}[$__rate_interval])))",
                        "half",
                    ),
                    (
                        "histogram_quantile(0.9, sum by (le) (rate(rpc_client_call_duration_seconds_bucket{@calls}[$__rate_interval])))",
                        "9 of 10",
                    ),
                    (
                        "histogram_quantile(0.99, sum by (le) (rate(rpc_client_call_duration_seconds_bucket{@calls}[$__rate_interval])))",
                        "99 of 100",
                    ),
                ],
            },
            Panel {
                title: "Slowest methods, served",
                description: "What 99 of 100 calls stay below, for the ten slowest methods.",
                unit: "s",
                queries: &[(
                    "topk(10, histogram_quantile(0.99, sum by (le, rpc_method) (rate(rpc_server_call_duration_seconds_bucket{@calls}[$__rate_interval]))))",
                    "{{rpc_method}}",
                )],
            },
        ],
    },
    Row {
        title: "Deadlines",
        panels: &[
            Panel {
                title: "Calls without a deadline",
                description: "Share of the calls that carry no grpc-timeout: when the other end hangs, so do they.",
                unit: "percentunit",
                queries: &[(
                    r#"sum by (service_name, side) (rate(grpcscope_call_deadlines_total{@calls, side=~"$side", deadline="none"}[$__rate_interval])) / sum by (service_name, side) (rate(grpcscope_call_deadlines_total{@calls, side=~"$side"}[$__rate_interval]))"#,
                    "{{service_name}}, {{side}}",
                )],
            },
            Panel {
                title: "Deadlines exceeded",
                description: "Calls that ended since their deadline passed, by the end that gave up first.",
                unit: "reqps",
                queries: &[(
                    r#"sum by (rpc_method, ended_by) (rate(grpcscope_call_deadlines_exceeded_total{@calls, side=~"$side"}[$__rate_interval]))"#,
                    "{{rpc_method}}, by {{ended_by}}",
                )],
            },
            Panel {
                title: "Timeouts as sent",
                description: "The grpc-timeout that half of the requests stay below, by method. A chain that hands its deadline on shows smaller values at each hop.",
                unit: "s",
                queries: &[(
                    r#"histogram_quantile(0.5, sum by (le, rpc_method) (rate(grpcscope_call_timeout_seconds_bucket{@calls, side=~"$side"}[$__rate_interval])))"#,
                    "{{rpc_method}}",
                )],
            },
        ],
    },
    Row {
        title: "Connections",
        panels: &[
            Panel {
                title: "Resets",
                description: "Calls that an RST_STREAM ended, by its sender and its code.",
                unit: "reqps",
                queries: &[(
                    r#"sum by (service_name, sender, code) (rate(grpcscope_rst_streams_total{@service, side=~"$side"}[$__rate_interval]))"#,
                    "{{service_name}}, {{code}} by {{sender}}",
                )],
            },
            Panel {
                title: "Connections by state",
                description: "synced: everything is known. late: the agent came after the connection, names may be unresolved. desynced: bytes were missed, the agent is finding its way back.",
                unit: "short",
                queries: &[(
                    r#"sum by (state) (grpcscope_connections{@service, side=~"$side"})"#,
                    "{{state}}",
                )],
            },
            Panel {
                title: "Connections opened",
                description: "New HTTP/2 connections a second. gRPC keeps connections for long; a steady flow of new ones is worth a look.",
                unit: "cps",
                queries: &[(
                    "sum by (service_name) (rate(grpcscope_connections_opened_total{@service}[$__rate_interval]))",
                    "{{service_name}}",
                )],
            },
        ],
    },
    Row {
        title: "The agent itself",
        panels: &[
            Panel {
                title: "Lost events",
                description: "Records that were lost between the kernel and the agent, by reason. Anything but zero means that calls are missing or unresolved.",
                unit: "cps",
                queries: &[(
                    "sum by (reason) (rate(grpcscope_kernel_events_lost_total{@agent}[$__rate_interval]))",
                    "{{reason}}",
                )],
            },
            Panel {
                title: "Events",
                description: "Records that the kernel side handed over, by agent.",
                unit: "cps",
                queries: &[(
                    "sum by (instance) (rate(grpcscope_kernel_events_received_total{@agent}[$__rate_interval]))",
                    "{{instance}}",
                )],
            },
            Panel {
                title: "Behind the kernel",
                description: "Age of the newest record when it was last read.",
                unit: "s",
                queries: &[("max by (instance) (grpcscope_reader_lag_seconds{@agent})", "{{instance}}")],
            },
            Panel {
                title: "Series",
                description: "Share of the label sets that may exist; at 100 % new ones are counted under _OTHER.",
                unit: "percentunit",
                queries: &[(
                    "max by (instance) (grpcscope_series{@agent} / grpcscope_series_limit{@agent})",
                    "{{instance}}",
                )],
            },
            Panel {
                title: "CPU",
                description: "Cores that the agent's own process uses; what its kernel programs cost is spent in the watched processes.",
                unit: "short",
                queries: &[(
                    r#"sum by (instance) (rate(process_cpu_seconds_total{@agent}[$__rate_interval]) * on (job, instance) group_left () grpcscope_build_info{@agent})"#,
                    "{{instance}}",
                )],
            },
            Panel {
                title: "Memory",
                description: "Resident memory of the agent.",
                unit: "bytes",
                queries: &[(
                    r#"max by (instance) (process_resident_memory_bytes{@agent} * on (job, instance) group_left () grpcscope_build_info{@agent})"#,
                    "{{instance}}",
                )],
            },
        ],
    },
];

/// The dashboard as Grafana imports it.
fn overview() -> String {
    let mut panels = Vec::new();
    let mut y = 0;
    for row in ROWS {
        panels.push(json!({
            "type": "row",
            "id": panels.len() + 1,
            "title": row.title,
            "collapsed": false,
            "gridPos": {"x": 0, "y": y, "w": 24, "h": 1},
            "panels": [],
        }));
        y += 1;
        for (index, panel) in row.panels.iter().enumerate() {
            let column = index % 3;
            panels.push(graph(panel, panels.len() + 1, column * 8, y + index / 3 * 8));
        }
        y += row.panels.len().div_ceil(3) * 8;
    }
    let dashboard = json!({
        "uid": "grpcscope-overview",
        "title": "gRPC overview (grpcscope)",
        "description": "The gRPC of all watched processes, and the health of the agents that watch them.",
        "tags": ["grpc", "grpcscope"],
        "schemaVersion": 42,
        "version": 1,
        "editable": false,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timepicker": {},
        "timezone": "browser",
        "annotations": {"list": []},
        "links": [],
        "templating": {"list": variables()},
        "panels": panels,
    });
    format!("{dashboard:#}\n")
}

fn graph(panel: &Panel, id: usize, x: usize, y: usize) -> Value {
    let targets: Vec<Value> = panel
        .queries
        .iter()
        .zip('A'..)
        .map(|((expression, legend), letter)| {
            json!({
                "refId": letter.to_string(),
                "datasource": datasource(),
                "expr": expression.replace("@calls", CALLS).replace("@service", SERVICE).replace("@agent", AGENT),
                "legendFormat": legend,
                "editorMode": "code",
                "range": true,
            })
        })
        .collect();
    json!({
        "type": "timeseries",
        "id": id,
        "title": panel.title,
        "description": panel.description,
        "datasource": datasource(),
        "gridPos": {"x": x, "y": y, "w": 8, "h": 8},
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "min": 0,
                "custom": {"drawStyle": "line", "lineWidth": 1, "fillOpacity": 10, "showPoints": "never"},
            },
            "overrides": [],
        },
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": true, "calcs": []},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": targets,
    })
}

/// Every panel and variable asks the data source that is chosen at the top.
fn datasource() -> Value {
    json!({"type": "prometheus", "uid": "${datasource}"})
}

fn variables() -> Vec<Value> {
    vec![
        json!({
            "type": "datasource",
            "name": "datasource",
            "label": "Data source",
            "query": "prometheus",
            "current": {"text": "default", "value": "default"},
            "hide": 0,
            "regex": "",
        }),
        label_values("job", "Job", "grpcscope_build_info"),
        label_values("instance", "Agent", r#"grpcscope_build_info{job=~"$job"}"#),
        label_values("service_name", "Service", &format!("grpcscope_calls_ended_total{{{AGENT}}}")),
        label_values("rpc_method", "Method", &format!("grpcscope_calls_ended_total{{{SERVICE}}}")),
        json!({
            "type": "custom",
            "name": "side",
            "label": "Side",
            "query": "server,client",
            "includeAll": true,
            "multi": true,
            "allValue": ".*",
            "current": {"text": ["server"], "value": ["server"]},
            "options": [
                {"text": "All", "value": "$__all", "selected": false},
                {"text": "server", "value": "server", "selected": true},
                {"text": "client", "value": "client", "selected": false},
            ],
        }),
    ]
}

fn label_values(label: &str, shown: &str, series: &str) -> Value {
    let query = format!("label_values({series}, {label})");
    json!({
        "type": "query",
        "name": label,
        "label": shown,
        "datasource": datasource(),
        "query": {"qryType": 1, "query": query, "refId": "PrometheusVariableQueryEditor-VariableQuery"},
        // On every change of the time range, so that what came and went is found.
        "refresh": 2,
        "sort": 1,
        "includeAll": true,
        "multi": true,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checked_in_dashboard_is_the_generated_one() {
        let checked_in = std::fs::read_to_string(repo::root().join(PATH)).unwrap_or_default();
        assert!(checked_in == overview(), "{PATH} is out of date: run `cargo xtask dashboards`");
    }
}
