//! What time alone causes: each half looks after its own, and a shard that stops waits for both.

use super::Shard;
use crate::ids::SessionId;
use crate::tempo::RATES_US;

/// How often upkeep runs, microseconds.
const UPKEEP_US: u64 = 100_000;
/// Each run looks at one of so many parts of the sessions and rooms, so that each is looked at every two seconds.
pub(super) const PARTS: usize = 20;
/// Connections that are told to go away per turn while stopping.
const STOP_CHUNK: usize = 1024;

/// When what is due next, and whether the shard is stopping.
#[derive(Debug, Default)]
pub(super) struct Upkeep {
    next_us: u64,
    rates_us: u64,
    rounds: usize,
    stopping_us: Option<u64>,
    /// Nobody waits any more for storage or for other shards.
    impatient: bool,
    told: Option<Vec<SessionId>>,
}

impl Upkeep {
    pub(super) fn next_us(&self) -> u64 {
        self.next_us
    }
}

impl Shard {
    pub(super) fn keep_up(&mut self) {
        if self.turn.stopping {
            self.stop_on();
        }
        let Self { turn, owner, front, upkeep, .. } = self;
        if turn.now.us < upkeep.next_us {
            return;
        }
        upkeep.next_us = turn.now.us + UPKEEP_US;
        upkeep.rounds += 1;
        let part = upkeep.rounds % PARTS;
        front.check_sessions(turn, part);
        owner.check_rooms(turn, part);
        owner.forget_rooms(turn);
        owner.relieve(turn);
        front.feeds.relieve(turn);
        let elapsed_us = turn.now.us - upkeep.rates_us;
        if elapsed_us >= RATES_US {
            upkeep.rates_us = turn.now.us;
            front.pace_feeds(turn, elapsed_us);
            front.feeds.trim(turn);
            owner.measure_rooms(elapsed_us);
        }
    }

    /// Begins to stop: what is pending is stored and acked, then everybody is told to go away.
    pub fn stop(&mut self) {
        self.turn.stopping = true;
        self.upkeep.stopping_us.get_or_insert(self.turn.now.us);
    }

    /// While stopping: what is not stored or answered by now never will be, and holds up nobody.
    pub fn await_nothing(&mut self) {
        self.upkeep.impatient = true;
    }

    /// Everybody is gone, and everything is stored and answered or was given up. Other shards may still need this one.
    pub fn is_stopped(&self) -> bool {
        self.upkeep.told.is_some() && self.front.sessions.is_empty() && !self.is_awaited()
    }

    /// Somebody waits for storage, for an owner's answer, for what is made of one, or to be read.
    fn is_awaited(&self) -> bool {
        !self.upkeep.impatient && (self.front.is_awaited() || self.owner.has_unstored())
    }

    fn stop_on(&mut self) {
        let now_us = self.turn.now.us;
        let since = self.upkeep.stopping_us.unwrap_or(now_us);
        let patience_us = self.turn.setup.limits.shutdown_timeout_ms * 1000 / 2;
        if self.upkeep.told.is_none() {
            if self.is_awaited() {
                if now_us < since + patience_us {
                    return;
                }
                self.upkeep.impatient = true;
            }
            self.upkeep.told = Some(self.front.sessions.slice(0, 1).map(|session| session.id).collect());
        }
        let Some(mut left) = self.upkeep.told.take() else { return };
        for id in left.split_off(left.len().saturating_sub(STOP_CHUNK)) {
            self.front.send_away(&mut self.turn, id);
        }
        self.upkeep.told = Some(left);
    }
}
