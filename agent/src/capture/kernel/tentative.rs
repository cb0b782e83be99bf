//! Records of calls whose place in their flow the kernel side has guessed ([`FLAG_TENTATIVE`](agent_common::ring::FLAG_TENTATIVE)):
//! kept until the flow's next certain record tells whether the guess was right.

use std::collections::VecDeque;

use agent_common::ring::RecordHeader;

/// So many are kept; beyond it the oldest is forgotten.
pub(super) const TENTATIVE_MAX: usize = 256;

/// How long they are kept, in nanoseconds. A reader whose buffer was full reads on at once.
pub(super) const TENTATIVE_NS: u64 = 1_000_000_000;

/// Those that are kept, in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Tentative {
    kept: VecDeque<Kept>,
}

/// A record that counts only if the next one of its flow goes on where its call ended.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) header: RecordHeader,
    pub(super) payload: Box<[u8]>,
}

impl Kept {
    fn is_of(&self, header: &RecordHeader) -> bool {
        self.header.connection == header.connection && self.header.flow == header.flow
    }

    fn end(&self) -> u64 {
        self.header.offset.saturating_add(self.header.moved.into())
    }
}

impl Tentative {
    /// Forgets all.
    pub(super) fn clear(&mut self) {
        self.kept.clear();
    }

    /// Keeps a record.
    pub(super) fn keep(&mut self, header: RecordHeader, payload: &[u8]) {
        let oldest = header.time_ns.saturating_sub(TENTATIVE_NS);
        self.kept.retain(|kept| kept.header.time_ns >= oldest);
        if self.kept.len() >= TENTATIVE_MAX {
            self.kept.pop_front();
        }
        self.kept.push_back(Kept { header, payload: payload.into() });
    }

    /// The flow's place in the frames is certain from `header` on: what came right before it counts as well, and what else
    /// is kept of the flow does not. Nearly always nothing is kept.
    pub(super) fn confirmed_by(&mut self, header: &RecordHeader) -> Vec<Kept> {
        if self.kept.is_empty() {
            return Vec::new();
        }
        let oldest = header.time_ns.saturating_sub(TENTATIVE_NS);
        let all = std::mem::take(&mut self.kept).into_iter();
        let (mut of_flow, others): (Vec<Kept>, Vec<Kept>) =
            all.filter(|kept| kept.header.time_ns >= oldest).partition(|kept| kept.is_of(header));
        self.kept = others.into();
        // Backwards, as far as each ends where the one behind it begins.
        let mut start = header.offset;
        let mut first = of_flow.len();
        while first > 0 && of_flow[first - 1].end() == start {
            first -= 1;
            start = of_flow[first].header.offset;
        }
        of_flow.drain(..first);
        of_flow
    }
}
