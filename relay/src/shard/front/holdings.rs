//! What each connection holds in memory for itself: counted in the relay's budget, and given up where it is too much.
//!
//! Replies, bytes that were not read yet and commands that wait have bounds of their own, and end by themselves or with
//! their connection. A message that is half-way may stay so, and lies in memory as far as it came; so may a request. All
//! of them together have a part of the memory, and past that the one that was begun first is given up: who sends without
//! pause is done by then.

use std::collections::BTreeMap;
use std::mem;

use foldhash::HashMap;

use super::intake::Intake;
use super::replies::Replies;
use crate::config::Limits;
use crate::ids::SessionId;
use crate::session::Session;
use crate::shard::turn::Turn;

/// This part of the memory belongs to connections whatever else there is, the same share to each.
const SHARES_PART: usize = 4;
/// Messages and requests that are half-way may hold this part of the memory, those of a core its even part of that.
const HALFWAY_PART: usize = 8;

/// A connection is not read while more than this part of `--replies-bytes-max` waits for it.
const HELD_PART: usize = 4;
/// What an answer to a command under way will have at least, bytes.
const REPLY_BYTES: usize = 128;
/// Less is not counted: pings and acks, which would make idle connections have an account.
const COUNTED_BYTES_MIN: usize = 128;

/// Messages and requests that are half-way and hold more than a connection's share.
#[derive(Default)]
struct Halfway {
    /// By number, which is their order: whose it is, and its bytes.
    by_age: BTreeMap<u64, (SessionId, usize)>,
    number_of: HashMap<SessionId, u64>,
    begun: u64,
    bytes: usize,
}

impl Halfway {
    /// So much of a message has come. A connection that holds less than before is in another one.
    fn set(&mut self, id: SessionId, bytes: usize) {
        let number = self.number_of.get(&id).copied();
        let before = number.and_then(|number| self.by_age.remove(&number)).map_or(0, |(_, bytes)| bytes);
        self.bytes = self.bytes - before + bytes;
        if bytes == 0 {
            self.number_of.remove(&id);
            return;
        }
        let number = number.filter(|_| bytes >= before).unwrap_or_else(|| {
            self.begun += 1;
            self.begun
        });
        self.by_age.insert(number, (id, bytes));
        self.number_of.insert(id, number);
    }

    /// Whose was begun first.
    fn oldest(&self) -> Option<SessionId> {
        self.by_age.first_key_value().map(|(_, (id, _))| *id)
    }

    fn bytes(&self) -> usize {
        self.bytes
    }
}

/// What any connection may hold, bytes.
fn share_bytes(limits: &Limits) -> usize {
    limits.memory_bytes_max / SHARES_PART / limits.max_connections
}

/// What may be half-way on a core, bytes: a whole message at least.
pub fn halfway_bytes_max(limits: &Limits, shards: usize) -> usize {
    (limits.memory_bytes_max / HALFWAY_PART / shards).max(2 * limits.frame_bytes_max)
}

/// What the connections of a shard hold for themselves.
pub(in crate::shard) struct Holdings {
    pub(super) replies: Replies,
    pub(in crate::shard) intake: Intake,
    halfway: Halfway,
    halfway_bytes_max: usize,
    /// What any connection may hold, bytes.
    share_bytes: usize,
}

impl Holdings {
    pub(super) fn new(limits: &Limits, shards: usize) -> Self {
        Self {
            replies: Replies::default(),
            intake: Intake::default(),
            halfway: Halfway::default(),
            halfway_bytes_max: halfway_bytes_max(limits, shards),
            share_bytes: share_bytes(limits),
        }
    }

    /// Counts what a connection holds now, instead of what it held before.
    pub(super) fn account(&mut self, turn: &mut Turn, session: &mut Session) {
        let halfway = session.halfway_bytes();
        if session.reading.halfway || halfway > self.share_bytes {
            let bytes = if halfway > self.share_bytes { halfway } else { 0 };
            session.reading.halfway = bytes > 0;
            self.halfway.set(session.id, bytes);
        }
        let now = self.of(session);
        if now != session.counted_bytes() {
            let counted = &mut session.allowance(&turn.setup.limits, turn.now.us).counted_bytes;
            turn.memory.replace(mem::replace(counted, now), now);
        }
    }

    /// What a connection holds, bytes, if it is worth counting.
    fn of(&self, session: &Session) -> usize {
        let left = if session.reading.has_left { self.intake.left_of(session.id) } else { 0 };
        let waiting = session.pipeline.as_ref().map_or(0, |pipeline| pipeline.waiting_bytes());
        let came = session.halfway_bytes() + session.arrival_bytes();
        let bytes = self.replies.owed_memory(session) + came + left + waiting;
        if bytes < COUNTED_BYTES_MIN { 0 } else { bytes }
    }

