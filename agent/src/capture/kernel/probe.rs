//! What this kernel allows, for `grpcscope check` and for the choice of the backend.

use anyhow::{Result, bail};

use super::load::{BackendChoice, LoopChoice};
use super::{KernelCapture, Options};

/// Where the kernel's type information is.
pub const BTF_PATH: &str = "/sys/kernel/btf/vmlinux";

/// Whether a program may be preempted by another task on its CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preemption {
    /// `preempt=none` or `voluntary`.
    None,
    /// `full`, `lazy`, or not known.
    Possible,
}

/// One way in, and whether it works here.
#[derive(Clone, Debug)]
pub struct Probed {
    /// Its name.
    pub name: &'static str,
    /// `Ok`: how it attached; `Err`: why it did not.
    pub result: std::result::Result<String, String>,
}

/// Release of the running kernel, as `uname -r` says.
#[must_use]
pub fn kernel_release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_or_else(|_| "unknown".into(), |s| s.trim().into())
}

/// Whether the kernel carries its type information.
#[must_use]
pub fn has_btf() -> bool {
    std::path::Path::new(BTF_PATH).exists()
}

/// The preemption model: what debugfs says, else what the kernel was built as, else the worst.
#[must_use]
pub fn preemption() -> Preemption {
    if let Ok(model) = std::fs::read_to_string("/sys/kernel/debug/sched/preempt") {
        // The model in force stands in parentheses.
        let is = |name: &str| model.contains(&format!("({name})"));
        return if is("none") || is("voluntary") { Preemption::None } else { Preemption::Possible };
    }
    let version = std::fs::read_to_string("/proc/sys/kernel/version").unwrap_or_default();
    if version.is_empty() || version.contains("PREEMPT") { Preemption::Possible } else { Preemption::None }
}

/// Fails with one clear line if this process may not load programs.
pub fn privileges() -> Result<()> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    let has = |bit: u32| effective >> bit & 1 != 0;
    // linux/capability.h: CAP_SYS_ADMIN 21, CAP_PERFMON 38, CAP_BPF 39.
    if has(21) || (has(38) && has(39)) {
        return Ok(());
    }
    bail!(
        "no permission to load kernel programs: run as root, or with CAP_BPF and CAP_PERFMON (in Kubernetes: securityContext.capabilities.add)"
    )
}

/// Programs and maps count as locked memory before 5.11.
pub fn raise_memory_limit() {
    let limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: a valid limit; where it is refused, newer kernels do not need it and older ones say so at load.
    unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) };
}

/// Attaches each backend in turn, and detaches it at once.
#[must_use]
pub fn backends() -> Vec<Probed> {
    [("tp_btf", BackendChoice::TpBtf), ("fexit", BackendChoice::Fexit)]
        .into_iter()
        .map(|(name, backend)| {
            let options =
                Options { ring_bytes: 256 << 10, backend, loops: LoopChoice::Auto, ..Options::default() };
            let result = KernelCapture::start(&options)
                .map(|capture| capture.reason().to_owned())
                .map_err(|error| format!("{error:#}"));
            Probed { name, result }
        })
        .collect()
}
