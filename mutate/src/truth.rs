//! What the applications themselves saw, and whether the unharmed replay says the same.
//!
//! Two forms are read: `FILE.truth.json` beside `FILE.pcap.gz` (a list of calls, times in seconds), and
//! `FILE.client.jsonl` (one call a line, times in nanoseconds), which the test applications write. Of a call, the
//! method and the code are compared, and that its times lie inside those of the application. A status that was
//! not sent is none: a call that ended by RST_STREAM, or that missed its deadline or was cancelled while its
//! answer was on its way, is compared by how it ended.

use std::fs;
use std::path::{Path, PathBuf};

use agent_core::observation::{Call, Outcome, StatusSource};
use anyhow::Context as _;
use serde_json::Value;

/// A call as its client's application saw it.
#[derive(Clone, Debug)]
pub struct ApplicationCall {
    method: String,
    code: u32,
    from_ns: u64,
    to_ns: u64,
    /// It may never have reached the wire.
    may_be_missing: bool,
}

/// Wall clocks of applications are read in milliseconds by some, and a call ends for the wire before its
/// application is told.
const CLOCK_SLACK_NS: u64 = 100_000_000;

/// CANCELLED and DEADLINE_EXCEEDED: codes that a client may have given itself.
const BY_CLIENT: [u32; 2] = [1, 4];

/// Reads the truth beside a recording, if there is one.
///
/// # Errors
/// There is one, and it is not understood.
pub fn beside(recording: &Path) -> anyhow::Result<Option<Vec<ApplicationCall>>> {
    let name = recording.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let stem = name.trim_end_matches(".gz").trim_end_matches(".pcapng").trim_end_matches(".pcap");
    let file = |suffix: &str| -> PathBuf { recording.with_file_name(format!("{stem}.{suffix}")) };
    let (list, lines) = (file("truth.json"), file("client.jsonl"));
    if list.exists() {
        let text = fs::read_to_string(&list).with_context(|| format!("read {}", list.display()))?;
        let calls: Vec<Value> =
            serde_json::from_str(&text).with_context(|| format!("read {}", list.display()))?;
        return read_all(&calls, &list, of_list).map(Some);
    }
    if lines.exists() {
        let text = fs::read_to_string(&lines).with_context(|| format!("read {}", lines.display()))?;
        let calls: Vec<Value> = text
            .lines()
            .map(serde_json::from_str)
            .collect::<Result<_, _>>()
            .with_context(|| format!("read {}", lines.display()))?;
        return read_all(&calls, &lines, of_line).map(Some);
    }
    Ok(None)
}

fn read_all(
    calls: &[Value],
    path: &Path,
    read: fn(&Value) -> Option<ApplicationCall>,
) -> anyhow::Result<Vec<ApplicationCall>> {
    calls
        .iter()
        .map(|call| read(call).with_context(|| format!("{}: not a call: {call}", path.display())))
        .collect()
}

fn of_list(call: &Value) -> Option<ApplicationCall> {
    let ns = |key: &str| Some((call[key].as_f64()? * 1e9) as u64);
    Some(ApplicationCall {
        method: call["method"].as_str()?.to_owned(),
        code: call["code"].as_u64()?.try_into().ok()?,
        from_ns: ns("t0")?,
        to_ns: ns("t1")?,
        may_be_missing: false,
    })
}

fn of_line(call: &Value) -> Option<ApplicationCall> {
    let code = call["code"].as_u64()?.try_into().ok()?;
    Some(ApplicationCall {
        method: call["method"].as_str()?.to_owned(),
        code,
        from_ns: call["t0_ns"].as_u64()?,
        to_ns: call["t1_ns"].as_u64()?,
        may_be_missing: BY_CLIENT.contains(&code),
    })
}

/// What the replay says other than the application: every call of the truth is matched with one that fits it.
#[must_use]
pub fn differences(truth: &[ApplicationCall], seen: &[&Call]) -> Vec<String> {
    let fits: Vec<Vec<usize>> =
        truth.iter().map(|truth| (0..seen.len()).filter(|&at| truth.fits(seen[at])).collect()).collect();
    let mut taken_by = vec![None; seen.len()];
    let mut differences = Vec::new();
    // Those that must be there come first: what is matched once stays matched.
    for optional in [false, true] {
        for (at, call) in truth.iter().enumerate().filter(|(_, call)| call.may_be_missing == optional) {
            let placed = place(at, &fits, &mut taken_by, &mut vec![false; seen.len()]);
            if !placed && !optional {
                differences.push(format!("not seen, or seen otherwise: {call:?}"));
            }
        }
    }
    let left = seen.iter().zip(&taken_by).filter(|(_, by)| by.is_none());
    differences.extend(left.map(|(call, _)| format!("seen, but not made: {call:?}")));
    differences
}

/// Finds a call for `truth[at]`, moving others where that makes room (augmenting paths).
fn place(at: usize, fits: &[Vec<usize>], taken_by: &mut [Option<usize>], tried: &mut [bool]) -> bool {
    for &call in &fits[at] {
        if std::mem::replace(&mut tried[call], true) {
            continue;
        }
        if taken_by[call].is_none_or(|other| place(other, fits, taken_by, tried)) {
            taken_by[call] = Some(at);
            return true;
        }
    }
    false
}

impl ApplicationCall {
    fn fits(&self, call: &Call) -> bool {
        let ended = call.ended.unwrap_or(call.first_seen);
        let in_time = call.first_seen.0 + CLOCK_SLACK_NS >= self.from_ns
            && ended.0 <= self.to_ns.saturating_add(CLOCK_SLACK_NS);
        let was_sent = matches!(call.status_source, StatusSource::Trailer | StatusSource::TrailersOnly);
        let gave_up = matches!(call.outcome, Outcome::Cancelled | Outcome::Deadline | Outcome::Unknown);
        let how = match self.code {
            0 => call.outcome == Outcome::Ok,
            1 | 4 => gave_up,
            _ => matches!(call.outcome, Outcome::Error | Outcome::Refused | Outcome::Aborted),
        };
        let status =
            !was_sent || call.status == Some(self.code) || (BY_CLIENT.contains(&self.code) && gave_up);
        call.method.as_deref() == Some(&*self.method) && in_time && how && status
    }
}
