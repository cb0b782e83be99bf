//! What the agent may do: the smallest set of capabilities loads, and what runs has given up everything else. Needs Linux 6.3
//! (tp_btf); other ways of capture are measured in emulated machines (docs/kernel-support.md).

use std::collections::BTreeMap;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Command, Output};

use anyhow::Context as _;
use serde_json::Value;
use tests::agent::{Kernel, Run, Watch};
use tests::apps::{Address, Client, Implementation, PATIENCE, Pace, built_here};
use tests::process::Process;
use tests::{http, plan, workspace};

/// `CAP_SYS_PTRACE` and `CAP_DAC_READ_SEARCH`, as /proc/PID/status writes them.
const KEPT: &str = "0000000000080004";
const NOTHING: &str = "0000000000000000";

fn rights_check(arguments: &[&str]) -> Output {
    let program = built_here("rights_check").expect("rights_check is built with the tests");
    let mut command = Command::new(program);
    command.args(arguments).env("RUST_BACKTRACE", "1");
    command.output().expect("it starts")
}

/// What the kernel says of each thread of a process, by key.
fn status_of_threads(pid: u32) -> Vec<BTreeMap<String, String>> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the process runs");
    tasks
        .flatten()
        .filter_map(|task| std::fs::read_to_string(task.path().join("status")).ok())
        .map(|text| {
            text.lines()
                .filter_map(|line| line.split_once(":\t"))
                .map(|(key, value)| (key.to_owned(), value.trim().to_owned()))
                .collect()
        })
        .collect()
}

/// With nothing to change to nothing is set aside; else what is permitted and not in force is `CAP_BPF` and `CAP_PERFMON`.
const SET_ASIDE: &str = "000000c000080004";

fn check_that_rights_are_gone(pid: u32, permitted: &str) {
    let threads = status_of_threads(pid);
    assert!(threads.len() >= 2, "the thread that reads the ring is one of them");
    for status in threads {
        for (key, expected) in [
            ("CapInh", NOTHING),
            ("CapPrm", permitted),
            ("CapEff", KEPT),
            ("CapBnd", NOTHING),
            ("CapAmb", NOTHING),
            ("NoNewPrivs", "1"),
            ("Seccomp", "2"),
        ] {
            assert_eq!(
                status.get(key).map(String::as_str),
                Some(expected),
                "{key} of {:?}",
                status.get("Name")
            );
        }
    }
}

#[test]
fn every_command_that_watches_gives_up_all_rights_but_those_that_read_names() {
    let Some(kernel) = Kernel::take("rights_given_up") else { return };
    let folder = workspace::scratch("rights_given_up").expect("a folder");
    let run = Run::start(&kernel, &folder).expect("it starts");
    check_that_rights_are_gone(run.pid(), SET_ASIDE);
    // Pages, refusals and the end in order are within the list of system calls.
    for (path, status) in [("/metrics", 200), ("/api/v1/findings", 200), ("/", 200), ("/nothing", 404)] {
        assert_eq!(http::get(run.port, path).expect("an answer").status, status, "{path}");
    }
    run.stop().expect("it ends in order");
    let log = std::fs::read_to_string(folder.join("grpcscope.log")).expect("its log");
    assert!(log.contains("gave up all other rights") && log.contains("detached"), "{log}");

    for command in [&["calls", "--json"][..], &["findings", "--live", "--json"]] {
        let arguments = [command, &["--capture", "tp_btf"]].concat();
        let watch = Watch::start_with(&kernel, &folder, &arguments).expect("it starts");
        check_that_rights_are_gone(watch.pid(), KEPT);
        watch.stop().expect("it ends in order");
    }
}

#[test]
fn with_user_it_goes_on_as_that_user_and_watches_as_before() {
    let Some(kernel) = Kernel::take("rights_user") else { return };
    let folder = workspace::scratch("rights_user").expect("a folder");
    let arguments = ["calls", "--json", "--user", "65534", "--capture", "tp_btf"];
    let watch = Watch::start_with(&kernel, &folder, &arguments).expect("it starts");
    for status in status_of_threads(watch.pid()) {
        for key in ["Uid", "Gid"] {
            assert_eq!(status.get(key).map(String::as_str), Some("65534\t65534\t65534\t65534"));
        }
        assert_eq!(status.get("Groups").map(String::as_str), Some(""));
    }
    check_that_rights_are_gone(watch.pid(), KEPT);
    let summary = watch.stop().expect("it ends in order");
    assert_eq!(summary.0["lost"], 0);
}

#[test]
fn what_is_not_on_the_list_ends_the_process_and_the_log_says_which_call_it_was() {
    let expected = [
        ("execute", libc::SYS_execve),
        ("socket", libc::SYS_socket),
        ("write", libc::SYS_openat),
        ("kill", libc::SYS_kill),
        ("trace", libc::SYS_ptrace),
        ("read-memory", libc::SYS_process_vm_readv),
        ("load-program", libc::SYS_bpf),
        ("executable-memory", libc::SYS_mmap),
        ("capabilities", libc::SYS_capset),
        ("fork", libc::SYS_clone),
    ];
    for (deed, call) in expected {
        let output = rights_check(&["breach", deed]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.signal(), Some(libc::SIGSYS), "{deed}: {output:?}");
        assert!(said.contains(&format!("killed at system call {call},")), "{deed}: {said}");
        assert!(output.stdout.is_empty(), "{deed} was done: {output:?}");
    }
}

