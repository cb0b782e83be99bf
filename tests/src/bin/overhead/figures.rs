//! Medians, spreads, and what the machine does by itself.

/// What the agent changes, as a factor: 1 is nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Change {
    /// The middle one of all runs with the agent, each beside its neighbours without.
    pub(crate) median: f64,
    pub(crate) lower_quartile: f64,
    pub(crate) upper_quartile: f64,
    /// The same arithmetic over the runs without the agent, each beside those before and after it: three of four
    /// are no farther than this from 1. Or half of the distance of the quartiles, if that is more. A median that is nearer to
    /// 1 than this says nothing.
    pub(crate) noise: f64,
}

impl Change {
    /// Of figures of runs by turns: without, with, without, …, without. Nothing for less than two pairs.
    pub(crate) fn of(figures: &[f64]) -> Option<Self> {
        let beside = |place: usize, distance: usize| {
            let before = figures.get(place.checked_sub(distance)?)?;
            let after = figures.get(place + distance)?;
            Some(2.0 * figures[place] / (before + after))
        };
        let of = |first, distance| -> Vec<f64> {
            (first..figures.len()).step_by(2).filter_map(|place| beside(place, distance)).collect()
        };
        let (with, without) = (of(1, 1), of(0, 2));
        let away: Vec<f64> = without.iter().map(|ratio| (ratio - 1.0).abs()).collect();
        let (lower_quartile, upper_quartile) = (quantile(&with, 0.25)?, quantile(&with, 0.75)?);
        Some(Change {
            median: median(&with)?,
            lower_quartile,
            upper_quartile,
            noise: quantile(&away, 0.75)?.max((upper_quartile - lower_quartile) / 2.0),
        })
    }

    /// Whether the machine does as much by itself.
    pub(crate) fn is_noise(&self) -> bool {
        (self.median - 1.0).abs() <= self.noise
    }
}

/// The middle one.
pub(crate) fn median(figures: &[f64]) -> Option<f64> {
    quantile(figures, 0.5)
}

/// A quantile, between neighbours in proportion.
fn quantile(figures: &[f64], share: f64) -> Option<f64> {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = share * sorted.len().checked_sub(1)? as f64;
    let below = sorted.get(place.floor() as usize)?;
    let above = sorted.get(place.ceil() as usize)?;
    Some(below + (above - below) * place.fract())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outlier_moves_no_median() {
        assert_eq!(median(&[3.0, 1.0, 2.0, 1000.0, 4.0]), Some(3.0));
        assert_eq!(quantile(&[1.0, 2.0, 4.0, 8.0], 0.5), Some(3.0));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn what_drifts_evenly_is_neither_a_change_nor_noise() {
        let change = Change::of(&[100.0, 101.0, 102.0, 103.0, 104.0, 105.0, 106.0]).unwrap();
        assert_eq!((change.median, change.noise), (1.0, 0.0));
        assert!(change.is_noise());
    }

    #[test]
    fn a_change_shows_beside_quiet_runs_without() {
        let change = Change::of(&[100.0, 90.0, 101.0, 90.0, 100.0, 91.0, 99.0]).unwrap();
        assert!((0.89..0.92).contains(&change.median) && change.noise < 0.02, "{change:?}");
        assert!(!change.is_noise());
    }

    #[test]
    fn a_change_that_is_less_than_what_runs_without_differ_by_is_noise() {
        let change = Change::of(&[100.0, 95.0, 120.0, 110.0, 90.0, 100.0, 125.0]).unwrap();
        assert!(change.is_noise(), "{change:?}");
    }

    #[test]
    fn runs_with_the_agent_that_differ_among_themselves_are_noise_too() {
        let change = Change::of(&[100.0, 60.0, 100.0, 95.0, 100.0, 140.0, 100.0]).unwrap();
        assert!(change.is_noise(), "{change:?}");
    }

    #[test]
    fn one_pair_tells_no_noise() {
        assert_eq!(Change::of(&[100.0, 95.0, 120.0]), None);
    }
}
