//! A histogram with classic and native buckets, in whole units (nanoseconds, bytes).
//!
//! Native buckets follow Prometheus' exponential schemas: schema `s` has 2^s buckets for each power of two,
//! bucket `i` ends at 2^(i / 2^s). They begin at schema 3 (each bucket 9 % wider than the one before) and
//! halve their resolution when they need more than [`NATIVE_BUCKETS_MAX`] buckets; nothing is ever dropped.

use std::time::SystemTime;

/// Most native buckets of one histogram.
pub(super) const NATIVE_BUCKETS_MAX: usize = 160;
/// Schema at the start: 2^(1/8), the one that a bucket factor of 1.1 asks for.
const SCHEMA_START: i32 = 3;
/// Values up to this count as zero in native buckets (2^-128, Prometheus' default).
pub(super) const ZERO_THRESHOLD: f64 = 2.938_735_877_055_719e-39;

/// Bounds of classic buckets, and how whole units become base units.
#[derive(Debug)]
pub(super) struct Layout {
    /// Inclusive upper bounds in whole units, ascending, without the infinite one.
    pub bounds: &'static [u64],
    /// The same in base units, as they are exported.
    pub exported_bounds: &'static [f64],
    /// Whole units in one base unit.
    pub units_per_base: f64,
}

/// Durations by the OpenTelemetry RPC conventions, in nanoseconds.
pub(super) static DURATION: Layout = Layout {
    bounds: &[
        5_000_000,
        10_000_000,
        25_000_000,
        50_000_000,
        75_000_000,
        100_000_000,
        250_000_000,
        500_000_000,
        750_000_000,
        1_000_000_000,
        2_500_000_000,
        5_000_000_000,
        7_500_000_000,
        10_000_000_000,
    ],
    exported_bounds: &[0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0],
    units_per_base: 1e9,
};

/// Timeouts, in nanoseconds. One deadline of 5 s is sent as `4999123u`, `5S` or `5010m` by different
/// libraries, so a bound at a round number would tear it apart; these lie between round numbers.
pub(super) static TIMEOUT: Layout = Layout {
    bounds: &[
        1_500_000,
        7_000_000,
        15_000_000,
        35_000_000,
        70_000_000,
        150_000_000,
        350_000_000,
        700_000_000,
        1_500_000_000,
        3_500_000_000,
        7_000_000_000,
        15_000_000_000,
        45_000_000_000,
        90_000_000_000,
        400_000_000_000,
        4_000_000_000_000,
    ],
    exported_bounds: &[
        0.0015, 0.007, 0.015, 0.035, 0.07, 0.15, 0.35, 0.7, 1.5, 3.5, 7.0, 15.0, 45.0, 90.0, 400.0, 4000.0,
    ],
    units_per_base: 1e9,
};

/// Shares of a timeout, in millionths: fine near the whole, where calls begin to fail.
pub(super) static USED: Layout = Layout {
    bounds: &[50_000, 100_000, 250_000, 500_000, 750_000, 900_000, 950_000, 1_000_000, 1_100_000, 2_000_000],
    exported_bounds: &[0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 1.0, 1.1, 2.0],
    units_per_base: 1e6,
};

/// Round trips, in nanoseconds: from inside a machine to across the world.
pub(super) static ROUND_TRIP: Layout = Layout {
    bounds: &[
        100_000,
        250_000,
        500_000,
        1_000_000,
        2_500_000,
        5_000_000,
        10_000_000,
        25_000_000,
        50_000_000,
        100_000_000,
        250_000_000,
        500_000_000,
        1_000_000_000,
    ],
    exported_bounds: &[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0],
    units_per_base: 1e9,
};

/// Lifetimes of connections, in nanoseconds: from those that are made for one call to those that outlive a release.
pub(super) static LIFETIME: Layout = Layout {
    bounds: &[
        1_000_000_000,
        10_000_000_000,
        60_000_000_000,
        300_000_000_000,
        600_000_000_000,
        1_800_000_000_000,
        3_600_000_000_000,
        21_600_000_000_000,
        86_400_000_000_000,
        604_800_000_000_000,
    ],
    exported_bounds: &[1.0, 10.0, 60.0, 300.0, 600.0, 1800.0, 3600.0, 21_600.0, 86_400.0, 604_800.0],
    units_per_base: 1e9,
};

