//! `replay` says of recordings what their applications wrote down, and nothing of what it cannot know.

mod corpora;
mod made;
mod program;

use std::fs;

use made::{frame, headers, recording};
use serde_json::{Value, json};

fn replay(arguments: &[&str], path: &str) -> String {
    let ran = program::run(&[&["replay"], arguments, &[path]].concat());
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{path}");
    ran.stdout
}

fn findings(text: &str) -> Vec<Value> {
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("a line of JSON"));
    lines.filter(|line| line["type"] == "finding").collect()
}

fn summary(text: &str) -> Value {
    serde_json::from_str(text.lines().last().expect("a last line")).expect("a line of JSON")
}

const KNOWN: [&str; 2] = ["deadline_missing", "deadline_exceeded"];

#[test]
fn calls_without_a_deadline_and_those_whose_deadline_passed_are_as_many_as_the_application_made() {
    let Some(corpora) = corpora::corpora() else { return };
    for name in ["grpcio_mixed", "grpcjs_mixed"] {
        let folder = corpora.join("live");
        let truth = fs::read_to_string(folder.join(format!("{name}.truth.json"))).expect("it is there");
        let truth: Vec<Value> = serde_json::from_str(&truth).expect("it is JSON");
        let of_truth = |is: &dyn Fn(&Value) -> bool| truth.iter().filter(|call| is(call)).count();
        let path = folder.join(format!("{name}.pcap.gz"));
        let text = replay(&["--json"], path.to_str().expect("a plain name"));
        let all = findings(&text);
        let count = |finding: &str, verdict: &str| {
            all.iter().filter(|one| one["finding"] == finding && one["verdict"] == verdict).count()
        };
        assert_eq!(
            count("deadline_missing", "firing"),
            of_truth(&|call| call["timeout_s"].is_null()),
            "{name}"
        );
        assert_eq!(count("deadline_exceeded", "firing"), of_truth(&|call| call["code"] == 4), "{name}");
        // Seen from the first byte, without a loss: everything about deadlines can be told.
        assert_eq!(
            count("deadline_missing", "undecided") + count("deadline_exceeded", "undecided"),
            0,
            "{name}"
        );
        for one in all.iter().filter(|one| one["finding"] == "deadline_exceeded") {
            assert_eq!(one["rpc_method"], "corp.test.Echo/Slow", "{one}");
        }
        // The application did nothing else that is wrong: what was found in fast transfers on one machine would be.
        let others: Vec<&Value> =
            all.iter().filter(|one| !KNOWN.iter().any(|name| one["finding"] == *name)).collect();
        assert!(others.is_empty(), "{name}: {others:?}");
        let summed = &summary(&text)["findings"]["deadline_exceeded"]["firing"];
        assert_eq!(*summed, count("deadline_exceeded", "firing"), "{name}");
    }
}

/// A connection with two calls, which nobody ends.
fn two_calls() -> Vec<u8> {
    let request = |stream| {
        let fields: [(&str, &[u8]); 6] = [
            (":method", b"POST"),
            (":scheme", b"http"),
            (":path", b"/shop.\x1b[31m/Add"),
            (":authority", b"cart"),
            ("content-type", b"application/grpc"),
            ("te", b"trailers"),
        ];
        let mut bytes = headers(4, stream, &fields);
        bytes.extend(frame(0, 1, stream, &[0; 5]));
        bytes
    };
    let mut preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    preface.extend(frame(4, 0, 0, &[]));
    recording(&[(true, preface), (false, frame(4, 0, 0, &[])), (true, request(1)), (true, request(3))])
}

fn written(name: &str, bytes: &[u8]) -> String {
    let path = std::env::temp_dir().join(format!("grpcscope-{}-{name}.pcap", std::process::id()));
    fs::write(&path, bytes).expect("the temporary directory can be written to");
    path.to_str().expect("a plain name").to_owned()
}

#[test]
fn a_finding_of_a_recording_has_its_ends_and_time_and_neither_process_nor_side() {
    let path = written("findings", &two_calls());
    let all = findings(&replay(&["--json"], &path));
    let missing: Vec<&Value> = all.iter().filter(|one| one["finding"] == "deadline_missing").collect();
    assert_eq!(missing.len(), 2, "{all:?}");
    for (key, expected) in [
        ("verdict", json!("firing")),
        ("cause", json!("absent")),
        ("service_name", Value::Null),
        ("pid", Value::Null),
        ("side", Value::Null),
        // No name of a gRPC method: what it is made of stays out of lists and labels.
        ("rpc_method", json!("invalid")),
        ("time", json!(1_700_000_000.0)),
        ("connection", json!(0)),
        ("stream", json!(1)),
        (
            "example",
            json!({"connection": 0, "stream": 1, "client": "10.0.0.1:40000", "server": "10.0.0.2:50051"}),
        ),
    ] {
        assert_eq!(missing[0][key], expected, "{key}");
    }
    // With --frames alone there are frames alone.
    assert_eq!(findings(&replay(&["--frames"], &path)).len(), 0);
    let text = replay(&[], &path);
    assert!(text.contains("findings:\n      2  deadline_missing          invalid has no deadline"), "{text}");
    fs::remove_file(path).expect("it is there");
}

#[test]
fn several_recordings_name_the_file_of_each_finding() {
    let (one, other) = (written("one", &two_calls()), written("other", &two_calls()));
    let ran = program::run(&["replay", "--json", &one, &other]);
    let files: Vec<Value> = findings(&ran.stdout).iter().map(|finding| finding["file"].clone()).collect();
    assert!(files.contains(&json!(one)) && files.contains(&json!(other)), "{files:?}");
    fs::remove_file(one).expect("it is there");
    fs::remove_file(other).expect("it is there");
}
