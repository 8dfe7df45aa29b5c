//! Between shards and the store: one thread that appends, others that read.
//!
//! Group commit: the append thread takes everything that waits, from all shards, into one durable write. An append
//! whose outcome is unknown is retried unchanged before anything else; shards hear only of what is durable.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use flume::{Receiver, Sender};
use protocol::snowflake;
use storage::{Append, LogState, Record, Store, StoreError};
use uring::Wake;

use crate::dedupe::{WINDOW_MESSAGES, WINDOW_MS};
use crate::shard::{StoreReply, StoreRequest};

/// Batches of requests that may wait for a thread; past that they stay in the shards' outboxes.
const JOBS_MAX: usize = 1024;
/// Threads that read.
const READERS: usize = 2;
/// Durable writes begin at least this far apart: each costs a fixed 0.1 ms of CPU, and what comes meanwhile shares it.
const COMMIT_EVERY: Duration = Duration::from_millis(3);
/// Ids are reserved this far ahead, milliseconds.
const RESERVE_MS: u64 = 60_000;
/// First and longest wait before a failed append is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));
/// Records read at once while the dedupe window is rebuilt.
const WINDOW_CHUNK: u64 = 4096;

/// The requests of one turn of one shard.
struct Job {
    shard: usize,
    requests: Vec<StoreRequest>,
}

/// Where a shard's replies go. Their number is bounded by its requests.
#[derive(Clone)]
pub struct ReplyTo {
    pub replies: Sender<Vec<StoreReply>>,
    pub wake: Wake,
}

impl ReplyTo {
    fn send(&self, replies: Vec<StoreReply>) {
        // A shard that has ended needs no replies.
        if self.replies.send(replies).is_ok() {
            self.wake.wake();
        }
    }
}

/// A shard's way to the storage threads; cheap to clone.
#[derive(Clone)]
pub struct Persist {
    appends: Sender<Job>,
    reads: Sender<Job>,
}

impl Persist {
    /// Hands over what fits; the rest stays in `requests`, in order.
    pub fn send(&self, shard: usize, requests: &mut Vec<StoreRequest>) {
        let (appends, reads): (Vec<_>, Vec<_>) =
            requests.drain(..).partition(|request| matches!(request, StoreRequest::Append(_)));
        for (lane, batch) in [(&self.appends, appends), (&self.reads, reads)] {
            if batch.is_empty() {
                continue;
            }
            if let Err(flume::TrySendError::Full(job) | flume::TrySendError::Disconnected(job)) =
                lane.try_send(Job { shard, requests: batch })
            {
                requests.extend(job.requests);
            }
        }
    }
}

/// The storage threads. They end when every [`Persist`] is dropped; [`Threads::join`] waits for that.
pub struct Threads {
    handles: Vec<JoinHandle<()>>,
    give_up: Arc<AtomicBool>,
}

impl Threads {
    /// Waits until everything that was handed over is durable and answered, or after [`Threads::give_up`] was dropped.
    pub fn join(self) {
        for handle in self.handles {
            if handle.join().is_err() {
                eprintln!("relay: a storage thread failed");
            }
        }
    }

    /// Failing appends are not retried any more: the relay is about to end without having acked them.
    pub fn give_up(&self) {
        self.give_up.store(true, Ordering::Relaxed);
    }
}

/// Starts the storage threads. `replies` are the shards', by number. Returns the time up to which ids may have been
/// given out before.
pub fn start(
    store: &Arc<dyn Store>,
    tail_max: usize,
    replies: &[ReplyTo],
) -> Result<(Persist, Threads, u64), StoreError> {
    let ids_after_ms = store.reserved_ids()?;
    let (appends, append_jobs) = flume::bounded(JOBS_MAX);
    let (reads, read_jobs) = flume::bounded(JOBS_MAX);
    let give_up = Arc::new(AtomicBool::new(false));
    let spawn = |name: String, work: Box<dyn FnOnce() + Send>| {
        thread::Builder::new().name(name).spawn(work).expect("a thread can be started")
    };
    let mut handles = Vec::new();
    let appender = Appender {
        store: store.clone(),
        replies: replies.to_vec(),
        reserved_ms: ids_after_ms,
        give_up: give_up.clone(),
    };
    handles.push(spawn("append".into(), Box::new(move || appender.run(&append_jobs))));
    for n in 0..READERS {
        let reader = Reader { store: store.clone(), replies: replies.to_vec(), tail_max };
        let jobs = read_jobs.clone();
        handles.push(spawn(format!("read-{n}"), Box::new(move || reader.run(&jobs))));
    }
    Ok((Persist { appends, reads }, Threads { handles, give_up }, ids_after_ms))
}

/// The append thread.
struct Appender {
    store: Arc<dyn Store>,
    replies: Vec<ReplyTo>,
    reserved_ms: u64,
    give_up: Arc<AtomicBool>,
}

impl Appender {
    fn run(mut self, jobs: &Receiver<Job>) {
        let mut last = Instant::now();
        while let Ok(first) = jobs.recv() {
            thread::sleep(COMMIT_EVERY.saturating_sub(last.elapsed()));
            last = Instant::now();
            let mut appends = Vec::new();
            let mut shards = Vec::new();
            for job in std::iter::once(first).chain(jobs.try_iter()) {
                for request in job.requests {
                    if let StoreRequest::Append(append) = request {
                        appends.push(append);
                        shards.push(job.shard);
                    }
                }
            }
            if !self.append(&appends) {
                return;
            }
            let mut stored: Vec<Vec<StoreReply>> = self.replies.iter().map(|_| Vec::new()).collect();
            for (append, shard) in appends.into_iter().zip(shards) {
                stored[shard].push(StoreReply::Appended { room: append.room });
            }
            for (to, batch) in self.replies.iter().zip(stored) {
                if !batch.is_empty() {
                    to.send(batch);
                }
            }
        }
    }

    /// Returns when all of it is durable; false when it was given up.
    fn append(&mut self, appends: &[Append]) -> bool {
        let mut wait = RETRY.0;
        loop {
            match self.reserve(appends).and_then(|()| self.store.append(appends)) {
                Ok(()) => return true,
                Err(error) if self.give_up.load(Ordering::Relaxed) => {
                    eprintln!("relay: stopped with unsaved messages, none of them acked: {error}");
                    return false;
                }
                Err(error) => {
                    eprintln!("relay: storage: {error}; trying again in {} ms", wait.as_millis());
                    thread::sleep(wait);
                    wait = (wait * 2).min(RETRY.1);
                }
            }
        }
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

/// A read thread.
struct Reader {
    store: Arc<dyn Store>,
    replies: Vec<ReplyTo>,
    tail_max: usize,
}

impl Reader {
    fn run(self, jobs: &Receiver<Job>) {
        while let Ok(job) = jobs.recv() {
            let replies = job.requests.into_iter().filter_map(|request| self.read(request)).collect();
            self.replies[job.shard].send(replies);
        }
    }

    fn read(&self, request: StoreRequest) -> Option<StoreReply> {
        let told = |error: StoreError| eprintln!("relay: storage: {error}");
        match request {
            StoreRequest::Open { room } => {
                let log = open(&*self.store, &room, self.tail_max, wall_ms()).map_err(told).ok();
                Some(StoreReply::Opened { room, log })
            }
            StoreRequest::Read { room, first, last } => {
                let limit = (last - first + 1) as usize;
                let records = self.store.read(&room, first, last, limit).map_err(told).ok();
                Some(StoreReply::Read { room, first, last, records: records.map(shared) })
            }
            StoreRequest::Append(_) => None,
        }
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

/// Milliseconds since 1970.
pub fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
