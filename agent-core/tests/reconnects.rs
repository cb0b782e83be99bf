//! Storms of connections that are of no use.

mod world;

use agent_core::detectors::Verdict;
use agent_core::observation::{GoawayReason, Outcome, Sync};
use world::{B1, Opened, STORM, World, client};

/// Connects, is closed after 10 ms without an answer, and connects again after `wait_ms`.
fn connect_in_vain(world: &mut World, times: u32, wait_ms: u64) {
    for _ in 0..times {
        let id = world.open(Opened { authority: None, ..client(1, B1) });
        world.wait_ms(10);
        world.end(id);
        world.wait_ms(wait_ms);
    }
}

#[test]
fn a_client_that_connects_every_second_makes_a_storm() {
    let mut world = World::new();
    connect_in_vain(&mut world, 30, 990);
    assert_eq!(world.said(), [(STORM, Verdict::Firing, None)]);
    world.run(15, |_| {});
    assert_eq!(world.said(), [(STORM, Verdict::Quiet, None)]);
    world.run(70, |_| {});
    assert_eq!(world.said(), []);
}

#[test]
fn a_client_with_the_backoff_of_grpc_makes_none() {
    // Always the shortest wait that the jitter allows.
    let mut world = World::new();
    for _ in 0..5 {
        let mut wait_ms = 800.0;
        for _ in 0..10 {
            connect_in_vain(&mut world, 1, wait_ms as u64);
            wait_ms *= 1.6;
        }
        world.run(130, |_| {});
    }
    assert_eq!(world.said(), []);
}

#[test]
fn many_channels_with_the_backoff_of_grpc_make_none() {
    let mut world = World::new();
    let mut wait_ms = 800.0;
    for _ in 0..9 {
        for _ in 0..20 {
            let id = world.open(Opened { authority: None, ..client(1, B1) });
            world.end(id);
        }
        world.wait_ms(wait_ms as u64);
        wait_ms *= 1.6;
    }
    assert_eq!(world.said(), []);
}

#[test]
fn connections_that_stay_worked_or_were_recycled_make_none() {
    let mut world = World::new();
    for _ in 0..100 {
        // Stays.
        world.open(client(1, B1));
        // Worked.
        let id = world.open(client(1, B1));
        world.calls(id, 1);
        world.answer(id);
        world.end(id);
        // Was recycled.
        let id = world.open(client(1, B1));
        world.goaway(id, GoawayReason::MaxIdle);
        world.end(id);
        // Was given up by the agent.
        let id = world.open(client(1, B1));
        world.end_as(id, false);
        // Was joined late, so that nobody knows when it began.
        let id = world.open(Opened { sync: Sync::Late, ..client(1, B1) });
        world.end(id);
        world.wait_ms(100);
    }
    assert_eq!(world.said(), []);
}

/// The answers were in a flow that was not seen: short connections that worked were taken for attempts that failed.
#[test]
fn connections_on_which_something_may_have_been_answered_make_none() {
    let mut world = World::new();
    for _ in 0..100 {
        let id = world.open(client(1, B1));
        world.calls(id, 1);
        world.end_call(id, Outcome::Unknown);
        world.end(id);
        world.wait_ms(100);
    }
    assert_eq!(world.said(), []);
}

#[test]
fn nine_attempts_are_no_storm() {
    let mut world = World::new();
    connect_in_vain(&mut world, 9, 100);
    world.run(5, |_| {});
    assert_eq!(world.said(), []);
}
