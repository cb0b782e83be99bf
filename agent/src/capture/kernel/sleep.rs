//! When the ring is looked at.
//!
//! Waking costs the agent some fifty microseconds whatever there is to read, so it wakes seldom by itself. The kernel side wakes it
//! earlier: when much waits (the watermark), and when a connection was opened, whose process may not live for long
//! (`agent-ebpf`, `send`).

use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::time::Duration;

use agent_common::ring::OPEN_WAKES_EVERY_NS;
use anyhow::{Context as _, Result};

/// Longest sleep.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Longest sleep after a connection was opened: the next ones wake nobody for so long.
const LOOK_AFTER_OPEN: Duration = Duration::from_nanos(OPEN_WAKES_EVERY_NS);
/// Bytes a second that records without a part in the watermark (ends of connections, bytes that nobody saw) may take of the ring
/// before it fills up in a sleep. Some millions of records; a small ring is looked at more often.
const BESIDE_WATERMARK: u64 = 320_000_000;

/// Sleeps, and is woken by the kernel side.
#[derive(Debug)]
pub(super) struct Sleep {
    epoll: OwnedFd,
    longest: Duration,
}

impl Sleep {
    /// Between looks at `ring`.
    pub(super) fn new(ring: &impl AsFd, ring_bytes: u32) -> Result<Self> {
        // SAFETY: touches no memory.
        let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if epoll < 0 {
            return Err(std::io::Error::last_os_error()).context("make an epoll for the ring");
        }
        // SAFETY: the descriptor was just opened, and nobody else has it.
        let epoll = unsafe { OwnedFd::from_raw_fd(epoll) };
        // The ring is readable as soon as anything waits, watermark or not, so that by level each sleep would end with the next
        // record: by edge it ends when the kernel side says so.
        let mut event = libc::epoll_event { events: (libc::EPOLLIN | libc::EPOLLET) as u32, u64: 0 };
        let ring = ring.as_fd().as_raw_fd();
        // SAFETY: both descriptors are open, and the event is read before the call returns.
        let added = unsafe { libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, ring, &raw mut event) };
        if added < 0 {
            return Err(std::io::Error::last_os_error()).context("wait for the ring");
        }
        Ok(Sleep { epoll, longest: longest(ring_bytes) })
    }

    /// Sleeps until the kernel side wakes the reader, at most for `timeout` and no longer than records may wait; `opened` says
    /// that those read last were of a new connection.
    pub(super) fn sleep(&self, timeout: Duration, opened: bool) -> Result<()> {
        let longest = if opened { self.longest.min(LOOK_AFTER_OPEN) } else { self.longest };
        let milliseconds = timeout.min(longest).as_millis().clamp(1, 1000) as i32;
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        // SAFETY: there is room for the one event.
        let woken = unsafe { libc::epoll_wait(self.epoll.as_raw_fd(), &raw mut event, 1, milliseconds) };
        if woken < 0 {
            let error = std::io::Error::last_os_error();
            if error.kind() != std::io::ErrorKind::Interrupted {
                return Err(error).context("wait for the ring");
            }
        }
        Ok(())
    }
}

fn longest(ring_bytes: u32) -> Duration {
    let fills = Duration::from_nanos(u64::from(ring_bytes) * 1_000_000_000 / BESIDE_WATERMARK);
    fills.clamp(LOOK_AFTER_OPEN, LOOK_EVERY)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read as _, Write as _};
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_small_ring_is_looked_at_more_often() {
        assert_eq!(longest(16 << 20), Duration::from_millis(50));
        assert_eq!(longest(256 << 10), Duration::from_millis(5));
        let between = longest(4 << 20);
        assert!(between > Duration::from_millis(12) && between < Duration::from_millis(14), "{between:?}");
    }

    /// A pipe for the ring: readable by level from the first byte to the last, and an edge with each write.
    #[test]
    fn what_waits_ends_no_sleep_and_a_wake_does() {
        let mut ends = [0; 2];
        // SAFETY: there is room for both ends.
        assert_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0);
        // SAFETY: both were just opened.
        let [mut reads, mut writes] = ends.map(|end| unsafe { File::from_raw_fd(end) });
        let sleep = Sleep::new(&reads, 16 << 20).unwrap();
        let slept = |opened| {
            let begin = Instant::now();
            sleep.sleep(Duration::from_secs(1), opened).unwrap();
            begin.elapsed()
        };
        writes.write_all(b"ab").unwrap();
        assert!(slept(false) < Duration::from_millis(40));
        reads.read_exact(&mut [0]).unwrap();
        assert!(slept(false) >= Duration::from_millis(49));
        let short = slept(true);
        assert!(short >= Duration::from_millis(4) && short < Duration::from_millis(40), "{short:?}");
    }
}
