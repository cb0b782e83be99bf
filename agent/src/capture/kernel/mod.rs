//! Capture by kernel programs: load, attach, read the ring.
//!
//! What comes in are the records of `agent-common`; what goes out is [`Captured`]. The kernel is asked what
//! it can do by trying, never by its version: offsets from its own type information, backends by attaching.

pub mod btf;
pub mod load;
pub mod offsets;
pub mod probe;
pub mod records;
pub mod statistics;

use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use aya::maps::{MapData, RingBuf};

pub use load::{Backend, BackendChoice, LoopChoice};
pub use records::Captured;
pub use statistics::Counters;

/// What can be chosen.
#[derive(Clone, Debug)]
pub struct Options {
    /// Size of the ring; rounded up to a power of two of at least 256 KiB.
    pub ring_bytes: u32,
    /// The way in.
    pub backend: BackendChoice,
    /// The walker's loop.
    pub loops: LoopChoice,
    /// A process whose sockets are not looked at: the agent itself.
    pub ignored_pid: Option<u32>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            // Half a second of 100,000 calls a second of about 150 bytes each.
            ring_bytes: 8 << 20,
            backend: BackendChoice::Auto,
            loops: LoopChoice::Auto,
            ignored_pid: Some(std::process::id()),
        }
    }
}

/// How long the reader sleeps at most while records may be waiting below the watermark.
const TICK: Duration = Duration::from_millis(5);

/// Kernel programs at work. They are detached when this is dropped.
pub struct KernelCapture {
    loaded: load::Loaded,
    ring: RingBuf<MapData>,
    reader: records::Reader,
}

impl KernelCapture {
    /// Loads and attaches the programs.
    pub fn start(options: &Options) -> Result<Self> {
        let mut loaded = load::load(options)?;
        let ring = loaded.ebpf.take_map("RING").context("the kernel object has no ring")?;
        let ring = RingBuf::try_from(ring).context("open the ring")?;
        Ok(KernelCapture { loaded, ring, reader: records::Reader::default() })
    }

    /// The way in that was chosen.
    #[must_use]
    pub fn backend(&self) -> Backend {
        self.loaded.backend
    }

    /// Why it was chosen, in one sentence.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.loaded.reason
    }

    /// The loaded programs by name, with the instructions that the verifier followed where the kernel says.
    #[must_use]
    pub fn programs(&self) -> &[load::LoadedProgram] {
        &self.loaded.programs
    }

    /// Hands every waiting record to `sink`; waits up to `timeout` for the first one. Returns how many
    /// records were read.
    pub fn poll(&mut self, timeout: Duration, sink: &mut dyn FnMut(Captured<'_>)) -> Result<usize> {
        let deadline = Instant::now() + timeout;
        loop {
            let mut records = 0;
            while let Some(record) = self.ring.next() {
                self.reader.handle_record(&record, sink);
                records += 1;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if records > 0 || left.is_zero() {
                return Ok(records);
            }
            self.wait(left.min(TICK))?;
        }
    }

    /// Sleeps until the kernel wakes the reader (the watermark is passed) or `timeout` is over.
    fn wait(&self, timeout: Duration) -> Result<()> {
        let mut poll = libc::pollfd { fd: self.ring.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let milliseconds = timeout.as_millis().clamp(1, 1000) as i32;
        // The ring is readable as soon as anything waits, watermark or not, so that a plain poll would
        // return for each record: sleep first, look then.
        // SAFETY: one valid pollfd.
        let result = unsafe { libc::poll(&raw mut poll, 1, milliseconds) };
        if result < 0 {
            let error = std::io::Error::last_os_error();
            if error.kind() != std::io::ErrorKind::Interrupted {
                return Err(error).context("wait for the ring");
            }
        }
        Ok(())
    }

    /// What was counted until now, on both sides.
    pub fn counters(&self) -> Result<Counters> {
        statistics::read(&self.loaded, &self.reader)
    }
}
