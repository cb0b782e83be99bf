//! What the kernel programs are asked to leave out: one number of theirs, mapped into this process, so that changing it takes
//! neither a right nor a system call.

use std::os::fd::{AsFd as _, AsRawFd as _};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use agent_common::ring::{SHED_CONNECTIONS, SHED_DATA};
use anyhow::{Context as _, Result, bail};
use aya::maps::Map;

use super::load::Loaded;
use crate::budget::Step;
use crate::own_process::page_bytes;

/// The map `CONTROL` of loaded programs.
#[derive(Debug)]
pub(super) struct Control {
    asked: NonNull<AtomicU64>,
    bytes: usize,
}

// SAFETY: the mapping belongs to this value, and what is behind it is atomic.
unsafe impl Send for Control {}

impl Control {
    /// Nothing is asked for yet.
    pub(super) fn of(loaded: &Loaded) -> Result<Control> {
        let Some(Map::Array(map)) = loaded.ebpf.map("CONTROL") else {
            bail!("the kernel object has no control array");
        };
        let bytes = usize::try_from(page_bytes()).context("the size of a page")?;
        // SAFETY: a new mapping of a map that is an array of one number, and so has one page.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.fd().as_fd().as_raw_fd(),
                0,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error()).context("map the control array");
        }
        let asked = NonNull::new(at.cast()).context("the control array is mapped at zero")?;
        Ok(Control { asked, bytes })
    }

    /// What the step leaves out is left out from now on, by runs of the programs that have not begun.
    pub(super) fn shed(&self, step: Step) {
        let asked = match step {
            Step::Nothing => 0,
            Step::Data => SHED_DATA,
            Step::Connections => SHED_DATA | SHED_CONNECTIONS,
        };
        // SAFETY: mapped as long as this lives, and aligned to a page.
        unsafe { self.asked.as_ref() }.store(asked, Ordering::Relaxed);
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // SAFETY: the mapping of `of`, which nobody else has.
        unsafe { libc::munmap(self.asked.as_ptr().cast(), self.bytes) };
    }
}
