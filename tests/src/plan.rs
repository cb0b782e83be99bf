//! What a client shall do: a list of calls of every kind, the same for every implementation.
//!
//! The format and the methods are described in `tests/apps/README.md`.

use std::io::Write as _;
use std::path::Path;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

/// Names of the gRPC codes (`google/rpc/code.proto`), as the label spells them.
pub const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// The service of the test applications.
pub const SERVICE: &str = "live.test.Calls";

/// The deadline of the calls that are meant to miss it.
pub const SHORT_DEADLINE_MS: u64 = 50;

/// Call type as an application knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallType {
    /// One request, one response.
    Unary,
    /// Many requests, one response.
    ClientStream,
    /// One request, many responses.
    ServerStream,
    /// Many of both.
    Bidi,
}

/// One message of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Message {
    /// That many bytes of `x`.
    Bytes(usize),
    /// This text.
    Text(String),
}

impl Message {
    /// The bytes to send.
    #[must_use]
    pub fn payload(&self) -> Vec<u8> {
        match self {
            Message::Bytes(count) => vec![b'x'; *count],
            Message::Text(text) => text.clone().into_bytes(),
        }
    }
}

/// Which metadata a call carries beside its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metadata {
    /// Nothing.
    None,
    /// A `traceparent` that differs from call to call.
    Trace,
    /// The same, and ASCII, long and binary values.
    Full,
}

/// One call of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedCall {
    /// Number of the call in its plan.
    pub id: u64,
    /// Method of [`SERVICE`].
    pub method: String,
    /// Its type.
    #[serde(rename = "type")]
    pub call_type: CallType,
    /// Deadline, if it has one.
    pub timeout_ms: Option<u64>,
    /// What the client sends.
    pub send: Vec<Message>,
    /// What it carries.
    pub metadata: Metadata,
    /// The client cancels after so many messages.
    pub cancel_after_messages: Option<u64>,
    /// The client cancels after so many milliseconds.
    pub cancel_after_ms: Option<u64>,
}

/// The kinds of calls, each with how often it comes.
const KINDS: [(Kind, u64); 18] = [
    (Kind::Unary, 30),
    (Kind::Empty, 4),
    (Kind::BigRequest, 2),
    (Kind::BigResponse, 3),
    (Kind::Metadata, 6),
    (Kind::Fail, 10),
    (Kind::Missing, 4),
    (Kind::ServerStream, 6),
    (Kind::FailAfter, 5),
    (Kind::ClientStream, 6),
    (Kind::Bidi, 6),
    (Kind::BidiBig, 1),
    (Kind::Early, 3),
    (Kind::EarlyOk, 3),
    (Kind::SlowInTime, 3),
    (Kind::Deadline, 4),
    (Kind::CancelAfterMessages, 3),
    (Kind::CancelAfterTime, 3),
];

#[derive(Clone, Copy, Debug)]
enum Kind {
    Unary,
    Empty,
    BigRequest,
    BigResponse,
    Metadata,
    Fail,
    Missing,
    ServerStream,
    FailAfter,
    ClientStream,
    Bidi,
    BidiBig,
    Early,
    EarlyOk,
    SlowInTime,
    Deadline,
    CancelAfterMessages,
    CancelAfterTime,
}

/// Calls of every kind, in an order that the seed decides. The first eighteen are one of each kind.
#[must_use]
pub fn mixed(calls: u64, seed: u64) -> Vec<PlannedCall> {
    let mut random = Random(seed);
    (0..calls)
        .map(|id| {
            let kind = KINDS.get(id as usize).map_or_else(|| random.kind(), |(kind, _)| *kind);
            planned(id, kind, &mut random)
        })
        .collect()
}

/// Small unary calls, one like the other.
#[must_use]
pub fn unary(calls: u64, seed: u64) -> Vec<PlannedCall> {
    let mut random = Random(seed);
    (0..calls).map(|id| planned(id, Kind::Unary, &mut random)).collect()
}

/// Writes a plan as JSON lines.
///
/// # Errors
/// When the file cannot be written.
pub fn write(path: &Path, calls: &[PlannedCall]) -> anyhow::Result<()> {
    let mut text = Vec::new();
    for call in calls {
        serde_json::to_writer(&mut text, call)?;
        text.push(b'\n');
    }
    let mut file = std::fs::File::create(path).with_context(|| format!("create {}", path.display()))?;
    file.write_all(&text).with_context(|| format!("write {}", path.display()))
}

/// Reads a plan.
///
/// # Errors
/// When the file cannot be read, or is no plan.
pub fn read(path: &Path) -> anyhow::Result<Vec<PlannedCall>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    text.lines().map(|line| serde_json::from_str(line).context("read a line of the plan")).collect()
}

