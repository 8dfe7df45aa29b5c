//! Numbers that look random and are a pure function of where they are used: `SplitMix64` (Steele, Lea, Flood 2014).

/// One well-mixed number for (seed, a, b).
pub fn mix(seed: u64, a: u64, b: u64) -> u64 {
    Dice(seed ^ finish(a.wrapping_add(1)) ^ finish(b.wrapping_add(1) << 32 | 0x5bd1)).roll()
}

/// A small generator whose sequence never changes between versions, so that a seed names a run for good.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// Starts from the mixed value of (seed, a, b).
    pub fn new(seed: u64, a: u64, b: u64) -> Self {
        Self(mix(seed, a, b))
    }

    /// The next 64 bits.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        finish(self.0)
    }

    /// A number in `0..n`; `n` is not 0.
    pub fn below(&mut self, n: u64) -> u64 {
        scale(self.roll(), n)
    }

    /// One of `items`, which are not empty.
    pub fn pick<'a, T: ?Sized>(&mut self, items: &[&'a T]) -> &'a T {
        items[self.below(items.len() as u64) as usize]
    }
}

/// Maps 64 random bits onto `0..n` (Lemire's multiplication).
pub fn scale(bits: u64, n: u64) -> u64 {
    ((u128::from(bits) * u128::from(n)) >> 64) as u64
}

fn finish(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
