//! The six sets of header blocks that are decoded.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::nghttp2::Deflater;

/// Blocks of a set, by connection: each connection starts with an empty table.
pub struct Set {
    /// Name in the output.
    pub name: &'static str,
    /// Blocks of each connection.
    pub connections: Vec<Vec<Vec<u8>>>,
    /// The decoder is in a steady state for nearly all blocks, so that no allocation is excused.
    pub is_steady: bool,
}

impl Set {
    /// Blocks of all connections.
    pub fn blocks(&self) -> usize {
        self.connections.iter().map(Vec::len).sum()
    }

    /// Mean size of a block.
    pub fn bytes_per_block(&self) -> f64 {
        let bytes: usize = self.connections.iter().flatten().map(Vec::len).sum();
        bytes as f64 / self.blocks() as f64
    }
}

/// All sets; those of the stories only if the corpora are there.
pub fn sets() -> Vec<Set> {
    let mut sets = vec![
        Set { name: "request", connections: vec![requests(0..2000, true)], is_steady: true },
        Set {
            name: "request_cold",
            connections: (0..1000).map(|number| requests(number..number + 1, true)).collect(),
            is_steady: false,
        },
        Set { name: "mostly_indexed", connections: vec![requests(0..2000, false)], is_steady: true },
        Set { name: "response", connections: vec![responses(1000)], is_steady: true },
    ];
    for (name, encoder) in [("story_nghttp2", "nghttp2"), ("story_go", "go-hpack")] {
        match stories(encoder) {
            Some(connections) => sets.push(Set { name, connections, is_steady: false }),
            None => eprintln!("skipped: no stories at ../shared/corpora/hpack/{encoder}"),
        }
    }
    sets
}

/// gRPC requests; `unique` ones have a traceparent and a request id of their own.
fn requests(numbers: std::ops::Range<u64>, unique: bool) -> Vec<Vec<u8>> {
    let mut deflater = Deflater::new();
    numbers
        .map(|number| {
            let timeout = format!("{}u", 4_999_000 + number % 1000);
            let traceparent =
                format!("00-{:016x}{:016x}-{:016x}-01", mixed(number), mixed(number + 1), mixed(number + 2));
            let id = format!("{:08x}-4f2a-4b7c-9d1e-{:012x}", mixed(number) as u32, mixed(number + 3) >> 16);
            let mut fields = vec![
                (":method", "POST"),
                (":scheme", "http"),
                (":path", "/shop.v1.CheckoutService/PlaceOrder"),
                (":authority", "checkout.shop.svc.cluster.local:8080"),
                ("content-type", "application/grpc"),
                ("user-agent", "grpc-go/1.72.0"),
                ("te", "trailers"),
                ("grpc-timeout", timeout.as_str()),
            ];
            if unique {
                fields.push(("traceparent", traceparent.as_str()));
                fields.push(("x-request-id", id.as_str()));
            }
            deflater.encode(&fields)
        })
        .collect()
}

/// gRPC responses: headers and trailers in turn.
fn responses(calls: usize) -> Vec<Vec<u8>> {
    let mut deflater = Deflater::new();
    let mut blocks = Vec::new();
    for _ in 0..calls {
        let encodings = ("grpc-accept-encoding", "gzip");
        blocks.push(deflater.encode(&[(":status", "200"), ("content-type", "application/grpc"), encodings]));
        blocks.push(deflater.encode(&[("grpc-status", "0"), ("grpc-message", "")]));
    }
    blocks
}

/// Numbers that look random and are the same in each run (splitmix64).
fn mixed(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// The stories of an encoder of hpack-test-case, each a connection.
fn stories(encoder: &str) -> Option<Vec<Vec<Vec<u8>>>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpora/hpack").join(encoder);
    let mut paths: Vec<_> =
        fs::read_dir(folder).ok()?.map(|file| file.expect("read the corpus").path()).collect();
    paths.sort();
    let story = |path: &_| {
        let json: Value =
            serde_json::from_slice(&fs::read(path).expect("read a story")).expect("parse a story");
        let cases = json["cases"].as_array().expect("a story has cases");
        cases.iter().map(|case| hex(case["wire"].as_str().expect("a case has a wire"))).collect()
    };
    Some(paths.iter().map(story).collect())
}

fn hex(text: &str) -> Vec<u8> {
    let octet = |pair: &[u8]| {
        u8::from_str_radix(std::str::from_utf8(pair).expect("hex is ASCII"), 16).expect("two hex digits")
    };
    text.as_bytes().chunks(2).map(octet).collect()
}
