//! The way out: everything that is counted, family by family, to whoever writes it down.
//!
//! A writer is a [`Families`]; there is one over `prometheus-client` (OpenMetrics and protobuf) here, and
//! one for the text format 0.0.4 in [`text`](super::text).

use std::collections::BTreeMap;
use std::fmt;

use prometheus_client::encoding::{
    DescriptorEncoder, MetricEncoder, NativeHistogram, NativeHistogramBuckets, NoLabelSet,
};
use prometheus_client::metrics::MetricType;

use super::balance::BalanceSnapshot;
use super::catalogue::{self as names, CATALOGUE, Family, Kind};
use super::health::HealthSnapshot;
use super::histogram::{Histogram, ZERO_THRESHOLD};
use agent_core::detectors::{Balanced, correlation};
use agent_core::observation::Side;

use crate::budget::Step;

use super::labels::{self, Method};
use super::series::{Cell, Direction, Distribution, Found, Key, Measure, Scope};
use super::stalls::Stalled;
use super::store::Snapshot;

/// Labels of one series, in the order in which they are written.
pub(super) type Labels = Vec<(&'static str, String)>;

/// Value of one series.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value<'a> {
    Whole(u64),
    Real(f64),
    Histogram(&'a Histogram),
}

/// Series of one family.
pub(super) type Rows<'a> = Vec<(Labels, Value<'a>)>;

/// Takes families, one after the other.
pub(super) trait Families {
    fn family(&mut self, family: &'static Family, rows: &Rows<'_>) -> fmt::Result;
}

/// Hands over everything, in the catalogue's order. A family without series is left out.
pub(super) fn write(
    series: &Snapshot,
    balance: &BalanceSnapshot,
    health: &HealthSnapshot,
    to: &mut dyn Families,
) -> fmt::Result {
    let mut families = Collected::default();
    for (key, state) in &series.states {
        for (cell, value) in &state.cells {
            let (family, labels) = cell_row(key, *cell);
            let value = match cell {
                Cell::StallNs(_) | Cell::AtStreamLimitNs(_) | Cell::UncancelledNs(_) | Cell::LateWorkNs => {
                    Value::Real(*value as f64 / 1e9)
                }
                _ => Value::Whole(*value),
            };
            families.add(family, labels, value);
        }
        for (distribution, histogram) in &state.histograms {
            let (family, labels) = histogram_row(key, *distribution);
            families.add(family, labels, Value::Histogram(histogram));
        }
    }
    balance_rows(&mut families, balance);
    health_rows(&mut families, series, health);
    open_call_rows(&mut families, health);
    for family in CATALOGUE {
        if let Some(rows) = families.rows.get_mut(family.name) {
            rows.sort_by(|left, right| left.0.cmp(&right.0));
            to.family(family, rows)?;
        }
    }
    Ok(())
}

#[derive(Default)]
struct Collected<'a> {
    rows: BTreeMap<&'static str, Rows<'a>>,
}

impl<'a> Collected<'a> {
    fn add(&mut self, family: &'static Family, labels: Labels, value: Value<'a>) {
        self.rows.entry(family.name).or_default().push((labels, value));
    }
}

/// Labels of a key in the families that are ours.
fn own_labels(key: &Key) -> Labels {
    let mut labels = Vec::with_capacity(8);
    match &key.scope {
        Scope::Calls(side, method) => {
            labels.push(("side", side.as_str().to_owned()));
            labels.push(("rpc_method", method.to_string()));
        }
        Scope::Findings(side, method) => {
            labels.push(("side", labels::side_label(*side).to_owned()));
            labels.extend(method.as_ref().map(|method| ("rpc_method", method.to_string())));
        }
        Scope::Connections => {}
    }
    key.workload.append(&mut labels);
    labels
}

/// Labels of a key in the families of gRFC A66.
fn a66_labels(key: &Key, status: Option<&'static str>) -> Labels {
    let mut labels = Vec::with_capacity(8);
    if let Scope::Calls(_, method) = &key.scope {
        labels.push(("grpc_method", method.to_string()));
    }
    if let Some(status) = status {
        labels.push(("grpc_status", status.to_owned()));
    }
    key.workload.append(&mut labels);
    labels
}

fn side(key: &Key) -> Side {
    match &key.scope {
        Scope::Calls(side, _) => *side,
        // Cells of connections and findings do not ask.
        Scope::Connections | Scope::Findings(..) => Side::Server,
    }
}

