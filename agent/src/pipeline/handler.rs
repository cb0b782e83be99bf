//! Who takes what is captured, whether one thread does it or several.

use std::time::Duration;

use agent_core::{Resumed, SavedConnection, Timestamp};

use super::watch::monotonic_now;
use super::{Listener, Pipeline};
use crate::budget::{BudgetState, Usage};
use crate::capture::kernel::Captured;

/// What is told of everything that is followed, however many threads do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figures {
    /// Heap bytes that the core holds for connections.
    pub state_bytes: usize,
    /// Calls, attempts and methods that detectors did not judge.
    pub unjudged: u64,
    /// Flows that an agent before this one knew, and that were seen again.
    pub resumed: Resumed,
}

/// A shard's queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queued {
    /// Batches that wait for it.
    pub waiting: usize,
    /// All that it was handed until now.
    pub batches: u64,
    /// How long the reader of the ring has waited for room until now.
    pub waited: Duration,
}

/// Who takes what is captured: one [`Pipeline`], or several on threads of their own ([`Shards`](super::Shards)).
pub trait Handler: Sized {
    /// Whom [`watch`](super::watch()) tells what is told besides observations.
    type Told;

    /// The one.
    fn told(&mut self) -> &mut Self::Told;

    /// Takes what was captured.
    fn handle_captured(&mut self, captured: Captured<'_>);

    /// Everything that was captured before this moment was taken.
    ///
    /// # Errors
    /// It does not work any more.
    fn handle_timeout(&mut self, before: Timestamp) -> anyhow::Result<()>;

    /// What follows is from programs that know nothing of what was captured before ([`Pipeline::give_up_connections`]).
    fn give_up_connections(&mut self, now: Timestamp);

    /// What the agent before this one knew.
    fn resume(&mut self, saved: Vec<SavedConnection>, now: Timestamp);

    /// What is known of the connections, for the agent after this one.
    ///
    /// # Errors
    /// It does not work any more.
    fn save(&mut self) -> anyhow::Result<Vec<SavedConnection>>;

    /// Nothing more will be captured: what is open is reported as open.
    ///
    /// # Errors
    /// It does not work any more.
    fn conclude(self, now: Timestamp) -> anyhow::Result<()>;

    /// Takes what the process uses, once a second, and decides what is left out ([`Pipeline::keep_budget`]).
    fn keep_budget(&mut self, now: Timestamp, usage: Usage) -> (BudgetState, u64);

    /// What is told of all together.
    fn figures(&self) -> Figures;

    /// Number of each shard that has handled something since this was last asked, and how old its newest record was then, in
    /// nanoseconds. `newest` is the time of the newest that was taken.
    fn lags(&mut self, newest: Option<Timestamp>) -> Vec<(u32, u64)>;

    /// Number of each shard that has a queue, and how that stands.
    fn queues(&self) -> Vec<(u32, Queued)>;
}

impl<L: Listener> Handler for Pipeline<L> {
    type Told = L;

    fn told(&mut self) -> &mut L {
        self.listener()
    }

    fn handle_captured(&mut self, captured: Captured<'_>) {
        Pipeline::handle_captured(self, captured);
    }

    fn handle_timeout(&mut self, before: Timestamp) -> anyhow::Result<()> {
        Pipeline::handle_timeout(self, before);
        Ok(())
    }

    fn give_up_connections(&mut self, now: Timestamp) {
        Pipeline::give_up_connections(self, now);
    }

    fn resume(&mut self, saved: Vec<SavedConnection>, now: Timestamp) {
        Pipeline::resume(self, saved, now);
    }

    fn save(&mut self) -> anyhow::Result<Vec<SavedConnection>> {
        Ok(Pipeline::save(self).collect())
    }

    fn conclude(mut self, now: Timestamp) -> anyhow::Result<()> {
        self.finish(now);
        Ok(())
    }

    fn keep_budget(&mut self, now: Timestamp, usage: Usage) -> (BudgetState, u64) {
        Pipeline::keep_budget(self, now, usage)
    }

    fn figures(&self) -> Figures {
        Figures { state_bytes: self.state_bytes(), unjudged: self.unjudged(), resumed: self.resumed() }
    }

    fn lags(&mut self, newest: Option<Timestamp>) -> Vec<(u32, u64)> {
        newest.map(|newest| (0, monotonic_now().since(newest))).into_iter().collect()
    }

    fn queues(&self) -> Vec<(u32, Queued)> {
        Vec::new()
    }
}
