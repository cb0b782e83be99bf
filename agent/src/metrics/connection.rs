//! The series of one connection: the place where observations of the core become numbers.
//!
//! It remembers under which series each open call was counted, so that its end takes it out of the same
//! ones whatever limits were reached in between; and what is still open when it is dropped is counted as
//! evicted. So started = ended + in flight holds whatever happens.

use std::collections::HashMap;
use std::sync::Arc;

use agent_core::Observation;
use agent_core::detectors::correlation::{Correlated, Correlation};
use agent_core::detectors::propagation::Propagation;
use agent_core::detectors::{Wasted, Work};
use agent_core::observation::{
    Call, CallStarted, ConnectionStatus, EndedBy, Exchange, GoawayReason, Messages, Outcome, Sync, Timeout,
};

use agent_core::observation::Side;

use super::labels::{Deadline, ErrorType, Method, RstCode, Status, Workload};
use super::series::{Cell, Direction, Distribution, Key, Measure, Scope, Update};
use super::stalls::Lasting;
use super::store::{Locked, Place, Store};

/// Methods whose place is remembered, so that their calls need no look-up.
const RECENT: usize = 4;

/// Counts what happens on one connection of one workload. Dropping it ends the connection.
#[derive(Debug)]
pub struct ConnectionSeries {
    pub(super) store: Arc<Store>,
    pub(super) shard: usize,
    workload: Arc<Workload>,
    pub(super) side: Option<Side>,
    /// Where stalls are counted that last.
    pub(super) lasting: Lasting,
    /// Where the connection is counted as open, and as what.
    open: Option<(Place, Cell)>,
    /// Its first byte was seen.
    pub(super) is_whole: bool,
    /// Its server has said in good order that it will end, and why.
    pub(super) recycled: Option<GoawayReason>,
    /// Bytes that it moved, not counted yet.
    pub(super) uncounted: u64,
    calls: HashMap<u32, Place, foldhash::fast::RandomState>,
    /// What is known of the call that starts next.
    correlated: Option<(Correlation, Option<Propagation>)>,
    recent: [Option<Recent>; RECENT],
    next_recent: usize,
}

/// The path is kept, so that its address cannot become another path's.
#[derive(Debug)]
struct Recent {
    path: Arc<str>,
    side: Side,
    place: Place,
}

impl ConnectionSeries {
    pub(super) fn new(store: Arc<Store>, workload: Arc<Workload>) -> Self {
        ConnectionSeries {
            shard: store.shard_of(&workload),
            store,
            workload,
            side: None,
            lasting: Lasting::default(),
            open: None,
            is_whole: false,
            recycled: None,
            uncounted: 0,
            calls: HashMap::default(),
            correlated: None,
            recent: [const { None }; RECENT],
            next_recent: 0,
        }
    }

    /// Takes any observation of this connection; those that have no series of a connection are ignored
    /// (frames, and anomalies, which are counted by [`Metrics::anomaly`](super::Metrics::anomaly)).
    pub fn observe(&mut self, observation: &Observation) {
        self.observe_end_of_stalls(observation);
        match observation {
            Observation::Connection(status) => self.status(status),
            Observation::CallStarted(started) => self.call_started(started),
            Observation::CallEnded(call) => self.call_ended(call),
            Observation::ExchangeEnded(exchange) => self.exchange(exchange),
            Observation::Goaway(goaway) => self.goaway(goaway),
            Observation::PingAnswered(ping) => self.ping_answered(ping),
            Observation::PingUnanswered(ping) => self.ping_unanswered(ping),
            Observation::AtStreamLimit(limit) => self.at_stream_limit(limit),
            Observation::ConnectionEnded(summary) => {
                self.lived(summary);
                self.was_recycled(summary);
                self.close();
            }
            Observation::Frame(_)
            | Observation::Anomaly(_)
            | Observation::RequestEnded(_)
            | Observation::LateWork(_)
            | Observation::Authority(_)
            | Observation::Intermediary(_)
            | Observation::Stalled(_) => {}
        }
    }

