//! Every metric that the agent exports, once: name, type, unit, help, labels.
//!
//! The exposition takes its descriptors from here and `docs/metrics.md` is written from here, so that code
//! and documentation cannot disagree; tests hold that nothing else is exported.
//!
//! `rpc_*` follows the OpenTelemetry RPC conventions (v1.39 to v1.44: `rpc_response_status_code`), `grpc_*`
//! follows gRFC A66 (labels `grpc_method`, `grpc_status`), `process_*` the Prometheus client libraries;
//! the rest is ours and begins with `grpcscope_`.

use prometheus_client::registry::Unit;

/// What kind of series a family has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows; starts again at zero with the agent, or after the series expired.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Classic buckets in every format, native buckets as well in protobuf.
    Histogram,
}

impl Kind {
    /// The word of the exposition formats.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// One metric family.
#[derive(Debug)]
pub struct Family {
    /// Name as it is queried; of a histogram without `_bucket`, `_sum` or `_count`.
    pub name: &'static str,
    /// Type.
    pub kind: Kind,
    /// Base unit, which the name carries.
    pub unit: Option<&'static str>,
    /// One sentence, or two.
    pub help: &'static str,
    /// Labels that a series can have.
    pub labels: &'static [&'static str],
}

impl Family {
    /// The name without the unit and without `_total`, as the registry wants it.
    #[must_use]
    pub fn stem(&self) -> &'static str {
        let name = match self.kind {
            Kind::Counter => self.name.strip_suffix("_total").unwrap_or(self.name),
            Kind::Gauge | Kind::Histogram => self.name,
        };
        match self.unit {
            Some(unit) => name.strip_suffix(unit).and_then(|rest| rest.strip_suffix('_')).unwrap_or(name),
            None => name,
        }
    }

    /// The unit as the registry wants it.
    #[must_use]
    pub fn client_unit(&self) -> Option<Unit> {
        match self.unit {
            Some("seconds") => Some(Unit::Seconds),
            Some("bytes") => Some(Unit::Bytes),
            Some(other) => Some(Unit::Other(other.to_owned())),
            None => None,
        }
    }
}

/// Labels of a duration. `container_id` and the server's address are off by default.
const DURATION: &[&str] = &[
    "rpc_system_name",
    "rpc_method",
    "rpc_response_status_code",
    "error_type",
    "service_name",
    "container_id",
    "server_address",
    "server_port",
];
const A66_METHOD: &[&str] = &["grpc_method", "service_name", "container_id", "server_address", "server_port"];
const A66_METHOD_STATUS: &[&str] =
    &["grpc_method", "grpc_status", "service_name", "container_id", "server_address", "server_port"];

