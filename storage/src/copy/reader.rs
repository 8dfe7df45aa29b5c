//! The thread of a copy that reads the source.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use super::{CALL_RECORDS, CopyError, PAGE_ROOMS, in_parallel};
use crate::seqs::BLOCK;
use crate::{Append, Store};

/// Fewer open rooms are not enough to fill a call with blocks.
const OPEN_MIN: usize = (CALL_RECORDS / BLOCK) as usize;

/// What of a room is still to be read: `next..=last`.
pub(super) struct Log {
    room: Arc<str>,
    epoch: u64,
    next: u64,
    last: u64,
}

impl Log {
    /// All of a room of the source that comes after the message `seq`.
    pub(super) fn after(from: &dyn Store, room: &Arc<str>, seq: u64) -> Result<Self, CopyError> {
        let state = from.open_log(room).map_err(CopyError::Source)?;
        Ok(Self { room: room.clone(), epoch: state.epoch, next: seq + 1, last: state.last_seq })
    }

    fn is_read(&self) -> bool {
        self.next > self.last
    }
}

/// What was read together.
#[derive(Default)]
pub(super) struct Call {
    pub(super) appends: Vec<Append>,
    /// Messages that were passed over in rooms opened for this call.
    pub(super) already: u64,
    /// Rooms that need nothing after this call.
    pub(super) complete: Vec<Arc<str>>,
}

pub(super) struct Reader<'a, Begin> {
    from: &'a dyn Store,
    begin: Begin,
    /// The last room of the pages so far.
    listed: Option<Arc<str>>,
    has_more: bool,
    open: VecDeque<Log>,
}

impl<'a, Begin: Fn(&Arc<str>) -> Result<Log, CopyError> + Sync> Reader<'a, Begin> {
    pub(super) fn new(from: &'a dyn Store, begin: Begin) -> Self {
        Self { from, begin, listed: None, has_more: true, open: VecDeque::new() }
    }

    /// Sends calls until all is read, something fails or nobody takes them.
    pub(super) fn run(mut self, calls: &SyncSender<Result<Call, CopyError>>) {
        while let Some(call) = self.next_call().transpose() {
            let is_over = call.is_err();
            if calls.send(call).is_err() || is_over {
                return;
            }
        }
    }

    fn next_call(&mut self) -> Result<Option<Call>, CopyError> {
        let mut call = Call::default();
        if self.has_more && self.open.len() < OPEN_MIN {
            self.open_page(&mut call)?;
        }
        if !self.has_more && self.open.is_empty() {
            return Ok(None);
        }
        let pieces = self.cut_pieces();
        let from = self.from;
        call.appends = in_parallel(&pieces, |(log, end)| read(from, log, *end))?;
        for (mut log, end) in pieces {
            log.next = end + 1;
            if log.is_read() {
                call.complete.push(log.room);
            } else {
                self.open.push_back(log);
            }
        }
        Ok(Some(call))
    }

    fn open_page(&mut self, call: &mut Call) -> Result<(), CopyError> {
        let rooms = self.from.rooms(self.listed.as_deref(), PAGE_ROOMS).map_err(CopyError::Source)?;
        self.has_more = !rooms.is_empty();
        for log in in_parallel(&rooms, &self.begin)? {
            call.already += log.next - 1;
            if log.is_read() {
                call.complete.push(log.room);
            } else {
                self.open.push_back(log);
            }
        }
        self.listed = rooms.last().cloned();
        Ok(())
    }

    /// Takes rooms, each with the last seq to read now, until they fill a call: a block of each, or more of few.
    fn cut_pieces(&mut self) -> Vec<(Log, u64)> {
        let share = (CALL_RECORDS / self.open.len().max(1) as u64).max(BLOCK);
        let mut pieces = Vec::new();
        let mut records = 0;
        while records < CALL_RECORDS
            && let Some(log) = self.open.pop_front()
        {
            let block_end = (log.next + share) / BLOCK * BLOCK - 1;
            let end = block_end.min(log.last);
            records += end + 1 - log.next;
            pieces.push((log, end));
        }
        pieces
    }
}

/// The messages of a room up to `end`, without a hole.
fn read(from: &dyn Store, log: &Log, end: u64) -> Result<Append, CopyError> {
    let limit = (end + 1 - log.next) as usize;
    let records = from.read(&log.room, log.next, end, limit).map_err(CopyError::Source)?;
    let first = records.first().map_or(end + 1, |record| record.seq);
    if first != log.next || records.len() != limit {
        return Err(CopyError::Expired { room: log.room.clone(), first });
    }
    Ok(Append { room: log.room.clone(), epoch: log.epoch, records: records.into_iter().map(Arc::new).collect() })
}
