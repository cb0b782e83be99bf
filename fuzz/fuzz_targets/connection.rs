//! Whole connections through the observer: frames, raw bytes, holes, boundaries, closes, and times in any order;
//! checked against what always holds.
#![no_main]

use std::collections::HashMap;

use agent_core::fuzzing::take_steps;
use agent_core::{Chunk, ConnectionId, Flow, Limits, Observation, Observer, Timestamp};
use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    tight: bool,
    trace: bool,
    steps: Vec<Step<'a>>,
}

/// What happens next, on one of two connections.
#[derive(Arbitrary, Debug)]
enum Step<'a> {
    Raw(Way, &'a [u8]),
    Frame { way: Way, kind: u8, flags: u8, stream: u8, payload: &'a [u8] },
    Hello(Way),
    Upgrade { way: Way, settings: &'a [u8], length: u8, answers: bool },
    Request { way: Way, stream: u8, method: u8, timeout: Option<&'a [u8]>, flags: u8 },
    Response { way: Way, stream: u8 },
    Trailers { way: Way, stream: u8, status: u8 },
    Message { way: Way, stream: u8, len: u16, seen: u8, flags: u8 },
    Reset { way: Way, stream: u8, code: u8 },
    Goaway { way: Way, last: u8 },
    Lose { way: Way, len: u32 },
    Repeat { way: Way, len: u8 },
    Close(bool),
    End(bool),
    Pass { ms: u16 },
    Back { ms: u16 },
}

/// Where bytes go, and how they are cut.
#[derive(Arbitrary, Clone, Copy, Debug)]
struct Way {
    second_connection: bool,
    received: bool,
    boundary: bool,
    cut: u8,
}

/// What was said of a connection, and what must be so at its end.
#[derive(Default)]
struct Said {
    open: HashMap<u32, u32>,
    ended: u64,
    bytes: u64,
}

struct Watch {
    observer: Observer,
    offsets: [[u64; 2]; 2],
    now: u64,
    said: [Said; 2],
    handled: u64,
    bytes: u64,
    limits: Limits,
}

impl Watch {
    fn new(input: &Input<'_>) -> Watch {
        let limits = if input.tight {
            Limits {
                connections: 1 + usize::from(input.trace),
                state_bytes: 12_000,
                streams_per_connection: 3,
                stalls_per_connection: 2,
                header_block_bytes: 64,
                hpack_table_bytes: 100,
                header_list_bytes: 200,
                header_list_fields: 6,
                methods: 2,
                ..Limits::default()
            }
        } else {
            Limits::default()
        };
        let mut observer = Observer::new(limits.clone());
        observer.trace_frames(input.trace);
        take_steps();
        Watch {
            observer,
            offsets: [[0; 2]; 2],
            now: 1 << 40,
            said: Default::default(),
            handled: 0,
            bytes: 0,
            limits,
        }
    }

    fn send(&mut self, way: Way, bytes: &[u8]) {
        let cut = if way.cut == 0 { usize::MAX } else { usize::from(way.cut) };
        for part in bytes.chunks(cut) {
            let number = usize::from(way.second_connection);
            let offset = &mut self.offsets[number][usize::from(way.received)];
            let at = *offset;
            *offset = at.saturating_add(part.len() as u64);
            self.said[number].bytes = self.said[number].bytes.saturating_add(part.len() as u64);
            self.bytes += part.len() as u64;
            self.handled += 1;
            self.observer.handle_chunk(Chunk {
                connection: ConnectionId(number as u64),
                flow: if way.received { Flow::Received } else { Flow::Sent },
                offset: at,
                time: Timestamp(self.now),
                boundary: way.boundary,
                thread: 1,
                bytes: part,
            });
            assert!(
                self.observer.state_bytes() <= self.limits.state_bytes || self.observer.connections() == 0,
                "T7: {} bytes",
                self.observer.state_bytes()
            );
            self.drain();
        }
    }

    fn drain(&mut self) {
        assert!(self.observer.connections() <= self.limits.connections);
        while let Some(fact) = self.observer.poll_observation() {
            match fact {
                Observation::CallStarted(started) => {
                    let said = &mut self.said[usize::from(started.connection.0 == 1)];
                    let open = said.open.entry(started.stream).or_default();
                    *open += 1;
                    assert_eq!(*open, 1, "stream {} started twice", started.stream);
                }
                Observation::CallEnded(call) => {
                    let said = &mut self.said[usize::from(call.connection.0 == 1)];
                    said.ended += 1;
                    if call.client_flow.is_some() {
                        let open = said.open.remove(&call.stream);
                        assert_eq!(open, Some(1), "M3: stream {} ended and had not started", call.stream);
                    }
                    for messages in [call.request, call.response] {
                        assert!(messages.count <= said.bytes / 5 + 1);
                        assert!(messages.bytes <= said.bytes);
                    }
                    assert!(call.status.is_none_or(|status| status <= 16));
                }
                Observation::ConnectionEnded(summary) => {
                    let said = &mut self.said[usize::from(summary.connection.0 == 1)];
                    assert!(said.open.is_empty(), "M3: open calls of a connection that ended");
                    assert_eq!(said.ended, summary.calls, "M3");
                    said.ended = 0;
                }
                // Nothing that has to add up.
                _ => {}
            }
        }
    }

    fn pass(&mut self) {
        let now = Timestamp(self.now);
        self.observer.handle_timeout(now);
        assert!(self.observer.poll_timeout().is_none_or(|due| due > now), "what is due is done");
        self.drain();
    }

    fn lose(&mut self, way: Way, len: u64) {
        let number = usize::from(way.second_connection);
        let offset = &mut self.offsets[number][usize::from(way.received)];
        *offset = offset.saturating_add(len);
        self.said[number].bytes = self.said[number].bytes.saturating_add(len);
    }

    fn finish(mut self) {
        self.observer.finish(Timestamp(self.now));
        self.drain();
        assert_eq!(self.observer.connections(), 0);
        assert!(self.said.iter().all(|said| said.open.is_empty()), "M3: all that started has ended");
        let steps = take_steps();
        // Framing and HPACK each take their steps for an octet, and each chunk has a few of its own.
        let bound = 4 * self.bytes + 4 * self.handled + 16;
        assert!(steps <= bound, "T20: {steps} steps for {} octets in {} chunks", self.bytes, self.handled);
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Literals with incremental indexing.
fn block(fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0x40);
        for text in [name, value] {
            let text = &text[..text.len().min(126)];
            bytes.push(text.len() as u8);
            bytes.extend(text);
        }
    }
    bytes
}

const BASE64URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

fn id(stream: u8) -> u32 {
    u32::from(stream % 8) * 2 + 1
}

fn run(watch: &mut Watch, step: &Step<'_>) {
    match step {
        Step::Raw(way, bytes) => watch.send(*way, bytes),
        Step::Frame { way, kind, flags, stream, payload } => {
            watch.send(*way, &frame(kind % 11, *flags, u32::from(stream % 16), payload));
        }
        Step::Hello(way) => {
            let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
            hello.extend(frame(4, 0, 0, &[]));
            watch.send(Way { received: false, ..*way }, &hello);
            watch.send(Way { received: true, ..*way }, &frame(4, 0, 0, &[]));
        }
        Step::Upgrade { way, settings, length, answers } => {
            let mut head =
                b"POST /a HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n".to_vec();
            head.extend(b"HTTP2-Settings: ");
            head.extend(settings.iter().map(|octet| BASE64URL[usize::from(octet % 64)]));
            head.extend(format!("\r\nContent-Length: {}\r\n\r\n", length % 20).as_bytes());
            watch.send(*way, &head);
            if *answers {
                let accepted =
                    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n";
                watch.send(Way { received: !way.received, ..*way }, accepted);
            }
        }
        Step::Request { way, stream, method, timeout, flags } => {
            let path = [b'/', b'a' + method % 4];
            let mut fields: Vec<(&[u8], &[u8])> =
                vec![(b":method", b"POST"), (b":path", &path), (b"content-type", b"application/grpc")];
            if let Some(timeout) = timeout {
                fields.push((b"grpc-timeout", timeout));
            }
            watch.send(*way, &frame(1, 4 | flags & 1, id(*stream), &block(&fields)));
        }
        Step::Response { way, stream } => {
            let fields = block(&[(b":status", b"200"), (b"content-type", b"application/grpc")]);
            watch.send(*way, &frame(1, 4, id(*stream), &fields));
        }
        Step::Trailers { way, stream, status } => {
            let status = (status % 20).to_string();
            watch.send(*way, &frame(1, 5, id(*stream), &block(&[(b"grpc-status", status.as_bytes())])));
        }
        Step::Message { way, stream, len, seen, flags } => {
            let mut payload = vec![0, 0, 0];
            payload.extend(len.to_be_bytes());
            let mut bytes = frame(0, flags & 9, id(*stream), &[]);
            let length = u32::from(*len) + 5;
            bytes[..3].copy_from_slice(&length.to_be_bytes()[1..]);
            payload.resize(length as usize, 7);
            let seen = usize::from(*seen).min(payload.len());
            bytes.extend(&payload[..seen]);
            watch.send(*way, &bytes);
            watch.lose(*way, (payload.len() - seen) as u64);
        }
        Step::Reset { way, stream, code } => {
            watch.send(*way, &frame(3, 0, id(*stream), &u32::from(*code).to_be_bytes()));
        }
        Step::Goaway { way, last } => {
            let mut payload = id(*last).to_be_bytes().to_vec();
            payload.extend([0; 4]);
            watch.send(*way, &frame(7, 0, 0, &payload));
        }
        Step::Lose { way, len } => watch.lose(*way, u64::from(*len)),
        Step::Repeat { way, len } => {
            let offset = &mut watch.offsets[usize::from(way.second_connection)][usize::from(way.received)];
            *offset = offset.saturating_sub(u64::from(*len));
        }
        Step::Close(second) => {
            watch.observer.handle_close(ConnectionId(u64::from(*second)), Timestamp(watch.now));
            watch.drain();
        }
        Step::End(second) => {
            watch.observer.handle_end(ConnectionId(u64::from(*second)), Timestamp(watch.now));
            watch.drain();
        }
        Step::Pass { ms } => {
            watch.now = watch.now.saturating_add(u64::from(*ms) * 1_000_000);
            watch.pass();
        }
        Step::Back { ms } => watch.now = watch.now.saturating_sub(u64::from(*ms) * 1_000_000),
    }
}

fuzz_target!(|data: &[u8]| fuzz::within_time(|| check(data)));

fn check(data: &[u8]) {
    if fuzz::is_recorded_flow(data) {
        // A recorded flow as it is, for corpora that are not ours.
        let mut watch = Watch::new(&Input { tight: false, trace: false, steps: Vec::new() });
        let cut = if data.len() > 4096 { 255 } else { 61 };
        let received = !fuzz::is_of_a_client(data);
        watch.send(Way { second_connection: false, received, boundary: false, cut }, data);
        watch.finish();
    }
    let Ok(input) = Input::arbitrary_take_rest(arbitrary::Unstructured::new(data)) else { return };
    let mut watch = Watch::new(&input);
    for step in &input.steps {
        run(&mut watch, step);
    }
    watch.finish();
}
