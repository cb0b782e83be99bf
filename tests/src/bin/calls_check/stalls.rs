//! How long this machine stands still: an emulated processor that is not run for seconds runs nothing meanwhile, and its clock
//! goes on.
//!
//! What happens on the wire and what programs say of it are then as far apart as the longest of such pauses: a server may
//! stand still inside of its send, after the client has read what was sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often each processor is looked at.
const EVERY: Duration = Duration::from_millis(20);

/// A thread on each processor that sleeps, and sees how late it wakes.
pub(crate) struct Stalls {
    stop: Arc<AtomicBool>,
    longest_ns: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Stalls {
    /// From now on.
    pub(crate) fn begin() -> Self {
        let (stop, longest_ns) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = (0..processors)
            .map(|processor| {
                let (stop, longest_ns) = (Arc::clone(&stop), Arc::clone(&longest_ns));
                std::thread::spawn(move || watch(processor, &stop, &longest_ns))
            })
            .collect();
        Stalls { stop, longest_ns, threads }
    }

    /// The longest until now, in nanoseconds.
    pub(crate) fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            // A thread that panicked has said so.
            let _ = thread.join();
        }
        self.longest_ns.load(Ordering::Relaxed)
    }
}

fn watch(processor: usize, stop: &AtomicBool, longest_ns: &AtomicU64) {
    // SAFETY: a set of zeros is an empty set; the processor is one of a few; zero names this thread.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(processor % libc::CPU_SETSIZE as usize, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set);
    }
    while !stop.load(Ordering::Relaxed) {
        let before = Instant::now();
        std::thread::sleep(EVERY);
        let late = before.elapsed().saturating_sub(EVERY);
        longest_ns.fetch_max(u64::try_from(late.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}
