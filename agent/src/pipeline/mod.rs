//! Runs the core on what is captured, and joins what it says with who it is about.
//!
//! In: [`Captured`]. Out, to a [`Listener`]: observations, each with its connection's [`Subject`], and what the detectors
//! find in them.

mod handler;
mod left_out;
mod shards;
mod subject;
mod watch;

use std::sync::Arc;

use foldhash::HashMap;

use agent_core::detectors::correlation::Correlated;
use agent_core::detectors::{Detectors, Facts, Finding, Thresholds, Wasted};
use agent_core::observation::{CallStarted, OpenCall, Stall};
use agent_core::{ConnectionId, Limits, Observation, Observer, Resumed, SavedConnection, Timestamp};

use crate::budget::{BudgetState, Budgets, Change, Controller, Step, Usage};
use crate::capture::kernel::Captured;
use crate::identity::Identities;

pub use handler::{Figures, Handler, Queued};
use left_out::LeftOut;
pub use shards::{Shards, limits_of_one};
pub use subject::{Subject, pid};
pub use watch::{Stop, Watched, capture_options, monotonic_now, start_capture, unix_offset_ns, watch};

/// What observations are for.
pub trait Listener {
    /// What is kept for a connection while it is open.
    type Connection;

    /// A connection is followed from now on.
    fn handle_connection(&mut self, subject: &Subject) -> Self::Connection;

    /// Something was observed on it.
    fn handle_observation(
        &mut self,
        subject: &Subject,
        connection: &mut Self::Connection,
        observation: Observation,
    );

    /// The connection moved `bytes`, of which `missed` were not seen: calls that were missed, and lost records.
    fn handle_moved(
        &mut self,
        _subject: &Subject,
        _connection: &mut Self::Connection,
        _bytes: u64,
        _missed: u64,
    ) {
    }

    /// A sender is stalled, and was when this was last said of it if it was said: a detector's look at what lasts, every second.
    fn handle_open_stall(
        &mut self,
        _subject: &Subject,
        _connection: &mut Self::Connection,
        _stall: &Stall,
        _now: Timestamp,
    ) {
    }

    /// A call that is open, as it stands; after all of them [`Listener::handle_open_calls_seen`].
    fn handle_open_call(
        &mut self,
        _subject: &Subject,
        _connection: &mut Self::Connection,
        _call: &OpenCall,
        _now: Timestamp,
    ) {
    }

    /// All open calls were shown.
    fn handle_open_calls_seen(&mut self) {}

    /// A call is about to be observed to start that its process makes, and what it belongs to was looked for: not said of calls
    /// of the infrastructure.
    fn handle_correlated(
        &mut self,
        _subject: &Subject,
        _connection: &mut Self::Connection,
        _call: &CallStarted,
        _correlated: &Correlated,
    ) {
    }

    /// Work was done for nobody, by this connection's process: an amount to be added.
    fn handle_wasted(&mut self, _subject: &Subject, _connection: &mut Self::Connection, _wasted: &Wasted) {}

    /// A detector has spoken, about this connection or about nothing that is open. Nothing does in a pipeline without
    /// detectors.
    fn handle_finding(&mut self, _subject: Option<&Subject>, _finding: Finding) {}

    /// The detectors have looked at what lasts: what they know besides findings can be asked for.
    fn handle_look(&mut self, _detectors: &Detectors) {}
}

/// Asks `budget` what is to be left out from now on, if that changes, and says so.
fn look_at(budget: &mut Controller, now: Timestamp, usage: Usage) -> Option<Step> {
    let change = budget.look(now, usage)?;
    let state = budget.state();
    match change {
        Change::Over(resource, step) => {
            let what = match step {
                Step::Nothing | Step::Data => {
                    "over budget: DATA is left out, and with it what is known of messages and flow control; calls are followed"
                }
                Step::Connections => {
                    "still over budget: new connections are not followed either, known ones are"
                }
            };
            tracing::warn!(
                resource = resource.name(),
                cpu_of_budget = state.cpu_ratio,
                memory_of_budget = state.memory_ratio,
                "{what}"
            );
        }
        Change::Within(_, Step::Nothing) => {
            tracing::info!("well below the budgets: DATA is seen again");
        }
        Change::Within(_, Step::Data | Step::Connections) => {
            tracing::info!("well below the budgets: new connections are followed again");
        }
    }
    Some(state.step)
}

/// How often all open calls are looked at: each of them is visited.
const OPEN_CALLS_EVERY_NS: u64 = 5_000_000_000;

/// The core with the connections that it follows.
#[derive(Debug)]
pub struct Pipeline<L: Listener> {
    observer: Observer,
    /// For those who want findings.
    detectors: Option<Detectors>,
    identities: Identities,
    subjects: HashMap<ConnectionId, (Subject, L::Connection)>,
    listener: L,
    open_calls_due: Timestamp,
    budget: Controller,
    /// New connections that are not followed for the budgets.
    left_out: LeftOut,
}

