//! What the runs mean: a verdict for each, a table for people, a line of JSON for machines.

use std::time::Duration;

use clap::ValueEnum;
use serde_json::{Value, json};

use super::vm::{JobOutput, Session};
use super::{Arch, Backend, Job};

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The program ended with 0.
    Ok,
    /// The same, but the kernel skipped runs of the programs, and says so: what they would have seen is missing.
    Blind,
    /// The kernel lacks what the backend needs, and no kernel of that age has it.
    Refused,
    /// Anything else.
    Failed,
}

impl Outcome {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Blind => "blind",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

/// One run of a check on one kernel.
pub(crate) struct Run {
    pub(crate) kernel: String,
    pub(crate) outcome: Outcome,
    arch: Arch,
    /// By the agent's name of it; `None` for a program that has none.
    backend: Option<String>,
    exit_code: Option<i32>,
    boot: Option<Duration>,
    took: Option<Duration>,
    /// Why it failed or was refused, or the last thing that it said.
    detail: String,
    /// The line of JSON that it printed.
    report: Option<Value>,
}

/// Half of what verifiers follow at most (BPF_COMPLEXITY_LIMIT_INSNS), since another version of the kernel may follow more of the
/// same program.
const INSTRUCTIONS_MAX: u64 = 500_000;

/// Judges every job of a session, those that never ran too.
pub(super) fn judge(
    arch: Arch,
    kernel: &str,
    version: (u32, u32),
    jobs: &[Job],
    session: &Session,
) -> Vec<Run> {
    let mut runs = Vec::new();
    for (number, job) in jobs.iter().enumerate() {
        let output = session.jobs.get(number);
        let run =
            |backend: Option<String>, (outcome, detail): (Outcome, String), report: Option<Value>| Run {
                kernel: kernel.to_owned(),
                outcome,
                arch,
                backend,
                exit_code: output.map(|output| output.exit_code),
                boot: session.boot,
                took: output.map(|output| output.took),
                detail,
                report,
            };
        // A check that goes through all backends prints a line for each; those that were printed before the end count.
        let lines = output.map_or(session.rest.as_slice(), |output| output.lines.as_slice());
        let several: Vec<Value> = lines.iter().filter_map(|line| line_of_calls(line)).collect();
        let is_whole = output.is_some_and(|output| !several.is_empty() && output.exit_code < 2);
        for line in several {
            let backend = line["backend"].as_str().map(str::to_owned);
            let verdict = verdict_of_line(&line, arch, version);
            runs.push(run(backend, verdict, Some(line)));
        }
        if !is_whole {
            let backend = job.backend.map(|backend| backend.name().to_owned());
            let verdict = match output {
                Some(output) => verdict(output, job.backend, arch, version),
                None => {
                    let why = if session.timed_out {
                        "the machine was out of time"
                    } else {
                        "the machine went down"
                    };
                    let console = session.console_tail.join("\n      ");
                    (Outcome::Failed, format!("{why}; its console ends:\n      {console}"))
                }
            };
            runs.push(run(backend, verdict, output.and_then(report)));
        }
    }
    runs
}

/// Whether a kernel of that age may refuse the backend; one that nobody told us of has to work everywhere.
fn may_be_refused(backend: Option<Backend>, arch: Arch, version: (u32, u32)) -> bool {
    backend.is_some_and(|backend| version < backend.first_kernel(arch))
}

/// A line of the check of calls, or of a change of the way of capture.
fn line_of_calls(line: &str) -> Option<Value> {
    serde_json::from_str(line)
        .ok()
        .filter(|value: &Value| value["check"] == "calls" || value["check"] == "change")
}

fn verdict_of_line(line: &Value, arch: Arch, version: (u32, u32)) -> (Outcome, String) {
    let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
    let backend = Backend::from_str(&text("backend"), false).ok();
    match text("result").as_str() {
        "ok" => match over_the_bar(line) {
            None if is_blind(line, "missing") => (Outcome::Blind, words(line)),
            None => (Outcome::Ok, words(line)),
            Some(program) => (Outcome::Failed, program),
        },
        "refused" if may_be_refused(backend, arch, version) => (Outcome::Refused, text("error")),
        _ if !text("error").is_empty() => (Outcome::Failed, text("error")),
        _ => (Outcome::Failed, format!("{} {}", words(line), line["differences"])),
    }
}

/// Runs were skipped, and something is missing by this number; a check says by its result whether that is right.
fn is_blind(report: &Value, missing: &str) -> bool {
    let is_some = |key: &str| report[key].as_u64().is_some_and(|count| count > 0);
    is_some("missed_runs") && is_some(missing)
}

/// A program whose verification takes too many instructions, or for which their number is not known.
fn over_the_bar(line: &Value) -> Option<String> {
    let programs = line["instructions"].as_object().into_iter().flatten();
    let mut bad = programs.filter(|(_, count)| count.as_u64().is_none_or(|count| count > INSTRUCTIONS_MAX));
    bad.next().map(|(program, count)| match count.as_u64() {
        Some(count) => format!("{program}: {count} instructions verified, more than {INSTRUCTIONS_MAX}"),
        None => format!("{program}: how many instructions were verified is not known"),
    })
}

/// A line of calls for people.
fn words(line: &Value) -> String {
    let programs = line["instructions"].as_object().into_iter().flatten();
    let most = programs.filter_map(|(name, count)| Some((count.as_u64()?, name))).max();
    if line["calls"].is_null() {
        // What the metrics of `run` said.
        return format!(
            "preempt={} clients={} {}; missed runs: {}",
            line["preempt"].as_str().unwrap_or("-"),
            line["clients"],
            line["command"].as_str().unwrap_or("-"),
            line["missed_runs"],
        );
    }
    format!(
        "preempt={} clients={} calls: {}, wrong: {}, missing: {}; missed runs: {}; most instructions: {}",
        line["preempt"].as_str().unwrap_or("-"),
        line["clients"],
        line["calls"],
        line["wrong"],
        line["missing"],
        line["missed_runs"],
        most.map_or_else(|| "-".to_owned(), |(count, name)| format!("{count} ({name})")),
    )
}

/// The programs for which the verifier followed more than [`INSTRUCTIONS_MAX`] instructions.
fn too_large(output: &JobOutput) -> Vec<String> {
    let report = report(output).unwrap_or_default();
    let programs = report["programs"].as_array().map_or(&[][..], Vec::as_slice);
    let verified = |program: &Value| program["verified"].as_u64().filter(|count| *count > INSTRUCTIONS_MAX);
    programs
        .iter()
        .filter_map(|program| Some(format!("{} ({})", program["name"], verified(program)?)))
        .collect()
}

fn verdict(
    output: &JobOutput,
    backend: Option<Backend>,
    arch: Arch,
    version: (u32, u32),
) -> (Outcome, String) {
    let last = output.lines.last().cloned().unwrap_or_default();
    match output.exit_code {
        0 => match too_large(output).as_slice() {
            [] if report(output).is_some_and(|report| is_blind(&report, "missing")) => (Outcome::Blind, last),
            [] => (Outcome::Ok, last),
            large => {
                let large = large.join(", ");
                (Outcome::Failed, format!("more than {INSTRUCTIONS_MAX} verified instructions: {large}"))
            }
        },
        // busybox's timeout sends SIGTERM, then SIGKILL.
        143 | 137 => (Outcome::Failed, format!("ended by the time limit or a signal: {last}")),
        // The check of the walker has said so if the programs could not be loaded and attached at all.
        _ if may_be_refused(backend, arch, version) && has_error(output) => (Outcome::Refused, last),
        code => {
            let said = &output.lines[output.lines.len().saturating_sub(10)..];
            (Outcome::Failed, format!("exit code {code}: {}", said.join("\n      ")))
        }
    }
}

fn has_error(output: &JobOutput) -> bool {
    report(output).is_some_and(|report| report["error"].is_string())
}

fn report(output: &JobOutput) -> Option<Value> {
    output.lines.iter().rev().find_map(|line| serde_json::from_str(line).ok().filter(Value::is_object))
}

/// Prints a line for each run.
pub(super) fn print_table(runs: &[Run]) {
    eprintln!(
        "\n{:<28} {:<8} {:<7} {:<8} {:<8} {:>7} {:>8}",
        "kernel", "arch", "check", "backend", "result", "boot", "run"
    );
    for run in runs {
        eprintln!(
            "{:<28} {:<8} {:<7} {:<8} {:<8} {:>7} {:>8}  {}",
            run.kernel,
            run.arch.name(),
            run.check(),
            run.backend.as_deref().unwrap_or("-"),
            run.outcome.name(),
            seconds(run.boot),
            seconds(run.took),
            run.detail
        );
    }
}

impl Run {
    fn check(&self) -> &str {
        let report = self.report.as_ref();
        match report.and_then(|report| report["check"].as_str()) {
            Some(check) => check,
            None if report.is_some_and(|report| report["flows"].is_u64()) => "walker",
            None => "-",
        }
    }

