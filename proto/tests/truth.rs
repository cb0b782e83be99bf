//! The demo's own truth holds together: what was called is what was answered, and everything that the demo promises
//! to show happens.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use serde_json::Value;

/// What the processes of one run of the whole shop wrote down. Two hundred actions hold the whole mix twice.
static CALLS: LazyLock<Vec<Value>> = LazyLock::new(|| {
    let folder = std::env::temp_dir().join(format!("grpcscope-demo-{}", std::process::id()));
    let status = Command::new(env!("CARGO_BIN_EXE_grpcscope-demo"))
        .args(["all", "--seconds", "300", "--actions", "200", "--rate", "100", "--truth"])
        .arg(&folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .expect("the demo was built with this test");
    assert!(status.success(), "the demo ended with {status}");
    let mut calls = Vec::new();
    for file in fs::read_dir(&folder).expect("the folder of the truth") {
        let text = fs::read_to_string(file.expect("an entry").path()).expect("a file of the truth");
        let lines =
            text.lines().map(|line| serde_json::from_str::<Value>(line).expect("a line is an object"));
        // Between calls stand the findings that they provoke.
        calls.extend(lines.filter(|line| line["finding"].is_null()));
    }
    fs::remove_dir_all(&folder).expect("the folder of the truth");
    calls
});

#[test]
fn every_call_is_written_down_by_both_ends_alike() {
    let calls = &*CALLS;
    let mut balance: BTreeMap<String, i64> = BTreeMap::new();
    for call in calls {
        // Who gave up may be heard as a deadline by one end and as a cancellation by the other, within milliseconds
        // of the deadline on a busy machine; the status of such a call is one end's word only.
        let given_up = matches!(call["outcome"].as_str(), Some("deadline" | "cancelled"));
        let end =
            if given_up { "given up".to_owned() } else { format!("{} {}", call["outcome"], call["status"]) };
        let key = format!(
            "{} {} {end} {} {} {}",
            call["method"],
            call["call_type"],
            call["timeout_ns"],
            call["request_messages"],
            call["response_messages"]
        );
        *balance.entry(key).or_default() += if call["side"] == "client" { 1 } else { -1 };
    }
    balance.retain(|_, count| *count != 0);
    assert!(balance.is_empty(), "calls that only one end knows (client +, server -): {balance:#?}");
    assert!(calls.len() > 400, "200 actions make more than {} entries", calls.len());
}

#[test]
fn the_mix_holds_every_call_type_and_every_way_to_end() {
    let calls = &*CALLS;
    for call_type in ["unary", "client_stream", "server_stream", "bidi"] {
        assert!(calls.iter().any(|call| call["call_type"] == call_type), "no {call_type}");
    }
    for outcome in ["ok", "error", "deadline", "cancelled"] {
        assert!(calls.iter().any(|call| call["outcome"] == outcome), "no call ended with {outcome}");
    }
    assert!(calls.iter().all(|call| call["outcome"] != "aborted"), "a call lost its connection");
    assert!(calls.iter().any(|call| call["timeout_ns"].is_null()), "every call had a deadline");
}
