//! What each connection holds in memory for itself: counted in the relay's budget, and given up where it is too much.
//!
//! Replies, bytes that were not read yet and commands that wait have bounds of their own, and end by themselves or with
//! their connection. A message that is half-way may stay so, and lies in memory as far as it came; so may a request. All
//! of them together have a part of the memory, and past that the one that was begun first is given up: who sends without
//! pause is done by then.

use std::collections::BTreeMap;
use std::mem;

use foldhash::HashMap;
use protocol::Close;

use super::Shard;
use crate::budget::Use;
use crate::config::Limits;
use crate::ids::SessionId;
use crate::session::{Phase, Session};

/// This part of the memory belongs to connections whatever else there is, the same share to each.
const SHARES_PART: usize = 4;
/// Messages and requests that are half-way may hold this part of the memory, those of a core its even part of that.
const HALFWAY_PART: usize = 8;

/// Less is not counted: pings and acks, which would make idle connections have an account.
const COUNTED_BYTES_MIN: usize = 128;

/// Messages and requests that are half-way and hold more than a connection's share.
#[derive(Default)]
pub(super) struct Halfway {
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

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

/// What any connection may hold, bytes.
pub(super) fn share_bytes(limits: &Limits) -> usize {
    limits.memory_bytes_max / SHARES_PART / limits.max_connections
}

/// What may be half-way on a core, bytes: a whole message at least.
pub fn halfway_bytes_max(limits: &Limits, shards: usize) -> usize {
    (limits.memory_bytes_max / HALFWAY_PART / shards).max(2 * limits.frame_bytes_max)
}

impl Shard {
    /// Counts what a connection holds now, instead of what it held before.
    pub(super) fn account(&mut self, session: &mut Session) {
        let halfway = session.halfway_bytes();
        if session.reading.halfway || halfway > self.share_bytes {
            let bytes = if halfway > self.share_bytes { halfway } else { 0 };
            session.reading.halfway = bytes > 0;
            self.halfway.set(session.id, bytes);
        }
        let now = self.holds(session);
        if now != session.counted_bytes() {
            let counted = &mut session.allowance(&self.setup.limits, self.now.us).counted_bytes;
            self.memory.replace(mem::replace(counted, now), now);
        }
    }

    /// [`Shard::account`] of a connection that something was sent to.
    pub(super) fn recount(&mut self, id: SessionId) {
        if let Some(mut session) = self.sessions.take(id) {
            self.account(&mut session);
            self.sessions.put(session);
        }
    }

    /// What a connection holds for itself, bytes, if it is worth counting.
    fn holds(&self, session: &Session) -> usize {
        let left = if session.reading.has_left { self.intake.left_of(session.id) } else { 0 };
        let waiting = session.pipeline.as_ref().map_or(0, |pipeline| pipeline.waiting_bytes());
        let bytes = self.owed_memory(session) + session.halfway_bytes() + left + waiting;
        if bytes < COUNTED_BYTES_MIN { 0 } else { bytes }
    }

    /// There is no memory for what admitted work brings about: who holds more than a share is not read.
    pub(super) fn memory_is_used_up(&self) -> bool {
        !self.memory.allows(Use::Finish, 0)
    }

    /// A connection is over: it holds nothing.
    pub(super) fn close_account(&mut self, session: &Session) {
        self.memory.give(session.counted_bytes());
        if session.reading.halfway {
            self.halfway.set(session.id, 0);
        }
    }

    /// Gives up what was begun first, while too much is half-way.
    pub(super) fn give_up_halfway(&mut self) {
        while self.halfway.bytes() > self.halfway_bytes_max
            && let Some(id) = self.halfway.oldest()
        {
            self.stats.overload_closed += 1;
            self.with_session(id, |shard, session| {
                match session.phase {
                    Phase::Handshake(_) => shard.turn_away(session),
                    _ => shard.close(session, Close::Overloaded),
                }
                // The rest of the message is no message.
                session.close_when_sent = true;
                session.decoder = shard.decoder(session.deflate);
            });
        }
    }

    /// What all connections here hold for themselves, counted anew, bytes.
    pub fn connections_bytes(&self) -> usize {
        self.sessions.slice(0, 1).map(|session| self.holds(session)).sum()
    }

    /// What is half-way here, bytes.
    pub fn halfway_bytes(&self) -> usize {
        self.sessions.slice(0, 1).map(Session::halfway_bytes).filter(|&bytes| bytes > self.share_bytes).sum()
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
