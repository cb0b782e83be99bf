//! Connections of clients and servers as synthetic observations, seconds that pass, and what detectors say of them.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::net::SocketAddr;
use std::sync::{Arc, Barrier, Mutex};

use agent_core::detectors::{
    Detectors, End, Finding, Name, Owner, Party, ProcessId, Spread, Thresholds, Verdict,
};
use agent_core::observation::{
    Authority, Call, CallStarted, CallType, ConnectionStatus, ConnectionSummary, EndedBy, FlowSummary,
    Goaway, GoawayReason, Messages, Observation, Outcome, Side, StatusSource, Sync, Timeout, Traces,
};
use agent_core::{ConnectionId, Flow, Limits, Observer, Timestamp};

pub(crate) const MS: u64 = 1_000_000;

pub(crate) const PINNED: Name = Name::PinnedConnection;
pub(crate) const STARVED: Name = Name::StarvedBackend;
pub(crate) const STORM: Name = Name::ReconnectStorm;

/// Detectors, the connections that they watch, and what they said.
pub(crate) struct World {
    pub(crate) detectors: Detectors,
    /// Two more, over which the processes are spread: they have to say the same.
    pub(crate) spread: [Detectors; 2],
    pub(crate) observer: Observer,
    pub(crate) now: Timestamp,
    pub(crate) next: u64,
    pub(crate) sides: Vec<Side>,
    pub(crate) opened: Vec<Timestamp>,
    pub(crate) said: Vec<Finding>,
}

/// What is to be known of a new connection.
#[derive(Clone, Copy)]
pub(crate) struct Opened<'a> {
    pub(crate) process: u64,
    pub(crate) workload: &'a str,
    pub(crate) side: Side,
    pub(crate) local: &'a str,
    pub(crate) peer: &'a str,
    pub(crate) authority: Option<&'a str>,
    pub(crate) sync: Sync,
}

/// A client's connection to a backend of the shop.
pub(crate) fn client(process: u64, peer: &str) -> Opened<'_> {
    Opened {
        process,
        workload: "orders",
        side: Side::Client,
        local: "10.0.1.1:40000",
        peer,
        authority: Some("shop:50051"),
        sync: Sync::Synced,
    }
}

/// A connection that a backend of the shop has accepted.
pub(crate) fn server(process: u64, local: &str) -> Opened<'_> {
    Opened {
        process,
        workload: "shop",
        side: Side::Server,
        local,
        peer: "10.0.9.9:40000",
        authority: Some("shop:50051"),
        sync: Sync::Synced,
    }
}

impl World {
    pub(crate) fn new() -> World {
        World {
            detectors: Detectors::new(Thresholds::default()),
            spread: [(); 2].map(|()| Detectors::new(Thresholds::default())),
            observer: Observer::new(Limits::default()),
            now: Timestamp(1_000_000 * MS),
            next: 0,
            sides: Vec::new(),
            opened: Vec::new(),
            said: Vec::new(),
        }
    }

    pub(crate) fn see(&mut self, observation: Observation) {
        self.detectors.handle_observation(&observation);
        // Those that do not know the connection ignore it.
        for detectors in &mut self.spread {
            detectors.begin(self.now);
            detectors.handle_observation(&observation);
        }
        self.drain();
    }

    pub(crate) fn drain(&mut self) {
        // Other detectors speak of single connections and calls.
        let is_of_these = |finding: &Finding| [PINNED, STARVED, STORM].contains(&finding.name());
        let said = std::iter::from_fn(|| self.detectors.poll_finding()).filter(is_of_these);
        let said: Vec<Finding> = said.collect();
        let spread = &mut self.spread;
        let said_spread = spread.iter_mut().flat_map(|one| std::iter::from_fn(|| one.poll_finding()));
        let sorted = |findings: &mut dyn Iterator<Item = Finding>| {
            let mut all: Vec<String> = findings.map(|finding| format!("{finding:?}")).collect();
            all.sort_unstable();
            all
        };
        assert_eq!(
            sorted(&mut said.iter().cloned()),
            sorted(&mut said_spread.filter(is_of_these)),
            "said of all processes together, and of processes that are spread"
        );
        self.said.extend(said);
    }

    /// Time passes for those over which processes are spread: each on a thread, since they wait for one another.
    pub(crate) fn spread_timeout(&mut self) {
        let (shown, all_have_shown) = (Mutex::new(Vec::new()), Barrier::new(self.spread.len()));
        let (observer, now) = (&self.observer, self.now);
        std::thread::scope(|scope| {
            for detectors in &mut self.spread {
                scope.spawn(|| {
                    detectors.handle_timeout_together(observer, now, &mut |facts| {
                        shown.lock().expect("nobody panics").push(Arc::new(facts));
                        all_have_shown.wait();
                        shown.lock().expect("nobody panics").clone()
                    });
                });
            }
        });
        let by_process = |spread: &Spread| (spread.owner.process, spread.destination.clone());
        let mut spreads: Vec<Spread> = self.spread.iter().flat_map(|one| one.spreads()).cloned().collect();
        let mut expected = self.detectors.spreads().to_vec();
        spreads.sort_by_key(by_process);
        expected.sort_by_key(by_process);
        assert_eq!(spreads, expected);
        assert_eq!(
            self.spread.iter().map(|one| one.served().len()).sum::<usize>(),
            self.detectors.served().len()
        );
    }

