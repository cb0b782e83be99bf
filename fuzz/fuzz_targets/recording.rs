//! Packet captures: container, dissection and TCP reassembly, into an observer.
#![no_main]

/// The agent's own files, without the agent's other dependencies (Cargo.toml).
#[path = "../../agent/src/capture/recording/mod.rs"]
#[expect(dead_code, unreachable_pub, unused_imports, reason = "files are not opened here")]
mod recording;

use std::collections::HashSet;

use agent_core::{Limits, Observer, Timestamp};
use libfuzzer_sys::fuzz_target;
use recording::{Container, Event, Tracker};

fuzz_target!(|data: &[u8]| fuzz::within_time(|| check(data)));

fn check(data: &[u8]) {
    let Ok(mut container) = Container::open(data) else { return };
    let mut tracker = Tracker::new(0);
    let mut observer = Observer::new(Limits { connections: 8, ..Limits::default() });
    let mut open = HashSet::new();
    let mut ended = HashSet::new();
    let mut now = Timestamp(0);
    let mut bytes = 0;
    let mut handle = |event: Event<'_>, observer: &mut Observer| {
        match event {
            Event::Opened { connection, .. } => assert!(open.insert(connection), "numbered once"),
            Event::Updated { connection, .. } => assert!(open.contains(&connection)),
            Event::Chunk(chunk) => {
                assert!(open.contains(&chunk.connection) && !ended.contains(&chunk.connection));
                bytes += chunk.bytes.len();
                now = now.max(chunk.time);
                observer.handle_chunk(chunk);
            }
            Event::Closed { connection, time, .. } => observer.handle_close(connection, time),
            Event::Ended { connection, time } => {
                assert!(ended.insert(connection), "a connection ends once");
                observer.handle_end(connection, time);
            }
        }
        while observer.poll_observation().is_some() {}
    };
    loop {
        match container.next_packet() {
            Ok(Some(packet)) => tracker.handle_packet(&packet, &mut |event| handle(event, &mut observer)),
            Ok(None) | Err(_) => break,
        }
    }
    let _ = tracker.finish(&mut |event| handle(event, &mut observer));
    assert!(bytes <= data.len(), "{bytes} octets of payload out of {}", data.len());
    observer.finish(now);
    assert_eq!(observer.connections(), 0);
}
