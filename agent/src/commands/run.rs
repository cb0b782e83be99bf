//! `grpcscope run`: watches this node and serves metrics.

use std::num::NonZeroU8;
use std::sync::Arc;
use std::time::Duration;

use agent_core::detectors::correlation::Correlated;
use agent_core::detectors::{Detectors, Finding, Wasted, flow_control};
use agent_core::observation::{CallStarted, OpenCall, Stall};
use agent_core::{Limits, Observation, SavedConnection, Timestamp};
use anyhow::Context;

use super::signals::StopSignals;
use crate::budget::Controller;
use crate::capture::kernel::KernelCapture;
use crate::cli::{BudgetArgs, CaptureArgs, ListenArgs};
use crate::config::{Config, RestartConfig};
use crate::exit::Failure;
use crate::findings::Findings;
use crate::http::{self, Readiness};
use crate::identity::Identities;
use crate::metrics::{
    Backend, ConnectionSeries, KernelCounters, Metrics, OpenCalls, SeriesLimits, ShardQueue, Workload,
};
use crate::pipeline::{self, Handler, Listener, Pipeline, Queued, Shards, Stop, Subject, Watched};
use crate::restart;

/// Arguments of `run`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct RunArgs {
    /// What is served.
    #[command(flatten)]
    pub listen: ListenArgs,
    /// How the kernel is watched.
    #[command(flatten)]
    pub capture: CaptureArgs,
    /// What it may take.
    #[command(flatten)]
    pub budget: BudgetArgs,

    /// Threads that the work is spread over by process [default: one for each 8 CPUs, 8 at most]
    #[arg(long, value_name = "N")]
    pub shards: Option<NonZeroU8>,
}

/// The condition of readiness: the kernel programs are attached and their ring is read.
const CAPTURE: &str = "capture";

/// Watches until a signal asks for the end.
///
/// # Errors
/// The address is taken, a permission is missing, the kernel cannot be watched, or a signal came.
pub fn execute(_args: &RunArgs, config: &Config) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime of the HTTP server")?;
    runtime.block_on(run(config))
}

async fn run(config: &Config) -> Result<(), Failure> {
    let mut signals = StopSignals::new()?;
    // First what can be wrong with the configuration, then what touches the kernel.
    let listener = http::bind(config.http.listen).await.map_err(anyhow::Error::from)?;
    let address = listener.local_addr().context("read the address that is listened on")?;
    // While everything may still be asked.
    let shards = config.shards(cpus());
    let capture = pipeline::start_capture(config, config.restart.keep)?;
    let kept = Kept { config: config.restart.clone(), bytes_max: config.core_limits().state_bytes };

    let metrics = Arc::new(Metrics::new(SeriesLimits {
        series_max: config.limits.series,
        methods_per_workload_max: config.limits.methods,
        ttl: config.limits.series_ttl.0,
    }));
    metrics.set_backend(Backend {
        name: capture.backend().name().to_owned(),
        reason: capture.reason().to_owned(),
    });
    let findings = Arc::new(Findings::new(Arc::clone(&metrics)));
    let readiness = Arc::new(Readiness::new(&[CAPTURE]));
    tracing::info!(%address, "serving /metrics and /api/v1/findings");

    let stop = Stop::default();
    let (ended, watcher_ended) = tokio::sync::oneshot::channel();
    let watcher = {
        let (config, metrics, findings) = (config.clone(), Arc::clone(&metrics), Arc::clone(&findings));
        let (readiness, stop) = (Arc::clone(&readiness), stop.clone());
        std::thread::Builder::new()
            .name("watch".into())
            .spawn(move || {
                let watching =
                    Watching { metrics: &metrics, limits: config.core_limits(), readiness: &readiness };
                let budget = Controller::new(config.budgets());
                let mut pipelines = pipelines(&config, shards, &metrics, &findings);
                let result = match pipelines.pop() {
                    // The reader of the ring runs the only one itself.
                    Some(only) if pipelines.is_empty() => {
                        watch(capture, only.within(budget), &watching, &stop, &kept)
                    }
                    last => {
                        tracing::info!(shards, "the work is spread over threads by process");
                        pipelines.extend(last);
                        Shards::start(pipelines, &watching.limits)
                            .and_then(|shards| watch(capture, shards.within(budget), &watching, &stop, &kept))
                    }
                };
                // The receiver is gone only when the process is about to end.
                let _ = ended.send(result);
            })
            .context("start the thread that reads the ring")?
    };

    let (shut_down, shutting_down) = tokio::sync::oneshot::channel::<()>();
    let server = tokio::spawn(http::serve(listener, http::Shared { metrics, findings, readiness }, async {
        let _ = shutting_down.await;
    }));
    let mut watcher_ended = watcher_ended;
    let result = tokio::select! {
        signal = signals.next() => Err(Failure::Signal(signal)),
        result = &mut watcher_ended => Err(watcher_failure(result)),
    };
    stop.stop();
    let _ = shut_down.send(());
    let _ = server.await;
    if watcher.join().is_err() {
        return Err(anyhow::anyhow!("the thread that reads the ring panicked").into());
    }
    tracing::info!("detached");
    result
}

