//! The lines of JSON: one object a line, its kind in `type`.
//!
//! Fields may be added; those that are here keep their names and meanings.

use std::collections::BTreeMap;
use std::io::{self, Write};

use agent_core::Flow;
use agent_core::observation::{
    CallType, ConnectionSummary, EndedBy, FlowSummary, FrameSeen, Outcome, RetryPushback, Timeout,
};
use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter};

use super::call::{CallLine, outcome_name, side_name, status_source_name, sync_name};
use super::escape::is_hostile;

/// Writes `value` as one line, in which no character can harm a terminal.
///
/// # Errors
/// Those of `out`.
pub fn write_line<W: Write>(out: &mut W, value: &impl Serialize) -> io::Result<()> {
    let mut serializer = serde_json::Serializer::with_formatter(&mut *out, SafeFormatter(CompactFormatter));
    value.serialize(&mut serializer)?;
    out.write_all(b"\n")
}

/// Escapes what JSON allows in a string but [`is_hostile`] does not.
struct SafeFormatter(CompactFormatter);

impl Formatter for SafeFormatter {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, out: &mut W, fragment: &str) -> io::Result<()> {
        let mut plain_from = 0;
        for (at, c) in fragment.char_indices().filter(|(_, c)| is_hostile(*c)) {
            out.write_all(&fragment.as_bytes()[plain_from..at])?;
            // All hostile characters lie in the basic plane: one escape is enough.
            write!(out, "\\u{:04x}", u32::from(c))?;
            plain_from = at + c.len_utf8();
        }
        self.0.write_string_fragment(out, &fragment[plain_from..])
    }
}

/// A call.
#[derive(Serialize)]
struct CallJson<'a> {
    r#type: &'static str,
    conn: u64,
    stream: u32,
    side: &'static str,
    client: Option<&'a str>,
    server: Option<&'a str>,
    method: Option<&'a str>,
    /// `unresolved:N`: calls of one connection share it only if they have the same method.
    #[serde(skip_serializing_if = "Option::is_none")]
    method_ref: Option<String>,
    call_type: &'static str,
    timeout_ns: Option<u64>,
    timeout: &'static str,
    start_ns: u64,
    start_seen: bool,
    duration_ns: Option<u64>,
    first_response_ns: Option<u64>,
    deadline_left_ns: Option<i64>,
    outcome: &'static str,
    refused: bool,
    status: Option<u32>,
    status_source: &'static str,
    http_status: Option<u16>,
    ended_by: Option<&'static str>,
    rst_code: Option<u32>,
    request_messages: u64,
    response_messages: u64,
    request_bytes: u64,
    response_bytes: u64,
    messages_exact: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    previous_attempts: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_pushback_ms: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<&'a str>,
}

/// Writes a call.
///
/// # Errors
/// Those of `out`.
pub fn write_call<W: Write>(out: &mut W, line: &CallLine) -> io::Result<()> {
    let call = &line.call;
    let (timeout_ns, timeout) = match call.timeout {
        Timeout::Ns(ns) => (Some(ns), "sent"),
        Timeout::Absent => (None, "absent"),
        Timeout::Invalid => (None, "invalid"),
        Timeout::Unknown => (None, "unknown"),
    };
    let json = CallJson {
        r#type: "call",
        conn: line.connection,
        stream: call.stream,
        side: side_name(line.side),
        client: line.client.as_deref(),
        server: line.server.as_deref(),
        method: call.method.as_deref(),
        method_ref: call.method_ref.map(|number| format!("unresolved:{number}")),
        call_type: match call.call_type {
            CallType::Unary => "unary",
            CallType::ClientStream => "client_stream",
            CallType::ServerStream => "server_stream",
            CallType::Bidi => "bidi",
            CallType::Unknown => "unknown",
        },
        timeout_ns,
        timeout,
        start_ns: line.start_unix_ns(),
        start_seen: call.started.is_some(),
        duration_ns: line.duration_ns(),
        first_response_ns: call.first_response.zip(call.started).map(|(first, start)| first.since(start)),
        deadline_left_ns: line.deadline_left_ns(),
        outcome: outcome_name(call.outcome),
        refused: call.outcome == Outcome::Refused,
        status: call.status,
        status_source: status_source_name(call.status_source),
        http_status: call.http_status,
        ended_by: call.ended_by.map(|by| match by {
            EndedBy::Client => "client",
            EndedBy::Server => "server",
            EndedBy::Connection => "connection",
        }),
        rst_code: call.rst_code,
        request_messages: call.request.count,
        response_messages: call.response.count,
        request_bytes: call.request.bytes,
        response_bytes: call.response.bytes,
        messages_exact: call.request.exact && call.response.exact,
        previous_attempts: call.previous_attempts,
        retry_pushback_ms: call.retry_pushback.map(|pushback| match pushback {
            RetryPushback::AfterMs(milliseconds) => i64::from(milliseconds),
            RetryPushback::DoNotRetry => -1,
        }),
        pid: line.process.as_ref().map(|process| process.pid),
        service: line.process.as_ref().map(|process| process.service.as_str()),
        file: line.file.as_deref(),
    };
    write_line(out, &json)
}

