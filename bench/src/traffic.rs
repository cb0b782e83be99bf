//! gRPC traffic that is the same in each run: fields, header blocks and chunks.

use std::ops::Range;

use agent_core::{Chunk, ConnectionId, Flow, Timestamp};

use crate::encoder::Encoder;

/// Name and value.
pub type Field = (&'static str, String);

/// A gRPC request; `unique` ones have a timeout, a traceparent and a request id of their own.
pub fn request(number: u64, unique: bool) -> Vec<Field> {
    let timeout = if unique { format!("{}u", 4_999_000 + number % 1000) } else { "5S".to_owned() };
    let mut fields = vec![
        (":method", "POST".to_owned()),
        (":scheme", "http".to_owned()),
        (":path", "/shop.v1.CheckoutService/PlaceOrder".to_owned()),
        (":authority", "checkout.shop.svc.cluster.local:8080".to_owned()),
        ("content-type", "application/grpc".to_owned()),
        ("user-agent", "grpc-go/1.72.0".to_owned()),
        ("te", "trailers".to_owned()),
        ("grpc-timeout", timeout),
    ];
    if unique {
        let [a, b, c, d] = [0, 1, 2, 3].map(|place| mixed(number + place));
        fields.push(("traceparent", format!("00-{a:016x}{b:016x}-{c:016x}-01")));
        fields.push(("x-request-id", format!("{:08x}-4f2a-4b7c-9d1e-{:012x}", a as u32, d >> 16)));
    }
    fields
}

/// Its response's headers.
pub fn response() -> Vec<Field> {
    vec![
        (":status", "200".to_owned()),
        ("content-type", "application/grpc".to_owned()),
        ("grpc-accept-encoding", "gzip".to_owned()),
    ]
}

/// Its trailers.
pub fn trailers() -> Vec<Field> {
    vec![("grpc-status", "0".to_owned()), ("grpc-message", String::new())]
}

/// Numbers that look random and are the same in each run (splitmix64).
fn mixed(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// A connection with unary calls, one after the other: a chunk with each request, and one with each response.
pub struct Connection {
    /// How it begins, and then two for each call.
    chunks: Vec<(Flow, u64, Vec<u8>)>,
}

/// Chunks before the first call.
const HANDSHAKE_CHUNKS: usize = 3;

impl Connection {
    /// A connection with so many calls.
    pub fn new(calls: usize) -> Connection {
        let (mut requests, mut responses) = (Encoder::new(), Encoder::new());
        let mut connection = Connection { chunks: Vec::new() };
        let mut offsets = [0; 2];
        let mut send = |flow, bytes: Vec<u8>| {
            let offset = &mut offsets[usize::from(flow == Flow::Received)];
            let bytes_len = bytes.len() as u64;
            connection.chunks.push((flow, *offset, bytes));
            *offset += bytes_len;
        };
        let settings = frame(SETTINGS, 0, 0, &[]);
        let acknowledgment = frame(SETTINGS, ACK, 0, &[]);
        send(Flow::Sent, [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &settings].concat());
        send(Flow::Received, [settings.as_slice(), &acknowledgment].concat());
        send(Flow::Sent, acknowledgment);
        let message = [[0, 0, 0, 0, 64].as_slice(), &[7; 64]].concat();
        for number in 0..calls as u64 {
            let stream = 2 * number as u32 + 1;
            let request = requests.encode(&request(number, true));
            send(
                Flow::Sent,
                [frame(HEADERS, END_HEADERS, stream, &request), frame(DATA, END_STREAM, stream, &message)]
                    .concat(),
            );
            let (response, trailers) = (responses.encode(&response()), responses.encode(&trailers()));
            send(
                Flow::Received,
                [
                    frame(HEADERS, END_HEADERS, stream, &response),
                    frame(DATA, 0, stream, &message),
                    frame(HEADERS, END_HEADERS | END_STREAM, stream, &trailers),
                ]
                .concat(),
            );
        }
        connection
    }

    /// Some calls in the order of the wire; those from the first on bring the start of the connection with them.
    pub fn calls(&self, connection: ConnectionId, calls: Range<usize>) -> impl Iterator<Item = Chunk<'_>> {
        let first = if calls.start == 0 { 0 } else { HANDSHAKE_CHUNKS + 2 * calls.start };
        let chunks = first..HANDSHAKE_CHUNKS + 2 * calls.end;
        chunks.map(move |at| {
            let (flow, offset, bytes) = &self.chunks[at];
            Chunk {
                connection,
                flow: *flow,
                offset: *offset,
                time: Timestamp(1_000_000_000 + 10_000 * at as u64),
                boundary: false,
                thread: 1,
                bytes,
            }
        })
    }
}

const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const SETTINGS: u8 = 0x4;
const ACK: u8 = 0x1;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;

/// A frame (RFC 9113 §4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = &(payload.len() as u32).to_be_bytes()[1..];
    [length, &[kind, flags], &stream.to_be_bytes(), payload].concat()
}