fn cell_row(key: &Key, cell: Cell) -> (&'static Family, Labels) {
    let with = |family, more: &[(&'static str, &str)]| {
        let mut labels = own_labels(key);
        labels.extend(more.iter().map(|(name, value)| (*name, (*value).to_owned())));
        (family, labels)
    };
    match cell {
        Cell::Started => {
            let family = match side(key) {
                Side::Server => &names::SERVER_STARTED,
                Side::Client => &names::CLIENT_STARTED,
            };
            (family, a66_labels(key, None))
        }
        Cell::InFlight => with(&names::IN_FLIGHT, &[]),
        Cell::Ended(outcome, start_seen) => {
            let start = if start_seen { "seen" } else { "unseen" };
            with(&names::ENDED, &[("outcome", labels::outcome_label(outcome)), ("start", start)])
        }
        Cell::Deadline(deadline) => with(&names::DEADLINES, &[("deadline", deadline.as_str())]),
        Cell::Correlated(correlation) => with(&names::CORRELATED, &[("evidence", correlation.as_str())]),
        Cell::Propagation(result, evidence) => {
            with(&names::PROPAGATION, &[("result", result.as_str()), ("evidence", evidence.as_str())])
        }
        Cell::UncancelledNs(evidence) => {
            with(&names::UNCANCELLED_SECONDS, &[("evidence", evidence.as_str())])
        }
        Cell::LateWorkNs => with(&names::LATE_WORK_SECONDS, &[]),
        Cell::LateWorkBytes => with(&names::LATE_WORK_BYTES, &[]),
        Cell::DeadlineExceeded(by) => {
            with(&names::DEADLINES_EXCEEDED, &[("ended_by", labels::ended_by_label(by))])
        }
        Cell::Messages(direction) => with(&names::MESSAGES, &[("direction", direction_label(direction))]),
        Cell::Unmeasured(measure) => with(&names::UNMEASURED, &[("histogram", measure_label(measure))]),
        Cell::Connections(side, sync) => with(
            &names::CONNECTIONS,
            &[("side", labels::side_label(side)), ("state", labels::state_label(sync))],
        ),
        Cell::Opened => with(&names::CONNECTIONS_OPENED, &[]),
        Cell::Closed => with(&names::CONNECTIONS_CLOSED, &[]),
        Cell::Entered(sync) => with(&names::CONNECTION_STATES, &[("state", labels::state_label(sync))]),
        Cell::Rst(side, sender, code) => with(
            &names::RST_STREAMS,
            &[("side", side.as_str()), ("sender", labels::ended_by_label(sender)), ("code", code.as_str())],
        ),
        Cell::Exchange(side, protocol) => with(
            &names::EXCHANGES,
            &[("side", labels::side_label(side)), ("protocol", labels::protocol_label(protocol))],
        ),
        Cell::WithoutSide => with(&names::CALLS_WITHOUT_SIDE, &[]),
        Cell::Retry(attempts) => with(&names::RETRIES, &[("previous_attempts", &attempts.to_string())]),
        Cell::Error(status, source) => with(
            &names::CALL_ERRORS,
            &[("rpc_response_status_code", status.as_str()), ("source", labels::source_label(source))],
        ),
        Cell::Goaway(side, sender, reason) => with(
            &names::GOAWAYS,
            &[
                ("side", labels::side_label(side)),
                ("sender", labels::side_label(sender)),
                ("reason", labels::goaway_label(reason)),
            ],
        ),
        Cell::Recycled(side, reason) => with(
            &names::RECYCLED,
            &[("side", labels::side_label(side)), ("reason", labels::goaway_label(reason))],
        ),
        Cell::Ping(side, sender, kind, answered) => with(
            &names::PINGS,
            &[
                ("side", labels::side_label(side)),
                ("sender", labels::side_label(sender)),
                ("kind", kind.as_str()),
                ("answer", if answered { "yes" } else { "no" }),
            ],
        ),
        Cell::AtStreamLimit(side) => with(&names::AT_STREAM_LIMIT, &[("side", labels::side_label(side))]),
        Cell::AtStreamLimitNs(side) => {
            with(&names::STREAM_LIMIT_SECONDS, &[("side", labels::side_label(side))])
        }
        Cell::Stalls(stalled) => with(&names::STALLS, &stalled_labels(stalled)),
        Cell::StallNs(stalled) => with(&names::STALL_SECONDS, &stalled_labels(stalled)),
        Cell::StalledNow(stalled) => with(&names::STALLED, &stalled_labels(stalled)),
        Cell::UncertainStalls(window) => with(&names::UNCERTAIN_STALLS, &[("window", window.as_str())]),
        Cell::Moved => with(&names::CONNECTION_BYTES, &[]),
        Cell::Missed => with(&names::CONNECTION_MISSED_BYTES, &[]),
        Cell::Finding(verdict, found) => {
            let mut row = with(&names::FINDINGS, &[("verdict", verdict.as_str())]);
            row.1.extend(found_labels(found));
            row
        }
        Cell::Firing(found) => {
            let mut row = with(&names::FINDINGS_FIRING, &[]);
            row.1.extend(found_labels(found));
            row
        }
    }
}

fn stalled_labels(stalled: Stalled) -> [(&'static str, &'static str); 3] {
    let Stalled { window, cause, withheld_by } = stalled;
    [("window", window.as_str()), ("cause", cause.as_str()), ("withheld_by", withheld_by.as_str())]
}

fn found_labels(found: Found) -> impl Iterator<Item = (&'static str, String)> {
    let link = found.link.map(correlation::Evidence::as_str);
    let labels = [
        ("finding", Some(found.name.as_str())),
        ("level", Some(found.name.level().as_str())),
        ("cause", found.cause),
        ("link", link),
    ];
    labels.into_iter().filter_map(|(name, value)| Some((name, value?.to_owned())))
}

fn direction_label(direction: Direction) -> &'static str {
    match direction {
        Direction::Sent => "sent",
        Direction::Received => "received",
    }
}

