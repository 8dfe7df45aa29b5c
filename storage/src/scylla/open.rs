//! Opening a log: its facts, its end, and the fence behind it.

use std::sync::Arc;

use scylla::serialize::row::SerializeRow;
use scylla::statement::prepared::PreparedStatement;

use super::engine::{Engine, GONE, Mark, is_over};
use super::link::{Deadline, Failure};
use super::statements::Statements;
use crate::seqs::bucket;
use crate::{LogState, StoreError, room_slot};

/// Records behind a log's end that a former owner may have had under way: one append's.
const LATE_RECORDS_MAX: u64 = 1024;

/// What is known of a log while it is in use.
#[derive(Debug, Clone, Copy)]
pub struct Known {
    pub state: LogState,
    /// It has its row of facts; without one, rows of messages are a former owner's late ones.
    pub is_made: bool,
}

/// A log's row of facts.
struct Facts {
    epoch: u64,
    fenced: Option<i64>,
    /// Seq 0 when nothing was marked yet.
    mark: Mark,
}

impl Engine {
    /// The state of a log. The first time in this term, what a former owner may still write is shadowed.
    pub async fn open(&self, room: &Arc<str>, deadline: Deadline) -> Result<Known, StoreError> {
        if let Some(known) = self.known.borrow().get(room) {
            return Ok(known);
        }
        self.lease.hold(deadline).await?;
        self.take_slot(room_slot(room), deadline).await?;
        let facts = self.facts(room, deadline).await?;
        let known = match facts {
            None => Known { state: LogState { epoch: self.epoch, last_seq: 0, last_id: 0 }, is_made: false },
            Some(facts) => Known { state: self.open_made(room, facts, deadline).await?, is_made: true },
        };
        self.lease.hold(deadline).await?;
        // Another task may have opened it meanwhile and be ahead of this one.
        if let Some(known) = self.known.borrow().get(room) {
            return Ok(known);
        }
        self.known.borrow_mut().set(room, known);
        Ok(known)
    }

    async fn open_made(&self, room: &Arc<str>, facts: Facts, deadline: Deadline) -> Result<LogState, StoreError> {
        let Facts { epoch, fenced, mark } = facts;
        let (last_seq, last_id) = self.find_end(room, bucket(mark.seq as u64), deadline).await?.unwrap_or((0, 0));
        let mut expires_ms = if last_id == mark.id as u64 { mark.expires_ms } else { self.expires_ms(last_id) };
        // After a loss the mark's id is above that of the last message: a lost one had it.
        let mut state = LogState { epoch, last_seq, last_id: last_id.max(mark.id as u64) };
        let mut is_fenced = fenced == Some(self.lease.term);
        if last_seq < mark.seq as u64 {
            // Older messages may be kept for longer, where the retention was shortened.
            let is_expired = is_over(mark.expires_ms);
            if !is_expired && !self.options.accept_loss {
                return Err(self.damaged(room, last_seq + 1, mark.seq as u64));
            }
            if is_expired {
                state.last_seq = mark.seq as u64;
            }
            if mark.expires_ms != GONE {
                // Whoever has a position in what is gone must see that: the log goes on under another name.
                state.epoch = self.new_epoch(room, deadline).await?;
                is_fenced = false;
            }
            expires_ms = if is_expired || last_seq == 0 { GONE } else { self.expires_ms(last_id) };
        }
        if !is_fenced {
            self.fence(room, state, expires_ms, deadline).await?;
        }
        Ok(state)
    }

    pub fn damaged(&self, room: &str, from: u64, to: u64) -> StoreError {
        let path = self.options.address.to_string().into();
        StoreError::Damaged { path, room: room.to_owned(), from, to, rooms: 1 }
    }

    /// Makes this term the one that may make logs in a slot.
    async fn take_slot(&self, slot: u32, deadline: Deadline) -> Result<(), StoreError> {
        if self.slots.borrow().contains(&slot) {
            return Ok(());
        }
        let (term, key) = (self.lease.term, slot as i32);
        self.link
            .until(deadline, async |wired| {
                let row = wired.row::<(i32, Option<i64>)>(&wired.statements.slot_term, (key,)).await?;
                let stored = row.and_then(|(_, term)| term);
                if stored.is_some_and(|stored| stored >= term) {
                    // Ours from an earlier try; a later one shows as a lost lease.
                    return Ok(());
                }
                let applies = wired.applies(&wired.statements.take_slot, (term, key, stored)).await?;
                if applies { Ok(()) } else { Err(Failure::new("the slot changed its owner meanwhile")) }
            })
            .await?;
        self.slots.borrow_mut().insert(slot);
        Ok(())
    }

