//! What one observer knew of a connection is known to the next, where nothing was missed in between.

mod support;

use agent_core::observation::Observation;
use agent_core::{Limits, Observer, SavedConnection};
use support::*;

/// A request that puts its fields into the table (RFC 7541 §6.2.1).
fn request_that_is_indexed(stream: u32) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in [
        (":path", "/shop.Orders/Place"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("authorization", "secret"),
    ] {
        block.extend([0x40, name.len() as u8]);
        block.extend(name.as_bytes());
        block.push(value.len() as u8);
        block.extend(value.as_bytes());
    }
    // :method POST, :scheme http.
    block.extend([0x83, 0x86]);
    frame(0x1, END_HEADERS, stream, &block)
}

/// The same request again: references alone.
fn request_that_refers(stream: u32) -> Vec<u8> {
    frame(0x1, END_HEADERS, stream, &[0x83, 0x86, 0xc1, 0xc0, 0xbf, 0xbe])
}

/// A connection on which a call was made, and what was saved of it, written down and read again.
fn watched() -> (Scenario, Vec<SavedConnection>) {
    let mut before = Scenario::connected();
    before.send(CLIENT, &request_that_is_indexed(1)).send(CLIENT, &data(1, END_STREAM, &message(3)));
    before.send(SERVER, &response(1)).send(SERVER, &trailers(1, "0")).wait(200);
    assert_eq!(before.calls().len(), 1);
    let written = serde_json::to_string(&before.observer.save().collect::<Vec<_>>()).unwrap();
    (before, serde_json::from_str(&written).unwrap())
}

/// The observer that comes after, at the same place of the connection.
fn after(before: &Scenario, saved: Vec<SavedConnection>) -> Scenario {
    let mut after = Scenario::new();
    (after.offsets, after.now) = (before.offsets, before.now.plus(1_000_000_000));
    after.observer.resume(saved, after.now);
    after
}

fn call(scenario: &mut Scenario, stream: u32) {
    scenario.send_at_boundary(CLIENT, &request_that_refers(stream));
    scenario.send(CLIENT, &data(stream, END_STREAM, &message(3)));
    scenario.send_at_boundary(SERVER, &response(stream)).send(SERVER, &trailers(stream, "0"));
    scenario.wait(200);
}

/// Methods of the calls, as far as they are known.
fn methods(scenario: &Scenario) -> Vec<Option<String>> {
    scenario.calls().iter().map(|call| call.method.as_deref().map(str::to_owned)).collect()
}

#[test]
fn fields_that_refer_to_what_was_sent_before_are_read_where_nothing_was_missed() {
    let (before, saved) = watched();
    let mut after = after(&before, saved);
    call(&mut after, 3);
    assert_eq!(methods(&after), [Some("/shop.Orders/Place".to_owned())]);
    assert_eq!((after.observer.resumed().taken_up, after.observer.resumed().missed), (2, 0));
    // It is as old as it was, and its directions are known.
    after.close();
    let summary = after.summary();
    assert_eq!(summary.opened, before.summary_opened());
    assert_eq!(summary.client_flow, Some(CLIENT));
}

#[test]
fn a_flow_of_which_something_was_missed_is_joined_in_the_middle() {
    let (before, saved) = watched();
    let mut after = after(&before, saved);
    after.lose(CLIENT, 25);
    call(&mut after, 3);
    assert_eq!(methods(&after), [None]);
    assert_eq!((after.observer.resumed().taken_up, after.observer.resumed().missed), (1, 1));
}

/// The kernel side counts the SYN of who opened a connection if it joins late.
#[test]
fn less_than_a_frame_cannot_have_been_missed() {
    for (missing, is_known) in [(1, true), (8, true), (9, false)] {
        let (before, saved) = watched();
        let mut after = after(&before, saved);
        after.lose(CLIENT, missing);
        call(&mut after, 3);
        assert_eq!(methods(&after)[0].is_some(), is_known, "{missing} bytes");
    }
}

#[test]
fn what_went_back_or_began_with_no_frame_is_joined_in_the_middle() {
    let (mut before, saved) = watched();
    before.offsets[0] -= 1;
    let mut after = after(&before, saved.clone());
    call(&mut after, 3);
    assert_eq!(after.observer.resumed().missed, 1);

    before.offsets[0] += 1;
    let mut after = self::after(&before, saved);
    after.send(CLIENT, &request_that_refers(3));
    assert_eq!(after.observer.resumed().missed, 1, "the kernel side does not say that a frame begins here");
}

#[test]
fn a_flow_in_the_middle_of_a_frame_or_of_a_header_block_is_not_saved() {
    let (mut before, _) = watched();
    before.send(SERVER, &data(3, 0, &message(100))[..50]);
    before.send(CLIENT, &frame(0x1, 0, 3, &[0x83]));
    assert_eq!(before.observer.save().count(), 0);
}

#[test]
fn a_flow_that_was_not_seen_again_is_saved_again() {
    let (before, saved) = watched();
    let mut second = after(&before, saved.clone());
    assert_eq!(second.observer.save().collect::<Vec<_>>(), saved, "neither flow was seen");
    second.send_at_boundary(CLIENT, &request_that_refers(3)).send(CLIENT, &data(3, END_STREAM, &message(3)));
    let saved: Vec<SavedConnection> = second.observer.save().collect();
    let mut third = self::after(&second, saved);
    call(&mut third, 5);
    assert_eq!(methods(&third), [Some("/shop.Orders/Place".to_owned())]);
    assert_eq!(third.observer.resumed().taken_up, 2);
}

#[test]
fn what_is_too_old_or_has_ended_or_is_too_much_is_forgotten() {
    let (before, saved) = watched();
    let idle_ns = Limits::default().connection_idle_ns;
    let mut observer = Observer::new(Limits::default());
    observer.resume(saved.clone(), before.now.plus(idle_ns));
    assert_eq!(observer.save().count(), 0, "it would have been given up as idle");

    observer.resume(saved.clone(), before.now);
    assert_eq!(observer.save().count(), 1);
    observer.handle_end(saved[0].connection, before.now);
    assert_eq!(observer.save().count(), 0, "it has ended");

    observer.resume(saved.clone(), before.now);
    observer.handle_timeout(before.now.plus(idle_ns));
    assert_eq!(observer.save().count(), 0, "it was not seen for too long");

    let mut none = Observer::new(Limits { connections: 0, ..Limits::default() });
    none.resume(saved, before.now);
    assert_eq!(none.save().count(), 0, "no more than may be followed");
}

impl Scenario {
    /// When the connection's first byte was seen.
    fn summary_opened(&self) -> agent_core::Timestamp {
        self.observer.save().next().expect("the connection is followed").opened
    }
}

#[test]
fn nothing_is_observed_of_a_connection_that_is_not_seen_again() {
    let (before, saved) = watched();
    let mut after = after(&before, saved);
    after.wait(10).finish();
    assert!(!after.seen.iter().any(|fact| matches!(fact, Observation::ConnectionEnded(_))));
}
