//! States that begin and end: said when they begin, again with new numbers now and then, and once when they end.

use super::finding::{About, Verdict};
use super::{Claim, Out};
use crate::input::Timestamp;

/// A state that lasts is said again, with its numbers as of then, this long after it was said last.
pub(super) const REPEAT_NS: u64 = 60_000_000_000;

/// What was said last of a state.
#[derive(Debug, Default)]
pub(super) struct Lasting {
    /// The state holds: when that was said, and how.
    firing: Option<(Timestamp, About, Claim)>,
    /// When it was said that nobody can tell.
    undecided: Option<Timestamp>,
}

impl Lasting {
    /// It is said to hold.
    pub(super) fn is_firing(&self) -> bool {
        self.firing.is_some()
    }

    /// Takes a judgement; `None` is that it does not hold.
    pub(super) fn handle(&mut self, judged: Option<(Verdict, About, Claim)>, now: Timestamp, out: &mut Out) {
        let judged = judged.filter(|(verdict, _, _)| *verdict != Verdict::Quiet);
        let is_due = |said: Timestamp| now.since(said) >= REPEAT_NS;
        let Some((verdict, about, claim)) = judged else { return self.end(now, out) };
        if verdict == Verdict::Undecided {
            self.end(now, out);
            if self.undecided.is_none_or(is_due) {
                self.undecided = Some(now);
                out.leave_undecided(about, now, claim);
            }
            return;
        }
        // With another cause it is another state.
        if self.firing.as_ref().is_some_and(|(_, _, said)| said.claims().cause() != claim.claims().cause()) {
            self.end(now, out);
        }
        if self.firing.as_ref().is_none_or(|(said, _, _)| is_due(*said)) {
            self.firing = Some((now, about.clone(), claim.clone()));
            out.fire(about, now, claim);
        }
    }

    /// It does not hold, or not any more.
    pub(super) fn end(&mut self, now: Timestamp, out: &mut Out) {
        if let Some((_, about, claim)) = self.firing.take() {
            out.push(Verdict::Quiet, about, now, claim);
        }
    }
}
