//! The engine for tests: everything in a map, nothing survives the value.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::continuation::already_stored;
use crate::{Append, LogState, Record, Store, StoreError};

/// All logs in memory. Cheap enough for simulations; as strict about the order of appends as any engine.
#[derive(Debug)]
pub struct MemoryStore {
    epoch: u64,
    shelf: Mutex<Shelf>,
}

#[derive(Debug, Default)]
struct Shelf {
    logs: HashMap<Arc<str>, Log>,
    reserved_ms: u64,
}

#[derive(Debug)]
struct Log {
    state: LogState,
    /// Ascending; those that are missing have expired.
    records: Vec<Arc<Record>>,
}

impl Log {
    /// Where the record of this seq, or the next one that is kept, is or would be.
    fn index(&self, seq: u64) -> usize {
        self.records.partition_point(|record| record.seq < seq)
    }

    fn id_at(&self, seq: u64) -> Option<u64> {
        self.records.get(self.index(seq)).filter(|record| record.seq == seq).map(|record| record.id)
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new(fastrand::u64(1..))
    }
}

impl MemoryStore {
    /// An empty store whose logs get this epoch.
    pub fn new(epoch: u64) -> Self {
        Self { epoch, shelf: Mutex::default() }
    }

    /// Forgets these records of a log, as if their time had passed. Its state stays as it is.
    pub fn expire(&self, room: &str, seqs: Range<u64>) {
        if let Some(log) = self.shelf().logs.get_mut(room) {
            let (begin, end) = (log.index(seqs.start), log.index(seqs.end));
            log.records.drain(begin..end);
        }
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for MemoryStore {
    fn open_log(&self, room: &str) -> Result<LogState, StoreError> {
        let empty = LogState { epoch: self.epoch, last_seq: 0, last_id: 0 };
        Ok(self.shelf().logs.get(room).map_or(empty, |log| log.state))
    }

    fn append(&self, appends: &[Append]) -> Result<(), StoreError> {
        let mut shelf = self.shelf();
        let mut skips = Vec::with_capacity(appends.len());
        for append in appends {
            let log = shelf.logs.get(&append.room);
            let state = log.map_or(LogState { epoch: append.epoch, last_seq: 0, last_id: 0 }, |log| log.state);
            skips.push(already_stored(append, state, |seq| Ok(log.and_then(|log| log.id_at(seq))))?);
        }
        for (append, skip) in appends.iter().zip(skips) {
            let Some(last) = append.records.last() else { continue };
            let empty = LogState { epoch: append.epoch, last_seq: 0, last_id: 0 };
            let log =
                shelf.logs.entry(append.room.clone()).or_insert_with(|| Log { state: empty, records: Vec::new() });
            log.records.extend_from_slice(&append.records[skip..]);
            if last.seq > log.state.last_seq {
                (log.state.last_seq, log.state.last_id) = (last.seq, last.id);
            }
        }
        Ok(())
    }

    fn read(&self, room: &str, first: u64, last: u64, limit: usize) -> Result<Vec<Record>, StoreError> {
        let shelf = self.shelf();
        let Some(log) = shelf.logs.get(room) else {
            return Ok(Vec::new());
        };
        // What has expired counts towards the limit, as with engines that look for seqs.
        let last = last.min(first.max(1).saturating_add(limit as u64).saturating_sub(1)).min(log.state.last_seq);
        let (begin, end) = (log.index(first), log.index(last.saturating_add(1)));
        let wanted = log.records.get(begin..end).unwrap_or_default();
        let dense = wanted.iter().rev().zip((0..=last).rev()).take_while(|(record, seq)| record.seq == *seq).count();
        Ok(wanted[wanted.len() - dense..].iter().map(|record| Record::clone(record)).collect())
    }

    fn reserved_ids(&self) -> Result<u64, StoreError> {
        Ok(self.shelf().reserved_ms)
    }

    fn reserve_ids(&self, until_ms: u64) -> Result<(), StoreError> {
        let mut shelf = self.shelf();
        shelf.reserved_ms = shelf.reserved_ms.max(until_ms);
        Ok(())
    }

    fn release_ids(&self, used_ms: u64) -> Result<(), StoreError> {
        let mut shelf = self.shelf();
        shelf.reserved_ms = shelf.reserved_ms.min(used_ms);
        Ok(())
    }

    fn rooms(&self, after: Option<&str>, limit: usize) -> Result<Vec<Arc<str>>, StoreError> {
        let mut rooms: Vec<_> = self.shelf().logs.keys().filter(|room| Some(&***room) > after).cloned().collect();
        rooms.sort_unstable();
        rooms.truncate(limit);
        Ok(rooms)
    }
}
