//! Names of things across cores: sessions, owners, principals.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use storage::{SLOTS, room_slot};

/// A connection anywhere in this process: `shard:8 | ring:8 | slot:16 | generation:32`. It finds its way without a
/// table, and an old one never reaches a slot that was taken again.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u64);

impl SessionId {
    pub fn new(shard: usize, ring: usize, slot: u16, generation: u32) -> Self {
        assert!(shard < 256 && ring < 256, "shard {shard} or ring {ring} does not fit a session id");
        Self(((shard as u64) << 56) | ((ring as u64) << 48) | (u64::from(slot) << 32) | u64::from(generation))
    }
    pub fn shard(self) -> usize {
        (self.0 >> 56) as usize
    }
    pub fn ring(self) -> usize {
        (self.0 >> 48) as usize & 0xff
    }
    pub fn slot(self) -> u16 {
        (self.0 >> 32) as u16
    }
    pub fn generation(self) -> u32 {
        self.0 as u32
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "session {}.{}.{}.{}", self.shard(), self.ring(), self.slot(), self.generation())
    }
}

/// Where a command comes from, and its answer goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// A connection of this process, and its own number for the command.
    Session(SessionId, u32),
}

impl Origin {
    /// The shard that takes the answer.
    pub fn core(self) -> usize {
        match self {
            Self::Session(session, _) => session.shard(),
        }
    }
}

/// Stands for a user where people are counted: the same everywhere and for ever.
pub fn user_hash(user: &str) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&blake3::hash(user.as_bytes()).as_bytes()[..8]);
    u64::from_le_bytes(first)
}

/// What stands for a peer's address where addresses are counted: of IPv6 only the first 64 bits, which one customer has, so
/// that nobody has many. 0 when it is not known.
pub fn address_number(peer: Option<IpAddr>) -> u32 {
    match peer.map(|peer| peer.to_canonical()) {
        Some(IpAddr::V4(address)) => address.to_bits(),
        Some(IpAddr::V6(address)) => {
            let bits = address.to_bits();
            (bits >> 96) as u32 ^ (bits >> 64) as u32
        }
        None => 0,
    }
}

/// The shard that owns a room.
pub fn owner_of(room: &str, shards: usize) -> usize {
    room_slot(room) as usize * shards / SLOTS as usize
}

/// Who does something. It travels with every command; the room's owner decides what it may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    pub user: Arc<str>,
    /// Stands for the address it speaks from.
    pub address: u32,
    pub rights: Rights,
}

/// What a principal may do. Until there is authentication, everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rights {
    pub read: bool,
    pub publish: bool,
}

impl Rights {
    pub const ALL: Self = Self { read: true, publish: true };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_id_keeps_its_parts() {
        let id = SessionId::new(201, 7, 19_999, u32::MAX);
        assert_eq!((id.shard(), id.ring(), id.slot(), id.generation()), (201, 7, 19_999, u32::MAX));
    }

    #[test]
    fn a_rooms_slot_is_pinned_and_its_owner_exists() {
        assert_eq!(room_slot("lobby"), 1527, "the slot of a name may never change");
        for shards in [1, 2, 3, 64] {
            assert!((0..2000).all(|n| owner_of(&format!("room-{n}"), shards) < shards));
        }
    }
}
