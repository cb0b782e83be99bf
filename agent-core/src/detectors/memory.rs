//! What all detectors hold at most, from the bounds of their tables and the sizes of what is in them: the table in `ARCHITECTURE.md` is
//! written from here (`GRPCSCOPE_BLESS=1 cargo test -p agent-core what_detectors_hold_at_most`), and a test fails when it is out of date.
//!
//! Each figure is what the collection's allocation may come to at its bound, as if every entry had all that it can have. Names of methods,
//! destinations and workloads are shared, and counted nowhere here: the first two have bounds of their own in `limits.rs`.

use super::{Watched, abrupt_end, balance, connection_health, correlation, flow_control, lifecycle};
use super::{reconnects, retries, retry_storm};
use crate::call::Stream;
use crate::input::ConnectionId;
use crate::limits::Limits;

/// Bytes of a `Vec` or a `VecDeque` that has grown to `len` entries: it doubles.
pub(super) const fn of_list<Entry>(len: usize) -> usize {
    len.next_power_of_two() * size_of::<Entry>()
}

/// Bytes of a hash table that has grown to `len` entries.
pub(super) fn of_table<Entry>(len: usize) -> usize {
    crate::bytes::of_table::<Entry>(len + len / 7)
}

/// Bytes of a `BTreeMap`: its nodes have room for 11 entries, and at least 5 in them; each as if it had children.
pub(super) const fn of_tree<Key, Value>(len: usize) -> usize {
    len.div_ceil(5) * (11 * (size_of::<Key>() + size_of::<Value>()) + 16 + 12 * size_of::<usize>())
}

/// One line of the table.
struct Row {
    what: &'static str,
    entries: usize,
    bytes: usize,
}

fn rows(limits: &Limits) -> Vec<Row> {
    let connections = limits.connections;
    let of_connection = retry_storm::bytes_of_connection() + flow_control::bytes_of_connection();
    let places = of_table::<(ConnectionId, u32)>(connections) + of_list::<Watched>(connections);
    let of_connections = places + connections * of_connection;
    let row = |what, (entries, bytes)| Row { what, entries, bytes };
    vec![
        row("connections (`Watched`)", (connections, of_connections)),
        row("processes of `correlation`, without their open calls", correlation::bytes_of_processes()),
        row("clients and destinations, and servers, of `balance`", balance::most_bytes()),
        row("pairs of a client and an address of `reconnects`", reconnects::most_bytes()),
        row("failed attempts of `retries`, and those that wait", retries::most_bytes()),
        row("methods of `retry_storm`", retry_storm::most_bytes()),
        row("calls that `lifecycle` speaks of", lifecycle::most_bytes()),
        row("calls that wait in `abrupt_end`", abrupt_end::most_bytes()),
        row("notices that wait in `connection_health`", connection_health::most_bytes()),
    ]
}

fn mib(bytes: usize) -> String {
    format!("{:.1}", bytes as f64 / (1 << 20) as f64)
}

/// A number as people read it.
fn count(number: usize) -> String {
    let digits = number.to_string();
    let groups = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy);
    groups.collect::<Vec<_>>().join(",")
}

fn document() -> String {
    let limits = Limits::default();
    let rows = rows(&limits);
    let mut text = String::from("| what is remembered | entries at most | MiB at most |\n|---|---:|---:|\n");
    for Row { what, entries, bytes } in &rows {
        text += &format!("| {what} | {} | {} |\n", count(*entries), mib(*bytes));
    }
    let total: usize = rows.iter().map(|row| row.bytes).sum();
    text += &format!("| together | | {} |\n\n", mib(total));
    // An open call costs the observer this at least.
    let (of_stream, of_call) = (size_of::<(u32, Stream)>(), correlation::bytes_of_call());
    let calls = limits.state_bytes / of_stream;
    text += &format!(
        "Besides, `correlation` holds at most {of_call} bytes for an open call, which takes {of_stream} bytes of `state_bytes` or more: with \
         the default of {} MiB no more than {} calls are open, and {} MiB are held for them. Places of calls that have ended are \
         used again, and given back when a process has no call open: processes that have had a burst of calls each, one after the \
         other, and always have one open, hold more, each {} MiB for {} calls at most.\n",
        limits.state_bytes >> 20,
        count(calls),
        mib(calls * of_call),
        mib(correlation::CALLS_OF_PROCESS * of_call),
        count(correlation::CALLS_OF_PROCESS),
    );
    text
}

const BEGIN: &str = "<!-- what detectors hold at most: begin -->\n";
const END: &str = "<!-- what detectors hold at most: end -->\n";

#[test]
fn what_detectors_hold_at_most_is_in_the_documentation() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../ARCHITECTURE.md");
    let text = std::fs::read_to_string(path).expect("the documentation is in the repository");
    let (before, rest) = text.split_once(BEGIN).expect("a place for the table");
    let (written, after) = rest.split_once(END).expect("the end of the place");
    if std::env::var_os("GRPCSCOPE_BLESS").is_some() {
        std::fs::write(path, format!("{before}{BEGIN}{}{END}{after}", document()))
            .expect("the documentation can be written");
        return;
    }
    assert!(
        written == document(),
        "ARCHITECTURE.md is out of date: run this test with GRPCSCOPE_BLESS=1\n{}",
        document()
    );
}

#[test]
fn collections_take_no_more_than_is_computed() {
    for len in [1_usize, 5, 64, 1_000, 1_024, 4_096] {
        let list: Vec<u64> = (0..len as u64).fold(Vec::new(), |mut list, entry| {
            list.push(entry);
            list
        });
        assert!(len < 4 || list.capacity() * 8 <= of_list::<u64>(len), "{len}");
        let mut table = std::collections::HashMap::new();
        for entry in 0..len as u64 {
            table.insert(entry, entry);
        }
        let held = crate::bytes::of_table::<(u64, u64)>(table.capacity());
        assert!(held <= of_table::<(u64, u64)>(len), "{len}: {held}");
    }
}
