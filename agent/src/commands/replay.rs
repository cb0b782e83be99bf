//! `grpcscope replay`: shows the gRPC of recordings, by the same core that watches live, without privileges.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use agent_core::detectors::{Detectors, End, Finding, Party, Thresholds, Verdict};
use agent_core::observation::{Call, ConnectionSummary, Outcome};
use agent_core::{Flow, Limits, Observation, Observer, Timestamp};

use crate::capture::recording::{Container, Endpoints, Event, Statistics, Tracker, source};
use crate::config::Config;
use crate::exit::Failure;
use crate::findings::{About, Entry};
use crate::output::call::{CallLine, outcome_name, protocol_name};
use crate::output::findings;
use crate::output::frames::FrameQueue;
use crate::output::json::{self, ConnectionLine, SummaryJson};
use crate::output::table::Table;
use crate::output::terminal::Look;
use crate::output::units;

/// Arguments of `replay`.
#[derive(Clone, Debug, clap::Args)]
pub struct ReplayArgs {
    /// Recordings: pcap or pcapng, plain or gzip; `-` is the standard input.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,

    /// Print one JSON object a line: calls, findings, connections, and a summary at the end.
    #[arg(long)]
    pub json: bool,

    /// Print every HTTP/2 frame as JSON, with the values of all headers; together with --json also all else.
    #[arg(long)]
    pub frames: bool,
}

