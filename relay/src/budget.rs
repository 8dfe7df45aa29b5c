//! What all shards together may use: the relay's one memory budget, of what clients send and are sent, and its rooms.
//!
//! One atomic each for the whole relay. The one of rooms is touched when a room opens or closes. Of memory, a shard counts
//! in its own [`Share`] and takes from the budget, or returns to it, in coarse grains, so that the atomic is rarely
//! touched and shards share nothing else. What moves to another shard stays counted: the sender adds it, the receiver
//! gives it back from its own share, which may therefore be below zero.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use crate::config::Limits;

/// A grain is this part of a shard's even share of the budget…
const GRAINS: i64 = 32;
/// …but no more than this, bytes.
const GRAIN_BYTES_MAX: i64 = 256 * 1024;

/// What memory is wanted for. The easier it is to do without, the earlier there is none left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// What is kept for those who may ask for it: tails, which can be read from storage instead, and frames for members
    /// that are slow or come back, who get a gap. Up to half of the budget.
    Keep,
    /// Pages of history and what a new member begins with, for a connection that has not taken all of the last one.
    /// Without it they hear `busy`. Up to 9/16: who reads slowly leaves something to those who do not.
    More,
    /// The same, for a connection that nothing waits for. Up to 11/16: who reads leaves something to those who write.
    Answer,
    /// Publishes; without it they hear `busy`. Up to three quarters.
    Work,
    /// What cannot be refused any more. When all is used, connections over their share are not read.
    Finish,
}

/// What the whole relay may hold, and does. Shared by all shards and the storage threads.
#[derive(Debug)]
pub struct Budget {
    bytes_max: i64,
    grain: i64,
    held: AtomicI64,
    rooms_max: usize,
    rooms: AtomicUsize,
}

impl Budget {
    /// What these limits leave to so many shards together.
    pub fn new(limits: &Limits, shards: usize) -> Arc<Self> {
        let bytes_max = i64::try_from(limits.memory_bytes_max).unwrap_or(i64::MAX);
        let grain = (bytes_max / (GRAINS * shards as i64)).clamp(1, GRAIN_BYTES_MAX);
        let rooms_max = limits.max_rooms;
        Arc::new(Self { bytes_max, grain, held: AtomicI64::new(0), rooms_max, rooms: AtomicUsize::new(0) })
    }

    /// Takes a place for a room in memory; false when there is none.
    pub fn open_room(&self) -> bool {
        let taken = self.rooms.fetch_add(1, Ordering::Relaxed);
        if taken >= self.rooms_max {
            self.close_room();
        }
        taken < self.rooms_max
    }

    /// Gives back the place of a room.
    pub fn close_room(&self) {
        self.rooms.fetch_sub(1, Ordering::Relaxed);
    }

    /// Places for rooms that are not taken.
    pub fn rooms_left(&self) -> usize {
        self.rooms_max.saturating_sub(self.rooms.load(Ordering::Relaxed))
    }

    /// What is in use, rounded up to each shard's grains.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed).max(0) as usize
    }

    fn max(&self, wanted: Use) -> i64 {
        match wanted {
            Use::Keep => self.bytes_max / 2,
            Use::More => self.bytes_max / 16 * 9,
            Use::Answer => self.bytes_max / 16 * 11,
            Use::Work => self.bytes_max / 4 * 3,
            Use::Finish => self.bytes_max,
        }
    }
}

/// One thread's account of the budget.
#[derive(Debug)]
pub struct Share {
    budget: Arc<Budget>,
    used: i64,
    /// What was taken from the budget: `used`, rounded up to grains.
    held: i64,
}

impl Share {
    pub fn new(budget: &Arc<Budget>) -> Self {
        Self { budget: budget.clone(), used: 0, held: 0 }
    }

    /// There is memory left for this.
    pub fn allows(&self, wanted: Use, bytes: usize) -> bool {
        let more = (self.used + bytes as i64 - self.held).max(0);
        self.budget.held.load(Ordering::Relaxed) + more <= self.budget.max(wanted)
    }

    /// There is too little left to keep what can be had again.
    pub fn is_short(&self) -> bool {
        !self.allows(Use::Keep, 0)
    }

