//! Numbers for methods whose name is not known, so that the calls of one can be told from those of another.
//!
//! A request has exactly one `:path` (RFC 9113 §8.3.1), before all regular fields (§8.3). Where it refers to an entry from
//! before the join, that entry is one of the unknown ones at the head of the block, and an [`EntryId`] never stands for
//! another entry. So requests with the same unknown entries at their heads have the same `:path`, though nobody knows
//! which entry it is. The reverse does not hold: two numbers may stand for one method, called with another
//! `:authority` for example. Nothing on the wire ever proves what such an entry holds, so the numbers stay.

use std::collections::VecDeque;
use std::num::NonZeroU32;

use crate::hpack::EntryId;

/// The numbers of one connection.
#[derive(Debug, Default)]
pub(crate) struct MethodRefs {
    heads: VecDeque<(Box<[EntryId]>, NonZeroU32)>,
    given: u32,
}

/// Heads that are remembered; the one that was new first goes first, and gets a new number if it comes again.
const REMEMBERED: usize = 64;
/// A head with more unknown entries has no number.
const ENTRIES: usize = 8;

impl MethodRefs {
    /// The number of the method of a request that begins with references to these unknown entries, one of which is its
    /// `:path`.
    pub(crate) fn of(&mut self, head: &[EntryId]) -> Option<NonZeroU32> {
        if head.is_empty() || head.len() > ENTRIES {
            return None;
        }
        if let Some((_, number)) = self.heads.iter().find(|(known, _)| **known == *head) {
            return Some(*number);
        }
        if self.heads.len() >= REMEMBERED {
            self.heads.pop_front();
        }
        self.given = self.given.saturating_add(1);
        let number = NonZeroU32::new(self.given)?;
        self.heads.push_back((Box::from(head), number));
        Some(number)
    }

    /// Heap bytes that are held at most from the first number on.
    pub(crate) fn heap_bytes(&self) -> usize {
        if self.given == 0 {
            0
        } else {
            REMEMBERED * (size_of::<(Box<[EntryId]>, NonZeroU32)>() + ENTRIES * size_of::<EntryId>())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h8_requests_with_the_same_unknown_head_have_one_number_and_others_have_another() {
        let id = |epoch, ordinal| EntryId { epoch, ordinal };
        let mut refs = MethodRefs::default();
        let first = refs.of(&[id(0, -1), id(0, -2)]);
        let number = NonZeroU32::new;
        assert_eq!(first, number(1));
        assert_eq!(refs.of(&[id(0, -1), id(0, -3)]), number(2));
        assert_eq!(refs.of(&[id(0, -1), id(0, -2)]), first);
        assert_eq!(refs.of(&[id(1, -1), id(1, -2)]), number(3), "after a gap it may be another entry");
        assert_eq!(refs.of(&[]), None);
        for ordinal in 0..100 {
            refs.of(&[id(2, ordinal)]);
        }
        assert_eq!(refs.heads.len(), REMEMBERED);
        assert_eq!(refs.of(&[id(0, -1), id(0, -2)]), number(104), "a number is not given twice");
    }
}
