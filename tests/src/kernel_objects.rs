//! Programs, links and maps of bpf(2): which a process holds, and which of them exist still. Asked for by number alone: a
//! descriptor, even for a moment, would keep alive what is looked for.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

/// Numbers that the kernel gave, by kind; it counts on and gives none again soon.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Objects {
    /// Programs.
    pub programs: BTreeSet<u32>,
    /// What attaches them.
    pub links: BTreeSet<u32>,
    /// Maps.
    pub maps: BTreeSet<u32>,
}

/// `BPF_PROG_GET_NEXT_ID`, `BPF_MAP_GET_NEXT_ID` and `BPF_LINK_GET_NEXT_ID` of linux/bpf.h.
const NEXT_PROGRAM: libc::c_int = 11;
const NEXT_MAP: libc::c_int = 12;
const NEXT_LINK: libc::c_int = 31;

impl Objects {
    /// What a process has open.
    ///
    /// # Errors
    /// When it is gone.
    pub fn of_process(pid: u32) -> anyhow::Result<Self> {
        let mut objects = Objects::default();
        let folder = format!("/proc/{pid}/fdinfo");
        for entry in std::fs::read_dir(&folder).with_context(|| format!("list {folder}"))?.flatten() {
            let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
            let number = |key: &str| {
                text.lines()
                    .find_map(|line| line.strip_prefix(key)?.strip_prefix(":\t")?.trim().parse::<u32>().ok())
            };
            // What is said of a link names its program too.
            objects.links.extend(number("link_id"));
            objects.programs.extend(number("prog_id"));
            objects.maps.extend(number("map_id"));
        }
        Ok(objects)
    }

    /// Everything that the kernel has.
    ///
    /// # Errors
    /// When it does not say, for want of `CAP_SYS_ADMIN`.
    pub fn loaded() -> anyhow::Result<Self> {
        Ok(Objects { programs: all(NEXT_PROGRAM)?, links: all(NEXT_LINK)?, maps: all(NEXT_MAP)? })
    }

    /// Those of them that exist now.
    ///
    /// # Errors
    /// As [`Objects::loaded`].
    pub fn left(&self) -> anyhow::Result<Self> {
        let loaded = Self::loaded()?;
        let both = |a: &BTreeSet<u32>, b: &BTreeSet<u32>| a.intersection(b).copied().collect();
        Ok(Objects {
            programs: both(&self.programs, &loaded.programs),
            links: both(&self.links, &loaded.links),
            maps: both(&self.maps, &loaded.maps),
        })
    }

    /// Waits until none of them exists; returns how long that took.
    ///
    /// # Errors
    /// When some are left after `patience`.
    pub fn wait_until_gone(&self, patience: Duration) -> anyhow::Result<Duration> {
        let began = Instant::now();
        loop {
            let left = self.left()?;
            let took = began.elapsed();
            if left == Objects::default() {
                return Ok(took);
            }
            ensure!(took < patience, "after {took:?} the kernel still has {left:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn all(command: libc::c_int) -> anyhow::Result<BTreeSet<u32>> {
    let mut found = BTreeSet::new();
    // The structure of these commands: after which number, the next one, flags.
    let mut attributes = [0_u32; 3];
    loop {
        let size = std::mem::size_of_val(&attributes);
        // SAFETY: the kernel reads and writes the attributes, whose size it is told.
        let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_mut_ptr(), size) };
        if result != 0 {
            let error = std::io::Error::last_os_error();
            // The last one was the last.
            ensure!(
                error.kind() == std::io::ErrorKind::NotFound,
                "ask the kernel for what is loaded: {error}"
            );
            return Ok(found);
        }
        found.insert(attributes[1]);
        attributes[0] = attributes[1];
    }
}
