//! The read threads: logs that are opened, and records that the tails do not have any more.

use std::sync::Arc;
use std::time::{Duration, Instant};

use flume::Receiver;
use storage::{LogState, Record, Store, StoreError};

use super::{Shared, wall_ms};
use crate::dedupe::{WINDOW_MESSAGES, WINDOW_MS};
use crate::shard::{StoreReply, StoreRequest};

/// What waited longer for a thread is answered as failed without being tried, so that all that waits while a database
/// is gone is answered within seconds.
const WAIT_MAX: Duration = Duration::from_secs(3);
/// Records read at once while the dedupe window is rebuilt.
const WINDOW_CHUNK: u64 = 4096;

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
                let limit = (last - first + 1) as usize;
                let records = self.attempt(is_late, || self.store.read(&room, first, last, limit));
                Some(StoreReply::Read { room, first, last, records: records.map(shared) })
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

/// A log's state, and its newest records: enough for the tail and for the dedupe window.
pub fn open(
    store: &dyn Store,
    room: &str,
    tail_max: usize,
    now_ms: u64,
) -> Result<(LogState, Vec<Arc<Record>>), StoreError> {
    let state = store.open_log(room)?;
    let mut first = (state.last_seq + 1).saturating_sub(tail_max as u64).max(1);
    let mut recent = store.read(room, first, state.last_seq, tail_max)?;
    let window_first = (state.last_seq + 1).saturating_sub(WINDOW_MESSAGES).max(1);
    while first > window_first && recent.first().is_some_and(|oldest| oldest.time_ms + WINDOW_MS > now_ms) {
        let from = first.saturating_sub(WINDOW_CHUNK).max(window_first);
        let mut older = store.read(room, from, first - 1, (first - from) as usize)?;
        older.append(&mut recent);
        (first, recent) = (from, older);
    }
    Ok((state, shared(recent)))
}

fn shared(records: Vec<Record>) -> Vec<Arc<Record>> {
    records.into_iter().map(Arc::new).collect()
}
