//! What all targets have in common.

use std::time::Duration;

/// Most that one input may take (threat T1).
const INPUT_TIME_MAX: Duration = Duration::from_millis(100);

/// Runs a target on one input, and panics if that takes too long. Counted is the thread's own time, which a busy
/// machine does not add to.
pub fn within_time(run: impl FnOnce()) {
    let before = thread_time();
    run();
    let took = thread_time().saturating_sub(before);
    assert!(took <= INPUT_TIME_MAX, "T1: one input took {took:?}");
}

/// Looks like the beginning of a flow: an input of somebody else's corpus, to be read as it is.
pub fn is_recorded_flow(data: &[u8]) -> bool {
    is_of_a_client(data) || data.starts_with(&[0, 0]) || data.starts_with(b"HTTP/1.1 ")
}

/// The beginning of a client's flow.
pub fn is_of_a_client(data: &[u8]) -> bool {
    [b"PRI * ".as_slice(), b"GET /", b"POST /"].iter().any(|begin| data.starts_with(begin))
}

fn thread_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a timespec that lives through the call.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    assert_eq!(result, 0, "the clock of the thread");
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