#[test]
fn work_panics_and_aborts_are_within_the_list() {
    let output = rights_check(&["breach", "work"]);
    assert!(output.status.success(), "{output:?}");
    let output = rights_check(&["breach", "panic"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(101), "{output:?}");
    assert!(said.contains("on purpose") && said.contains("breach.rs"), "{said}");
    let output = rights_check(&["breach", "abort"]);
    assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{output:?}");
}

#[test]
fn tp_btf_loads_with_the_capabilities_of_the_list_and_with_none_of_them_missing() {
    let Some(_kernel) = Kernel::take("rights_to_load") else { return };
    let output = rights_check(&["measure", "--backend", "tp_btf"]);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout);
    print!("{text}");
    let last: Value = serde_json::from_str(text.lines().last().expect("a line")).expect("a line of JSON");
    let works: Vec<(&str, bool)> = last["rights"][0]["attempts"]
        .as_array()
        .expect("attempts")
        .iter()
        .map(|attempt| (attempt["what"].as_str().unwrap_or(""), attempt["works"] == true))
        .take(4)
        .collect();
    assert_eq!(
        works,
        [
            ("only what is needed", true),
            ("without BPF", false),
            ("without PERFMON", false),
            ("and what reads names", true)
        ]
    );
}

#[test]
fn trying_another_way_of_capture_is_within_the_list_if_there_is_one() {
    let Some(_kernel) = Kernel::take("rights_to_change") else { return };
    let output = rights_check(&["change"]);
    assert!(output.status.success(), "{output:?}");
    let said: Value = serde_json::from_slice(&output.stdout).expect("a line of JSON");
    println!("{said}");
    assert_eq!(said["set_aside"], serde_json::json!(["BPF", "PERFMON"]));
}

#[test]
fn check_says_what_is_missing_and_how_to_add_it() {
    let Some(kernel) = Kernel::take("rights_check") else { return };
    let check = |kept: &[u32]| {
        let mut command = Command::new(kernel.program());
        holding_only(command.arg("check"), kept);
        let output = command.output().expect("it starts");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (code, said) = check(&[39]);
    assert_eq!(code, Some(77), "{said}");
    for line in
        ["CAP_BPF: held", "CAP_PERFMON: missing", r#"add: ["PERFMON", "SYS_PTRACE", "DAC_READ_SEARCH"]"#]
    {
        assert!(said.contains(line), "{line} in {said}");
    }
    let (code, said) = check(&[38, 39]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("for better names of processes"), "{said}");
}

/// What a process of another user is called, by what the agent may read of it.
#[test]
fn names_of_other_users_processes_need_the_two_capabilities_that_are_kept() {
    let Some(kernel) = Kernel::take("rights_names") else { return };
    let name = |kept: &[u32]| name_seen(&kernel, kept).unwrap_or_else(|error| panic!("{error:#}"));
    assert_eq!(name(&[38, 39, 19, 2]), "foreign-service");
    assert_eq!(name(&[38, 39, 19]), "tonic_app", "the environment cannot be opened, the executable is known");
    assert_eq!(name(&[38, 39, 2]), "called-something", "neither, so the first argument has to do");
}

fn name_seen(kernel: &Kernel, kept: &[u32]) -> anyhow::Result<String> {
    let folder = &workspace::scratch(&format!("rights_names_{}", kept.len()))?;
    let mut agent = Command::new(kernel.program());
    holding_only(agent.args(["calls", "--json"]), kept);
    let mut watch = Watch::of(agent, folder)?;
    let mut server = Command::new(built_here("tonic_app")?);
    // Its truth goes nowhere: the folder of the test is another user's.
    server.arg0("called-something").args(["server", "--port", "0", "--truth", "/dev/null"]);
    server.env("OTEL_SERVICE_NAME", "foreign-service").uid(65534).gid(65534);
    let server = Process::start("server", &mut server, &folder.join("server.log"))?;
    let port = server.wait_for("ready", PATIENCE)?["port"].as_u64().context("a port")? as u16;
    let calls = plan::unary(1, 1);
    let address = Address::Port(port);
    Client::start(Implementation::Tonic, &address, folder, "root", &calls, Pace::at_once(1))?.finish()?;
    let calls = watch.calls_of(server.pid(), 1)?;
    watch.stop()?;
    calls.first().context("the call was not seen")?.service.clone().context("the call has a service")
}

/// Root has after exec what the bounding set has.
fn holding_only(command: &mut Command, kept: &[u32]) {
    let kept: u64 = kept.iter().map(|bit| 1_u64 << bit).sum();
    let restrict = move || {
        for bit in (0..u64::BITS).filter(|bit| kept >> bit & 1 == 0) {
            // SAFETY: prctl with numbers touches no memory; a number that the kernel does not know is refused.
            unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(bit), 0, 0, 0) };
        }
        Ok(())
    };
    // SAFETY: between fork and exec only system calls are made.
    unsafe { command.pre_exec(restrict) };
}
