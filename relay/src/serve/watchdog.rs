//! Says when a shard does not turn any more: its rooms and connections then stand still, while the process looks alive.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use storage::Metric;
use tracing::warn;

/// Shards are looked at this often. An idle one turns ten times as often.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A shard stands still when so many looks in a row found no new turn. Looks are counted, not seconds: a process that
/// was stopped as a whole, or got no CPU, did not look either.
const LOOKS_MAX: u32 = 3;
/// What a shard that has ended noted last.
const ENDED: u64 = u64::MAX;

/// When each shard turned last.
pub struct Turns {
    began: Instant,
    shards: Vec<Turned>,
}

/// Microseconds since the relay began; 0 before the first turn. Written by the shard's thread at every turn, so each has
/// cache lines of its own.
#[derive(Default)]
#[repr(align(128))]
struct Turned(AtomicU64);

impl Turns {
    /// Of shards that are about to start.
    pub fn new(shards: usize) -> Self {
        Self { began: Instant::now(), shards: (0..shards).map(|_| Turned::default()).collect() }
    }

    /// Microseconds since the relay began.
    pub fn now_us(&self) -> u64 {
        self.began.elapsed().as_micros() as u64
    }

    /// A shard turns now.
    pub fn note(&self, shard: usize, now_us: u64) {
        self.shards[shard].0.store(now_us, Ordering::Relaxed);
    }

    /// A shard turns no more, as it should.
    pub fn end(&self, shard: usize) {
        self.note(shard, ENDED);
    }

    fn last(&self) -> impl Iterator<Item = u64> {
        self.shards.iter().map(|turned| turned.0.load(Ordering::Relaxed))
    }

    /// The shard that turned longest ago, and how long, of those that have begun and not ended.
    pub fn stillest(&self) -> Option<(usize, Duration)> {
        let turning = self.last().enumerate().filter(|&(_, last_us)| last_us != 0 && last_us != ENDED);
        let (shard, last_us) = turning.min_by_key(|&(_, last_us)| last_us)?;
        Some((shard, Duration::from_micros(self.now_us().saturating_sub(last_us))))
    }

    /// Each shard's last turn, for `/metrics`.
    pub fn metrics(&self) -> Vec<Metric> {
        let turning = self.last().enumerate().filter(|&(_, last_us)| last_us != ENDED);
        let age_s = |last_us| self.now_us().saturating_sub(last_us) as f64 / 1e6;
        let figure = |(shard, last_us)| Metric {
            label: Some(("shard", shard)),
            ..Metric::gauge(
                "relay_shard_last_turn_age_seconds",
                "How long ago a shard turned last; an idle one turns ten times a second.",
                age_s(last_us),
            )
        };
        turning.map(figure).collect()
    }
}

/// Watches shards, from a thread of its own, until their [`Turns`] are dropped.
pub fn watch(turns: &Arc<Turns>) -> std::io::Result<()> {
    let turns = Arc::downgrade(turns);
    thread::Builder::new().name("watchdog".into()).spawn(move || look_again(&turns)).map(drop)
}

fn look_again(turns: &Weak<Turns>) {
    let mut watchdog = Watchdog::default();
    loop {
        thread::sleep(LOOK_EVERY);
        let Some(turns) = turns.upgrade() else { return };
        for notice in watchdog.look(turns.last(), turns.now_us()) {
            warn!("{notice}");
        }
    }
}

/// What is known of each shard since the last look.
#[derive(Default)]
struct Watchdog {
    shards: Vec<Seen>,
}

#[derive(Default)]
struct Seen {
    last_us: u64,
    /// Looks in a row that found no turn after this one.
    looks: u32,
}

/// What is said of a shard.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum Notice {
    #[error("shard {shard} has not turned for {for_ms} ms: its connections and rooms stand still")]
    StandsStill { shard: usize, for_ms: u64 },
    #[error("shard {shard} turns again, after {after_ms} ms")]
    TurnsAgain { shard: usize, after_ms: u64 },
}

