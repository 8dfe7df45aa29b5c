//! What one connection may cost: publishes, work for its shard, and what it says for no reason.
//!
//! Lives boxed in its session, from the first byte until everything in it is full again: an idle connection has none.

use crate::config::Limits;
use crate::rate::{Bucket, Rate, publish_tokens};

/// So many seconds' worth may be spent at once, of work and of what has no effect.
const BURST_S: u32 = 1;
const CHATTER_BURST_S: u32 = 10;
/// What a bucket can hold.
const BURST_MAX: u32 = 4_000_000;
/// One percent of a core, nanoseconds of work per microsecond.
const PERCENT_NS: i64 = 10;

/// Token buckets of one connection.
#[derive(Debug)]
pub struct Allowance {
    publishes: Bucket,
    chatter: Bucket,
    /// Nanoseconds of work that may still be spent; below zero it is owed.
    work_ns: i64,
    at_us: u64,
    /// Bytes that it took of what waits for it since the time for that began.
    pub crept: u32,
    /// Bytes of the relay's memory that are counted for it.
    pub counted_bytes: usize,
}

impl Allowance {
    pub fn full(limits: &Limits, now_us: u64) -> Self {
        Self {
            publishes: Bucket::full(publishes(limits), now_us),
            chatter: Bucket::full(chatter(limits), now_us),
            work_ns: work_ns_max(limits),
            at_us: now_us,
            crept: 0,
            counted_bytes: 0,
        }
    }

    /// Takes one publish with so many bytes of body, or says in how many milliseconds it may be made.
    pub fn publish(&mut self, limits: &Limits, body_bytes: usize, now_us: u64) -> Result<(), u32> {
        self.publishes.take(publishes(limits), publish_tokens(body_bytes), now_us)
    }

    /// Takes one command or frame without effect; false when there were too many of them.
    pub fn chatter(&mut self, limits: &Limits, now_us: u64) -> bool {
        self.chatter.take(chatter(limits), 1, now_us).is_ok()
    }

    /// Work was done, or with a negative number less than was thought. It may end in debt.
    pub fn spend(&mut self, ns: i64) {
        self.work_ns -= ns;
    }

    pub fn has_work(&self) -> bool {
        self.work_ns > 0
    }

    /// How long until there is something to spend again, microseconds: 0 when there is.
    pub fn rest_us(&mut self, limits: &Limits, now_us: u64) -> u64 {
        self.refill(limits, now_us);
        if self.work_ns > 0 { 0 } else { (1 - self.work_ns).unsigned_abs().div_ceil(per_us(limits).unsigned_abs()) }
    }

    pub fn refill(&mut self, limits: &Limits, now_us: u64) {
        let gained = (now_us - self.at_us) as i64 * per_us(limits);
        self.work_ns = (self.work_ns + gained).min(work_ns_max(limits));
        self.at_us = now_us;
    }

    /// Nothing of it is missing (any more).
    pub fn is_full(&self, limits: &Limits, now_us: u64) -> bool {
        let gained = (now_us - self.at_us) as i64 * per_us(limits);
        self.crept == 0
            && self.counted_bytes == 0
            && self.work_ns + gained >= work_ns_max(limits)
            && self.publishes.is_full(publishes(limits), now_us)
            && self.chatter.is_full(chatter(limits), now_us)
    }
}

fn publishes(limits: &Limits) -> Rate {
    Rate { per_s: limits.session_publish_rate, burst: limits.publish_burst }
}

fn chatter(limits: &Limits) -> Rate {
    Rate {
        per_s: limits.session_chatter_rate,
        burst: CHATTER_BURST_S.saturating_mul(limits.session_chatter_rate).min(BURST_MAX),
    }
}

fn per_us(limits: &Limits) -> i64 {
    i64::from(limits.session_work_percent) * PERCENT_NS
}

fn work_ns_max(limits: &Limits) -> i64 {
    per_us(limits) * i64::from(BURST_S) * 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits { session_work_percent: 10, session_chatter_rate: 5, ..Limits::defaults() }
    }

    #[test]
    fn work_ends_in_a_debt_that_time_pays() {
        let (limits, mut allowance) = (limits(), Allowance::full(&limits(), 0));
        allowance.spend(99_999_999);
        assert!(allowance.has_work() && allowance.rest_us(&limits, 0) == 0);
        allowance.spend(1_000_001);
        assert!(!allowance.has_work());
        let rest_us = allowance.rest_us(&limits, 0);
        assert_eq!(rest_us, 10_001, "a tenth of a core pays a millisecond in ten");
        assert!(allowance.rest_us(&limits, rest_us - 1) > 0 && allowance.rest_us(&limits, rest_us) == 0);
        assert!(!allowance.is_full(&limits, rest_us + 999_000) && allowance.is_full(&limits, rest_us + 1_001_000));
    }

    #[test]
    fn what_has_no_effect_is_forgiven_for_a_while() {
        let (limits, mut allowance) = (limits(), Allowance::full(&limits(), 0));
        assert!((0..50).all(|_| allowance.chatter(&limits, 0)) && !allowance.chatter(&limits, 0));
        assert!((1..1000).all(|n| allowance.chatter(&limits, n * 200_000)), "at its rate it may go on for ever");
    }
}
