//! Reading a log: the newest messages, and those before and after any place, across buckets.

use std::sync::Arc;

use protocol::snowflake;
use scylla::statement::prepared::PreparedStatement;

use super::engine::{Engine, soon};
use super::link::{Deadline, Failure};
use super::statements::Statements;
use crate::seqs::{block, block_start, bucket, first_hole, is_nearer_end};
use crate::{LogState, Record, SLOTS, StoreError, StoredKey, room_slot};

/// Messages that are fetched at once: with the largest bodies a few megabytes.
const PAGE: u64 = 512;
/// Keys that are fetched at once.
const KEYS_PAGE: i32 = 4096;
/// Slots that are looked through at once for rooms.
const AT_ONCE: u32 = 64;

impl Engine {
    /// The records `first..=last` as far as they exist, at most `limit`.
    pub async fn read(
        &self,
        room: &Arc<str>,
        first: u64,
        last: u64,
        limit: usize,
        deadline: Deadline,
    ) -> Result<Vec<Record>, StoreError> {
        let state = self.open(room, deadline).await?.state;
        let first = first.max(1);
        let last = last.min(state.last_seq).min(first.saturating_add(limit as u64).saturating_sub(1));
        if first > last || limit == 0 {
            return Ok(Vec::new());
        }
        self.range(room, first, last, state, deadline).await
    }

    /// The records `first..=last`, which lie inside the log: from the index or from its end, whichever is nearer.
    pub async fn range(
        &self,
        room: &str,
        first: u64,
        last: u64,
        state: LogState,
        deadline: Deadline,
    ) -> Result<Vec<Record>, StoreError> {
        let mut records = if is_nearer_end(first, last, state.last_seq) {
            self.downwards(room, first, last, state, deadline).await?
        } else {
            self.upwards(room, first, last, deadline).await?
        };
        let begin = self.kept_begin(room, &records, first, last)?;
        Ok(records.split_off(begin))
    }

    async fn upwards(&self, room: &str, first: u64, last: u64, deadline: Deadline) -> Result<Vec<Record>, StoreError> {
        let mut records = Vec::new();
        let mut from = self.block_id(room, first, deadline).await?;
        let mut next = block_start(first);
        for number in bucket(first)..=bucket(last) {
            loop {
                let limit = (last + 1).saturating_sub(next).clamp(1, PAGE);
                let page = self.page(room, number, (from, limit), |s| &s.messages_from, deadline).await?;
                let is_over = (page.len() as u64) < limit;
                if let Some(end) = page.last() {
                    (from, next) = (end.id as i64 + 1, end.seq + 1);
                }
                records.extend(page.into_iter().filter(|record| (first..=last).contains(&record.seq)));
                if is_over || next > last {
                    break;
                }
            }
            from = i64::MIN;
        }
        Ok(records)
    }

    async fn downwards(
        &self,
        room: &str,
        first: u64,
        last: u64,
        state: LogState,
        deadline: Deadline,
    ) -> Result<Vec<Record>, StoreError> {
        let mut records = Vec::new();
        let (mut from, mut next) = (state.last_id as i64, state.last_seq);
        for number in (bucket(first)..=bucket(state.last_seq)).rev() {
            loop {
                let limit = (next + 1).saturating_sub(first).clamp(1, PAGE);
                let page = self.page(room, number, (from, limit), |s| &s.messages_down_from, deadline).await?;
                let is_over = (page.len() as u64) < limit;
                if let Some(end) = page.last() {
                    (from, next) = (end.id as i64 - 1, end.seq.saturating_sub(1));
                }
                records.extend(page.into_iter().filter(|record| (first..=last).contains(&record.seq)));
                if is_over || next < first {
                    break;
                }
            }
            from = i64::MAX;
        }
        records.reverse();
        Ok(records)
    }

    /// At most `limit` messages of a bucket, from an id on.
    async fn page(
        &self,
        room: &str,
        bucket: u64,
        (from, limit): (i64, u64),
        statement: impl Fn(&Statements) -> &PreparedStatement,
        deadline: Deadline,
    ) -> Result<Vec<Record>, StoreError> {
        self.link
            .until(deadline, async |wired| {
                let values = (room, bucket as i64, from, limit as i32);
                let rows = wired.rows(statement(&wired.statements), values).await?;
                let mut records = Vec::with_capacity(rows.rows_num());
                for row in rows.rows::<(&[u8],)>().map_err(Failure::new)? {
                    let (bytes,) = row.map_err(Failure::new)?;
                    records.push(Record::decode(bytes).map_err(|error| self.unreadable(room, &error))?);
                }
                Ok(records)
            })
            .await
    }

