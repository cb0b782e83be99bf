//! Records out of order (T11) and times out of order (T17): the same result, or a gap that is counted; never a
//! wrong one.

use std::collections::BTreeMap;

use agent_core::observation::{Call, ConnectionSummary};
use agent_core::{Chunk, ConnectionId, Flow, Limits, Observation, Observer, Timestamp};
use proptest::prelude::*;

use crate::wire::*;

/// A record: a piece of one flow at its place in it, and when it was seen.
#[derive(Clone, Debug)]
struct Record {
    flow: Flow,
    offset: u64,
    time: u64,
    bytes: Vec<u8>,
}

const METHODS: [&str; 3] = ["/a.B/One", "/a.B/Two", "/a.B/Three"];

/// Method and status that stream `2 * number + 1` really has.
fn truth(number: usize) -> (&'static str, u32) {
    (METHODS[number % 3], [0, 5, 14][number % 3])
}

/// A conversation of `calls` calls whose headers use the dynamic table, a record for each frame.
fn conversation(calls: usize) -> Vec<Record> {
    let mut records = Vec::new();
    let mut offsets = [0u64; 2];
    let mut push = |flow: Flow, bytes: Vec<u8>| {
        let offset = &mut offsets[usize::from(flow == SERVER)];
        let time = 1_000_000 * (1 + records.len() as u64);
        records.push(Record { flow, offset: *offset, time, bytes });
        *offset += records[records.len() - 1].bytes.len() as u64;
    };
    let settings = frame(SETTINGS, 0, 0, &[]);
    push(CLIENT, [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &settings].concat());
    push(SERVER, settings);
    for number in 0..calls {
        let stream = 2 * number as u32 + 1;
        let (method, status) = truth(number);
        let mut block = vec![0x83, 0x86];
        block.extend(literal(0x40, b":path", method.as_bytes()));
        block.extend(literal(0x40, b"content-type", b"application/grpc"));
        push(CLIENT, frame(HEADERS, END_HEADERS, stream, &block));
        push(CLIENT, frame(DATA, END_STREAM, stream, &[0, 0, 0, 0, 3, 1, 2, 3]));
        let mut block = vec![0x88];
        block.extend(literal(0x40, b"content-type", b"application/grpc"));
        push(SERVER, frame(HEADERS, END_HEADERS, stream, &block));
        push(SERVER, frame(DATA, 0, stream, &[0, 0, 0, 0, 2, 1, 2]));
        let trailer = literal(0x40, b"grpc-status", status.to_string().as_bytes());
        push(SERVER, frame(HEADERS, END_HEADERS | END_STREAM, stream, &trailer));
    }
    records
}

fn observe(records: &[Record]) -> (Vec<Call>, ConnectionSummary, u64) {
    let mut observer = Observer::new(Limits::default());
    let mut latest = 0;
    let (mut calls, mut summary, mut started) = (Vec::new(), None, 0);
    for record in records {
        latest = latest.max(record.time);
        observer.handle_chunk(Chunk {
            connection: ConnectionId(0),
            flow: record.flow,
            offset: record.offset,
            time: Timestamp(record.time),
            boundary: true,
            thread: 0,
            bytes: &record.bytes,
        });
    }
    observer.finish(Timestamp(latest));
    while let Some(fact) = observer.poll_observation() {
        match fact {
            Observation::CallStarted(_) => started += 1,
            Observation::CallEnded(call) => calls.push(*call),
            Observation::ConnectionEnded(end) => summary = Some(*end),
            _ => {}
        }
    }
    calls.sort_by_key(|call| call.stream);
    (calls, summary.expect("the connection ends"), started)
}

