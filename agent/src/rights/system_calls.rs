//! The system calls of the running agent, after everything is attached (seccomp(2)).
//!
//! Measured with `strace -f` for `run`, `calls` and `findings --live`, in the debug and the release build: scrapes of every
//! page, refused requests, HTTP/2 on the server's port, processes that come and go, SIGTERM and SIGINT, a panic with a backtrace.
//! To these were added what takes the place of a measured call on another machine (`clock_gettime` without a vDSO, `restart_syscall`
//! after SIGSTOP, the names without `at` of the x86 table) and what the allocator calls under load.
//!
//! What is left out is what the list is for: no program is started, no socket is made, no file is opened for writing, no memory
//! becomes executable, no other process is touched or signalled, and of bpf(2) only maps are read.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter,
};

use super::{Later, SystemCalls, violation};

/// Allowed with any arguments.
const ANY: &[c_long] = &[
    // The ring, files under /proc, the output and the log.
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_lseek,
    libc::SYS_close,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    libc::SYS_getcwd,
    // Waiting.
    libc::SYS_ppoll,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_create1,
    libc::SYS_eventfd2,
    libc::SYS_futex,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_restart_syscall,
    libc::SYS_sched_yield,
    // The HTTP server's connections; it listens already.
    libc::SYS_accept4,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_shutdown,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    // Memory; mmap and mprotect are below.
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    // Threads and signals; how they start is below.
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // What asks for nothing but numbers.
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_clock_gettime,
    libc::SYS_gettimeofday,
    libc::SYS_getrandom,
    libc::SYS_sched_getaffinity,
    libc::SYS_getcpu,
    libc::SYS_sysinfo,
];

/// The same under their older names.
#[cfg(target_arch = "x86_64")]
const ANY_OF_X86: &[c_long] = &[
    libc::SYS_poll,
    libc::SYS_epoll_wait,
    libc::SYS_readlink,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_time,
];
#[cfg(not(target_arch = "x86_64"))]
const ANY_OF_X86: &[c_long] = &[];

/// To write a file in place of an older one.
const WRITING_A_FILE: &[c_long] = &[
    libc::SYS_openat,
    libc::SYS_mkdirat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_unlinkat,
    libc::SYS_fsync,
];
#[cfg(target_arch = "x86_64")]
const WRITING_ON_X86: &[c_long] = &[libc::SYS_open, libc::SYS_mkdir, libc::SYS_rename, libc::SYS_unlink];
#[cfg(not(target_arch = "x86_64"))]
const WRITING_ON_X86: &[c_long] = &[];

/// `BPF_MAP_LOOKUP_ELEM` of bpf(2).
const BPF_MAP_LOOKUP_ELEM: u64 = 1;
/// What loading and attaching takes of bpf(2), by numbers of linux/bpf.h: maps are created, filled and frozen (0, 2, 22), programs and
/// types loaded (5, 18), looked at (15) and attached (17, 28), and it is found out what the kernel can (35).
const BPF_LOADING: [u64; 9] = [0, 2, 5, 15, 17, 18, 22, 28, 35];
/// `PERF_EVENT_IOC_ENABLE`, `_DISABLE` and `_SET_BPF`: how kprobes are attached and detached.
const PERF_EVENT_IOC: [u64; 3] = [0x2400, 0x2401, 0x4004_2408];
/// `TCGETS` and `TCGETS2`, by which C libraries ask whether something is a terminal, `TIOCGWINSZ` and `FIONBIO`, by the numbers of
/// asm-generic/ioctls.h (C libraries give them different types).
const IOCTLS: [u64; 4] = [0x5401, 0x802c_542a, 0x5413, 0x5421];
/// `PR_SET_VMA`: names of memory, which the C library gives to its own when it is told to.
const PR_SET_VMA: u64 = 0x5356_4d41;
/// Every way of opening a file that is not reading it. `O_TMPFILE` contains `O_DIRECTORY`, which is harmless.
const WRITING: u64 = (libc::O_ACCMODE
    | libc::O_CREAT
    | libc::O_TRUNC
    | libc::O_APPEND
    | (libc::O_TMPFILE & !libc::O_DIRECTORY)) as u64;

/// Restricts this thread, and those that it starts, to the list, and to what is needed `later`.
pub(super) fn restrict(mode: SystemCalls, later: Later) -> Result<()> {
    let breach = match mode {
        SystemCalls::Any => return Ok(()),
        SystemCalls::Log => SeccompAction::Log,
        SystemCalls::Kill => {
            violation::tell_when_killed().context("handle SIGSYS")?;
            SeccompAction::Trap
        }
    };
    for program in programs(breach, later)? {
        apply_filter(&program).context("set the filter")?;
    }
    Ok(())
}

/// Two filters: the kernel follows the stricter answer. The first lets the C library believe that there is no clone3, whose
/// flags no filter can see; it uses clone then, whose flags the second one looks at. The list comes last, since it has no call
/// that sets a filter.
fn programs(breach: SeccompAction, later: Later) -> Result<[BpfProgram; 2]> {
    let arch: TargetArch = std::env::consts::ARCH.try_into().context("a filter for this processor")?;
    let no_clone3 = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let filters = [
        SeccompFilter::new(no_clone3, SeccompAction::Allow, SeccompAction::Errno(libc::ENOSYS as u32), arch)?,
        SeccompFilter::new(rules(later)?, breach, SeccompAction::Allow, arch)?,
    ];
    let [no_clone3, list] = filters.map(BpfProgram::try_from);
    Ok([no_clone3.context("compile the filter of clone3")?, list.context("compile the list")?])
}