/// A connection at its end.
#[derive(Serialize)]
struct ConnectionJson<'a> {
    r#type: &'static str,
    conn: u64,
    client: Option<&'a str>,
    server: Option<&'a str>,
    http2: bool,
    state: &'static str,
    opened_ns: u64,
    closed_ns: u64,
    calls: u64,
    frames: u64,
    header_blocks: u64,
    bytes: u64,
    holes: u64,
    hole_bytes: u64,
    desyncs: u64,
    flows: FlowsJson,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<&'a str>,
}

/// The flows by who sends; where that is not known, by who sent first.
#[derive(Serialize)]
#[serde(untagged)]
enum FlowsJson {
    Known { client: FlowJson, server: FlowJson },
    Unknown { first: FlowJson, second: FlowJson },
}

#[derive(Serialize)]
struct FlowJson {
    state: &'static str,
    frames: u64,
    header_blocks: u64,
    bytes: u64,
    hole_bytes: u64,
    desyncs: u64,
    send_window: Option<i64>,
}

/// What the end of a connection knows apart from the core's summary.
#[derive(Clone, Debug, Default)]
pub struct ConnectionLine {
    /// Its number.
    pub connection: u64,
    /// Address of the client, if it is known.
    pub client: Option<String>,
    /// Address of the server.
    pub server: Option<String>,
    /// Places where bytes miss, in both flows.
    pub holes: u64,
    /// What to add to the core's times to get nanoseconds since the epoch: zero for a recording.
    pub unix_offset_ns: i64,
    /// File that it comes from, where there are several.
    pub file: Option<String>,
}

/// Writes a connection.
///
/// # Errors
/// Those of `out`.
pub fn write_connection<W: Write>(
    out: &mut W,
    line: &ConnectionLine,
    summary: &ConnectionSummary,
) -> io::Result<()> {
    let [sent, received] = summary.flows;
    let sum = |field: fn(&FlowSummary) -> u64| field(&sent) + field(&received);
    let flows = match summary.client_flow {
        Some(Flow::Sent) => FlowsJson::Known { client: flow_json(&sent), server: flow_json(&received) },
        Some(Flow::Received) => FlowsJson::Known { client: flow_json(&received), server: flow_json(&sent) },
        None => FlowsJson::Unknown { first: flow_json(&sent), second: flow_json(&received) },
    };
    let json = ConnectionJson {
        r#type: "connection",
        conn: line.connection,
        client: line.client.as_deref(),
        server: line.server.as_deref(),
        http2: summary.http2,
        state: if summary.http2 { sync_name(sent.sync.max(received.sync)) } else { "not_http2" },
        opened_ns: summary.opened.0.saturating_add_signed(line.unix_offset_ns),
        closed_ns: summary.closed.0.saturating_add_signed(line.unix_offset_ns),
        calls: summary.calls,
        frames: sum(|flow| flow.frames),
        header_blocks: sum(|flow| flow.header_blocks),
        bytes: sum(|flow| flow.bytes),
        holes: line.holes,
        hole_bytes: sum(|flow| flow.hole_bytes),
        desyncs: sum(|flow| flow.desyncs),
        flows,
        file: line.file.as_deref(),
    };
    write_line(out, &json)
}