/// Replays the recordings, in order. Each stands alone; connections are numbered through.
///
/// # Errors
/// A recording cannot be read, or not to its end. What stands before that is shown all the same, and the
/// other recordings too.
pub fn execute(args: &ReplayArgs, config: &Config) -> Result<(), Failure> {
    let look = Look::of_stdout(config.log.color);
    let stdout = io::stdout().lock();
    let (limits, thresholds) = (config.core_limits(), config.findings.thresholds());
    // A terminal is to see every line at once: the recording may be a pipe from a capture that goes on.
    let result = if look.width.is_some() {
        Replay::new(stdout, args, look, (limits, thresholds)).run(args)
    } else {
        let out = BufWriter::with_capacity(64 * 1024, stdout);
        Replay::new(out, args, look, (limits, thresholds)).run(args)
    };
    match result {
        // Whoever read the output has seen enough.
        Err(Failure::Runtime(error)) if is_broken_pipe(&error) => Ok(()),
        result => result,
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

struct Replay<W> {
    out: W,
    form: Form,
    limits: Limits,
    thresholds: Thresholds,
    /// By finding and verdict: the latest one in words.
    latest: BTreeMap<(&'static str, &'static str), String>,
    statistics: Statistics,
    summary: SummaryJson,
}

/// What is printed.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Form {
    frames: bool,
    calls: Calls,
    look: Look,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Calls {
    Table,
    Json,
    Nothing,
}

/// What is remembered of a connection until its end.
struct Known {
    endpoints: Endpoints,
    /// By flow: sent, received.
    flows: [Seen; 2],
    holes: u64,
    /// The observer has its bytes, and has not said that it ended.
    is_observed: bool,
    /// No packet of it will follow.
    is_over: bool,
}

/// How far a flow was seen.
#[derive(Clone, Copy, Default)]
struct Seen {
    next_offset: Option<u64>,
    ends_with_hole: bool,
}

impl<W: Write> Replay<W> {
    fn new(out: W, args: &ReplayArgs, look: Look, (limits, thresholds): (Limits, Thresholds)) -> Self {
        let calls = match (args.json, args.frames) {
            (true, _) => Calls::Json,
            (false, true) => Calls::Nothing,
            (false, false) => Calls::Table,
        };
        Replay {
            out,
            form: Form { frames: args.frames, calls, look },
            limits,
            thresholds,
            latest: BTreeMap::new(),
            statistics: Statistics::default(),
            summary: SummaryJson { r#type: "summary", complete: true, ..SummaryJson::default() },
        }
    }

    fn run(&mut self, args: &ReplayArgs) -> Result<(), Failure> {
        if self.form.calls == Calls::Table {
            Table::new(self.form.look).write_header(&mut self.out).map_err(anyhow::Error::from)?;
        }
        let several = args.files.len() > 1;
        let mut failures = Vec::new();
        for path in &args.files {
            let label = several.then(|| path.display().to_string());
            if let Err(failure) = self.replay_file(path, label)? {
                failures.push(format!("{}: {failure}", path.display()));
            }
        }
        self.summary.complete = failures.is_empty();
        self.finish().map_err(anyhow::Error::from)?;
        if failures.is_empty() { Ok(()) } else { Err(anyhow::anyhow!(failures.join("; ")).into()) }
    }

    /// The outer error is that of the output, the inner one that of the recording.
    fn replay_file(&mut self, path: &Path, label: Option<String>) -> anyhow::Result<Result<(), String>> {
        let input = match source::open(path) {
            Ok(input) => input,
            Err(error) => return Ok(Err(format!("cannot open the recording: {error}"))),
        };
        let mut container = match Container::open(input) {
            Ok(container) => container,
            Err(error) => return Ok(Err(error.to_string())),
        };
        let mut tracker = Tracker::new(self.statistics.connections);
        let mut file = OneFile {
            observer: Observer::new(self.limits.clone()),
            detectors: Detectors::new(self.thresholds.clone()),
            found: &mut self.latest,
            known: HashMap::default(),
            label,
            form: self.form,
            frames: FrameQueue::default(),
            summary: &mut self.summary,
            out: &mut self.out,
            written: Ok(()),
        };
        file.observer.trace_frames(self.form.frames);
        let mut latest = Timestamp(0);
        let result = loop {
            match container.next_packet() {
                Ok(Some(packet)) => {
                    latest = latest.max(packet.time);
                    // Time passes before what happens at its end.
                    file.pass_time(latest);
                    tracker.handle_packet(&packet, &mut |event| file.handle(event));
                    file.handle_timeouts(latest);
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(error.to_string()),
            }
            file.written?;
            file.written = Ok(());
        };
        tracker.finish(&mut |event| file.handle(event));
        // Nothing follows that an end would have to wait for.
        file.observer.handle_timeout(latest.plus(self.limits.ending_ns));
        file.observer.finish(latest);
        file.drain();
        file.pass_time(latest);
        file.detectors.finish();
        file.drain_findings();
        file.written?;
        self.statistics.add(tracker.statistics());
        Ok(result)
    }

    fn finish(&mut self) -> io::Result<()> {
        let statistics = &self.statistics;
        let summary = &mut self.summary;
        summary.connections = statistics.connections;
        summary.evicted_connections = statistics.evicted_connections;
        summary.packets = statistics.packets;
        summary.bytes = statistics.bytes;
        summary.stream_bytes = statistics.flows.bytes;
        summary.duplicate_bytes = statistics.flows.duplicate_bytes;
        summary.holes = statistics.flows.holes;
        summary.hole_bytes = statistics.flows.hole_bytes;
        summary.skipped_packets.clone_from(&statistics.skipped);
        if statistics.flows.implausible_segments > 0 {
            summary.skipped_packets.insert("outside_window", statistics.flows.implausible_segments);
        }
        match self.form.calls {
            Calls::Json => json::write_line(&mut self.out, &self.summary)?,
            Calls::Table => {
                write_summary(&mut self.out, &self.summary)?;
                write_findings(&mut self.out, &self.summary, &self.latest)?;
            }
            Calls::Nothing => {}
        }
        self.out.flush()
    }
}

/// The replay of one recording.
struct OneFile<'a, W> {
    observer: Observer,
    detectors: Detectors,
    found: &'a mut BTreeMap<(&'static str, &'static str), String>,
    known: HashMap<u64, Known, foldhash::quality::RandomState>,
    label: Option<String>,
    form: Form,
    frames: FrameQueue,
    summary: &'a mut SummaryJson,
    out: &'a mut W,
    /// The first error of the output; after it nothing more is written.
    written: io::Result<()>,
}

impl<W: Write> OneFile<'_, W> {
    fn handle(&mut self, event: Event<'_>) {
        match event {
            Event::Opened { connection, endpoints } => {
                let ends = Some((End::Address(endpoints.first), End::Address(endpoints.second)));
                self.detectors.handle_connection(connection, Party { owner: None, ends });
                self.known.insert(connection.0, Known::new(endpoints));
            }
            Event::Updated { connection, endpoints } => {
                if let Some(known) = self.known.get_mut(&connection.0) {
                    known.endpoints = endpoints;
                }
            }
            Event::Chunk(chunk) => {
                if let Some(known) = self.known.get_mut(&chunk.connection.0) {
                    known.count_hole(chunk.flow, chunk.offset, chunk.bytes.len());
                    known.is_observed = true;
                }
                self.observer.handle_chunk(chunk);
                self.drain();
            }
            Event::Closed { connection, time, .. } => {
                self.observer.handle_close(connection, time);
                self.drain();
            }
            Event::Ended { connection, time } => {
                self.observer.handle_end(connection, time);
                if let Some(known) = self.known.get_mut(&connection.0) {
                    known.is_over = true;
                }
                self.drain();
                self.forget(connection.0);
            }
        }
    }

    fn handle_timeouts(&mut self, now: Timestamp) {
        if self.observer.poll_timeout().is_some_and(|due| due <= now) {
            self.observer.handle_timeout(now);
            self.drain();
        }
    }

    /// Lets detectors look at what lasts, as often as they want it, up to `now`.
    fn pass_time(&mut self, now: Timestamp) {
        // A gap of years, or a clock that was set, is not worth a look for each second.
        const LOOKS_MAX: usize = 10_000;
        for look in 1..=LOOKS_MAX {
            let Some(due) = self.detectors.poll_timeout().filter(|due| *due <= now) else { return };
            self.detectors.handle_timeout(&self.observer, if look == LOOKS_MAX { now } else { due });
            self.drain_findings();
        }
    }

    fn drain(&mut self) {
        while let Some(observation) = self.observer.poll_observation() {
            // Before a connection is forgotten that a finding may be about.
            self.detectors.handle_observation(&observation);
            self.drain_findings();
            let result = match observation {
                Observation::Frame(frame) => {
                    self.frames.push(frame);
                    self.write_frames()
                }
                Observation::CallEnded(call) => self.show_call(*call),
                Observation::ConnectionEnded(summary) => self.show_connection(&summary),
                Observation::ExchangeEnded(exchange) => {
                    self.summary.other_exchanges += 1;
                    *self.summary.other_protocols.entry(protocol_name(exchange.protocol)).or_default() += 1;
                    Ok(())
                }
                Observation::Anomaly(anomaly) => {
                    *self.summary.anomalies.entry(anomaly.kind).or_default() += 1;
                    Ok(())
                }
                Observation::Connection(status) => {
                    if let Some(client_flow) = status.client_flow {
                        self.frames.learn(status.connection, client_flow);
                    }
                    self.write_frames()
                }
                Observation::CallStarted(_)
                | Observation::Goaway(_)
                | Observation::PingAnswered(_)
                | Observation::PingUnanswered(_)
                | Observation::RequestEnded(_)
                | Observation::LateWork(_)
                | Observation::Authority(_)
                | Observation::Intermediary(_)
                | Observation::Stalled(_)
                | Observation::AtStreamLimit(_) => Ok(()),
            };
            if self.written.is_ok() {
                self.written = result;
            }
        }
    }

    fn drain_findings(&mut self) {
        while let Some(finding) = self.detectors.poll_finding() {
            let result = self.show_finding(&finding);
            if self.written.is_ok() {
                self.written = result;
            }
        }
    }

    fn show_finding(&mut self, finding: &Finding) -> io::Result<()> {
        let known = finding.about.connection.and_then(|connection| self.known.get(&connection.0));
        let ends = known.map(|known| {
            let Endpoints { first, second, .. } = known.endpoints;
            (End::Address(first), End::Address(second))
        });
        let mut entry = Entry::of(finding, &About { ends, ..About::default() }, 0);
        // A recording is made on the wire, and not at a process that has a side.
        entry.side = None;
        let (name, verdict) = (finding.name().as_str(), finding.verdict.as_str());
        let counts = self.summary.findings.entry(name).or_default();
        *counts.entry(verdict).or_default() += 1;
        if finding.verdict != Verdict::Quiet {
            self.found.insert((name, verdict), findings::what(&entry));
        }
        if self.form.calls == Calls::Json && self.written.is_ok() {
            findings::write_json(self.out, &entry, self.label.as_deref())?;
        }
        Ok(())
    }

    fn write_frames(&mut self) -> io::Result<()> {
        while let Some(frame) = self.frames.pop() {
            if self.written.is_ok() {
                json::write_frame(self.out, &frame)?;
            }
        }
        Ok(())
    }

    fn show_call(&mut self, call: Call) -> io::Result<()> {
        self.summary.calls += 1;
        *self.summary.outcomes.entry(outcome_name(call.outcome)).or_default() += 1;
        self.summary.refused += u64::from(call.outcome == Outcome::Refused);
        if self.written.is_err() {
            return Ok(());
        }
        let (client, server) = self.roles(call.connection.0, call.client_flow);
        let line = CallLine {
            connection: call.connection.0,
            side: None,
            client,
            server,
            process: None,
            unix_offset_ns: 0,
            file: self.label.clone(),
            call,
        };
        match self.form.calls {
            Calls::Json => json::write_call(self.out, &line),
            Calls::Table => Table::new(self.form.look).write_call(self.out, &line),
            Calls::Nothing => Ok(()),
        }
    }

    fn show_connection(&mut self, summary: &ConnectionSummary) -> io::Result<()> {
        self.summary.http2_connections += u64::from(summary.http2);
        let known = self.known.get(&summary.connection.0);
        // Who opened the connection is the client, as far as the core does not say otherwise.
        match summary.client_flow.or_else(|| known?.endpoints.opened_by) {
            Some(client_flow) => self.frames.learn(summary.connection, client_flow),
            None => self.frames.give_up(summary.connection),
        }
        let result = self.write_frames().and_then(|()| self.write_connection(summary));
        if let Some(known) = self.known.get_mut(&summary.connection.0) {
            known.is_observed = false;
        }
        self.forget(summary.connection.0);
        result
    }

    /// Forgets a connection that is over on the wire and for the observer: the observer takes its time.
    fn forget(&mut self, connection: u64) {
        if self.known.get(&connection).is_some_and(|known| known.is_over && !known.is_observed) {
            self.known.remove(&connection);
            self.detectors.forget(agent_core::ConnectionId(connection));
        }
    }

    fn write_connection(&mut self, summary: &ConnectionSummary) -> io::Result<()> {
        if self.form.calls != Calls::Json || self.written.is_err() {
            return Ok(());
        }
        let connection = summary.connection.0;
        let (client, server) = self.roles(connection, summary.client_flow);
        let holes = self.known.get(&connection).map_or(0, |known| known.holes);
        let file = self.label.clone();
        let line = ConnectionLine { connection, client, server, holes, unix_offset_ns: 0, file };
        json::write_connection(self.out, &line, summary)
    }

    fn roles(&self, connection: u64, client_flow: Option<Flow>) -> (Option<String>, Option<String>) {
        let roles = self.known.get(&connection).and_then(|known| known.endpoints.roles(client_flow));
        roles.map(|(client, server)| (client.to_string(), server.to_string())).unzip()
    }
}

impl Known {
    fn new(endpoints: Endpoints) -> Self {
        Known { endpoints, flows: [Seen::default(); 2], holes: 0, is_observed: false, is_over: false }
    }

    fn count_hole(&mut self, flow: Flow, offset: u64, bytes: usize) {
        let seen = &mut self.flows[usize::from(flow == Flow::Received)];
        // What was left out before a flow was joined is no hole, and a hole that grows is one hole.
        let is_hole = seen.next_offset.map_or(bytes == 0, |next| offset > next);
        self.holes += u64::from(is_hole && !seen.ends_with_hole);
        *seen = Seen { next_offset: Some(offset + bytes as u64), ends_with_hole: bytes == 0 };
    }
}

/// The summary for people.
fn write_summary(out: &mut impl Write, summary: &SummaryJson) -> io::Result<()> {
    let list = |counts: &BTreeMap<&'static str, u64>| {
        let parts: Vec<String> = counts.iter().map(|(name, count)| format!("{count} {name}")).collect();
        parts.join(", ")
    };
    writeln!(out)?;
    if summary.calls == 0 {
        writeln!(out, "no gRPC calls")?;
    } else {
        writeln!(out, "{}: {}", counted(summary.calls, "call"), list(&summary.outcomes))?;
    }
    writeln!(
        out,
        "{}, {} of them HTTP/2; {}, {}",
        counted(summary.connections, "TCP connection"),
        summary.http2_connections,
        counted(summary.packets, "packet"),
        units::bytes(summary.bytes),
    )?;
    if summary.other_exchanges > 0 {
        writeln!(out, "{} not gRPC", counted(summary.other_exchanges, "HTTP/2 exchange"))?;
    }
    if summary.holes > 0 {
        writeln!(out, "{}, {} missing", counted(summary.holes, "hole"), units::bytes(summary.hole_bytes))?;
    }
    if !summary.skipped_packets.is_empty() {
        writeln!(out, "packets skipped: {}", list(&summary.skipped_packets))?;
    }
    if !summary.anomalies.is_empty() {
        writeln!(out, "anomalies: {}", list(&summary.anomalies))?;
    }
    if summary.evicted_connections > 0 {
        let evicted = counted(summary.evicted_connections, "connection");
        writeln!(out, "{evicted} given up, since too many were open at once")?;
    }
    Ok(())
}

/// What was found, for people: how often, and the latest one.
fn write_findings(
    out: &mut impl Write,
    summary: &SummaryJson,
    latest: &BTreeMap<(&'static str, &'static str), String>,
) -> io::Result<()> {
    let verdicts = [("firing", "findings"), ("undecided", "could not be told")];
    for (verdict, heading) in verdicts {
        let counts = summary.findings.iter().filter_map(|(name, counts)| Some((name, counts.get(verdict)?)));
        let mut counts: Vec<(&str, u64)> = counts.map(|(name, count)| (*name, *count)).collect();
        counts.sort_by_key(|(name, count)| (std::cmp::Reverse(*count), *name));
        if !counts.is_empty() {
            writeln!(out, "{heading}:")?;
        }
        for (name, count) in counts {
            let latest = latest.get(&(name, verdict)).map_or("", String::as_str);
            writeln!(out, "{count:>7}  {name:24}  {latest}")?;
        }
    }
    Ok(())
}

fn counted(count: u64, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}
