//! Loads one set of programs out of the object, and attaches it.

use std::collections::VecDeque;
use std::os::fd::AsFd as _;
use std::path::Path;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use aya::maps::ProgramArray;
use aya::programs::{Program, ProgramError};
use aya::{Btf as AyaBtf, Ebpf, EbpfLoader};

use super::Options;
use super::btf::Btf;
use super::choice::{Attempt, Backend, attempts};
use super::instructions::ByLog;
use super::{offsets, probe, trial};

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
    /// Instructions that the verifier followed, if the kernel tells (5.16) or they were counted.
    pub verified: Option<u32>,
}

/// Programs that are loaded and attached.
pub(super) struct Loaded {
    pub(super) ebpf: Ebpf,
    pub(super) backend: Backend,
    pub(super) reason: String,
    pub(super) programs: Vec<LoadedProgram>,
}

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/grpcscope-ebpf"));

/// Programs that are loaded and not attached yet.
pub(super) struct Prepared {
    ebpf: Ebpf,
    attempt: Attempt,
    /// Programs by name, and where each of them goes; in the order in which they are attached.
    places: Vec<(String, &'static [&'static str])>,
    /// Programs that only others go on into.
    continuations: Vec<String>,
    counts: ByLog,
}

/// Loads the first of `backends` that the kernel takes and attaches it; `why` says why that is the order. What cannot
/// be used is noted in the reason. Where programs may be interrupted, tracepoints are tried before they are relied on.
pub(super) fn load(options: &Options, backends: &[Backend], why: &str, interrupted: bool) -> Result<Loaded> {
    let mut failures: Vec<String> = Vec::new();
    let mut left: VecDeque<Backend> = backends.iter().copied().collect();
    let mut to_be_tried = interrupted;
    while let Some(backend) = left.pop_front() {
        let mut loaded = match prepare(options, backend).and_then(Prepared::attach) {
            Ok(loaded) => loaded,
            Err(error) => {
                failures.push(format!("{error:#}"));
                continue;
            }
        };
        if to_be_tried && backend == Backend::TpBtf && left.front() == Some(&Backend::Kprobe) {
            to_be_tried = false;
            let missed = trial::missed_runs(&loaded);
            if missed > 0 {
                failures.push(format!("tp_btf: is interrupted, {missed} runs were missed in a trial"));
                // After kprobes, which are not; before what is certain to be blind.
                left.insert(1, backend);
                continue;
            }
        }
        loaded.reason.push_str(&format!("; {why}"));
        if !failures.is_empty() {
            loaded.reason.push_str(&format!("; not usable: {}", failures.join("; ")));
        }
        return Ok(loaded);
    }
    bail!("no way to attach to this kernel: {}", failures.join("; "))
}

/// Loads a backend in the first of its forms that the verifier takes.
pub(super) fn prepare(options: &Options, backend: Backend) -> Result<Prepared> {
    let bytes = std::fs::read(probe::BTF_PATH).with_context(|| {
        format!(
            "read {}: this kernel has no type information (CONFIG_DEBUG_INFO_BTF), which grpcscope needs",
            probe::BTF_PATH
        )
    })?;
    let btf = Btf::parse(&bytes).context("read the kernel's type information")?;
    let mut failures: Vec<String> = Vec::new();
    let mut last_cause = String::new();
    for attempt in attempts(backend, options.loops) {
        match prepare_one(attempt, options, &btf) {
            Ok(prepared) => return Ok(prepared),
            // Refused for the same reason in another form: once is enough.
            Err(error) if error.root_cause().to_string() == last_cause => {}
            Err(error) => {
                last_cause = error.root_cause().to_string();
                let without_loop = if attempt.bpf_loop { "" } else { " with a bounded loop" };
                let without_storage = match backend {
                    Backend::Kprobe => "",
                    _ if attempt.sk_storage => "",
                    _ => " without socket storage",
                };
                failures.push(format!("{}{without_loop}{without_storage}: {error:#}", backend.name()));
            }
        }
    }
    bail!("{}", failures.join("; "))
}

/// What kprobes are attached by.
const KPROBES: &str = "/sys/bus/event_source/devices/kprobe";

