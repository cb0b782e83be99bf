//! How many instructions of a program the verifier follows, on kernels that do not tell of a loaded one.
//!
//! Since 5.16 `bpf_prog_info` has the number. Before, it stands in the verifier's log alone (`processed N insns …`), which
//! aya drops when a program is accepted. So the program is loaded once by a process that may open no descriptor: the
//! verifier accepts it and writes its statistics, then the kernel has no descriptor to give for it, and the load fails with
//! its log.

use std::collections::HashMap;

use aya::programs::{Program, ProgramError};
use aya::{Btf as AyaBtf, Ebpf, EbpfLoader, VerifierLogLevel};

use super::btf::Btf;

/// The numbers that were found by the log, by program.
pub(super) struct ByLog(Option<HashMap<String, u32>>);

impl ByLog {
    /// Counts if that was asked for and the kernel will not tell by itself.
    pub(super) fn new(wanted: bool, btf: &Btf<'_>) -> Self {
        let kernel_tells = btf.member("bpf_prog_info", "verified_insns").is_ok();
        ByLog((wanted && !kernel_tells).then(HashMap::new))
    }

    /// Makes the loader ask for the statistics and for nothing else: a whole log has megabytes, and takes minutes.
    pub(super) fn prepare(&self, loader: &mut EbpfLoader<'_>) {
        if self.0.is_some() {
            loader.verifier_log_level(VerifierLogLevel::STATS);
        }
    }

    /// Finds the number for a program that is about to be loaded.
    pub(super) fn count(&mut self, ebpf: &mut Ebpf, name: &str, function: &str, kernel: &AyaBtf) {
        if let Some(counts) = &mut self.0
            && let Some(program) = ebpf.program_mut(name)
            && let Some(count) = count(program, function, kernel)
        {
            counts.insert(name.to_owned(), count);
        }
    }

    /// The number of a loaded program, from the kernel or from the log.
    pub(super) fn of(&self, name: &str, program: &Program) -> Option<u32> {
        let told = program.info().ok().and_then(|info| info.verified_instruction_count());
        told.or_else(|| self.0.as_ref()?.get(name).copied())
    }
}

fn count(program: &mut Program, function: &str, kernel: &AyaBtf) -> Option<u32> {
    let no_descriptors = NoDescriptors::begin()?;
    let result = match program {
        Program::BtfTracePoint(tracepoint) => tracepoint.load(function, kernel),
        Program::FExit(exit) => exit.load(function, kernel),
        Program::KProbe(probe) => probe.load(),
        _ => return None,
    };
    drop(no_descriptors);
    match result {
        Err(ProgramError::LoadError { verifier_log, .. }) => in_log(&verifier_log.to_string()),
        _ => None,
    }
}

/// While it lives, this process opens no descriptor.
struct NoDescriptors(libc::rlimit);

impl NoDescriptors {
    fn begin() -> Option<Self> {
        let mut before = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: a valid place for the limit.
        if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut before) } != 0 {
            return None;
        }
        let none = libc::rlimit { rlim_cur: 0, rlim_max: before.rlim_max };
        // SAFETY: a valid limit.
        (unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const none) } == 0)
            .then_some(NoDescriptors(before))
    }
}

impl Drop for NoDescriptors {
    fn drop(&mut self) {
        // SAFETY: the limit that was read before; the hard one is unchanged, so this is allowed.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const self.0) };
    }
}

/// `processed 24562 insns (limit 1000000) max_states_per_insn …`
fn in_log(log: &str) -> Option<u32> {
    let line = log.lines().rev().find_map(|line| line.trim().strip_prefix("processed "))?;
    line.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_the_number_of_the_last_line_of_statistics() {
        let log = "verification time 1093 usec\nstack depth 8+16\nprocessed 24562 insns (limit 1000000) max_states 4\n";
        assert_eq!(in_log(log), Some(24562));
        assert_eq!(in_log("R1 type=ctx expected=fp"), None);
        assert_eq!(in_log("processed many insns"), None);
    }

    #[test]
    fn without_descriptors_nothing_opens_and_afterwards_it_does() {
        // In a process of its own: other tests of this one open files.
        // SAFETY: the child calls nothing but system calls and leaves.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let guard = NoDescriptors::begin();
            // SAFETY: system calls with valid arguments.
            let code = unsafe {
                let refused = libc::dup(0) < 0 && guard.is_some();
                drop(guard);
                i32::from(!(refused && libc::dup(1) >= 0))
            };
            // SAFETY: leaves without running what belongs to the parent.
            unsafe { libc::_exit(code) };
        }
        let mut status = -1;
        // SAFETY: our own child, and a valid place for its status.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert_eq!(status, 0);
    }
}
