//! Processor time of the running thread: what other programs do meanwhile does not count.

use std::time::Duration;

/// Processor time that `run` takes.
pub(crate) fn time_of(run: impl FnOnce()) -> Duration {
    let before = now();
    run();
    now() - before
}

fn now() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a timespec that lives through the call.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(result, 0, "the clock of the thread");
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