/// What a call says apart from its times.
fn facts(calls: &[Call]) -> Vec<String> {
    calls
        .iter()
        .map(|call| {
            let Call { stream, method, outcome, status, request, response, .. } = call;
            format!("{stream} {method:?} {outcome:?} {status:?} {request:?} {response:?}")
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn t11_shuffled_records_give_the_same_or_a_counted_gap(
        calls in 1..12usize,
        swaps in prop::collection::vec((any::<prop::sample::Index>(), 1..6usize), 0..6),
    ) {
        let ordered = conversation(calls);
        let (expected, ..) = observe(&ordered);
        prop_assert_eq!(expected.len(), calls);
        let mut shuffled = ordered.clone();
        for (at, by) in swaps {
            let at = at.index(shuffled.len());
            let to = (at + by).min(shuffled.len() - 1);
            shuffled[at..=to].rotate_left(1);
        }
        let (seen, summary, started) = observe(&shuffled);
        prop_assert_eq!(started, seen.len() as u64, "M3");
        let in_order = |flow| {
            let order = |records: &[Record]| -> Vec<u64> {
                records.iter().filter(|record| record.flow == flow).map(|record| record.offset).collect()
            };
            order(&shuffled) == order(&ordered)
        };
        let holes: u64 = summary.flows.iter().map(|flow| flow.hole_bytes).sum();
        // A flow whose first record was not the first to be seen is joined late, which is a state of its own.
        let joined_late = [CLIENT, SERVER].iter().any(|flow| {
            shuffled.iter().find(|record| record.flow == *flow).is_some_and(|record| record.offset > 0)
        });
        prop_assert!(in_order(CLIENT) && in_order(SERVER) || holes > 0 || joined_late, "a gap is counted");
        if facts(&seen) != facts(&expected) && in_order(CLIENT) && in_order(SERVER) {
            // Between the flows the order may differ by what is in flight; that changes no call's facts but for
            // responses without their request.
            prop_assert!(seen.len() <= expected.len());
        }
        for call in &seen {
            let (method, status) = truth(call.stream as usize / 2);
            prop_assert!(call.method.as_deref().is_none_or(|seen| seen == method), "T10: {:?}", call);
            let said = call.status.filter(|_| call.status_source != agent_core::observation::StatusSource::Rst);
            prop_assert!(said.is_none_or(|seen| seen == status), "T10: {:?}", call);
        }
    }

    #[test]
    fn t17_times_in_any_order_change_no_facts_and_no_duration_is_negative(
        calls in 1..12usize,
        times in prop::collection::vec(any::<u64>(), 62),
        small in any::<bool>(),
    ) {
        let ordered = conversation(calls);
        let mut disordered = ordered.clone();
        for (record, time) in disordered.iter_mut().zip(&times) {
            // Clocks of CPUs that disagree by a little, or times that mean nothing at all.
            record.time = if small { record.time + time % 5_000_000 } else { *time };
        }
        let given: Vec<u64> = disordered.iter().map(|record| record.time).collect();
        let (seen, _, started) = observe(&disordered);
        prop_assert_eq!(started, seen.len() as u64, "M3");
        for call in &seen {
            let at = [Some(call.first_seen), call.started, call.first_response, call.ended];
            for time in at.into_iter().flatten() {
                prop_assert!(given.contains(&time.0), "a time that nobody gave: {:?}", call);
            }
            if let (Some(started), Some(ended)) = (call.started, call.ended) {
                prop_assert!(ended.since(started) <= given.iter().max().unwrap() - given.iter().min().unwrap());
            }
        }
        if small {
            let (expected, ..) = observe(&ordered);
            prop_assert_eq!(facts(&seen), facts(&expected));
        }
    }
}

#[test]
fn t17_a_time_before_another_is_no_time_after_it() {
    assert_eq!(Timestamp(5).since(Timestamp(9)), 0);
    assert_eq!(Timestamp(u64::MAX).plus(1), Timestamp(u64::MAX));
    let by_name: BTreeMap<_, _> = (0..3).map(truth).collect();
    assert_eq!(by_name.len(), 3, "the conversation tells its calls apart");
}
