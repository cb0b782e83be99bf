//! Whether tracepoint programs are interrupted here: tried, since it depends neither on the preemption model alone
//! (tracepoints ran without preemption up to 6.18, and with it in 7.3) nor on a version that could be relied on.
//!
//! A few threads on one CPU make socket calls; where they interrupt each other inside of the program, the kernel
//! skips runs and counts them.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::load::Loaded;
use super::statistics;

/// Threads, so that one that was interrupted has others that meet its program.
const THREADS: usize = 4;
/// How long they run: about 75 ticks of the slowest kernel's clock (250 Hz), each of which interrupts one of them.
const DURATION: Duration = Duration::from_millis(300);

/// Runs of these programs that the kernel skips while threads interrupt each other.
pub(super) fn missed_runs(loaded: &Loaded) -> u64 {
    let missed = || statistics::missed_runs(loaded).iter().map(|(_, runs)| runs).sum::<u64>();
    let before = missed();
    // SAFETY: no arguments; a negative result is refused as a CPU below.
    let cpu = unsafe { libc::sched_getcpu() };
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| make_calls(cpu));
        }
    });
    missed().saturating_sub(before)
}

/// Makes socket calls on one CPU; where it cannot be chosen, on any.
fn make_calls(cpu: i32) {
    if let Ok(cpu) = usize::try_from(cpu)
        && cpu < libc::CPU_SETSIZE as usize
    {
        // SAFETY: a set of zeros is an empty set; the CPU is inside of it; zero names this thread.
        unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            libc::CPU_SET(cpu, &mut set);
            libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set);
        }
    }
    let Ok((mut one, mut other)) = UnixStream::pair() else { return };
    let end = Instant::now() + DURATION;
    // Nothing that could be the start of a frame.
    let mut byte = *b"x";
    while Instant::now() < end {
        if one.write_all(&byte).is_err() || other.read_exact(&mut byte).is_err() {
            return;
        }
    }
}
