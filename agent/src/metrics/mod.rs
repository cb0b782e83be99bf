//! Facts become series: counted, bounded, exported in the formats that Prometheus scrapes.
//!
//! The pipeline asks [`Metrics::connection`] for the series of each connection and hands them what the core
//! observes; [`Metrics::encode`] writes everything down. Every metric is in the [`catalogue`].

mod balance;
pub mod catalogue;
mod connection;
mod connection_events;
mod exposition;
mod findings;
mod health;
mod histogram;
mod labels;
mod open_calls;
mod series;
mod stalls;
mod store;
mod text;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent_core::Resumed;
use agent_core::detectors::Detectors;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, prometheus_protobuf};
use prometheus_client::registry::Registry;

pub use connection::ConnectionSeries;
pub use findings::{FindingSeries, Firing};
pub use health::{Backend, KernelCounters, LeftOutByKernel, ShardQueue};
pub(crate) use labels::Method;
pub use labels::Workload;
pub use open_calls::OpenCalls;
pub use store::{Clock, SeriesLimits};

use crate::budget::BudgetState;
use balance::Balance;
use exposition::Client;
use health::Health;
use store::Store;

/// Everything that the agent counts. Share it in an [`Arc`].
#[derive(Debug)]
pub struct Metrics {
    sources: Arc<Sources>,
    registry: Registry,
}

#[derive(Debug)]
struct Sources {
    store: Arc<Store>,
    balance: Balance,
    health: Health,
}

/// A format of the exposition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' protobuf, delimited: the only one with native histograms.
    Protobuf,
    /// OpenMetrics 1.0 text.
    OpenMetrics,
    /// Prometheus text 0.0.4.
    Text,
}

impl Format {
    /// Its media type, as a `Content-Type`.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Format::Protobuf => {
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
            }
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Format::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    fn label(self) -> &'static str {
        match self {
            Format::Protobuf => "protobuf",
            Format::OpenMetrics => "openmetrics",
            Format::Text => "text",
        }
    }
}

impl Metrics {
    /// Nothing counted yet.
    #[must_use]
    pub fn new(limits: SeriesLimits) -> Self {
        Metrics::with_clock(limits, Clock::Coarse)
    }

    /// The same with a clock that a test can set.
    #[must_use]
    pub fn with_clock(limits: SeriesLimits, clock: Clock) -> Self {
        let store = Arc::new(Store::new(limits, clock));
        let sources = Arc::new(Sources { store, balance: Balance::default(), health: Health::default() });
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Arc::clone(&sources)));
        Metrics { sources, registry }
    }

    /// The series of a new connection of a workload. The workload cannot change while it is open.
    #[must_use]
    pub fn connection(&self, workload: &Arc<Workload>) -> ConnectionSeries {
        ConnectionSeries::new(Arc::clone(&self.sources.store), Arc::clone(workload))
    }

    /// How calls of the processes of a shard are spread, as of its detectors' last look; what was said of these before is replaced.
    pub fn set_balance(&self, shard: u32, detectors: &Detectors) {
        let (spreads, served) = (detectors.spreads(), detectors.served());
        self.sources.balance.set(shard, spreads, served, detectors.groups_refused());
    }

    /// Entries left the list of findings before their time.
    pub fn forget_findings(&self, count: u64) {
        self.sources.health.forget_findings(count);
    }

    /// What detectors have not judged by now, since a table of theirs was full.
    pub fn set_unjudged(&self, count: u64) {
        self.sources.health.set_unjudged(count);
    }

    /// What has come of the budgets, and how many connections were not followed for them.
    pub fn set_budget(&self, state: BudgetState, left_out: u64) {
        self.sources.health.set_budget(state, left_out);
    }

    /// What became of the flows that an agent before this one knew.
    pub fn set_resumed(&self, resumed: Resumed) {
        self.sources.health.set_resumed(resumed);
    }

    /// Something that should not be, by kind.
    pub fn anomaly(&self, kind: &'static str) {
        self.sources.health.anomaly(kind);
    }

    /// What the kernel side has counted by now.
    pub fn set_kernel_counters(&self, counters: KernelCounters) {
        self.sources.health.set_kernel(counters);
    }

    /// How socket calls are captured.
    pub fn set_backend(&self, backend: Backend) {
        self.sources.health.set_backend(backend);
    }

    /// The way in was changed, since `from` had proved blind.
    pub fn backend_changed(&self, from: &'static str, to: &'static str) {
        self.sources.health.backend_changed(from, to);
    }

    /// Heap bytes that the core holds for connections, and its limit.
    pub fn set_state_bytes(&self, bytes: usize, limit: usize) {
        self.sources.health.set_state_bytes(bytes, limit);
    }

    /// How old the newest record was when `reader` read it.
    pub fn set_reader_lag(&self, reader: u32, lag: Duration) {
        self.sources.health.set_reader_lag(reader, lag);
    }

    /// How the queue of a shard stands, where there are several.
    pub fn set_shard_queue(&self, shard: u32, queue: ShardQueue) {
        self.sources.health.set_shard_queue(shard, queue);
    }

    /// Writes everything, as it is at one moment.
    ///
    /// # Errors
    /// A value does not fit its family, which would be a mistake in this crate.
    pub fn encode(&self, format: Format) -> Result<Vec<u8>, EncodeError> {
        let start = Instant::now();
        let body = match format {
            Format::Protobuf => {
                prometheus_protobuf::encode_to_vec(&self.registry).map_err(|_| EncodeError)?
            }
            Format::OpenMetrics => {
                let mut out = String::new();
                prometheus_client::encoding::text::encode(&mut out, &self.registry)
                    .map_err(|_| EncodeError)?;
                out.into_bytes()
            }
            Format::Text => {
                let mut text = text::Text::default();
                self.sources.write(&mut text).map_err(|_| EncodeError)?;
                text.out.into_bytes()
            }
        };
        self.sources.health.scraped(format.label(), start.elapsed());
        Ok(body)
    }
}

/// The metrics could not be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncodeError;

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cannot write the metrics: a value does not fit its family")
    }
}

impl std::error::Error for EncodeError {}

impl Sources {
    fn write(&self, to: &mut dyn exposition::Families) -> fmt::Result {
        exposition::write(&self.store.snapshot(), &self.balance.snapshot(), &self.health.snapshot(), to)
    }
}

impl Collector for Sources {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.write(&mut Client { encoder })
    }
}

#[cfg(test)]
pub(crate) mod strict;
#[cfg(test)]
mod tests;
