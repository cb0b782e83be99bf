//! What the kernel says of a process: processor time, memory; and where it may run.
//!
//! Time in kernel programs is no part of the agent's own: it belongs to whoever made the socket call.

use std::fs;

use anyhow::{Context as _, Result, ensure};

/// Processor time of a process so far, user and system, with threads that have ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cpu {
    nanoseconds: u64,
}

impl Cpu {
    pub(crate) fn plus(self, other: Cpu) -> Cpu {
        Cpu { nanoseconds: self.nanoseconds + other.nanoseconds }
    }

    pub(crate) fn since(self, earlier: Cpu) -> u64 {
        self.nanoseconds.saturating_sub(earlier.nanoseconds)
    }
}

/// From the process's clock: `stat` has hundredths of a second only, and `schedstat` loses threads that have ended.
pub(crate) fn cpu(pid: u32) -> Result<Cpu> {
    let mut clock: libc::clockid_t = 0;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a valid place for the clock's id.
    let found = unsafe { libc::clock_getcpuclockid(pid as libc::pid_t, &raw mut clock) };
    ensure!(found == 0, "process {pid} has no clock: {}", std::io::Error::from_raw_os_error(found));
    // SAFETY: a valid place for the time.
    let read = unsafe { libc::clock_gettime(clock, &raw mut time) };
    ensure!(read == 0, "read the clock of process {pid}: {}", std::io::Error::last_os_error());
    Ok(Cpu { nanoseconds: time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs() })
}

/// Memory of a process, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Memory {
    /// What `ps` and most dashboards show. The ring's pages are in it twice, since they are mapped one after the
    /// other so that a record that wraps is in one piece.
    pub(crate) rss: u64,
    /// Of that, heap and stacks (`RssAnon`).
    pub(crate) anonymous: u64,
    /// Of that, the program's file and the ring (`RssFile`).
    pub(crate) file: u64,
    /// Each page once, shared ones by their share (`Pss`).
    pub(crate) proportional: u64,
}

pub(crate) fn memory(pid: u32) -> Result<Memory> {
    let read = |name: &str| {
        let path = format!("/proc/{pid}/{name}");
        fs::read_to_string(&path).with_context(|| format!("read {path}"))
    };
    let (status, rollup) = (read("status")?, read("smaps_rollup")?);
    let of =
        |text: &str, name: &str| bytes(text, name).with_context(|| format!("process {pid} has no {name}"));
    Ok(Memory {
        rss: of(&status, "VmRSS:")?,
        anonymous: of(&status, "RssAnon:")?,
        file: of(&status, "RssFile:")?,
        proportional: of(&rollup, "Pss:")?,
    })
}

/// A line of proc(5) in kB, which are KiB.
fn bytes(text: &str, name: &str) -> Option<u64> {
    let kib: u64 =
        text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

/// The processors that this program may use.
pub(crate) fn processors() -> Result<Vec<usize>> {
    // SAFETY: plain bits, for which zero is valid.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: a valid place for the set, of this size.
    let read = unsafe { libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) };
    ensure!(read == 0, "ask for the processors: {}", std::io::Error::last_os_error());
    // SAFETY: the number is below the size of the set.
    Ok((0..libc::CPU_SETSIZE as usize).filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &set) }).collect())
}

/// Lets all threads of a process run there and nowhere else.
pub(crate) fn pin(pid: u32, processors: &[usize]) -> Result<()> {
    // SAFETY: plain bits, for which zero is valid.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for cpu in processors {
        // SAFETY: the number comes from a set of this size.
        unsafe { libc::CPU_SET(*cpu, &mut set) };
    }
    // Twice, since a thread may be started meanwhile by one that was not asked yet.
    for _ in 0..2 {
        let folder = format!("/proc/{pid}/task");
        for thread in fs::read_dir(&folder).with_context(|| format!("read {folder}"))? {
            let Some(thread) = thread?.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            // SAFETY: a valid set of this size.
            let done = unsafe { libc::sched_setaffinity(thread, size_of_val(&set), &raw const set) };
            let error = std::io::Error::last_os_error();
            // One that has ended needs no place.
            ensure!(done == 0 || error.raw_os_error() == Some(libc::ESRCH), "pin process {pid}: {error}");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_of_a_process_shows_in_its_processor_time() -> Result<()> {
        let before = cpu(std::process::id())?;
        let mut x = 1_u64;
        while cpu(std::process::id())?.since(before) < 1_000_000 {
            (0..1000).for_each(|n| x = std::hint::black_box(x.wrapping_mul(31) + n));
        }
        let memory = memory(std::process::id())?;
        assert!(memory.rss >= memory.anonymous.max(memory.file) && memory.proportional > 100_000);
        Ok(())
    }

    #[test]
    fn lines_of_proc_are_in_kib() {
        assert_eq!(bytes("Name:\tx\nVmRSS:\t     20 kB\n", "VmRSS:"), Some(20_480));
        assert_eq!(bytes("Name:\tx\n", "VmRSS:"), None);
    }

    #[test]
    fn a_process_runs_where_it_is_pinned() -> Result<()> {
        let mut child = std::process::Command::new("sleep").arg("60").spawn()?;
        let last = *processors()?.last().context("no processor")?;
        let pinned = pin(child.id(), &[last]);
        let status = fs::read_to_string(format!("/proc/{}/status", child.id()));
        child.kill()?;
        child.wait()?;
        pinned?;
        assert!(status?.contains(&format!("Cpus_allowed_list:\t{last}\n")));
        Ok(())
    }
}
