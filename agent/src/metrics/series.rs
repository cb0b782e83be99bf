//! What is counted for one workload and method, or for a workload's connections.
//!
//! A [`State`] is a short list of cells, each of them one series of some family, and of histograms. An
//! [`Update`] is what one observation adds to it, all or nothing.

use std::sync::Arc;
use std::time::SystemTime;

use agent_core::detectors::correlation::{self, Correlation};
use agent_core::detectors::propagation::Propagation;
use agent_core::detectors::{Name, Verdict};
use agent_core::observation::{
    EndedBy, GoawayReason, Outcome, PingKind, Protocol, StatusSource, Sync, Window,
};
use smallvec::SmallVec;

use super::histogram::{self, Histogram, Layout};
use agent_core::observation::Side;

use super::labels::{Deadline, ErrorType, Method, RstCode, Status, Workload};
use super::stalls::Stalled;

/// Whose series.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) workload: Arc<Workload>,
    pub(super) scope: Scope,
}

/// What of the workload.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Scope {
    /// Its calls of one method on one side.
    Calls(Side, Method),
    /// Its connections.
    Connections,
    /// What was found of it: of calls of a method, where the finding is about one.
    Findings(Option<Side>, Option<Method>),
}

/// How a key is treated when series run out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    /// Asks for room.
    Plain,
    /// All methods of a workload beyond a limit: asks for room in the reserve.
    MethodOverflow,
    /// All workloads beyond the limit: its room is set aside from the beginning.
    WorkloadOverflow,
}

impl Key {
    pub(super) fn level(&self) -> Level {
        let everyone = self.workload.service_name() == super::labels::OTHER;
        match &self.scope {
            Scope::Calls(_, Method::Other)
            | Scope::Connections
            | Scope::Findings(_, Some(Method::Other) | None)
                if everyone =>
            {
                Level::WorkloadOverflow
            }
            Scope::Calls(_, Method::Other) | Scope::Findings(_, Some(Method::Other)) => Level::MethodOverflow,
            Scope::Calls(_, Method::Named(_) | Method::Unresolved | Method::Invalid)
            | Scope::Connections
            | Scope::Findings(_, Some(Method::Named(_) | Method::Unresolved | Method::Invalid) | None) => {
                Level::Plain
            }
        }
    }

    /// Where an observation goes for which there is no room under this key.
    pub(super) fn overflow(&self, everyone: &Arc<Workload>) -> Key {
        match (&self.scope, self.level()) {
            (Scope::Calls(side, _), Level::Plain) => {
                Key { workload: Arc::clone(&self.workload), scope: Scope::Calls(*side, Method::Other) }
            }
            (Scope::Findings(side, Some(_)), Level::Plain) => {
                let scope = Scope::Findings(*side, Some(Method::Other));
                Key { workload: Arc::clone(&self.workload), scope }
            }
            (scope, _) => Key { workload: Arc::clone(everyone), scope: scope.clone() },
        }
    }
}

/// One counter or gauge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Cell {
    Started,
    InFlight,
    /// The flag says that the start was seen.
    Ended(Outcome, bool),
    Deadline(Deadline),
    /// What an outbound call belongs to.
    Correlated(Correlation),
    /// What became of the deadline of the call that it belongs to.
    Propagation(Propagation, correlation::Evidence),
    /// Of outbound calls, in nanoseconds.
    UncancelledNs(correlation::Evidence),
    /// In nanoseconds.
    LateWorkNs,
    LateWorkBytes,
    DeadlineExceeded(Option<EndedBy>),
    Messages(Direction),
    Unmeasured(Measure),
    Connections(Option<Side>, Sync),
    Opened,
    Closed,
    Entered(Sync),
    Rst(Side, Option<EndedBy>, RstCode),
    Exchange(Option<Side>, Protocol),
    WithoutSide,
    /// Attempts before it, five for all above.
    Retry(u8),
    Error(Status, StatusSource),
    Goaway(Option<Side>, Option<Side>, GoawayReason),
    /// The side, and why.
    Recycled(Option<Side>, GoawayReason),
    /// The side, the sender, the purpose, and whether it was answered.
    Ping(Option<Side>, Option<Side>, PingKind, bool),
    AtStreamLimit(Option<Side>),
    /// In nanoseconds.
    AtStreamLimitNs(Option<Side>),
    Finding(Verdict, Found),
    Firing(Found),
    Stalls(Stalled),
    /// In nanoseconds.
    StallNs(Stalled),
    StalledNow(Stalled),
    UncertainStalls(Window),
    /// Bytes that connections moved.
    Moved,
    /// Those of them that nobody saw.
    Missed,
}

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Found {
    pub(super) name: Name,
    pub(super) cause: Option<&'static str>,
    pub(super) link: Option<correlation::Evidence>,
}

