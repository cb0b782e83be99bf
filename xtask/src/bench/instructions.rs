//! `cargo xtask bench instructions`: the guard against a slower core. Counts instructions of fixed inputs under
//! valgrind, and compares them with `bench/instructions.json`, which is written by `--update`.
//!
//! Instructions say less than times about what is fast, but they are nearly the same in each run: CI can hold them to
//! a few percent on a busy machine. They belong to one compiler and one architecture, which stand in the file.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::repo;
use crate::shell::{cmd, which};

/// Cases of `bench/src/bin/instructions.rs`.
const CASES: [&str; 4] = ["hpack_request", "hpack_response", "core_unary", "core_detectors"];

/// More instructions than this share above what was written down fail. Seeds of the hash maps and the system's
/// `memcpy` move the counts by less than 1 %.
const SLACK: f64 = 0.10;

/// What the step of `cargo xtask test` did, if it did not fail.
pub(crate) enum Counted {
    Compared,
    /// Nothing, for this reason.
    Skipped(String),
}

/// Runs the command.
pub(super) fn run(update: bool, json: bool) -> Result<()> {
    if which("valgrind").is_none() {
        bail!("valgrind is missing: cargo xtask setup --for tests");
    }
    let counts = count()?;
    if update {
        let text = serde_json::to_string_pretty(&json!({ "for": machine()?, "counts": counts }))?;
        return fs::write(file(), text + "\n").context("write the counts");
    }
    let (table, result) = compare(&counts)?;
    eprint!("{table}");
    if json {
        println!("{counts}");
    }
    result
}

/// The step of `cargo xtask test`.
pub(crate) fn check() -> Result<Counted> {
    if which("valgrind").is_none() {
        ensure!(!repo::is_ci(), "valgrind is missing");
        return Ok(Counted::Skipped("instruction counts: valgrind is missing".to_owned()));
    }
    let written_for = text(&expected()?, "for");
    let machine = machine()?;
    if written_for.split_whitespace().last() != machine.split_whitespace().last() {
        let reason =
            format!("instruction counts: they were written down for {written_for}, this is {machine}");
        return Ok(Counted::Skipped(reason));
    }
    let (table, result) = compare(&count()?)?;
    eprint!("{table}");
    result.map(|()| Counted::Compared)
}

fn file() -> PathBuf {
    repo::root().join("bench/instructions.json")
}

fn expected() -> Result<Value> {
    let text = fs::read_to_string(file()).context("read bench/instructions.json")?;
    serde_json::from_str(&text).context("parse bench/instructions.json")
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}

/// Compiler and architecture: `rustc 1.95.0 x86_64`.
fn machine() -> Result<String> {
    let version = cmd("rustc").arg("--version").dir(repo::root()).read()?;
    let number = version.split_whitespace().nth(1).context("find rustc's version")?;
    Ok(format!("rustc {number} {}", std::env::consts::ARCH))
}

/// Instructions a unit (block, call) of each case.
fn count() -> Result<Value> {
    cmd("cargo")
        .args(["build", "--quiet", "--release", "--manifest-path", "bench/Cargo.toml"])
        .args(["--no-default-features", "--bin", "instructions"])
        .dir(repo::root())
        .run()?;
    let target = match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => repo::root().join(dir),
        None => repo::root().join("bench/target"),
    };
    let program = target.join("release/instructions");
    let out = target.join("release/instructions.callgrind");
    let mut counts = json!({});
    for case in CASES {
        let units = cmd("valgrind")
            .args(["--tool=callgrind", "--toggle-collect=*counted_*"])
            .arg(format!("--callgrind-out-file={}", out.display()))
            .arg(&program)
            .arg(case)
            .read()?;
        let units: f64 = units.trim().parse().context("read how much was counted")?;
        let profile = fs::read_to_string(&out).context("read what callgrind wrote")?;
        let instructions = total(&profile).context("find the sum in what callgrind wrote")?;
        ensure!(instructions > 0.0, "callgrind has not seen {case} begin");
        counts[case] = json!((instructions / units).round() as u64);
    }
    Ok(counts)
}

/// The sum of a profile: callgrind's format has it in a line `totals: N`, or `summary: N` in older ones.
fn total(profile: &str) -> Option<f64> {
    let line =
        profile.lines().find_map(|line| line.strip_prefix("totals: ").or(line.strip_prefix("summary: ")))?;
    line.trim().parse().ok()
}

/// A table of what was counted beside what was written down, and whether that is well.
fn compare(counts: &Value) -> Result<(String, Result<()>)> {
    let expected = expected()?;
    let mut table = String::new();
    let mut worse = Vec::new();
    for case in CASES {
        let number =
            |counts: &Value| counts[case].as_f64().with_context(|| format!("find the count of {case}"));
        let (now, before) = (number(counts)?, number(&expected["counts"])?);
        let change = now / before - 1.0;
        writeln!(
            table,
            "  {case:<16} {now:>8} instructions, {before:>8} written down, {:+.1} %",
            change * 100.0
        )?;
        if change > SLACK {
            worse.push(case);
        } else if change < -SLACK {
            writeln!(
                table,
                "  {case} got faster: keep it so with `cargo xtask bench instructions --update`"
            )?;
        }
    }
    if worse.is_empty() {
        return Ok((table, Ok(())));
    }
    let (written_for, machine) = (text(&expected, "for"), machine()?);
    let compiler = if written_for == machine {
        String::new()
    } else {
        format!(" (by {machine}, written down by {written_for})")
    };
    let advice = "if it has to be so, `cargo xtask bench instructions --update` writes it down";
    let error = anyhow::anyhow!("more instructions than before in {}{compiler}; {advice}", worse.join(", "));
    Ok((table, Err(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_found_in_callgrinds_format() {
        assert_eq!(total("# callgrind format\nversion: 1\nsummary: 17\n\nfl=(1) a.rs\n16 400\n"), Some(17.0));
        assert_eq!(total("events: Ir\nfn=(1)\n0 5\ntotals: 335529\n"), Some(335_529.0));
        assert_eq!(total("events: Ir\n"), None);
    }

    #[test]
    fn a_tenth_more_than_written_down_fails_and_less_does_not() {
        let mut counts = expected().expect("the counts are there")["counts"].clone();
        assert!(compare(&counts).expect("compare").1.is_ok());
        let core = counts["core_unary"].as_f64().expect("a count");
        counts["core_unary"] = json!(core * 1.09);
        assert!(compare(&counts).expect("compare").1.is_ok());
        counts["core_unary"] = json!(core * 1.11);
        let error = compare(&counts).expect("compare").1.expect_err("a tenth more");
        assert!(error.to_string().contains("core_unary"), "{error}");
        counts["core_unary"] = json!(core * 0.5);
        let (table, result) = compare(&counts).expect("compare");
        assert!(result.is_ok() && table.contains("core_unary got faster"), "{table}");
    }
}