    /// Adds this if there is memory left for it.
    pub fn take(&mut self, wanted: Use, bytes: usize) -> bool {
        let allowed = self.allows(wanted, bytes);
        if allowed {
            self.add(bytes);
        }
        allowed
    }

    /// Adds what is there already, or cannot be refused any more.
    pub fn add(&mut self, bytes: usize) {
        self.used += bytes as i64;
        if self.used > self.held {
            self.hold();
        }
    }

    /// Gives back what was added here or on another shard.
    pub fn give(&mut self, bytes: usize) {
        self.used -= bytes as i64;
        // Not at every step over the border of a grain.
        if self.held - self.used > 2 * self.budget.grain {
            self.hold();
        }
    }

    /// What is held here, in bytes, instead of what was before.
    pub fn replace(&mut self, before: usize, now: usize) {
        if now >= before { self.add(now - before) } else { self.give(before - now) }
    }

    /// Bytes added and not given back here; less than none where more was given back for others.
    pub fn used(&self) -> i64 {
        self.used
    }

    fn hold(&mut self) {
        let grain = self.budget.grain;
        let held = (self.used + grain - 1).div_euclid(grain) * grain;
        self.budget.held.fetch_add(held - self.held, Ordering::Relaxed);
        self.held = held;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(memory_bytes_max: usize, shards: usize) -> Arc<Budget> {
        Budget::new(&Limits { memory_bytes_max, max_rooms: 3, ..Limits::defaults() }, shards)
    }

    #[test]
    fn what_can_be_done_without_is_refused_first() {
        let budget = budget(1 << 20, 2);
        let mut share = Share::new(&budget);
        share.add(500 << 10);
        assert!(share.take(Use::Keep, 10 << 10) && !share.take(Use::Keep, 20 << 10));
        assert!(share.take(Use::More, 50 << 10) && !share.take(Use::More, 20 << 10));
        assert!(share.take(Use::Answer, 120 << 10) && !share.take(Use::Answer, 40 << 10));
        assert!(share.take(Use::Work, 60 << 10) && !share.take(Use::Work, 60 << 10));
        assert!(share.take(Use::Finish, 200 << 10) && !share.take(Use::Finish, 200 << 10));
        share.give(900 << 10);
        assert!(share.allows(Use::Keep, 400 << 10));
    }

    #[test]
    fn shares_draw_on_one_budget_and_what_moves_between_them_stays_counted() {
        let budget = budget(1 << 20, 2);
        let (mut one, mut other) = (Share::new(&budget), Share::new(&budget));
        one.add(700 << 10);
        assert!(!other.allows(Use::Work, 100 << 10), "the other shard has used it up");
        other.give(700 << 10);
        assert_eq!(one.used() + other.used(), 0);
        assert!(budget.held() <= 2 * 2 * budget.grain as usize && other.allows(Use::Work, 700 << 10));
    }

    #[test]
    fn the_budget_follows_the_shares_within_their_grains_and_is_rarely_touched() {
        let budget = budget(64 << 20, 3);
        let mut shares = [Share::new(&budget), Share::new(&budget), Share::new(&budget)];
        let mut rng = fastrand::Rng::with_seed(1);
        let (mut touched, mut before) = (0, 0);
        for _ in 0..100_000 {
            let share = &mut shares[rng.usize(..3)];
            if rng.bool() {
                share.add(rng.usize(..500));
            } else {
                share.give(rng.usize(..500));
            }
            touched += u32::from(budget.held.load(Ordering::Relaxed) != before);
            before = budget.held.load(Ordering::Relaxed);
            let used: i64 = shares.iter().map(Share::used).sum();
            assert!((0..=3 * 2 * budget.grain).contains(&(before - used)), "{used} are used and {before} held");
        }
        assert!(touched < 500, "{touched} of 100,000 steps touched the budget");
    }

    #[test]
    fn there_are_no_more_rooms_than_may_be() {
        let budget = budget(1 << 20, 2);
        assert_eq!([(); 4].map(|()| budget.open_room()), [true, true, true, false]);
        budget.close_room();
        assert_eq!((budget.rooms_left(), budget.open_room(), budget.open_room()), (1, true, false));
    }
}
