//! A `/proc` of files that the tests write, and the real one.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::identity::NameSource;

/// Another `/proc`, removed at the end.
struct Proc(PathBuf);

impl Proc {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("grpcscope-proc-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).expect("a folder for the test");
        Proc(path)
    }

    fn process(&self, pid: u32, start: u64, comm: &str, cmdline: &str) {
        let folder = self.0.join(pid.to_string());
        fs::create_dir_all(&folder).expect("a folder for the process");
        let stat = format!("{pid} ({comm}) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 {start} 0 0\n");
        for (name, text) in
            [("stat", stat.as_str()), ("cmdline", cmdline), ("cgroup", "0::/\n"), ("environ", "")]
        {
            fs::write(folder.join(name), text).expect("a file of the process");
        }
    }

    fn end(&self, pid: u32) {
        fs::remove_dir_all(self.0.join(pid.to_string())).expect("the process ends");
    }
}

impl Drop for Proc {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

#[test]
fn a_pid_that_is_used_again_is_another_process() {
    let proc = Proc::new();
    let identities = Identities::new(&proc.0, 10);
    proc.process(7, 100, "cart", "/srv/cart\0");
    assert_eq!(identities.identify(7, "").service_name, "cart");
    proc.process(7, 200, "cart", "/srv/pay\0");
    let second = identities.identify(7, "");
    assert_eq!((second.service_name.as_str(), second.start_ticks), ("pay", Some(200)));
}

#[test]
fn a_process_that_runs_another_program_is_read_again() {
    let proc = Proc::new();
    let identities = Identities::new(&proc.0, 10);
    proc.process(7, 100, "sh", "/bin/sh\0/srv/start.sh\0");
    assert_eq!(identities.identify(7, "").service_name, "start");
    proc.process(7, 100, "cart", "/srv/cart\0");
    assert_eq!(identities.identify(7, "").service_name, "cart");
}

#[test]
fn a_process_that_is_gone_is_known_for_a_moment_and_then_by_the_kernels_name() {
    let proc = Proc::new();
    let identities = Identities::new(&proc.0, 10);
    let start = Instant::now();
    proc.process(7, 100, "cart", "/srv/cart-server\0");
    identities.identify_at(7, "cart", start);
    proc.end(7);
    let soon = identities.identify_at(7, "worker", start + AFTER_END);
    assert_eq!(soon.service_name, "cart-server");
    let late = identities.identify_at(7, "worker", start + AFTER_END + Duration::from_millis(1));
    assert_eq!(
        (late.service_name.as_str(), late.name_source, late.start_ticks),
        ("worker", NameSource::Comm, None)
    );
}

#[test]
fn a_process_in_the_middle_of_execve_is_read_again() {
    let proc = Proc::new();
    let identities = Identities::new(&proc.0, 10);
    proc.process(7, 100, "cart", "");
    assert_eq!(identities.identify(7, "").service_name, "cart");
    assert!(identities.is_empty());
    proc.process(7, 100, "cart", "/srv/cart-server\0");
    assert_eq!(identities.identify(7, "").service_name, "cart-server");
}

#[test]
fn a_process_that_was_never_there_is_unknown() {
    let proc = Proc::new();
    let identity = Identities::new(&proc.0, 10).identify(9, "");
    assert_eq!((identity.service_name.as_str(), identity.name_source), ("", NameSource::Unknown));
}

#[test]
fn the_cache_is_bounded_and_keeps_the_newest() {
    let proc = Proc::new();
    let identities = Identities::new(&proc.0, 16);
    let start = Instant::now();
    for pid in 1..=100u32 {
        proc.process(pid, 1, "cart", "/srv/cart\0");
        identities.identify_at(pid, "", start + Duration::from_secs(u64::from(pid)));
        assert!(identities.len() <= 16);
    }
    proc.end(100);
    let newest = identities.identify_at(100, "", start + Duration::from_secs(101));
    assert_eq!(newest.service_name, "cart");
}

#[test]
fn a_real_process_is_read_from_the_real_proc() {
    let mut child = Command::new("sleep")
        .arg("60")
        .env("OTEL_SERVICE_NAME", "the sleeper")
        .stdout(Stdio::null())
        .spawn()
        .expect("sleep runs");
    let identities = Identities::new("/proc", 10);
    // Until execve is done, the child has another name, or no environment yet; that must not stay.
    let deadline = Instant::now() + Duration::from_secs(60);
    let identity = loop {
        let identity = identities.identify(child.id(), "");
        if identity.name_source == NameSource::Environment || Instant::now() > deadline {
            break identity;
        }
        std::thread::yield_now();
    };
    child.kill().expect("sleep ends");
    child.wait().expect("sleep has ended");
    assert_eq!(
        (identity.service_name.as_str(), identity.name_source),
        ("the sleeper", NameSource::Environment)
    );
    assert!(identity.executable.as_deref().is_some_and(|path| path.starts_with('/')));
    assert!(identity.start_ticks > Some(0));
}
