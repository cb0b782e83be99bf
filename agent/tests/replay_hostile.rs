//! What an attacker puts on the wire reaches neither terminal nor log as it is, and secrets reach nothing.

mod made;
mod program;

use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};

use made::{frame, headers, recording};
use program::run;

const CANARY: &str = "s3cr3t-canary";

/// One call, with something evil wherever there is room for it.
fn hostile_recording() -> Vec<u8> {
    let evil: &[u8] = b"/a\n\x1b[2J\x1b]0;own\x07\0\xff\xc2\x9b31m\xe2\x80\xae/b\x7f";
    let request = headers(
        4,
        1,
        &[
            (":method", b"POST"),
            (":scheme", b"http"),
            (":path", evil),
            ("content-type", b"application/grpc"),
            ("te", b"trailers"),
            ("authorization", CANARY.as_bytes()),
            ("x-evil", evil),
        ],
    );
    let mut client = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    client.extend(frame(4, 0, 0, &[]));
    client.extend(request);
    client.extend(frame(0, 1, 1, &[&[0, 0, 0, 0, 13], CANARY.as_bytes()].concat()));
    let trailers = headers(
        5,
        1,
        &[
            (":status", b"200"),
            ("content-type", b"application/grpc"),
            ("grpc-status", b"13"),
            ("grpc-message", evil),
            ("set-cookie", CANARY.as_bytes()),
        ],
    );
    let server = [frame(4, 0, 0, &[]), trailers].concat();
    recording(&[(true, client), (false, server)])
}

fn outputs(arguments: &[&str]) -> (String, String) {
    static FILES: AtomicU32 = AtomicU32::new(0);
    let number = FILES.fetch_add(1, Ordering::Relaxed);
    let name = format!("grpcscope-hostile-{}-{number}.pcap", std::process::id());
    let path = std::env::temp_dir().join(name);
    fs::write(&path, hostile_recording()).expect("the temporary directory can be written to");
    let file = path.to_str().expect("the temporary directory has a plain name");
    let ran = run(&[&["replay"], arguments, &["-vv", file]].concat());
    fs::remove_file(&path).expect("it is still there");
    assert_eq!(ran.code, Some(0), "{ran:?}");
    (ran.stdout, ran.stderr)
}

#[test]
fn t9_no_form_of_output_lets_control_characters_through() {
    for arguments in [&[][..], &["--json"], &["--frames"], &["--json", "--frames"]] {
        let (stdout, stderr) = outputs(arguments);
        for text in [&stdout, &stderr] {
            let hostile =
                text.chars().find(|&c| c != '\n' && (c.is_control() || c == '\u{202e}' || c == '\u{feff}'));
            assert_eq!(hostile, None, "{arguments:?}: {text:?}");
        }
        assert!(stdout.contains("/a\\n"), "{arguments:?}: the call is there: {stdout}");
        let lines_of_calls =
            stdout.lines().filter(|line| line.contains("INTERNAL") || line.contains(r#""call""#));
        assert!(lines_of_calls.count() <= 1, "a line was forged: {stdout}");
    }
}

#[test]
fn t9_the_json_of_a_hostile_call_reads_back_what_was_sent() {
    let (stdout, _) = outputs(&["--json"]);
    let lines =
        stdout.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("a line of JSON"));
    let call = lines.into_iter().find(|line| line["type"] == "call").expect("a call");
    let method = call["method"].as_str().expect("a method");
    assert!(method.starts_with("/a\n\x1b[2J\x1b]0;own\x07\0") && method.ends_with("/b\x7f"), "{method:?}");
    assert_eq!((&call["outcome"], &call["status"]), (&"error".into(), &13.into()));
}

#[test]
fn t13_values_of_headers_and_messages_are_in_no_output_that_did_not_ask_for_frames() {
    for arguments in [&[][..], &["--json"]] {
        let (stdout, stderr) = outputs(arguments);
        assert!(!stdout.contains(CANARY) && !stderr.contains(CANARY), "{arguments:?}: {stdout}{stderr}");
    }
    assert!(outputs(&["--frames"]).0.contains(CANARY), "--frames shows every header");
}