/// Where programs go: name without the loop's suffix, functions, array of the continuation.
type Place = (&'static str, &'static [&'static str], &'static str);
const TRACEPOINTS: &[Place] =
    &[("t_send", &["sock_send_length"], "CONT_T_SEND"), ("t_recv", &["sock_recv_length"], "CONT_T_RECV")];
const EXITS: &[Place] = &[
    ("f_inet_send", &["inet_sendmsg"], "CONT_F_INET_SEND"),
    ("f_inet_recv", &["inet_recvmsg"], "CONT_F_INET_RECV"),
    ("f_inet6_send", &["inet6_sendmsg"], "CONT_F_INET6_SEND"),
    ("f_inet6_recv", &["inet6_recvmsg"], "CONT_F_INET6_RECV"),
    ("f_unix_send", &["unix_stream_sendmsg"], "CONT_F_UNIX_SEND"),
    ("f_unix_recv", &["unix_stream_recvmsg"], "CONT_F_UNIX_RECV"),
];
const SENDS: &[&str] = &["inet_sendmsg", "inet6_sendmsg", "unix_stream_sendmsg"];
const RECEIVES: &[&str] = &["inet_recvmsg", "inet6_recvmsg", "unix_stream_recvmsg"];
const RETURNS: &[Place] = &[("k_send", SENDS, "CONT_K_SEND"), ("k_recv", RECEIVES, "CONT_K_RECV")];

fn prepare_one(attempt: Attempt, options: &Options, btf: &Btf<'_>) -> Result<Prepared> {
    let mut constants = offsets::common(btf)?;
    let places = match attempt.backend {
        Backend::TpBtf => {
            constants.extend(offsets::registers(btf)?);
            TRACEPOINTS
        }
        Backend::Fexit => {
            ensure!(
                btf.has_struct("bpf_tramp_image"),
                "this kernel may crash when such programs are detached (fixed in 5.12 and 5.10.223)"
            );
            constants.extend(offsets::message(btf)?);
            EXITS
        }
        Backend::Kprobe => {
            ensure!(
                Path::new(KPROBES).exists(),
                "this kernel has no kprobes (CONFIG_KPROBES, CONFIG_KPROBE_EVENTS): {KPROBES} is missing"
            );
            constants.extend(offsets::message(btf)?);
            RETURNS
        }
    };
    let ring_bytes = options.ring_bytes.max(256 << 10).checked_next_power_of_two().unwrap_or(1 << 30);
    constants.extend([
        ("HAVE_SK_STORAGE", u64::from(attempt.sk_storage)),
        // bpf_get_socket_cookie came to tracing programs one release after their socket storage.
        ("HAVE_SOCKET_COOKIE", u64::from(attempt.bpf_loop && attempt.sk_storage)),
        ("STEPS", if attempt.bpf_loop { STEPS_LOOP } else { STEPS_BOUNDED }),
        ("GATHER", u64::from(attempt.bpf_loop)),
        ("IGNORED_PID", options.ignored_pid.unwrap_or(0).into()),
        ("WATERMARK", watermark(ring_bytes)),
    ]);
    let kernel = AyaBtf::from_sys_fs().context("read the kernel's type information")?;
    let mut loader = EbpfLoader::new();
    loader.btf(Some(&kernel)).map_max_entries("RING", ring_bytes);
    if attempt.sk_storage {
        loader.map_max_entries("CLASSES_BY_ADDRESS", 1).map_max_entries("CONNECTIONS_BY_ADDRESS", 1);
    }
    if attempt.backend != Backend::Kprobe {
        loader.map_max_entries("ENTERED", 1);
    }
    for (name, value) in &constants {
        loader.override_global(name, value, true);
    }
    let mut counts = ByLog::new(options.count_instructions, btf);
    counts.prepare(&mut loader);
    let mut ebpf = loader.load(OBJECT).map_err(|error| plain(&error)).context("create the maps")?;

    let suffix = if attempt.bpf_loop { "loop" } else { "bounded" };
    let mut names: Vec<(String, &'static [&'static str])> =
        vec![("state".to_owned(), &["inet_sock_set_state"])];
    if !attempt.sk_storage {
        let fresh = if attempt.backend == Backend::Kprobe { "k_fresh" } else { "f_fresh" };
        names.push((fresh.to_owned(), &["sock_init_data"]));
    }
    if attempt.backend == Backend::Kprobe {
        // Before the returns: a return is only of use after its entry.
        names.push(("k_send_enter".to_owned(), SENDS));
        names.push(("k_recv_enter".to_owned(), RECEIVES));
    }
    let mut continuations = Vec::new();
    for (name, functions, array) in places {
        if !attempt.bpf_loop {
            let cont = format!("{name}_cont");
            counts.count(&mut ebpf, &cont, functions[0], &kernel);
            load_one(&mut ebpf, &cont, functions[0], &kernel).with_context(|| format!("load {cont}"))?;
            let fd = program(&mut ebpf, &cont)?.fd()?.try_clone()?;
            let map = ebpf.map_mut(array).context("the kernel object lacks a continuation")?;
            ProgramArray::try_from(map)?.set(0, &fd, 0).context("set the continuation")?;
            continuations.push(cont);
        }
        names.push((format!("{name}_{suffix}"), functions));
    }
    for (name, functions) in &names {
        counts.count(&mut ebpf, name, functions[0], &kernel);
        load_one(&mut ebpf, name, functions[0], &kernel)
            .with_context(|| format!("load {name} for {}", functions.join(", ")))?;
    }
    Ok(Prepared { ebpf, attempt, places: names, continuations, counts })
}

