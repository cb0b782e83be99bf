//! Detectors that look at a client's connections together: pinned connections, starved backends.

mod world;

use agent_core::ConnectionId;
use agent_core::detectors::{Balanced, Claim, Claims, ProcessId, Value, Verdict};
use agent_core::observation::{GoawayReason, Intermediary, IntermediarySeen, Observation, Side, Sync};
use world::{B1, MS, Opened, PINNED, STARVED, World, client, server};

/// Another client with a connection to each of these, so that they are known as backends.
fn backends(world: &mut World, peers: &[&str]) {
    for peer in peers {
        world.open(client(99, peer));
    }
}

const B2: &str = "10.0.0.2:50051";
const B3: &str = "10.0.0.3:50051";

#[test]
fn a_client_with_one_connection_among_three_backends_is_pinned_until_it_spreads() {
    let mut world = World::new();
    let one = world.open(client(1, B1));
    backends(&mut world, &[B1, B2, B3]);
    world.run(180, |world| world.calls(one, 10));
    let first = world.said.first().cloned().expect("a finding");
    assert!(world.said.iter().all(|finding| finding.verdict == Verdict::Firing), "{:?}", world.said);
    assert_eq!(world.said.len(), 2, "once, and again with new numbers after a minute: {:?}", world.said);
    assert_eq!(first.about.owner.as_ref().map(|owner| owner.process), Some(ProcessId(1)));
    assert_eq!((first.about.connection, first.about.side), (Some(ConnectionId(one)), Some(Side::Client)));
    assert_eq!(first.about.peer.as_deref(), Some("shop:50051"));
    let Claim::Pinned(claim) = &first.claim else { panic!("{:?}", first.claim) };
    assert_eq!((claim.backends, claim.connections, claim.recycled), (3, 1, 0));
    assert_eq!((claim.calls, claim.busiest_calls), (600, 600));
    assert_eq!(claim.strategy.as_str(), "none");
    let mut ratio = None;
    claim
        .evidence(&mut |name, value| ratio = (name == "busiest_connection_ratio").then_some(value).or(ratio));
    assert_eq!(ratio, Some(Value::Ratio(1.0)));
    assert!(
        claim.to_string().starts_with("sent 100 % of 600 calls in 60.000 s over one connection"),
        "{claim}"
    );
    world.said.clear();

    let others = [world.open(client(1, B2)), world.open(client(1, B3))];
    world.run(60, |world| {
        for id in [one, others[0], others[1]] {
            world.calls(id, 10);
        }
    });
    assert_eq!(world.said(), [(PINNED, Verdict::Quiet, Some("single_address"))]);
}

#[test]
fn a_client_that_uses_one_of_its_connections_is_pinned_unevenly() {
    let mut world = World::new();
    let (one, two) = (world.open(client(1, B1)), world.open(client(1, B2)));
    world.run(70, |world| {
        world.calls(one, 8);
        world.calls(two, 2);
    });
    assert_eq!(world.said(), [(PINNED, Verdict::Firing, Some("uneven"))], "80 of 100, exactly");
}

#[test]
fn four_of_five_calls_are_needed() {
    let mut world = World::new();
    let (one, two) = (world.open(client(1, B1)), world.open(client(1, B2)));
    world.run(300, |world| {
        world.calls(one, 79);
        world.calls(two, 21);
    });
    assert_eq!(world.said(), []);
}

#[test]
fn a_hundred_calls_are_needed() {
    for (calls, expected) in [(99, 0), (100, 1)] {
        let mut world = World::new();
        let one = world.open(client(1, B1));
        backends(&mut world, &[B2]);
        world.run(62, |_| {});
        // One burst, which is then in the window for a minute.
        world.calls(one, calls);
        world.run(50, |_| {});
        assert_eq!(world.said().len(), expected, "{calls}");
    }
}

#[test]
fn one_backend_is_no_reason() {
    let mut world = World::new();
    let one = world.open(client(1, B1));
    backends(&mut world, &[B1]);
    world.run(290, |world| world.calls(one, 10));
    assert_eq!(world.said(), []);
    // Nobody knows if there are more; after five minutes that is worth a word, and no more.
    world.run(300, |world| world.calls(one, 10));
    let said = world.said();
    assert!(!said.is_empty() && said.len() <= 5, "{said:?}");
    assert!(said.iter().all(|said| *said == (PINNED, Verdict::Undecided, Some("suspected"))), "{said:?}");
}

