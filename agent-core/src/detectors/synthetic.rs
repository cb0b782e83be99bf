//! Observations that no traffic made, for the tests of detectors: one connection of one process, and what is said of it.

use std::sync::Arc;

use super::{Detectors, Finding, Owner, Party, ProcessId, Thresholds};
use crate::input::{ConnectionId, Flow, Timestamp};
use crate::limits::Limits;
use crate::observation::{
    Call, CallStarted, CallType, ConnectionStatus, ConnectionSummary, EndedBy, FlowSummary, Messages,
    Observation, OpenCall, Outcome, StatusSource, Sync, Timeout, Traces,
};
use crate::observer::Observer;

/// Seconds since the beginning of the scene.
pub(super) fn s(seconds: u64) -> Timestamp {
    Timestamp(seconds * 1_000_000_000)
}

/// Milliseconds as nanoseconds.
pub(super) fn ms(milliseconds: u64) -> u64 {
    milliseconds * 1_000_000
}

/// Detectors that watch connection 1.
pub(super) struct Scene {
    pub(super) detectors: Detectors,
    client_flow: Option<Flow>,
}

impl Scene {
    /// The process is the client.
    pub(super) fn client() -> Scene {
        Scene::with(Thresholds::default(), Some(Flow::Sent))
    }

    /// The process is the server.
    pub(super) fn server() -> Scene {
        Scene::with(Thresholds::default(), Some(Flow::Received))
    }

    /// It is not known which.
    pub(super) fn without_side() -> Scene {
        Scene::with(Thresholds::default(), None)
    }

    /// With thresholds.
    pub(super) fn with(thresholds: Thresholds, client_flow: Option<Flow>) -> Scene {
        let mut scene = Scene { detectors: Detectors::new(thresholds), client_flow };
        scene.connect(1);
        scene
    }

    /// Another connection of the same process, synced from its beginning.
    pub(super) fn connect(&mut self, connection: u64) {
        let owner = Owner { process: ProcessId(7), workload: Arc::from("orders") };
        let party = Party { owner: Some(Arc::new(owner)), ends: None };
        self.detectors.handle_connection(ConnectionId(connection), party);
        self.status_of(connection, Sync::Synced, s(0));
    }

    /// The state of connection 1 changes.
    pub(super) fn status(&mut self, sync: Sync, time: Timestamp) {
        self.status_of(1, sync, time);
    }

    fn status_of(&mut self, connection: u64, sync: Sync, time: Timestamp) {
        self.observe(&Observation::Connection(ConnectionStatus {
            connection: ConnectionId(connection),
            client_flow: self.client_flow,
            sync,
            time,
        }));
    }

    pub(super) fn observe(&mut self, observation: &Observation) {
        self.detectors.handle_observation(observation);
    }

    /// Time passes, with no call open in the core.
    pub(super) fn tick(&mut self, now: Timestamp) {
        self.detectors.handle_timeout(&Observer::new(Limits::default()), now);
    }

    /// The calls that are open stand so.
    pub(super) fn look_at_calls(&mut self, calls: &[OpenCall], now: Timestamp) {
        let Detectors { thresholds, lifecycle, connections, out, .. } = &mut self.detectors;
        let visit = |judge: &mut dyn FnMut(&OpenCall)| calls.iter().for_each(judge);
        lifecycle.handle_timeout(&thresholds.lifecycle, connections, visit, now, out);
    }

    /// Connection 1 ends.
    pub(super) fn end(&mut self, time: Timestamp) {
        let flow = FlowSummary {
            sync: Sync::Synced,
            frames: 0,
            header_blocks: 0,
            bytes: 0,
            hole_bytes: 0,
            desyncs: 0,
            send_window: None,
        };
        self.observe(&Observation::ConnectionEnded(Box::new(ConnectionSummary {
            connection: ConnectionId(1),
            client_flow: self.client_flow,
            flows: [flow, flow],
            calls: 0,
            opened: s(0),
            closed: time,
            has_ended: true,
            http2: true,
            binary_metadata: None,
        })));
    }

    /// A call of connection 1 that started; its timeout is none of the scene's business.
    pub(super) fn started(&self, stream: u32, method: &str, time: Timestamp) -> CallStarted {
        CallStarted {
            connection: ConnectionId(1),
            stream,
            client_flow: self.client_flow.unwrap_or(Flow::Sent),
            method: Some(Arc::from(method)),
            timeout: Timeout::Ns(3_600_000_000_000),
            previous_attempts: None,
            traces: Traces::default(),
            thread: 0,
            time,
        }
    }

    /// A call of connection 1 that the server ended with OK.
    pub(super) fn call(&self, stream: u32, method: &str, started: Timestamp, ended: Timestamp) -> Call {
        Call {
            connection: ConnectionId(1),
            stream,
            client_flow: self.client_flow,
            method: Some(Arc::from(method)),
            method_ref: None,
            call_type: CallType::Unary,
            timeout: Timeout::Ns(3_600_000_000_000),
            started: Some(started),
            first_seen: started,
            first_response: Some(ended),
            ended: Some(ended),
            outcome: Outcome::Ok,
            status: Some(0),
            status_source: StatusSource::Trailer,
            ended_by: Some(EndedBy::Server),
            rst_code: None,
            http_status: Some(200),
            request: Messages::default(),
            response: Messages::default(),
            previous_attempts: None,
            retry_pushback: None,
            traces: Traces::default(),
            thread: 0,
        }
    }

    /// What was found since the last time.
    pub(super) fn found(&mut self) -> Vec<Finding> {
        std::iter::from_fn(|| self.detectors.poll_finding()).collect()
    }

    /// The same as words: verdict, name, cause.
    pub(super) fn said(&mut self) -> Vec<String> {
        let words = |finding: &Finding| {
            let cause = finding.claim.claims().cause().map(|cause| format!(" {cause}")).unwrap_or_default();
            format!("{} {}{cause}", finding.verdict.as_str(), finding.name().as_str())
        };
        self.found().iter().map(words).collect()
    }
}