/// Message bytes of a call, by gRFC A66.
pub(super) static SIZE: Layout = Layout {
    bounds: &[
        0,
        1 << 10,
        2 << 10,
        4 << 10,
        16 << 10,
        64 << 10,
        256 << 10,
        1 << 20,
        4 << 20,
        16 << 20,
        64 << 20,
        256 << 20,
        1 << 30,
        4 << 30,
    ],
    exported_bounds: &[
        0.0,
        1024.0,
        2048.0,
        4096.0,
        16384.0,
        65536.0,
        262_144.0,
        1_048_576.0,
        4_194_304.0,
        16_777_216.0,
        67_108_864.0,
        268_435_456.0,
        1_073_741_824.0,
        4_294_967_296.0,
    ],
    units_per_base: 1.0,
};

/// Counts values.
#[derive(Clone, Debug)]
pub(super) struct Histogram {
    layout: &'static Layout,
    /// One for each bound, and the infinite one; not cumulated.
    classic: Vec<u64>,
    count: u64,
    /// In whole units: sums of whole numbers are exact and never go back.
    sum: u128,
    native: Native,
    created: SystemTime,
}

impl Histogram {
    /// An empty one.
    #[must_use]
    pub(super) fn new(layout: &'static Layout, created: SystemTime) -> Self {
        Histogram {
            layout,
            classic: vec![0; layout.bounds.len() + 1],
            count: 0,
            sum: 0,
            native: Native::default(),
            created,
        }
    }

    /// Counts one value, in whole units.
    pub(super) fn observe(&mut self, value: u64) {
        let bucket = self.layout.bounds.partition_point(|bound| *bound < value);
        self.classic[bucket] = self.classic[bucket].saturating_add(1);
        self.count = self.count.saturating_add(1);
        self.sum = self.sum.saturating_add(u128::from(value));
        self.native.observe(value as f64 / self.layout.units_per_base);
    }

    /// Adds what another one of the same layout has counted.
    pub(super) fn merge(&mut self, other: &Histogram) {
        for (mine, theirs) in self.classic.iter_mut().zip(&other.classic) {
            *mine = mine.saturating_add(*theirs);
        }
        self.count = self.count.saturating_add(other.count);
        self.sum = self.sum.saturating_add(other.sum);
        self.native.merge(&other.native);
        self.created = self.created.min(other.created);
    }

    /// Number of values.
    #[must_use]
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Sum of the values in base units.
    #[must_use]
    pub(super) fn sum(&self) -> f64 {
        self.sum as f64 / self.layout.units_per_base
    }

    /// Upper bounds in base units, the infinite one last, with the values in each bucket (not cumulated).
    #[must_use]
    pub(super) fn classic(&self) -> Vec<(f64, u64)> {
        let bounds = self.layout.exported_bounds.iter().copied().chain([f64::INFINITY]);
        bounds.zip(self.classic.iter().copied()).collect()
    }

    /// The native buckets.
    #[must_use]
    pub(super) fn native(&self) -> &Native {
        &self.native
    }

    /// When it was made.
    #[must_use]
    pub(super) fn created(&self) -> SystemTime {
        self.created
    }
}

/// Exponential buckets of positive values: a dense window over the indices in use.
#[derive(Clone, Debug)]
pub(super) struct Native {
    schema: i32,
    zero: u64,
    /// Index of the first bucket of the window.
    first: i32,
    counts: Vec<u64>,
}

impl Default for Native {
    fn default() -> Self {
        Native { schema: SCHEMA_START, zero: 0, first: 0, counts: Vec::new() }
    }
}

impl Native {
    /// The resolution now.
    #[must_use]
    pub(super) fn schema(&self) -> i32 {
        self.schema
    }

    /// Values in the zero bucket.
    #[must_use]
    pub(super) fn zero(&self) -> u64 {
        self.zero
    }

    /// Buckets as Prometheus wants them: spans of (gap to the last span, length), and the difference of each
    /// count to the one before it.
    #[must_use]
    pub(super) fn spans(&self) -> (Vec<(i32, u32)>, Vec<i64>) {
        let mut spans: Vec<(i32, u32)> = Vec::new();
        let mut deltas = Vec::new();
        let mut next = 0;
        let mut last_count = 0i64;
        for (index, count) in (self.first..).zip(&self.counts) {
            if *count == 0 {
                continue;
            }
            match spans.last_mut() {
                Some((_, length)) if index == next => *length += 1,
                _ => spans.push((index - next, 1)),
            }
            next = index + 1;
            let count = i64::try_from(*count).unwrap_or(i64::MAX);
            deltas.push(count - last_count);
            last_count = count;
        }
        (spans, deltas)
    }

    fn observe(&mut self, value: f64) {
        if value <= ZERO_THRESHOLD {
            self.zero = self.zero.saturating_add(1);
        } else {
            self.add(bucket_index(value), SCHEMA_START, 1);
        }
    }

    fn merge(&mut self, other: &Native) {
        self.zero = self.zero.saturating_add(other.zero);
        for (index, count) in (other.first..).zip(&other.counts) {
            if *count > 0 {
                self.add(index, other.schema, *count);
            }
        }
    }

