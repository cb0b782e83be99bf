//! Capture by kernel programs: load, attach, read the ring.
//!
//! What comes in are the records of `agent-common`; what goes out is [`Captured`]. The kernel is asked what
//! it can do by trying, never by its version: offsets from its own type information, backends by attaching.

pub mod blindness;
pub mod btf;
mod captured;
pub mod choice;
mod control;
mod instructions;
pub mod load;
pub mod offsets;
pub mod preemption;
pub mod probe;
pub mod records;
mod sleep;
pub mod statistics;
mod tentative;
mod trial;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use aya::maps::{MapData, RingBuf};

use crate::budget::Step;
use crate::rights::Later;

pub use blindness::Blind;
pub use captured::Captured;
pub use choice::{Backend, BackendChoice, LoopChoice};
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
    /// Find out for every program how many instructions the verifier follows, also where the kernel does not tell of loaded
    /// programs (before 5.16): these are verified twice. For measurements; meanwhile the process can open no file.
    pub count_instructions: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            // Half a second of 100,000 calls a second of about 150 bytes each.
            ring_bytes: 8 << 20,
            backend: BackendChoice::Auto,
            loops: LoopChoice::Auto,
            ignored_pid: Some(std::process::id()),
            count_instructions: false,
        }
    }
}

/// Records that are read before time passes for whoever takes them, should more and more come.
const RECORDS_TOGETHER: usize = 1 << 16;

/// Kernel programs at work. They are detached when this is dropped.
pub struct KernelCapture {
    options: Options,
    loaded: load::Loaded,
    control: control::Control,
    ring: RingBuf<MapData>,
    sleep: sleep::Sleep,
    /// What was read last was the opening of a connection.
    opened: bool,
    /// More waits than was read.
    behind: bool,
    reader: records::Reader,
    /// Backends that may still be changed to, best first.
    others: Vec<Backend>,
    watch: blindness::Watch,
    /// What programs counted that are not there any more.
    retired: Counters,
}

impl KernelCapture {
    /// Loads and attaches the programs.
    pub fn start(options: &Options) -> Result<Self> {
        probe::raise_memory_limit();
        let (model, source) = preemption::of_this_kernel();
        let (mut order, why) = choice::order(options.backend, (model, source));
        let mut loaded = load::load(options, &order, &why, model.interrupts_programs())?;
        // Those before it were refused.
        let chosen = order.iter().position(|backend| *backend == loaded.backend);
        order.drain(..=chosen.unwrap_or(0));
        give_back_memory();
        let (ring, sleep) = take_ring(&mut loaded, options)?;
        Ok(KernelCapture {
            control: control::Control::of(&loaded)?,
            ring,
            sleep,
            opened: false,
            behind: false,
            options: options.clone(),
            loaded,
            reader: records::Reader::default(),
            others: order,
            watch: blindness::Watch::default(),
            retired: Counters::default(),
        })
    }

    /// Whether the backend proves blind, by what was counted until `now_ns`, a monotonic time; to be asked once a
    /// second. With nothing else to change to the answer is always no, and the counters have to speak for themselves.
    pub fn is_blind(&mut self, now_ns: u64, counters: &Counters) -> Option<Blind> {
        self.watch.judge(now_ns, counters).filter(|_| !self.others.is_empty())
    }

    /// Whether there is another backend that may be changed to, which takes the rights of loading.
    #[must_use]
    pub fn may_change(&self) -> bool {
        !self.others.is_empty()
    }

    /// What that would take.
    #[must_use]
    pub fn later(&self) -> Later {
        let kprobes = self.others.contains(&Backend::Kprobe);
        Later {
            change: self.may_change(),
            restricted_kprobes: kprobes && probe::restricts_perf_events(),
            ..Later::default()
        }
    }

