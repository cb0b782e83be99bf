//! The demo without a kernel: a packet capture of the shop on a loopback interface, and what its processes wrote down.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::Run;
use super::compare::Call;
use crate::programs::Programs;
use crate::repo;

/// Made by `tcpdump -i lo` around `grpcscope-demo all`.
const CAPTURE: &str = "proto/recordings/demo.pcap.gz";
/// What the callers wrote down meanwhile.
const TRUTH: &str = "proto/recordings/demo.truth.jsonl.gz";

pub(super) fn replay(programs: &Programs) -> Result<Run> {
    let capture = repo::root().join(CAPTURE);
    let replay = output(Command::new(&programs.grpcscope).args(["replay", "--json"]).arg(&capture))?;
    let mut seen = Vec::new();
    for line in replay.lines() {
        let said: Value =
            serde_json::from_str(line).with_context(|| format!("`grpcscope replay` says {line:?}"))?;
        if said["type"] == "call" {
            seen.push(Call::of_observer(&said)?.on_the_wire());
        }
    }
    let truth = output(Command::new("gzip").arg("-dc").arg(repo::root().join(TRUTH)))?;
    let made: Result<Vec<Call>> = truth.lines().map(|line| Ok(Call::of_truth(line)?.on_the_wire())).collect();
    let farewell = format!(
        "Where to look next:\n  \
         {0} replay {CAPTURE}   a line for each of these calls\n  \
         {0} check              what keeps this machine from being watched\n  \
         dashboards/overview.json   for Grafana; deploy/daemonset.yaml for Kubernetes",
        programs.grpcscope.display()
    );
    // What a capture lacks, the replay would show as a call that differs; nothing is lost on the way.
    Ok(Run { made: made?, seen, lost: 0, source: "recording", farewell })
}

fn output(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("start {name}"))?;
    if !output.status.success() {
        bail!("{name} failed: {}", String::from_utf8_lossy(&output.stderr).trim_end());
    }
    String::from_utf8(output.stdout).with_context(|| format!("read what {name} says"))
}