impl Cell {
    fn is_gauge(self) -> bool {
        matches!(self, Cell::InFlight | Cell::Connections(..) | Cell::Firing(_) | Cell::StalledNow(_))
    }

    /// The same without what only its author can count.
    pub(super) fn general(self) -> Cell {
        let general = |found: Found| Found { cause: None, link: None, ..found };
        match self {
            Cell::Finding(verdict, found) => Cell::Finding(verdict, general(found)),
            Cell::Firing(found) => Cell::Firing(general(found)),
            Cell::Started
            | Cell::InFlight
            | Cell::Ended(..)
            | Cell::Deadline(_)
            | Cell::Correlated(_)
            | Cell::Propagation(..)
            | Cell::UncancelledNs(_)
            | Cell::LateWorkNs
            | Cell::LateWorkBytes
            | Cell::DeadlineExceeded(_)
            | Cell::Messages(_)
            | Cell::Unmeasured(_)
            | Cell::Connections(..)
            | Cell::Opened
            | Cell::Closed
            | Cell::Entered(_)
            | Cell::Rst(..)
            | Cell::Exchange(..)
            | Cell::WithoutSide
            | Cell::Retry(_)
            | Cell::Error(..)
            | Cell::Goaway(..)
            | Cell::Recycled(..)
            | Cell::Ping(..)
            | Cell::AtStreamLimit(_)
            | Cell::AtStreamLimitNs(_)
            | Cell::Stalls(_)
            | Cell::StallNs(_)
            | Cell::StalledNow(_)
            | Cell::UncertainStalls(_)
            | Cell::Moved
            | Cell::Missed => self,
        }
    }
}

/// Direction of a message, from the workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Direction {
    Sent,
    Received,
}

/// What could not be measured of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Measure {
    Duration,
    Sent,
    Received,
}

/// One histogram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Distribution {
    Duration(Status, Option<ErrorType>),
    Size(Direction, Status),
    Timeout,
    /// In millionths.
    DeadlineUsed,
    DeadlineLeft,
    Stall(Window),
    PingRoundTrip(Side),
    Lifetime(Option<Side>),
}

impl Distribution {
    fn layout(self) -> &'static Layout {
        match self {
            Distribution::Duration(..) => &histogram::DURATION,
            Distribution::Size(..) => &histogram::SIZE,
            Distribution::Timeout => &histogram::TIMEOUT,
            Distribution::DeadlineUsed => &histogram::USED,
            Distribution::DeadlineLeft => &histogram::DURATION,
            Distribution::Stall(_) => &histogram::DURATION,
            Distribution::PingRoundTrip(_) => &histogram::ROUND_TRIP,
            Distribution::Lifetime(_) => &histogram::LIFETIME,
        }
    }

    /// Series of its classic form: the buckets with the infinite one, the sum and the count.
    fn weight(self) -> usize {
        self.layout().bounds.len() + 3
    }
}

/// What one observation adds.
#[derive(Debug, Default)]
pub(super) struct Update {
    pub(super) cells: SmallVec<[(Cell, u64); 8]>,
    pub(super) values: SmallVec<[(Distribution, u64); 4]>,
}

impl Update {
    pub(super) fn add(&mut self, cell: Cell, amount: u64) {
        self.cells.push((cell, amount));
    }

    pub(super) fn observe(&mut self, distribution: Distribution, value: u64) {
        self.values.push((distribution, value));
    }

    /// The same as the workload `_OTHER` counts it, whose room is set aside and so must be known beforehand.
    pub(super) fn general(&self) -> Update {
        let cells = self.cells.iter().map(|(cell, amount)| (cell.general(), *amount));
        Update { cells: cells.collect(), values: self.values.clone() }
    }
}

/// Everything that is counted under one key.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    pub(super) cells: Vec<(Cell, u64)>,
    pub(super) histograms: Vec<(Distribution, Histogram)>,
    /// Behind the cell that was counted last: those that an update has together were most often made together, and one kind of
    /// update follows another.
    next: usize,
}

impl State {
    /// Series that the update would add.
    pub(super) fn missing(&self, update: &Update) -> usize {
        let cells = update.cells.iter().filter(|(cell, _)| !self.cells.iter().any(|(have, _)| have == cell));
        let values =
            update.values.iter().filter(|(value, _)| !self.histograms.iter().any(|(have, _)| have == value));
        cells.count() + values.map(|(distribution, _)| distribution.weight()).sum::<usize>()
    }

