//! Pseudo-random numbers for a demo: seeded, so that a run can be repeated; nothing depends on their quality.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A generator that many tasks of one process share (xorshift64*, Vigna 2016).
#[derive(Debug)]
pub(crate) struct Dice(AtomicU64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Dice(AtomicU64::new(seed.wrapping_mul(2).wrapping_add(0x9e37_79b9_7f4a_7c15)))
    }

    /// A number below `sides`.
    pub(crate) fn roll(&self, sides: u64) -> u64 {
        let mut x = self.0.load(Ordering::Relaxed);
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.0.store(x, Ordering::Relaxed);
        (x.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % sides.max(1)
    }

    /// Sleeps between `from` and `to` microseconds, as work does.
    pub(crate) async fn work_us(&self, from: u64, to: u64) {
        let us = from + self.roll(to.saturating_sub(from));
        tokio::time::sleep(Duration::from_micros(us)).await;
    }
}
