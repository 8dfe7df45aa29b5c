//! What paired runs say about a ratio: a median, and an interval that rests on nothing but the order of the pairs.

/// An interval should hold the true median with at least this probability; few pairs give less, which is then said.
const COVERAGE_MIN: f64 = 0.9;

/// The ratios B : A of one metric, pair by pair.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ratio {
    pub median: f64,
    pub low: f64,
    pub high: f64,
    /// The probability that the interval holds the true median, whatever the ratios' distribution.
    pub coverage: f64,
    pub pairs: usize,
}

/// What a ratio means for a bar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// All of the interval is within the bar.
    Holds,
    /// All of it is beyond the bar.
    Worse,
    /// The bar lies in it: more rounds or a quieter machine would tell.
    Undecided,
}

impl Ratio {
    /// Of the pairs (A, B) that have both values, which are positive; `None` without one.
    ///
    /// The interval lies between the k-th lowest and the k-th highest ratio (the sign test's interval): it misses the
    /// median only when fewer than k of n ratios fall on one side of it, each side being as likely as a coin's.
    pub fn of(pairs: &[(f64, f64)]) -> Option<Self> {
        let mut ratios: Vec<f64> = pairs.iter().filter(|(a, b)| *a > 0.0 && *b > 0.0).map(|(a, b)| b / a).collect();
        ratios.sort_by(f64::total_cmp);
        let n = ratios.len();
        let (low, high) = (*ratios.first()?, *ratios.last()?);
        let median = f64::midpoint(ratios[(n - 1) / 2], ratios[n / 2]);
        let inner = (1..=n / 2).rev().find(|&k| coverage(n, k) >= COVERAGE_MIN);
        let (low, high, coverage) =
            inner.map_or((low, high, coverage(n, 1)), |k| (ratios[k - 1], ratios[n - k], coverage(n, k)));
        Some(Self { median, low, high, coverage, pairs: n })
    }

    /// Against the highest ratio that is allowed.
    pub fn verdict(&self, bar: f64) -> Verdict {
        // One pair is an anecdote.
        if self.pairs < 2 || (self.low <= bar && self.high > bar) {
            Verdict::Undecided
        } else if self.low > bar {
            Verdict::Worse
        } else {
            Verdict::Holds
        }
    }
}

/// The probability that the median of n values lies between the k-th lowest and the k-th highest of a sample.
fn coverage(n: usize, k: usize) -> f64 {
    let mut below = 0.0;
    let mut ways = 1.0;
    for i in 0..k {
        below += ways;
        ways *= (n - i) as f64 / (i + 1) as f64;
    }
    (1.0 - 2.0 * below / 2_f64.powi(n as i32)).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ratio(ratios: &[f64]) -> Ratio {
        let pairs: Vec<_> = ratios.iter().map(|ratio| (2.0, 2.0 * ratio)).collect();
        Ratio::of(&pairs).expect("there are pairs")
    }

    #[test]
    fn coverage_is_that_of_the_sign_test() {
        // Tables of the sign test: n = 5, 6, 8, 10, 20.
        for (n, k, expected) in [
            (1, 1, 0.0),
            (2, 1, 0.5),
            (4, 1, 0.875),
            (5, 1, 0.9375),
            (6, 1, 0.96875),
            (8, 2, 0.9297),
            (10, 2, 0.9785),
            (20, 6, 0.9586),
        ] {
            assert!((coverage(n, k) - expected).abs() < 0.0001, "{n} {k}: {}", coverage(n, k));
        }
    }

    #[test]
    fn few_pairs_use_all_of_the_range_and_many_leave_out_the_outliers() {
        let few = ratio(&[1.3, 1.0, 0.9, 1.1]);
        assert_eq!((few.low, few.high, few.coverage, few.pairs), (0.9, 1.3, 0.875, 4));
        assert!((few.median - 1.05).abs() < 1e-9);
        let many = ratio(&[1.0, 1.01, 1.02, 1.03, 1.04, 1.05, 1.06, 50.0]);
        assert_eq!((many.low, many.high), (1.01, 1.06));
        assert!(many.coverage >= COVERAGE_MIN);
    }

    #[test]
    fn a_drift_of_the_machine_that_both_sides_share_does_not_count() {
        let drifting: Vec<_> = (1..=6).map(|speed| (f64::from(speed), 1.1 * f64::from(speed))).collect();
        let ratio = Ratio::of(&drifting).expect("there are pairs");
        assert!((ratio.median - 1.1).abs() < 1e-9 && ratio.high - ratio.low < 1e-9, "{ratio:?}");
    }

    #[test]
    fn a_verdict_needs_the_whole_interval_on_one_side_of_the_bar() {
        assert_eq!(ratio(&[1.06, 1.07, 1.2]).verdict(1.05), Verdict::Worse);
        assert_eq!(ratio(&[0.9, 1.0, 1.05]).verdict(1.05), Verdict::Holds);
        assert_eq!(ratio(&[0.9, 1.0, 1.06]).verdict(1.05), Verdict::Undecided);
        assert_eq!(ratio(&[9.0]).verdict(1.05), Verdict::Undecided, "one pair says nothing");
    }

    #[test]
    fn values_that_are_missing_are_no_pair() {
        assert_eq!(Ratio::of(&[]), None);
        assert_eq!(Ratio::of(&[(0.0, 5.0), (1.0, 2.0)]).map(|ratio| (ratio.median, ratio.pairs)), Some((2.0, 1)));
    }
}
