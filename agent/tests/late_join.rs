//! What is still known of connections that are joined after a third of their packets (checklist H11).

mod corpora;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use agent::capture::recording::{Container, Event, Tracker, source};
use agent_core::observation::Call;
use agent_core::{Limits, Observation, Observer, Timestamp};

/// Calls by stream, when the first `skipped` packets of the recording are left out; and the number of its packets.
fn calls(recording: &Path, skipped: usize) -> (BTreeMap<u32, Call>, usize) {
    let file = BufReader::new(File::open(recording).expect("it can be opened"));
    let mut bytes = Vec::new();
    source::decompress(file).expect("gzip or plain").read_to_end(&mut bytes).expect("it can be read");
    let mut container = Container::open(bytes.as_slice()).expect("it is a recording");
    let mut tracker = Tracker::new(0);
    let mut observer = Observer::new(Limits::default());
    let mut calls = BTreeMap::new();
    let mut packets = 0;
    let mut latest = Timestamp(0);
    let handle = |observer: &mut Observer, event: Event<'_>| match event {
        Event::Chunk(chunk) => observer.handle_chunk(chunk),
        Event::Closed { connection, time, .. } => observer.handle_close(connection, time),
        Event::Ended { connection, time } => observer.handle_end(connection, time),
        Event::Opened { .. } | Event::Updated { .. } => {}
    };
    while let Some(packet) = container.next_packet().expect("it is whole") {
        packets += 1;
        if packets > skipped {
            latest = packet.time;
            tracker.handle_packet(&packet, &mut |event| handle(&mut observer, event));
        }
    }
    tracker.finish(&mut |event| handle(&mut observer, event));
    observer.finish(latest);
    while let Some(fact) = observer.poll_observation() {
        if let Observation::CallEnded(call) = fact {
            calls.insert(call.stream, *call);
        }
    }
    (calls, packets)
}

#[test]
fn h11_after_a_late_join_names_are_known_as_far_as_the_encoder_allows_and_never_wrong() {
    let Some(corpora) = corpora::corpora() else { return };
    // grpc-js never indexes `:path`; C-core indexes whatever it can.
    for (name, shares) in [("grpcjs_mixed", 1.0..=1.0), ("grpcio_mixed", 0.0..=0.2)] {
        let recording = corpora.join("live").join(format!("{name}.pcap.gz"));
        let (whole, packets) = calls(&recording, 0);
        let (late, _) = calls(&recording, packets / 3);
        let later: Vec<&Call> = late.values().filter(|call| call.started.is_some()).collect();
        assert!(later.len() > 100, "{name}: only {} calls", later.len());
        let mut named = 0;
        for call in &later {
            let truth = &whole[&call.stream];
            if call.method.is_some() {
                assert_eq!(call.method, truth.method, "{name}, stream {}", call.stream);
                named += 1;
            }
            // Start, end and messages do not depend on names.
            assert_eq!(
                (call.started, call.ended),
                (truth.started, truth.ended),
                "{name}, stream {}",
                call.stream
            );
            assert_eq!((call.request, call.response), (truth.request, truth.response));
            assert!(call.status.is_none() || call.status == truth.status, "{name}, stream {}", call.stream);
        }
        let share = f64::from(named) / later.len() as f64;
        println!("{name}: {named} of {} names after the join", later.len());
        assert!(shares.contains(&share), "{name}: {share}");
    }
}
