//! How often something may be done: token buckets, of one publisher or of very many.

use std::hash::{BuildHasher, Hash};

use foldhash::fast::FixedState;

/// Tokens per second, and how many at once.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    pub per_s: u32,
    pub burst: u32,
}

impl Rate {
    /// One shard's part of it, when chance spreads what is counted over so many: as much of a burst as chance brings to
    /// one of them.
    #[must_use]
    pub fn part(self, shards: usize) -> Self {
        let even = f64::from(self.burst) / shards as f64;
        let most = (even + DEVIATIONS * (even.sqrt() + 1.0)).ceil() as u32;
        Self { per_s: self.per_s.div_ceil(shards as u32), burst: if shards == 1 { self.burst } else { most } }
    }
}

/// A larger body counts as so many messages as it has of this, bytes.
const TOKEN_BYTES: usize = 4096;

/// What a publish costs of its publisher's rates.
pub fn publish_tokens(body_bytes: usize) -> u32 {
    body_bytes.div_ceil(TOKEN_BYTES).max(1) as u32
}

/// So many standard deviations are more than chance brings.
const DEVIATIONS: f64 = 4.0;
/// Thousandths of a token: a bucket counts in them.
const MILLI: u32 = 1000;

/// Tokens of one publisher, refilled with time: the classic token bucket.
#[derive(Debug, Clone, Copy)]
pub struct Bucket {
    milli: u32,
    at_ms: u32,
}

impl Bucket {
    pub fn full(rate: Rate, now_us: u64) -> Self {
        Self { milli: rate.burst * MILLI, at_ms: (now_us / 1000) as u32 }
    }

    /// Takes tokens (all there may be, where more are asked for), or says in how many milliseconds there will be enough.
    pub fn take(&mut self, rate: Rate, tokens: u32, now_us: u64) -> Result<(), u32> {
        self.refill(rate, now_us);
        let milli = tokens.min(rate.burst) * MILLI;
        if self.milli < milli {
            return Err((milli - self.milli).div_ceil(rate.per_s.max(1)));
        }
        self.milli -= milli;
        Ok(())
    }

    /// In how many milliseconds there will be a token; 0 when there is one.
    pub fn wait_ms(mut self, rate: Rate, now_us: u64) -> u32 {
        self.take(rate, 1, now_us).err().unwrap_or(0)
    }

    /// As many as there ever are.
    pub fn is_full(mut self, rate: Rate, now_us: u64) -> bool {
        self.refill(rate, now_us);
        self.milli >= rate.burst * MILLI
    }

    fn refill(&mut self, rate: Rate, now_us: u64) {
        let now_ms = (now_us / 1000) as u32;
        let gained = u64::from(now_ms.wrapping_sub(self.at_ms)) * u64::from(rate.per_s);
        self.milli = (u64::from(self.milli) + gained).min(u64::from(rate.burst * MILLI)) as u32;
        self.at_ms = now_ms;
    }
}

/// Buckets of each row of [`Buckets`].
const CELLS: usize = 4096;

/// The buckets of very many in fixed memory. Each of them has a bucket in either row, and shares it with some others; who
/// has tokens in one may go on. Seeded, so that nobody can choose whom to share with.
pub struct Buckets {
    rate: Rate,
    rows: [(FixedState, Box<[Bucket]>); 2],
}

impl Buckets {
    pub fn new(rate: Rate, seed: u64) -> Self {
        let row = |n| (FixedState::with_seed(seed.wrapping_add(n)), vec![Bucket::full(rate, 0); CELLS].into());
        Self { rate, rows: [row(0), row(1)] }
    }

    /// In how many milliseconds there will be a token; 0 when there is one.
    pub fn wait_ms(&mut self, who: impl Hash + Copy, now_us: u64) -> u32 {
        let rate = self.rate;
        let [one, other] = self.of(who).map(|bucket| bucket.wait_ms(rate, now_us));
        one.min(other)
    }

    /// Takes a token, from both buckets.
    pub fn take(&mut self, who: impl Hash + Copy, now_us: u64) {
        let rate = self.rate;
        for bucket in self.of(who) {
            // The one that is shared with somebody who has used it up stays empty.
            let _ = bucket.take(rate, 1, now_us);
        }
    }

    fn of(&mut self, who: impl Hash + Copy) -> [&mut Bucket; 2] {
        self.rows.each_mut().map(|(state, cells)| &mut cells[state.hash_one(who) as usize % CELLS])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { per_s: 10, burst: 20 };

    #[test]
    fn a_bucket_gives_its_burst_at_once_and_then_its_rate() {
        let mut bucket = Bucket::full(RATE, 0);
        assert_eq!((0..30).filter(|_| bucket.take(RATE, 1, 0).is_ok()).count(), 20);
        assert_eq!(bucket.take(RATE, 1, 0), Err(100));
        assert_eq!(bucket.take(RATE, 3, 100_000), Err(200));
        assert_eq!((bucket.take(RATE, 3, 300_000), bucket.is_full(RATE, 2_299_000)), (Ok(()), false));
        assert!(bucket.is_full(RATE, 2_300_000));
        assert_eq!(bucket.take(RATE, 1000, 2_300_000), Ok(()), "more than a burst costs a burst");
    }

    #[test]
    fn who_takes_too_much_is_refused_and_others_are_not() {
        let mut buckets = Buckets::new(RATE, 7);
        let mut taken = |who: u64, now_us| {
            let has = buckets.wait_ms(who, now_us) == 0;
            buckets.take(who, now_us);
            has
        };
        for who in 0..20 {
            assert_eq!((0..1000).filter(|_| taken(who, 0)).count(), 20, "{who}");
        }
        let refused = (1000..6000).filter(|&who| !taken(who, 0)).count();
        assert!(refused < 5, "{refused} of 5000 who took one each were refused because of 20 others");
        assert!(taken(3, 100_000) && !taken(3, 100_000));
    }

    #[test]
    fn the_parts_of_a_rate_suffice_for_an_even_spread() {
        for shards in [1, 2, 5, 16, 64] {
            let rate = Rate { per_s: 20, burst: 200 };
            let part = rate.part(shards);
            let mut rng = fastrand::Rng::with_seed(shards as u64);
            for _ in 0..100 {
                let mut counts = vec![0; shards];
                (0..200).for_each(|_| counts[rng.usize(..shards)] += 1);
                assert!(counts.iter().all(|&count| count <= part.burst), "{counts:?} of {shards}, {part:?} each");
            }
            assert!(part.per_s * shards as u32 >= 20);
        }
    }
}
