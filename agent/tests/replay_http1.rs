//! Connections that begin with HTTP/1.1, in recordings: the upgrade to HTTP/2, and gRPC-Web, which is neither.

mod made;
mod program;

use std::fs;

use made::{frame, headers, recording};
use program::run;
use serde_json::{Value, json};

fn replay(name: &str, parts: &[(bool, Vec<u8>)]) -> Vec<Value> {
    let path = std::env::temp_dir().join(format!("grpcscope-{name}-{}.pcap", std::process::id()));
    fs::write(&path, recording(parts)).expect("the temporary directory can be written to");
    let ran = run(&["replay", "--json", path.to_str().expect("a plain name")]);
    fs::remove_file(&path).expect("it is still there");
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    ran.stdout.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

#[test]
fn c5_an_upgraded_connection_is_replayed_with_its_first_call() {
    let asked = "POST /shop.Orders/Get HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
        HTTP2-Settings: AAQAAAPoAAEAAAAA\r\nContent-Type: application/grpc\r\nContent-Length: 8\r\n\r\n\0\0\0\0\x03abc";
    let agreed = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n";
    let trailers = headers(5, 1, &[(":status", b"200"), ("grpc-status", b"5")]);
    let parts = [
        (true, asked.as_bytes().to_vec()),
        (false, [agreed.to_vec(), frame(4, 0, 0, &[])].concat()),
        (true, [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(4, 0, 0, &[])].concat()),
        (false, trailers),
    ];
    let lines = replay("upgrade", &parts);
    assert_eq!(lines.len(), 4, "{lines:#?}");
    // It has no deadline, which is found when it begins.
    assert_eq!((&lines[0]["type"], &lines[0]["finding"]), (&json!("finding"), &json!("deadline_missing")));
    let call = &lines[1];
    assert_eq!((&call["method"], &call["status"]), (&json!("/shop.Orders/Get"), &json!(5)));
    assert_eq!((&call["request_messages"], &call["request_bytes"]), (&json!(1), &json!(3)));
    assert_eq!((&call["stream"], &lines[2]["http2"]), (&json!(1), &json!(true)));
}

#[test]
fn x1_grpc_web_is_counted_as_itself_over_http2_and_is_nothing_over_http1() {
    let content_type: (&str, &[u8]) = ("content-type", b"application/grpc-web+proto");
    let request = headers(4, 1, &[(":method", b"POST"), (":path", b"/shop.Orders/Get"), content_type]);
    let body = b"\0\0\0\0\x01a\x80\0\0\0\x0fgrpc-status:5\r\n";
    let response = headers(4, 1, &[(":status", b"200"), content_type]);
    let hello = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(4, 0, 0, &[])].concat();
    let parts = [
        (true, [hello, request, frame(0, 1, 1, b"\0\0\0\0\x01a")].concat()),
        (false, [frame(4, 0, 0, &[]), response, frame(0, 1, 1, body)].concat()),
    ];
    let lines = replay("web2", &parts);
    let summary = lines.last().expect("a summary");
    assert_eq!((&summary["calls"], &summary["other_exchanges"]), (&json!(0), &json!(1)));
    assert_eq!(summary["other_protocols"], json!({ "grpc_web": 1 }));

    let asked = b"POST /shop.Orders/Get HTTP/1.1\r\nContent-Type: application/grpc-web+proto\r\nContent-Length: 6\r\n\r\n";
    let answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/grpc-web+proto\r\nContent-Length: 26\r\n\r\n";
    let parts = [
        (true, [asked.to_vec(), b"\0\0\0\0\x01a".to_vec()].concat()),
        (false, [answer.to_vec(), body.to_vec()].concat()),
    ];
    let lines = replay("web1", &parts);
    let summary = lines.last().expect("a summary");
    let seen = (&summary["calls"], &summary["other_exchanges"], &summary["http2_connections"]);
    assert_eq!(seen, (&json!(0), &json!(0), &json!(0)));
    assert_eq!(lines[0]["state"], "not_http2");
}
