//! The capabilities that the agent can use (capabilities(7)), what for, and which are missing.

use anyhow::{Context as _, Result};
use rustix::thread::{CapabilitySet, capabilities};

use crate::capture::kernel::Backend;

/// A capability that makes a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Capability {
    /// Creates maps and loads programs (Linux 5.8).
    Bpf,
    /// Loads programs that read kernel memory, and attaches them to the kernel's hooks (Linux 5.8).
    Perfmon,
    /// Raises the limit of locked memory, against which maps count before Linux 5.11.
    SysResource,
    /// Reads `/proc/PID/exe` and `/proc/PID/environ` of other users' processes.
    SysPtrace,
    /// Opens `/proc/PID/environ`, which belongs to the process' user.
    DacReadSearch,
    /// Attaches kprobes where `kernel.perf_event_paranoid` is above 2, a value that kernels of some distributions have. It
    /// contains the first two.
    SysAdmin,
}

impl Capability {
    /// All of them.
    pub const ALL: [Capability; 6] = [
        Capability::Bpf,
        Capability::Perfmon,
        Capability::SysResource,
        Capability::SysPtrace,
        Capability::DacReadSearch,
        Capability::SysAdmin,
    ];

    /// Those that are kept: without them processes of other users have worse names, or none.
    pub const OF_NAMES: [Capability; 2] = [Capability::SysPtrace, Capability::DacReadSearch];

    /// Those without which a way of capture cannot be loaded. Each was taken away alone, and nothing else is needed. `restricted`
    /// says that perf events are ([`crate::capture::kernel::probe::restricts_perf_events`]): kprobes are attached by them.
    #[must_use]
    pub fn to_load(backend: Backend, restricted: bool) -> &'static [Capability] {
        match backend {
            Backend::Kprobe if restricted => &[Capability::SysAdmin],
            Backend::TpBtf | Backend::Fexit | Backend::Kprobe => &[Capability::Bpf, Capability::Perfmon],
        }
    }

    /// As Kubernetes writes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Capability::Bpf => "BPF",
            Capability::Perfmon => "PERFMON",
            Capability::SysResource => "SYS_RESOURCE",
            Capability::SysPtrace => "SYS_PTRACE",
            Capability::DacReadSearch => "DAC_READ_SEARCH",
            Capability::SysAdmin => "SYS_ADMIN",
        }
    }

    /// What it is for, as the end of a sentence.
    #[must_use]
    pub fn purpose(self) -> &'static str {
        match self {
            Capability::Bpf => "to create maps and load programs",
            Capability::Perfmon => "to attach them to the kernel's hooks",
            Capability::SysResource => "to hold maps, which are locked memory before Linux 5.11",
            Capability::SysPtrace => "to read the executables of other users' processes",
            Capability::DacReadSearch => "to read OTEL_SERVICE_NAME of other users' processes",
            Capability::SysAdmin => "to attach kprobes where kernel.perf_event_paranoid is above 2",
        }
    }

    pub(super) fn set(self) -> CapabilitySet {
        match self {
            Capability::Bpf => CapabilitySet::BPF,
            Capability::Perfmon => CapabilitySet::PERFMON,
            Capability::SysResource => CapabilitySet::SYS_RESOURCE,
            Capability::SysPtrace => CapabilitySet::SYS_PTRACE,
            Capability::DacReadSearch => CapabilitySet::DAC_READ_SEARCH,
            Capability::SysAdmin => CapabilitySet::SYS_ADMIN,
        }
    }
}

/// What this process holds.
#[derive(Clone, Copy, Debug)]
pub struct Held(CapabilitySet);

impl Held {
    /// The capabilities in effect for the calling thread.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn now() -> Result<Self> {
        Ok(Held(capabilities(None).context("ask for the capabilities of this process")?.effective))
    }

    /// Whether it is held, or what contains it: `CAP_SYS_ADMIN` was split into `CAP_BPF`, `CAP_PERFMON` and a rest.
    #[must_use]
    pub fn has(self, capability: Capability) -> bool {
        let by_admin = matches!(capability, Capability::Bpf | Capability::Perfmon);
        self.0.contains(capability.set()) || by_admin && self.0.contains(CapabilitySet::SYS_ADMIN)
    }

    /// Those of a list that are not held.
    #[must_use]
    pub fn missing(self, wanted: &[Capability]) -> Vec<Capability> {
        wanted.iter().copied().filter(|capability| !self.has(*capability)).collect()
    }
}

/// How they are asked for in the manifest of a container.
#[must_use]
pub fn kubernetes(capabilities: &[Capability]) -> String {
    let names: Vec<String> =
        capabilities.iter().map(|capability| format!("\"{}\"", capability.name())).collect();
    format!("securityContext.capabilities.add: [{}]", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_what_is_neither_held_nor_part_of_what_is_held() {
        let missing = |held: CapabilitySet| {
            Held(held).missing(&Capability::ALL).iter().map(|c| c.name()).collect::<Vec<_>>()
        };
        assert_eq!(
            missing(CapabilitySet::empty()),
            ["BPF", "PERFMON", "SYS_RESOURCE", "SYS_PTRACE", "DAC_READ_SEARCH", "SYS_ADMIN"]
        );
        assert_eq!(missing(CapabilitySet::SYS_ADMIN), ["SYS_RESOURCE", "SYS_PTRACE", "DAC_READ_SEARCH"]);
        assert_eq!(
            missing(CapabilitySet::BPF | CapabilitySet::SYS_PTRACE),
            ["PERFMON", "SYS_RESOURCE", "DAC_READ_SEARCH", "SYS_ADMIN"]
        );
    }

    #[test]
    fn kprobes_take_more_where_perf_events_are_restricted_and_nothing_else_does() {
        let holds = |held: CapabilitySet, backend, restricted| {
            Held(held).missing(Capability::to_load(backend, restricted)).is_empty()
        };
        let two = CapabilitySet::BPF | CapabilitySet::PERFMON;
        for backend in Backend::ALL {
            assert!(holds(two, backend, false), "{}", backend.name());
            assert_eq!(holds(two, backend, true), backend != Backend::Kprobe, "{}", backend.name());
            assert!(holds(CapabilitySet::SYS_ADMIN, backend, true), "{}", backend.name());
        }
    }

    #[test]
    fn what_is_to_be_added_is_written_as_kubernetes_wants_it() {
        assert_eq!(
            kubernetes(&[Capability::Bpf, Capability::Perfmon]),
            r#"securityContext.capabilities.add: ["BPF", "PERFMON"]"#
        );
    }
}
