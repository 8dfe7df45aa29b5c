//! The read threads: logs that are opened, and records that the tails do not have any more.

use std::sync::Arc;
use std::time::{Duration, Instant};

use flume::Receiver;
use storage::{Record, Store, StoreError};

use super::{Shared, wall_ms};
use crate::dedupe::{WINDOW_MESSAGES, WINDOW_MS};
use crate::room::Log;
use crate::shard::{StoreReply, StoreRequest};

/// What waited longer for a thread is answered as failed without being tried, so that all that waits while a database
/// is gone is answered within seconds.
const WAIT_MAX: Duration = Duration::from_secs(3);
/// Messages that may expire between two reads of a log.
const EXPIRING: usize = 256;

/// An open or a read of a shard, and when it was handed over.
pub(super) struct Read {
    pub shard: usize,
    pub request: StoreRequest,
    pub since: Instant,
}

/// What a read thread owns.
pub(super) struct Reader {
    pub store: Arc<dyn Store>,
    pub shared: Arc<Shared>,
    pub tail_max: usize,
}

impl Reader {
    /// Until nobody can ask any more.
    pub(super) fn run(self, reads: &Receiver<Read>) {
        while let Ok(Read { shard, request, since }) = reads.recv() {
            if let Some(reply) = self.answer(request, since.elapsed() > WAIT_MAX) {
                self.shared.replies[shard].send(vec![reply]);
            }
        }
    }

    fn answer(&self, request: StoreRequest, is_late: bool) -> Option<StoreReply> {
        match request {
            StoreRequest::Open { room } => {
                let log = self.attempt(is_late, || open(&*self.store, &room, self.tail_max, wall_ms()));
                Some(StoreReply::Opened { room, log })
            }
            StoreRequest::Read { room, first, last } => {
                let found = self.attempt(is_late, || read(&*self.store, &room, first, last));
                Some(StoreReply::Read { room, first, last, found })
            }
            StoreRequest::Append(_) => None,
        }
    }

    fn attempt<T>(&self, is_late: bool, read: impl FnOnce() -> Result<T, StoreError>) -> Option<T> {
        if is_late {
            self.shared.counts.refused();
            return None;
        }
        let result = read();
        self.shared.counts.read();
        result.map_err(|error| self.shared.complain(&error, "")).ok()
    }
}

/// A log's state, its newest records, and the keys in its dedupe window, as far as they have not expired.
pub fn open(store: &dyn Store, room: &str, tail_max: usize, now_ms: u64) -> Result<Log, StoreError> {
    let state = store.open_log(room)?;
    let from_end = |count: u64| (state.last_seq + 1).saturating_sub(count).max(1);
    let tail = store.read(room, from_end(tail_max as u64), state.last_seq, tail_max)?;
    let since_ms = now_ms.saturating_sub(WINDOW_MS);
    let mut keys = store.keys(room, from_end(WINDOW_MESSAGES), since_ms)?;
    // Those of older messages may be used again.
    keys.retain(|stored| stored.time_ms > since_ms);
    Ok(Log { state, tail: shared(tail), keys })
}

/// The first seq from `first` on that has not expired, and the records from it on: up to `last`, or where nothing of
/// that is left, as many of the next ones and some more, lest these expire while they are asked for.
pub fn read(store: &dyn Store, room: &str, first: u64, last: u64) -> Result<(u64, Vec<Arc<Record>>), StoreError> {
    let count = (last - first + 1) as usize;
    let mut kept_from = first;
    let mut records = store.read(room, first, last, count)?;
    if records.is_empty() {
        let end = store.open_log(room)?.last_seq;
        kept_from = first_kept(store, room, last + 1, end)?;
        records = store.read(room, kept_from, end, count + EXPIRING)?;
    }
    Ok((records.first().map_or(kept_from, |record| record.seq), shared(records)))
}

/// The first seq of `low..=end` that has not expired, `end + 1` when all have: only the beginning of a log expires.
fn first_kept(store: &dyn Store, room: &str, mut low: u64, end: u64) -> Result<u64, StoreError> {
    let mut high = end + 1;
    while low < high {
        let middle = low + (high - low) / 2;
        if store.read(room, middle, middle, 1)?.is_empty() {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(low)
}

fn shared(records: Vec<Record>) -> Vec<Arc<Record>> {
    records.into_iter().map(Arc::new).collect()
}
