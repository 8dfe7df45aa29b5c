//! Opening a log: its facts, its end, and the fence behind it.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::engine::{Engine, GONE, Mark};
use super::lease::applied;
use super::link::{Deadline, Failure, Wired};
use super::{bucket, slot_of};
use crate::{LogState, StoreError};

/// Records behind a log's end that a former owner may have had under way: one append's.
const LATE_RECORDS_MAX: u64 = 1024;
/// Clocks of this process and of the database may differ by so much, milliseconds.
const CLOCKS_MS: u64 = 60_000;

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
        self.take_slot(slot_of(room), deadline).await?;
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
            let is_expired = last_seq == 0 && mark.expires_ms <= (wall_ms() + CLOCKS_MS) as i64;
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
            expires_ms = GONE;
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
            .until(deadline, async |Wired { session, statements }| {
                let result = session.execute_unpaged(&statements.slot_term, (key,)).await?;
                let rows = result.into_rows_result().map_err(Failure::new)?;
                let row = rows.maybe_first_row::<(i32, Option<i64>)>().map_err(Failure::new)?;
                let stored = row.and_then(|(_, term)| term);
                if stored.is_some_and(|stored| stored >= term) {
                    // Ours from an earlier try; a later one shows as a lost lease.
                    return Ok(());
                }
                let result = session.execute_unpaged(&statements.take_slot, (term, key, stored)).await?;
                if applied(result)? { Ok(()) } else { Err(Failure::new("the slot changed its owner meanwhile")) }
            })
            .await?;
        self.slots.borrow_mut().insert(slot);
        Ok(())
    }

    async fn facts(&self, room: &str, deadline: Deadline) -> Result<Option<Facts>, StoreError> {
        type Row = (Option<i64>, Option<i64>, Option<i64>, Option<i64>, Option<i64>);
        let key = (slot_of(room) as i32, room);
        self.link
            .until(deadline, async |Wired { session, statements }| {
                let result = session.execute_unpaged(&statements.facts, key).await?;
                let rows = result.into_rows_result().map_err(Failure::new)?;
                let Some((Some(epoch), fenced, seq, id, expires_ms)) =
                    rows.maybe_first_row::<Row>().map_err(Failure::new)?
                else {
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
                .until(deadline, async |Wired { session, statements }| {
                    let result = session.execute_unpaged(&statements.last_message, (room, number as i64)).await?;
                    let rows = result.into_rows_result().map_err(Failure::new)?;
                    rows.maybe_first_row::<(i64, i64)>().map_err(Failure::new)
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
        let key = slot_of(room) as i32;
        self.shadow(room, state, deadline).await?;
        self.link
            .until(deadline, async |Wired { session, statements }| {
                let (timestamp, term) = (self.lease.timestamp(), self.lease.term);
                let values = (timestamp, term, state.last_seq as i64, state.last_id as i64, expires_ms, key, room);
                session.execute_unpaged(&statements.fence, values).await?;
                Ok(())
            })
            .await
    }

    /// Deletes, just below this term's timestamps, everything behind the end.
    async fn shadow(&self, room: &str, state: LogState, deadline: Deadline) -> Result<(), StoreError> {
        let (first, last) = (bucket(state.last_seq), bucket(state.last_seq + LATE_RECORDS_MAX));
        let below = self.lease.term - 1;
        for number in first..=last {
            self.link
                .until(deadline, async |Wired { session, statements }| {
                    let values = (below, room, number as i64, state.last_id as i64);
                    session.execute_unpaged(&statements.delete_after, values).await?;
                    Ok(())
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
        let key = slot_of(room) as i32;
        let is_applied = self
            .link
            .until(deadline, async |Wired { session, statements }| {
                let values = (epoch as i64, created_ms as i64, key, room, self.lease.term);
                applied(session.execute_unpaged(&statements.make_log, values).await?)
            })
            .await?;
        self.lease.hold(deadline).await?;
        if !is_applied {
            return Err(StoreError::Unavailable { message: "a log could not be made".into() });
        }
        self.fence(room, LogState { epoch, last_seq: 0, last_id: 0 }, GONE, deadline).await
    }

    async fn new_epoch(&self, room: &str, deadline: Deadline) -> Result<u64, StoreError> {
        let (key, epoch) = (slot_of(room) as i32, fastrand::u64(1..));
        let is_applied = self
            .link
            .until(deadline, async |Wired { session, statements }| {
                let values = (epoch as i64, key, room, self.lease.term);
                applied(session.execute_unpaged(&statements.new_epoch, values).await?)
            })
            .await?;
        if is_applied {
            return Ok(epoch);
        }
        self.lease.hold(deadline).await?;
        Err(StoreError::Unavailable { message: "a log's epoch could not be changed".into() })
    }
}

fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
