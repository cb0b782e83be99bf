//! What the runs mean: a verdict for each, a table for people, a line of JSON for machines.

use std::time::Duration;

use serde_json::{Value, json};

use super::vm::{JobOutput, Session};
use super::{Backend, Job};

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The program ended with 0.
    Ok,
    /// The kernel lacks what the backend needs, and no kernel of that age has it.
    Refused,
    /// Anything else.
    Failed,
}

impl Outcome {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

/// One run of the program on one kernel.
pub(crate) struct Run {
    pub(crate) kernel: String,
    pub(crate) outcome: Outcome,
    backend: Option<Backend>,
    exit_code: Option<i32>,
    boot: Option<Duration>,
    took: Option<Duration>,
    /// Why it failed or was refused, or the last thing that it said.
    detail: String,
    /// The last line of JSON that it printed.
    report: Option<Value>,
}

/// Judges every job of a session, those that never ran too.
pub(super) fn judge(kernel: &str, version: (u32, u32), jobs: &[Job], session: &Session) -> Vec<Run> {
    let judge_one = |(number, job): (usize, &Job)| {
        let output = session.jobs.get(number);
        let (outcome, detail) = match output {
            Some(output) => verdict(output, job.backend, version),
            None => {
                let why =
                    if session.timed_out { "the machine was out of time" } else { "the machine went down" };
                let console = session.console_tail.join("\n      ");
                (Outcome::Failed, format!("{why}; its console ends:\n      {console}"))
            }
        };
        Run {
            kernel: kernel.to_owned(),
            outcome,
            backend: job.backend,
            exit_code: output.map(|output| output.exit_code),
            boot: session.boot,
            took: output.map(|output| output.took),
            detail,
            report: output.and_then(report),
        }
    };
    jobs.iter().enumerate().map(judge_one).collect()
}

/// Half of what verifiers follow at most (BPF_COMPLEXITY_LIMIT_INSNS, a million): the next kernel's may count more.
const INSTRUCTIONS_MAX: u64 = 500_000;

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

fn verdict(output: &JobOutput, backend: Option<Backend>, version: (u32, u32)) -> (Outcome, String) {
    let last = output.lines.last().cloned().unwrap_or_default();
    match output.exit_code {
        0 => match too_large(output).as_slice() {
            [] => (Outcome::Ok, last),
            large => {
                let large = large.join(", ");
                (Outcome::Failed, format!("more than {INSTRUCTIONS_MAX} verified instructions: {large}"))
            }
        },
        // busybox's timeout sends SIGTERM, then SIGKILL.
        143 | 137 => (Outcome::Failed, format!("ended by the time limit or a signal: {last}")),
        // The check of the walker has said so if the programs could not be loaded and attached at all.
        _ if backend.is_some_and(|backend| version < backend.first_kernel()) && has_error(output) => {
            (Outcome::Refused, last)
        }
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
    eprintln!("\n{:<28} {:<8} {:<8} {:>7} {:>8}", "kernel", "backend", "result", "boot", "run");
    for run in runs {
        eprintln!(
            "{:<28} {:<8} {:<8} {:>7} {:>8}  {}",
            run.kernel,
            run.backend.map_or("-", Backend::name),
            run.outcome.name(),
            seconds(run.boot),
            seconds(run.took),
            run.detail
        );
    }
}

fn seconds(duration: Option<Duration>) -> String {
    duration.map_or_else(|| "-".into(), |duration| format!("{:.1} s", duration.as_secs_f32()))
}

/// `{"runs":[…],"failed":N}`.
pub(super) fn json(runs: &[Run], failed: usize) -> Value {
    let one = |run: &Run| {
        json!({
            "kernel": run.kernel,
            "arch": "x86_64",
            "backend": run.backend.map(Backend::name),
            "result": run.outcome.name(),
            "exit_code": run.exit_code,
            "boot_seconds": run.boot.map(rounded),
            "run_seconds": run.took.map(rounded),
            "detail": (run.outcome != Outcome::Ok).then_some(&run.detail),
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
        let refused = ended(1, r#"{"ok":false,"error":"no sock_send_length"}"#);
        assert_eq!(verdict(&refused, Some(Backend::TpBtf), (5, 10)).0, Outcome::Refused);
        assert_eq!(verdict(&refused, Some(Backend::TpBtf), (6, 12)).0, Outcome::Failed);
        assert_eq!(verdict(&refused, Some(Backend::Fexit), (5, 10)).0, Outcome::Failed);
        let wrong = ended(1, r#"{"ok":false,"wrong":3}"#);
        assert_eq!(verdict(&wrong, Some(Backend::TpBtf), (5, 10)).0, Outcome::Failed);
    }

    #[test]
    fn a_program_that_takes_more_than_half_of_the_verifiers_limit_fails_its_run() {
        let with = |verified: u32| {
            ended(0, &json!({"ok": true, "programs": [{"name": "a", "verified": null}, {"name": "b", "verified": verified}]}).to_string())
        };
        assert_eq!(verdict(&with(500_000), None, (6, 12)).0, Outcome::Ok);
        let (outcome, why) = verdict(&with(500_001), None, (6, 12));
        assert_eq!(outcome, Outcome::Failed);
        assert!(why.contains("\"b\" (500001)"), "{why}");
    }

    #[test]
    fn a_job_that_never_ran_has_failed() {
        let jobs = [Job { backend: Some(Backend::Fexit), arguments: vec![] }];
        let session =
            Session { boot: None, jobs: vec![], console_tail: vec!["Oops".into()], timed_out: false };
        let runs = judge("6.12.107+deb13-cloud-amd64", (6, 12), &jobs, &session);
        assert_eq!(runs[0].outcome, Outcome::Failed);
        assert!(runs[0].detail.contains("Oops"));
    }

    #[test]
    fn the_last_object_of_json_is_the_report() {
        let mut output = ended(0, "{\"seeds\":5}");
        output.lines.push("bye".into());
        assert_eq!(report(&output), Some(json!({ "seeds": 5 })));
    }
}