impl<L: Listener> Pipeline<L> {
    /// A pipeline that has seen nothing yet.
    #[must_use]
    pub fn new(limits: Limits, identities: Identities, listener: L) -> Self {
        Pipeline {
            left_out: LeftOut::new(limits.connections),
            budget: Controller::new(Budgets::default()),
            observer: Observer::new(limits),
            detectors: None,
            identities,
            subjects: HashMap::default(),
            listener,
            open_calls_due: Timestamp(0),
        }
    }

    /// The same with detectors.
    #[must_use]
    pub fn with_detectors(self, thresholds: Thresholds) -> Self {
        Pipeline { detectors: Some(Detectors::new(thresholds)), ..self }
    }

    /// The same with budgets: see [`Pipeline::keep_budget`].
    #[must_use]
    pub fn within(self, budget: Controller) -> Self {
        Pipeline { budget, ..self }
    }

    /// Takes what the process uses, once a second, and decides what is left out. What has come of the budgets so far, and how many
    /// connections were not followed of those that the kernel side told of.
    pub fn keep_budget(&mut self, now: Timestamp, usage: Usage) -> (BudgetState, u64) {
        if let Some(step) = look_at(&mut self.budget, now, usage) {
            self.shed(step, now);
        }
        (self.budget.state(), self.left_out.total())
    }

    /// What is left out from now on.
    fn shed(&mut self, step: Step, now: Timestamp) {
        self.drain();
        self.observer.leave_out_data(step != Step::Nothing, now);
        self.drain();
        if step == Step::Connections {
            self.left_out.begin();
        } else {
            self.left_out.end();
        }
    }

    /// What is known of the connections, for the pipeline after a restart ([`Pipeline::resume`]).
    pub fn save(&self) -> impl Iterator<Item = SavedConnection> {
        self.observer.save()
    }

    /// What the pipeline before the restart knew.
    pub fn resume(&mut self, saved: Vec<SavedConnection>, now: Timestamp) {
        self.observer.resume(saved, now);
    }

    /// What became of it so far.
    #[must_use]
    pub fn resumed(&self) -> Resumed {
        self.observer.resumed()
    }

    /// Takes what was captured. What the core says of chunks is handed on together with what it says of the next ones, as soon
    /// as [`Observer::is_drain_due`], and at the latest when time passes.
    pub fn handle_captured(&mut self, captured: Captured<'_>) {
        // By the time alone connections end, and what comes under the id of one begins anew: whose it is, and whether it is
        // followed, is asked afterwards.
        if let Captured::Chunk { chunk, .. } = &captured
            && self.observer.poll_timeout().is_some_and(|due| due <= chunk.time)
        {
            self.observer.handle_timeout(chunk.time);
            self.drain_if_due();
        }
        if self.left_out.sheds() && self.is_left_out(&captured) {
            return;
        }
        match captured {
            Captured::Open { connection, pid, endpoints, .. } => {
                let subject = Subject::new(connection, pid, Some(endpoints), &self.identities);
                self.follow(subject);
            }
            Captured::Chunk { pid, chunk, .. } => {
                if !self.subjects.contains_key(&chunk.connection) {
                    // The record of its opening was lost: its addresses are not known, its process is.
                    self.follow(Subject::new(chunk.connection, pid, None, &self.identities));
                }
                self.observer.handle_chunk(chunk);
                self.drain_if_due();
            }
            Captured::LeftOut { connection, flow, offset, time } => {
                self.observer.handle_left_out(connection, flow, offset, time);
                self.drain_if_due();
            }
            Captured::Close { connection, flow, is_final, unseen, time, .. } => {
                self.drain();
                if unseen {
                    self.observer.handle_unseen_end(connection, flow);
                }
                self.observer.handle_close(connection, time);
                if is_final {
                    self.observer.handle_end(connection, time);
                    if !self.observer.is_following(connection) {
                        // None of its bytes was seen, so the core will never say that it ended.
                        self.subjects.remove(&connection);
                        if let Some(detectors) = &mut self.detectors {
                            detectors.forget(connection);
                        }
                    }
                }
            }
            Captured::Moved { connection, bytes, missed } => {
                if let Some((subject, connection)) = self.subjects.get_mut(&connection) {
                    self.listener.handle_moved(subject, connection, bytes, missed);
                }
            }
            // The offsets of the next chunk say what is missing; the kernel's counters say how much was lost.
            Captured::Lost { .. } => {}
        }
    }