    /// The connection was recognised, or its state changed.
    pub fn status(&mut self, status: &ConnectionStatus) {
        self.side = status.client_flow.map(Side::of).or(self.side);
        let open = Cell::Connections(self.side, status.sync);
        if self.open.is_some_and(|(_, cell)| cell == open) {
            return;
        }
        let store = Arc::clone(&self.store);
        let mut shard = store.shard(self.shard);
        let mut update = Update::default();
        update.add(open, 1);
        match self.open.take() {
            Some((place, cell)) => {
                shard.decrement(place, cell);
                if !matches!(cell, Cell::Connections(_, sync) if sync == status.sync) {
                    update.add(Cell::Entered(status.sync), 1);
                }
            }
            None => {
                self.is_whole = status.sync == Sync::Synced;
                update.add(Cell::Opened, 1);
                update.add(Cell::Entered(status.sync), 1);
            }
        }
        self.open = Some((shard.place(self.connections(), &update), open));
    }

    /// A call started.
    pub fn call_started(&mut self, started: &CallStarted) {
        let side = Side::of(started.client_flow);
        self.side = Some(side);
        let mut update = Update::default();
        update.add(Cell::Started, 1);
        update.add(Cell::InFlight, 1);
        update.add(Cell::Deadline(Deadline::of(started)), 1);
        if let Some((correlation, propagation)) = self.correlated.take() {
            update.add(Cell::Correlated(correlation), 1);
            if let (Correlation::Linked(evidence), Some(result)) = (correlation, propagation) {
                update.add(Cell::Propagation(result, evidence), 1);
            }
        }
        if let Some(attempts @ 1..) = started.previous_attempts {
            update.add(Cell::Retry(attempts.min(5) as u8), 1);
        }
        if let Timeout::Ns(timeout_ns) = started.timeout {
            update.observe(Distribution::Timeout, timeout_ns);
        }
        let store = Arc::clone(&self.store);
        let mut shard = store.shard(self.shard);
        let place = self.place_call(&mut shard, side, started.method.as_ref(), &update);
        if let Some(replaced) = self.calls.insert(started.stream, place) {
            evict(&mut shard, replaced);
        }
    }

    /// It was found out what the call belongs to that starts next.
    pub fn correlated(&mut self, correlated: &Correlated) {
        self.correlated = Some((correlated.correlation, correlated.propagation));
    }

    /// Work was done for nobody.
    pub fn wasted(&mut self, wasted: &Wasted) {
        let mut update = Update::default();
        let side = match wasted.work {
            Work::Outbound { ns, link } => {
                update.add(Cell::UncancelledNs(link), ns);
                Side::Client
            }
            Work::AfterEnd { ns, bytes } => {
                update.add(Cell::LateWorkNs, ns);
                update.add(Cell::LateWorkBytes, bytes);
                Side::Server
            }
        };
        let store = Arc::clone(&self.store);
        let mut shard = store.shard(self.shard);
        self.place_call(&mut shard, side, wasted.method.as_ref(), &update);
    }

    /// A call ended, or was given up.
    pub fn call_ended(&mut self, call: &Call) {
        let started = self.calls.remove(&call.stream);
        let side = call.client_flow.map(Side::of).or(self.side);
        let store = Arc::clone(&self.store);
        let mut shard = store.shard(self.shard);
        let Some(side) = side else {
            let mut update = Update::default();
            update.add(Cell::WithoutSide, 1);
            shard.place(self.connections(), &update);
            return;
        };
        let update = ending(side, call, started.is_some());
        match started {
            Some(place) => {
                shard.decrement(place, Cell::InFlight);
                shard.place_at(place, &update);
            }
            None => {
                self.place_call(&mut shard, side, call.method.as_ref(), &update);
            }
        }
        if let Some(code) = call.rst_code {
            let sender = call.ended_by.filter(|by| *by != EndedBy::Connection);
            let mut update = Update::default();
            update.add(Cell::Rst(side, sender, RstCode::of(code)), 1);
            shard.place(self.connections(), &update);
        }
    }

    /// An exchange that is not gRPC ended.
    pub fn exchange(&mut self, exchange: &Exchange) {
        let side = exchange.client_flow.map(Side::of).or(self.side);
        let mut update = Update::default();
        update.add(Cell::Exchange(side, exchange.protocol), 1);
        self.store.shard(self.shard).place(self.connections(), &update);
    }

