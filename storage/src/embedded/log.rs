//! One room's log as rows of the tree, at one moment.

use std::path::Path;

use fjall::{Readable, Snapshot, UserValue};

use super::error::{from_fjall, unreadable};
use super::layout::{Facts, Keys};
use super::tree::Tree;
use crate::seqs::{block, block_start, first_hole, is_nearer_end};
use crate::{LogState, Record, StoreError, StoredKey};

/// A log at the moment this value was made; appends after it are not seen.
pub struct Log<'a> {
    dir: &'a Path,
    tree: &'a Tree,
    room: &'a str,
    snapshot: Snapshot,
    keys: Keys,
}

/// The readable part of a damaged log and the rest.
pub struct BreakOff {
    /// The last record before the first hole.
    pub last: Option<Record>,
    /// Key and seq of every record behind that hole.
    pub behind: Vec<(Vec<u8>, u64)>,
}

impl<'a> Log<'a> {
    /// The log of `room` as it is now, in the data directory `dir`.
    pub fn now(dir: &'a Path, tree: &'a Tree, room: &'a str) -> Result<Self, StoreError> {
        Ok(Self { dir, tree, room, snapshot: tree.db.snapshot(), keys: Keys::of(room)? })
    }

    /// What its first append fixed; None when it was never written.
    pub fn facts(&mut self) -> Result<Option<Facts>, StoreError> {
        let row = self.snapshot.get(&self.tree.rows, self.keys.facts()).map_err(|error| from_fjall(self.dir, error))?;
        let Some(row) = row else { return Ok(None) };
        let facts = Facts::decode(&row);
        facts.map(Some).ok_or_else(|| self.damaged_row("the row of facts"))
    }

    /// Its state; an empty log has `store_epoch`.
    pub fn state(&mut self, store_epoch: u64) -> Result<LogState, StoreError> {
        let Some(facts) = self.facts()? else {
            return Ok(LogState { epoch: store_epoch, last_seq: 0, last_id: 0 });
        };
        let (last_seq, last_id) = self.last()?.map_or((0, 0), |last| (last.seq, last.id));
        Ok(LogState { epoch: facts.epoch, last_seq, last_id: last_id.max(facts.id_floor) })
    }

    /// Its last record.
    pub fn last(&mut self) -> Result<Option<Record>, StoreError> {
        let (start, end) = (self.keys.records_start(), self.keys.records_end());
        let last = self.snapshot.range(&self.tree.rows, start..end).next_back();
        last.map(|row| row.value().map_err(|error| from_fjall(self.dir, error)).and_then(|value| self.decode(&value)))
            .transpose()
    }

    /// The record with this seq and id.
    pub fn at(&mut self, seq: u64, id: u64) -> Result<Option<Record>, StoreError> {
        let key = self.keys.record(seq, id);
        let row = self.snapshot.get(&self.tree.rows, key).map_err(|error| from_fjall(self.dir, error))?;
        row.map(|row| self.decode(&row)).transpose()
    }

    /// The records `first..=last`, which must be stored, with `head` the last seq known to be stored.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] for the first hole.
    pub fn range(&mut self, first: u64, last: u64, head: u64) -> Result<Vec<Record>, StoreError> {
        let count = usize::try_from(last - first + 1).expect("a range that fits in memory");
        let from_end = is_nearer_end(first, last, head);
        let mut records = Vec::with_capacity(count);
        if from_end {
            let (start, end) = (self.keys.records_start(), self.keys.records_end());
            for row in self.snapshot.range(&self.tree.rows, start..end).rev() {
                let record = self.decode_row(row)?;
                if record.seq < first {
                    break;
                }
                if record.seq <= last {
                    records.push(record);
                }
            }
            records.reverse();
        } else {
            let start = self.block_key(first)?;
            let end = self.keys.records_end();
            let skip = usize::try_from(first - block_start(first)).expect("less than a block");
            for row in self.snapshot.range(&self.tree.rows, start..end).skip(skip).take(count) {
                records.push(self.decode_row(row)?);
            }
        }
        self.check_dense(&records, first, last)?;
        Ok(records)
    }

