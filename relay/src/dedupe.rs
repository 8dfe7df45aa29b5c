//! Which idempotency keys a room has stored lately: a publish that is repeated is stored once, and the same key with
//! another body is refused.

use std::collections::VecDeque;

use foldhash::HashMap;
use protocol::Content;
use storage::{Key, StoredKey};

/// A key is remembered for this many messages of its room…
pub const WINDOW_MESSAGES: u64 = 65_536;
/// …or this long, milliseconds, whichever is shorter.
pub const WINDOW_MS: u64 = 5 * 60 * 1000;

/// What a key takes in memory, bytes: its place in a map and in a queue, and their spare capacity.
const KEY_BYTES: usize = 96;

/// The hash that is stored for a key: nobody can make the keys of two users meet.
pub fn key_hash(user: &str, key: &str) -> u128 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(user.len() as u64).to_le_bytes());
    hasher.update(user.as_bytes());
    hasher.update(key.as_bytes());
    let hash = hasher.finalize();
    let mut first = [0; 16];
    first.copy_from_slice(&hash.as_bytes()[..16]);
    u128::from_le_bytes(first)
}

/// The hash that is stored for a body as a client sent it: 64 bits, for who makes two of one's own bodies meet has only
/// one's own message swallowed.
pub fn body_hash(content: Content, body: &[u8]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[content as u8]);
    hasher.update(body);
    let mut first = [0; 8];
    first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_le_bytes(first)
}

/// What a key that is stored already means for a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    pub seq: u64,
    pub id: u64,
    /// The publish has another body than the message that is stored.
    pub differs: bool,
}

/// The keys in a room's window. Lives with the room, on its owner.
#[derive(Debug, Default)]
pub struct Dedupe {
    /// Seq, id, and the hash of the body where it is known.
    stored: HashMap<u128, (u64, u64, Option<u64>)>,
    /// (seq, time in ms, key), oldest first.
    order: VecDeque<(u64, u64, u128)>,
}

impl Dedupe {
    /// Where this key is stored.
    pub fn get(&self, key: Key) -> Option<Known> {
        let &(seq, id, body) = self.stored.get(&key.hash)?;
        Some(Known { seq, id, differs: !key.repeats(body) })
    }

    /// Notes a stored message and forgets what has left the window.
    pub fn insert(&mut self, stored: &StoredKey) {
        let StoredKey { key: Key { hash, body }, seq, id, time_ms } = *stored;
        self.stored.insert(hash, (seq, id, body));
        self.order.push_back((seq, time_ms, hash));
        self.trim(seq, time_ms);
    }

    /// Forgets what has left the window of a log that ends here.
    pub fn expire(&mut self, last_seq: u64, now_ms: u64) {
        self.trim(last_seq, now_ms);
        if self.order.len() < self.order.capacity() / 4 {
            self.order.shrink_to_fit();
            self.stored.shrink_to_fit();
        }
    }

    /// What the keys take in memory, bytes.
    pub fn bytes(&self) -> usize {
        self.order.len() * KEY_BYTES
    }

    fn trim(&mut self, last_seq: u64, now_ms: u64) {
        while let Some(&(seq, time_ms, key)) = self.order.front() {
            if seq + WINDOW_MESSAGES > last_seq && time_ms + WINDOW_MS > now_ms {
                return;
            }
            self.order.pop_front();
            if self.stored.get(&key).is_some_and(|&(stored, ..)| stored == seq) {
                self.stored.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(hash: u128, body: Option<u64>) -> Key {
        Key { hash, body }
    }

    fn stored(hash: u128, seq: u64, time_ms: u64) -> StoredKey {
        StoredKey { key: key(hash, Some(5)), seq, id: seq + 10, time_ms }
    }

    #[test]
    fn keys_leave_the_window_by_count_and_by_age() {
        let mut dedupe = Dedupe::default();
        let seqs =
            |dedupe: &Dedupe| [1, 2, 3, 4].map(|hash| dedupe.get(key(hash, Some(5))).map_or(0, |known| known.seq));
        dedupe.insert(&stored(1, 1, 1000));
        dedupe.insert(&stored(2, 2, 1000));
        assert_eq!(seqs(&dedupe), [1, 2, 0, 0]);
        dedupe.insert(&stored(3, 1 + WINDOW_MESSAGES, 1000));
        assert_eq!(seqs(&dedupe), [0, 2, 1 + WINDOW_MESSAGES, 0]);
        dedupe.insert(&stored(4, 2 + WINDOW_MESSAGES, 1000 + WINDOW_MS));
        assert_eq!(seqs(&dedupe), [0, 0, 0, 2 + WINDOW_MESSAGES]);
    }

    #[test]
    fn another_body_differs_and_one_that_nobody_knows_does_not() {
        let mut dedupe = Dedupe::default();
        dedupe.insert(&stored(1, 1, 1000));
        dedupe.insert(&StoredKey { key: key(2, None), ..stored(2, 2, 1000) });
        let differs = |hash, body| dedupe.get(key(hash, body)).map(|known| known.differs);
        assert_eq!(
            (differs(1, Some(5)), differs(1, Some(6)), differs(1, None)),
            (Some(false), Some(true), Some(false))
        );
        assert_eq!(differs(2, Some(6)), Some(false), "stored before bodies were hashed");
        assert_ne!(body_hash(Content::Text, b"1"), body_hash(Content::Json, b"1"));
    }

    #[test]
    fn the_border_between_user_and_key_counts() {
        assert_ne!(key_hash("ab", "c"), key_hash("a", "bc"));
    }
}