    /// The connection ended or is forgotten: calls that are still open are counted as evicted.
    pub fn close(&mut self) {
        self.count_moved(0);
        self.forget_stalls();
        if self.open.is_none() && self.calls.is_empty() {
            return;
        }
        let store = Arc::clone(&self.store);
        let mut shard = store.shard(self.shard);
        for (_, place) in self.calls.drain() {
            evict(&mut shard, place);
        }
        if let Some((place, cell)) = self.open.take() {
            shard.decrement(place, cell);
            let mut update = Update::default();
            update.add(Cell::Closed, 1);
            shard.place(self.connections(), &update);
        }
    }

    pub(super) fn workload(&self) -> &Arc<Workload> {
        &self.workload
    }

    pub(super) fn connections(&self) -> Key {
        Key { workload: Arc::clone(&self.workload), scope: Scope::Connections }
    }

    /// Counts under a method, which is looked up only if it is not one of the last ones.
    pub(super) fn place_call(
        &mut self,
        shard: &mut Locked<'_>,
        side: Side,
        path: Option<&Arc<str>>,
        update: &Update,
    ) -> Place {
        if let Some(path) = path {
            let same = |recent: &&Recent| Arc::ptr_eq(&recent.path, path) && recent.side == side;
            let recent = self.recent.iter().flatten().find(same);
            if let Some(recent) = recent
                && shard.still(recent.place)
            {
                return shard.place_at(recent.place, update);
            }
        }
        let method = Method::of(path);
        let is_named = matches!(method, Method::Named(_));
        let key = Key { workload: Arc::clone(&self.workload), scope: Scope::Calls(side, method) };
        let place = shard.place(key.clone(), update);
        if let Some(path) = path
            && is_named
            && shard.is_at(place, &key)
        {
            self.recent[self.next_recent] = Some(Recent { path: Arc::clone(path), side, place });
            self.next_recent = (self.next_recent + 1) % RECENT;
        }
        place
    }
}

impl Drop for ConnectionSeries {
    fn drop(&mut self) {
        self.close();
    }
}

fn evict(shard: &mut Locked<'_>, place: Place) {
    shard.decrement(place, Cell::InFlight);
    let mut update = Update::default();
    update.add(Cell::Ended(Outcome::Open, true), 1);
    shard.place_at(place, &update);
}

/// What the end of a call adds.
fn ending(side: Side, call: &Call, start_seen: bool) -> Update {
    let mut update = Update::default();
    update.add(Cell::Ended(call.outcome, start_seen), 1);
    let (sent, received) = match side {
        Side::Client => (&call.request, &call.response),
        Side::Server => (&call.response, &call.request),
    };
    for (direction, messages) in [(Direction::Sent, sent), (Direction::Received, received)] {
        if messages.count > 0 && messages.exact {
            update.add(Cell::Messages(direction), messages.count);
        }
    }
    if call.outcome == Outcome::Open {
        return update;
    }
    if call.outcome == Outcome::Deadline {
        update.add(Cell::DeadlineExceeded(call.ended_by), 1);
    }
    let status = Status::of(call);
    if status != Status::Code(0) {
        update.add(Cell::Error(status, call.status_source), 1);
    }
    match (call.started, call.ended) {
        (Some(started), Some(ended)) => {
            let error = ErrorType::of(side, status, call.outcome);
            let lasted_ns = ended.since(started);
            update.observe(Distribution::Duration(status, error), lasted_ns);
            if let Timeout::Ns(timeout_ns @ 1..) = call.timeout {
                let millionths = u128::from(lasted_ns) * 1_000_000 / u128::from(timeout_ns);
                let millionths = u64::try_from(millionths).unwrap_or(u64::MAX);
                update.observe(Distribution::DeadlineUsed, millionths);
                update.observe(Distribution::DeadlineLeft, timeout_ns.saturating_sub(lasted_ns));
            }
        }
        (None, _) | (_, None) => update.add(Cell::Unmeasured(Measure::Duration), 1),
    }
    size(&mut update, Direction::Sent, Measure::Sent, status, sent);
    size(&mut update, Direction::Received, Measure::Received, status, received);
    update
}

fn size(update: &mut Update, direction: Direction, measure: Measure, status: Status, messages: &Messages) {
    if messages.exact {
        update.observe(Distribution::Size(direction, status), messages.bytes);
    } else {
        update.add(Cell::Unmeasured(measure), 1);
    }
}
