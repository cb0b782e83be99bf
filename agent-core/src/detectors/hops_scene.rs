//! A process between others, for the tests of what is seen across a hop: inbound and outbound calls that no traffic made.

use std::sync::Arc;

use super::correlation::{Correlated, Correlation};
use super::synthetic::ms;
use super::{Detectors, Finding, Owner, Party, ProcessId, Thresholds};
use crate::input::{ConnectionId, Flow, Timestamp};
use crate::limits::Limits;
use crate::observation::{
    Call, CallStarted, CallType, ConnectionStatus, EndedBy, Messages, Observation, Outcome, RequestEnded,
    StatusSource, Sync, Timeout, TraceHash, Traces,
};
use crate::observer::Observer;

/// Connection of the inbound calls of process 1, and of its outbound ones.
pub(super) const SERVED: u64 = 1;
pub(super) const CALLS: u64 = 2;

/// A time, in milliseconds.
pub(super) fn at(milliseconds: u64) -> Timestamp {
    Timestamp(ms(1_000_000 + milliseconds))
}

/// Traces with this trace id.
pub(super) fn trace(id: u64) -> Traces {
    Traces { trace: Some(TraceHash(id)), request: None }
}

/// How a call ends.
pub(super) enum Ends {
    Ok,
    Cancelled,
    Deadline,
    Lost,
    Unseen,
}

pub(super) struct Hop {
    pub(super) detectors: Detectors,
    names: std::collections::BTreeMap<&'static str, Arc<str>>,
    /// Of the calls that end, in each direction.
    pub(super) messages: Messages,
}

impl Hop {
    /// Process 1 with one connection for each direction, both synced.
    pub(super) fn new() -> Hop {
        Hop::with(Thresholds::default())
    }

    pub(super) fn with(thresholds: Thresholds) -> Hop {
        let names = std::collections::BTreeMap::new();
        let messages = Messages { count: 1, bytes: 10, exact: true };
        let mut hop = Hop { detectors: Detectors::new(thresholds), names, messages };
        hop.connect(SERVED, Some(1), Flow::Received, Sync::Synced, at(0));
        hop.connect(CALLS, Some(1), Flow::Sent, Sync::Synced, at(0));
        hop
    }

    pub(super) fn connect(
        &mut self,
        connection: u64,
        process: Option<u64>,
        client_flow: Flow,
        sync: Sync,
        time: Timestamp,
    ) {
        let owner = process.map(|process| {
            Arc::new(Owner { process: ProcessId(process), workload: Arc::from(format!("service{process}")) })
        });
        self.detectors.handle_connection(ConnectionId(connection), Party { owner, ends: None });
        self.status(connection, client_flow, sync, time);
    }

    pub(super) fn status(&mut self, connection: u64, client_flow: Flow, sync: Sync, time: Timestamp) {
        self.observe(Observation::Connection(ConnectionStatus {
            connection: ConnectionId(connection),
            client_flow: Some(client_flow),
            sync,
            time,
        }));
    }

    pub(super) fn observe(&mut self, observation: Observation) {
        self.detectors.handle_observation(&observation);
    }

    /// The core keeps each name once.
    fn name(&mut self, name: &'static str) -> Arc<str> {
        Arc::clone(self.names.entry(name).or_insert_with(|| Arc::from(name)))
    }

    /// A call begins, with what `change` makes of one without trace and with a deadline of a second.
    pub(super) fn begin(
        &mut self,
        connection: u64,
        stream: u32,
        method: &'static str,
        time: Timestamp,
        change: impl FnOnce(&mut CallStarted),
    ) {
        let mut call = CallStarted {
            connection: ConnectionId(connection),
            stream,
            client_flow: Flow::Sent,
            method: Some(self.name(method)),
            timeout: Timeout::Ns(ms(1_000)),
            previous_attempts: None,
            traces: Traces::default(),
            thread: 0,
            time,
        };
        change(&mut call);
        self.observe(Observation::CallStarted(call));
    }