macro_rules! families {
    ($($(#[$group:meta])* $id:ident = $kind:ident $name:literal $(in $unit:literal)?, $labels:expr, $help:literal;)+) => {
        $($(#[$group])* #[doc = $help] pub static $id: Family = Family {
            name: $name,
            kind: Kind::$kind,
            unit: families!(@unit $($unit)?),
            help: $help,
            labels: $labels,
        };)+

        /// All of them, in the order in which they are exported and documented.
        pub static CATALOGUE: &[&Family] = &[$(&$id),+];
    };
    (@unit) => { None };
    (@unit $unit:literal) => { Some($unit) };
}

/// Labels of what is counted for a method on one side.
macro_rules! method_labels {
    ($($label:literal),*) => {
        &["side", "rpc_method", "service_name", "container_id", "server_address", "server_port" $(, $label)*]
    };
}

/// Labels of what is counted for a workload.
macro_rules! workload_labels {
    ($($label:literal),*) => {
        &["service_name", "container_id", "server_address", "server_port" $(, $label)*]
    };
}

/// Labels of what is said of clients and a destination.
macro_rules! destination_labels {
    ($($label:literal),*) => {
        &["service_name", "destination" $(, $label)*]
    };
}

families! {
    SERVER_DURATION = Histogram "rpc_server_call_duration_seconds" in "seconds", DURATION,
        "Duration of calls that the workload served, from the request's headers to the call's end.";
    CLIENT_DURATION = Histogram "rpc_client_call_duration_seconds" in "seconds", DURATION,
        "Duration of calls that the workload made, from the request's headers to the call's end; a retry is a call of its own.";

    SERVER_STARTED = Counter "grpc_server_call_started_total", A66_METHOD,
        "Calls that were seen to start on the server's side.";
    CLIENT_STARTED = Counter "grpc_client_attempt_started_total", A66_METHOD,
        "Call attempts that were seen to start on the client's side.";
    SERVER_SENT = Histogram "grpc_server_call_sent_total_compressed_message_size_bytes" in "bytes", A66_METHOD_STATUS,
        "Bytes of the messages that the server sent in one call, compressed as on the wire, without prefixes and framing.";
    SERVER_RECEIVED = Histogram "grpc_server_call_rcvd_total_compressed_message_size_bytes" in "bytes", A66_METHOD_STATUS,
        "Bytes of the messages that the server received in one call, compressed as on the wire, without prefixes and framing.";
    CLIENT_SENT = Histogram "grpc_client_attempt_sent_total_compressed_message_size_bytes" in "bytes", A66_METHOD_STATUS,
        "Bytes of the messages that the client sent in one attempt, compressed as on the wire, without prefixes and framing.";
    CLIENT_RECEIVED = Histogram "grpc_client_attempt_rcvd_total_compressed_message_size_bytes" in "bytes", A66_METHOD_STATUS,
        "Bytes of the messages that the client received in one attempt, compressed as on the wire, without prefixes and framing.";

    IN_FLIGHT = Gauge "grpcscope_calls_in_flight", method_labels!(),
        "Calls that were seen to start and have not ended.";
    ENDED = Counter "grpcscope_calls_ended_total", method_labels!("outcome", "start"),
        "Calls that ended, by outcome; outcome evicted is a call that was given up while open. With start seen: started = ended + in flight.";
    DEADLINES = Counter "grpcscope_call_deadlines_total", method_labels!("deadline"),
        "Calls that were seen to start, by their grpc-timeout: set, none (the call can hang for ever), long_lived (none, but a stream of the infrastructure that is meant to stay open), invalid, unresolved.";
    DEADLINES_EXCEEDED = Counter "grpcscope_call_deadlines_exceeded_total", method_labels!("ended_by"),
        "Calls that ended since their deadline passed, by the end that gave up first.";
    TIMEOUT = Histogram "grpcscope_call_timeout_seconds" in "seconds", method_labels!(),
        "The grpc-timeout that requests carried. Bounds lie between round numbers, since encoders round differently.";
    DEADLINE_USED = Histogram "grpcscope_call_deadline_used_ratio" in "ratio", method_labels!(),
        "Share of its timeout that a call had used when it ended; above 1 it was too late.";
    DEADLINE_LEFT = Histogram "grpcscope_call_deadline_left_seconds" in "seconds", method_labels!(),
        "What was left of its timeout when a call ended; 0 if nothing was.";
    CORRELATED = Counter "grpcscope_correlated_calls_total", method_labels!("evidence"),
        "Calls that a process made, by how it is known which call that it served they belong to: trace, thread, sole; ambiguous and undecided belong to one that is not known, none to nothing. Calls of the infrastructure are left out.";
    PROPAGATION = Counter "grpcscope_deadline_propagation_total", method_labels!("result", "evidence"),
        "Calls that belong to a served call with a deadline, by what became of that: propagated (theirs is no later), reset (later), dropped (none), exhausted (they began after it), undecided.";
    UNCANCELLED_SECONDS = Counter "grpcscope_uncancelled_seconds_total" in "seconds", method_labels!("evidence"),
        "How long calls that a process made were open for nobody, since the served call that they belong to had been given up; calls that end within findings.uncancelled.grace of that are left out. Of a call that goes on, what has passed is counted every second.";
    LATE_WORK_SECONDS = Counter "grpcscope_late_work_seconds_total" in "seconds", method_labels!(),
        "How long servers went on sending on streams that their clients had reset, from the reset to the last frame, where that is longer than findings.uncancelled.grace. Counted when it is over.";
    LATE_WORK_BYTES = Counter "grpcscope_late_work_bytes_total" in "bytes", method_labels!(),
        "DATA payload that they sent on these streams after the reset.";
    MESSAGES = Counter "grpcscope_call_messages_total", method_labels!("direction"),
        "Messages of calls that ended, as the workload sent and received them; those of a direction that was not seen whole are in none (grpcscope_calls_unmeasured_total).";
    RETRIES = Counter "grpcscope_call_retries_total", method_labels!("previous_attempts"),
        "Calls that were seen to start and say that they are retries, by the attempts before them (grpc-previous-rpc-attempts), 5 for five and more.";
    CALL_ERRORS = Counter "grpcscope_call_errors_total", method_labels!("rpc_response_status_code", "source"),
        "Calls that ended with another status than OK, by where the status was read: trailer, trailers_only, rst and http (mapped), none, unresolved.";
    OLDEST_AGE = Gauge "grpcscope_call_oldest_age_seconds" in "seconds", method_labels!(),
        "Age of the oldest call in flight, of those that were seen to start; looked at every five seconds.";
    LONGEST_SILENCE = Gauge "grpcscope_call_silence_seconds" in "seconds", method_labels!(),
        "Longest time for which a call in flight has had no frame in either direction; looked at every five seconds. Not of calls whose DATA was left out since their last frame.";
    OPEN_MESSAGES = Gauge "grpcscope_call_open_messages", method_labels!("direction"),
        "Complete messages so far of the calls that are in flight; looked at every five seconds. Absent while DATA of one of them was left out.";
    UNMEASURED = Counter "grpcscope_calls_unmeasured_total", method_labels!("histogram"),
        "Ended calls that are left out of a histogram, since they were not seen whole: duration, sent or received message bytes.";

    STALLS = Counter "grpcscope_flow_control_stalls_total", method_labels!("window", "cause", "withheld_by"),
        "Times that a sender was inside a message and its window was empty, counted when it is over; cause slow_receiver: the credit was withheld, small_window: it came back at once. Of a connection's window the method is the one that holds it.";
    STALL_SECONDS = Counter "grpcscope_flow_control_stall_seconds_total" in "seconds", method_labels!("window", "cause", "withheld_by"),
        "How long these stalls were, as seen at the workload's sockets: as the sender, until the credit came; as the receiver, until it was given.";
    STALL_DURATION = Histogram "grpcscope_flow_control_stall_duration_seconds" in "seconds", method_labels!("window"),
        "How long a stall was.";
    STALLED = Gauge "grpcscope_flow_control_stalled", method_labels!("window", "cause", "withheld_by"),
        "Windows that are empty now with a sender inside a message, looked at every second.";
    UNCERTAIN_STALLS = Counter "grpcscope_flow_control_uncertain_stalls_total", method_labels!("window"),
        "Times that a window was used up exactly at the end of a message, and more DATA came later: whether the sender had to wait for credit cannot be told.";

    CONNECTIONS = Gauge "grpcscope_connections", workload_labels!("side", "state"),
        "Open HTTP/2 connections by what is understood of them: synced, late (joined in the middle), desynced.";
    CONNECTIONS_OPENED = Counter "grpcscope_connections_opened_total", workload_labels!(),
        "Connections that were recognised as HTTP/2.";
    CONNECTIONS_CLOSED = Counter "grpcscope_connections_closed_total", workload_labels!(),
        "HTTP/2 connections that ended or were forgotten.";
    CONNECTION_STATES = Counter "grpcscope_connection_state_changes_total", workload_labels!("state"),
        "Times that a connection entered a state.";
    CONNECTION_BYTES = Counter "grpcscope_connection_bytes_total" in "bytes", workload_labels!(),
        "Bytes that HTTP/2 connections moved since they were recognised, in both directions, as their sockets count them; counted every 16 KiB of a connection, and at its end.";
    CONNECTION_MISSED_BYTES = Counter "grpcscope_connection_missed_bytes_total" in "bytes", workload_labels!(),
        "Those of them that nobody saw: calls that were missed or could not be followed, and all that lost records may have told of. The rest divided by grpcscope_connection_bytes_total is how complete everything else is.";
    RST_STREAMS = Counter "grpcscope_rst_streams_total", workload_labels!("side", "sender", "code"),
        "Calls that an RST_STREAM ended, by its sender and error code (RFC 9113 section 7).";
    CONNECTION_LIFETIME = Histogram "grpcscope_connection_lifetime_seconds" in "seconds", workload_labels!("side"),
        "Lifetimes of HTTP/2 connections that ended and whose beginning was seen.";
    GOAWAYS = Counter "grpcscope_goaways_total", workload_labels!("side", "sender", "reason"),
        "GOAWAY frames, by their sender and reason; an end that leaves in good order sends two.";
    RECYCLED = Counter "grpcscope_connections_recycled_total", workload_labels!("side", "reason"),
        "Connections that ended after their server had said so in good order, by its reason: max_age, max_idle, or graceful (none is given). Where none is, what is added to a service later gets no calls.";
    PINGS = Counter "grpcscope_pings_total", workload_labels!("side", "sender", "kind", "answer"),
        "PINGs by sender, purpose (bandwidth: probes; drain: before a graceful end; other: keepalive, or not known) and whether they were answered: yes, no.";
    PING_ROUND_TRIP = Histogram "grpcscope_ping_round_trip_seconds" in "seconds", workload_labels!("side"),
        "Time from a PING of the workload to its acknowledgement. Those of its peers are not measured: what is seen of them here is how fast the workload answers.";
    AT_STREAM_LIMIT = Counter "grpcscope_stream_limit_reached_total", workload_labels!("side"),
        "Times that all streams were open that the server allows; counted when one was free again.";
    STREAM_LIMIT_SECONDS = Counter "grpcscope_stream_limit_seconds_total" in "seconds", workload_labels!("side"),
        "Time for which all streams were open that the server allows, so that further calls had to wait; refused ones are in grpcscope_calls_ended_total.";
    EXCHANGES = Counter "grpcscope_http_exchanges_total", workload_labels!("side", "protocol"),
        "HTTP/2 exchanges that were not gRPC, by protocol: grpc_web, http, unresolved.";
    CALLS_WITHOUT_SIDE = Counter "grpcscope_calls_without_side_total", workload_labels!(),
        "Ended calls of connections joined so late that client and server could not be told apart; counted nowhere else.";

    CLIENT_PROCESSES = Gauge "grpcscope_client_processes", destination_labels!("balanced"),
        "Client processes with open connections to a destination: one_connection carries nearly all calls of the last window (findings.pinned.share), several_connections do, or there were too few_calls to tell. Those behind a proxy that shows itself are left out.";
    BUSIEST_CONNECTION = Gauge "grpcscope_busiest_connection_ratio" in "ratio", destination_labels!(),
        "Share of a process's calls of the last window that went over its busiest connection, of the process where it is greatest; those with too few calls are left out.";
    DESTINATION_CONNECTIONS = Gauge "grpcscope_destination_connections", destination_labels!(),
        "Open connections of clients to a destination.";
    OLDEST_CONNECTION = Gauge "grpcscope_oldest_connection_seconds" in "seconds", destination_labels!(),
        "Age of the oldest open connection to a destination; of one that was joined late, since then.";
    DESTINATION_BACKENDS = Gauge "grpcscope_destination_backends", destination_labels!(),
        "Backends of a destination that open connections of this node show. There may be more.";
    SERVER_PROCESSES = Gauge "grpcscope_server_processes", &["service_name", "calls"],
        "Server processes with open connections, by whether a call began on them in the last window: some, none.";
    SERVER_WINDOW_CALLS = Gauge "grpcscope_server_window_calls", &["service_name"],
        "Calls that began in the last window, on all server processes of the workload on this node.";
    BUSIEST_SERVER = Gauge "grpcscope_busiest_server_window_calls", &["service_name"],
        "The same of the busiest of these processes.";

    FINDINGS = Counter "grpcscope_findings_total", method_labels!("finding", "level", "verdict", "cause", "link"),
        "What was found: an event each time, what lasts each time that it begins; verdict undecided where what would tell was not seen.";
    FINDINGS_FIRING = Gauge "grpcscope_findings_firing", method_labels!("finding", "level", "cause", "link"),
        "Findings that last and hold now.";
    FINDINGS_FORGOTTEN = Counter "grpcscope_findings_forgotten_total", &[],
        "Entries that left the list of findings for newer ones before their time.";
    UNJUDGED = Counter "grpcscope_findings_unjudged_total", &[],
        "Calls, attempts and methods of which detectors said nothing, since a table of theirs was full.";
    BALANCE_REFUSED = Counter "grpcscope_balance_refused_total", &[],
        "Times that a client and its destination, or a server, were not judged, since the detectors' tables are full.";

    BUILD_INFO = Gauge "grpcscope_build_info", &["version", "revision"],
        "Always 1; the labels say what runs.";
    BACKEND_INFO = Gauge "grpcscope_backend_info", &["backend", "reason"],
        "Always 1; the way in which socket calls are captured, and why that one.";
    BACKEND_CHANGES = Counter "grpcscope_backend_changes_total", &["from", "to"],
        "Times that the way in was changed since the kernel had skipped too many runs of its programs. Open connections are seen from their middle after it.";
    EVENTS_PRODUCED = Counter "grpcscope_kernel_events_produced_total", &[],
        "Records that the kernel side wanted to hand over. Equals received plus lost.";
    EVENTS_RECEIVED = Counter "grpcscope_kernel_events_received_total", &[],
        "Records that the agent has read.";
    EVENTS_LOST = Counter "grpcscope_kernel_events_lost_total", &["reason"],
        "Records that were lost between the kernel and the agent, by reason.";
    KERNEL_NOTES = Counter "grpcscope_kernel_notes_total", &["kind"],
        "What the kernel side counts besides: bytes left out, budgets reached, memory not read.";
    BUDGET_USED = Gauge "grpcscope_budget_used_ratio" in "ratio", &["resource"],
        "What the agent uses of its budget, if it has one: cpu (--max-cpu) on average over five seconds, memory (--max-memory).";
    OVER_BUDGET = Gauge "grpcscope_over_budget", &["step"],
        "1 while this is left out since a budget was passed, else 0: first data (messages and flow control are unknown), then connections (new ones are not followed); calls of known connections are followed in any case.";
    OVER_BUDGET_TIMES = Counter "grpcscope_over_budget_times_total", &["resource", "step"],
        "Times that this began, by the budget that was passed: cpu, memory.";
    OVER_BUDGET_SECONDS = Counter "grpcscope_over_budget_seconds_total" in "seconds", &["step"],
        "How long it was left out.";
    DATA_LEFT_OUT = Counter "grpcscope_data_left_out_bytes_total" in "bytes", &[],
        "Bytes that followed connections moved in socket calls with nothing but DATA and WINDOW_UPDATE, of which the kernel side told nothing, since the agent was over a budget.";
    DATA_LEFT_OUT_FRAMES = Counter "grpcscope_data_left_out_frames_total", &[],
        "Frames that began in these.";
    LEFT_OUT = Counter "grpcscope_connections_left_out_total", &[],
        "Connections that were not followed, since the agent was over a budget; nothing else counts them or their calls. Those still open when it is over are followed from then on, as joined late.";
    FLOWS_RESUMED = Counter "grpcscope_flows_resumed_total", &["result"],
        "Flows known to the agent before a restart and seen again: taken_up where nothing was missed, else missed.";
    PROGRAM_MISSES = Counter "grpcscope_kernel_program_missed_runs_total", &["program"],
        "Runs of a kernel program that the kernel skipped, since it ran already on that CPU.";
    ANOMALIES = Counter "grpcscope_anomalies_total", &["kind"],
        "Things on the wire that the protocols do not allow, or that the agent gave up on.";
    READER_LAG = Gauge "grpcscope_reader_lag_seconds" in "seconds", &["reader"],
        "Age of the newest record of a shard (capture.shards) when it had been handled: how far the agent is behind the kernel.";
    SHARD_QUEUE = Gauge "grpcscope_shard_queue_batches", &["shard"],
        "Batches of records that wait for a shard, 32 at most; absent where there is one shard, which has no queue.";
    SHARD_BATCHES = Counter "grpcscope_shard_batches_total", &["shard"],
        "Batches of records, and times that pass, that a shard was handed.";
    SHARD_QUEUE_FULL = Counter "grpcscope_shard_queue_full_seconds_total" in "seconds", &["shard"],
        "Time for which the reader of the ring waited for room in a shard's queue. Meanwhile the ring fills, and what does not fit is counted as lost.";
    STATE = Gauge "grpcscope_state_bytes" in "bytes", &[],
        "Memory that the state of all connections takes: streams, header tables, timers.";
    STATE_LIMIT = Gauge "grpcscope_state_limit_bytes" in "bytes", &[],
        "Most memory that it may take (limits.state_bytes); above it the connection idle for longest is given up.";
    SERIES = Gauge "grpcscope_series", &[],
        "Series that exist now for calls and connections, as Prometheus counts them: a histogram is one for each bucket, and two.";
    SERIES_LIMIT = Gauge "grpcscope_series_limit", &[],
        "Most series that may exist for calls and connections.";
    SERIES_DROPPED = Counter "grpcscope_series_dropped_total", &["limit"],
        "Observations counted under _OTHER, since the label set they ask for is beyond a limit: series, or methods of a service.";
    SERIES_EXPIRED = Counter "grpcscope_series_expired_total", &[],
        "Series removed, since nothing happened to them for the time of metrics.series_ttl.";
    SCRAPE_DURATION = Gauge "grpcscope_scrape_duration_seconds" in "seconds", &[],
        "Time that it took to write the last answer to a scrape.";
    SCRAPES = Counter "grpcscope_scrapes_total", &["format"],
        "Scrapes answered, by format.";

    PROCESS_CPU = Counter "process_cpu_seconds_total" in "seconds", &[],
        "CPU time of the agent, user and system.";
    PROCESS_MEMORY = Gauge "process_resident_memory_bytes" in "bytes", &[],
        "Resident memory of the agent.";
    PROCESS_FDS = Gauge "process_open_fds", &[],
        "Open file descriptors of the agent.";
    PROCESS_START = Gauge "process_start_time_seconds" in "seconds", &[],
        "When the agent started, in seconds since the epoch.";
}

/// Writes `docs/metrics.md`.
#[must_use]
pub fn document() -> String {
    let mut text = String::from(HEAD);
    for family in CATALOGUE {
        let labels: Vec<String> = family.labels.iter().map(|label| format!("`{label}`")).collect();
        let labels = if labels.is_empty() { "–".to_owned() } else { labels.join(", ") };
        text.push_str(&format!(
            "| `{}` | {} | {} | {} |\n",
            family.name,
            family.kind.as_str(),
            labels,
            family.help.replace('|', "\\|")
        ));
    }
    text.push_str(TAIL);
    text
}

const HEAD: &str = "\
# Metrics

This page is written from `agent/src/metrics/catalogue.rs` by
`GRPCSCOPE_BLESS=1 cargo test -p agent the_documentation_is_the_catalogue`; a test fails when it is out of date.

| metric | type | labels | what it says |
|---|---|---|---|
";

const TAIL: &str = "
Histograms have classic buckets in every format, and native buckets too where the scraper asks for protobuf
(Prometheus: `scrape_native_histograms: true`, before 3.8 `--enable-feature=native-histograms`).

## Values of labels

| label | values |
|---|---|
| `rpc_method`, `grpc_method` | `package.Service/Method`; `unresolved`: the request's headers were not all decoded; `invalid`: the path is no gRPC method (two parts of `A-Z a-z 0-9 _ . $ -`); `_OTHER`: beyond a limit |
| `rpc_response_status_code`, `grpc_status` | `OK` … `UNAUTHENTICATED`; `none`: the call ended without a status (cancelled, connection lost); `unresolved`: there was one, or may have been, that could not be read; `_OTHER`: a number above 16 |
| `error_type` | absent for a success. On the client's side the status of every call that is not `OK`, on the server's `UNKNOWN`, `DEADLINE_EXCEEDED`, `UNIMPLEMENTED`, `INTERNAL`, `UNAVAILABLE`, `DATA_LOSS` (OpenTelemetry's rule); `DEADLINE_EXCEEDED` whenever the deadline passed, `connection_lost` when the connection went away |
| `destination` | `:authority` of the requests; `unresolved`: not known, or an address; `_OTHER` beyond 500 pairs of a workload and a destination |
| `side` | the side that the workload has: `client`, `server`; `unresolved` while it is not known |
| `outcome` | `ok`, `error`, `deadline`, `cancelled`, `aborted` (connection lost), `refused`, `unresolved` (how it ended was not seen), `evicted` (given up while open) |
| `start` | `seen`; `unseen`: the agent came after the request, so the call has no duration |
| `window` | `stream`, `connection`: which window was empty |
| `cause` of stalls | `slow_receiver`, `small_window`, `undecided` (no round trip was seen, or the delay is between the two) |
| `withheld_by` | `client`, `server`: the receiver of the data, which has the credit to give |
| `ended_by`, `sender` | `client`, `server`, `connection`, `unresolved` |
| `source` | where the status of a call was read: `trailer`, `trailers_only`, `rst`, `http`, `none`, `unresolved` |
| `reason` | of a GOAWAY: `notice` (a second one follows), `graceful`, `max_age`, `max_idle`, `too_many_pings`, `too_many_resets`, `error` |
| `code` | RFC 9113 names (`CANCEL`, `REFUSED_STREAM`, …), `_OTHER` |
| `service_name` | `OTEL_SERVICE_NAME` of the process, else its script, else its executable; `unresolved`; `_OTHER` beyond a limit |
| `container_id`, `server_address`, `server_port` | off by default, since they grow with every restart and every peer |

## Series that expire

A label set to which nothing happened for five minutes (`metrics.series_ttl`) is removed; one with calls in
flight or open connections never is. When the same label set comes back, its counters begin at zero, and
Prometheus takes the smaller value for a counter reset, so `rate()` and `increase()` stay right. One case
cannot be told from no reset: within a single scrape interval the label set comes back and grows beyond the
value that it had before it expired; then the increase is counted too low, never too high. Native histograms
carry the time at which they began, which closes the case for them.

## Conservation

For every side, at every scrape, exactly:
`grpc_*_started_total` = `grpcscope_calls_ended_total{start=\"seen\"}` + `grpcscope_calls_in_flight`,
summed over all methods (a call that starts below a limit and ends above it ends under `_OTHER`).
";
