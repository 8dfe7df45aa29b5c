//! What both halves of a shard have in common: the time, the limits, the account of memory, and what a turn causes.

use std::collections::VecDeque;
use std::sync::Arc;

use protocol::ErrorCode;

use super::{Now, Outbox, Setup, Stats};
use crate::budget::{Share, Use};
use crate::ids::{Origin, owner_of};
use crate::mesh::{Answer, Answered, Ask, Asked, Mesh};

/// After `busy`, clients try again this much later, milliseconds.
pub(super) const BUSY_RETRY_MS: u32 = 500;

/// Code, message and when to try again, milliseconds.
pub(super) type Refusal = (ErrorCode, &'static str, u32);

/// A turn of a shard.
pub struct Turn {
    pub(super) setup: Setup,
    pub(super) now: Now,
    /// This shard's account of the relay's memory.
    pub(super) memory: Share,
    /// The shard takes no commands any more.
    pub(super) stopping: bool,
    /// Messages to this shard itself.
    pub(super) local: VecDeque<Mesh>,
    /// Whoever carries it out empties it, but for messages that a lane does not take.
    pub outbox: Outbox,
    /// What happened since the shard began.
    pub stats: Stats,
}

impl Turn {
    pub(super) fn new(setup: Setup) -> Self {
        Self {
            now: Now::default(),
            memory: Share::new(&setup.budget),
            stopping: false,
            local: VecDeque::new(),
            outbox: Outbox::new(setup.shards),
            stats: Stats::default(),
            setup,
        }
    }

    /// Sends to a shard, this one included.
    pub(super) fn post(&mut self, shard: usize, message: Mesh) {
        self.memory.add(message.bytes());
        if shard == self.setup.shard {
            self.local.push_back(message);
        } else {
            self.outbox.mesh[shard].push(message);
        }
    }

    /// Tells the owner of a room that it has one member fewer here, a connection of this user.
    pub(super) fn leave(&mut self, room: Arc<str>, user: u64) {
        let (owner, core) = (owner_of(&room, self.setup.shards), self.setup.shard);
        self.post(owner, Mesh::Leave { room, core, user });
    }

    /// Sends the answer to a command to where that came from.
    pub(super) fn answer(&mut self, origin: Origin, room: &Arc<str>, answer: Answer) {
        self.post(origin.core(), Mesh::Answer(Answered { origin, room: room.clone(), answer }));
    }

    /// Refuses a command.
    pub(super) fn refuse(&mut self, asked: &Asked, code: ErrorCode, retry_after_ms: u32) {
        let is_join = matches!(asked.ask, Ask::Join { .. });
        self.answer(asked.origin, &asked.room, Answer::Refused { code, retry_after_ms, is_join });
    }

    /// There is no room for commands and frames in the lane to this shard; replies still wait in the outbox.
    pub(super) fn lane_is_full(&self, shard: usize) -> bool {
        let waiting = if shard == self.setup.shard { self.local.len() } else { self.outbox.mesh[shard].len() };
        waiting >= self.setup.limits.lane_messages_max
    }

    /// The relay is short of memory: what this lane holds is taken first.
    pub(super) fn lane_must_wait(&self, shard: usize) -> bool {
        shard != self.setup.shard && !self.outbox.mesh[shard].is_empty() && !self.memory.allows(Use::Work, 0)
    }

    /// A room's owner, if it takes commands.
    pub(super) fn owner(&self, room: &str) -> Result<usize, Refusal> {
        let owner = owner_of(room, self.setup.shards);
        if self.lane_is_full(owner) || self.stopping {
            return Err((ErrorCode::Busy, "the relay is overloaded or stopping", BUSY_RETRY_MS));
        }
        Ok(owner)
    }

    /// There is memory left for new work.
    pub(super) fn check_memory(&self, wanted: Use, bytes: usize) -> Result<(), Refusal> {
        if self.memory.allows(wanted, bytes) {
            return Ok(());
        }
        Err((ErrorCode::Busy, "the relay has as much in memory as it may", BUSY_RETRY_MS))
    }

    /// There is no memory for what admitted work brings about: who holds more than a share is not read.
    pub(super) fn memory_is_used_up(&self) -> bool {
        !self.memory.allows(Use::Finish, 0)
    }
}