    /// Counts the update if it adds no series; if it would, does nothing and says so.
    pub(super) fn count(&mut self, update: &Update) -> bool {
        let mut cells: SmallVec<[usize; 8]> = SmallVec::new();
        let mut next = self.next;
        for (cell, _) in &update.cells {
            let Some(at) = position(&self.cells, cell, next) else { return false };
            cells.push(at);
            next = at + 1;
        }
        let mut histograms: SmallVec<[usize; 4]> = SmallVec::new();
        let mut next_histogram = 0;
        for (distribution, _) in &update.values {
            let Some(at) = position(&self.histograms, distribution, next_histogram) else { return false };
            histograms.push(at);
            next_histogram = at + 1;
        }
        self.next = next;
        for (at, (_, amount)) in cells.into_iter().zip(&update.cells) {
            let value = &mut self.cells[at].1;
            *value = value.saturating_add(*amount);
        }
        for (at, (_, value)) in histograms.into_iter().zip(&update.values) {
            self.histograms[at].1.observe(*value);
        }
        true
    }

    pub(super) fn apply(&mut self, update: &Update, now: impl Fn() -> SystemTime) {
        for (cell, amount) in &update.cells {
            self.add(*cell, *amount);
        }
        for (distribution, value) in &update.values {
            let at = self.histograms.iter().position(|(have, _)| have == distribution).unwrap_or_else(|| {
                self.histograms.push((*distribution, Histogram::new(distribution.layout(), now())));
                self.histograms.len() - 1
            });
            self.histograms[at].1.observe(*value);
        }
    }

    pub(super) fn add(&mut self, cell: Cell, amount: u64) {
        match self.cells.iter_mut().find(|(have, _)| *have == cell) {
            Some((_, value)) => *value = value.saturating_add(amount),
            None => self.cells.push((cell, amount)),
        }
    }

    pub(super) fn decrement(&mut self, cell: Cell) {
        if let Some((_, value)) = self.cells.iter_mut().find(|(have, _)| *have == cell) {
            *value = value.saturating_sub(1);
        }
    }

    /// Something is open, so it must not expire.
    pub(super) fn is_open(&self) -> bool {
        self.cells.iter().any(|(cell, value)| cell.is_gauge() && *value > 0)
    }

    /// Its series.
    pub(super) fn weight(&self) -> usize {
        self.cells.len() + self.histograms.iter().map(|(have, _)| have.weight()).sum::<usize>()
    }

    /// Adds what another one has counted.
    pub(super) fn merge(&mut self, other: &State) {
        for (cell, amount) in &other.cells {
            self.add(*cell, *amount);
        }
        for (distribution, theirs) in &other.histograms {
            match self.histograms.iter_mut().find(|(have, _)| have == distribution) {
                Some((_, mine)) => mine.merge(theirs),
                None => self.histograms.push((*distribution, theirs.clone())),
            }
        }
    }
}

/// Where something is, looked for from `first` on and then before it.
fn position<K: PartialEq, V>(list: &[(K, V)], wanted: &K, first: usize) -> Option<usize> {
    // Mostly there.
    if list.get(first).is_some_and(|(have, _)| have == wanted) {
        return Some(first);
    }
    let (before, behind) = list.split_at(first.min(list.len()));
    let found = behind.iter().position(|(have, _)| have == wanted).map(|at| before.len() + at);
    found.or_else(|| before.iter().position(|(have, _)| have == wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_counts_the_same_wherever_its_series_are_and_nothing_if_one_is_missing() {
        let cells = [Cell::Started, Cell::InFlight, Cell::Opened, Cell::Closed, Cell::Moved];
        let mut whole = Update::default();
        cells.iter().for_each(|cell| whole.add(*cell, 1));
        whole.observe(Distribution::Timeout, 7);
        let mut state = State::default();
        assert!(!state.count(&whole));
        assert!(state.cells.is_empty() && state.histograms.is_empty());
        state.apply(&whole, || SystemTime::UNIX_EPOCH);
        let mut expected = state.clone();
        for round in 0..50_usize {
            let mut update = Update::default();
            for step in 0..=round % 4 {
                update.add(cells[(round * 3 + step * 2) % cells.len()], step as u64 + 1);
            }
            update.observe(Distribution::Timeout, round as u64);
            assert!(state.count(&update));
            expected.apply(&update, || SystemTime::UNIX_EPOCH);
            update.add(Cell::WithoutSide, 1);
            assert!(!state.count(&update));
            assert_eq!(state.cells, expected.cells);
        }
        assert_eq!(state.histograms[0].1.count(), 51);
        assert_eq!(state.histograms[0].1.classic(), expected.histograms[0].1.classic());
    }
}
