//! What this kernel allows, for `grpcscope check` and for the choice of the backend.

use super::choice::{Backend, BackendChoice, LoopChoice};
use super::{KernelCapture, Options};

/// Where the kernel's type information is.
pub const BTF_PATH: &str = "/sys/kernel/btf/vmlinux";

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

/// `kernel.perf_event_paranoid`.
pub const PERF_EVENT_PARANOID: &str = "/proc/sys/kernel/perf_event_paranoid";

/// Whether perf events, by which kprobes are attached, take `CAP_SYS_ADMIN`: Linux knows no value above 2, and kernels of
/// distributions that do refuse all others (measured on Debian's, whose default is 3).
#[must_use]
pub fn restricts_perf_events() -> bool {
    is_restricted(&std::fs::read_to_string(PERF_EVENT_PARANOID).unwrap_or_default())
}

fn is_restricted(value: &str) -> bool {
    value.trim().parse().is_ok_and(|value: i32| value > 2)
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
    Backend::ALL
        .into_iter()
        .map(|backend| {
            let options = Options {
                ring_bytes: 256 << 10,
                backend: BackendChoice::Only(backend),
                loops: LoopChoice::Auto,
                ..Options::default()
            };
            let result = KernelCapture::start(&options)
                .map(|capture| capture.reason().to_owned())
                .map_err(|error| format!("{error:#}"));
            Probed { name: backend.name(), result }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_value_that_linux_itself_does_not_know_restricts_perf_events() {
        for (value, restricted) in
            [("-1\n", false), ("2\n", false), ("3\n", true), ("4\n", true), ("", false)]
        {
            assert_eq!(is_restricted(value), restricted, "{value:?}");
        }
    }
}