fn flow_json(flow: &FlowSummary) -> FlowJson {
    FlowJson {
        state: sync_name(flow.sync),
        frames: flow.frames,
        header_blocks: flow.header_blocks,
        bytes: flow.bytes,
        hole_bytes: flow.hole_bytes,
        desyncs: flow.desyncs,
        send_window: flow.send_window,
    }
}

/// A frame, in the form of the corpora's oracle.
#[derive(Serialize)]
struct FrameJson {
    conn: u64,
    dir: Option<&'static str>,
    t_us: u64,
    r#type: u8,
    flags: u8,
    sid: u32,
    len: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    settings: Option<Vec<(u16, u32)>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    inc: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u32>,
    /// Each byte as the character of that number; what is not known is `null`.
    #[serde(skip_serializing_if = "Option::is_none")]
    headers: Option<Vec<(Option<String>, Option<String>)>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hpack_error: Option<String>,
}

/// Writes a frame.
///
/// # Errors
/// Those of `out`.
pub fn write_frame<W: Write>(out: &mut W, frame: &FrameSeen) -> io::Result<()> {
    let latin_1 = |bytes: &Vec<u8>| bytes.iter().map(|&byte| char::from(byte)).collect::<String>();
    let json = FrameJson {
        conn: frame.connection.0,
        dir: frame.from_client.map(|client| if client { "c2s" } else { "s2c" }),
        t_us: frame.time.0 / 1_000,
        r#type: frame.frame_type,
        flags: frame.flags,
        sid: frame.stream,
        len: frame.length,
        settings: frame.settings.clone(),
        inc: frame.increment,
        code: frame.code,
        headers: frame.headers.as_ref().map(|fields| {
            fields
                .iter()
                .map(|(name, value)| (name.as_ref().map(latin_1), value.as_ref().map(latin_1)))
                .collect()
        }),
        hpack_error: frame.hpack_error.clone(),
    };
    write_line(out, &json)
}

/// The last line of a replay.
#[derive(Debug, Default, Serialize)]
pub struct SummaryJson {
    /// `summary`.
    pub r#type: &'static str,
    /// Calls seen.
    pub calls: u64,
    /// They by how they ended.
    pub outcomes: BTreeMap<&'static str, u64>,
    /// Of the calls with outcome `error`, those that the server refused to process.
    pub refused: u64,
    /// HTTP/2 exchanges that are not gRPC.
    pub other_exchanges: u64,
    /// They by what they are: `http`, `grpc_web`, `unknown`.
    pub other_protocols: BTreeMap<&'static str, u64>,
    /// TCP connections.
    pub connections: u64,
    /// Those of them that spoke HTTP/2.
    pub http2_connections: u64,
    /// Connections given up because there were too many at once.
    pub evicted_connections: u64,
    /// Packets read.
    pub packets: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Bytes of TCP streams that were followed.
    pub stream_bytes: u64,
    /// Bytes that came more than once.
    pub duplicate_bytes: u64,
    /// Places where bytes miss.
    pub holes: u64,
    /// Bytes that miss.
    pub hole_bytes: u64,
    /// Packets that hold no usable TCP segment, by reason.
    pub skipped_packets: BTreeMap<&'static str, u64>,
    /// Things that the protocol does not allow, by kind.
    pub anomalies: BTreeMap<&'static str, u64>,
    /// What was found, by finding and verdict.
    pub findings: BTreeMap<&'static str, BTreeMap<&'static str, u64>>,
    /// Every recording was read to its end.
    pub complete: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_of_a_line_cannot_harm_a_terminal_and_read_back_the_same() {
        let hostile = "a\"\\\n\x1b[31m\x7f\u{9b}2J\u{202e}\u{feff}é取\u{1F600}";
        let mut out = Vec::new();
        write_line(&mut out, &hostile).expect("a vector takes everything");
        let text = String::from_utf8(out).expect("JSON is UTF-8");
        assert!(!text.trim_end_matches('\n').chars().any(is_hostile), "{text:?}");
        let back: String = serde_json::from_str(&text).expect("it is JSON");
        assert_eq!(back, hostile);
    }
}
