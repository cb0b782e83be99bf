//! What the running agent may not do, and some of what it has to.

use std::ffi::CString;
use std::fs::File;
use std::time::Duration;

use agent::rights::{self, Later, RightsConfig};
use anyhow::Context as _;
use clap::ValueEnum;

/// Something to do once rights are given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Deed {
    /// Become another program.
    Execute,
    /// Make a process.
    Fork,
    /// Make a socket.
    Socket,
    /// Open a file for writing.
    Write,
    /// Signal another process.
    Kill,
    /// Stop another process to look into it.
    Trace,
    /// Read another process' memory.
    ReadMemory,
    /// Load a kernel program.
    LoadProgram,
    /// Make memory executable.
    ExecutableMemory,
    /// Get capabilities back.
    Capabilities,
    /// Read a file, start threads, sleep, take random numbers.
    Work,
    /// Panic, with a backtrace.
    Panic,
    /// Abort.
    Abort,
}

/// Does it; comes back only if it was allowed.
pub(super) fn commit(deed: Deed) -> anyhow::Result<()> {
    let path = CString::new("/bin/true").context("a path")?;
    let parent = std::os::unix::process::parent_id() as libc::pid_t;
    let file = std::env::temp_dir().join(format!("grpcscope-breach-{}", std::process::id()));
    let zeros = [0_u8; 128];
    rights::give_up(RightsConfig::default(), Later::default(), &|| Ok(()))?;
    let result = match deed {
        // SAFETY: for all of these: the arguments are numbers, or point to memory that is valid for the call.
        Deed::Execute => unsafe {
            libc::execv(path.as_ptr(), [path.as_ptr(), std::ptr::null()].as_ptr()) as libc::c_long
        },
        // SAFETY: the child does nothing.
        Deed::Fork => unsafe { libc::c_long::from(libc::fork()) },
        // SAFETY: numbers.
        Deed::Socket => unsafe { libc::c_long::from(libc::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)) },
        Deed::Write => File::create(&file).map_or(-1, |_| 0),
        // SAFETY: signal 0 asks only whether it might be sent.
        Deed::Kill => unsafe { libc::c_long::from(libc::kill(parent, 0)) },
        // SAFETY: numbers.
        Deed::Trace => unsafe { libc::ptrace(libc::PTRACE_SEIZE, parent, 0, 0) },
        // SAFETY: nothing is read into nothing.
        Deed::ReadMemory => unsafe {
            libc::process_vm_readv(parent, std::ptr::null(), 0, std::ptr::null(), 0, 0) as libc::c_long
        },
        // SAFETY: 5 is BPF_PROG_LOAD, which reads the attributes.
        Deed::LoadProgram => unsafe { libc::syscall(libc::SYS_bpf, 5, zeros.as_ptr(), zeros.len()) },
        Deed::ExecutableMemory => {
            let (access, kind) = (libc::PROT_READ | libc::PROT_EXEC, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            // SAFETY: new memory at no place in particular.
            unsafe { libc::mmap(std::ptr::null_mut(), 4096, access, kind, -1, 0) as libc::c_long }
        }
        // SAFETY: the kernel only reads.
        Deed::Capabilities => unsafe { libc::syscall(libc::SYS_capset, zeros.as_ptr(), zeros.as_ptr()) },
        Deed::Work => return work(),
        Deed::Panic => panic!("on purpose"),
        Deed::Abort => std::process::abort(),
    };
    println!("{deed:?} came back with {result}");
    Ok(())
}

fn work() -> anyhow::Result<()> {
    let numbers = std::collections::hash_map::RandomState::new();
    let threads: Vec<_> = (0..4)
        .map(|number| {
            std::thread::Builder::new().name(format!("t{number}")).spawn(|| {
                std::thread::sleep(Duration::from_millis(1));
                vec![0_u8; 8 << 20].len()
            })
        })
        .collect::<Result<_, _>>()
        .context("start threads")?;
    for thread in threads {
        anyhow::ensure!(thread.join().is_ok_and(|length| length == 8 << 20), "a thread panicked");
    }
    let status = std::fs::read_to_string("/proc/self/status").context("read a file")?;
    anyhow::ensure!(status.contains("NoNewPrivs:\t1"), "{status}");
    println!("worked {}", std::hash::BuildHasher::hash_one(&numbers, status.len()) & 1);
    Ok(())
}