    /// A connection is over: it holds nothing.
    pub(super) fn forget(&mut self, turn: &mut Turn, session: &Session) {
        turn.memory.give(session.counted_bytes());
        if session.reading.halfway {
            self.halfway.set(session.id, 0);
        }
        self.intake.forget(session);
    }

    /// So many commands of a connection are under way, or so much waits for it, that it is not read before there is less.
    /// When the relay's memory is used up, more than its share is too much.
    pub(super) fn is_held(&self, turn: &Turn, session: &Session) -> bool {
        let limits = &turn.setup.limits;
        let owed_max = limits.replies_bytes_max / HELD_PART;
        let answers = session.pipeline.as_ref().map_or(0, |pipeline| REPLY_BYTES * pipeline.commands());
        let owed = self.replies.owed_bytes(session) + answers;
        let is_too_much = owed > owed_max || (owed > self.share_bytes && turn.memory_is_used_up());
        session.is_open() && (session.is_at_its_share(limits) || is_too_much)
    }

    /// It may be read on in this turn.
    pub(super) fn may_go_on(&self, turn: &Turn, session: &Session) -> bool {
        let has_work = session.allowance.as_ref().is_none_or(|allowance| allowance.has_work());
        self.intake.has_share() && has_work && !self.is_held(turn, session)
    }

    /// Whether a connection goes on with what is left of it, and whether its ring receives.
    pub(super) fn regulate(&mut self, turn: &mut Turn, session: &mut Session) {
        self.account(turn, session);
        let now_us = turn.now.us;
        if let Some(allowance) = session.allowance.as_mut().filter(|_| !session.reading.resting)
            && let rest_us @ 1.. = allowance.rest_us(&turn.setup.limits, now_us)
        {
            session.reading.resting = true;
            self.intake.rest(session.id, now_us + rest_us);
        }
        let waits = session.reading.resting || self.is_held(turn, session);
        let has_enough = waits || (session.reading.has_left && turn.memory_is_used_up());
        if session.reading.has_left && !waits {
            self.intake.queue(session);
        }
        let reading = &mut session.reading;
        reading.behind &= reading.has_left;
        let pause = has_enough || reading.behind;
        if pause != reading.paused {
            reading.paused = pause;
            turn.outbox.receives.push((session.id, !pause));
            if session.is_open() {
                // Whom nobody listened to was not silent.
                session.alive.hear(turn.now.ds());
            }
        }
    }

    /// Whose message or request was begun first, while too much is half-way.
    pub(super) fn to_give_up(&self) -> Option<SessionId> {
        self.halfway.oldest().filter(|_| self.halfway.bytes() > self.halfway_bytes_max)
    }

    /// What these connections hold, counted anew, bytes: all of it, and what is half-way.
    pub(super) fn count<'s>(&self, sessions: impl Iterator<Item = &'s Session>) -> (usize, usize) {
        sessions.fold((0, 0), |(all, halfway), session| {
            let more = session.halfway_bytes();
            (all + self.of(session), halfway + if more > self.share_bytes { more } else { 0 })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u16) -> SessionId {
        SessionId::new(0, 0, n, 0)
    }

    #[test]
    fn what_was_begun_first_is_oldest_until_its_connection_begins_another_one() {
        let mut halfway = Halfway::default();
        for (n, bytes) in [(1, 10), (2, 10), (1, 30), (3, 5)] {
            halfway.set(id(n), bytes);
        }
        assert_eq!((halfway.oldest(), halfway.bytes()), (Some(id(1)), 45));
        halfway.set(id(1), 20);
        assert_eq!((halfway.oldest(), halfway.bytes()), (Some(id(2)), 35), "it is in another message");
        halfway.set(id(2), 0);
        halfway.set(id(3), 0);
        assert_eq!((halfway.oldest(), halfway.bytes()), (Some(id(1)), 20));
        halfway.set(id(1), 0);
        halfway.set(id(1), 0);
        assert_eq!((halfway.oldest(), halfway.bytes(), halfway.number_of.len()), (None, 0, 0));
    }

    #[test]
    fn shares_and_what_is_half_way_leave_most_of_the_memory_to_rooms() {
        let limits = Limits::defaults();
        assert!(share_bytes(&limits) >= COUNTED_BYTES_MIN);
        let all = share_bytes(&limits) * limits.max_connections + 2 * halfway_bytes_max(&limits, 2);
        assert!(all <= limits.memory_bytes_max / 2, "{all}");
    }
}
