//! The append thread: group commit, or one append after the other to an engine that takes many at once.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use flume::Receiver;
use protocol::snowflake;
use storage::{Append, Concurrent, Store, StoreError};

use super::Shared;
use crate::shard::StoreReply;

/// Durable writes begin at least this far apart: each costs a fixed 0.1 ms of CPU, and what comes meanwhile shares it.
const COMMIT_EVERY: Duration = Duration::from_millis(3);
/// Ids are reserved this far ahead, milliseconds.
const RESERVE_MS: u64 = 60_000;
/// First and longest wait before something that failed is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// The appends of one turn of one shard, and when they were handed over.
pub(super) struct Batch {
    pub shard: usize,
    pub appends: Vec<Append>,
    pub since: Instant,
}

/// What the append thread owns.
pub(super) struct Appender {
    store: Arc<dyn Store>,
    shared: Arc<Shared>,
    reserved_ms: u64,
}

impl Appender {
    /// Ids up to `reserved_ms` are reserved already.
    pub(super) fn new(store: Arc<dyn Store>, shared: Arc<Shared>, reserved_ms: u64) -> Self {
        Self { store, shared, reserved_ms }
    }

    /// Until nobody can hand over more, or the relay gives up.
    pub(super) fn run(mut self, jobs: &Receiver<Batch>) {
        let store = self.store.clone();
        match store.concurrent() {
            Some(concurrent) => self.submit(concurrent, jobs),
            None => self.commit(jobs),
        }
    }

    /// Takes everything that waits into one durable write.
    fn commit(&mut self, jobs: &Receiver<Batch>) {
        let mut last = Instant::now();
        while let Ok(first) = jobs.recv() {
            thread::sleep(COMMIT_EVERY.saturating_sub(last.elapsed()));
            last = Instant::now();
            let since = first.since;
            let (mut appends, mut shards) = (Vec::new(), Vec::new());
            for mut job in std::iter::once(first).chain(jobs.try_iter()) {
                shards.extend(job.appends.iter().map(|_| job.shard));
                appends.append(&mut job.appends);
            }
            let flight = self.shared.counts.begin(since, appends.len());
            let write = |this: &mut Self| this.reserve(&appends).and_then(|()| this.store.append(&appends));
            if !self.persevere(write) {
                return;
            }
            self.shared.counts.end(flight, appends.iter().map(|append| append.records.len()).sum());
            let mut stored: Vec<Vec<StoreReply>> = self.shared.replies.iter().map(|_| Vec::new()).collect();
            for (append, shard) in appends.into_iter().zip(shards) {
                stored[shard].push(StoreReply::Appended { room: append.room });
            }
            for (to, batch) in self.shared.replies.iter().zip(stored).filter(|(_, batch)| !batch.is_empty()) {
                to.send(batch);
            }
        }
    }

    /// Hands each append to the engine, which tries for itself and tells the shard; no room waits for another.
    fn submit(&mut self, store: &dyn Concurrent, jobs: &Receiver<Batch>) {
        while let Ok(Batch { shard, appends, since }) = jobs.recv() {
            let flights: Vec<u64> = appends.iter().map(|_| self.shared.counts.begin(since, 1)).collect();
            if !self.persevere(|this| this.reserve(&appends)) {
                return;
            }
            for (append, flight) in appends.into_iter().zip(flights) {
                let (shared, room, records) = (self.shared.clone(), append.room.clone(), append.records.len());
                let done = move |result| match result {
                    Ok(()) => {
                        shared.counts.end(flight, records);
                        shared.replies[shard].send(vec![StoreReply::Appended { room }]);
                    }
                    Err(error) => shared.lose(error),
                };
                store.submit(append, Box::new(done));
            }
        }
    }

    /// Repeats it until it is done; false when the relay gave up.
    fn persevere(&mut self, work: impl Fn(&mut Self) -> Result<(), StoreError>) -> bool {
        let mut wait = RETRY.0;
        while let Err(error) = work(self) {
            if self.shared.give_up.load(Ordering::Relaxed) {
                self.shared.complain(&error, "");
                return false;
            }
            self.shared.complain(&error, &format!("; trying again in {} ms", wait.as_millis()));
            thread::sleep(wait);
            wait = (wait * 2).min(RETRY.1);
        }
        true
    }

    /// Makes sure that no id is stored whose time was not reserved before: after a restart, ids go on later.
    fn reserve(&mut self, appends: &[Append]) -> Result<(), StoreError> {
        let last_id = appends.iter().filter_map(|append| append.records.last()).map(|record| record.id).max();
        let last_ms = last_id.map_or(0, snowflake::time_ms);
        if last_ms > self.reserved_ms {
            self.store.reserve_ids(last_ms + RESERVE_MS)?;
            self.reserved_ms = last_ms + RESERVE_MS;
        }
        Ok(())
    }
}