    /// An inbound call of process 1 begins.
    pub(super) fn inbound(&mut self, stream: u32, time: Timestamp, change: impl FnOnce(&mut CallStarted)) {
        self.begin(SERVED, stream, "/shop.Orders/Place", time, change);
    }

    /// An outbound call of process 1 begins, with a deadline that is shorter than what is left; what is found out about it.
    pub(super) fn outbound(
        &mut self,
        stream: u32,
        time: Timestamp,
        change: impl FnOnce(&mut CallStarted),
    ) -> Correlated {
        self.begin(CALLS, stream, "/shop.Stock/Reserve", time, |call| {
            call.timeout = Timeout::Ns(ms(10));
            change(call);
        });
        self.detectors.take_correlated().expect("said of each call")
    }

    /// The same for one that has nothing to tell but its time.
    pub(super) fn correlation(&mut self, stream: u32, time: Timestamp) -> Correlation {
        self.outbound(stream, time, |_| {}).correlation
    }

    pub(super) fn request_ended(&mut self, stream: u32, thread: u32, time: Timestamp) {
        let connection = ConnectionId(SERVED);
        self.observe(Observation::RequestEnded(RequestEnded { connection, stream, thread, time }));
    }

    /// A call ends.
    pub(super) fn end(&mut self, connection: u64, stream: u32, time: Timestamp, how: &Ends) {
        let (outcome, ended_by, rst_code) = match how {
            Ends::Ok => (Outcome::Ok, Some(EndedBy::Server), None),
            Ends::Cancelled => (Outcome::Cancelled, Some(EndedBy::Client), Some(8)),
            Ends::Deadline => (Outcome::Deadline, Some(EndedBy::Client), Some(8)),
            Ends::Lost => (Outcome::Aborted, Some(EndedBy::Connection), None),
            Ends::Unseen => (Outcome::Unknown, None, None),
        };
        let method = self.name("/shop.Stock/Reserve");
        let messages = self.messages;
        self.observe(Observation::CallEnded(Box::new(Call {
            connection: ConnectionId(connection),
            stream,
            client_flow: None,
            method: Some(method),
            method_ref: None,
            call_type: CallType::Unary,
            timeout: Timeout::Absent,
            started: Some(at(0)),
            first_seen: at(0),
            first_response: None,
            ended: ended_by.map(|_| time),
            outcome,
            status: None,
            status_source: StatusSource::None,
            ended_by,
            rst_code,
            http_status: None,
            request: messages,
            response: messages,
            previous_attempts: None,
            retry_pushback: None,
            traces: Traces::default(),
            thread: 0,
        })));
    }

    /// An inbound call of process 1 ends well.
    pub(super) fn answer(&mut self, stream: u32, time: Timestamp) {
        self.end(SERVED, stream, time, &Ends::Ok);
    }

    /// Time passes, as the caller lets it.
    pub(super) fn tick(&mut self, time: Timestamp) {
        self.detectors.handle_timeout(&Observer::new(Limits::default()), time);
    }

    /// What these detectors have found since the last time: verdict, name, cause, link.
    pub(super) fn said(&mut self) -> Vec<String> {
        let mut said = Vec::new();
        while let Some(finding) = self.detectors.poll_finding() {
            let ours = matches!(
                finding.claim,
                super::Claim::Propagation(_)
                    | super::Claim::Fixed(_)
                    | super::Claim::Uncancelled(_)
                    | super::Claim::Amplification(_)
            );
            if ours {
                said.push(words(&finding));
            }
        }
        said
    }
}

fn words(finding: &Finding) -> String {
    let claims = finding.claim.claims();
    let word = |word: Option<&'static str>| word.map(|word| format!(" {word}")).unwrap_or_default();
    let (cause, link) = (word(claims.cause()), word(claims.link().map(|link| link.as_str())));
    format!("{} {}{cause}{link}", finding.verdict.as_str(), finding.name().as_str())
}
