//! `grpcscope check`: says what this kernel and these privileges allow, and what to do about the rest.

use std::io::{self, Write};

use anyhow::Context;

use crate::capture::kernel::{Backend, KernelCapture, preemption, probe};
use crate::cli::CaptureArgs;
use crate::config::Config;
use crate::exit::Failure;
use crate::pipeline;
use crate::rights::{self, Capability, Held};

/// Arguments of `check`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct CheckArgs {
    /// How the kernel is watched.
    #[command(flatten)]
    pub capture: CaptureArgs,
}

/// Looks at the kernel, tries each backend, and says what was found. Nothing stays attached.
///
/// # Errors
/// A permission is missing, or nothing works here; the text says what would help.
pub fn execute(_args: &CheckArgs, config: &Config) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    let mut say =
        |name: &str, text: &str| writeln!(out, "{name:<13} {text}").context("write to the standard output");
    say("kernel", &probe::kernel_release())?;
    let btf = if probe::has_btf() {
        format!("yes, {}", probe::BTF_PATH)
    } else {
        format!("no: {} is missing; a kernel with CONFIG_DEBUG_INFO_BTF is needed", probe::BTF_PATH)
    };
    say("BTF", &btf)?;
    let (preemption, source) = preemption::of_this_kernel();
    say("preemption", &format!("{} ({source})", preemption.name()))?;
    let held = Held::now()?;
    for capability in Capability::ALL {
        let state = match (held.has(capability), capability) {
            (true, _) => "held",
            (false, Capability::SysResource | Capability::SysAdmin) => "not held",
            (false, _) => "missing",
        };
        say("right", &format!("CAP_{}: {state}; {}", capability.name(), capability.purpose()))?;
    }
    for obstacle in obstacles() {
        say("obstacle", &obstacle)?;
    }
    let for_kprobes = held.missing(Capability::to_load(Backend::Kprobe, probe::restricts_perf_events()));
    if for_kprobes.contains(&Capability::SysAdmin) {
        say("obstacle", &restricted_perf_events(&for_kprobes))?;
    }
    probe::raise_memory_limit();
    let mut works = false;
    for backend in probe::backends() {
        works |= backend.result.is_ok();
        match backend.result {
            Ok(_) => say(backend.name, "works")?,
            Err(error) => say(backend.name, &format!("does not work: {}", one_line(&error)))?,
        }
    }
    let mut missing = held.missing(Capability::to_load(Backend::TpBtf, false));
    if !works && !missing.is_empty() {
        missing.extend(held.missing(&Capability::OF_NAMES));
        say("add", &how_to_add(&missing))?;
        return Err(Failure::NoPermission("the kernel cannot be watched: permissions are missing".into()));
    }
    let nameless = held.missing(&Capability::OF_NAMES);
    if !nameless.is_empty() {
        say("add", &format!("for better names of processes: {}", how_to_add(&nameless)))?;
    }
    let capture = KernelCapture::start(&pipeline::capture_options(&config.capture)).map_err(|error| {
        anyhow::anyhow!("the kernel cannot be watched: {}", one_line(&format!("{error:#}")))
    })?;
    say("chosen", &format!("{}: {}", capture.backend().name(), capture.reason()))?;
    for program in capture.programs() {
        let verified =
            program.verified.map_or_else(|| "loaded".to_owned(), |n| format!("{n} instructions verified"));
        say("program", &format!("{}: {verified}", program.name))?;
    }
    Ok(())
}

/// What to write where, for those who are not simply root.
fn how_to_add(missing: &[Capability]) -> String {
    let names: Vec<String> = missing.iter().map(|missing| format!("CAP_{}", missing.name())).collect();
    format!(
        "in Kubernetes {}; with systemd AmbientCapabilities={}; at a shell sudo",
        rights::kubernetes(missing),
        names.join(" ")
    )
}

/// Why kprobes are refused to those who hold what the other ways of capture take.
fn restricted_perf_events(missing: &[Capability]) -> String {
    format!(
        "for kprobe: kernel.perf_event_paranoid is above 2, so perf_event_open asks for CAP_SYS_ADMIN: on the node sysctl \
         kernel.perf_event_paranoid=2, or {}",
        how_to_add(missing)
    )
}

/// What refuses although capabilities are held.
fn obstacles() -> Vec<String> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let mut found = Vec::new();
    if read("/proc/self/status").lines().any(|line| line.starts_with("Seccomp:") && line.ends_with('2')) {
        found.push(
            "a seccomp filter is in force: it has to allow bpf (in Kubernetes securityContext.seccompProfile)".into(),
        );
    }
    if read("/sys/kernel/security/lockdown").contains("[confidentiality]") {
        found.push("lockdown=confidentiality: the kernel lets no program read its memory; boot with lockdown=integrity".into());
    }
    // The first namespace maps all ids onto themselves (user_namespaces(7)).
    let map = read("/proc/self/uid_map");
    if !map.is_empty() && map.split_whitespace().ne(["0", "0", "4294967295"]) {
        found.push(
            "a user namespace: its capabilities do not count for the kernel (in Kubernetes hostUsers: true)"
                .into(),
        );
    }
    found
}

/// Verifier logs have many lines; the last one says what is wrong.
fn one_line(text: &str) -> String {
    let mut lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    match (lines.pop(), lines.first()) {
        (Some(last), Some(first)) => format!("{first} … {last}"),
        (Some(only), None) => only.to_owned(),
        (None, _) => String::new(),
    }
}