fn planned(id: u64, kind: Kind, random: &mut Random) -> PlannedCall {
    use CallType::{Bidi, ClientStream, ServerStream, Unary};
    let text = |text: String| vec![Message::Text(text)];
    let (method, call_type, send) = match kind {
        Kind::Unary => ("Unary", Unary, vec![Message::Bytes(random.below(300))]),
        Kind::Empty => ("Unary", Unary, vec![Message::Bytes(0)]),
        Kind::BigRequest => ("Unary", Unary, vec![Message::Bytes(1_100_000 + random.below(100_000))]),
        Kind::BigResponse => ("Big", Unary, text(random.of(&[70_000, 300_000, 1_500_000]).to_string())),
        Kind::Metadata => ("Metadata", Unary, vec![Message::Bytes(random.below(50))]),
        Kind::Fail => ("Fail", Unary, text((1 + random.below(16)).to_string())),
        Kind::Missing => ("Missing", Unary, vec![Message::Bytes(random.below(20))]),
        Kind::ServerStream => {
            ("ServerStream", ServerStream, text(format!("{},{},0", 2 + random.below(20), random.below(500))))
        }
        Kind::FailAfter => {
            let (count, bytes, code) = (2 + random.below(4), random.below(200), random.of(&[2, 9, 13, 14]));
            ("FailAfter", ServerStream, text(format!("{count},{bytes},{code}")))
        }
        Kind::ClientStream => ("ClientStream", ClientStream, random.messages(10, 200)),
        Kind::Bidi => ("Bidi", Bidi, random.messages(8, 400)),
        Kind::BidiBig => ("Bidi", Bidi, vec![Message::Bytes(70_000 + random.below(1_000)); 4]),
        Kind::Early => ("Early", ClientStream, vec![Message::Bytes(1_000); 200]),
        Kind::EarlyOk => ("EarlyOk", ClientStream, vec![Message::Bytes(1_000 + random.below(20)); 100]),
        Kind::SlowInTime => ("Slow", Unary, text((2 + random.below(20)).to_string())),
        Kind::Deadline => ("Slow", Unary, text("1500".to_owned())),
        Kind::CancelAfterMessages => ("ServerStream", ServerStream, text("800,101,2".to_owned())),
        Kind::CancelAfterTime => ("Slow", Unary, text("1600".to_owned())),
    };
    let comfortable = random.of(&[None, Some(20_000), Some(60_000), None, Some(33_333)]);
    PlannedCall {
        id,
        method: method.to_owned(),
        call_type,
        timeout_ms: match kind {
            Kind::Deadline => Some(SHORT_DEADLINE_MS),
            _ => comfortable,
        },
        send,
        metadata: match kind {
            Kind::Metadata => Metadata::Full,
            Kind::Unary => Metadata::Trace,
            _ => Metadata::None,
        },
        cancel_after_messages: matches!(kind, Kind::CancelAfterMessages).then_some(3),
        cancel_after_ms: matches!(kind, Kind::CancelAfterTime).then_some(30),
    }
}

/// SplitMix64: a plan depends on its seed alone, whatever libraries change.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// Two messages or more, so that the wire tells that it is a stream.
    fn messages(&mut self, count: usize, bytes: usize) -> Vec<Message> {
        (0..2 + self.below(count)).map(|_| Message::Bytes(self.below(bytes))).collect()
    }

    fn kind(&mut self) -> Kind {
        let mut ticket = self.next() % KINDS.iter().map(|(_, weight)| weight).sum::<u64>();
        for (kind, weight) in KINDS {
            if ticket < weight {
                return kind;
            }
            ticket -= weight;
        }
        Kind::Unary
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_depends_on_its_seed_alone_and_holds_every_kind() {
        let calls = mixed(300, 7);
        assert_eq!(calls, mixed(300, 7));
        assert_ne!(calls, mixed(300, 8));
        for method in ["Unary", "Big", "Slow", "Fail", "Metadata", "Missing", "Bidi", "Early", "EarlyOk"] {
            assert!(calls[..KINDS.len()].iter().any(|call| call.method == method), "no {method}");
        }
        assert!(calls.iter().any(|call| call.cancel_after_messages.is_some()));
        assert!(calls.iter().any(|call| call.cancel_after_ms.is_some()));
        assert!(calls.iter().any(|call| call.timeout_ms == Some(SHORT_DEADLINE_MS)));
    }

    #[test]
    fn a_plan_reads_back_as_it_was_written() {
        let path = std::env::temp_dir().join(format!("grpcscope-plan-{}.jsonl", std::process::id()));
        write(&path, &mixed(50, 1)).unwrap();
        assert_eq!(read(&path).unwrap(), mixed(50, 1));
        std::fs::remove_file(path).unwrap();
    }
}