    /// Adds to the bucket that `index` of `schema` falls into.
    fn add(&mut self, index: i32, schema: i32, count: u64) {
        while self.schema > schema {
            self.halve_resolution();
        }
        loop {
            let index = coarser(index, schema - self.schema);
            if self.counts.is_empty() {
                self.first = index;
            }
            let from = self.first.min(index);
            let to = (self.first + self.counts.len() as i32).max(index + 1);
            if (to - from) as usize > NATIVE_BUCKETS_MAX {
                self.halve_resolution();
                continue;
            }
            if from < self.first {
                let missing = (self.first - from) as usize;
                self.counts.splice(0..0, std::iter::repeat_n(0, missing));
                self.first = from;
            }
            self.counts.resize((to - from) as usize, 0);
            let bucket = &mut self.counts[(index - from) as usize];
            *bucket = bucket.saturating_add(count);
            return;
        }
    }

    fn halve_resolution(&mut self) {
        let mut halved: Vec<u64> = Vec::new();
        let first = coarser(self.first, 1);
        for (index, count) in (self.first..).zip(&self.counts) {
            let at = (coarser(index, 1) - first) as usize;
            if at >= halved.len() {
                halved.resize(at + 1, 0);
            }
            halved[at] = halved[at].saturating_add(*count);
        }
        self.first = first;
        self.counts = halved;
        self.schema -= 1;
    }
}

/// The bucket that contains bucket `index` when the resolution is halved `steps` times: the index is divided
/// by two, rounded up, since a bucket is named by its upper bound.
fn coarser(mut index: i32, steps: i32) -> i32 {
    for _ in 0..steps {
        index = (index + 1) >> 1;
    }
    index
}

/// Fractions in [0.5, 1) at which the buckets of schema 3 end: 2^(-1 + i/8).
const FRACTIONS: [f64; 8] = [
    0.5,
    0.545_253_866_332_628_8,
    0.594_603_557_501_360_5,
    0.648_419_777_325_504_8,
    std::f64::consts::FRAC_1_SQRT_2,
    0.771_105_412_703_970_4,
    0.840_896_415_253_714_4,
    0.917_004_043_204_671_1,
];

