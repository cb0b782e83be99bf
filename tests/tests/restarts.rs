//! Starting and stopping leaves nothing: not in the kernel, not in the process, and not with those who are watched.
//! `GRPCSCOPE_RESTARTS=200` makes it two hundred times; by itself it is few, since each start costs the verifier's work.
//!
//! One test alone in this file: it counts its own descriptors. Minimum kernel: Linux 6.3 (tp_btf).

use std::time::{Duration, Instant};

use agent::capture::kernel::{Backend, BackendChoice, KernelCapture, Options};
use tests::agent::{Kernel, Run, Watch};
use tests::apps::{Client, Implementation, Pace, Server};
use tests::busy::Busy;
use tests::kernel_objects::Objects;
use tests::truth::Outcome;
use tests::{plan, workspace};

const RESTARTS: usize = 10;
/// Calls that a client makes in the time of a restart.
const CALLS_OF_A_RESTART: usize = 100;

/// What this process has open and in use.
#[derive(Clone, Copy, Debug)]
struct Usage {
    descriptors: usize,
    mappings: usize,
    resident_kib: i64,
}

fn usage() -> Usage {
    let status = std::fs::read_to_string("/proc/self/status").expect("proc");
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
    Usage {
        descriptors: std::fs::read_dir("/proc/self/fd").expect("proc").count(),
        mappings: std::fs::read_to_string("/proc/self/maps").expect("proc").lines().count(),
        resident_kib: resident.trim().trim_end_matches(" kB").parse().expect("a number"),
    }
}

#[test]
fn starting_and_stopping_many_times_leaves_nothing_and_every_call_is_answered() {
    let Some(kernel) = Kernel::take("restarts") else { return };
    let restarts =
        std::env::var("GRPCSCOPE_RESTARTS").map_or(RESTARTS, |text| text.parse().expect("a number"));
    let folder = workspace::scratch("restarts").expect("a folder");
    load_and_unload(restarts);
    start_and_stop(&kernel, &folder, restarts);
}

/// In this process, where descriptors and memory can be counted.
fn load_and_unload(times: usize) {
    let options =
        Options { backend: BackendChoice::Only(Backend::TpBtf), ring_bytes: 1 << 20, ..Options::default() };
    let cycle = || {
        let mut capture = KernelCapture::start(&options).expect("the programs load");
        capture.poll(Duration::from_millis(1), &mut |_| {}).expect("the ring is read");
    };
    // The first ones leave what the allocator keeps for the next.
    for _ in 0..3 {
        cycle();
    }
    let before = usage();
    for _ in 0..times {
        cycle();
    }
    let after = usage();
    println!("loaded and unloaded {times} times: {before:?}, then {after:?}");
    assert_eq!(after.descriptors, before.descriptors, "descriptors");
    assert!(
        after.mappings <= before.mappings + 4,
        "mappings: {} and then {}",
        before.mappings,
        after.mappings
    );
    let grown = after.resident_kib - before.resident_kib;
    assert!(grown <= 16 << 10, "{grown} KiB more than before");
}

/// As a process, ended in order or killed by turns, while others call each other.
fn start_and_stop(kernel: &Kernel, folder: &std::path::Path, times: usize) {
    let server = Server::start(Implementation::Tonic, folder, false).expect("a server");
    let calls = plan::unary((times * CALLS_OF_A_RESTART) as u64, 3);
    let pace = Pace { concurrency: 4, rate: Some(200.0), hold: false };
    let client =
        Client::start(Implementation::Tonic, &server.address, folder, "1", &calls, pace).expect("a client");
    let busy = Busy::start(10, 1).expect("connections");
    let before = usage();
    let mut objects = 0;
    let mut longest = Duration::ZERO;
    let began = Instant::now();
    for time in 0..times {
        let held = if time % 2 == 0 {
            let watch = Watch::start(kernel, folder).expect("it starts");
            let held = Objects::of_process(watch.pid()).expect("it runs");
            busy.wait_for_rounds(1, Duration::from_secs(30)).expect("the connections go on");
            watch.stop().expect("it ends in order");
            held
        } else {
            let run = Run::start(kernel, folder).expect("it starts");
            let held = Objects::of_process(run.pid()).expect("it runs");
            busy.wait_for_rounds(1, Duration::from_secs(30)).expect("the connections go on");
            run.signal(libc::SIGKILL);
            held
        };
        assert!(held.programs.len() >= 3 && held.links.len() >= 3 && held.maps.len() >= 5, "{held:?}");
        longest = longest.max(held.wait_until_gone(Duration::from_secs(1)).expect("nothing is left"));
        objects += held.programs.len() + held.links.len() + held.maps.len();
    }
    let after = usage();
    println!(
        "started and stopped {times} times in {:?}: {objects} programs, links and maps came and went, at most {longest:?} after \
         the end",
        began.elapsed()
    );
    // Fewer if the client has ended meanwhile.
    assert!(
        after.descriptors <= before.descriptors,
        "descriptors: {} and then {}",
        before.descriptors,
        after.descriptors
    );
    let rounds = busy.finish().expect("every echo was what was sent");
    let answered = client.finish().expect("the client goes on");
    assert!(answered.iter().all(|call| call.outcome == Outcome::Ok), "every call was answered");
    println!("{} calls and {rounds} echoes, all of them right", answered.len());
}
