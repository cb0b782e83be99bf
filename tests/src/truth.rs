//! What the test applications say that they did: JSON lines from the client and from the server.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::plan::{CallType, PlannedCall, SERVICE};

/// How a call ended for the client's application, by its code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Code 0.
    Ok,
    /// Any code but 0, 1 and 4.
    Error,
    /// Code 4.
    Deadline,
    /// Code 1.
    Cancelled,
}

impl Outcome {
    /// The outcome that a code stands for.
    #[must_use]
    pub fn of(code: u32) -> Self {
        match code {
            0 => Outcome::Ok,
            1 => Outcome::Cancelled,
            4 => Outcome::Deadline,
            _ => Outcome::Error,
        }
    }
}

/// A call as the client's application saw it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ClientCall {
    /// Always `client`.
    pub side: String,
    /// Number of the call in its plan.
    pub id: u64,
    /// Full method name.
    pub method: String,
    /// Type of the method.
    #[serde(rename = "type")]
    pub call_type: CallType,
    /// Deadline that the application asked for.
    pub timeout_ns: Option<u64>,
    /// gRPC code that it was given.
    pub code: u32,
    /// The same in words.
    pub outcome: Outcome,
    /// Messages handed to the library; fewer may have been written if the call ended early.
    pub sent_msgs: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Messages that the application was given.
    pub recv_msgs: u64,
    /// Their bytes.
    pub recv_bytes: u64,
    /// Wall clock before the call.
    pub t0_ns: u64,
    /// Wall clock after it.
    pub t1_ns: u64,
    /// The plan made the client cancel it.
    pub cancelled_by_client: bool,
}

impl ClientCall {
    /// The record of a planned call before it is made.
    #[must_use]
    pub fn planned(call: &PlannedCall) -> Self {
        ClientCall {
            side: "client".to_owned(),
            id: call.id,
            method: format!("/{SERVICE}/{}", call.method),
            call_type: call.call_type,
            timeout_ns: call.timeout_ms.map(|ms| ms * 1_000_000),
            code: 0,
            outcome: Outcome::Ok,
            sent_msgs: 0,
            sent_bytes: 0,
            recv_msgs: 0,
            recv_bytes: 0,
            t0_ns: wall_clock_ns(),
            t1_ns: 0,
            cancelled_by_client: call.cancel_after_messages.is_some() || call.cancel_after_ms.is_some(),
        }
    }
}

/// A call as the server's handler saw it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServerCall {
    /// Always `server`.
    pub side: String,
    /// `x-call-id` of the call, −1 if it had none.
    pub id: i64,
    /// Full method name.
    pub method: String,
    /// Code that the handler ended with, `None` if it was cancelled before.
    pub code: Option<u32>,
    /// Messages that the handler was given.
    pub recv_msgs: u64,
    /// Their bytes.
    pub recv_bytes: u64,
    /// Messages that the handler handed to the library.
    pub sent_msgs: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// The handler saw that the call was cancelled.
    pub cancelled: bool,
}

/// A file of JSON lines, whole after each line.
#[derive(Debug)]
pub struct TruthFile(Mutex<File>);

impl TruthFile {
    /// Opens the file for appending.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let file = File::options().append(true).create(true).open(path);
        Ok(TruthFile(Mutex::new(file.with_context(|| format!("open {}", path.display()))?)))
    }

    /// Appends one record.
    ///
    /// # Panics
    /// When the file cannot be written: an application without its truth is of no use.
    pub fn write(&self, record: &impl Serialize) {
        let mut line = serde_json::to_vec(record).expect("a record is plain data");
        line.push(b'\n');
        let mut file = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        file.write_all(&line).expect("write the truth");
    }
}

/// Reads the records of one application.
///
/// # Errors
/// When the file cannot be read or holds something else.
pub fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> anyhow::Result<Vec<T>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    text.lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("{}: {line}", path.display())))
        .collect()
}

/// Nanoseconds since the epoch.
#[must_use]
pub fn wall_clock_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64)
}