    /// Changes to the next backend that works. What the old one has seen goes to `sink`, and nothing of it follows:
    /// connections are seen from their middle from then on. If no other works, nothing is touched and the answer is no; if
    /// the other one fails at the last moment, the old one is set up anew.
    pub fn change(&mut self, why: &Blind, sink: &mut dyn FnMut(Captured<'_>)) -> Result<bool> {
        let from = self.backend();
        let mut failures = Vec::new();
        let mut next = None;
        // Loaded before anything is detached, since the verifier takes its time.
        while next.is_none() && !self.others.is_empty() {
            match load::prepare(&self.options, self.others.remove(0)) {
                Ok(prepared) => next = Some(prepared),
                Err(error) => failures.push(format!("{error:#}")),
            }
        }
        let Some(prepared) = next else {
            tracing::warn!(reason = failures.join("; "), "no other way in works here");
            return Ok(false);
        };
        self.retire(sink)?;
        let because = format!("changed from {}, of which {why}", from.name());
        self.loaded = match prepared.attach() {
            Ok(mut loaded) => {
                loaded.reason.push_str(&format!("; {because}"));
                loaded
            }
            Err(error) => {
                failures.push(format!("{error:#}"));
                let left: Vec<Backend> = self.others.iter().copied().chain([from]).collect();
                let loaded = load::load(&self.options, &left, &because, false)?;
                self.others.retain(|backend| *backend != loaded.backend);
                loaded
            }
        };
        if !failures.is_empty() {
            self.loaded.reason.push_str(&format!("; not usable: {}", failures.join("; ")));
        }
        (self.ring, self.sleep) = take_ring(&mut self.loaded, &self.options)?;
        self.control = control::Control::of(&self.loaded)?;
        give_back_memory();
        self.reader.begin_anew();
        self.watch = blindness::Watch::default();
        Ok(true)
    }

    /// Detaches the programs and takes what they leave.
    fn retire(&mut self, sink: &mut dyn FnMut(Captured<'_>)) -> Result<()> {
        // The numbers of programs go with them.
        let missed_runs = statistics::missed_runs(&self.loaded);
        self.loaded.detach()?;
        // Runs on other CPUs that had begun end within microseconds.
        std::thread::sleep(Duration::from_millis(2));
        while let Some(record) = self.ring.next() {
            self.reader.handle_record(&record, sink);
        }
        let kernel = statistics::kernel(&self.loaded)?;
        self.retired.add(&Counters { kernel, missed_runs, ..Counters::default() });
        Ok(())
    }

    /// What the step leaves out is left out from now on; whoever takes what is captured has to know before. Programs that are changed
    /// to leave out nothing.
    pub fn shed(&self, step: Step) {
        self.control.shed(step);
    }

    /// The way in that was chosen.
    #[must_use]
    pub fn backend(&self) -> Backend {
        self.loaded.backend
    }

    /// Size of the ring.
    #[must_use]
    pub fn ring_bytes(&self) -> u64 {
        self.options.ring_bytes.into()
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

    /// Sleeps for `timeout` at most, and no longer than records may wait.
    pub fn wait(&self, timeout: Duration) -> Result<()> {
        if self.behind || timeout.is_zero() { Ok(()) } else { self.sleep.sleep(timeout, self.opened) }
    }

    /// Hands records that wait to `sink`: all, or, where more come all the time, as many as belong together. Returns whether it was
    /// all.
    pub fn read(&mut self, sink: &mut dyn FnMut(Captured<'_>)) -> bool {
        let opened = self.reader.opened();
        let mut records = 0;
        while records < RECORDS_TOGETHER
            && let Some(record) = self.ring.next()
        {
            self.reader.handle_record(&record, sink);
            records += 1;
        }
        self.opened = self.reader.opened() != opened;
        self.behind = records == RECORDS_TOGETHER;
        !self.behind
    }

    /// [`KernelCapture::wait`] and [`KernelCapture::read`], for up to `timeout` until there is a record. Returns how many there were.
    pub fn poll(&mut self, timeout: Duration, sink: &mut dyn FnMut(Captured<'_>)) -> Result<u64> {
        let deadline = Instant::now() + timeout;
        let before = self.reader.received();
        loop {
            while !self.read(sink) {}
            let records = self.reader.received() - before;
            let left = deadline.saturating_duration_since(Instant::now());
            if records > 0 || left.is_zero() {
                return Ok(records);
            }
            self.wait(left)?;
        }
    }

    /// What was counted until now, on both sides.
    pub fn counters(&self) -> Result<Counters> {
        let mut all = Counters {
            kernel: statistics::kernel(&self.loaded)?,
            received: self.reader.received(),
            malformed: self.reader.malformed(),
            missing: self.reader.missing(),
            missed_runs: statistics::missed_runs(&self.loaded),
        };
        all.add(&self.retired);
        Ok(all)
    }
}

/// The kernel's types are some 150,000 small pieces of memory while programs are loaded. glibc keeps what is freed below anything
/// that is still in use, and would so for good: 20 MB.
fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: touches nothing but memory that nobody has.
    unsafe {
        libc::malloc_trim(0);
    }
}

fn take_ring(loaded: &mut load::Loaded, options: &Options) -> Result<(RingBuf<MapData>, sleep::Sleep)> {
    let ring = loaded.ebpf.take_map("RING").context("the kernel object has no ring")?;
    let ring = RingBuf::try_from(ring).context("open the ring")?;
    let sleep = sleep::Sleep::new(&ring, options.ring_bytes)?;
    Ok((ring, sleep))
}
