//! Snowflake ids: `time:41 | node:6 | shard:7 | counter:9`, so that they fit a signed 64-bit integer and sort by time.
//!
//! Time is milliseconds since 2025-01-01T00:00:00Z. A generator that uses up its counter, or whose clock steps back,
//! goes on from its own last time, so ids never repeat and never run backwards.

/// Milliseconds between 1970 and the ids' own epoch, 2025-01-01.
pub const EPOCH_MS: u64 = 1_735_689_600_000;
/// Highest node number.
pub const NODE_MAX: u16 = (1 << 6) - 1;
/// Highest shard number.
pub const SHARD_MAX: u16 = (1 << 7) - 1;

pub(crate) const COUNTER_BITS: u32 = 9;
pub(crate) const SHARD_BITS: u32 = 7;
pub(crate) const NODE_BITS: u32 = 6;

/// The milliseconds since 1970 in an id.
pub fn time_ms(id: u64) -> u64 {
    (id >> (COUNTER_BITS + SHARD_BITS + NODE_BITS)) + EPOCH_MS
}

/// Gives out ids for one shard. A plain value: the caller names the time.
#[derive(Debug, Clone)]
pub struct Snowflake {
    lane: u64,
    last_ms: u64,
    counter: u64,
}

impl Snowflake {
    /// A generator for one shard of one node whose ids are all later than `after_ms` (milliseconds since 1970), the
    /// time up to which an earlier process may have given out ids.
    ///
    /// # Panics
    /// When node or shard do not fit.
    pub fn new(node: u16, shard: u16, after_ms: u64) -> Self {
        assert!(node <= NODE_MAX && shard <= SHARD_MAX, "node {node} or shard {shard} does not fit a snowflake id");
        let lane = (u64::from(node) << (SHARD_BITS + COUNTER_BITS)) | (u64::from(shard) << COUNTER_BITS);
        Self { lane, last_ms: after_ms.saturating_sub(EPOCH_MS), counter: (1 << COUNTER_BITS) - 1 }
    }

    /// The next id, later than every id before it and, within one log, than `above`.
    pub fn next(&mut self, now_ms: u64, above: u64) -> u64 {
        let now = now_ms.saturating_sub(EPOCH_MS).max(above >> (COUNTER_BITS + SHARD_BITS + NODE_BITS));
        if now > self.last_ms {
            self.last_ms = now;
            self.counter = 0;
        } else {
            self.step();
        }
        if self.id() <= above {
            self.last_ms += 1;
            self.counter = 0;
        }
        self.id()
    }

    /// The time of the last id, milliseconds since 1970; what must be reserved before an id of it is used.
    pub fn last_ms(&self) -> u64 {
        self.last_ms + EPOCH_MS
    }

    fn step(&mut self) {
        self.counter += 1;
        if self.counter == 1 << COUNTER_BITS {
            self.last_ms += 1;
            self.counter = 0;
        }
    }

    fn id(&self) -> u64 {
        (self.last_ms << (COUNTER_BITS + SHARD_BITS + NODE_BITS)) | self.lane | self.counter
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_rise_through_a_full_counter_and_a_clock_that_steps_back() {
        let mut ids = Snowflake::new(3, 5, 0);
        let mut last = 0;
        for (step, now) in [(0, EPOCH_MS + 1000), (1, EPOCH_MS + 1000), (2, EPOCH_MS + 400), (3, EPOCH_MS + 1001)] {
            for _ in 0..1500 {
                let id = ids.next(now, 0);
                assert!(id > last, "step {step}: {id} after {last}");
                last = id;
            }
        }
    }

    #[test]
    fn ids_of_two_shards_and_of_a_restart_never_meet() {
        let now = EPOCH_MS + 5;
        let mut seen = std::collections::HashSet::new();
        let (mut a, mut b) = (Snowflake::new(0, 0, 0), Snowflake::new(0, 1, 0));
        for _ in 0..2000 {
            assert!(seen.insert(a.next(now, 0)) && seen.insert(b.next(now, 0)));
        }
        let mut restarted = Snowflake::new(0, 0, a.last_ms());
        for _ in 0..2000 {
            assert!(seen.insert(restarted.next(now, 0)));
        }
    }

    #[test]
    fn an_id_is_later_than_the_last_one_of_its_log() {
        let mut fast = Snowflake::new(0, 9, 0);
        let above = fast.next(EPOCH_MS + 9_000, 0);
        assert!(Snowflake::new(0, 1, 0).next(EPOCH_MS + 1, above) > above);
    }
}
