//! What both halves of a shard have in common: the time, the limits, the account of memory, and what a turn causes.

use std::collections::VecDeque;
use std::sync::Arc;

use protocol::ErrorCode;

use super::outbox::Outbox;
use super::stats::Stats;
use crate::budget::{Budget, Share, Use};
use crate::config::Limits;
use crate::deflation;
use crate::ids::{Origin, owner_of};
use crate::mesh::{Answer, Answered, Ask, Asked, Mesh};

/// What time it is. The caller reads the clocks once per turn.
#[derive(Debug, Clone, Copy, Default)]
pub struct Now {
    /// Monotonic, microseconds since the shard began.
    pub us: u64,
    /// Milliseconds since 1970; may step back.
    pub wall_ms: u64,
    /// CPU time of the shard's thread, microseconds, ever rising.
    pub cpu_us: u64,
}

impl Now {
    /// Tenths of a second since the shard began, never 0.
    pub(super) fn ds(self) -> u32 {
        (self.us / 100_000) as u32 + 1
    }
    pub(super) fn s(self) -> u32 {
        (self.us / 1_000_000) as u32
    }
}

/// Who a shard is and what it may use.
#[derive(Debug, Clone)]
pub struct Setup {
    pub shard: usize,
    pub shards: usize,
    pub node: u16,
    /// Ids up to this time may have been given out before, milliseconds since 1970.
    pub ids_after_ms: u64,
    pub limits: Limits,
    /// What all shards together may hold in memory.
    pub budget: Arc<Budget>,
    /// Serve `/echo` for conformance suites, instead of the dialects.
    pub echo: bool,
    /// Sweep all rooms at this period, microseconds, instead of adapting to the load (for simulations).
    pub period_us: Option<u64>,
    /// [`crate::deflation::MEMBERS_MIN`], except in simulations, which have fewer members.
    pub deflate_members_min: u32,
    /// Drawn when the process starts: it makes the ids of connections others than those of an earlier process.
    pub nonce: u64,
    /// Seeds generated user names and reconnect hints.
    pub seed: u64,
}

impl Setup {
    /// The first of so many shards with these limits, the same in every run: for tests and measurements.
    pub fn first_of(shards: usize, limits: Limits) -> Self {
        Self {
            shard: 0,
            shards,
            node: 0,
            ids_after_ms: 0,
            budget: Budget::new(&limits, shards),
            limits,
            echo: false,
            period_us: None,
            deflate_members_min: deflation::MEMBERS_MIN,
            nonce: 1,
            seed: 1,
        }
    }
}

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
