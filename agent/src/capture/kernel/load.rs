//! Loads one set of programs out of the object, by trying the best first.

use std::os::fd::AsFd as _;

use anyhow::{Context as _, Result, anyhow, bail};
use aya::maps::ProgramArray;
use aya::programs::{BtfTracePoint, FExit, Program};
use aya::{Btf as AyaBtf, Ebpf, EbpfLoader};

use super::Options;
use super::btf::Btf;
use super::{offsets, probe};

/// Where the bytes of a call are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Backend {
    /// The tracepoints `sock_send_length` and `sock_recv_length`, Linux 6.3.
    TpBtf,
    /// The exits of `inet_sendmsg` and its like, where the kernel allows trampolines.
    Fexit,
}

impl Backend {
    /// A stable name, usable as a label.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Backend::TpBtf => "tp_btf",
            Backend::Fexit => "fexit",
        }
    }
}

/// Which backend is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BackendChoice {
    /// The best that works.
    #[default]
    Auto,
    /// [`Backend::TpBtf`] or nothing.
    TpBtf,
    /// [`Backend::Fexit`] or nothing.
    Fexit,
}

/// Which loop the walker uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LoopChoice {
    /// The kernel's own if it has one.
    #[default]
    Auto,
    /// `bpf_loop`, Linux 5.17.
    BpfLoop,
    /// A bounded loop with tail calls.
    Bounded,
}

/// Steps of one call with `bpf_loop`: a megabyte of 32-byte frames.
const STEPS_LOOP: u64 = 32768;
/// Steps of one program with a bounded loop; up to 33 programs follow each other.
const STEPS_BOUNDED: u64 = 32;

/// A program in the kernel.
#[derive(Clone, Debug)]
pub struct LoadedProgram {
    /// Its name in the object.
    pub name: String,
    /// File descriptor, for what `/proc/self/fdinfo` says of it.
    pub fd: i32,
    /// Instructions that the verifier followed, if the kernel tells (5.16).
    pub verified: Option<u32>,
}

/// Programs that are loaded and attached.
pub(super) struct Loaded {
    pub(super) ebpf: Ebpf,
    pub(super) backend: Backend,
    pub(super) reason: String,
    pub(super) programs: Vec<LoadedProgram>,
}

/// One combination to try.
#[derive(Clone, Copy)]
struct Attempt {
    backend: Backend,
    bpf_loop: bool,
    sk_storage: bool,
}

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/grpcscope-ebpf"));

pub(super) fn load(options: &Options) -> Result<Loaded> {
    probe::privileges()?;
    let bytes = std::fs::read(probe::BTF_PATH).with_context(|| {
        format!(
            "read {}: this kernel has no type information (CONFIG_DEBUG_INFO_BTF), which grpcscope needs",
            probe::BTF_PATH
        )
    })?;
    let btf = Btf::parse(&bytes).context("read the kernel's type information")?;
    probe::raise_memory_limit();
    let preemption = probe::preemption();
    let (order, why) = order(options.backend, preemption);
    let mut failures: Vec<String> = Vec::new();
    for attempt in attempts(&order, options.loops) {
        match attach(attempt, options, &btf) {
            Ok((ebpf, programs)) => {
                let mut reason = format!("{} attached; {why}", attempt.backend.name());
                if !attempt.bpf_loop {
                    reason.push_str("; bounded loop");
                }
                if !failures.is_empty() {
                    reason.push_str("; not usable: ");
                    reason.push_str(&failures.join("; "));
                }
                return Ok(Loaded { ebpf, backend: attempt.backend, reason, programs });
            }
            Err(error) => failures.push(format!(
                "{}{}{}: {error:#}",
                attempt.backend.name(),
                if attempt.bpf_loop { "" } else { " with a bounded loop" },
                if attempt.sk_storage { "" } else { " without socket storage" },
            )),
        }
    }
    bail!("no way to attach to this kernel: {}", failures.join("; "))
}