    pub(crate) fn open(&mut self, opened: Opened<'_>) -> u64 {
        let id = self.next;
        self.next += 1;
        self.sides.push(opened.side);
        self.opened.push(self.now);
        let end = |text: &str| End::Address(text.parse::<SocketAddr>().expect("an address"));
        let owner = Owner { process: ProcessId(opened.process), workload: opened.workload.into() };
        let ends = Some((end(opened.local), end(opened.peer)));
        let party = Party { owner: Some(Arc::new(owner)), ends };
        self.spread[opened.process as usize % 2].handle_connection(ConnectionId(id), party.clone());
        self.detectors.handle_connection(ConnectionId(id), party);
        self.sync(id, opened.sync);
        if let Some(authority) = opened.authority {
            self.authority(id, authority);
        }
        id
    }

    pub(crate) fn sync(&mut self, id: u64, sync: Sync) {
        let client_flow = Some(self.client_flow(id));
        self.see(Observation::Connection(ConnectionStatus {
            connection: ConnectionId(id),
            client_flow,
            sync,
            time: self.now,
        }));
    }

    pub(crate) fn authority(&mut self, id: u64, authority: &str) {
        let authority =
            Authority { connection: ConnectionId(id), authority: authority.into(), time: self.now };
        self.see(Observation::Authority(authority));
    }

    pub(crate) fn client_flow(&self, id: u64) -> Flow {
        match self.sides[id as usize] {
            Side::Client => Flow::Sent,
            Side::Server => Flow::Received,
        }
    }

    pub(crate) fn calls(&mut self, id: u64, count: u32) {
        self.calls_to(id, count, Some("/shop.Shop/Buy"));
    }

    pub(crate) fn calls_to(&mut self, id: u64, count: u32, method: Option<&str>) {
        for _ in 0..count {
            self.see(Observation::CallStarted(CallStarted {
                connection: ConnectionId(id),
                stream: 1,
                client_flow: self.client_flow(id),
                method: method.map(Arc::from),
                timeout: Timeout::Ns(1_000 * MS),
                previous_attempts: None,
                traces: Traces::default(),
                thread: 0,
                time: self.now,
            }));
        }
    }

    pub(crate) fn answer(&mut self, id: u64) {
        self.end_call(id, Outcome::Ok);
    }

    /// A call ended in this way.
    pub(crate) fn end_call(&mut self, id: u64, outcome: Outcome) {
        let is_answered = outcome == Outcome::Ok;
        self.see(Observation::CallEnded(Box::new(Call {
            connection: ConnectionId(id),
            stream: 1,
            client_flow: Some(self.client_flow(id)),
            method: None,
            method_ref: None,
            call_type: CallType::Unary,
            timeout: Timeout::Ns(1_000 * MS),
            started: Some(self.now),
            first_seen: self.now,
            first_response: None,
            ended: is_answered.then_some(self.now),
            outcome,
            status: is_answered.then_some(0),
            status_source: if is_answered { StatusSource::Trailer } else { StatusSource::Unknown },
            ended_by: is_answered.then_some(EndedBy::Server),
            rst_code: None,
            http_status: None,
            request: Messages::default(),
            response: Messages::default(),
            previous_attempts: None,
            retry_pushback: None,
            traces: Traces::default(),
            thread: 0,
        })));
    }

    pub(crate) fn goaway(&mut self, id: u64, reason: GoawayReason) {
        self.see(Observation::Goaway(Goaway {
            connection: ConnectionId(id),
            flow: self.client_flow(id).opposite(),
            last_stream: 0,
            code: 0,
            reason,
            time: self.now,
        }));
    }

    pub(crate) fn end(&mut self, id: u64) {
        self.end_as(id, true);
    }

    pub(crate) fn end_as(&mut self, id: u64, has_ended: bool) {
        let flow = FlowSummary {
            sync: Sync::Synced,
            frames: 1,
            header_blocks: 0,
            bytes: 33,
            hole_bytes: 0,
            desyncs: 0,
            send_window: None,
        };
        self.see(Observation::ConnectionEnded(Box::new(ConnectionSummary {
            connection: ConnectionId(id),
            client_flow: Some(self.client_flow(id)),
            flows: [flow, flow],
            calls: 0,
            opened: self.opened[id as usize],
            closed: self.now,
            has_ended,
            http2: true,
            binary_metadata: None,
        })));
    }

    /// Lets seconds pass; in each of them something happens.
    pub(crate) fn run(&mut self, seconds: u32, mut each: impl FnMut(&mut World)) {
        for _ in 0..seconds {
            each(self);
            self.wait_ms(1_000);
        }
    }

    pub(crate) fn wait_ms(&mut self, ms: u64) {
        self.now = self.now.plus(ms * MS);
        if self.detectors.poll_timeout().is_some_and(|due| due <= self.now) {
            self.detectors.handle_timeout(&self.observer, self.now);
            self.spread_timeout();
            self.drain();
        }
    }

    /// Finding, verdict and cause of everything that was said since the last time.
    pub(crate) fn said(&mut self) -> Vec<(Name, Verdict, Option<&'static str>)> {
        let said = self.said.drain(..);
        said.map(|finding| (finding.name(), finding.verdict, finding.claim.claims().cause())).collect()
    }
}

pub(crate) const B1: &str = "10.0.0.1:50051";
