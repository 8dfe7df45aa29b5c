//! Keys and rows of the embedded engine. One key range per kind of row, told apart by its first byte.
//!
//! | row | key | value |
//! |---|---|---|
//! | setting | `m` name | 8 bytes |
//! | facts of a log | `f` room | epoch, created (ms since 1970), id floor |
//! | sparse index | `s` room block | id of the first record whose seq >> 10 is the block (none for block 0) |
//! | record | `r` room bucket id | [`Record`](crate::Record) bytes |
//! | key | `k` room seq, in a keyspace of its own | that of [`StoredKey`](crate::StoredKey) |
//!
//! A key's row is written with its record and dropped when it is merged after [`KEYS_KEPT_MS`].
//! Version 1 had no rows of keys and records of version 1; it becomes version 2 with the first append, and its records
//! stay as they are.
//!
//! Numbers are big-endian, so that keys sort as numbers do; a room is preceded by its length in two bytes, so that no
//! room's rows lie between another's. bucket = seq >> 16 in six bytes, all others take eight.

use crate::StoreError;
use crate::seqs::bucket;

/// Longest room name, bytes: a key must stay under fjall's 65,536.
pub const ROOM_BYTES_MAX: usize = 32 << 10;
/// Version of these rows, stored under [`FORMAT`].
pub const FORMAT_VERSION: u64 = 2;
/// The layout without keys, which is read and becomes the newest one.
pub const FORMAT_WITHOUT_KEYS: u64 = 1;

/// Setting: version of the layout.
pub const FORMAT: &[u8] = b"mformat";
/// Setting: the epoch of logs that were never written.
pub const EPOCH: &[u8] = b"mepoch";
/// Setting: messages that were taken until then have no rows of keys, milliseconds since 1970. Missing when all have.
pub const KEYS_SINCE: &[u8] = b"mkeys";
/// Setting: up to which time ids are reserved, milliseconds since 1970.
pub const RESERVED: &[u8] = b"mreserved";

/// Nobody asks for a key that is older, milliseconds.
pub const KEYS_KEPT_MS: u64 = 10 * 60 * 1000;

/// What the first append of a log fixed, and what a loss left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    pub epoch: u64,
    pub created_ms: u64,
    /// No later id of this log may be lower: a lost message had it.
    pub id_floor: u64,
}

impl Facts {
    pub fn encode(self) -> [u8; 24] {
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(&self.epoch.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.created_ms.to_be_bytes());
        bytes[16..].copy_from_slice(&self.id_floor.to_be_bytes());
        bytes
    }

    /// None when the row has another length.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (numbers, []) = bytes.as_chunks::<8>() else {
            return None;
        };
        let &[epoch, created_ms, id_floor] = numbers else {
            return None;
        };
        Some(Self {
            epoch: u64::from_be_bytes(epoch),
            created_ms: u64::from_be_bytes(created_ms),
            id_floor: u64::from_be_bytes(id_floor),
        })
    }
}

/// The keys of one room's rows, built in one reused buffer.
#[derive(Debug, Default)]
pub struct Keys {
    room: Vec<u8>,
    key: Vec<u8>,
}

impl Keys {
    /// Keys of this room.
    pub fn of(room: &str) -> Result<Self, StoreError> {
        let mut keys = Self::default();
        keys.set_room(room)?;
        Ok(keys)
    }

    /// Goes over to another room.
    ///
    /// # Errors
    /// An invalid-input error when the name is longer than [`ROOM_BYTES_MAX`].
    pub fn set_room(&mut self, room: &str) -> Result<(), StoreError> {
        let length = u16::try_from(room.len()).ok().filter(|_| room.len() <= ROOM_BYTES_MAX);
        let Some(length) = length else {
            let message = format!("a room name of {} bytes is longer than {ROOM_BYTES_MAX}", room.len());
            return Err(StoreError::Io(std::io::Error::new(std::io::ErrorKind::InvalidInput, message)));
        };
        self.room.clear();
        self.room.extend_from_slice(&length.to_be_bytes());
        self.room.extend_from_slice(room.as_bytes());
        Ok(())
    }

    pub fn facts(&mut self) -> &[u8] {
        self.build(b'f', &[])
    }

    /// The room whose facts have this key; None for a row of another kind.
    pub fn room_of_facts(key: &[u8]) -> Option<&str> {
        let room = key.strip_prefix(b"f")?.get(2..)?;
        std::str::from_utf8(room).ok()
    }

    pub fn sparse(&mut self, block: u64) -> &[u8] {
        self.build(b's', &block.to_be_bytes())
    }

    pub fn record(&mut self, seq: u64, id: u64) -> &[u8] {
        let mut tail = [0; 14];
        tail[..6].copy_from_slice(&bucket(seq).to_be_bytes()[2..]);
        tail[6..].copy_from_slice(&id.to_be_bytes());
        self.build(b'r', &tail)
    }

    /// In the keyspace of keys.
    pub fn key(&mut self, seq: u64) -> &[u8] {
        self.build(b'k', &seq.to_be_bytes())
    }

    /// The seq in the key of a row of the keyspace of keys.
    pub fn seq_of_key(key: &[u8]) -> Option<u64> {
        key.last_chunk().map(|seq| u64::from_be_bytes(*seq))
    }

    /// Before every record of the room.
    pub fn records_start(&mut self) -> Vec<u8> {
        self.build(b'r', &[]).to_vec()
    }

    /// After every record of the room, before the next room.
    pub fn records_end(&mut self) -> Vec<u8> {
        self.build(b'r', &[0xff; 15]).to_vec()
    }

    fn build(&mut self, tag: u8, tail: &[u8]) -> &[u8] {
        self.key.clear();
        self.key.push(tag);
        self.key.extend_from_slice(&self.room);
        self.key.extend_from_slice(tail);
        &self.key
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn records_sort_by_seq_and_stay_in_their_room(
            rooms in ["[ab\u{0}\u{ff}]{0,3}", "[ab\u{0}\u{ff}]{0,3}"],
            mut seqs in [1u64..1 << 40, 1u64..1 << 40], ids in [any::<u64>(), any::<u64>()],
        ) {
            seqs.sort_unstable();
            let mut keys = Keys::of(&rooms[0]).unwrap();
            let (low, high) = (keys.record(seqs[0], ids[0].min(ids[1])).to_vec(), keys.record(seqs[1], ids[0].max(ids[1])).to_vec());
            prop_assert!(low <= high);
            let (start, end) = (keys.records_start(), keys.records_end());
            prop_assert!(start <= low && high < end);
            let mut other = Keys::of(&rooms[1]).unwrap();
            let foreign = other.record(seqs[0], ids[0]).to_vec();
            prop_assert_eq!(start <= foreign && foreign < end, rooms[0] == rooms[1]);
        }
    }

    #[test]
    fn facts_survive_a_round_trip_and_refuse_other_lengths() {
        let facts = Facts { epoch: 1, created_ms: 2, id_floor: 3 };
        assert_eq!(Facts::decode(&facts.encode()), Some(facts));
        assert_eq!(Facts::decode(&facts.encode()[1..]), None);
        let mut keys = Keys::of("f\u{e9}te").unwrap();
        assert_eq!(Keys::room_of_facts(keys.facts()), Some("f\u{e9}te"));
        assert_eq!(Keys::room_of_facts(keys.sparse(1)), None);
    }
}
