//! The loop that reads the kernel's ring and runs the pipeline.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use agent_core::{Resumed, Timestamp};
use anyhow::Context;

use super::handler::{Figures, Handler, Queued};
use crate::budget::{self, BudgetState};
use crate::capture::kernel::{self, BackendChoice, Captured, Counters, KernelCapture, Options};
use crate::config::{Backend, CaptureConfig, Config};
use crate::exit::Failure;
use crate::rights::{self, Capability, Held, Later, LoadingRights};

/// Longest sleep: calls that have ended are reported no later than this after they may be, and the end is noticed that is asked
/// for. The capture sleeps less where it has to.
const POLL: Duration = Duration::from_millis(50);
/// A record has the time of its call, and is in the ring once its program has walked that.
const IN_A_PROGRAM: Timestamp = Timestamp(2_000_000);
/// How often the kernel's counters are read.
const COUNTERS_EVERY_NS: u64 = 1_000_000_000;

/// Asks the loop to end.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Ends the loop soon.
    pub fn stop(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// What the loop tells besides observations.
#[derive(Debug)]
pub enum Watched<'a> {
    /// What was counted until now.
    Counters(&'a Counters),
    /// Heap bytes that the core holds for connections.
    StateBytes(usize),
    /// Calls, attempts and methods that detectors did not judge.
    Unjudged(u64),
    /// The way in was changed, since another one had proved blind.
    Changed {
        /// The one before.
        from: kernel::Backend,
        /// The one now.
        to: kernel::Backend,
        /// Why it was changed, and how the new one attached.
        reason: &'a str,
    },
    /// Flows that an agent before this one knew, and that were seen again.
    Resumed(Resumed),
    /// What has come of the budgets, and how many connections were not followed for them.
    Budget(BudgetState, u64),
    /// How old a shard's newest record was when it was handled.
    Lag {
        /// Which shard; 0 where there is one.
        shard: u32,
        /// Nanoseconds.
        ns: u64,
    },
    /// What waits for a shard. Not told where there is one, which has no queue.
    Queued {
        /// Which shard.
        shard: u32,
        /// How its queue stands.
        queued: Queued,
    },
}

/// Nanoseconds of the clock that the kernel's records carry (`CLOCK_MONOTONIC`).
#[must_use]
pub fn monotonic_now() -> Timestamp {
    Timestamp(clock_ns(libc::CLOCK_MONOTONIC))
}

/// What to add to such a time to get nanoseconds since the epoch.
#[must_use]
pub fn unix_offset_ns() -> i64 {
    let real = clock_ns(libc::CLOCK_REALTIME);
    i64::try_from(i128::from(real) - i128::from(monotonic_now().0)).unwrap_or_default()
}

fn clock_ns(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place for the result; both clocks exist on every Linux.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    time.tv_sec.unsigned_abs().saturating_mul(1_000_000_000).saturating_add(time.tv_nsec.unsigned_abs())
}

/// The capture's options, as the configuration has them.
#[must_use]
pub fn capture_options(config: &CaptureConfig) -> Options {
    Options {
        ring_bytes: u32::try_from(config.ring_bytes.0).unwrap_or(u32::MAX),
        backend: match config.backend {
            Backend::Auto => BackendChoice::Auto,
            Backend::TpBtf => BackendChoice::Only(kernel::Backend::TpBtf),
            Backend::Fexit => BackendChoice::Only(kernel::Backend::Fexit),
            Backend::Kprobe => BackendChoice::Only(kernel::Backend::Kprobe),
        },
        ..Options::default()
    }
}

/// Loads and attaches the kernel programs, and gives up the rights that this took; with `keeps_file` the command has a file to
/// write for the next agent. No thread may have been started.
///
/// # Errors
/// A permission is missing, no backend works on this kernel, or the rights cannot be given up.
pub fn start_capture(config: &Config, keeps_file: bool) -> Result<KernelCapture, Failure> {
    let capture = KernelCapture::start(&capture_options(&config.capture)).map_err(why_not)?;
    tracing::info!(backend = capture.backend().name(), reason = capture.reason(), "watching socket calls");
    let read = || capture.counters().map(drop);
    let later = Later { keep_file: keeps_file, ..capture.later() };
    let left = rights::give_up(config.rights, later, &read).context("cannot give up rights")?;
    tracing::info!(
        user = left.user,
        capabilities = left.kept.join(" "),
        set_aside = left.set_aside.join(" "),
        system_calls = ?config.rights.system_calls,
        "gave up all other rights"
    );
    if left.bounded {
        tracing::debug!("the bounding set stays, since CAP_SETPCAP is not held: no_new_privs makes it void");
    }
    Ok(capture)
}

/// The kernel says of each thing that it refuses no more than EPERM: what is not held is the likely reason.
fn why_not(error: anyhow::Error) -> Failure {
    let needed = Capability::to_load(kernel::Backend::TpBtf, false);
    let missing = Held::now().map(|held| held.missing(needed)).unwrap_or_default();
    if missing.is_empty() {
        return error.context("cannot watch this kernel (`grpcscope check` says more)").into();
    }
    let names: Vec<String> = missing.iter().map(|missing| format!("CAP_{}", missing.name())).collect();
    Failure::NoPermission(format!(
        "no permission to watch this kernel: {} missing (run as root, or in Kubernetes {}); `grpcscope check` says more",
        names.join(" and "),
        rights::kubernetes(&missing)
    ))
}

/// Reads until `stop`, and once more after it, so that nothing that was captured is left. What is open then is left for
/// [`Handler::conclude`].
///
/// # Errors
/// The ring or the counters cannot be read.
pub fn watch<H: Handler>(
    capture: &mut KernelCapture,
    pipeline: &mut H,
    stop: &Stop,
    mut tell: impl FnMut(&mut H::Told, Watched<'_>),
) -> anyhow::Result<()> {
    let mut counters_due = Timestamp(0);
    loop {
        let stopping = stop.is_asked();
        capture.wait(if stopping { Duration::ZERO } else { POLL })?;
        // What is captured before this moment is in the ring now, and handled once all of it is read: only up to then may time
        // pass for the core, and no further than what was read where that is not all.
        let before = Timestamp(monotonic_now().since(IN_A_PROGRAM));
        let mut newest = None;
        let all = capture.read(&mut |captured| {
            if let Captured::Chunk { chunk, .. } = captured {
                newest = Some(chunk.time);
            }
            pipeline.handle_captured(captured);
        });
        if let Some(passed) = if all { Some(before) } else { newest } {
            pipeline.handle_timeout(passed.min(before))?;
        }
        let now = monotonic_now();
        for (shard, ns) in pipeline.lags(newest) {
            tell(pipeline.told(), Watched::Lag { shard, ns });
        }
        if now >= counters_due || stopping {
            counters_due = now.plus(COUNTERS_EVERY_NS);
            let Figures { state_bytes, unjudged, resumed } = pipeline.figures();
            tell(pipeline.told(), Watched::StateBytes(state_bytes));
            tell(pipeline.told(), Watched::Unjudged(unjudged));
            for (shard, queued) in pipeline.queues() {
                tell(pipeline.told(), Watched::Queued { shard, queued });
            }
            let counters = capture.counters()?;
            tell(pipeline.told(), Watched::Counters(&counters));
            if !stopping && let Some(blind) = capture.is_blind(now.0, &counters) {
                change(capture, pipeline, &blind, &mut tell)?;
            }
            let (budget, left_out) = pipeline.keep_budget(now, budget::usage(capture.ring_bytes()));
            // What is handled from here on is known to miss something before anything is.
            capture.shed(budget.step);
            tell(pipeline.told(), Watched::Budget(budget, left_out));
            tell(pipeline.told(), Watched::Resumed(resumed));
            tell(pipeline.told(), Watched::Counters(&capture.counters()?));
        }
        if stopping && all {
            return Ok(());
        }
    }
}

/// Changes the way in. Between the old one and the new one bytes move unseen, so every connection is given up and, when
/// it shows itself again, joined late.
fn change<H: Handler>(
    capture: &mut KernelCapture,
    pipeline: &mut H,
    blind: &kernel::Blind,
    tell: &mut impl FnMut(&mut H::Told, Watched<'_>),
) -> anyhow::Result<()> {
    let from = capture.backend();
    tracing::warn!(backend = from.name(), %blind, "socket calls are missed, trying another way");
    let rights = LoadingRights::take().context("take the rights to load that were set aside")?;
    let changed = capture
        .change(blind, &mut |captured| pipeline.handle_captured(captured))
        .context("change the way in")?;
    rights.give_back(capture.later()).context("give the rights to load back")?;
    if !changed {
        return Ok(());
    }
    let (to, reason) = (capture.backend(), capture.reason());
    pipeline.give_up_connections(monotonic_now());
    tracing::info!(backend = to.name(), reason, "watching socket calls");
    tell(pipeline.told(), Watched::Changed { from, to, reason });
    Ok(())
}

impl From<&Counters> for crate::metrics::KernelCounters {
    fn from(counters: &Counters) -> Self {
        use agent_common::counter::Counter;
        let is_loss = |counter: Counter| counter == Counter::LostRingFull;
        let told_apart = [Counter::Produced, Counter::LeftOut, Counter::ShedBytes, Counter::ShedFrames];
        let named = |(counter, count): &(Counter, u64)| (counter.name(), *count);
        crate::metrics::KernelCounters {
            produced: counters.produced(),
            received: counters.received,
            lost: counters.kernel.iter().filter(|(counter, _)| is_loss(*counter)).map(named).collect(),
            notes: counters
                .kernel
                .iter()
                .filter(|(counter, _)| !is_loss(*counter) && !told_apart.contains(counter))
                .map(named)
                .chain([("malformed", counters.malformed), ("missing", counters.missing)])
                .collect(),
            left_out: crate::metrics::LeftOutByKernel {
                connections: counters.kernel(Counter::LeftOut),
                data_bytes: counters.kernel(Counter::ShedBytes),
                data_frames: counters.kernel(Counter::ShedFrames),
            },
            missed_runs: counters.missed_runs.clone(),
        }
    }
}
