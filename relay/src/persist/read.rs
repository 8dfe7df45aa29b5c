//! The read threads: logs that are opened, and records that the tails do not have any more.

use std::sync::Arc;
use std::time::Duration;

use flume::Receiver;
use storage::{Record, Store, StoreError};

use super::queue::Read;
use super::{Shared, wall_ms};
use crate::dedupe::{WINDOW_MESSAGES, WINDOW_MS};
use crate::room::{Log, Most, Wanted};
use crate::shard::{Found, StoreReply, StoreRequest, Unread};
use crate::sizes::sent_bytes;

/// What waited longer for a thread is answered as failed without being tried, so that all that waits while a database
/// is gone is answered within seconds.
const WAIT_MAX: Duration = Duration::from_secs(3);
/// Messages that may expire between two reads of a log.
const EXPIRING: u64 = 256;
/// Records that are asked for first, before it is known how large they are.
const CHUNK: u64 = 128;

/// What a read thread owns.
pub(super) struct Reader {
    pub store: Arc<dyn Store>,
    pub shared: Arc<Shared>,
    pub tail_max: Most,
}

impl Reader {
    /// Until nobody can ask any more.
    pub(super) fn run(self, reads: &Receiver<()>) {
        while let Ok(()) = reads.recv() {
            let next = self.shared.queue().pop();
            // What was forgotten left its place behind.
            let Some(Read { shard, request, since }) = next else { continue };
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
            StoreRequest::Read { room, wanted, .. } => {
                let found = self.attempt(is_late, || read(&*self.store, &room, wanted)).ok_or(Unread::Failed);
                Some(StoreReply::Read { room, wanted, found })
            }
            StoreRequest::Append(_) | StoreRequest::Forget { .. } => None,
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
pub fn open(store: &dyn Store, room: &str, tail_max: Most, now_ms: u64) -> Result<Log, StoreError> {
    let state = store.open_log(room)?;
    let end = state.last_seq + 1;
    let from_end = |count: u64| end.saturating_sub(count).max(1);
    let (tail, _) = backwards(store, room, (from_end(tail_max.messages as u64), end), tail_max.bytes)?;
    let since_ms = now_ms.saturating_sub(WINDOW_MS);
    let mut keys = store.keys(room, from_end(WINDOW_MESSAGES), since_ms)?;
    // Those of older messages may be used again.
    keys.retain(|stored| stored.time_ms > since_ms);
    Ok(Log { state, tail: shared(tail), keys })
}

/// What a log has of what is wanted; where nothing of that is left, as many of the next ones and some more, lest these
/// expire while they are asked for.
pub fn read(store: &dyn Store, room: &str, wanted: Wanted) -> Result<Found, StoreError> {
    let Wanted { first, last, split, bytes_max } = wanted;
    let (mut records, mut more_before) = backwards(store, room, (first, split), bytes_max)?;
    let (mut after, more_after) = onwards(store, room, (split, last), bytes_max)?;
    if split <= last && after.first().is_none_or(|record| record.seq > split) {
        records.clear();
        more_before = false;
    }
    records.append(&mut after);
    if let Some(begin) = records.first().map(|record| record.seq) {
        let has_expired = !more_before && begin > first;
        return Ok(Found { first: begin, records: shared(records), has_expired, more_before, more_after });
    }
    let end = store.open_log(room)?.last_seq;
    let kept_from = first_kept(store, room, last + 1, end)?;
    let to = end.min(kept_from + (last - first) + EXPIRING);
    let (records, _) = onwards(store, room, (kept_from, to), bytes_max)?;
    let first = records.first().map_or(kept_from, |record| record.seq);
    Ok(Found { first, records: shared(records), has_expired: true, more_before: false, more_after: false })
}

/// The records `first..=last` as far as they exist, and no more bytes than needed; whether there are more. They begin later
/// where something has expired: what lies before it counts as expired, too.
fn onwards(
    store: &dyn Store,
    room: &str,
    (first, last): (u64, u64),
    bytes_max: usize,
) -> Result<(Vec<Record>, bool), StoreError> {
    let (mut found, mut bytes, mut from, mut count) = (Vec::new(), 0, first, CHUNK);
    while from <= last {
        let to = last.min(from + count - 1);
        let part = store.read(room, from, to, (to + 1 - from) as usize)?;
        if part.first().is_none_or(|record| record.seq > from) {
            found.clear();
            bytes = 0;
        }
        for record in part {
            if bytes >= bytes_max {
                return Ok((found, true));
            }
            bytes += sent_bytes(room, &record);
            found.push(record);
        }
        (from, count) = (to + 1, 4 * count);
        if bytes >= bytes_max {
            return Ok((found, from <= last));
        }
        count = count.min(enough(&found, bytes, bytes_max));
    }
    Ok((found, false))
}

/// The records `first..end` as far as they exist, from the last one down and no more bytes than needed, in order; whether
/// there are more.
fn backwards(
    store: &dyn Store,
    room: &str,
    (first, end): (u64, u64),
    bytes_max: usize,
) -> Result<(Vec<Record>, bool), StoreError> {
    let (mut found, mut bytes, mut to, mut count) = (Vec::new(), 0, end, CHUNK);
    while first < to {
        let from = first.max(to.saturating_sub(count));
        let part = store.read(room, from, to - 1, (to - from) as usize)?;
        let is_whole = part.len() as u64 == to - from;
        for record in part.into_iter().rev() {
            if bytes >= bytes_max {
                found.reverse();
                return Ok((found, true));
            }
            bytes += sent_bytes(room, &record);
            found.push(record);
        }
        // What is missing has expired, and so has everything before it.
        if !is_whole || bytes >= bytes_max {
            found.reverse();
            return Ok((found, is_whole && first < from));
        }
        (to, count) = (from, 4 * count);
        count = count.min(enough(&found, bytes, bytes_max));
    }
    found.reverse();
    Ok((found, false))
}

/// How many more records should do, if they are like these.
fn enough(found: &[Record], bytes: usize, bytes_max: usize) -> u64 {
    let each = (bytes / found.len().max(1)).max(1);
    ((bytes_max - bytes) as u64 / each as u64).saturating_add(1).max(CHUNK)
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
