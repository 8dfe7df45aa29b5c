//! Which idempotency keys a room has stored lately: a publish that is repeated is stored once.

use std::collections::VecDeque;

use foldhash::HashMap;

/// A key is remembered for this many messages of its room…
pub const WINDOW_MESSAGES: u64 = 65_536;
/// …or this long, milliseconds, whichever is shorter.
pub const WINDOW_MS: u64 = 5 * 60 * 1000;

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

/// The keys in a room's window. Lives with the room, on its owner.
#[derive(Debug, Default)]
pub struct Dedupe {
    stored: HashMap<u128, (u64, u64)>,
    /// (seq, time in ms, key), oldest first.
    order: VecDeque<(u64, u64, u128)>,
}

impl Dedupe {
    /// Seq and id under which this key is stored.
    pub fn get(&self, key: u128) -> Option<(u64, u64)> {
        self.stored.get(&key).copied()
    }

    /// Notes a stored message and forgets what has left the window.
    pub fn insert(&mut self, key: u128, seq: u64, id: u64, time_ms: u64) {
        self.stored.insert(key, (seq, id));
        self.order.push_back((seq, time_ms, key));
        self.trim(seq, time_ms);
    }

    fn trim(&mut self, last_seq: u64, now_ms: u64) {
        while let Some(&(seq, time_ms, key)) = self.order.front() {
            if seq + WINDOW_MESSAGES > last_seq && time_ms + WINDOW_MS > now_ms {
                return;
            }
            self.order.pop_front();
            if self.stored.get(&key).is_some_and(|&(stored, _)| stored == seq) {
                self.stored.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_leave_the_window_by_count_and_by_age() {
        let mut dedupe = Dedupe::default();
        dedupe.insert(1, 1, 11, 1000);
        dedupe.insert(2, 2, 12, 1000);
        assert_eq!(dedupe.get(1), Some((1, 11)));
        dedupe.insert(3, 1 + WINDOW_MESSAGES, 13, 1000);
        assert_eq!((dedupe.get(1), dedupe.get(2)), (None, Some((2, 12))));
        dedupe.insert(4, 2 + WINDOW_MESSAGES, 14, 1000 + WINDOW_MS);
        assert_eq!((dedupe.get(2), dedupe.get(3), dedupe.get(4)), (None, None, Some((2 + WINDOW_MESSAGES, 14))));
    }

    #[test]
    fn the_border_between_user_and_key_counts() {
        assert_ne!(key_hash("ab", "c"), key_hash("a", "bc"));
    }
}
