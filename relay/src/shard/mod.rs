//! One core's part of the relay, as a plain synchronous value: what happened goes in, effects come out.
//!
//! A shard is two halves that share only a [`turn`]: the [`owner`] of some rooms, and the [`front`] of some connections.
//! They talk through [`Mesh`], as shards do with each other. [`upkeep`] is what time alone causes in both. `session`,
//! `room` and `feed` do the work. No I/O, no clock, no runtime: the run loop and the simulation drive it the same way.

mod front;
mod outbox;
mod owner;
mod stats;
mod turn;
mod upkeep;

use std::io;
use std::net::IpAddr;

use self::front::Front;
pub use self::front::{FULL, FULL_RETRY_S, Gauges, halfway_bytes_max};
pub use self::outbox::{Found, Outbox, StoreReply, StoreRequest, Unread};
use self::owner::Owner;
pub use self::stats::Stats;
pub use self::turn::{Now, Setup, Turn};
use crate::ids::SessionId;
use crate::mesh::Mesh;
use crate::tempo::Tempo;

/// One core's part of the relay. Lives on its core and is never shared.
///
/// Its halves know nothing of each other: what the front asks of rooms goes to their owners as [`Mesh`], also where the
/// owner is on the same core.
pub struct Shard {
    pub turn: Turn,
    /// The rooms that this shard owns.
    owner: Owner,
    /// The connections of this shard.
    front: Front,
    upkeep: upkeep::Upkeep,
}

/// A lane that is full, or a room behind one, is looked at again so much later, microseconds.
const LANE_RETRY_US: u64 = 1000;
/// …and a shard that stops.
const STOP_US: u64 = 1000;

impl Shard {
    pub fn new(setup: Setup) -> Self {
        Self {
            owner: Owner::new(&setup),
            front: Front::new(&setup),
            upkeep: upkeep::Upkeep::default(),
            turn: Turn::new(setup),
        }
    }

    /// Begins a turn: everything until [`Shard::flush`] happens at this time.
    pub fn begin(&mut self, now: Now) {
        debug_assert!(now.us >= self.turn.now.us, "monotonic time ran backwards");
        self.turn.now = now;
        self.front.held.intake.begin();
    }

    /// A connection was accepted, from this address; one that is not `admitted` is one too many and answered 503.
    pub fn on_open(&mut self, id: SessionId, peer: Option<IpAddr>, admitted: bool) {
        self.front.on_open(&mut self.turn, id, peer, admitted);
    }

    /// Bytes from a connection; they are unmasked in place.
    pub fn on_bytes(&mut self, id: SessionId, bytes: &mut [u8]) {
        self.front.on_bytes(&mut self.turn, id, bytes);
    }

    /// The peer has ended its direction, or the connection failed.
    pub fn on_ended(&mut self, id: SessionId, failed: Option<&io::Error>) {
        self.front.on_ended(&mut self.turn, id, failed);
    }

    /// A send ended: all or some of its bytes were taken, or none (`WouldBlock`).
    pub fn on_sent(&mut self, id: SessionId, result: io::Result<usize>) {
        self.front.on_sent(&mut self.turn, id, result);
    }

    /// The socket takes bytes again.
    pub fn on_writable(&mut self, id: SessionId) {
        self.front.on_writable(&mut self.turn, id);
    }

    /// Handing so many sends of so many bytes in all to the kernel took so much of the thread's CPU time, nanoseconds.
    pub fn on_spent(&mut self, sends: usize, bytes: usize, cpu_ns: u64) {
        self.front.tempo.sent(sends, bytes, cpu_ns);
    }

    /// A message from another shard.
    pub fn on_mesh(&mut self, message: Mesh) {
        let turn = &mut self.turn;
        turn.memory.give(message.bytes());
        match message {
            Mesh::Ask(asked) => self.owner.on_ask(turn, asked),
            Mesh::Leave { room, core, user } => self.owner.on_leave(turn, &room, core, user),
            Mesh::Answer(answered) => self.front.on_answer(turn, answered),
            Mesh::Deliver { room, records, durable_ms } => self.front.on_deliver(turn, &room, &records, durable_ms),
        }
    }

    /// Storage answers.
    pub fn on_stored(&mut self, reply: StoreReply) {
        self.owner.on_stored(&mut self.turn, reply);
    }

    /// Ends a turn: does what is due and leaves all effects in the outbox. To be called once after the inputs.
    ///
    /// What the last stage says to this shard itself (a member with a gap leaves) waits for the next turn, which is due at
    /// once.
    pub fn flush(&mut self) {
        self.front.read_left_overs(&mut self.turn);
        self.front.give_up_halfway(&mut self.turn);
        self.keep_up();
        self.hear_itself();
        self.owner.form_appends(&mut self.turn);
        self.owner.cut_due(&mut self.turn, &self.front.tempo);
        self.hear_itself();
        self.front.fan_out(&mut self.turn);
    }

    /// What the shard has said to itself.
    fn hear_itself(&mut self) {
        while let Some(message) = self.turn.local.pop_front() {
            self.on_mesh(message);
        }
    }

    /// When the next turn is due even if nothing happens, microseconds on the clock of [`Now::us`]. To be asked when the
    /// effects of this turn were carried out.
    pub fn deadline_us(&self) -> u64 {
        let now_us = self.turn.now.us;
        if !self.turn.local.is_empty() {
            return now_us;
        }
        let upkeep_us = if self.turn.stopping { now_us + STOP_US } else { self.upkeep.next_us() };
        let is_behind = self.owner.is_behind() || self.turn.outbox.mesh.iter().any(|messages| !messages.is_empty());
        let lanes_us = if is_behind { now_us + LANE_RETRY_US } else { u64::MAX };
        let cut_us = self.owner.next_cut_us(&self.front.tempo);
        upkeep_us.min(lanes_us).min(cut_us).min(self.front.deadline_us(now_us))
    }

    /// Connections that count towards the limit.
    pub fn connections(&self) -> usize {
        self.front.admitted
    }

    /// Rooms in memory that this shard owns.
    pub fn rooms(&self) -> usize {
        self.owner.rooms()
    }

    /// Rooms with members connected here, or about to be.
    pub fn feeds(&self) -> usize {
        self.front.feeds.len()
    }

    /// What is most of everything that is bounded.
    pub fn gauges(&self) -> Gauges {
        self.front.gauges()
    }

    /// What this shard has added to the relay's memory and not given back, bytes; less than none where it gave back what
    /// others had added.
    pub fn memory_used(&self) -> i64 {
        self.turn.memory.used()
    }

    /// How often members are visited now.
    pub fn tempo(&self) -> &Tempo {
        &self.front.tempo
    }
}

#[cfg(test)]
mod tests;
