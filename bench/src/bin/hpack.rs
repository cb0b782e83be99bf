//! HPACK decoding beside other decoders, nanoseconds a block. The last line is JSON.
//!
//! All decoders take turns in each round, and each has the time of its best round: the machine is noisy, and the
//! least disturbed round says most about the code. Time is the CPU time of this thread, so that waiting for a core
//! does not count. Pass `--json` for the JSON alone.
//!
//! `ours_ns`, and the ratio made from it, is with every value decoded, as the peers do; `ours_allow_list_ns` is what
//! the agent does, which needs the values of a few names only.

use std::hint::black_box;
use std::time::Duration;

use agent_core::hpack::Decoder;
use bench::allocations::{self, Counted};
use bench::blocks::{Set, sets};
use bench::{cpu_time, decoders, round};
use serde_json::{Value, json};

#[global_allocator]
static ALLOCATOR: Counted = Counted;

/// How long the rounds of one set go on.
const SET_TIME: Duration = Duration::from_secs(2);

fn main() {
    let json_only = std::env::args().any(|argument| argument == "--json");
    let mut results = Vec::new();
    let mut allocations_steady: f64 = 0.0;
    for set in sets() {
        let result = measure(&set);
        if !json_only {
            eprintln!("{result}");
        }
        if set.is_steady {
            allocations_steady =
                allocations_steady.max(result["allocations_per_block"].as_f64().unwrap_or(f64::NAN));
        }
        results.push(result);
    }
    println!("{}", json!({ "sets": results, "allocations_per_block": allocations_steady }));
}

/// One decoder's part.
struct Contender<'a> {
    name: &'static str,
    pass: Box<dyn Fn() -> usize + 'a>,
    best: Duration,
}

impl Contender<'_> {
    fn run(&mut self) -> usize {
        let begin = cpu_time::thread();
        let result = black_box((self.pass)());
        self.best = self.best.min(cpu_time::thread() - begin);
        result
    }
}

fn measure(set: &Set) -> Value {
    let wire = decoders::h2_wire(set);
    let contender = |name, pass| Contender { name, pass, best: Duration::MAX };
    let mut fast = [
        contender("ours", Box::new(|| decoders::ours(set)) as Box<dyn Fn() -> usize>),
        contender("ours_allow_list", Box::new(|| decoders::ours_allow_list(set))),
        contender("nghttp2", Box::new(|| decoders::nghttp2(set))),
        contender("h2", Box::new(|| decoders::h2(&wire))),
    ];
    // These build their Huffman table anew for each string: once is enough.
    let mut slow = [
        contender("hpack", Box::new(|| decoders::hpack(set)) as Box<dyn Fn() -> usize>),
        contender("loona-hpack", Box::new(|| decoders::loona_hpack(set))),
    ];
    let octets = decoders::ours(set);
    assert_eq!(decoders::nghttp2(set), octets, "nghttp2 reads other fields than ours in {}", set.name);
    assert_eq!(
        decoders::ours_allow_list(set),
        decoders::allow_list_octets(set),
        "other values in {}",
        set.name
    );
    assert_eq!(decoders::h2(&wire), set.blocks(), "h2 does not read every block of {}", set.name);
    let start = cpu_time::thread();
    while cpu_time::thread() - start < SET_TIME {
        for contender in &mut fast {
            contender.run();
        }
    }
    for contender in &mut slow {
        assert_eq!(
            contender.run(),
            octets,
            "{} reads other fields than ours in {}",
            contender.name,
            set.name
        );
    }
    let contenders: Vec<_> = fast.iter().chain(&slow).collect();
    let ns = |name| {
        let contender = contenders.iter().find(|contender| contender.name == name);
        let best = contender.map_or(Duration::MAX, |contender| contender.best);
        round(best.as_nanos() as f64 / set.blocks() as f64)
    };
    let (ours, allow_list, nghttp2) = (ns("ours"), ns("ours_allow_list"), ns("nghttp2"));
    json!({
        "name": set.name,
        "blocks": set.blocks(),
        "bytes_per_block": round(set.bytes_per_block()),
        "ours_ns": ours,
        "ours_allow_list_ns": allow_list,
        "peers": { "nghttp2": nghttp2, "h2": ns("h2"), "hpack": ns("hpack"), "loona-hpack": ns("loona-hpack") },
        "ratio_nghttp2": round(nghttp2 / ours),
        "ratio_nghttp2_allow_list": round(nghttp2 / allow_list),
        "allocations_per_block": allocations_per_block(set),
    })
}

/// Allocations of ours a block, in the second half of each connection's blocks; all of a connection's single block.
fn allocations_per_block(set: &Set) -> f64 {
    let (mut counted, mut blocks, mut octets) = (0, 0, 0);
    for connection in &set.connections {
        let mut decoder = Decoder::synced(64 * 1024);
        let (warm_up, steady) = connection.split_at(connection.len() / 2);
        for block in warm_up {
            decoders::ours_block(&mut decoder, block, &mut octets);
        }
        let before = allocations::count();
        for block in steady {
            decoders::ours_block(&mut decoder, block, &mut octets);
        }
        counted += allocations::count() - before;
        blocks += steady.len();
    }
    black_box(octets);
    (counted as f64 / blocks as f64 * 1000.0).round() / 1000.0
}
