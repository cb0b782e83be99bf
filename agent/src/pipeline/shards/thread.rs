//! The thread of one shard: it handles what it is handed, in its order.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use agent_core::{Resumed, Timestamp};

use super::batch::{Batch, Item};
use super::board::Board;
use super::queue::{Message, Queue};
use crate::capture::kernel::Captured;
use crate::pipeline::{Figures, Handler as _, Listener, Pipeline, monotonic_now};

/// What a shard says of itself, for those who ask from another thread.
#[derive(Debug, Default)]
pub(super) struct Said {
    state_bytes: AtomicUsize,
    unjudged: AtomicU64,
    left_out: AtomicU64,
    resumed: Mutex<Resumed>,
    /// Of the newest chunk when it had been handled, and one; zero: none was handled since this was last asked.
    lag_ns_and_one: AtomicU64,
}

impl Said {
    /// As of the last time that time passed for it.
    pub(super) fn figures(&self) -> Figures {
        Figures {
            state_bytes: self.state_bytes.load(Ordering::Relaxed),
            unjudged: self.unjudged.load(Ordering::Relaxed),
            resumed: *self.resumed.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// How old the newest chunk was when it had been handled, if any was since this was last asked.
    pub(super) fn take_lag_ns(&self) -> Option<u64> {
        self.lag_ns_and_one.swap(0, Ordering::Relaxed).checked_sub(1)
    }

    /// Connections that were left out, as of the last time that time passed for it.
    pub(super) fn left_out(&self) -> u64 {
        self.left_out.load(Ordering::Relaxed)
    }

    fn say(&self, figures: Figures, left_out: u64) {
        self.left_out.store(left_out, Ordering::Relaxed);
        self.state_bytes.store(figures.state_bytes, Ordering::Relaxed);
        self.unjudged.store(figures.unjudged, Ordering::Relaxed);
        *self.resumed.lock().unwrap_or_else(PoisonError::into_inner) = figures.resumed;
    }
}

/// What a shard's thread works with.
pub(super) struct Shard<L: Listener> {
    pub(super) number: usize,
    pub(super) pipeline: Pipeline<L>,
    pub(super) queue: Arc<Queue>,
    pub(super) board: Arc<Board>,
    pub(super) said: Arc<Said>,
}

/// However the thread ends, nobody waits for it any more.
struct Leave(usize, Arc<Queue>, Arc<Board>);

impl Drop for Leave {
    fn drop(&mut self) {
        self.1.close();
        self.2.leave(self.0);
    }
}

impl<L: Listener> Shard<L> {
    /// Handles everything until nothing follows; the pipeline is finished then.
    pub(super) fn run(mut self) -> Pipeline<L> {
        let _leave = Leave(self.number, Arc::clone(&self.queue), Arc::clone(&self.board));
        loop {
            match self.queue.pop() {
                Message::Events(mut batch) => {
                    self.handle(&mut batch);
                    self.queue.give_back(batch);
                }
                Message::GiveUp(now) => self.pipeline.give_up_connections(now),
                Message::Save(to) => {
                    // Who asked may have given up.
                    let _ = to.send(self.pipeline.save().collect());
                }
                Message::Finish(now) => {
                    self.pipeline.finish(now);
                    self.say();
                    return self.pipeline;
                }
            }
        }
    }

    fn handle(&mut self, batch: &mut Batch) {
        let mut newest = None;
        batch.play(|item| match item {
            Item::Captured(captured) => {
                if let Captured::Chunk { chunk, .. } = captured {
                    newest = Some(chunk.time);
                }
                self.pipeline.handle_captured(captured);
            }
            Item::Resume(saved, now) => self.pipeline.resume(vec![saved], now),
            Item::Begin(now) => self.pipeline.begin(now),
            Item::Shed(step, now) => self.pipeline.shed(step, now),
            Item::Timeout(before) => {
                let (board, number) = (&self.board, self.number);
                self.pipeline
                    .handle_timeout_together(before, &mut |facts| board.exchange(number, before, facts));
                board.pass(number, before);
                self.said.say(self.pipeline.figures(), self.pipeline.left_out.total());
            }
        });
        if let Some(newest) = newest {
            let lag_ns = lag_ns(newest).saturating_add(1);
            self.said.lag_ns_and_one.store(lag_ns, Ordering::Relaxed);
        }
    }

    fn say(&self) {
        self.said.say(self.pipeline.figures(), self.pipeline.left_out.total());
    }
}

fn lag_ns(newest: Timestamp) -> u64 {
    monotonic_now().since(newest)
}
