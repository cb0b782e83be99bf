//! What the agent itself uses, from `/proc/self` (proc(5)). What cannot be read is not exported.

use std::fs;

/// Memory, CPU and files of this process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Usage {
    pub(crate) resident_bytes: Option<u64>,
    pub(crate) cpu_seconds: Option<f64>,
    pub(crate) open_fds: Option<u64>,
    pub(crate) start_seconds: Option<f64>,
}

/// Usage now.
pub(crate) fn usage() -> Usage {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let kernel = fs::read_to_string("/proc/stat").unwrap_or_default();
    let ticks_per_second = sysconf(libc::_SC_CLK_TCK).unwrap_or(100) as f64;
    Usage { open_fds: open_fds(), ..parse(&stat, &kernel, ticks_per_second, page_bytes()) }
}

fn open_fds() -> Option<u64> {
    // One of them is the directory that is being read.
    fs::read_dir("/proc/self/fd").ok().map(|entries| (entries.count() as u64).saturating_sub(1))
}

/// Bytes of a page of memory.
pub(crate) fn page_bytes() -> u64 {
    sysconf(libc::_SC_PAGESIZE).unwrap_or(4096)
}

fn sysconf(name: libc::c_int) -> Option<u64> {
    // SAFETY: sysconf takes any number, and touches no memory of ours.
    u64::try_from(unsafe { libc::sysconf(name) }).ok()
}

/// Fields of `/proc/PID/stat` are counted from after the command name, which may contain anything: state is
/// field 3.
fn parse(stat: &str, kernel: &str, ticks_per_second: f64, page_bytes: u64) -> Usage {
    let fields: Vec<&str> =
        stat.rsplit_once(')').map(|(_, rest)| rest.split_ascii_whitespace().collect()).unwrap_or_default();
    let number = |field: usize| fields.get(field - 3).and_then(|text| text.parse::<u64>().ok());
    let seconds = |ticks: u64| ticks as f64 / ticks_per_second;
    let boot = kernel
        .lines()
        .find_map(|line| line.strip_prefix("btime "))
        .and_then(|text| text.trim().parse::<u64>().ok());
    Usage {
        resident_bytes: number(24).map(|pages| pages * page_bytes),
        cpu_seconds: number(14).zip(number(15)).map(|(user, system)| seconds(user + system)),
        open_fds: None,
        start_seconds: boot.zip(number(22)).map(|(boot, start)| boot as f64 + seconds(start)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_behind_a_name_with_parentheses() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194304 9 0 0 0 150 50 0 0 20 0 3 0 700 1000 25 0 0\n";
        let usage = parse(stat, "cpu 1 2\nbtime 1000\n", 100.0, 4096);
        assert_eq!(
            usage,
            Usage {
                resident_bytes: Some(25 * 4096),
                cpu_seconds: Some(2.0),
                open_fds: None,
                start_seconds: Some(1007.0)
            }
        );
    }

    #[test]
    fn this_process_uses_something() {
        let usage = usage();
        assert!(usage.resident_bytes > Some(100_000));
        assert!(usage.cpu_seconds >= Some(0.0));
        assert!(usage.open_fds > Some(0));
        assert!(usage.start_seconds > Some(1e9));
    }

    #[test]
    fn what_is_not_there_is_not_known() {
        assert_eq!(parse("", "", 100.0, 4096), Usage::default());
    }
}
