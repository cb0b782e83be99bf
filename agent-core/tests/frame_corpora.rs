//! Frames that this project did not write: every case of http2-frame-test-case, with what it is expected to be.
//!
//! They lie outside of the repository; without them these tests say so and pass.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use support::*;

/// Error codes of RFC 9113 §7.
const PROTOCOL_ERROR: u64 = 1;
const FRAME_SIZE_ERROR: u64 = 6;

/// Number of cases in the corpus.
const CASES: usize = 23;

/// Name and content of each case; `None`, said aloud, if the corpus is not there.
fn cases() -> Option<Vec<(PathBuf, Value)>> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpora/frames");
    if !corpus.is_dir() {
        assert!(std::env::var_os("CI").is_none(), "the corpora are missing: {}", corpus.display());
        println!("SKIPPED: no frames at ../shared/corpora/frames");
        return None;
    }
    let mut cases = Vec::new();
    for folder in fs::read_dir(corpus).expect("it can be listed") {
        for file in fs::read_dir(folder.expect("listed").path()).expect("a folder") {
            let path = file.expect("listed").path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let case = serde_json::from_slice(&fs::read(&path).expect("it can be read")).expect("it is JSON");
            cases.push((path, case));
        }
    }
    Some(cases)
}

fn octets(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks_exact(2);
    digits.map(|two| u8::from_str_radix(std::str::from_utf8(two).expect("text"), 16).expect("hex")).collect()
}

/// What the frame is when it comes from a client of which everything was seen. A frame that is cut off in the file
/// is filled up.
fn observe(wire: &[u8]) -> Scenario {
    let mut scenario = Scenario::connected();
    scenario.observer.trace_frames(true);
    let length = wire[..3].iter().fold(0, |sum, octet| sum << 8 | usize::from(*octet));
    let mut whole = wire.to_vec();
    whole.resize(9 + length, 0);
    scenario.send(CLIENT, &whole);
    scenario
}

/// The error that an anomaly stands for.
fn class(anomaly: &str) -> Option<u64> {
    match anomaly {
        "frame_size" => Some(FRAME_SIZE_ERROR),
        "frame_padding" | "frame_promised_stream" | "frame_stream_id" => Some(PROTOCOL_ERROR),
        _ => None,
    }
}

#[test]
fn f4_every_frame_that_is_an_error_is_an_anomaly_of_its_class() {
    let Some(cases) = cases() else { return };
    assert_eq!(cases.len(), CASES);
    let mut errors = 0;
    for (path, case) in &cases {
        let Some(expected) = case["error"].as_array() else { continue };
        let scenario = observe(&octets(case["wire"].as_str().expect("hex")));
        let anomalies = scenario.anomalies();
        let seen: Vec<u64> = anomalies.iter().filter_map(|kind| class(kind)).collect();
        assert_eq!(seen.len(), 1, "{}: {anomalies:?}", path.display());
        assert!(
            expected.iter().any(|code| code.as_u64() == Some(seen[0])),
            "{}: {anomalies:?}",
            path.display()
        );
        errors += 1;
    }
    assert_eq!(errors, 11);
}

#[test]
fn f1_every_frame_that_is_none_is_read_as_it_is() {
    let Some(cases) = cases() else { return };
    let mut read = 0;
    for (path, case) in &cases {
        let frame = &case["frame"];
        if frame.is_null() {
            continue;
        }
        let scenario = observe(&octets(case["wire"].as_str().expect("hex")));
        assert!(scenario.anomalies().iter().all(|kind| class(kind).is_none()), "{}", path.display());
        let frames = scenario.frames();
        assert_eq!(frames.len(), 1, "{}", path.display());
        let seen = frames[0];
        let header = (seen.length, seen.frame_type, seen.flags, seen.stream);
        let number = |key: &str| frame[key].as_u64().expect("a number");
        let expected = (number("length"), number("type"), number("flags"), number("stream_identifier"));
        assert_eq!(
            (u64::from(header.0), u64::from(header.1), u64::from(header.2), u64::from(header.3)),
            expected,
            "{}",
            path.display()
        );
        let payload = &frame["frame_payload"];
        if let Some(increment) = payload["window_size_increment"].as_u64() {
            assert_eq!(seen.increment.map(u64::from), Some(increment));
        }
        if let Some(code) = payload["error_code"].as_u64() {
            assert_eq!(seen.code.map(u64::from), Some(code));
        }
        if let Some(settings) = payload["settings"].as_array() {
            let settings: Vec<(u64, u64)> = settings
                .iter()
                .map(|entry| (entry[0].as_u64().expect("an id"), entry[1].as_u64().expect("a value")))
                .collect();
            let ours: Vec<(u64, u64)> = seen
                .settings
                .iter()
                .flatten()
                .map(|(id, value)| (u64::from(*id), u64::from(*value)))
                .collect();
            assert_eq!(ours, settings);
        }
        if let Some(data) = payload["data"].as_str() {
            // Data, padding and the octet of its length all count for flow control.
            let padding = payload["padding_length"].as_i64().map_or(0, |length| length + 1);
            let used = i64::try_from(data.len()).expect("a length") + padding;
            assert_eq!(seen.windows.and_then(|windows| windows.connection), Some(65_535 - used));
        }
        read += 1;
    }
    assert_eq!(read, CASES - 11);
}