/// Which backends in which order, and why.
fn order(choice: BackendChoice, preemption: probe::Preemption) -> (Vec<Backend>, String) {
    match choice {
        BackendChoice::TpBtf => (vec![Backend::TpBtf], "asked for".into()),
        BackendChoice::Fexit => (vec![Backend::Fexit], "asked for".into()),
        BackendChoice::Auto => match preemption {
            probe::Preemption::None => (
                vec![Backend::Fexit, Backend::TpBtf],
                "the kernel does not preempt itself, so fexit misses no calls and also sees io_uring".into(),
            ),
            probe::Preemption::Possible => (
                vec![Backend::TpBtf, Backend::Fexit],
                "the kernel may preempt itself, where fexit misses calls".into(),
            ),
        },
    }
}

fn attempts(order: &[Backend], loops: LoopChoice) -> Vec<Attempt> {
    let mut all = Vec::new();
    for &backend in order {
        if loops != LoopChoice::Bounded {
            all.push(Attempt { backend, bpf_loop: true, sk_storage: true });
        }
        if loops != LoopChoice::BpfLoop {
            all.push(Attempt { backend, bpf_loop: false, sk_storage: true });
            if backend == Backend::Fexit {
                all.push(Attempt { backend, bpf_loop: false, sk_storage: false });
            }
        }
    }
    all
}

/// Where a program goes: its name without the loop's suffix, function, array of its continuation.
const TRACEPOINTS: &[(&str, &str, &str)] =
    &[("t_send", "sock_send_length", "CONT_T_SEND"), ("t_recv", "sock_recv_length", "CONT_T_RECV")];
const EXITS: &[(&str, &str, &str)] = &[
    ("f_inet_send", "inet_sendmsg", "CONT_F_INET_SEND"),
    ("f_inet_recv", "inet_recvmsg", "CONT_F_INET_RECV"),
    ("f_inet6_send", "inet6_sendmsg", "CONT_F_INET6_SEND"),
    ("f_inet6_recv", "inet6_recvmsg", "CONT_F_INET6_RECV"),
    ("f_unix_send", "unix_stream_sendmsg", "CONT_F_UNIX_SEND"),
    ("f_unix_recv", "unix_stream_recvmsg", "CONT_F_UNIX_RECV"),
];

