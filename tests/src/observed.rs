//! What grpcscope says that it saw: the JSON lines of `calls --json` and `replay --json`.

use serde::Deserialize;
use serde_json::Value;

/// A line of output.
#[derive(Clone, Debug)]
pub enum Line {
    /// A call that ended.
    Call(Box<Call>),
    /// A connection at its end.
    Connection(Value),
    /// The last line.
    Summary(Value),
    /// Anything else, as `ready`.
    Other(Value),
}

/// A call as grpcscope saw it; the fields are described in the README's section on `--json`.
#[derive(Clone, Debug, Deserialize)]
pub struct Call {
    /// Connection.
    pub conn: u64,
    /// Stream id.
    pub stream: u32,
    /// `client`, `server` or `unknown`.
    pub side: String,
    /// Full method name, if it is known.
    pub method: Option<String>,
    /// Call type by the messages on the wire.
    pub call_type: String,
    /// `grpc-timeout` as sent.
    pub timeout_ns: Option<u64>,
    /// When the request was seen, in nanoseconds since the epoch.
    pub start_ns: u64,
    /// How long the call took.
    pub duration_ns: Option<u64>,
    /// How it ended.
    pub outcome: String,
    /// gRPC status, if it is known.
    pub status: Option<u32>,
    /// Where the status comes from.
    pub status_source: String,
    /// Who ended it.
    pub ended_by: Option<String>,
    /// Error code of the RST_STREAM that ended it.
    pub rst_code: Option<u32>,
    /// Messages from the client.
    pub request_messages: u64,
    /// Messages from the server.
    pub response_messages: u64,
    /// Bytes of the messages from the client.
    pub request_bytes: u64,
    /// Bytes of the messages from the server.
    pub response_bytes: u64,
    /// Whether the numbers of messages and bytes are those of the whole call.
    pub messages_exact: bool,
    /// Observed process; absent in a recording.
    pub pid: Option<u32>,
    /// Its service name; absent in a recording.
    pub service: Option<String>,
}

/// Reads a line.
///
/// # Errors
/// When it is not the JSON that is promised.
pub fn parse(line: &str) -> anyhow::Result<Line> {
    use anyhow::Context as _;
    let value: Value = serde_json::from_str(line).with_context(|| format!("not JSON: {line}"))?;
    Ok(match value["type"].as_str() {
        Some("call") => {
            Line::Call(Box::new(Call::deserialize(&value).with_context(|| format!("not a call: {line}"))?))
        }
        Some("connection") => Line::Connection(value),
        Some("summary") => Line::Summary(value),
        _ => Line::Other(value),
    })
}
