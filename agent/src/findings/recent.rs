//! Where the entries of the last findings are, so that the next equal ones need no look-up.
//!
//! A service that gives none of its calls a deadline makes a finding of each. They are equal in everything that an entry goes by, and
//! to see that takes less than to make the entry's key and to hash it: their names are mostly the same places in memory.

use std::sync::Arc;

use agent_core::detectors::{Finding, Name, Owner, Verdict, correlation};
use agent_core::observation::Side;

/// Entries that are remembered.
const RECENT: usize = 4;

/// What findings of one entry have in common.
#[derive(Debug)]
pub(super) struct Equal {
    name: Name,
    verdict: Verdict,
    cause: Option<&'static str>,
    link: Option<correlation::Evidence>,
    owner: Arc<Owner>,
    side: Option<Side>,
    is_of_call: bool,
    method: Option<Arc<str>>,
    peer: Option<Arc<str>>,
}

impl Equal {
    /// `None` where the process is not known by the finding alone.
    pub(super) fn of(finding: &Finding) -> Option<Equal> {
        let (claims, about) = (finding.claim.claims(), &finding.about);
        Some(Equal {
            name: claims.name(),
            verdict: finding.verdict,
            cause: claims.cause(),
            link: claims.link(),
            owner: Arc::clone(about.owner.as_ref()?),
            side: about.side,
            is_of_call: about.stream.is_some(),
            method: about.method.clone(),
            peer: about.peer.clone(),
        })
    }

    fn is(&self, finding: &Finding) -> bool {
        let (claims, about) = (finding.claim.claims(), &finding.about);
        about.owner.as_ref().is_some_and(|owner| {
            owner.process == self.owner.process && is_same(Some(&owner.workload), Some(&self.owner.workload))
        }) && is_same(self.method.as_ref(), about.method.as_ref())
            && is_same(self.peer.as_ref(), about.peer.as_ref())
            && self.is_of_call == about.stream.is_some()
            && self.side == about.side
            && self.verdict == finding.verdict
            && self.name == claims.name()
            && self.cause == claims.cause()
            && self.link == claims.link()
    }
}

fn is_same(left: Option<&Arc<str>>, right: Option<&Arc<str>>) -> bool {
    match (left, right) {
        (Some(left), Some(right)) => Arc::ptr_eq(left, right) || left == right,
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    }
}

/// The last entries.
#[derive(Debug, Default)]
pub(super) struct Recent {
    entries: [Option<(Equal, usize)>; RECENT],
    next: usize,
}

impl Recent {
    /// Where the entry of this one is.
    pub(super) fn place(&self, finding: &Finding) -> Option<usize> {
        self.entries.iter().flatten().find(|(equal, _)| equal.is(finding)).map(|(_, place)| *place)
    }

    /// The entry of findings like this is there.
    pub(super) fn remember(&mut self, equal: Equal, place: usize) {
        self.entries[self.next] = Some((equal, place));
        self.next = (self.next + 1) % RECENT;
    }
}