    async fn facts(&self, room: &str, deadline: Deadline) -> Result<Option<Facts>, StoreError> {
        type Row = (Option<i64>, Option<i64>, Option<i64>, Option<i64>, Option<i64>);
        let key = (room_slot(room) as i32, room);
        self.link
            .until(deadline, async |wired| {
                let row = wired.row::<Row>(&wired.statements.facts, key).await?;
                let Some((Some(epoch), fenced, seq, id, expires_ms)) = row else {
                    return Ok(None);
                };
                let [seq, id, expires_ms] = [seq, id, expires_ms].map(|number| number.unwrap_or(0));
                Ok(Some(Facts { epoch: epoch as u64, fenced, mark: Mark { seq, id, expires_ms } }))
            })
            .await
    }

    /// Seq and id of the last message, looking from this bucket on: the next one has messages only if it is full, or
    /// its own have expired.
    async fn find_end(&self, room: &str, from: u64, deadline: Deadline) -> Result<Option<(u64, u64)>, StoreError> {
        let mut end = None;
        let mut number = from;
        loop {
            let last = self
                .link
                .until(deadline, async |wired| {
                    wired.row::<(i64, i64)>(&wired.statements.last_message, (room, number as i64)).await
                })
                .await?;
            if let Some((seq, id)) = last {
                end = Some((seq as u64, id as u64));
            }
            let may_go_on = match end {
                Some((seq, _)) => bucket(seq) == number && bucket(seq + 1) > number,
                None => number == from,
            };
            if !may_go_on {
                return Ok(end);
            }
            number += 1;
        }
    }

    /// Shadows what a former owner's requests may still bring behind the end, and notes that this was done.
    async fn fence(&self, room: &str, state: LogState, expires_ms: i64, deadline: Deadline) -> Result<(), StoreError> {
        let key = room_slot(room) as i32;
        self.shadow(room, state, deadline).await?;
        self.link
            .until(deadline, async |wired| {
                let (timestamp, term) = (self.lease.timestamp(), self.lease.term);
                let values = (timestamp, term, state.last_seq as i64, state.last_id as i64, expires_ms, key, room);
                wired.run(&wired.statements.fence, values).await
            })
            .await
    }

    /// Deletes, just below this term's timestamps, everything behind the end.
    async fn shadow(&self, room: &str, state: LogState, deadline: Deadline) -> Result<(), StoreError> {
        let (first, last) = (bucket(state.last_seq), bucket(state.last_seq + LATE_RECORDS_MAX));
        let below = self.lease.term - 1;
        for number in first..=last {
            self.link
                .until(deadline, async |wired| {
                    let values = (below, room, number as i64, state.last_id as i64);
                    wired.run(&wired.statements.delete_after, values).await
                })
                .await?;
        }
        Ok(())
    }

    /// Gives a log that was never written its row of facts, unless another term has its slot now.
    pub async fn make_log(
        &self,
        room: &str,
        epoch: u64,
        created_ms: u64,
        deadline: Deadline,
    ) -> Result<(), StoreError> {
        let values = (epoch as i64, created_ms as i64, room_slot(room) as i32, room, self.lease.term);
        self.in_term(|statements| &statements.make_log, values, deadline).await?;
        self.fence(room, LogState { epoch, last_seq: 0, last_id: 0 }, GONE, deadline).await
    }

    async fn new_epoch(&self, room: &str, deadline: Deadline) -> Result<u64, StoreError> {
        let epoch = fastrand::u64(1..);
        let values = (epoch as i64, room_slot(room) as i32, room, self.lease.term);
        self.in_term(|statements| &statements.new_epoch, values, deadline).await?;
        Ok(epoch)
    }

    /// Carries out a statement under the condition that its slot is this term's.
    async fn in_term(
        &self,
        statement: impl Fn(&Statements) -> &PreparedStatement,
        values: impl SerializeRow + Copy,
        deadline: Deadline,
    ) -> Result<(), StoreError> {
        self.link
            .until(deadline, async |wired| {
                let applies = wired.applies(statement(&wired.statements), values).await?;
                // Where another term has the slot, the lease is lost too, as soon as that was heard.
                self.lease.hold(deadline).await?;
                if applies { Ok(()) } else { Err(Failure::new("another term has the slot of a log")) }
            })
            .await
    }
}