#[test]
fn round_robin_is_silent() {
    let mut world = World::new();
    let ids = [B1, B2, B3].map(|peer| world.open(client(1, peer)));
    world.run(600, |world| ids.iter().for_each(|id| world.calls(*id, 5)));
    assert_eq!(world.said(), []);
    let spread = world.detectors.spreads().first().expect("its numbers are there").clone();
    assert_eq!((spread.calls, spread.busiest_calls, spread.connections, spread.backends), (900, 300, 3, 3));
    assert_eq!(spread.balanced, Balanced::SeveralConnections);
    assert!(spread.oldest_ns >= 594_000 * MS);
}

#[test]
fn calls_of_the_infrastructure_do_not_count() {
    let mut world = World::new();
    let one = world.open(client(1, B1));
    backends(&mut world, &[B2]);
    world.run(120, |world| world.calls_to(one, 10, Some("/grpc.health.v1.Health/Check")));
    assert_eq!(world.said(), []);
}

#[test]
fn calls_of_unknown_methods_count() {
    let mut world = World::new();
    let one = world.open(client(1, B1));
    backends(&mut world, &[B2]);
    world.run(70, |world| world.calls_to(one, 10, None));
    assert_eq!(world.said(), [(PINNED, Verdict::Firing, Some("single_address"))]);
}

#[test]
fn a_connection_that_was_joined_late_leaves_it_undecided() {
    for authority in [None, Some("shop:50051")] {
        let mut world = World::new();
        let one = world.open(Opened { authority, sync: Sync::Late, ..client(1, B1) });
        backends(&mut world, &[B2, B3]);
        world.run(120, |world| world.calls(one, 10));
        let said = world.said();
        assert!(!said.is_empty());
        assert!(
            said.iter().all(|(name, verdict, _)| (*name, *verdict) == (PINNED, Verdict::Undecided)),
            "{said:?}"
        );
    }
}

#[test]
fn round_robin_that_was_joined_late_is_silent() {
    let mut world = World::new();
    let late = |peer| Opened { authority: None, sync: Sync::Late, ..client(1, peer) };
    let ids = [B1, B2, B3].map(|peer| world.open(late(peer)));
    world.run(600, |world| ids.iter().for_each(|id| world.calls(*id, 5)));
    assert_eq!(world.said(), []);
}

#[test]
fn a_hole_leaves_it_undecided() {
    let mut world = World::new();
    let one = world.open(client(1, B1));
    // What its other connection carries is not all known any more.
    let two = world.open(client(1, B2));
    world.sync(two, Sync::Desynced);
    world.run(70, |world| world.calls(one, 10));
    assert_eq!(world.said(), [(PINNED, Verdict::Undecided, Some("uneven"))]);
}

#[test]
fn a_finding_ends_when_a_hole_makes_it_undecided() {
    let mut world = World::new();
    let one = world.open(client(1, B1));
    backends(&mut world, &[B2]);
    world.run(70, |world| world.calls(one, 10));
    assert_eq!(world.said(), [(PINNED, Verdict::Firing, Some("single_address"))]);
    world.sync(one, Sync::Desynced);
    world.run(10, |world| world.calls(one, 10));
    let cause = Some("single_address");
    assert_eq!(world.said(), [(PINNED, Verdict::Quiet, cause), (PINNED, Verdict::Undecided, cause)]);
}

#[test]
fn calls_to_who_knows_whom_may_be_to_the_same_destination() {
    let mut world = World::new();
    let one = world.open(client(1, B1));
    let other = world.open(Opened { authority: None, sync: Sync::Late, ..client(1, B2) });
    backends(&mut world, &[B2]);
    world.run(70, |world| {
        world.calls(one, 10);
        world.calls(other, 10);
    });
    let said = world.said();
    assert!(said.contains(&(PINNED, Verdict::Undecided, Some("single_address"))), "{said:?}");
    assert!(said.iter().all(|(_, verdict, _)| *verdict == Verdict::Undecided), "{said:?}");
}

#[test]
fn behind_a_proxy_for_calls_one_connection_is_right() {
    let mut world = World::new();
    let one = world.open(client(1, B1));
    backends(&mut world, &[B2, B3]);
    let seen = IntermediarySeen { connection: ConnectionId(one), kind: Intermediary::Envoy, time: world.now };
    world.see(Observation::Intermediary(seen));
    world.run(600, |world| world.calls(one, 10));
    assert_eq!(world.said(), []);
}