fn measure_label(measure: Measure) -> &'static str {
    match measure {
        Measure::Duration => "duration",
        Measure::Sent => "sent",
        Measure::Received => "received",
    }
}

fn histogram_row(key: &Key, distribution: Distribution) -> (&'static Family, Labels) {
    match distribution {
        Distribution::Duration(status, error) => {
            let mut labels = vec![("rpc_system_name", "grpc".to_owned())];
            if let Scope::Calls(_, method) = &key.scope {
                labels.push(("rpc_method", Method::to_string(method)));
            }
            labels.push(("rpc_response_status_code", status.as_str().to_owned()));
            if let Some(error) = error {
                labels.push(("error_type", error.as_str().to_owned()));
            }
            key.workload.append(&mut labels);
            let family = match side(key) {
                Side::Server => &names::SERVER_DURATION,
                Side::Client => &names::CLIENT_DURATION,
            };
            (family, labels)
        }
        Distribution::Size(direction, status) => {
            let family = match (side(key), direction) {
                (Side::Server, Direction::Sent) => &names::SERVER_SENT,
                (Side::Server, Direction::Received) => &names::SERVER_RECEIVED,
                (Side::Client, Direction::Sent) => &names::CLIENT_SENT,
                (Side::Client, Direction::Received) => &names::CLIENT_RECEIVED,
            };
            (family, a66_labels(key, Some(status.as_str())))
        }
        Distribution::Timeout => (&names::TIMEOUT, own_labels(key)),
        Distribution::DeadlineUsed => (&names::DEADLINE_USED, own_labels(key)),
        Distribution::DeadlineLeft => (&names::DEADLINE_LEFT, own_labels(key)),
        Distribution::Stall(window) => {
            let mut labels = own_labels(key);
            labels.push(("window", window.as_str().to_owned()));
            (&names::STALL_DURATION, labels)
        }
        Distribution::PingRoundTrip(side) => {
            let mut labels = own_labels(key);
            labels.push(("side", side.as_str().to_owned()));
            (&names::PING_ROUND_TRIP, labels)
        }
        Distribution::Lifetime(side) => {
            let mut labels = own_labels(key);
            labels.push(("side", labels::side_label(side).to_owned()));
            (&names::CONNECTION_LIFETIME, labels)
        }
    }
}

fn open_call_rows(families: &mut Collected<'_>, health: &HealthSnapshot) {
    for ((workload, side, method), standing) in &health.open_calls {
        let labels = || {
            let mut labels = vec![("side", side.as_str().to_owned()), ("rpc_method", method.to_string())];
            workload.append(&mut labels);
            labels
        };
        for (family, ns) in
            [(&names::OLDEST_AGE, standing.oldest_ns), (&names::LONGEST_SILENCE, standing.silent_ns)]
        {
            if let Some(ns) = ns {
                families.add(family, labels(), Value::Real(ns as f64 / 1e9));
            }
        }
        let messages = [(Direction::Sent, standing.sent), (Direction::Received, standing.received)];
        for (direction, count) in messages.into_iter().filter(|_| !standing.left_out) {
            let mut labels = labels();
            labels.push(("direction", direction_label(direction).to_owned()));
            families.add(&names::OPEN_MESSAGES, labels, Value::Whole(count));
        }
    }
}