    /// The keys of its messages `first..=last`, ascending: from the newest back to the first that is not newer than
    /// `since_ms`.
    pub fn keys(&mut self, first: u64, last: u64, since_ms: u64) -> Result<Vec<StoredKey>, StoreError> {
        let (start, end) = (self.keys.key(first).to_vec(), self.keys.key(last).to_vec());
        let mut keys = Vec::new();
        for row in self.snapshot.range(&self.tree.keys, start..=end).rev() {
            let (key, value) = row.into_inner().map_err(|error| from_fjall(self.dir, error))?;
            let stored = Keys::seq_of_key(&key).and_then(|seq| StoredKey::decode(seq, &value).ok());
            let stored = stored.ok_or_else(|| self.damaged_row("a row of its keys"))?;
            if stored.time_ms <= since_ms {
                break;
            }
            keys.push(stored);
        }
        keys.reverse();
        Ok(keys)
    }

    /// The keys of the rows of keys behind this seq.
    pub fn keys_behind(&mut self, seq: u64) -> Result<Vec<Vec<u8>>, StoreError> {
        let (start, end) = (self.keys.key(seq + 1).to_vec(), self.keys.key(u64::MAX).to_vec());
        let rows = self.snapshot.range(&self.tree.keys, start..=end);
        rows.map(|row| row.key().map(|key| key.to_vec()).map_err(|error| from_fjall(self.dir, error))).collect()
    }

    /// Whether the records from the start of the block of `seq` (of the whole log, when `thorough`) up to the record
    /// `seq`, `id` are all there, and how many they are.
    pub fn is_dense_up_to(&mut self, seq: u64, id: u64, thorough: bool) -> Result<(bool, u64), StoreError> {
        let first = if thorough { 1 } else { block_start(seq) };
        let Ok(start) = self.block_key(first) else {
            return Ok((false, 0));
        };
        let end = self.keys.record(seq, id).to_vec();
        let mut rows = 0;
        for row in self.snapshot.range(&self.tree.rows, start..=end) {
            row.key().map_err(|error| from_fjall(self.dir, error))?;
            rows += 1;
        }
        Ok((rows == seq - first + 1, rows))
    }

    /// Where the log breaks off: at its first hole, or at its end.
    pub fn break_off(&mut self) -> Result<BreakOff, StoreError> {
        let (start, end) = (self.keys.records_start(), self.keys.records_end());
        let mut found = BreakOff { last: None, behind: Vec::new() };
        for row in self.snapshot.range(&self.tree.rows, start..end) {
            let (key, value) = row.into_inner().map_err(|error| from_fjall(self.dir, error))?;
            let record = self.decode(&value)?;
            let expected = found.last.as_ref().map_or(1, |last| last.seq + 1);
            if found.behind.is_empty() && record.seq == expected {
                found.last = Some(record);
            } else {
                found.behind.push((key.to_vec(), record.seq));
            }
        }
        Ok(found)
    }

    fn check_dense(&self, records: &[Record], first: u64, last: u64) -> Result<(), StoreError> {
        let hole = first_hole(records, first, last);
        hole.map_or(Ok(()), |(from, to)| Err(self.missing(from, to)))
    }

    /// The key of the first record of the block of `seq`, or one just before it.
    fn block_key(&mut self, seq: u64) -> Result<Vec<u8>, StoreError> {
        let number = block(seq);
        if number == 0 {
            return Ok(self.keys.records_start());
        }
        let key = self.keys.sparse(number);
        let row = self.snapshot.get(&self.tree.rows, key).map_err(|error| from_fjall(self.dir, error))?;
        let id = row.and_then(|row| row.as_ref().try_into().ok()).map(u64::from_be_bytes);
        let id = id.ok_or_else(|| self.damaged_row(&format!("the index of message {}", block_start(seq))))?;
        Ok(self.keys.record(seq, id).to_vec())
    }

    fn decode_row(&self, row: fjall::Guard) -> Result<Record, StoreError> {
        let value: UserValue = row.value().map_err(|error| from_fjall(self.dir, error))?;
        self.decode(&value)
    }

    fn decode(&self, value: &[u8]) -> Result<Record, StoreError> {
        Record::decode(value).map_err(|error| unreadable(self.dir, format!("room {:?}: {error}", self.room)))
    }

    fn missing(&self, from: u64, to: u64) -> StoreError {
        StoreError::Damaged { path: self.dir.to_owned(), room: self.room.to_owned(), from, to, rooms: 1 }
    }

    fn damaged_row(&self, what: &str) -> StoreError {
        let message =
            format!("room {:?}: {what} is missing or damaged; restore the directory from a backup", self.room);
        unreadable(self.dir, message)
    }
}