#[test]
fn a_process_that_hands_calls_on_is_a_proxy() {
    let mut world = World::new();
    // Process 7 accepts at 10.0.0.1 and asks two others for the same destination.
    let proxy = "10.0.0.1:50051";
    let one = world.open(client(1, proxy));
    world.open(Opened { workload: "proxy", ..server(7, proxy) });
    let ids = [B2, B3].map(|peer| world.open(client(7, peer)));
    world.run(600, |world| {
        world.calls(one, 10);
        ids.iter().for_each(|id| world.calls(*id, 5));
    });
    assert_eq!(world.said(), []);
}

#[test]
fn draining_connections_are_silent() {
    let mut world = World::new();
    let one = world.open(client(1, B1));
    backends(&mut world, &[B1, B2]);
    world.run(50, |world| world.calls(one, 10));
    world.goaway(one, GoawayReason::MaxAge);
    world.run(100, |world| world.calls(one, 10));
    assert_eq!(world.said(), []);
}

#[test]
fn connections_that_are_recycled_are_silent() {
    let mut world = World::new();
    backends(&mut world, &[B1, B2]);
    for turn in 0..12 {
        let one = world.open(client(1, if turn % 2 == 0 { B1 } else { B2 }));
        world.run(30, |world| world.calls(one, 10));
        world.goaway(one, GoawayReason::MaxAge);
        world.answer(one);
        world.end(one);
    }
    assert_eq!(world.said(), []);
}

#[test]
fn a_backend_that_went_away_is_none() {
    let mut world = World::new();
    let one = world.open(client(1, B1));
    let old = world.open(client(1, B2));
    world.run(5, |world| world.calls(old, 10));
    world.goaway(old, GoawayReason::Graceful);
    world.run(5, |_| {});
    world.answer(old);
    world.end(old);
    world.run(200, |world| world.calls(one, 10));
    assert_eq!(world.said(), []);
}

#[test]
fn a_client_is_not_judged_before_a_window_has_passed() {
    let mut world = World::new();
    backends(&mut world, &[B1, B2]);
    world.run(100, |_| {});
    let one = world.open(client(1, B1));
    world.run(55, |world| world.calls(one, 100));
    let two = world.open(client(1, B2));
    world.run(5, |world| world.calls(two, 1_500));
    assert_eq!(world.said(), []);
}

#[test]
fn localhost_is_another_place_for_each_client() {
    let mut world = World::new();
    let local = |process, peer| Opened { authority: Some("localhost:50051"), ..client(process, peer) };
    let one = world.open(local(1, "127.0.0.1:50051"));
    world.open(local(2, "127.0.0.2:50051"));
    world.run(200, |world| world.calls(one, 10));
    assert_eq!(world.said(), []);
}

#[test]
fn a_connection_of_several_destinations_is_nobodys() {
    let mut world = World::new();
    let one = world.open(client(1, B1));
    world.authority(one, "other:50051");
    backends(&mut world, &[B2]);
    world.run(120, |world| world.calls(one, 10));
    assert!(world.said().iter().all(|(_, verdict, _)| *verdict == Verdict::Undecided));
}

#[test]
fn a_pinned_client_that_exits_is_told_to_have_ended() {
    let mut world = World::new();
    let one = world.open(client(1, B1));
    backends(&mut world, &[B2]);
    world.run(70, |world| world.calls(one, 10));
    world.said.clear();
    world.end(one);
    world.run(10, |_| {});
    assert_eq!(world.said(), [(PINNED, Verdict::Quiet, Some("single_address"))]);
}

#[test]
fn strategies_are_named_by_what_the_process_listens_to() {
    for (method, name) in [
        ("/grpc.lb.v1.LoadBalancer/BalanceLoad", "lookaside"),
        ("/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources", "xds"),
    ] {
        let mut world = World::new();
        let one = world.open(client(1, B1));
        backends(&mut world, &[B2]);
        let control = world.open(Opened { authority: Some("control:443"), ..client(1, "10.0.5.5:443") });
        world.calls_to(control, 1, Some(method));
        world.run(70, |world| world.calls(one, 10));
        let Claim::Pinned(claim) = &world.said.first().expect("a finding").claim else { panic!() };
        assert_eq!(claim.strategy.as_str(), name);
    }
}