/// Why the watching thread ended although nobody asked it to.
fn watcher_failure(result: Result<anyhow::Result<()>, tokio::sync::oneshot::error::RecvError>) -> Failure {
    let error = match result {
        Ok(Err(error)) => error,
        Ok(Ok(())) => anyhow::anyhow!("it ended by itself"),
        Err(_) => anyhow::anyhow!("it panicked"),
    };
    error.context("the thread that reads the ring ended").into()
}

/// What is captured becomes series and findings by this, however it was captured.
#[must_use]
pub fn pipeline(
    config: &Config,
    metrics: Arc<Metrics>,
    findings: Arc<Findings>,
) -> Pipeline<MetricsListener> {
    of_shard(config, 0, config.core_limits(), metrics, findings)
}

/// As many of these as there are shards, which share the limits.
#[must_use]
pub fn pipelines(
    config: &Config,
    shards: usize,
    metrics: &Arc<Metrics>,
    findings: &Arc<Findings>,
) -> Vec<Pipeline<MetricsListener>> {
    let limits = pipeline::limits_of_one(&config.core_limits(), shards);
    let new = |shard| of_shard(config, shard, limits.clone(), Arc::clone(metrics), Arc::clone(findings));
    (0..).take(shards.max(1)).map(new).collect()
}

fn of_shard(
    config: &Config,
    shard: u32,
    limits: Limits,
    metrics: Arc<Metrics>,
    findings: Arc<Findings>,
) -> Pipeline<MetricsListener> {
    let thresholds = config.findings.thresholds();
    let listener =
        MetricsListener::new(metrics, findings).attributing_stalls(thresholds.flow_control.clone());
    let listener = MetricsListener { shard, ..listener };
    let identities = Identities::new("/proc", Identities::CAPACITY);
    Pipeline::new(limits, identities, listener).with_detectors(thresholds)
}

/// CPUs that this process may use: those that it may run on, and no more than the quota of its control group.
fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get)
}

/// What is told while the ring is read goes there.
struct Watching<'a> {
    metrics: &'a Metrics,
    limits: Limits,
    readiness: &'a Readiness,
}

fn watch<H: Handler>(
    mut capture: KernelCapture,
    mut handler: H,
    watching: &Watching<'_>,
    stop: &Stop,
    kept: &Kept,
) -> anyhow::Result<()> {
    let Watching { metrics, limits, readiness } = watching;
    handler.resume(kept.take(), pipeline::monotonic_now());
    readiness.ready(CAPTURE);
    let result = pipeline::watch(&mut capture, &mut handler, stop, |_, watched| match watched {
        Watched::Counters(counters) => metrics.set_kernel_counters(KernelCounters::from(counters)),
        Watched::Changed { from, to, reason } => {
            metrics.set_backend(Backend { name: to.name().to_owned(), reason: reason.to_owned() });
            metrics.backend_changed(from.name(), to.name());
        }
        Watched::StateBytes(bytes) => metrics.set_state_bytes(bytes, limits.state_bytes),
        Watched::Unjudged(count) => metrics.set_unjudged(count),
        Watched::Resumed(resumed) => metrics.set_resumed(resumed),
        Watched::Lag { shard, ns } => metrics.set_reader_lag(shard, Duration::from_nanos(ns)),
        Watched::Queued { shard, queued: Queued { waiting, batches, waited } } => {
            metrics.set_shard_queue(shard, ShardQueue { waiting, batches, waited });
        }
        Watched::Budget(budget, left_out) => metrics.set_budget(budget, left_out),
    });
    readiness.not_ready(CAPTURE, "has ended");
    if result.is_ok() {
        kept.write(&mut handler);
    }
    result.and(handler.conclude(pipeline::monotonic_now()))
}

/// What is kept over a restart. That it cannot be kept is no reason to fail: connections are joined late then.
struct Kept {
    config: RestartConfig,
    bytes_max: usize,
}

