//! Whether a receiver got every message once and in order: O(1) for a batch that continues where the last one ended.
//!
//! A receiver is one number, the seq it expects next. Only what does not fit costs memory: the holes that a receiver
//! skipped, so that a message that comes late is told from one that comes twice.

use std::collections::HashMap;
use std::ops::Range;

/// Counts over all receivers of a thread (added up over threads). Each counts deliveries: one message at one receiver.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Deliveries {
    /// First arrivals, in order or late.
    pub received: u64,
    /// Stored and acked or overtaken, and never received.
    pub lost: u64,
    /// Received again.
    pub duplicated: u64,
    /// Received after a later one.
    pub reordered: u64,
    /// Left out by a gap that the server announced.
    pub skipped: u64,
    /// Owed to users that did not come back: nobody can say whether the server has them.
    pub unknown: u64,
}

impl Deliveries {
    /// Adds another thread's counts.
    pub fn add(&mut self, other: &Self) {
        self.received += other.received;
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.skipped += other.skipped;
        self.unknown += other.unknown;
    }
}

/// The anomalies of all receivers of one thread.
#[derive(Debug, Default)]
pub struct Ledger {
    pub deliveries: Deliveries,
    holes: HashMap<u32, Vec<Range<u64>>, foldhash::fast::FixedState>,
    gaps: Vec<(u32, Range<u64>)>,
}

impl Ledger {
    /// Takes a batch of `count` messages from `first` on for `receiver`, who expects `next`. Returns the part that
    /// continues the order (maybe empty).
    pub fn on_batch(&mut self, receiver: u32, next: &mut u64, first: u64, count: u32) -> Range<u64> {
        let end = first + u64::from(count);
        if first == *next {
            *next = end;
            self.deliveries.received += u64::from(count);
            return first..end;
        }
        self.on_misfit(receiver, next, first..end)
    }

    #[cold]
    fn on_misfit(&mut self, receiver: u32, next: &mut u64, batch: Range<u64>) -> Range<u64> {
        let late = batch.start..batch.end.min(*next);
        if !late.is_empty() {
            let filled = self.fill(receiver, &late);
            self.deliveries.lost -= filled;
            self.deliveries.reordered += filled;
            self.deliveries.received += filled;
            self.deliveries.duplicated += late.end - late.start - filled;
        }
        let fresh = batch.start.max(*next)..batch.end;
        if fresh.is_empty() {
            return *next..*next;
        }
        self.open(receiver, *next..fresh.start);
        self.deliveries.received += fresh.end - fresh.start;
        *next = fresh.end;
        fresh
    }

    /// Takes an announced gap: `from..=to` will not be sent.
    pub fn on_gap(&mut self, receiver: u32, next: &mut u64, from: u64, to: u64) {
        let gap = from.max(*next)..to.saturating_add(1);
        if gap.is_empty() {
            return;
        }
        self.open(receiver, *next..gap.start);
        self.deliveries.skipped += gap.end - gap.start;
        *next = gap.end;
        self.gaps.push((receiver, gap));
    }

    /// The announced gaps: receiver and what it was not sent.
    pub fn gaps(&self) -> impl Iterator<Item = (u32, Range<u64>)> {
        self.gaps.iter().cloned()
    }

    /// Closes a receiver whose room's log ends at `highest`: what it never got is lost.
    pub fn on_end(&mut self, receiver: u32, next: &mut u64, highest: u64) {
        let missing = *next..highest + 1;
        if !missing.is_empty() {
            *next = missing.end;
            self.open(receiver, missing);
        }
    }

    /// Receivers with lost messages and the first range each misses, for people to look at.
    pub fn examples(&self) -> impl Iterator<Item = (u32, Range<u64>)> {
        self.holes.iter().filter_map(|(&receiver, holes)| Some((receiver, holes.first()?.clone())))
    }

    fn open(&mut self, receiver: u32, hole: Range<u64>) {
        if !hole.is_empty() {
            self.deliveries.lost += hole.end - hole.start;
            self.holes.entry(receiver).or_default().push(hole);
        }
    }

