//! How long something took, in a few buckets: cheap enough to be always on, and Prometheus reads it.

use std::ops::Add;

/// The longest time of each bucket, microseconds. A last bucket takes what took longer.
pub const BOUNDS_US: [u64; 15] = [
    100, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
    10_000_000,
];

/// Times by bucket.
#[derive(Debug, Clone, Copy, Default)]
pub struct Histogram {
    buckets: [u64; BOUNDS_US.len() + 1],
    sum_us: u64,
}

impl Histogram {
    /// Figures of a histogram: each bucket, and the sum of all times.
    pub const FIGURES: usize = BOUNDS_US.len() + 2;

    pub fn record(&mut self, us: u64) {
        self.buckets[BOUNDS_US.partition_point(|&bound| bound < us)] += 1;
        self.sum_us += us;
    }

    /// The count of each bucket, and the sum of all times, microseconds.
    pub fn figures(&self) -> impl Iterator<Item = u64> {
        self.buckets.into_iter().chain([self.sum_us])
    }
}

impl Add for Histogram {
    type Output = Self;

    fn add(mut self, other: Self) -> Self {
        self.buckets.iter_mut().zip(other.buckets).for_each(|(count, more)| *count += more);
        self.sum_us += other.sum_us;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_in_the_first_bucket_that_is_long_enough() {
        let mut histogram = Histogram::default();
        for us in [0, 100, 101, 10_000_000, 10_000_001] {
            histogram.record(us);
        }
        let figures: Vec<_> = (histogram + histogram).figures().collect();
        assert_eq!((figures[0], figures[1], figures[14], figures[15]), (4, 2, 2, 2));
        assert_eq!((figures.len(), figures[16]), (Histogram::FIGURES, 2 * 20_000_202));
    }
}