/// Bucket of a value above [`ZERO_THRESHOLD`] in schema 3.
fn bucket_index(value: f64) -> i32 {
    // value = fraction * 2^exponent with 0.5 <= fraction < 1, read from the bits; the threshold keeps
    // subnormal numbers out.
    let bits = value.to_bits();
    let exponent = ((bits >> 52) & 0x7ff) as i32 - 1022;
    let fraction = f64::from_bits((bits & 0x000f_ffff_ffff_ffff) | (1022 << 52));
    let within = FRACTIONS.partition_point(|bound| *bound < fraction) as i32;
    within + (exponent - 1) * FRACTIONS.len() as i32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counted(values: &[u64]) -> Histogram {
        let mut histogram = Histogram::new(&DURATION, SystemTime::UNIX_EPOCH);
        for value in values {
            histogram.observe(*value);
        }
        histogram
    }

    #[test]
    fn t18_counts_stop_at_their_largest_value() {
        let mut histogram = counted(&[0, 1_000_000]);
        for _ in 0..70 {
            let same = histogram.clone();
            histogram.merge(&same);
        }
        histogram.observe(1_000_000);
        assert_eq!(histogram.count(), u64::MAX);
        assert!(histogram.classic().iter().all(|(_, count)| *count == 0 || *count == u64::MAX));
        assert_eq!(histogram.native().zero(), u64::MAX);
        assert!(histogram.sum().is_finite() && histogram.sum() > 0.0);
    }

    /// Bounds (lower, upper] and count of each native bucket, decoded from spans and deltas.
    fn decoded(native: &Native) -> Vec<(f64, f64, u64)> {
        let (spans, deltas) = native.spans();
        let mut deltas = deltas.into_iter();
        let (mut index, mut count) = (0, 0);
        let mut buckets = Vec::new();
        for (gap, length) in spans {
            index += gap;
            for _ in 0..length {
                count += deltas.next().expect("a delta for each bucket");
                let bound = |i: i32| (f64::from(i) / f64::from(native.schema()).exp2()).exp2();
                buckets.push((bound(index - 1), bound(index), count as u64));
                index += 1;
            }
        }
        assert!(deltas.next().is_none(), "a bucket for each delta");
        buckets
    }

    #[test]
    fn a_value_on_a_bound_belongs_to_the_bucket_below() {
        let histogram = counted(&[5_000_000, 5_000_001]);
        assert_eq!(histogram.classic()[..2], [(0.005, 1), (0.01, 1)]);
    }

    #[test]
    fn values_beyond_the_last_bound_are_in_the_infinite_bucket() {
        let histogram = counted(&[11_000_000_000, u64::MAX]);
        assert_eq!(histogram.classic().last(), Some(&(f64::INFINITY, 2)));
    }

    #[test]
    fn m1_sizes_of_messages_have_the_buckets_of_grfc_a66() {
        const K: f64 = 1_024.0;
        let mut expected = vec![0.0, K, 2.0 * K];
        expected.extend([4.0, 16.0, 64.0, 256.0].map(|size| size * K));
        expected.extend([1.0, 4.0, 16.0, 64.0, 256.0].map(|size| size * K * K));
        expected.extend([1.0, 4.0].map(|size| size * K * K * K));
        assert_eq!(SIZE.exported_bounds, expected);
    }

    #[test]
    fn d2_one_deadline_as_different_encoders_send_it_is_in_one_bucket() {
        // Nanoseconds that C-core, grpc-go, grpc-js and tonic sent for deadlines of 5 s, 0.5 s and 50 ms.
        for sent in [
            [5_010_000_000, 5_000_000_000, 4_999_123_000, 4_999_000_000],
            [501_000_000, 499_912_000, 499_000_000, 500_000_000],
            [51_000_000, 49_999_123, 49_000_000, 50_000_000],
        ] {
            let buckets: Vec<usize> =
                sent.iter().map(|timeout| TIMEOUT.bounds.partition_point(|bound| bound < timeout)).collect();
            assert!(buckets.iter().all(|bucket| *bucket == buckets[0]), "{sent:?}: {buckets:?}");
        }
    }

    #[test]
    fn exported_bounds_are_the_bounds_in_base_units() {
        for layout in [&DURATION, &TIMEOUT, &SIZE] {
            let converted: Vec<f64> =
                layout.bounds.iter().map(|bound| *bound as f64 / layout.units_per_base).collect();
            assert_eq!(converted, layout.exported_bounds);
            assert!(layout.bounds.is_sorted());
        }
    }

    #[test]
    fn powers_of_two_end_their_native_bucket() {
        assert_eq!(bucket_index(1.0), 0);
        assert_eq!(bucket_index(2.0), 8);
        assert_eq!(bucket_index(0.25), -16);
        assert_eq!(bucket_index(1.0000001), 1);
    }

    #[test]
    fn zero_has_a_native_bucket_of_its_own() {
        let histogram = counted(&[0, 0, 1]);
        assert_eq!((histogram.native().zero(), decoded(histogram.native()).len()), (2, 1));
    }

    #[test]
    fn a_wide_range_costs_resolution_and_no_values() {
        let values: Vec<u64> = (0..64).map(|shift| 1u64 << shift).collect();
        let histogram = counted(&values);
        assert!(histogram.native().schema() < SCHEMA_START);
        assert_eq!(decoded(histogram.native()).iter().map(|bucket| bucket.2).sum::<u64>(), 64);
    }

    proptest! {
        #[test]
        fn every_value_lies_in_its_native_bucket(value in 1u64..) {
            let buckets = decoded(counted(&[value]).native());
            let seconds = value as f64 / 1e9;
            prop_assert_eq!(buckets.len(), 1);
            prop_assert!(buckets[0].0 * 0.999_999_999 < seconds && seconds <= buckets[0].1 * 1.000_000_001);
        }

        #[test]
        fn both_kinds_of_buckets_hold_all_values(values in prop::collection::vec(any::<u64>(), 0..200)) {
            let histogram = counted(&values);
            let classic: u64 = histogram.classic().iter().map(|bucket| bucket.1).sum();
            let native: u64 = decoded(histogram.native()).iter().map(|bucket| bucket.2).sum();
            prop_assert_eq!(classic, values.len() as u64);
            prop_assert_eq!(native + histogram.native().zero(), values.len() as u64);
            prop_assert!(histogram.native().counts.len() <= NATIVE_BUCKETS_MAX);
        }

        #[test]
        fn merging_is_the_same_as_counting_together(
            left in prop::collection::vec(any::<u64>(), 0..50),
            right in prop::collection::vec(any::<u64>(), 0..50),
        ) {
            let mut merged = counted(&left);
            merged.merge(&counted(&right));
            let together = counted(&[left, right].concat());
            prop_assert_eq!(merged.classic(), together.classic());
            prop_assert_eq!(merged.sum, together.sum);
            // The order of the values decides when the resolution is halved, never what is counted.
            let total = |native: &Native| decoded(native).iter().map(|bucket| bucket.2).sum::<u64>();
            prop_assert_eq!(total(merged.native()), total(together.native()));
        }
    }
}
