//! From the reader of the ring to one shard: bounded, in order, with buffers that go round.
//!
//! When it is full the reader waits. Meanwhile the kernel's ring fills, and what does not fit into that is counted there: so
//! nothing is lost here, and no application waits. A shard that has ended makes the reader an error, not a wait.

use std::collections::VecDeque;
use std::sync::mpsc::Sender;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use agent_core::{SavedConnection, Timestamp};

use super::batch::Batch;

/// Batches that wait at most. With one being filled and one being handled about 2 MiB of small records, or of large ones.
pub(super) const BATCHES_MAX: usize = 32;

/// What a shard is told.
#[derive(Debug)]
pub(super) enum Message {
    /// Handle these events.
    Events(Batch),
    /// Give all connections up ([`Pipeline::give_up_connections`](crate::pipeline::Pipeline::give_up_connections)).
    GiveUp(Timestamp),
    /// Send what is known of the connections.
    Save(Sender<Vec<SavedConnection>>),
    /// Nothing follows.
    Finish(Timestamp),
}

/// The shard's thread has ended, although nobody asked it to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gone;

#[derive(Debug, Default)]
pub(super) struct Queue {
    inner: Mutex<Inner>,
    has_more: Condvar,
    has_room: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    messages: VecDeque<Message>,
    /// Empty ones, to be filled again.
    free: Vec<Batch>,
    pushed: u64,
    is_gone: bool,
}

impl Queue {
    /// Hands over, and waits for room as long as that takes. Says how long it waited.
    pub(super) fn push(&self, message: Message) -> Result<Duration, Gone> {
        let mut inner = self.lock();
        let mut waited = Duration::ZERO;
        if inner.messages.len() >= BATCHES_MAX && !inner.is_gone {
            let since = Instant::now();
            let is_full = |inner: &mut Inner| inner.messages.len() >= BATCHES_MAX && !inner.is_gone;
            inner = self.has_room.wait_while(inner, is_full).unwrap_or_else(PoisonError::into_inner);
            waited = since.elapsed();
        }
        if inner.is_gone {
            return Err(Gone);
        }
        inner.messages.push_back(message);
        inner.pushed += 1;
        drop(inner);
        self.has_more.notify_one();
        Ok(waited)
    }

    /// The oldest message; waits for one.
    pub(super) fn pop(&self) -> Message {
        let mut inner = self.lock();
        loop {
            if let Some(message) = inner.messages.pop_front() {
                drop(inner);
                self.has_room.notify_one();
                return message;
            }
            inner = self.has_more.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A batch to be filled.
    pub(super) fn take_free(&self) -> Batch {
        self.lock().free.pop().unwrap_or_default()
    }

    /// A batch that was handled.
    pub(super) fn give_back(&self, batch: Batch) {
        self.lock().free.push(batch);
    }

    /// Messages that wait, and all that there were.
    pub(super) fn counts(&self) -> (usize, u64) {
        let inner = self.lock();
        (inner.messages.len(), inner.pushed)
    }

    /// Nobody takes anything out any more.
    pub(super) fn close(&self) {
        self.lock().is_gone = true;
        self.has_room.notify_all();
    }

    /// A thread that panicked while it held the lock left a queue that is still a queue.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn who_fills_a_full_queue_waits_until_there_is_room_and_is_told_when_nobody_takes_any_more() {
        let queue = Arc::new(Queue::default());
        for at in 0..BATCHES_MAX as u64 {
            assert_eq!(queue.push(Message::GiveUp(Timestamp(at))), Ok(Duration::ZERO));
        }
        assert_eq!(queue.counts(), (BATCHES_MAX, BATCHES_MAX as u64));
        let taker = std::thread::spawn({
            let queue = Arc::clone(&queue);
            move || {
                std::thread::sleep(Duration::from_millis(20));
                assert!(matches!(queue.pop(), Message::GiveUp(Timestamp(0))));
                std::thread::sleep(Duration::from_millis(20));
                queue.close();
            }
        });
        assert!(queue.push(Message::Finish(Timestamp(0))).is_ok_and(|waited| waited > Duration::ZERO));
        assert_eq!(queue.push(Message::Finish(Timestamp(0))), Err(Gone));
        taker.join().expect("it does not panic");
    }
}
