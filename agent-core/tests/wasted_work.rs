//! Work that nobody waits for, added up from the bytes of a process that serves a call and makes another for it.

mod support;

use agent_core::detectors::correlation::Evidence;
use agent_core::detectors::{Detectors, Owner, Party, ProcessId, Thresholds, Wasted, Work};
use agent_core::{Chunk, ConnectionId, Flow, Limits, Observer, Timestamp};
use support::*;

/// Connection on which the process is the server, and that on which it is the client.
const SERVED: ConnectionId = ConnectionId(1);
const CALLS: ConnectionId = ConnectionId(2);
const CANCEL: u32 = 8;
const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const SECOND_MS: u64 = 1_000;

struct Process {
    observer: Observer,
    detectors: Detectors,
    offsets: [[u64; 2]; 2],
    now: Timestamp,
    wasted: Vec<Wasted>,
    findings: usize,
}

impl Process {
    /// Both connections are open, and there is a call on each, that on stream 1 of [`CALLS`] for the one that is served.
    fn with_calls() -> Process {
        let mut detectors = Detectors::new(Thresholds::default());
        let owner = std::sync::Arc::new(Owner { process: ProcessId(1), workload: "shop".into() });
        for connection in [SERVED, CALLS] {
            detectors.handle_connection(connection, Party { owner: Some(owner.clone()), ends: None });
        }
        let mut process = Process {
            observer: Observer::new(Limits::default()),
            detectors,
            offsets: [[0; 2]; 2],
            now: Timestamp(1_000_000_000),
            wasted: Vec::new(),
            findings: 0,
        };
        for connection in [SERVED, CALLS] {
            process.client_sends(connection, &[PREFACE, &settings()].concat());
            process.server_sends(connection, &settings());
        }
        let traced = [("traceparent", TRACE), ("grpc-timeout", "1H")];
        process.client_sends(SERVED, &request_with(1, "/shop.Orders/Place", &traced));
        process.client_sends(CALLS, &request_with(1, "/shop.Stock/Reserve", &traced));
        process
    }

    fn client_sends(&mut self, connection: ConnectionId, bytes: &[u8]) {
        self.send(connection, if connection == SERVED { Flow::Received } else { Flow::Sent }, bytes);
    }

    fn server_sends(&mut self, connection: ConnectionId, bytes: &[u8]) {
        self.send(connection, if connection == SERVED { Flow::Sent } else { Flow::Received }, bytes);
    }

    fn send(&mut self, connection: ConnectionId, flow: Flow, bytes: &[u8]) {
        let offset = &mut self.offsets[usize::from(connection == CALLS)][usize::from(flow == Flow::Received)];
        let (time, boundary, thread) = (self.now, false, 0);
        self.observer.handle_chunk(Chunk {
            connection,
            flow,
            offset: *offset,
            time,
            boundary,
            thread,
            bytes,
        });
        *offset += bytes.len() as u64;
        self.drain();
    }

    /// Time passes, and is looked at every 10 ms.
    fn wait_ms(&mut self, ms: u64) {
        for _ in 0..ms / 10 {
            self.now = self.now.plus(10_000_000);
            self.observer.handle_timeout(self.now);
            self.drain();
            if self.detectors.poll_timeout().is_some_and(|due| due <= self.now) {
                self.detectors.handle_timeout(&self.observer, self.now);
            }
            self.drain();
        }
    }

    fn drain(&mut self) {
        while let Some(observation) = self.observer.poll_observation() {
            self.detectors.handle_observation(&observation);
        }
        self.wasted.extend(std::iter::from_fn(|| self.detectors.poll_wasted()));
        while let Some(finding) = self.detectors.poll_finding() {
            self.findings += usize::from(finding.name().as_str() == "uncancelled_call");
        }
    }

    /// Milliseconds of outbound calls; all of them have the method and the evidence that they have here.
    fn outbound_ms(&self) -> u64 {
        let ns = self.wasted.iter().map(|wasted| {
            assert_eq!((wasted.connection, wasted.stream), (CALLS, 1));
            assert_eq!(wasted.method.as_deref(), Some("/shop.Stock/Reserve"));
            let Work::Outbound { ns, link: Evidence::Trace } = wasted.work else { panic!("{wasted:?}") };
            ns
        });
        ns.sum::<u64>() / 1_000_000
    }
}