    /// Instructions by program: an object in a line of calls, a list in the report of the walker's check.
    fn instructions(&self) -> Value {
        let Some(report) = &self.report else { return json!({}) };
        let listed = report["programs"].as_array().into_iter().flatten();
        let listed = listed.filter_map(|p| Some((p["name"].as_str()?.to_owned(), p["verified"].clone())));
        match &report["instructions"] {
            Value::Object(programs) => Value::Object(programs.clone()),
            _ => Value::Object(listed.collect()),
        }
    }
}

fn seconds(duration: Option<Duration>) -> String {
    duration.map_or_else(|| "-".into(), |duration| format!("{:.1} s", duration.as_secs_f32()))
}

/// `{"runs":[…],"failed":N}`.
pub(super) fn json(runs: &[Run], failed: usize) -> Value {
    let one = |run: &Run| {
        let number = |key: &str| run.report.as_ref().map_or(0, |report| report[key].as_u64().unwrap_or(0));
        json!({
            "kernel": run.kernel,
            "arch": run.arch.name(),
            "check": run.check(),
            "backend": run.backend,
            "result": run.outcome.name(),
            "calls": number("calls"),
            "wrong": number("wrong"),
            "instructions": run.instructions(),
            "exit_code": run.exit_code,
            "boot_seconds": run.boot.map(rounded),
            "run_seconds": run.took.map(rounded),
            "detail": matches!(run.outcome, Outcome::Refused | Outcome::Failed).then_some(&run.detail),
            "report": run.report,
        })
    };
    json!({ "runs": runs.iter().map(one).collect::<Vec<_>>(), "failed": failed })
}

fn rounded(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(exit_code: i32, line: &str) -> JobOutput {
        JobOutput { exit_code, lines: vec![line.to_owned()], took: Duration::ZERO }
    }

    #[test]
    fn refusal_is_fine_only_where_the_kernel_is_too_old() {
        let x86 = Arch::X86_64;
        let refused = ended(1, r#"{"ok":false,"error":"no sock_send_length"}"#);
        assert_eq!(verdict(&refused, Some(Backend::TpBtf), x86, (5, 10)).0, Outcome::Refused);
        assert_eq!(verdict(&refused, Some(Backend::TpBtf), x86, (6, 12)).0, Outcome::Failed);
        assert_eq!(verdict(&refused, Some(Backend::Fexit), x86, (5, 10)).0, Outcome::Failed);
        assert_eq!(verdict(&refused, Some(Backend::Fexit), Arch::Aarch64, (6, 1)).0, Outcome::Refused);
        let wrong = ended(1, r#"{"ok":false,"wrong":3}"#);
        assert_eq!(verdict(&wrong, Some(Backend::TpBtf), x86, (5, 10)).0, Outcome::Failed);
    }

    fn judged(version: (u32, u32), line: &Value) -> Outcome {
        verdict_of_line(line, Arch::X86_64, version).0
    }

    #[test]
    fn every_line_of_calls_is_judged_by_itself() {
        let line = |backend: &str, result: &str| json!({"check": "calls", "backend": backend, "result": result, "error": "no"});
        assert_eq!(judged((5, 10), &line("tp_btf", "refused")), Outcome::Refused);
        assert_eq!(judged((6, 12), &line("tp_btf", "refused")), Outcome::Failed);
        assert_eq!(judged((5, 10), &line("one that is new here", "refused")), Outcome::Failed);
        assert_eq!(judged((6, 12), &line("fexit", "failed")), Outcome::Failed);
        assert_eq!(judged((6, 12), &line("fexit", "ok")), Outcome::Ok);
    }

    #[test]
    fn what_is_missing_beside_missed_runs_makes_a_run_blind_and_no_better() {
        let line = |missing: u32, missed_runs: u32| json!({"check": "calls", "backend": "fexit", "result": "ok", "missing": missing, "missed_runs": missed_runs});
        assert_eq!(judged((7, 3), &line(0, 0)), Outcome::Ok);
        assert_eq!(judged((7, 3), &line(0, 5)), Outcome::Ok);
        assert_eq!(judged((7, 3), &line(2, 5)), Outcome::Blind);
        let walker = ended(0, r#"{"ok":true,"missing":70,"missed_runs":3}"#);
        assert_eq!(verdict(&walker, None, Arch::X86_64, (7, 3)).0, Outcome::Blind);
        let wrong = ended(1, r#"{"ok":false,"missing":70,"missed_runs":3}"#);
        assert_eq!(verdict(&wrong, None, Arch::X86_64, (7, 3)).0, Outcome::Failed);
    }

    #[test]
    fn a_program_above_half_of_the_limit_fails_and_so_does_an_unknown_number() {
        let line = |count: Value| json!({"check": "calls", "backend": "fexit", "result": "ok", "instructions": {"a": 5, "b": count}});
        assert_eq!(judged((6, 12), &line(json!(500_000))), Outcome::Ok);
        assert_eq!(judged((6, 12), &line(json!(500_001))), Outcome::Failed);
        assert_eq!(judged((6, 12), &line(Value::Null)), Outcome::Failed);
    }

    fn job(backend: Option<Backend>) -> Job {
        Job { program: "check".into(), backend, arguments: vec![] }
    }

    fn session(jobs: Vec<JobOutput>, rest: &[&str]) -> Session {
        let rest = rest.iter().map(|line| (*line).to_owned()).collect();
        Session { boot: None, jobs, rest, console_tail: vec!["Oops".into()], timed_out: false }
    }

    #[test]
    fn a_program_that_takes_more_than_half_of_the_verifiers_limit_fails_its_run() {
        let with = |verified: u32| {
            ended(0, &json!({"ok": true, "programs": [{"name": "a", "verified": null}, {"name": "b", "verified": verified}]}).to_string())
        };
        assert_eq!(verdict(&with(500_000), None, Arch::X86_64, (6, 12)).0, Outcome::Ok);
        let (outcome, why) = verdict(&with(500_001), None, Arch::X86_64, (6, 12));
        assert_eq!(outcome, Outcome::Failed);
        assert!(why.contains("\"b\" (500001)"), "{why}");
    }

    #[test]
    fn a_job_that_never_ran_has_failed() {
        let jobs = [job(Some(Backend::Fexit))];
        let session = session(vec![], &[]);
        let runs = judge(Arch::X86_64, "6.12.107+deb13-cloud-amd64", (6, 12), &jobs, &session);
        assert_eq!(runs[0].outcome, Outcome::Failed);
        assert!(runs[0].detail.contains("Oops"));
    }

    #[test]
    fn a_machine_that_dies_in_the_middle_of_a_check_has_failed_and_what_it_said_counts() {
        let jobs = [job(None)];
        let line = r#"{"check":"calls","backend":"fexit","result":"ok","calls":3}"#;
        let runs = judge(Arch::X86_64, "6.12", (6, 12), &jobs, &session(vec![], &[line]));
        assert_eq!(runs.iter().map(|run| run.outcome).collect::<Vec<_>>(), [Outcome::Ok, Outcome::Failed]);
        let whole = session(vec![ended(0, line)], &[]);
        let runs = judge(Arch::X86_64, "6.12", (6, 12), &jobs, &whole);
        assert_eq!(runs.iter().map(|run| run.outcome).collect::<Vec<_>>(), [Outcome::Ok]);
    }

    #[test]
    fn the_last_object_of_json_is_the_report() {
        let mut output = ended(0, "{\"seeds\":5}");
        output.lines.push("bye".into());
        assert_eq!(report(&output), Some(json!({ "seeds": 5 })));
    }
}
