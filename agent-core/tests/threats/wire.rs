//! Frames, and an observer that is fed with them and of whose observations only the counts are kept.

use std::collections::BTreeMap;

use agent_core::{Chunk, ConnectionId, Flow, Limits, Observation, Observer, Timestamp};

pub(crate) const CLIENT: Flow = Flow::Sent;
pub(crate) const SERVER: Flow = Flow::Received;

pub(crate) const END_STREAM: u8 = 0x1;
pub(crate) const END_HEADERS: u8 = 0x4;

pub(crate) const DATA: u8 = 0x0;
pub(crate) const HEADERS: u8 = 0x1;
pub(crate) const RST_STREAM: u8 = 0x3;
pub(crate) const SETTINGS: u8 = 0x4;
pub(crate) const PING: u8 = 0x6;
pub(crate) const GOAWAY: u8 = 0x7;
pub(crate) const WINDOW_UPDATE: u8 = 0x8;
pub(crate) const CONTINUATION: u8 = 0x9;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len()).expect("a frame's payload").to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A literal field (RFC 7541 §6.2) with its name in the block; `pattern` says what becomes of it.
pub(crate) fn literal(pattern: u8, name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![pattern];
    for text in [name, value] {
        bytes.extend(integer(0, 0x7f, text.len()));
        bytes.extend(text);
    }
    bytes
}

/// An integer (RFC 7541 §5.1).
pub(crate) fn integer(pattern: u8, mask: u8, value: usize) -> Vec<u8> {
    if value < usize::from(mask) {
        return vec![pattern | value as u8];
    }
    let mut bytes = vec![pattern | mask];
    let mut rest = value - usize::from(mask);
    while rest >= 128 {
        bytes.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    bytes.push(rest as u8);
    bytes
}

/// A gRPC request's block that leaves the table as it is.
pub(crate) fn request_block(path: &[u8]) -> Vec<u8> {
    // :method POST and :scheme http are in the static table.
    let mut block = vec![0x83, 0x86];
    block.extend(literal(0, b":path", path));
    block.extend(literal(0, b"content-type", b"application/grpc"));
    block
}

pub(crate) fn request(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &request_block(path.as_bytes()))
}

pub(crate) fn trailers_only(stream: u32, status: &str) -> Vec<u8> {
    let mut block = vec![0x88];
    block.extend(literal(0, b"content-type", b"application/grpc"));
    block.extend(literal(0, b"grpc-status", status.as_bytes()));
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &block)
}

/// How often each thing was said.
#[derive(Debug, Default)]
pub(crate) struct Said {
    /// Empty windows that opened again.
    pub(crate) stalls: u64,
    pub(crate) started: u64,
    pub(crate) ended: u64,
    pub(crate) connections_ended: u64,
    pub(crate) anomalies: BTreeMap<&'static str, u64>,
    pub(crate) last_method: Option<String>,
}

impl Said {
    pub(crate) fn anomalies(&self, kind: &str) -> u64 {
        self.anomalies.get(kind).copied().unwrap_or(0)
    }
}

pub(crate) struct Feeder {
    pub(crate) observer: Observer,
    pub(crate) now: Timestamp,
    pub(crate) said: Said,
    offsets: [u64; 2],
}

impl Feeder {
    pub(crate) fn new(limits: Limits) -> Feeder {
        Feeder {
            observer: Observer::new(limits),
            now: Timestamp(1_000_000_000),
            said: Said::default(),
            offsets: [0; 2],
        }
    }

    /// One connection on which preface and SETTINGS have been exchanged.
    pub(crate) fn connected() -> Feeder {
        let mut feeder = Feeder::new(Limits::default());
        feeder.send(CLIENT, &[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat());
        feeder.send(SERVER, &frame(SETTINGS, 0, 0, &[]));
        feeder
    }

    /// The next bytes of a flow of the connection.
    pub(crate) fn send(&mut self, flow: Flow, bytes: &[u8]) {
        let offset = &mut self.offsets[usize::from(flow == SERVER)];
        let at = *offset;
        *offset += bytes.len() as u64;
        self.send_on(0, flow, at, bytes);
    }

    /// As many bytes of a flow of the connection are not seen.
    pub(crate) fn lose(&mut self, flow: Flow, len: u64) {
        self.offsets[usize::from(flow == SERVER)] += len;
    }

    /// Bytes of a connection, at an offset of its flow.
    pub(crate) fn send_on(&mut self, connection: u64, flow: Flow, offset: u64, bytes: &[u8]) {
        self.observer.handle_chunk(Chunk {
            connection: ConnectionId(connection),
            flow,
            offset,
            time: self.now,
            boundary: false,
            thread: 0,
            bytes,
        });
        self.drain();
    }

    /// The first bytes of a connection: the client's hello, and more.
    pub(crate) fn open(&mut self, connection: u64, more: &[u8]) {
        self.send_on(connection, CLIENT, 0, &[PREFACE, &frame(SETTINGS, 0, 0, &[]), more].concat());
    }

    pub(crate) fn end(&mut self, connection: u64) {
        self.observer.handle_end(ConnectionId(connection), self.now);
        self.drain();
    }

    pub(crate) fn wait(&mut self, ns: u64) {
        self.now = self.now.plus(ns);
        self.observer.handle_timeout(self.now);
        self.drain();
    }

    pub(crate) fn finish(&mut self) {
        self.observer.finish(self.now);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(fact) = self.observer.poll_observation() {
            match fact {
                Observation::CallStarted(_) => self.said.started += 1,
                Observation::CallEnded(call) => {
                    self.said.ended += 1;
                    self.said.last_method = call.method.as_deref().map(str::to_owned);
                }
                Observation::ConnectionEnded(_) => self.said.connections_ended += 1,
                Observation::Stalled(_) => self.said.stalls += 1,
                Observation::Anomaly(anomaly) => *self.said.anomalies.entry(anomaly.kind).or_default() += 1,
                Observation::Connection(_)
                | Observation::ExchangeEnded(_)
                | Observation::Frame(_)
                | Observation::Goaway(_)
                | Observation::PingAnswered(_)
                | Observation::PingUnanswered(_)
                | Observation::RequestEnded(_)
                | Observation::LateWork(_)
                | Observation::Authority(_)
                | Observation::Intermediary(_)
                | Observation::AtStreamLimit(_) => {}
            }
        }
    }
}
