//! The append thread: group commit, or one append after the other to an engine that takes many at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use flume::{Receiver, RecvTimeoutError};
use protocol::snowflake;
use storage::{Append, Concurrent, Store, StoreError};

use super::reservation::{RENEW_MS, Reservation};
use super::{Shared, wall_ms};
use crate::shard::StoreReply;

/// Durable writes begin at least this far apart: each costs a fixed 0.1 ms of CPU, and what comes meanwhile shares it.
const COMMIT_EVERY: Duration = Duration::from_millis(3);
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
    ids: Reservation,
}

impl Appender {
    /// Ids up to `reserved_ms` are reserved already.
    pub(super) fn new(store: Arc<dyn Store>, shared: Arc<Shared>, reserved_ms: u64) -> Self {
        Self { store, shared, ids: Reservation::new(reserved_ms) }
    }

    /// Until nobody can hand over more, or the relay gives up. What was reserved and not used is given back.
    pub(super) fn run(mut self, jobs: &Receiver<Batch>) {
        let store = self.store.clone();
        match store.concurrent() {
            Some(concurrent) => self.submit(concurrent, jobs),
            None => self.commit(jobs),
        }
        if let Err(error) = store.release_ids(self.ids.used_ms()) {
            self.shared.complain(&error, "; ids will go on up to three seconds ahead of the clock");
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
            self.ids.covers(last_ms(&appends));
            let renewal = self.ids.renewal(wall_ms());
            let write = |this: &Self| match renewal {
                Some(until_ms) => this.store.append_reserving(&appends, until_ms),
                None => this.store.append(&appends),
            };
            if !self.persevere(write) {
                return;
            }
            self.ids.renewed(renewal.unwrap_or(0));
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

    /// Hands each append to the engine, which tries for itself and tells the shard; no room waits for another. Ids are
    /// reserved ahead, whether or not there are any appends, so that these hardly ever wait for that.
    fn submit(&mut self, store: &dyn Concurrent, jobs: &Receiver<Batch>) {
        let ahead = Ahead::default();
        loop {
            self.ids.renewed(ahead.reserved_ms.load(Ordering::Acquire));
            if let Some(until_ms) = self.ids.renewal(wall_ms()) {
                ahead.reserve(store, until_ms);
            }
            match jobs.recv_timeout(Duration::from_millis(RENEW_MS / 2)) {
                Ok(batch) => {
                    if !self.submit_one(store, batch, &ahead) {
                        return;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// False when the relay gave up.
    fn submit_one(&mut self, store: &dyn Concurrent, batch: Batch, ahead: &Ahead) -> bool {
        let Batch { shard, appends, since } = batch;
        let flights: Vec<u64> = appends.iter().map(|_| self.shared.counts.begin(since, 1)).collect();
        self.ids.renewed(ahead.reserved_ms.load(Ordering::Acquire));
        if !self.ids.covers(last_ms(&appends)) {
            let until_ms = self.ids.renewal(wall_ms()).unwrap_or(0);
            if !self.persevere(|this| this.store.reserve_ids(until_ms)) {
                return false;
            }
            self.ids.renewed(until_ms);
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
        true
    }

    /// Repeats it until it is done; false when the relay gave up.
    fn persevere(&self, work: impl Fn(&Self) -> Result<(), StoreError>) -> bool {
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
}

/// The latest time of the ids of these appends.
fn last_ms(appends: &[Append]) -> u64 {
    let ids = appends.iter().filter_map(|append| append.records.last()).map(|record| record.id);
    ids.max().map_or(0, snowflake::time_ms)
}

/// Reservations that an engine makes in the background, one at a time.
#[derive(Default)]
struct Ahead {
    reserved_ms: Arc<AtomicU64>,
    under_way: Arc<AtomicBool>,
}

impl Ahead {
    /// Begins one, unless one is under way. One that fails is followed by the next.
    fn reserve(&self, store: &dyn Concurrent, until_ms: u64) {
        if self.under_way.swap(true, Ordering::AcqRel) {
            return;
        }
        let (reserved_ms, under_way) = (self.reserved_ms.clone(), self.under_way.clone());
        let done = move |outcome: Result<(), StoreError>| {
            if outcome.is_ok() {
                reserved_ms.fetch_max(until_ms, Ordering::AcqRel);
            }
            under_way.store(false, Ordering::Release);
        };
        store.reserve_ahead(until_ms, Box::new(done));
    }
}