impl Watchdog {
    /// Takes each shard's last turn and the time. A shard that stands still is named once, and once more when it turns.
    fn look(&mut self, last: impl Iterator<Item = u64>, now_us: u64) -> Vec<Notice> {
        let mut notices = Vec::new();
        for (shard, last_us) in last.enumerate() {
            if shard == self.shards.len() {
                self.shards.push(Seen::default());
            }
            notices.extend(self.shards[shard].look(shard, last_us, now_us));
        }
        notices
    }
}

impl Seen {
    fn look(&mut self, shard: usize, last_us: u64, now_us: u64) -> Option<Notice> {
        if last_us != self.last_us {
            let before = std::mem::replace(self, Self { last_us, looks: 0 });
            let after_ms = last_us.min(now_us).saturating_sub(before.last_us) / 1000;
            return (before.looks >= LOOKS_MAX).then_some(Notice::TurnsAgain { shard, after_ms });
        }
        if last_us == 0 || last_us == ENDED {
            return None;
        }
        self.looks = self.looks.saturating_add(1);
        let for_ms = now_us.saturating_sub(last_us) / 1000;
        (self.looks == LOOKS_MAX).then_some(Notice::StandsStill { shard, for_ms })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_US: u64 = 1_000_000;

    /// What is said when two shards are looked at once a second, at the turns given for each.
    fn said(turns: &[[u64; 2]]) -> Vec<(u64, Notice)> {
        let mut watchdog = Watchdog::default();
        let looks = turns.iter().zip(1..);
        looks
            .flat_map(|(last, second)| {
                let notices = watchdog.look(last.iter().copied(), second * SECOND_US);
                notices.into_iter().map(move |notice| (second, notice))
            })
            .collect()
    }

    #[test]
    fn a_shard_that_does_not_turn_is_named_once_and_once_more_when_it_turns_again() {
        let turning = |second: u64| second * SECOND_US - 100;
        let stuck_us = turning(2);
        let last = |second| [turning(second), if (3..9).contains(&second) { stuck_us } else { turning(second) }];
        let turns: Vec<[u64; 2]> = (1..=12).map(last).collect();
        let expected =
            [(5, Notice::StandsStill { shard: 1, for_ms: 3000 }), (9, Notice::TurnsAgain { shard: 1, after_ms: 7000 })];
        assert_eq!(said(&turns), expected);
    }

    #[test]
    fn shards_that_turn_rarely_have_not_begun_or_have_ended_are_not_named() {
        assert_eq!(said(&[[5, 0], [5, 0], [5, 0], [9, 0], [9, 0], [9, 0], [10, 0]]), []);
        assert_eq!(said(&[[5, 7], [ENDED, 8], [ENDED, 8], [ENDED, 9], [ENDED, 9], [ENDED, 10]]), []);
    }

    #[test]
    fn a_process_that_was_stopped_as_a_whole_names_nobody() {
        let mut watchdog = Watchdog::default();
        for (last_us, now_us) in
            [(900, 1000), (900, 2000), (900, 3_600 * SECOND_US), (3_601 * SECOND_US, 3_601 * SECOND_US)]
        {
            assert_eq!(watchdog.look([last_us].into_iter(), now_us), []);
        }
    }

    #[test]
    fn the_stillest_shard_has_begun_and_not_ended() {
        let turns = Turns::new(4);
        assert_eq!(turns.stillest(), None);
        turns.note(3, turns.now_us() + 5);
        turns.note(1, 1);
        turns.end(2);
        assert_eq!(turns.stillest().map(|(shard, _)| shard), Some(1));
    }

    #[test]
    fn each_shards_last_turn_is_a_figure_until_it_ends() {
        let turns = Turns::new(3);
        turns.note(0, turns.now_us());
        turns.end(1);
        let figures = turns.metrics();
        assert_eq!(
            figures.iter().map(|figure| figure.label).collect::<Vec<_>>(),
            [Some(("shard", 0)), Some(("shard", 2))]
        );
    }
}