fn attach(attempt: Attempt, options: &Options, btf: &Btf<'_>) -> Result<(Ebpf, Vec<LoadedProgram>)> {
    let mut constants = offsets::common(btf)?;
    constants.extend(match attempt.backend {
        Backend::TpBtf => offsets::registers(btf)?,
        Backend::Fexit => offsets::message(btf)?,
    });
    let ring_bytes = options.ring_bytes.max(256 << 10).checked_next_power_of_two().unwrap_or(1 << 30);
    constants.extend([
        ("HAVE_SK_STORAGE", u64::from(attempt.sk_storage)),
        // bpf_get_socket_cookie came to tracing programs one release after their socket storage.
        ("HAVE_SOCKET_COOKIE", u64::from(attempt.bpf_loop)),
        ("STEPS", if attempt.bpf_loop { STEPS_LOOP } else { STEPS_BOUNDED }),
        ("IGNORED_PID", options.ignored_pid.unwrap_or(0).into()),
        ("WATERMARK", watermark(ring_bytes)),
    ]);
    let kernel = AyaBtf::from_sys_fs().context("read the kernel's type information")?;
    let mut loader = EbpfLoader::new();
    loader.btf(Some(&kernel)).map_max_entries("RING", ring_bytes);
    if attempt.sk_storage {
        loader.map_max_entries("CLASSES_BY_ADDRESS", 1).map_max_entries("CONNECTIONS_BY_ADDRESS", 1);
    }
    for (name, value) in &constants {
        loader.override_global(name, value, true);
    }
    let mut ebpf = loader.load(OBJECT).map_err(|error| plain(&error)).context("create the maps")?;

    let mut programs = Vec::new();
    let (places, kind) = match attempt.backend {
        Backend::TpBtf => (TRACEPOINTS, "tracepoint"),
        Backend::Fexit => (EXITS, "function"),
    };
    let suffix = if attempt.bpf_loop { "loop" } else { "bounded" };
    // Loaded first, attached last: a call is never seen by one half of the programs only because the other
    // half was refused.
    let mut names = vec![("state".to_owned(), "inet_sock_set_state")];
    for (name, function, array) in places {
        if !attempt.bpf_loop {
            let cont = format!("{name}_cont");
            load_one(&mut ebpf, &cont, function, &kernel).with_context(|| format!("load {cont}"))?;
            let fd = program(&mut ebpf, &cont)?.fd()?.try_clone()?;
            let map = ebpf.map_mut(array).context("the kernel object lacks a continuation")?;
            ProgramArray::try_from(map)?.set(0, &fd, 0).context("set the continuation")?;
        }
        names.push((format!("{name}_{suffix}"), function));
    }
    for (name, function) in &names {
        load_one(&mut ebpf, name, function, &kernel)
            .with_context(|| format!("load for {kind} {function}"))?;
    }
    for (name, function) in &names {
        match program(&mut ebpf, name)? {
            Program::BtfTracePoint(tracepoint) => tracepoint.attach().map(drop).map_err(|e| plain(&e)),
            Program::FExit(exit) => exit.attach().map(drop).map_err(|e| plain(&e)),
            _ => Err(anyhow!("{name} is of an unexpected kind")),
        }
        .with_context(|| format!("attach to {kind} {function}"))?;
        let program = program(&mut ebpf, name)?;
        let fd = std::os::fd::AsRawFd::as_raw_fd(&program.fd()?.as_fd());
        let verified = program.info().ok().and_then(|info| info.verified_instruction_count());
        programs.push(LoadedProgram { name: name.clone(), fd, verified });
    }
    Ok((ebpf, programs))
}

/// Bytes of records that each CPU makes before it wakes the reader: an eighth of the ring among all CPUs, so
/// that it has room for as much again while the reader comes. Each CPU counts for itself, since asking the ring
/// how full it is costs every call another 10 ns.
fn watermark(ring_bytes: u32) -> u64 {
    let cpus = aya::util::nr_cpus().map_or(1, |cpus| cpus as u64);
    (u64::from(ring_bytes) / 8 / cpus.max(1)).max(16 << 10)
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Program> {
    ebpf.program_mut(name).with_context(|| format!("the kernel object has no program {name}"))
}

fn load_one(ebpf: &mut Ebpf, name: &str, function: &str, kernel: &AyaBtf) -> Result<()> {
    let program = program(ebpf, name)?;
    if let Ok(tracepoint) = <&mut BtfTracePoint>::try_from(&mut *program) {
        return tracepoint.load(function, kernel).map_err(|error| plain(&error));
    }
    let exit: &mut FExit = program.try_into()?;
    exit.load(function, kernel).map_err(|error| plain(&error))
}

/// An error of aya in one line: the chain of causes, and of a verifier's log only the last words.
pub(super) fn plain(error: &(dyn std::error::Error + 'static)) -> anyhow::Error {
    if std::env::var_os("GRPCSCOPE_VERIFIER_LOG").is_some() {
        eprintln!("{error}");
    }
    let mut parts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        let mut lines = text.lines().filter(|line| !line.trim().is_empty());
        let first = lines.next().unwrap_or_default().to_owned();
        // The verifier's own statistics stand behind its last word.
        let statistics = ["processed", "verification time", "stack depth"];
        let last = lines.rfind(|line| !statistics.iter().any(|start| line.starts_with(start)));
        let part = last.map_or(first.clone(), |last| format!("{first} {}", last.trim()));
        if !parts.iter().any(|seen| seen.contains(&part)) {
            parts.push(part);
        }
        next = error.source();
    }
    anyhow!("{}", parts.join(": ").trim_end().trim_end_matches("Verifier output:").trim_end())
}
