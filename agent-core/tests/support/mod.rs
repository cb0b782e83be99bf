//! Scenarios as data: frames with times in, calls out.
#![cfg_attr(test, expect(dead_code, reason = "each test file uses a part of it"))]

use agent_core::observation::{Call, ConnectionSummary, Exchange, FrameSeen, Observation};
use agent_core::{Chunk, ConnectionId, Flow, Limits, Observer, Timestamp};

/// The flow that the client's frames are in, in these scenarios.
pub(crate) const CLIENT: Flow = Flow::Sent;
/// The flow that the server's frames are in.
pub(crate) const SERVER: Flow = Flow::Received;

pub(crate) const END_STREAM: u8 = 0x1;
pub(crate) const END_HEADERS: u8 = 0x4;
pub(crate) const PADDED: u8 = 0x8;

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len()).expect("a small payload").to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A header block of literals without indexing (RFC 7541 §6.2.2), without Huffman coding.
pub(crate) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        for text in [name, value] {
            assert!(text.len() < 127, "one octet of length");
            bytes.push(text.len() as u8);
            bytes.extend(text.as_bytes());
        }
    }
    bytes
}

pub(crate) fn headers(stream: u32, flags: u8, fields: &[(&str, &str)]) -> Vec<u8> {
    frame(0x1, flags | END_HEADERS, stream, &block(fields))
}

pub(crate) fn data(stream: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
    frame(0x0, flags, stream, payload)
}

/// A length-prefixed message of `len` octets.
pub(crate) fn message(len: usize) -> Vec<u8> {
    let mut bytes = vec![0];
    bytes.extend(u32::try_from(len).expect("a small message").to_be_bytes());
    bytes.extend(std::iter::repeat_n(7, len));
    bytes
}

pub(crate) fn rst_stream(stream: u32, code: u32) -> Vec<u8> {
    frame(0x3, 0, stream, &code.to_be_bytes())
}

pub(crate) fn settings() -> Vec<u8> {
    frame(0x4, 0, 0, &[])
}

/// SETTINGS with these identifiers and values.
pub(crate) fn settings_with(entries: &[(u16, u32)]) -> Vec<u8> {
    let mut payload = Vec::new();
    for (id, value) in entries {
        payload.extend(id.to_be_bytes());
        payload.extend(value.to_be_bytes());
    }
    frame(0x4, 0, 0, &payload)
}

pub(crate) fn window_update(stream: u32, increment: u32) -> Vec<u8> {
    frame(0x8, 0, stream, &increment.to_be_bytes())
}

pub(crate) fn goaway(last: u32, code: u32) -> Vec<u8> {
    let mut payload = last.to_be_bytes().to_vec();
    payload.extend(code.to_be_bytes());
    frame(0x7, 0, 0, &payload)
}

/// A gRPC request without a timeout.
pub(crate) fn request(stream: u32, method: &str) -> Vec<u8> {
    request_with(stream, method, &[])
}

