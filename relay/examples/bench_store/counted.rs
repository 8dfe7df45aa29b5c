//! A store that counts its writes.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use loadgen::latency::Latency;
use storage::{Append, Concurrent, LogState, Metric, Record, Store, StoreError};

/// Another store, and how often and how long it was called to append.
pub struct Counted {
    store: Arc<dyn Store>,
    writes: Mutex<Writes>,
}

/// Calls of [`Store::append`], none for an engine that is [`Concurrent`].
#[derive(Default)]
pub struct Writes {
    pub records: u64,
    pub times: Latency,
}

impl Counted {
    pub fn of(store: Arc<dyn Store>) -> Arc<Self> {
        Arc::new(Self { store, writes: Mutex::default() })
    }

    /// What was counted since the last call.
    pub fn take(&self) -> Writes {
        std::mem::take(&mut *self.writes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn counted(&self, appends: &[Append], write: impl FnOnce() -> Result<(), StoreError>) -> Result<(), StoreError> {
        let began = Instant::now();
        let outcome = write();
        let mut writes = self.writes.lock().unwrap_or_else(PoisonError::into_inner);
        writes.records += appends.iter().map(|append| append.records.len() as u64).sum::<u64>();
        writes.times.record(began.elapsed().as_nanos() as u64);
        outcome
    }
}

impl Store for Counted {
    fn open_log(&self, room: &str) -> Result<LogState, StoreError> {
        self.store.open_log(room)
    }

    fn append(&self, appends: &[Append]) -> Result<(), StoreError> {
        self.counted(appends, || self.store.append(appends))
    }

    fn append_reserving(&self, appends: &[Append], until_ms: u64) -> Result<(), StoreError> {
        self.counted(appends, || self.store.append_reserving(appends, until_ms))
    }

    fn read(&self, room: &str, first: u64, last: u64, limit: usize) -> Result<Vec<Record>, StoreError> {
        self.store.read(room, first, last, limit)
    }

    fn reserved_ids(&self) -> Result<u64, StoreError> {
        self.store.reserved_ids()
    }

    fn reserve_ids(&self, until_ms: u64) -> Result<(), StoreError> {
        self.store.reserve_ids(until_ms)
    }

    fn release_ids(&self, used_ms: u64) -> Result<(), StoreError> {
        self.store.release_ids(used_ms)
    }

    fn rooms(&self, after: Option<&str>, limit: usize) -> Result<Vec<Arc<str>>, StoreError> {
        self.store.rooms(after, limit)
    }

    fn concurrent(&self) -> Option<&dyn Concurrent> {
        self.store.concurrent()
    }

    fn metrics(&self) -> Vec<Metric> {
        self.store.metrics()
    }
}
