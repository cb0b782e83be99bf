//! Which thread read which request: whether a thread that writes an outbound request still works on the inbound one that it read.
//!
//! That is so where each call has a thread of its own, and wrong where a thread serves many: event loops, pollers that hand over
//! to a pool, runtimes that move tasks between threads. A process tells which it is: where threads are shared, sooner or later
//! one reads a request while an earlier one that it read is still open. From then on its threads are no evidence. Until enough
//! calls were open at once without that, they are not yet.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use super::tables::{Key, Set};

/// Inbound calls that have to begin while others are open, each read by a thread that has none, before threads are evidence.
pub(super) const CLEAN_CALLS: u32 = 32;
/// Threads of a process that are told apart; above it they are no evidence.
const THREADS: usize = 1_024;

/// The threads of a process.
#[derive(Debug)]
pub(super) enum Threads {
    /// None has read a request while an earlier one of its own was open.
    Own(Box<Own>),
    /// They serve several calls at once.
    Shared,
}

#[derive(Debug, Default)]
pub(super) struct Own {
    by_id: HashMap<u32, Thread, RandomState>,
    /// Calls that began while others were open.
    clean: u32,
}

#[derive(Debug, Default)]
struct Thread {
    /// Calls that it read, and that may be worked on.
    calls: Set,
    /// Of them, those that are open.
    open: u32,
    last: Option<Key>,
}

impl Default for Threads {
    fn default() -> Self {
        Threads::Own(Box::default())
    }
}

impl Threads {
    /// A thread has read the end of a request; `others` says that other calls of the process are open.
    pub(super) fn handle_read(&mut self, thread: u32, call: Key, others: bool) {
        let Threads::Own(own) = self else { return };
        let Own { by_id, clean } = own.as_mut();
        if thread == 0 {
            return;
        }
        if by_id.len() >= THREADS && !by_id.contains_key(&thread) {
            by_id.retain(|_, thread| thread.calls.len() > 0);
            if by_id.len() >= THREADS {
                *self = Threads::Shared;
                return;
            }
        }
        let state = by_id.entry(thread).or_default();
        if state.open > 0 {
            *self = Threads::Shared;
            return;
        }
        *clean = clean.saturating_add(u32::from(others));
        state.calls.add(call);
        state.open += 1;
        state.last = Some(call);
    }

    /// The call was given up; its thread may still work on it.
    pub(super) fn handle_given_up(&mut self, thread: u32) {
        if let Some(thread) = self.get_mut(thread) {
            thread.open = thread.open.saturating_sub(1);
        }
    }

    /// The call is worked on no more.
    pub(super) fn handle_done(&mut self, thread: u32, call: Key, was_open: bool) {
        if let Some(thread) = self.get_mut(thread) {
            thread.calls.remove(call);
            thread.open = thread.open.saturating_sub(u32::from(was_open));
        }
    }

    /// Place of the only call that this thread works on, if threads are evidence.
    pub(super) fn call_of(&self, thread: u32) -> Option<Key> {
        let Threads::Own(own) = self else { return None };
        let Own { by_id, clean } = own.as_ref();
        if *clean < CLEAN_CALLS || thread == 0 {
            return None;
        }
        let thread = by_id.get(&thread)?;
        thread.last.filter(|last| thread.open == 1 && thread.calls.only() == Some(last.index()))
    }

    /// A thread was seen to write for another call than the one that it read.
    pub(super) fn refute(&mut self) {
        *self = Threads::Shared;
    }

    fn get_mut(&mut self, thread: u32) -> Option<&mut Thread> {
        match self {
            Threads::Own(own) if thread != 0 => own.by_id.get_mut(&thread),
            Threads::Own(_) | Threads::Shared => None,
        }
    }
}

/// Heap bytes at most.
#[cfg(test)]
pub(super) fn most_bytes() -> usize {
    size_of::<Own>() + crate::detectors::memory::of_table::<(u32, Thread)>(THREADS)
}