impl Kept {
    fn take(&self) -> Vec<SavedConnection> {
        let RestartConfig { keep, file, ttl } = &self.config;
        if !keep {
            return Vec::new();
        }
        match restart::take(file, self.bytes_max, ttl.0, pipeline::monotonic_now()) {
            Ok(saved) => {
                if !saved.is_empty() {
                    tracing::info!(connections = saved.len(), "the agent before this one knew connections");
                }
                saved
            }
            Err(error) => {
                tracing::warn!("what the agent before this one knew is lost: {error:#}");
                Vec::new()
            }
        }
    }

    fn write(&self, handler: &mut impl Handler) {
        if !self.config.keep {
            return;
        }
        let RestartConfig { file, .. } = &self.config;
        let written = handler.save().and_then(|saved| {
            restart::write(file, saved.into_iter(), self.bytes_max, pipeline::monotonic_now())
        });
        match written {
            Ok((written, left_out)) => {
                tracing::info!(connections = written, left_out, "kept for the next agent");
            }
            Err(error) => tracing::warn!("nothing is kept for the next agent: {error:#}"),
        }
    }
}

/// Turns observations into series, and findings into series and a list.
#[derive(Debug)]
pub struct MetricsListener {
    /// Which of those that count together in `metrics`: what is replaced as a whole is, for this one.
    shard: u32,
    metrics: Arc<Metrics>,
    findings: Arc<Findings>,
    /// What tells why a sender was stalled.
    stalls: flow_control::Thresholds,
    /// Calls that are open, while they are looked at.
    open_calls: OpenCalls,
}

impl MetricsListener {
    /// Counts in `metrics`, lists in `findings`.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>, findings: Arc<Findings>) -> Self {
        MetricsListener {
            shard: 0,
            metrics,
            findings,
            stalls: flow_control::Thresholds::default(),
            open_calls: OpenCalls::default(),
        }
    }

    /// The same, with other thresholds than the core's own.
    #[must_use]
    pub fn attributing_stalls(self, stalls: flow_control::Thresholds) -> Self {
        MetricsListener { stalls, ..self }
    }
}

impl Listener for MetricsListener {
    type Connection = ConnectionSeries;

    fn handle_connection(&mut self, subject: &Subject) -> ConnectionSeries {
        self.metrics.connection(&Arc::new(Workload::new(&subject.process.service_name)))
    }

    fn handle_observation(
        &mut self,
        _subject: &Subject,
        connection: &mut ConnectionSeries,
        observation: Observation,
    ) {
        if let Observation::Anomaly(anomaly) = &observation {
            self.metrics.anomaly(anomaly.kind);
        }
        connection.observe(&observation);
        if let Observation::Stalled(stall) = &observation {
            connection.stall_over(stall, &self.stalls);
        }
        if let Observation::ConnectionEnded(summary) = &observation {
            self.findings.end_connection(summary.connection, summary.closed);
        }
    }

    fn handle_moved(
        &mut self,
        _subject: &Subject,
        connection: &mut ConnectionSeries,
        bytes: u64,
        missed: u64,
    ) {
        connection.moved(bytes, missed);
    }

    fn handle_open_stall(
        &mut self,
        _subject: &Subject,
        connection: &mut ConnectionSeries,
        stall: &Stall,
        now: Timestamp,
    ) {
        connection.stall_lasts(stall, &self.stalls, now);
    }

    fn handle_open_call(
        &mut self,
        _subject: &Subject,
        connection: &mut ConnectionSeries,
        call: &OpenCall,
        now: Timestamp,
    ) {
        self.open_calls.add(connection, call, now);
    }

    fn handle_open_calls_seen(&mut self) {
        self.metrics.set_open_calls(self.shard, std::mem::take(&mut self.open_calls));
    }

    fn handle_correlated(
        &mut self,
        _subject: &Subject,
        connection: &mut ConnectionSeries,
        _call: &CallStarted,
        correlated: &Correlated,
    ) {
        connection.correlated(correlated);
    }

    fn handle_wasted(&mut self, _subject: &Subject, connection: &mut ConnectionSeries, wasted: &Wasted) {
        connection.wasted(wasted);
    }

    fn handle_look(&mut self, detectors: &Detectors) {
        self.metrics.set_balance(self.shard, detectors);
    }

    fn handle_finding(&mut self, subject: Option<&Subject>, finding: Finding) {
        self.findings.handle(subject, finding);
    }
}