    /// Takes `late` out of the receiver's holes and returns how many messages of it were missing.
    fn fill(&mut self, receiver: u32, late: &Range<u64>) -> u64 {
        let Some(holes) = self.holes.get_mut(&receiver) else { return 0 };
        let mut filled = 0;
        let mut left = Vec::with_capacity(holes.len() + 1);
        for hole in holes.drain(..) {
            let (start, end) = (hole.start.max(late.start), hole.end.min(late.end));
            if start >= end {
                left.push(hole);
                continue;
            }
            filled += end - start;
            left.extend([hole.start..start, end..hole.end].into_iter().filter(|part| !part.is_empty()));
        }
        *holes = left;
        filled
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    use super::*;

    /// The same rules, message by message.
    #[derive(Default)]
    struct Naive {
        seen: BTreeSet<u64>,
        skipped: BTreeSet<u64>,
        next: u64,
        counts: Deliveries,
    }

    impl Naive {
        fn message(&mut self, seq: u64) {
            if self.skipped.contains(&seq) || !self.seen.insert(seq) {
                self.counts.duplicated += 1;
                return;
            }
            self.counts.received += 1;
            self.counts.reordered += u64::from(seq < self.next);
            self.next = self.next.max(seq + 1);
        }

        fn gap(&mut self, from: u64, to: u64) {
            for seq in from.max(self.next)..=to {
                self.skipped.insert(seq);
                self.counts.skipped += 1;
                self.next = seq + 1;
            }
        }

        fn end(mut self, base: u64, highest: u64) -> Deliveries {
            let known = |seq: &u64| self.seen.contains(seq) || self.skipped.contains(seq);
            self.counts.lost = (base + 1..self.next.max(highest + 1)).filter(|seq| !known(seq)).count() as u64;
            self.counts
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Batch(u64, u32),
        Gap(u64, u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            6 => (0..40_u64, 0..6_u32).prop_map(|(ahead, count)| Step::Batch(ahead, count)),
            1 => (0..40_u64, 0..6_u64).prop_map(|(from, more)| Step::Gap(from, from + more)),
        ];
        prop::collection::vec(step, 0..60)
    }

    proptest! {
        #[test]
        fn the_counts_are_those_of_a_check_message_by_message(base in 0..5_u64, steps in steps(), highest in 0..60_u64) {
            let mut ledger = Ledger::default();
            let mut next = base + 1;
            let mut naive = Naive { next: base + 1, ..Naive::default() };
            for step in steps {
                match step {
                    Step::Batch(first, count) => {
                        let first = base + 1 + first;
                        let fresh = ledger.on_batch(9, &mut next, first, count);
                        prop_assert!(fresh.is_empty() || fresh.end == next);
                        (first..first + u64::from(count)).for_each(|seq| naive.message(seq));
                    }
                    Step::Gap(from, to) => {
                        ledger.on_gap(9, &mut next, base + 1 + from, base + 1 + to);
                        naive.gap(base + 1 + from, base + 1 + to);
                    }
                }
                prop_assert_eq!(next, naive.next);
            }
            ledger.on_end(9, &mut next, base + highest);
            prop_assert_eq!(ledger.deliveries, naive.end(base, base + highest));
        }
    }

    #[test]
    fn a_message_that_comes_late_is_reordered_and_not_lost() {
        let (mut ledger, mut next) = (Ledger::default(), 1);
        ledger.on_batch(0, &mut next, 1, 4);
        ledger.on_batch(0, &mut next, 6, 1);
        assert_eq!(ledger.deliveries.lost, 1);
        ledger.on_batch(0, &mut next, 5, 1);
        assert_eq!(ledger.deliveries, Deliveries { received: 6, reordered: 1, ..Deliveries::default() });
    }

    #[test]
    fn a_missing_tail_is_lost_and_named() {
        let (mut ledger, mut next) = (Ledger::default(), 5);
        ledger.on_end(3, &mut next, 9);
        assert_eq!(ledger.deliveries.lost, 5);
        assert_eq!(ledger.examples().collect::<Vec<_>>(), [(3, 5..10)]);
    }
}