#[test]
fn a_backend_that_was_added_later_starves() {
    let mut world = World::new();
    let busy = [B1, B2].map(|local| world.open(server(if local == B1 { 11 } else { 12 }, local)));
    world.run(100, |world| busy.iter().for_each(|id| world.calls(*id, 5)));
    assert_eq!(world.said(), []);
    let new = world.open(server(13, B3));
    world.calls_to(new, 1, Some("/grpc.health.v1.Health/Check"));
    world.run(59, |world| busy.iter().for_each(|id| world.calls(*id, 5)));
    assert_eq!(world.said(), [], "it may still get one");
    world.run(11, |world| busy.iter().for_each(|id| world.calls(*id, 5)));
    let finding = world.said.first().cloned().expect("a finding");
    assert_eq!(world.said(), [(STARVED, Verdict::Firing, Some("unused_connections"))]);
    assert_eq!(finding.about.owner.as_ref().map(|owner| owner.process), Some(ProcessId(13)));
    assert_eq!(finding.about.side, Some(Side::Server));
    let Claim::Starved(claim) = &finding.claim else { panic!("{finding:?}") };
    assert_eq!((claim.siblings, claim.sibling_calls, claim.connections), (2, 600, 1));
    assert!(claim.sibling_age_ns > claim.age_ns, "their connections are older than the backend");
    world.calls(new, 1);
    world.run(10, |world| busy.iter().for_each(|id| world.calls(*id, 5)));
    assert_eq!(world.said(), [(STARVED, Verdict::Quiet, Some("unused_connections"))]);
}

#[test]
fn a_backend_with_few_busy_siblings_does_not_starve() {
    // 99 calls a minute of a sibling; calls of another workload, or by another name; one call of its own.
    let cases: [(&str, &str, u32, u32); 4] = [
        ("shop", "shop:50051", 99, 0),
        ("cart", "shop:50051", 600, 0),
        ("shop", "cart:50051", 600, 0),
        ("shop", "shop:50051", 600, 1),
    ];
    for (workload, authority, calls, own) in cases {
        let mut world = World::new();
        let busy = world.open(Opened { workload, authority: Some(authority), ..server(11, B1) });
        let idle = world.open(server(12, B2));
        for _ in 0..5 {
            world.calls(busy, calls);
            world.run(59, |_| {});
            world.calls(idle, own);
            world.run(1, |_| {});
        }
        assert_eq!(world.said(), [], "{workload} {authority} {calls} {own}");
    }
}

#[test]
fn a_backend_that_drains_does_not_starve() {
    let mut world = World::new();
    let busy = world.open(server(11, B1));
    let idle = world.open(server(12, B2));
    world.goaway(idle, GoawayReason::GracefulNotice);
    world.run(200, |world| world.calls(busy, 10));
    assert_eq!(world.said(), []);
}

#[test]
fn a_backend_whose_connection_was_joined_late_or_lost_bytes_may_starve() {
    for sync in [Sync::Late, Sync::Desynced] {
        let mut world = World::new();
        let busy = world.open(server(11, B1));
        world.open(Opened { sync, ..server(12, B2) });
        world.run(70, |world| world.calls(busy, 10));
        assert_eq!(world.said(), [(STARVED, Verdict::Undecided, Some("unused_connections"))]);
    }
}

#[test]
fn a_client_cannot_say_what_others_send() {
    let mut world = World::new();
    let ids = [B1, B2].map(|peer| world.open(client(1, peer)));
    world.open(client(1, B3));
    world.run(70, |world| ids.iter().for_each(|id| world.calls(*id, 5)));
    assert_eq!(world.said(), [(STARVED, Verdict::Undecided, Some("other_clients_unseen"))]);
}

#[test]
fn what_is_remembered_is_bounded() {
    let mut world = World::new();
    for process in 0..10_000 {
        let id = world.open(Opened { authority: None, ..client(process, B1) });
        world.end(id);
        let id = world.open(client(process, B1));
        world.calls(id, 1);
        world.end(id);
        let id = world.open(server(process, B1));
        world.end(id);
    }
    assert!(world.detectors.groups_refused() > 0);
    world.run(70, |_| {});
    assert_eq!(world.said(), []);
    assert!(world.detectors.spreads().is_empty() && world.detectors.served().is_empty());
    // And there is room again.
    let one = world.open(client(1, B1));
    backends(&mut world, &[B2]);
    world.run(70, |world| world.calls(one, 10));
    assert_eq!(world.said(), [(PINNED, Verdict::Firing, Some("single_address"))]);
}
