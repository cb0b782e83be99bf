//! What this process uses: CPU time of all its threads, and memory.

use std::fs;

use super::Usage;
use crate::own_process::page_bytes;

/// Usage now. Memory is what is resident and not shared with a file or the kernel (proc_pid_statm(5): resident less shared), and
/// `ring_bytes` once, which are mapped twice and are no memory of the process by that count. Other kernel maps are not in it.
#[must_use]
pub fn usage(ring_bytes: u64) -> Usage {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let own = own_pages(&statm).map(|pages| pages.saturating_mul(page_bytes()));
    Usage { cpu_ns: cpu_ns(), memory_bytes: own.map(|own| own.saturating_add(ring_bytes)) }
}

fn cpu_ns() -> Option<u64> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place for the result.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    let ns = time.tv_sec.unsigned_abs().saturating_mul(1_000_000_000) + time.tv_nsec.unsigned_abs();
    (result == 0).then_some(ns)
}

/// The second number less the third.
fn own_pages(statm: &str) -> Option<u64> {
    let mut numbers = statm.split_ascii_whitespace().skip(1).map(str::parse::<u64>);
    let (resident, shared) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    Some(resident.saturating_sub(shared))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_what_is_resident_and_not_shared() {
        assert_eq!(own_pages("9000 700 200 5 0 400 0\n"), Some(500));
        assert_eq!(own_pages("9000 100 200 5 0 400 0\n"), Some(0));
        assert_eq!(own_pages(""), None);
        assert_eq!(own_pages("1 x 2"), None);
    }

    #[test]
    fn what_this_process_allocates_and_computes_shows() {
        let before = usage(1 << 20);
        let mut block = vec![0u8; 64 << 20];
        for (place, byte) in block.iter_mut().enumerate() {
            *byte = place as u8;
        }
        let after = usage(1 << 20);
        assert!(std::hint::black_box(block).len() == 64 << 20);
        let (before_bytes, after_bytes) =
            (before.memory_bytes.expect("proc"), after.memory_bytes.expect("proc"));
        assert!(after_bytes > before_bytes + (60 << 20), "{before_bytes} and {after_bytes}");
        assert!(after.cpu_ns > before.cpu_ns);
    }
}