#[test]
fn a_call_that_goes_on_is_counted_as_it_goes_and_at_its_end_no_moment_twice() {
    let mut process = Process::with_calls();
    process.wait_ms(500);
    process.client_sends(SERVED, &rst_stream(1, CANCEL));
    let mut before = 0;
    for second in 1..=60 {
        process.wait_ms(SECOND_MS);
        let counted = process.outbound_ms();
        assert!(counted <= second * SECOND_MS && counted + 1_010 >= second * SECOND_MS, "{counted} ms");
        assert!(counted > before || second == 1, "as it goes");
        before = counted;
    }
    process.wait_ms(250);
    process.server_sends(CALLS, &trailers_only(1, "0"));
    process.wait_ms(10 * SECOND_MS);
    assert_eq!(process.outbound_ms(), 60_250, "to the end, and from the end of the call that it was for");
    assert_eq!(process.findings, 1, "which says one thing of the hour that a call may go on");
}

#[test]
fn what_ends_within_the_grace_is_not_counted_and_what_ends_behind_it_is_counted_from_the_end() {
    for (ms, counted) in [(100, 0), (110, 110), (700, 700)] {
        let mut process = Process::with_calls();
        process.client_sends(SERVED, &rst_stream(1, CANCEL));
        process.wait_ms(ms);
        process.server_sends(CALLS, &trailers_only(1, "0"));
        process.wait_ms(5 * SECOND_MS);
        assert_eq!(process.outbound_ms(), counted, "after {ms} ms");
    }
}

#[test]
fn a_call_that_is_answered_wastes_nothing() {
    let mut process = Process::with_calls();
    process.server_sends(SERVED, &trailers_only(1, "0"));
    process.wait_ms(20 * SECOND_MS);
    assert_eq!(process.wasted, []);
}

#[test]
fn while_lost_bytes_may_have_ended_the_call_nothing_is_added() {
    let mut process = Process::with_calls();
    process.client_sends(SERVED, &rst_stream(1, CANCEL));
    process.wait_ms(3 * SECOND_MS);
    process.offsets[1][1] += 50;
    process.server_sends(CALLS, &window_update(0, 9));
    let counted = process.outbound_ms();
    process.wait_ms(5 * SECOND_MS);
    assert_eq!(process.outbound_ms(), counted, "it may have ended in what was lost");
}

#[test]
fn an_end_that_lies_before_what_is_told_of_it_is_not_overrun() {
    // The server closes the connection, and its client keeps its own end for long: the call ended with the first close.
    let mut process = Process::with_calls();
    process.client_sends(SERVED, &rst_stream(1, CANCEL));
    process.wait_ms(2_300);
    process.observer.handle_close(CALLS, process.now);
    process.wait_ms(30 * SECOND_MS);
    process.observer.handle_end(CALLS, process.now);
    process.wait_ms(SECOND_MS);
    assert_eq!(process.outbound_ms(), 2_300);
}

#[test]
fn what_a_server_sends_after_the_reset_is_counted_with_its_method_and_at_the_clients_end_it_is_not() {
    let mut process = Process::with_calls();
    for connection in [SERVED, CALLS] {
        process.server_sends(connection, &response(1));
        process.client_sends(connection, &rst_stream(1, CANCEL));
    }
    process.wait_ms(200);
    process.server_sends(CALLS, &data(1, 0, &message(95)));
    process.server_sends(SERVED, &data(1, 0, &message(95)));
    process.wait_ms(100);
    process.server_sends(SERVED, &data(1, 0, &message(45)));
    process.server_sends(SERVED, &trailers(1, "0"));
    process.wait_ms(5 * SECOND_MS);
    let work = Work::AfterEnd { ns: 300_000_000, bytes: 150 };
    let method = Some("/shop.Orders/Place".into());
    assert_eq!(process.wasted, [Wasted { connection: SERVED, stream: 1, method, work }]);
}

#[test]
fn what_was_on_its_way_when_the_reset_came_is_not_counted() {
    let mut process = Process::with_calls();
    process.client_sends(SERVED, &rst_stream(1, CANCEL));
    process.client_sends(CALLS, &rst_stream(1, CANCEL));
    process.wait_ms(100);
    process.server_sends(SERVED, &data(1, 0, &message(95)));
    process.wait_ms(5 * SECOND_MS);
    assert_eq!(process.wasted, []);
}
