//! Work spread over threads by process, each with a pipeline of its own.
//!
//! ```text
//!   ring → reader: routes, copies ─┬→ queue of batches → thread: pipeline 0 ─┐ board: what looks
//!                                  └→ queue of batches → thread: pipeline 1 ─┘ show of other processes
//! ```
//!
//! All connections of a process are in one shard, so that what belongs together is found without a lock. Records of a
//! connection are handled in their order, and time passes in each queue where it passed for the reader. With one shard there
//! is none of this: the reader runs the pipeline itself.

mod batch;
mod board;
mod queue;
mod routes;
mod thread;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::Duration;

use agent_core::{ConnectionId, Limits, Resumed, SavedConnection, Timestamp};
use anyhow::{Context as _, anyhow};

use super::handler::{Figures, Handler, Queued};
use super::{Listener, Pipeline, look_at};
use crate::budget::{BudgetState, Budgets, Controller, Usage};
use crate::capture::kernel::Captured;
use batch::Batch;
use board::Board;
use queue::{Gone, Message, Queue};
use routes::Routes;
use thread::{Said, Shard};

/// Time passes for all shards together, and no more often: each time wakes their threads.
const TIME_PASSES_EVERY_NS: u64 = 20_000_000;

/// Several pipelines, each on a thread.
#[derive(Debug)]
pub struct Shards<L: Listener> {
    shards: Vec<Handle<L>>,
    routes: Routes,
    /// Connections that an agent before this one knew, and that were not seen yet: whose shard is not known before.
    saved: HashMap<ConnectionId, SavedConnection, foldhash::quality::RandomState>,
    saved_until: Timestamp,
    idle_ns: u64,
    /// One for all, since the process has one budget.
    budget: Controller,
    has_begun: bool,
    time_passes: Timestamp,
    has_failed: bool,
    told: (),
}

/// The reader's side of a shard.
#[derive(Debug)]
struct Handle<L: Listener> {
    queue: Arc<Queue>,
    said: Arc<Said>,
    thread: JoinHandle<Pipeline<L>>,
    filling: Batch,
    waited: Duration,
}

impl<L: Listener> Handle<L> {
    fn flush(&mut self) -> Result<(), Gone> {
        if self.filling.is_empty() {
            return Ok(());
        }
        let full = std::mem::replace(&mut self.filling, self.queue.take_free());
        self.tell(Message::Events(full))
    }

    fn tell(&mut self, message: Message) -> Result<(), Gone> {
        self.waited += self.queue.push(message)?;
        Ok(())
    }
}

/// What one of `shards` may use of the limits of all: connections and bytes are divided, what is bounded in each connection and
/// what is the same for all of them (names of methods) is not.
#[must_use]
pub fn limits_of_one(all: &Limits, shards: usize) -> Limits {
    let shards = shards.max(1);
    Limits {
        connections: all.connections.div_ceil(shards),
        state_bytes: all.state_bytes / shards,
        ..all.clone()
    }
}

impl<L> Shards<L>
where
    L: Listener + Send + 'static,
    L::Connection: Send,
{
    /// Starts a thread for each pipeline, at most 256. `limits` are those of all together.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub fn start(pipelines: Vec<Pipeline<L>>, limits: &Limits) -> anyhow::Result<Shards<L>> {
        let board = Arc::new(Board::new(pipelines.len()));
        let routes = Routes::new(pipelines.len());
        let mut shards = Vec::new();
        for (number, pipeline) in pipelines.into_iter().enumerate() {
            let (queue, said) = (Arc::<Queue>::default(), Arc::<Said>::default());
            let shard = Shard {
                number,
                pipeline,
                queue: Arc::clone(&queue),
                board: Arc::clone(&board),
                said: Arc::clone(&said),
            };
            let thread =
                std::thread::Builder::new().name(format!("shard-{number}")).spawn(move || shard.run());
            let thread = thread.context("start the thread of a shard")?;
            shards.push(Handle { queue, said, thread, filling: Batch::default(), waited: Duration::ZERO });
        }
        Ok(Shards {
            shards,
            routes,
            saved: HashMap::default(),
            saved_until: Timestamp(0),
            idle_ns: limits.connection_idle_ns,
            budget: Controller::new(Budgets::default()),
            has_begun: false,
            time_passes: Timestamp(0),
            has_failed: false,
            told: (),
        })
    }

    /// The same with budgets: see [`Pipeline::keep_budget`].
    #[must_use]
    pub fn within(self, budget: Controller) -> Self {
        Shards { budget, ..self }
    }

    /// Ends the threads when they have handled everything, and what is open is reported as open. The pipelines, in the order in
    /// which they were given.
    ///
    /// # Errors
    /// A thread panicked.
    pub fn join(mut self, now: Timestamp) -> anyhow::Result<Vec<Pipeline<L>>> {
        // Those that are told that nothing follows would be waited for in vain.
        let flushed = self.flush();
        for shard in &mut self.shards {
            // One that is gone has panicked, which is said below.
            let _ = shard.tell(Message::Finish(now));
        }
        let threads = self.shards.into_iter().map(|shard| shard.thread.join().map_err(|_| Gone));
        let pipelines: Result<Vec<_>, Gone> = threads.collect();
        pipelines.and_then(|pipelines| flushed.map(|()| pipelines)).map_err(Gone::error)
    }

    fn flush(&mut self) -> Result<(), Gone> {
        // A time that passes has to reach all of them, also when one is gone.
        let mut result = Ok(());
        for shard in &mut self.shards {
            result = shard.flush().and(result);
        }
        result
    }

    fn note(&mut self, result: Result<(), Gone>) {
        self.has_failed |= result.is_err();
    }
}