/// A gRPC request with further fields.
pub(crate) fn request_with(stream: u32, method: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let mut fields = vec![
        (":method", "POST"),
        (":scheme", "http"),
        (":path", method),
        (":authority", "svc"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    ];
    fields.extend(more);
    headers(stream, 0, &fields)
}

pub(crate) fn response(stream: u32) -> Vec<u8> {
    headers(stream, 0, &[(":status", "200"), ("content-type", "application/grpc")])
}

pub(crate) fn trailers(stream: u32, status: &str) -> Vec<u8> {
    headers(stream, END_STREAM, &[("grpc-status", status), ("grpc-message", "")])
}

pub(crate) fn trailers_only(stream: u32, status: &str) -> Vec<u8> {
    headers(
        stream,
        END_STREAM,
        &[(":status", "200"), ("content-type", "application/grpc"), ("grpc-status", status)],
    )
}

/// A connection under observation.
pub(crate) struct Scenario {
    pub(crate) observer: Observer,
    pub(crate) offsets: [u64; 2],
    pub(crate) now: Timestamp,
    pub(crate) seen: Vec<Observation>,
    connection: ConnectionId,
}

impl Scenario {
    /// Nothing was seen yet; the first bytes are the first of the connection.
    pub(crate) fn new() -> Scenario {
        Scenario::with_limits(Limits::default())
    }

    pub(crate) fn with_limits(limits: Limits) -> Scenario {
        Scenario {
            observer: Observer::new(limits),
            offsets: [0, 0],
            now: Timestamp(1_000_000_000),
            seen: Vec::new(),
            connection: ConnectionId(1),
        }
    }

    /// Preface and SETTINGS have been exchanged.
    pub(crate) fn connected() -> Scenario {
        let mut scenario = Scenario::new();
        let mut hello = PREFACE.to_vec();
        hello.extend(settings());
        scenario.send(CLIENT, &hello);
        scenario.send(SERVER, &settings());
        scenario
    }

    /// The connection is older than the observation.
    pub(crate) fn joined_late() -> Scenario {
        Scenario { offsets: [1 << 32, 1 << 32], ..Scenario::new() }
    }

    /// `ms` milliseconds pass.
    pub(crate) fn wait(&mut self, ms: u64) -> &mut Scenario {
        self.now = self.now.plus(ms * 1_000_000);
        self.observer.handle_timeout(self.now);
        self.drain();
        self
    }

    pub(crate) fn send(&mut self, flow: Flow, bytes: &[u8]) -> &mut Scenario {
        self.send_chunk(flow, bytes, false)
    }

    /// Bytes whose start the capturing side knows to be the start of a frame.
    pub(crate) fn send_at_boundary(&mut self, flow: Flow, bytes: &[u8]) -> &mut Scenario {
        self.send_chunk(flow, bytes, true)
    }

    fn send_chunk(&mut self, flow: Flow, bytes: &[u8], boundary: bool) -> &mut Scenario {
        let offset = &mut self.offsets[usize::from(flow == Flow::Received)];
        self.observer.handle_chunk(Chunk {
            connection: self.connection,
            flow,
            offset: *offset,
            time: self.now,
            boundary,
            thread: 7,
            bytes,
        });
        *offset += bytes.len() as u64;
        self.drain();
        self
    }

    /// As many bytes of a flow were not seen.
    pub(crate) fn lose(&mut self, flow: Flow, len: u64) -> &mut Scenario {
        self.offsets[usize::from(flow == Flow::Received)] += len;
        self
    }

    /// Both ends close the connection.
    pub(crate) fn close(&mut self) -> &mut Scenario {
        self.observer.handle_end(self.connection, self.now);
        self.wait(1_000)
    }

    /// Ends the observation.
    pub(crate) fn finish(&mut self) -> &mut Scenario {
        self.observer.finish(self.now);
        self.drain();
        self
    }

    /// The calls that were reported as ended.
    pub(crate) fn calls(&self) -> Vec<Call> {
        self.seen
            .iter()
            .filter_map(|fact| match fact {
                Observation::CallEnded(call) => Some((**call).clone()),
                _ => None,
            })
            .collect()
    }

    /// The one call that was reported.
    pub(crate) fn only_call(&self) -> Call {
        let calls = self.calls();
        assert_eq!(calls.len(), 1, "one call: {calls:#?}");
        calls.into_iter().next().expect("one call")
    }

    /// What was said of the connection at its end.
    pub(crate) fn summary(&self) -> ConnectionSummary {
        let summary = self.seen.iter().find_map(|fact| match fact {
            Observation::ConnectionEnded(summary) => Some((**summary).clone()),
            _ => None,
        });
        summary.expect("the connection ended")
    }

    /// Everything that was said about the frames, when they are traced.
    pub(crate) fn frames(&self) -> Vec<&FrameSeen> {
        self.seen
            .iter()
            .filter_map(|fact| match fact {
                Observation::Frame(frame) => Some(&**frame),
                _ => None,
            })
            .collect()
    }

    /// The exchanges that were not gRPC.
    pub(crate) fn exchanges(&self) -> Vec<&Exchange> {
        self.seen
            .iter()
            .filter_map(|fact| match fact {
                Observation::ExchangeEnded(exchange) => Some(exchange),
                _ => None,
            })
            .collect()
    }

    pub(crate) fn started(&self) -> usize {
        self.seen.iter().filter(|fact| matches!(fact, Observation::CallStarted(_))).count()
    }

    pub(crate) fn anomalies(&self) -> Vec<&'static str> {
        self.seen
            .iter()
            .filter_map(|fact| match fact {
                Observation::Anomaly(anomaly) => Some(anomaly.kind),
                _ => None,
            })
            .collect()
    }

    fn drain(&mut self) {
        while let Some(fact) = self.observer.poll_observation() {
            self.seen.push(fact);
        }
    }
}
