//! Many connections with many streams (T7, T19): memory follows the budget, and what is given up is counted.

use std::process::Command;

use agent_core::Limits;

use crate::memory;
use crate::wire::*;

const MIB: usize = 1024 * 1024;

/// 100,000 connections with 100 open calls each. Returns what was counted, and the largest growth in bytes.
fn load(state_bytes: usize) -> (Feeder, isize) {
    let mut feeder = Feeder::new(Limits { state_bytes, ..Limits::default() });
    let calls: Vec<u8> = (0..100u32).flat_map(|number| request(2 * number + 1, "/a.B/C")).collect();
    let growth = memory::growth_during(|| {
        for connection in 0..100_000 {
            feeder.now = feeder.now.plus(1_000);
            feeder.open(connection, &calls);
            assert!(feeder.observer.state_bytes() <= state_bytes);
        }
    });
    (feeder, growth)
}

/// Every connection that is gone was counted as evicted, and every call that began has ended.
fn conservation_holds(feeder: &mut Feeder) {
    let evicted = feeder.said.anomalies("memory_limit") + feeder.said.anomalies("connections_limit");
    assert!(evicted > 0);
    assert_eq!(evicted, feeder.said.connections_ended, "each eviction is counted");
    assert_eq!(evicted + feeder.observer.connections() as u64, 100_000);
    assert_eq!(feeder.said.started, 10_000_000);
    assert_eq!(feeder.said.ended, 100 * evicted, "calls of evicted connections have ended");
    feeder.finish();
    assert_eq!(feeder.said.ended, 10_000_000, "M3: started = ended");
    assert_eq!(feeder.said.connections_ended, 100_000);
}

#[test]
fn t7_a_hundred_thousand_connections_stay_within_the_budget() {
    const BUDGET: usize = 64 * MIB;
    let (mut feeder, growth) = load(BUDGET);
    println!(
        "T7: {growth} bytes at the most for a budget of {BUDGET}, {} counted, {} connections followed, {} evicted",
        feeder.observer.state_bytes(),
        feeder.observer.connections(),
        feeder.said.anomalies("memory_limit")
    );
    assert!(growth <= (BUDGET + BUDGET / 10) as isize, "{growth}");
    // The count is not a guess that is far too high: what it says is held is held.
    assert!(growth >= (BUDGET / 2) as isize, "{growth}");
    conservation_holds(&mut feeder);
}

#[test]
fn t7_the_connection_idle_for_longest_goes_first() {
    let mut feeder = Feeder::new(Limits { connections: 3, ..Limits::default() });
    for connection in 0..3 {
        feeder.wait(1_000);
        feeder.open(connection, &request(1, "/a.B/C"));
    }
    feeder.wait(1_000);
    // The oldest one speaks again, so that the second is idle for longest.
    feeder.send_on(0, SERVER, 0, &frame(SETTINGS, 0, 0, &[]));
    feeder.wait(1_000);
    feeder.open(3, &[]);
    assert_eq!((feeder.said.connections_ended, feeder.said.ended), (1, 1));
    let offset = (24 + 9 + request(1, "/a.B/C").len()) as u64;
    // The call of the first connection can still end: it was not the one that went.
    feeder.send_on(0, CLIENT, offset, &frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]));
    assert_eq!(feeder.said.ended, 2);
    feeder.send_on(2, CLIENT, offset, &frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]));
    assert_eq!(feeder.said.ended, 3);
}

#[test]
fn t7_connections_that_come_and_go_leave_nothing() {
    let mut feeder = Feeder::new(Limits::default());
    let mut connection = 0;
    let mut churn = |feeder: &mut Feeder, connections: u64| {
        for _ in 0..connections {
            feeder.open(connection, &request(1, "/a.B/C"));
            feeder.end(connection);
            feeder.wait(1_000_000);
            connection += 1;
        }
    };
    churn(&mut feeder, 5_000);
    let growth = memory::growth_during(|| churn(&mut feeder, 300_000));
    println!("T7, churn: {growth} bytes of growth over 300,000 connections");
    // They are kept for 100 ms after their end: a hundred at once. The line and the timers of the others go.
    assert!(growth <= MIB as isize, "{growth}");
    feeder.finish();
    assert_eq!((feeder.said.started, feeder.said.ended), (305_000, 305_000));
}

#[test]
fn t7_timers_of_streams_that_were_uncertain_and_ended_do_not_pile_up() {
    let mut feeder = Feeder::connected();
    let mut stream = 1;
    let mut round = |feeder: &mut Feeder| {
        feeder.send(CLIENT, &request(stream, "/a.B/C"));
        // A message that is longer than its frame, whose end is lost with the boundary; found again at once.
        feeder.lose(SERVER, 1);
        feeder.send(SERVER, &[frame(PING, 0, 0, &[0; 8]), frame(PING, 0, 0, &[0; 8])].concat());
        feeder.send(CLIENT, &frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]));
        stream += 2;
    };
    (0..2_000).for_each(|_| round(&mut feeder));
    let growth = memory::growth_during(|| (0..200_000).for_each(|_| round(&mut feeder)));
    println!("T7, uncertain: {growth} bytes of growth");
    assert!(growth <= 256 * 1024, "{growth}");
    assert!(feeder.said.anomalies("boundary_lost") > 200_000);
}

/// Set in the child process of the test below.
const CHILD: &str = "GRPCSCOPE_TEST_T19_CHILD";

#[test]
fn t19_under_a_limit_of_64_mb_the_load_is_survived_and_evictions_are_counted() {
    if std::env::var_os(CHILD).is_some() {
        let (mut feeder, _) = load(24 * MIB);
        conservation_holds(&mut feeder);
        println!("T19: alive, {} evicted", feeder.said.anomalies("memory_limit"));
        return;
    }
    // An allocation that fails aborts the process, so the load runs in one of its own, with 64 MB of data at most.
    let program = std::env::current_exe().expect("this program has a path");
    let child = Command::new("sh")
        .args(["-c", "ulimit -d 65536 && exec \"$0\" \"$@\""])
        .arg(program)
        .args(["--exact", "load::t19_under_a_limit_of_64_mb_the_load_is_survived_and_evictions_are_counted"])
        .args(["--nocapture", "--test-threads=1"])
        .env(CHILD, "1")
        .output()
        .expect("start a child process");
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success(), "{}\n{said}\n{}", child.status, String::from_utf8_lossy(&child.stderr));
    assert!(said.contains("T19: alive"), "{said}");
    print!("{said}");
}

#[test]
fn t19_a_budget_below_one_connection_gives_up_everything_and_goes_on() {
    let mut feeder = Feeder::new(Limits { state_bytes: 100, ..Limits::default() });
    for connection in 0..1_000 {
        feeder.open(connection, &request(1, "/a.B/C"));
    }
    assert_eq!(feeder.observer.connections(), 0);
    assert_eq!(feeder.said.anomalies("memory_limit"), 1_000);
    assert_eq!((feeder.said.started, feeder.said.ended), (1_000, 1_000));
}