    /// Everything that was captured before `now` has been handled.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        self.handle_timeout_together(now, &mut |facts| vec![Arc::new(facts)]);
    }

    /// Looks of the detectors begin, since the first bytes of any connection were seen, in this pipeline or in one of those that
    /// others of the node's processes are in ([`Detectors::begin`]).
    pub fn begin(&mut self, now: Timestamp) {
        if let Some(detectors) = &mut self.detectors {
            detectors.begin(now);
        }
    }

    /// [`Pipeline::handle_timeout`], where the node's processes are spread over several pipelines
    /// ([`Detectors::handle_timeout_together`]).
    pub fn handle_timeout_together(
        &mut self,
        now: Timestamp,
        exchange: &mut dyn FnMut(Facts) -> Vec<Arc<Facts>>,
    ) {
        self.observer.handle_timeout(now);
        self.drain();
        if let Some(detectors) = &mut self.detectors
            && detectors.poll_timeout().is_some_and(|due| due <= now)
        {
            detectors.handle_timeout_together(&self.observer, now, exchange);
            self.listener.handle_look(detectors);
            let (subjects, listener) = (&mut self.subjects, &mut self.listener);
            self.observer.visit_open_stalls(|stall| {
                if let Some((subject, connection)) = subjects.get_mut(&stall.connection) {
                    listener.handle_open_stall(subject, connection, &stall, now);
                }
            });
            if self.open_calls_due <= now {
                self.open_calls_due = now.plus(OPEN_CALLS_EVERY_NS);
                self.observer.visit_open_calls(|call| {
                    if let Some((subject, connection)) = subjects.get_mut(&call.connection) {
                        listener.handle_open_call(subject, connection, call, now);
                    }
                });
                listener.handle_open_calls_seen();
            }
            self.drain_detectors();
        }
    }

    /// Nothing more will be captured: what is open is reported as open.
    pub fn finish(&mut self, now: Timestamp) {
        self.observer.finish(now);
        self.drain();
        if let Some(detectors) = &mut self.detectors {
            detectors.finish();
            self.drain_detectors();
        }
    }

    /// What follows is from programs that know nothing of what was captured before: connections are reported as far as
    /// they were seen, their open calls as open, and begin again when they show themselves. Their HPACK tables are known again
    /// where the offsets prove that nothing was missed, as after a restart; that takes programs that name connections alike.
    pub fn give_up_connections(&mut self, now: Timestamp) {
        // Those that are known now would look like new ones.
        self.budget.begin_anew();
        self.left_out.end();
        self.observer.leave_out_data(false, now);
        let saved: Vec<SavedConnection> = self.observer.save().collect();
        self.observer.finish(now);
        self.observer.resume(saved, now);
        self.drain();
        // Those of which no byte was seen.
        for (connection, _) in self.subjects.drain() {
            if let Some(detectors) = &mut self.detectors {
                detectors.forget(connection);
            }
        }
    }

    /// Whom the observations go to, when it has been told all.
    pub fn listener(&mut self) -> &mut L {
        self.drain();
        &mut self.listener
    }

    /// What detectors did not judge, since a table of theirs was full.
    #[must_use]
    pub fn unjudged(&self) -> u64 {
        self.detectors.as_ref().map_or(0, Detectors::forgotten)
    }

    /// Heap bytes that the core holds for connections.
    #[must_use]
    pub fn state_bytes(&self) -> usize {
        self.observer.state_bytes()
    }

    /// Connections that are followed now.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.observer.connections()
    }

    /// Whether it is of a connection that is not followed.
    fn is_left_out(&mut self, captured: &Captured<'_>) -> bool {
        let connection = captured.connection();
        if self.subjects.contains_key(&connection) {
            return false;
        }
        match captured {
            Captured::Open { .. } | Captured::Chunk { .. } => self.left_out.insert(connection),
            Captured::Close { is_final: true, .. } => self.left_out.remove(connection),
            Captured::LeftOut { .. }
            | Captured::Close { .. }
            | Captured::Moved { .. }
            | Captured::Lost { .. } => {}
        }
        true
    }

    fn follow(&mut self, subject: Subject) {
        // What waits is about the connection that had this id before.
        self.drain();
        let connection = self.listener.handle_connection(&subject);
        if let Some(detectors) = &mut self.detectors {
            detectors.handle_connection(subject.connection, subject.party());
        }
        self.subjects.insert(subject.connection, (subject, connection));
    }

    fn drain_if_due(&mut self) {
        if self.observer.is_drain_due() {
            self.drain();
        }
    }

    fn drain(&mut self) {
        while let Some(observation) = self.observer.poll_observation() {
            let id = observation.connection();
            let ended = matches!(observation, Observation::ConnectionEnded(_));
            let mut correlated = None;
            if let Some(detectors) = &mut self.detectors {
                detectors.handle_observation(&observation);
                correlated = detectors.take_correlated();
            }
            if let Some((subject, connection)) = self.subjects.get_mut(&id) {
                if let (Observation::CallStarted(call), Some(correlated)) = (&observation, &correlated) {
                    self.listener.handle_correlated(subject, connection, call, correlated);
                }
                self.listener.handle_observation(subject, connection, observation);
            }
            // Before the connection is forgotten that it may be about.
            self.drain_detectors();
            if ended {
                self.subjects.remove(&id);
            }
        }
    }

    fn drain_detectors(&mut self) {
        let Some(detectors) = &mut self.detectors else { return };
        while let Some(wasted) = detectors.poll_wasted() {
            if let Some((subject, connection)) = self.subjects.get_mut(&wasted.connection) {
                self.listener.handle_wasted(subject, connection, &wasted);
            }
        }
        while let Some(finding) = detectors.poll_finding() {
            let subject = finding.about.connection.and_then(|connection| self.subjects.get(&connection));
            self.listener.handle_finding(subject.map(|(subject, _)| subject), finding);
        }
    }
}
