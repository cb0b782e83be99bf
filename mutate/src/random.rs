//! Deterministic numbers: a run depends on its seed alone, whatever libraries change.

/// SplitMix64.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Numbers for replay `index` of the run with this seed; each replay can be made without those before it.
    #[must_use]
    pub fn new(seed: u64, index: u64) -> Random {
        let mut random = Random(seed);
        random.0 = random.number() ^ index.wrapping_mul(0xd129_0a5b_21fc_6d4b);
        random
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; zero if that is zero.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.number() % (bound as u64).max(1)) as usize
    }

    /// A number from `low` up to, not including, `high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.number() % high.saturating_sub(low).max(1)
    }

    /// A number from 1 to about `high`, small ones as likely as large ones.
    pub fn of_any_size(&mut self, high: u64) -> u64 {
        let bits = 64 - high.max(1).leading_zeros();
        let most = 1u64 << self.below(bits as usize + 1);
        1 + self.number() % most.min(high.max(1))
    }

    /// True once in `times`.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replay_has_the_same_numbers_every_time_and_others_than_the_next_one() {
        let numbers = |index| {
            let mut random = Random::new(7, index);
            [random.number(), random.number()]
        };
        assert_eq!(numbers(3), numbers(3));
        assert_ne!(numbers(3), numbers(4));
        let mut random = Random::new(1, 1);
        assert!((0..1000).all(|_| (1..=100).contains(&random.of_any_size(100))));
        assert!((0..1000).all(|_| (5..8).contains(&random.between(5, 8))));
    }
}