fn balance_rows(families: &mut Collected<'_>, balance: &BalanceSnapshot) {
    for ((service_name, destination), clients) in &balance.clients {
        let labels = || vec![("service_name", service_name.clone()), ("destination", destination.clone())];
        let processes = [
            (Balanced::OneConnection, clients.one),
            (Balanced::SeveralConnections, clients.several),
            (Balanced::FewCalls, clients.few_calls),
        ];
        for (balanced, count) in processes {
            let mut labels = labels();
            labels.push(("balanced", balanced.as_str().to_owned()));
            families.add(&names::CLIENT_PROCESSES, labels, Value::Whole(count));
        }
        if let Some(ratio) = clients.busiest_ratio {
            families.add(&names::BUSIEST_CONNECTION, labels(), Value::Real(ratio));
        }
        families.add(&names::DESTINATION_CONNECTIONS, labels(), Value::Whole(clients.connections));
        let oldest = Value::Real(clients.oldest_ns as f64 / 1e9);
        families.add(&names::OLDEST_CONNECTION, labels(), oldest);
        families.add(&names::DESTINATION_BACKENDS, labels(), Value::Whole(clients.backends));
    }
    for (service_name, servers) in &balance.servers {
        let labels = || vec![("service_name", service_name.clone())];
        for (calls, count) in [("some", servers.with_calls), ("none", servers.without_calls)] {
            let mut labels = labels();
            labels.push(("calls", calls.to_owned()));
            families.add(&names::SERVER_PROCESSES, labels, Value::Whole(count));
        }
        families.add(&names::SERVER_WINDOW_CALLS, labels(), Value::Whole(servers.calls));
        families.add(&names::BUSIEST_SERVER, labels(), Value::Whole(servers.busiest_calls));
    }
    families.add(&names::BALANCE_REFUSED, Vec::new(), Value::Whole(balance.refused));
}

fn health_rows<'a>(families: &mut Collected<'a>, series: &Snapshot, health: &HealthSnapshot) {
    let whole = Value::Whole;
    let mut add = |family, labels: &[(&'static str, &str)], value| {
        let labels = labels.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        families.add(family, labels, value);
    };
    let version = env!("CARGO_PKG_VERSION");
    let revision = option_env!("GRPCSCOPE_REVISION").unwrap_or("unknown");
    add(&names::BUILD_INFO, &[("version", version), ("revision", revision)], whole(1));
    if let Some(backend) = &health.backend {
        add(&names::BACKEND_INFO, &[("backend", &backend.name), ("reason", &backend.reason)], whole(1));
    }
    for ((from, to), count) in &health.backend_changes {
        add(&names::BACKEND_CHANGES, &[("from", from), ("to", to)], whole(*count));
    }
    add(&names::EVENTS_PRODUCED, &[], whole(health.kernel.produced));
    add(&names::EVENTS_RECEIVED, &[], whole(health.kernel.received));
    for (reason, lost) in &health.kernel.lost {
        add(&names::EVENTS_LOST, &[("reason", reason)], whole(*lost));
    }
    for (kind, count) in &health.kernel.notes {
        add(&names::KERNEL_NOTES, &[("kind", kind)], whole(*count));
    }
    for (program, missed) in &health.kernel.missed_runs {
        add(&names::PROGRAM_MISSES, &[("program", program)], whole(*missed));
    }
    for (kind, count) in &health.anomalies {
        add(&names::ANOMALIES, &[("kind", kind)], whole(*count));
    }
    for (reader, lag) in &health.reader_lag {
        add(&names::READER_LAG, &[("reader", &reader.to_string())], Value::Real(lag.as_secs_f64()));
    }
    for (shard, queue) in &health.shard_queues {
        let labels = [("shard", &*shard.to_string())];
        add(&names::SHARD_QUEUE, &labels, whole(queue.waiting as u64));
        add(&names::SHARD_BATCHES, &labels, whole(queue.batches));
        add(&names::SHARD_QUEUE_FULL, &labels, Value::Real(queue.waited.as_secs_f64()));
    }
    add(&names::UNJUDGED, &[], whole(health.unjudged));
    let (budget, left_out) = &health.budget;
    for (resource, ratio) in [("cpu", budget.cpu_ratio), ("memory", budget.memory_ratio)] {
        if let Some(ratio) = ratio {
            add(&names::BUDGET_USED, &[("resource", resource)], Value::Real(ratio));
        }
    }
    for (step, of_step) in Step::ALL.into_iter().filter_map(|step| Some((step, budget.of(step)?))) {
        let label = ("step", step.name());
        add(&names::OVER_BUDGET, &[label], whole(u64::from(budget.step >= step)));
        add(&names::OVER_BUDGET_TIMES, &[("resource", "cpu"), label], whole(of_step.over_cpu));
        add(&names::OVER_BUDGET_TIMES, &[("resource", "memory"), label], whole(of_step.over_memory));
        add(&names::OVER_BUDGET_SECONDS, &[label], Value::Real(of_step.ns as f64 / 1e9));
    }
    let by_kernel = &health.kernel.left_out;
    add(&names::DATA_LEFT_OUT, &[], whole(by_kernel.data_bytes));
    add(&names::DATA_LEFT_OUT_FRAMES, &[], whole(by_kernel.data_frames));
    add(&names::LEFT_OUT, &[], whole(left_out.saturating_add(by_kernel.connections)));
    add(&names::FLOWS_RESUMED, &[("result", "taken_up")], whole(health.resumed.taken_up));
    add(&names::FLOWS_RESUMED, &[("result", "missed")], whole(health.resumed.missed));
    add(&names::FINDINGS_FORGOTTEN, &[], whole(health.findings_forgotten));
    add(&names::STATE, &[], whole(health.state_bytes));
    add(&names::STATE_LIMIT, &[], whole(health.state_limit_bytes));
    add(&names::SERIES, &[], whole(series.series));
    add(&names::SERIES_LIMIT, &[], whole(series.series_max));
    add(&names::SERIES_DROPPED, &[("limit", "series")], whole(series.dropped_by_series));
    add(&names::SERIES_DROPPED, &[("limit", "methods")], whole(series.dropped_by_methods));
    add(&names::SERIES_EXPIRED, &[], whole(series.expired));
    add(&names::SCRAPE_DURATION, &[], Value::Real(health.scrape_duration.as_secs_f64()));
    for (format, count) in &health.scrapes {
        add(&names::SCRAPES, &[("format", format)], whole(*count));
    }
    let process = &health.process;
    let real = [(&names::PROCESS_CPU, process.cpu_seconds), (&names::PROCESS_START, process.start_seconds)];
    for (family, value) in real {
        if let Some(value) = value {
            add(family, &[], Value::Real(value));
        }
    }
    let counts = [(&names::PROCESS_MEMORY, process.resident_bytes), (&names::PROCESS_FDS, process.open_fds)];
    for (family, value) in counts {
        if let Some(value) = value {
            add(family, &[], whole(value));
        }
    }
}

/// Writes through `prometheus-client`.
pub(super) struct Client<'a> {
    pub(super) encoder: DescriptorEncoder<'a>,
}