impl Prepared {
    /// Attaches what is loaded: all of it, so that a call is never seen by one half of the programs only because the
    /// other half was refused.
    pub(super) fn attach(mut self) -> Result<Loaded> {
        let mut programs = Vec::new();
        for (name, functions) in &self.places {
            for function in *functions {
                attach_one(program(&mut self.ebpf, name)?, function)
                    .with_context(|| format!("{}: attach to {function}", self.attempt.backend.name()))?;
            }
            programs.push(loaded(&mut self.ebpf, name, &self.counts)?);
        }
        for name in &self.continuations {
            programs.push(loaded(&mut self.ebpf, name, &self.counts)?);
        }
        let mut reason = format!("{} attached", self.attempt.backend.name());
        if !self.attempt.bpf_loop {
            reason.push_str(", with a bounded loop");
        }
        Ok(Loaded { ebpf: self.ebpf, backend: self.attempt.backend, reason, programs })
    }
}

fn attach_one(program: &mut Program, function: &str) -> Result<()> {
    match program {
        Program::BtfTracePoint(tracepoint) => tracepoint.attach().map(drop).map_err(|e| plain(&e)),
        Program::FExit(exit) => exit.attach().map(drop).map_err(|e| plain(&e)),
        Program::KProbe(probe) => probe.attach(function, 0).map(drop).map_err(|e| plain(&e)),
        _ => Err(anyhow!("a program of an unexpected kind")),
    }
}

impl Loaded {
    /// Detaches all programs and takes them out of the kernel; the maps stay.
    pub(super) fn detach(&mut self) -> Result<()> {
        for (name, program) in self.ebpf.programs_mut() {
            let result = match program {
                Program::BtfTracePoint(tracepoint) => tracepoint.unload(),
                Program::FExit(exit) => exit.unload(),
                Program::KProbe(probe) => probe.unload(),
                _ => continue,
            };
            match result {
                Ok(()) | Err(ProgramError::NotLoaded) => {}
                Err(error) => return Err(plain(&error)).with_context(|| format!("detach {name}")),
            }
        }
        Ok(())
    }
}

fn loaded(ebpf: &mut Ebpf, name: &str, counts: &ByLog) -> Result<LoadedProgram> {
    let program = program(ebpf, name)?;
    let fd = std::os::fd::AsRawFd::as_raw_fd(&program.fd()?.as_fd());
    Ok(LoadedProgram { name: name.to_owned(), fd, verified: counts.of(name, program) })
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
    match program {
        Program::BtfTracePoint(tracepoint) => tracepoint.load(function, kernel),
        Program::FExit(exit) => exit.load(function, kernel),
        Program::KProbe(probe) => probe.load(),
        _ => bail!("a program of an unexpected kind"),
    }
    .map_err(|error| plain(&error))
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