fn rules(later: Later) -> Result<BTreeMap<i64, Vec<SeccompRule>>> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        ANY.iter().chain(ANY_OF_X86).map(|call| (*call, Vec::new())).collect();
    rules.insert(libc::SYS_clone3, Vec::new());
    let own = u64::from(std::process::id());
    let one_of = |argument, values: &[u64]| {
        values.iter().map(|value| equal(argument, *value)).collect::<Result<Vec<_>>>()
    };
    let threads = (libc::CLONE_THREAD | libc::CLONE_VM) as u64;
    rules.extend([
        (libc::SYS_openat, vec![masked(2, WRITING, 0)?]),
        (libc::SYS_mmap, vec![masked(2, libc::PROT_EXEC as u64, 0)?]),
        (libc::SYS_mprotect, vec![masked(2, libc::PROT_EXEC as u64, 0)?]),
        (libc::SYS_clone, vec![masked(0, threads, threads)?]),
        // abort() and the handler of a breach.
        (libc::SYS_tgkill, one_of(0, &[own])?),
        (libc::SYS_bpf, one_of(0, &[BPF_MAP_LOOKUP_ELEM])?),
        (libc::SYS_prctl, one_of(0, &[libc::PR_SET_NAME as u64, PR_SET_VMA])?),
        // How signals reach the runtime.
        (libc::SYS_socketpair, one_of(0, &[libc::AF_UNIX as u64])?),
        (libc::SYS_ioctl, one_of(1, &[&IOCTLS[..], &PERF_EVENT_IOC[..]].concat())?),
        (
            libc::SYS_fcntl,
            one_of(
                1,
                &[libc::F_GETFD, libc::F_SETFD, libc::F_GETFL, libc::F_SETFL, libc::F_DUPFD_CLOEXEC]
                    .map(|f| f as u64),
            )?,
        ),
    ]);
    if later.change {
        rules.entry(libc::SYS_bpf).or_default().extend(one_of(0, &BPF_LOADING)?);
        // Capabilities can be put in force only as far as they are permitted.
        for call in [libc::SYS_perf_event_open, libc::SYS_capget, libc::SYS_capset, libc::SYS_uname] {
            rules.insert(call, Vec::new());
        }
    }
    #[cfg(target_arch = "x86_64")]
    rules.insert(libc::SYS_open, vec![masked(1, WRITING, 0)?]);
    if later.keep_file {
        rules.extend(WRITING_A_FILE.iter().chain(WRITING_ON_X86).map(|call| (*call, Vec::new())));
    }
    Ok(rules)
}

fn equal(argument: u8, value: u64) -> Result<SeccompRule> {
    rule(argument, SeccompCmpOp::Eq, value)
}

fn masked(argument: u8, mask: u64, value: u64) -> Result<SeccompRule> {
    rule(argument, SeccompCmpOp::MaskedEq(mask), value)
}

/// All arguments that are looked at are of 32 bits; of clone the flags above these are clone3's.
fn rule(argument: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompRule> {
    let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)?;
    Ok(SeccompRule::new(vec![condition])?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filters_compile_and_are_far_from_the_limit_of_the_kernel() {
        let [no_clone3, list] =
            programs(SeccompAction::Trap, Later { change: true, keep_file: true, ..Later::default() })
                .expect("they compile");
        // BPF_MAXINSNS of linux/bpf_common.h.
        assert!((100..4096).contains(&list.len()), "{}", list.len());
        assert!(!no_clone3.is_empty());
    }

    #[test]
    fn nothing_on_the_list_starts_programs_makes_sockets_or_touches_processes() {
        let rules = rules(Later::default()).expect("rules");
        for refused in [
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_socket,
            libc::SYS_connect,
            libc::SYS_bind,
            libc::SYS_ptrace,
            libc::SYS_process_vm_readv,
            libc::SYS_process_vm_writev,
            libc::SYS_kill,
            libc::SYS_tkill,
            libc::SYS_pidfd_open,
            libc::SYS_pidfd_getfd,
            libc::SYS_perf_event_open,
            libc::SYS_setuid,
            libc::SYS_capset,
            libc::SYS_seccomp,
            libc::SYS_unlinkat,
            libc::SYS_renameat2,
            libc::SYS_mount,
            libc::SYS_openat2,
            libc::SYS_io_uring_setup,
            libc::SYS_memfd_create,
            libc::SYS_userfaultfd,
            libc::SYS_init_module,
        ] {
            assert!(!rules.contains_key(&refused), "{refused}");
        }
        for limited in [
            libc::SYS_openat,
            libc::SYS_mmap,
            libc::SYS_mprotect,
            libc::SYS_clone,
            libc::SYS_bpf,
            libc::SYS_tgkill,
        ] {
            assert!(rules.get(&limited).is_some_and(|rules| !rules.is_empty()), "{limited}");
        }
    }
}
