//! A time that may not have come: half the room of an `Option<Timestamp>`, for what is kept of every stream.

use crate::input::Timestamp;

/// A time, or never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment(u64);

impl Moment {
    /// It has not come. No clock gets there: it is 584 years away from its start.
    pub(crate) const NEVER: Moment = Moment(u64::MAX);

    /// It has come.
    pub(crate) fn at(time: Timestamp) -> Moment {
        Moment(time.0)
    }

    /// The time, if it has come.
    pub(crate) fn get(self) -> Option<Timestamp> {
        (self != Moment::NEVER).then_some(Timestamp(self.0))
    }

    /// The first time counts.
    pub(crate) fn note_first(&mut self, time: Timestamp) {
        if *self == Moment::NEVER {
            self.0 = time.0;
        }
    }

    /// The last time counts.
    pub(crate) fn note_last(&mut self, time: Timestamp) {
        self.0 = self.get().map_or(time.0, |earlier| earlier.0.max(time.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_its_first_or_its_last_time() {
        let (mut first, mut last) = (Moment::NEVER, Moment::NEVER);
        assert_eq!((first.get(), last.get()), (None, None));
        for time in [5, 0, 9] {
            first.note_first(Timestamp(time));
            last.note_last(Timestamp(time));
        }
        assert_eq!((first.get(), last.get()), (Some(Timestamp(5)), Some(Timestamp(9))));
    }
}
