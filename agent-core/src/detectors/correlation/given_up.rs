//! Calls that were given up, in the order in which they are forgotten. Most processes have none: it is as small as it
//! can be until there is one.

use std::collections::VecDeque;

use super::tables::Key;
use crate::input::Timestamp;

/// Calls, and when they are forgotten.
#[derive(Debug, Default)]
#[expect(clippy::box_collection, reason = "eight octets in front of every process, and not thirty-two")]
pub(super) struct GivenUp(Option<Box<VecDeque<(Timestamp, Key)>>>);

impl GivenUp {
    pub(super) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |calls| calls.len())
    }

    pub(super) fn push_back(&mut self, due: Timestamp, key: Key) {
        self.0.get_or_insert_default().push_back((due, key));
    }

    pub(super) fn pop_front(&mut self) -> Option<Key> {
        self.0.as_mut()?.pop_front().map(|(_, key)| key)
    }

    /// The next one that is to be forgotten by `now`.
    pub(super) fn pop_due(&mut self, now: Timestamp) -> Option<Key> {
        self.0.as_mut()?.pop_front_if(|(due, _)| *due <= now).map(|(_, key)| key)
    }

    /// In the order in which they were given up.
    pub(super) fn keys(&self) -> impl DoubleEndedIterator<Item = Key> {
        self.0.iter().flat_map(|calls| calls.iter()).map(|(_, key)| *key)
    }
}

/// Heap bytes of so many calls.
#[cfg(test)]
pub(super) fn bytes(calls: usize) -> usize {
    size_of::<VecDeque<(Timestamp, Key)>>() + crate::detectors::memory::of_list::<(Timestamp, Key)>(calls)
}
