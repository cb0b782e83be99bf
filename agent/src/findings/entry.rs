//! A finding, or equal findings together, in the words and numbers of the API.
//!
//! Fields may be added; those that are here keep their names and meanings. Whatever of it came from the wire may be any
//! text: JSON escapes it, and a terminal needs [`Escaped`](crate::output::escape::Escaped).

use std::collections::BTreeMap;
use std::sync::Arc;

use agent_core::Timestamp;
use agent_core::detectors::{End, Finding, Value};
use agent_core::observation::Side;
use serde::{Deserialize, Serialize};

use crate::metrics::{Method, Workload};
use crate::pipeline::{self, Subject};

/// Longest name of a peer: host names have at most 255 octets (RFC 1035 §2.3.4), a colon and a port.
const PEER_BYTES_MAX: usize = 261;
/// What stands for a peer's name that is none.
const INVALID: &str = "invalid";

/// Everything that was found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The list: what fires before what does not, problems before notices, then by count.
    pub findings: Vec<Entry>,
    /// How often it could not be told, by finding.
    pub undecided: Vec<Undecided>,
    /// Entries that left the list for newer ones.
    pub forgotten: u64,
}

/// How often a finding could not be told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Undecided {
    /// Its name.
    pub finding: String,
    /// How often.
    pub count: u64,
}

/// Findings that differ only in their numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Its name.
    pub finding: String,
    /// `problem` or `notice`.
    pub level: String,
    /// `firing`, `quiet`, `undecided`.
    pub verdict: String,
    /// Why, where the finding has causes.
    pub cause: Option<String>,
    /// How it is known that an outbound call belongs to an inbound one, where the finding needs that.
    pub link: Option<String>,
    /// The workload that it was seen on, as in the metrics; `None` in a recording.
    pub service_name: Option<String>,
    /// The process, in the agent's namespace.
    pub pid: Option<u32>,
    /// Which side of its calls the process has.
    pub side: Option<String>,
    /// The method without its leading slash, `invalid` if it is no name of a gRPC method.
    pub rpc_method: Option<String>,
    /// The other side, by name.
    pub peer: Option<String>,
    /// How often: an event each time, what lasts each time that it begins.
    pub count: u64,
    /// First time, in seconds since the epoch.
    pub first_seen: f64,
    /// Last time; of what lasts and is quiet the end.
    pub last_seen: f64,
    /// Numbers of the latest one.
    pub evidence: BTreeMap<String, serde_json::Value>,
    /// The latest one in words.
    pub sentence: String,
    /// Where to see the latest one, if it is about a connection.
    pub example: Option<Example>,
}

/// A connection, and a stream of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Example {
    /// Number of the connection: live the socket's cookie, of a recording in order of appearance.
    pub connection: u64,
    /// Stream id.
    pub stream: Option<u32>,
    /// Address of the client, if it is known.
    pub client: Option<String>,
    /// Address of the server.
    pub server: Option<String>,
}

/// Whom a finding is about, as far as only the agent knows.
#[derive(Clone, Debug, Default)]
pub struct About {
    /// The process.
    pub pid: Option<u32>,
    /// Name of its workload, as it says it itself.
    pub service: Option<Arc<str>>,
    /// This end of the connection and the other one.
    pub ends: Option<(End, End)>,
}

impl About {
    /// From the connection, if there is one, and the process that the detectors know.
    #[must_use]
    pub fn of(subject: Option<&Subject>, finding: &Finding) -> About {
        let owner = finding.about.owner.as_ref();
        let process = subject.map(|subject| &subject.process);
        About {
            pid: owner.map(|owner| pipeline::pid(owner.process)).or(process.map(|process| process.pid)),
            service: owner
                .map(|owner| Arc::clone(&owner.workload))
                .or_else(|| process.map(|process| Arc::from(process.service_name.as_str()))),
            ends: subject.and_then(|subject| subject.ends),
        }
    }
}

impl Entry {
    /// A single finding. `unix_offset_ns` is what to add to its time to get nanoseconds since the epoch.
    #[must_use]
    pub fn of(finding: &Finding, about: &About, unix_offset_ns: i64) -> Entry {
        let claims = finding.claim.claims();
        let mut evidence = BTreeMap::new();
        claims.evidence(&mut |name, value| {
            evidence.insert(name.to_owned(), number(value));
        });
        let owned = |text: &str| text.to_owned();
        let time = seconds_of(finding.time, unix_offset_ns);
        Entry {
            finding: owned(claims.name().as_str()),
            level: owned(claims.name().level().as_str()),
            verdict: owned(finding.verdict.as_str()),
            cause: claims.cause().map(owned),
            link: claims.link().map(|link| owned(link.as_str())),
            service_name: about.service.as_deref().map(|name| Workload::new(name).service_name().to_owned()),
            pid: about.pid,
            side: finding.about.side.map(|side| owned(side.as_str())),
            rpc_method: finding.about.method.as_ref().map(|path| Method::of(Some(path)).to_string()),
            peer: finding.about.peer.as_deref().map(|peer| owned(peer_name(peer))),
            count: 1,
            first_seen: time,
            last_seen: time,
            evidence,
            sentence: finding.claim.claims().to_string(),
            example: example(finding, about),
        }
    }
}

/// What may stand for a peer.
pub(super) fn peer_name(peer: &str) -> &str {
    if peer.len() > PEER_BYTES_MAX { INVALID } else { peer }
}

fn example(finding: &Finding, about: &About) -> Option<Example> {
    let ends = about.ends.zip(finding.about.side).map(|((local, peer), side)| match side {
        Side::Client => (local, peer),
        Side::Server => (peer, local),
    });
    let (client, server) = ends.map(|(client, server)| (client.to_string(), server.to_string())).unzip();
    let connection = finding.about.connection?.0;
    Some(Example { connection, stream: finding.about.stream, client, server })
}

fn number(value: Value) -> serde_json::Value {
    match value {
        Value::Count(count) => count.into(),
        Value::Bytes(bytes) => bytes.into(),
        Value::Ns(ns) => (ns as f64 / 1e9).into(),
        Value::Ratio(ratio) => ratio.into(),
        Value::Word(word) => word.into(),
    }
}

/// Seconds since the epoch.
#[must_use]
pub fn seconds_of(time: Timestamp, unix_offset_ns: i64) -> f64 {
    time.0.saturating_add_signed(unix_offset_ns) as f64 / 1e9
}
