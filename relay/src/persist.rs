//! Between shards and the store: one thread that takes appends, others that read.
//!
//! An engine that writes for all logs at once gets group commit: the append thread takes everything that waits, from all
//! shards, into one durable write. An engine whose logs do not wait for each other is handed each append at once, and
//! says by itself when it is durable. An append whose outcome is unknown is repeated unchanged; shards hear only of what
//! is durable. Reads are answered within seconds whatever the store does: what waited too long is refused untried.
//!
//! The queues hold no more than the shards may ask for: an append a room, and the reads of commands that wait. Opens go
//! before other reads, these take turns by connection, and nothing is read for connections that have ended.

mod append;
mod counts;
mod queue;
mod read;
mod reservation;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use flume::{Receiver, RecvTimeoutError, Sender};
use storage::{Store, StoreError};
use tracing::{error, warn};
use uring::Wake;

use self::append::{Appender, Batch};
pub use self::counts::Counts;
use self::queue::{Queue, Read};
use self::read::Reader;
pub use self::read::{open, read};
pub use self::reservation::Reservation;
use crate::log::{Throttle, and_more};
use crate::room::Most;
use crate::shard::{StoreReply, StoreRequest, Unread};

/// Threads that read from an engine in this process, and from one across a network, where they mostly wait.
const READERS: (usize, usize) = (2, 16);

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
    appends: Sender<Batch>,
    /// One for each read in the queue, or more.
    reads: Sender<()>,
    shared: Arc<Shared>,
}

impl Persist {
    /// Hands over a turn's requests. Threads that have given up take none: nobody is answered any more.
    pub fn send(&self, shard: usize, requests: &mut Vec<StoreRequest>) {
        let since = Instant::now();
        let (mut appends, mut reads, mut unread) = (Vec::new(), 0, Vec::new());
        // Most turns only append, and need not meet the readers.
        let mut queue = None;
        for request in requests.drain(..) {
            match request {
                StoreRequest::Append(append) => appends.push(append),
                StoreRequest::Open { .. } | StoreRequest::Read { .. } => {
                    match queue.get_or_insert_with(|| self.shared.queue()).push(Read { shard, request, since }) {
                        Ok(()) => reads += 1,
                        Err(read) => unread.push((read, Unread::Failed)),
                    }
                }
                StoreRequest::Forget { session } => {
                    let queue = queue.get_or_insert_with(|| self.shared.queue());
                    unread.extend(queue.forget(session).map(|read| (read, Unread::Gone(session))));
                }
            }
        }
        drop(queue);
        for _ in 0..reads {
            let _ = self.reads.send(());
        }
        for (read, why) in unread {
            if let StoreRequest::Read { room, wanted, .. } = read.request {
                self.shared.replies[read.shard].send(vec![StoreReply::Read { room, wanted, found: Err(why) }]);
            }
        }
        if !appends.is_empty() {
            let _ = self.appends.send(Batch { shard, appends, since });
        }
    }
}

/// The storage threads. They end when every [`Persist`] is dropped.
pub struct Threads {
    handles: Vec<JoinHandle<()>>,
    /// Disconnected when all have ended.
    ended: Receiver<()>,
    shared: Arc<Shared>,
}

impl Threads {
    /// Waits until everything that was handed over is durable and answered, but no longer than `until`. Failing appends
    /// are not tried again: the relay is about to end without having acked them.
    pub fn stop(self, until: Instant) {
        self.shared.give_up.store(true, Ordering::Relaxed);
        let stuck = self.ended.recv_deadline(until) == Err(RecvTimeoutError::Timeout);
        for handle in self.handles {
            if (!stuck || handle.is_finished()) && handle.join().is_err() {
                error!("a storage thread failed");
            }
        }
        if self.shared.counts.in_flight() > 0 {
            warn!("stopped with unsaved messages, none of them acked");
        }
    }

    /// What they have done so far, and go on counting.
    pub fn counts(&self) -> Arc<Counts> {
        self.shared.counts.clone()
    }
}

/// Told once that this process may not write to the store any more.
type OnLost = Box<dyn FnOnce(StoreError) + Send>;

/// What the storage threads have in common with an engine that calls back. Not the store: an append on its way would
/// keep it open.
struct Shared {
    replies: Vec<ReplyTo>,
    reads: Mutex<Queue>,
    counts: Arc<Counts>,
    /// Nothing that fails is tried again.
    give_up: AtomicBool,
    on_lost: Mutex<Option<OnLost>>,
    trouble: Throttle,
}

impl Shared {
    fn new(replies: &[ReplyTo], on_lost: OnLost) -> Arc<Self> {
        Arc::new(Self {
            replies: replies.to_vec(),
            reads: Mutex::default(),
            counts: Arc::default(),
            give_up: AtomicBool::new(false),
            on_lost: Mutex::new(Some(on_lost)),
            trouble: Throttle::default(),
        })
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.reads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This process may not write any more.
    fn lose(&self, error: StoreError) {
        self.give_up.store(true, Ordering::Relaxed);
        let on_lost = self.on_lost.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(on_lost) = on_lost {
            on_lost(error);
        }
    }

    /// Counts what went wrong, and tells of it unless something was told a moment ago.
    fn complain(&self, error: &StoreError, then: &str) {
        self.counts.failed();
        if let Some(held) = self.trouble.pass() {
            warn!("storage: {error}{then}{}", and_more(held));
        }
    }
}

/// Starts the storage threads. `replies` are the shards', by number. `on_lost` is told, once and from any thread, that
/// this process may never write to the store again. Returns the time up to which ids may have been given out before.
pub fn start(
    store: &Arc<dyn Store>,
    tail_max: Most,
    replies: &[ReplyTo],
    on_lost: impl FnOnce(StoreError) + Send + 'static,
) -> Result<(Persist, Threads, u64), StoreError> {
    let ids_after_ms = store.reserved_ids()?;
    let shared = Shared::new(replies, Box::new(on_lost));
    if let Some(concurrent) = store.concurrent() {
        let shared = shared.clone();
        concurrent.on_lost(Box::new(move |error| shared.lose(error)));
    }
    let (appends, append_jobs) = flume::unbounded();
    let (reads, read_jobs) = flume::unbounded();
    let (alive, ended) = flume::bounded::<()>(0);
    let spawn = |name: String, work: Box<dyn FnOnce() + Send>| {
        let alive = alive.clone();
        let work = move || {
            work();
            drop(alive);
        };
        thread::Builder::new().name(name).spawn(work).expect("a thread can be started")
    };
    let mut handles = Vec::new();
    let appender = Appender::new(store.clone(), shared.clone(), ids_after_ms);
    handles.push(spawn("append".into(), Box::new(move || appender.run(&append_jobs))));
    for n in 0..if store.concurrent().is_some() { READERS.1 } else { READERS.0 } {
        let reader = Reader { store: store.clone(), shared: shared.clone(), tail_max };
        let jobs = read_jobs.clone();
        handles.push(spawn(format!("read-{n}"), Box::new(move || reader.run(&jobs))));
    }
    Ok((Persist { appends, reads, shared: shared.clone() }, Threads { handles, ended, shared }, ids_after_ms))
}

/// Milliseconds since 1970.
pub fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