impl Gone {
    fn error(self) -> anyhow::Error {
        anyhow!("the thread of a shard panicked")
    }
}

impl<L> Handler for Shards<L>
where
    L: Listener + Send + 'static,
    L::Connection: Send,
{
    type Told = ();

    fn told(&mut self) -> &mut () {
        &mut self.told
    }

    fn handle_captured(&mut self, captured: Captured<'_>) {
        if let Captured::Close { connection, is_final: true, .. } = captured {
            self.saved.remove(&connection);
        }
        let Some(route) = self.routes.route(&captured) else { return };
        if let Captured::Chunk { chunk, .. } = captured {
            if !self.has_begun {
                self.has_begun = true;
                for shard in &mut self.shards {
                    shard.filling.push_begin(chunk.time);
                }
            }
            if route.is_new
                && let Some(saved) = self.saved.remove(&chunk.connection)
                && let Some(shard) = self.shards.get_mut(route.shard)
            {
                shard.filling.push_resume(saved, chunk.time);
            }
        }
        let Some(shard) = self.shards.get_mut(route.shard) else { return };
        shard.filling.push(&captured);
        if shard.filling.is_full() {
            let result = shard.flush();
            self.note(result);
        }
    }

    fn handle_timeout(&mut self, before: Timestamp) -> anyhow::Result<()> {
        if before >= self.time_passes {
            self.time_passes = before.plus(TIME_PASSES_EVERY_NS);
            if before >= self.saved_until {
                self.saved = HashMap::default();
            }
            for shard in &mut self.shards {
                shard.filling.push_timeout(before);
            }
        }
        let result = self.flush();
        self.note(result);
        if self.has_failed { Err(Gone.error()) } else { Ok(()) }
    }

    fn give_up_connections(&mut self, now: Timestamp) {
        self.budget.begin_anew();
        let mut result = self.flush();
        for shard in &mut self.shards {
            result = shard.tell(Message::GiveUp(now)).and(result);
        }
        self.note(result);
    }

    fn resume(&mut self, saved: Vec<SavedConnection>, now: Timestamp) {
        self.saved.extend(saved.into_iter().map(|saved| (saved.connection, saved)));
        self.saved_until = now.plus(self.idle_ns);
    }

    fn save(&mut self) -> anyhow::Result<Vec<SavedConnection>> {
        self.flush().map_err(Gone::error)?;
        let (to, from) = channel();
        for shard in &mut self.shards {
            shard.tell(Message::Save(to.clone())).map_err(Gone::error)?;
        }
        drop(to);
        let mut all: Vec<SavedConnection> = self.saved.values().cloned().collect();
        let mut answers = 0;
        for saved in from {
            all.extend(saved);
            answers += 1;
        }
        if answers == self.shards.len() { Ok(all) } else { Err(Gone.error()) }
    }

    fn conclude(self, now: Timestamp) -> anyhow::Result<()> {
        self.join(now).map(drop)
    }

    fn keep_budget(&mut self, now: Timestamp, usage: Usage) -> (BudgetState, u64) {
        let left_out = self.shards.iter().map(|shard| shard.said.left_out()).sum();
        if let Some(step) = look_at(&mut self.budget, now, usage) {
            for shard in &mut self.shards {
                shard.filling.push_shed(step, now);
            }
        }
        (self.budget.state(), left_out)
    }

    fn figures(&self) -> Figures {
        let zero = Figures { state_bytes: 0, unjudged: 0, resumed: Resumed::default() };
        self.shards.iter().map(|shard| shard.said.figures()).fold(zero, |sum, one| Figures {
            state_bytes: sum.state_bytes + one.state_bytes,
            unjudged: sum.unjudged.saturating_add(one.unjudged),
            resumed: Resumed {
                taken_up: sum.resumed.taken_up + one.resumed.taken_up,
                missed: sum.resumed.missed + one.resumed.missed,
            },
        })
    }

    fn lags(&mut self, _newest: Option<Timestamp>) -> Vec<(u32, u64)> {
        let lag = |(number, shard): (u32, &Handle<L>)| Some((number, shard.said.take_lag_ns()?));
        (0..).zip(&self.shards).filter_map(lag).collect()
    }

    fn queues(&self) -> Vec<(u32, Queued)> {
        let queued = |shard: &Handle<L>| {
            let (waiting, batches) = shard.queue.counts();
            Queued { waiting, batches, waited: shard.waited }
        };
        (0..).zip(self.shards.iter().map(queued)).collect()
    }
}
