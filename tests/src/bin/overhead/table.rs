//! The figures as tables for people, also in docs/overhead.md.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::Value;

const BEGIN: &str = "<!-- figures: begin -->\n";
const END: &str = "<!-- figures: end -->";

/// Of the last line of a run.
pub(crate) fn of(line: &Value) -> Result<String> {
    let rows = line["workloads"].as_array().context("the line has no workloads")?;
    let machine = &line["machine"];
    let mut text = format!(
        "{} ({} processors), Linux {}, {}; medians of {} pairs of {} s.\n\n",
        word(&machine["processor"]),
        machine["processors"],
        word(&machine["kernel"]),
        word(&line["agent"]),
        line["pairs"],
        line["seconds"],
    );
    text += "| workload | calls/s | loss, apart (noise) | loss, shared (noise) | applications µs/call | more (noise) |\n\
             |---|---:|---:|---:|---:|---:|\n";
    for row in rows {
        let shared = &row["shared"];
        writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} |",
            word(&row["name"]),
            number(&row["calls_per_second"], 0),
            with_noise(&row["loss_percent"], &row["noise_percent"], &row["loss_is_noise"]),
            with_noise(&shared["loss_percent"], &shared["noise_percent"], &shared["loss_is_noise"]),
            number(&row["applications_us_per_call"], 2),
            with_noise(
                &row["applications_more_percent"],
                &row["applications_noise_percent"],
                &row["applications_more_is_noise"]
            ),
        )?;
    }
    text += "\n| workload | p50 µs | × | p99 µs | × (noise) | agent µs/call | agent % of a processor | agent RSS MB | each page once | seen | records lost |\n\
             |---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n";
    for row in rows {
        writeln!(
            text,
            "| {} | {} | {} | {} | {} (±{} %) | {} | {} | {} | {} | {} | {} |",
            word(&row["name"]),
            number(&row["p50_us"], 0),
            number(&row["p50_ratio"], 2),
            number(&row["p99_us"], 0),
            number(&row["p99_ratio"], 2),
            number(&row["p99_noise_percent"], 0),
            number(&row["agent_us_per_call"], 2),
            number(&row["agent_cpu_percent"], 1),
            number(&row["agent_rss_mb"], 1),
            number(&row["agent_pss_mb"], 1),
            if row["seen_percent"].is_null() { "-".into() } else { number(&row["seen_percent"], 2) + " %" },
            row["lost_records"],
        )?;
    }
    text += "\n| workload | kernel program | ns a run | less an empty program's | runs a call |\n|---|---|---:|---:|---:|\n";
    for row in rows {
        let programs = row["ns_per_run"].as_object().context("a workload has no programs")?;
        let empty = row["empty_program_ns"].as_f64().unwrap_or(0.0);
        for (program, each) in programs {
            writeln!(
                text,
                "| {} | `{program}` | {} | {} | {} |",
                word(&row["name"]),
                number(each, 0),
                each.as_f64().map_or_else(|| "-".into(), |ns| format!("{:.0}", ns - empty)),
                number(&row["runs_per_call"][program], 2),
            )?;
        }
    }
    Ok(text)
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}

fn number(value: &Value, digits: usize) -> String {
    value.as_f64().map_or_else(|| "-".to_owned(), |number| format!("{number:.digits$}"))
}

/// A figure that the machine makes by itself is no figure.
fn with_noise(figure: &Value, noise: &Value, is_noise: &Value) -> String {
    let (Some(figure), Some(noise)) = (figure.as_f64(), noise.as_f64()) else { return "-".to_owned() };
    let word = if is_noise == &Value::Bool(true) { "noise: " } else { "" };
    format!("{word}{figure:.1} % (±{noise:.1})")
}

/// Puts the table between its marks.
pub(crate) fn write(path: &Path, table: &str) -> Result<()> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let text = replaced(&text, table).with_context(|| format!("{} has no marks", path.display()))?;
    std::fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

fn replaced(text: &str, table: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}{table}{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_marks_is_written_anew() {
        let text = format!("a\n{BEGIN}old\n{END}\nb\n");
        assert_eq!(replaced(&text, "new\n"), Some(format!("a\n{BEGIN}new\n{END}\nb\n")));
        assert_eq!(replaced("no marks", "new\n"), None);
    }

    #[test]
    fn a_figure_below_the_noise_says_so() {
        let shown = |noise: bool| with_noise(&0.4.into(), &0.9.into(), &noise.into());
        assert_eq!((shown(true), shown(false)), ("noise: 0.4 % (±0.9)".into(), "0.4 % (±0.9)".into()));
        assert_eq!(with_noise(&Value::Null, &Value::Null, &Value::Null), "-");
    }

    #[test]
    fn every_figure_of_a_line_is_in_the_table() {
        let line = serde_json::json!({
            "workloads": [{
                "name": "tonic-echo", "calls_per_second": 31_000.4, "loss_percent": 1.26, "noise_percent": 0.3,
                "loss_is_noise": false, "shared": {"loss_percent": 9.0, "noise_percent": 2.0, "loss_is_noise": false},
                "applications_us_per_call": 30.0, "applications_more_percent": 1.5,
                "applications_noise_percent": 0.2, "applications_more_is_noise": false,
                "p50_us": 100.0, "p50_ratio": 1.01, "p99_us": 300.0, "p99_ratio": 1.1, "p99_noise_percent": 8.0,
                "agent_us_per_call": 2.1, "agent_cpu_percent": 7.0, "agent_rss_mb": 52.0, "agent_pss_mb": 40.0,
                "seen_percent": 100.0, "lost_records": 0,
                "ns_per_run": {"t_send": 240.0}, "runs_per_call": {"t_send": 2.0}, "empty_program_ns": 40.0,
            }],
            "machine": {"processor": "P", "processors": 2, "kernel": "6.18"}, "agent": "a", "pairs": 7, "seconds": 2.0,
        });
        let table = of(&line).unwrap();
        for part in [
            "| tonic-echo | 31000 | 1.3 % (±0.3) | 9.0 % (±2.0) | 30.00 | 1.5 % (±0.2) |",
            "| tonic-echo | 100 | 1.01 | 300 | 1.10 (±8 %) | 2.10 | 7.0 | 52.0 | 40.0 | 100.00 % | 0 |",
            "| tonic-echo | `t_send` | 240 | 200 | 2.00 |",
        ] {
            assert!(table.contains(part), "{part} is not in\n{table}");
        }
    }
}
