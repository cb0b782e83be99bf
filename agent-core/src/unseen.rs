//! Which stream ids may belong to streams whose request was not seen.
//!
//! Ids only grow (RFC 9113 §5.1.1), so a frame on an id that is not followed belongs to a stream that has
//! ended, to one whose request was lost or sent before the join, or to one whose request is about to be
//! seen. Telling these apart is what keeps late frames of ended streams from becoming calls.

use std::collections::HashSet;

use foldhash::quality::RandomState;

use crate::bytes;

/// The ids of one connection.
#[derive(Debug, Default)]
pub(crate) struct UnseenStreams {
    /// Highest id whose request was seen.
    highest: u32,
    /// Requests from this id on may have been missed; ends with the next request that is seen.
    missed_from: Option<u32>,
    /// Requests with ids in these ranges (first included, last not) were missed.
    missed: Vec<(u32, u32)>,
    /// Ids in the ranges above that have ended since.
    ended: HashSet<u32, RandomState>,
}

/// Losses that are remembered; older ones are taken as settled.
const REMEMBERED_RANGES: usize = 8;
/// Ended ids that are remembered. When they are more, the ranges are dropped: late frames are then ignored.
const REMEMBERED_ENDS: usize = 4_096;

impl UnseenStreams {
    /// Requests may have been lost, or sent before the join.
    pub(crate) fn handle_loss(&mut self) {
        self.missed_from.get_or_insert(self.highest.saturating_add(1));
    }

    /// A request was seen.
    pub(crate) fn handle_request(&mut self, id: u32) {
        if let Some(from) = self.missed_from
            && id > self.highest
        {
            self.missed_from = None;
            if from < id {
                if self.missed.len() >= REMEMBERED_RANGES {
                    self.missed.remove(0);
                }
                self.missed.push((from, id));
            }
        }
        self.highest = self.highest.max(id);
    }

    /// Some request was missed at some time: only then anything is kept on the heap.
    pub(crate) fn may_have_missed(&self) -> bool {
        self.missed_from.is_some() || !self.missed.is_empty() || !self.ended.is_empty()
    }

    /// Heap bytes that are held now.
    pub(crate) fn heap_bytes(&self) -> usize {
        bytes::of_table::<u32>(self.ended.capacity()) + self.missed.capacity() * size_of::<(u32, u32)>()
    }

    /// A stream has ended: what follows on it is ignored.
    pub(crate) fn handle_end(&mut self, id: u32) {
        if !self.may_have_been_missed(id) {
            return;
        }
        if self.ended.len() >= REMEMBERED_ENDS {
            self.ended.clear();
            self.missed.clear();
        }
        self.ended.insert(id);
    }

    /// No request with this id, or a later one, was seen yet: its request is still to come.
    pub(crate) fn is_new(&self, id: u32) -> bool {
        id > self.highest && !self.ended.contains(&id)
    }

    /// The request with this id may have been sent unseen, and its stream may still be open.
    pub(crate) fn may_have_been_missed(&self, id: u32) -> bool {
        let in_range = self.missed.iter().any(|(from, to)| (*from..*to).contains(&id));
        let in_open_range = self.missed_from.is_some_and(|from| id >= from);
        (in_range || in_open_range) && !self.ended.contains(&id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_frames_of_ended_streams_are_not_taken_for_missed_requests() {
        let mut ids = UnseenStreams::default();
        ids.handle_request(1);
        ids.handle_request(3);
        assert!(!ids.may_have_been_missed(1));
        assert!(!ids.is_new(3));
        assert!(ids.is_new(5));
    }

    #[test]
    fn after_a_join_lower_ids_may_have_been_missed_until_they_end() {
        let mut ids = UnseenStreams::default();
        ids.handle_loss();
        assert!(ids.may_have_been_missed(7));
        ids.handle_request(9);
        assert!(ids.may_have_been_missed(7));
        assert!(!ids.may_have_been_missed(11));
        ids.handle_end(7);
        assert!(!ids.may_have_been_missed(7));
        assert!(!ids.may_have_been_missed(9));
    }
}
