//! The six sets of header blocks that are decoded.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::nghttp2::Deflater;
use crate::traffic;

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

/// gRPC requests.
fn requests(numbers: std::ops::Range<u64>, unique: bool) -> Vec<Vec<u8>> {
    let mut deflater = Deflater::new();
    numbers.map(|number| deflater.encode(&traffic::request(number, unique))).collect()
}

/// gRPC responses: headers and trailers in turn.
fn responses(calls: usize) -> Vec<Vec<u8>> {
    let mut deflater = Deflater::new();
    (0..calls)
        .flat_map(|_| [traffic::response(), traffic::trailers()])
        .map(|fields| deflater.encode(&fields))
        .collect()
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
