//! The recording that is shipped for machines without BPF: every call in it is what the shop's processes wrote down.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::process::Command;

use flate2::read::GzDecoder;
use serde_json::Value;
use tests::apps::built_here;
use tests::workspace::root;

/// What must be equal. A call that was given up has the status of whoever spoke first, or none.
fn key(call: &Value) -> String {
    let given_up = matches!(call["outcome"].as_str(), Some("deadline" | "cancelled"));
    let status = if given_up { &Value::Null } else { &call["status"] };
    // The messages show the type of a call when all of them came.
    let call_type = if call["outcome"] == "ok" { &call["call_type"] } else { &Value::Null };
    format!(
        "{} {call_type}: {} {status}, timeout {}, {} → {}",
        call["method"],
        call["outcome"],
        call["timeout_ns"],
        call["request_messages"],
        call["response_messages"]
    )
}

#[test]
fn replay_tells_of_the_shipped_recording_what_its_processes_wrote_down() {
    let mut balance: BTreeMap<String, i32> = BTreeMap::new();
    let mut made = 0;
    let truth = File::open(root().join("proto/recordings/demo.truth.jsonl.gz"))
        .expect("the truth is in the repository");
    for line in BufReader::new(GzDecoder::new(truth)).lines() {
        let call: Value = serde_json::from_str(&line.expect("a line of text")).expect("a line is an object");
        *balance.entry(key(&call)).or_default() += 1;
        made += 1;
    }
    assert!(made > 500, "the recording has {made} calls");

    let program = built_here("grpcscope").unwrap_or_else(|error| panic!("{error:#}"));
    let output = Command::new(program)
        .args(["replay", "--json"])
        .arg(root().join("proto/recordings/demo.pcap.gz"))
        .output()
        .expect("grpcscope starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("JSON is UTF-8");
    for line in text.lines() {
        let said: Value = serde_json::from_str(line).expect("a line is an object");
        if said["type"] == "call" {
            *balance.entry(key(&said)).or_default() -= 1;
        }
    }
    balance.retain(|_, count| *count != 0);
    assert!(balance.is_empty(), "made but not seen (+), seen but not made (-): {balance:#?}");
}
