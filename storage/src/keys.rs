//! The idempotency keys of a log, which are kept beside its records so that they are found without reading bodies.

use protocol::varint;

use crate::record::{Key, Record, number};
use crate::{Store, StoreError};

/// Records that are read at once where keys do not stand beside them: with the largest bodies some megabytes.
const CHUNK: u64 = 256;

/// A key and the message that has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "as in Record")]
pub struct StoredKey {
    pub key: Key,
    pub seq: u64,
    pub id: u64,
    pub time_ms: u64,
}

impl StoredKey {
    /// That of a record, if it has one.
    pub fn of(record: &Record) -> Option<Self> {
        let Record { seq, id, time_ms, .. } = *record;
        record.key.map(|key| Self { key, seq, id, time_ms })
    }

    /// Appends the row's value: hash of the key (16 bytes), id, time (8 each), hash of the body (8, if there is one),
    /// little-endian.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.key.hash.to_le_bytes());
        out.extend_from_slice(&self.id.to_le_bytes());
        out.extend_from_slice(&self.time_ms.to_le_bytes());
        out.extend(self.key.body.into_iter().flat_map(u64::to_le_bytes));
    }

    /// Reads the value of the row of `seq`.
    pub(crate) fn decode(seq: u64, mut value: &[u8]) -> Result<Self, &'static str> {
        let rest = &mut value;
        let hash = u128::from_le_bytes(number(rest)?);
        let (id, time_ms) = (u64::from_le_bytes(number(rest)?), u64::from_le_bytes(number(rest)?));
        let body = if rest.is_empty() { None } else { Some(u64::from_le_bytes(number(rest)?)) };
        if rest.is_empty() { Ok(Self { key: Key { hash, body }, seq, id, time_ms }) } else { Err(varint::CUT_OFF) }
    }
}

/// [`Store::keys`] from the records themselves, a few at a time from the newest back.
pub(crate) fn from_records<S: Store + ?Sized>(
    store: &S,
    room: &str,
    first: u64,
    since_ms: u64,
) -> Result<Vec<StoredKey>, StoreError> {
    let mut keys = Vec::new();
    let mut end = store.open_log(room)?.last_seq;
    while end >= first.max(1) {
        let from = (end + 1).saturating_sub(CHUNK).max(first).max(1);
        let records = store.read(room, from, end, CHUNK as usize)?;
        keys.extend(records.iter().rev().filter_map(StoredKey::of));
        // What has expired is missing, and what is older still is older than wanted.
        let goes_on = records.first().is_some_and(|oldest| oldest.seq == from && oldest.time_ms > since_ms);
        if !goes_on {
            break;
        }
        end = from - 1;
    }
    keys.reverse();
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_rows_value_survives_a_round_trip_and_nothing_shorter_is_taken_for_it(
            hash: u128, body: Option<u64>, seq: u64, id: u64, time_ms: u64,
        ) {
            let stored = StoredKey { key: Key { hash, body }, seq, id, time_ms };
            let mut value = Vec::new();
            stored.encode(&mut value);
            prop_assert_eq!(StoredKey::decode(seq, &value), Ok(stored));
            for length in (0..value.len()).filter(|&length| length != 32) {
                prop_assert!(StoredKey::decode(seq, &value[..length]).is_err());
            }
        }
    }
}