    /// The keys of the messages from `first` on that were taken after `since_ms`, ascending. None when some of these may
    /// have been stored without their keys beside them.
    pub async fn keys(
        &self,
        room: &Arc<str>,
        first: u64,
        since_ms: u64,
        deadline: Deadline,
    ) -> Result<Option<Vec<StoredKey>>, StoreError> {
        if self.keys_since_ms > since_ms {
            return Ok(None);
        }
        let state = self.open(room, deadline).await?.state;
        let (first, mut from) = (first.max(1), state.last_id as i64);
        let mut keys = Vec::new();
        'log: for number in (bucket(first)..=bucket(state.last_seq)).rev() {
            loop {
                let page = self.keys_page(room, number, from, deadline).await?;
                for &(id, seq, key) in &page {
                    // An id's time is not before that of its message.
                    if seq < first || snowflake::time_ms(id) <= since_ms {
                        break 'log;
                    }
                    keys.extend(key);
                    from = id as i64 - 1;
                }
                if page.len() < KEYS_PAGE as usize {
                    break;
                }
            }
            from = i64::MAX;
        }
        keys.reverse();
        Ok(Some(keys))
    }

    /// Id, seq and key of messages of a bucket, from an id downwards.
    async fn keys_page(
        &self,
        room: &str,
        bucket: u64,
        from: i64,
        deadline: Deadline,
    ) -> Result<Vec<(u64, u64, Option<StoredKey>)>, StoreError> {
        self.link
            .until(deadline, async |wired| {
                let rows = wired.rows(&wired.statements.keys_down_from, (room, bucket as i64, from, KEYS_PAGE)).await?;
                let mut page = Vec::with_capacity(rows.rows_num());
                for row in rows.rows::<(i64, i64, Option<&[u8]>)>().map_err(Failure::new)? {
                    let (id, seq, key) = row.map_err(Failure::new)?;
                    let (id, seq) = (id as u64, seq as u64);
                    let key = key.map(|key| StoredKey::decode(seq, key)).transpose();
                    let damaged =
                        |what| StoreError::BadRecord { message: format!("the key of message {seq} is {what}") };
                    page.push((id, seq, key.map_err(|what| self.unreadable(room, &damaged(what)))?));
                }
                Ok(page)
            })
            .await
    }

    /// The id from which the block of `seq` begins; the least where it is not known, or is that of the bucket.
    async fn block_id(&self, room: &str, seq: u64, deadline: Deadline) -> Result<i64, StoreError> {
        let (place, number) = (bucket(seq), block(seq));
        if bucket(block_start(seq).saturating_sub(1)) != place || number == 0 {
            return Ok(i64::MIN);
        }
        self.link
            .until(deadline, async |wired| {
                let row = wired.row::<(i64,)>(&wired.statements.block, (room, place as i64, number as i64)).await?;
                Ok(row.map_or(i64::MIN, |(id,)| id))
            })
            .await
    }

    /// Where what is kept begins in these records of `first..=last`: behind the last hole. Only what has expired may be
    /// missing, and what lies before it counts as expired, too.
    fn kept_begin(&self, room: &str, records: &[Record], first: u64, last: u64) -> Result<usize, StoreError> {
        let (mut begin, mut next) = (0, first);
        while let Some((from, to)) = first_hole(&records[begin..], next, last) {
            let at = begin + (from - next) as usize;
            // Messages of the hole are not older than the one before it, where that is known.
            let oldest_id = at.checked_sub(1).map_or(0, |before| records[before].id);
            let goes_on = records.get(at).is_none_or(|record| record.seq == to + 1);
            if !goes_on || !self.may_have_expired(oldest_id) {
                return Err(self.damaged(room, from, to));
            }
            (begin, next) = (at, to + 1);
        }
        Ok(begin)
    }

    fn unreadable(&self, room: &str, error: &StoreError) -> StoreError {
        let store = self.options.address.to_string();
        StoreError::Unusable { store, message: format!("room {room:?}: {error}") }
    }

    /// Rooms that have a log, by slot and name, at most `limit` of those after `after`.
    pub async fn rooms(&self, after: Option<&str>, limit: usize) -> Result<Vec<Arc<str>>, StoreError> {
        let mut rooms = Vec::new();
        let mut slot = 0;
        if let Some(after) = after {
            slot = room_slot(after);
            rooms = self.rooms_of(slot, Some(after), limit).await?;
            slot += 1;
        }
        while rooms.len() < limit && slot < SLOTS {
            let slots = slot..(slot + AT_ONCE).min(SLOTS);
            slot = slots.end;
            let left = limit - rooms.len();
            let found = super::all(slots.map(|slot| self.rooms_of(slot, None, left))).await;
            for found in found {
                rooms.extend(found?);
            }
            rooms.truncate(limit);
        }
        Ok(rooms)
    }

    async fn rooms_of(&self, slot: u32, after: Option<&str>, limit: usize) -> Result<Vec<Arc<str>>, StoreError> {
        let (key, limit) = (slot as i32, i32::try_from(limit).unwrap_or(i32::MAX));
        self.link
            .until(Some(soon()), async |wired| {
                let rows = match after {
                    None => wired.rows(&wired.statements.rooms, (key, limit)).await?,
                    Some(after) => wired.rows(&wired.statements.rooms_after, (key, after, limit)).await?,
                };
                let rooms = rows.rows::<(Option<&str>,)>().map_err(Failure::new)?;
                // A slot whose owner is known and that has no log yet is one row without a room.
                rooms
                    .filter_map(|row| row.map(|(room,)| room.map(Arc::from)).transpose())
                    .collect::<Result<_, _>>()
                    .map_err(Failure::new)
            })
            .await
    }
}