impl Families for Client<'_> {
    fn family(&mut self, family: &'static Family, rows: &Rows<'_>) -> fmt::Result {
        let unit = family.client_unit();
        let kind = match family.kind {
            Kind::Counter => MetricType::Counter,
            Kind::Gauge => MetricType::Gauge,
            Kind::Histogram => MetricType::Histogram,
        };
        let mut encoder = self.encoder.encode_descriptor(family.stem(), family.help, unit.as_ref(), kind)?;
        for (labels, value) in rows {
            if labels.is_empty() {
                row(&mut encoder, family.kind, *value)?;
            } else {
                row(&mut encoder.encode_family(labels)?, family.kind, *value)?;
            }
        }
        Ok(())
    }
}

fn row(encoder: &mut MetricEncoder<'_>, kind: Kind, value: Value<'_>) -> fmt::Result {
    match (kind, value) {
        (Kind::Counter, Value::Whole(value)) => encoder.encode_counter::<NoLabelSet, _, f64>(&value, None),
        (Kind::Counter, Value::Real(value)) => encoder.encode_counter::<NoLabelSet, _, f64>(&value, None),
        (Kind::Gauge, Value::Whole(value)) => encoder.encode_gauge(&value),
        (Kind::Gauge, Value::Real(value)) => encoder.encode_gauge(&value),
        (Kind::Histogram, Value::Histogram(histogram)) => {
            let native = histogram.native();
            let (spans, deltas) = native.spans();
            encoder.encode_histogram_with_native::<NoLabelSet>(
                histogram.sum(),
                histogram.count(),
                &histogram.classic(),
                None,
                NativeHistogram {
                    schema: native.schema(),
                    zero_threshold: ZERO_THRESHOLD,
                    zero_count: native.zero(),
                    negative: NativeHistogramBuckets { spans: &[], deltas: &[] },
                    positive: NativeHistogramBuckets { spans: &spans, deltas: &deltas },
                    created: Some(histogram.created()),
                },
            )
        }
        // A mismatch of catalogue and code; the tests of the catalogue would show it.
        (Kind::Histogram, Value::Whole(_) | Value::Real(_))
        | (Kind::Counter | Kind::Gauge, Value::Histogram(_)) => Err(fmt::Error),
    }
}
