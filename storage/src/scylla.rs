//! The production engine: ScyllaDB, or any server that speaks CQL, through the `scylla` driver.
//!
//! | table | key | value |
//! |---|---|---|
//! | `messages` | (room, bucket), id | seq, [`Record`](crate::Record) bytes, [`StoredKey`]; bucket = seq >> 16 |
//! | `blocks` | (room, bucket), block | id of the first message whose seq >> 10 is the block |
//! | `logs` | slot, room | epoch, created, the term it was fenced in, high-water mark; per slot the term that may make logs |
//! | `settings` | name | the epoch of logs that were never written, reserved ids of each node |
//! | `leases` | scope | who may write: term, last write timestamp, renewals, holder |
//! | `migrations` | number | name, checksum, when |
//!
//! A batch is the rows of one partition and so one write. Batches of one log go one after the other, those of different
//! logs at the same time. A request that timed out is unknown: it is sent again with the same ids, which changes nothing
//! if it was carried out. What a former owner of the lease sends late lies below this term's timestamps and is shadowed
//! when a log is first opened (`open`, `lease`).
//!
//! The driver and all of this run on one thread of their own. Calls cross over to it through flume.

mod address;
mod append;
mod engine;
mod figures;
mod holder;
mod keyspace;
mod lease;
mod link;
mod marks;
mod open;
mod read;
pub mod schema;
mod statements;

use std::future::Future;
use std::io::{self, Write};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use flume::{Receiver, Sender};
use tokio::runtime;
use tokio::task::LocalSet;

pub use self::address::{Address, Replication};
use self::engine::{Engine, soon};
use self::figures::add;
use crate::{Append, Concurrent, Done, LogState, Metric, Record, Store, StoreError, StoredKey, keys};

/// How a [`ScyllaStore`] is opened.
#[derive(Clone)]
pub struct Options {
    /// Where the database is.
    pub address: Address,
    /// This node's number in the deployment: each has its own reserved ids.
    pub node: u16,
    /// Copies of each row, when the keyspace has to be made; None is three.
    pub replication: Option<Replication>,
    /// How long messages are kept, seconds, 0 for ever; None leaves it as it is.
    pub retention_s: Option<u32>,
    /// Whether a store is made where there is none.
    pub create: bool,
    /// Go on without acked messages that are missing: their logs get a new epoch and end before the first of them.
    pub accept_loss: bool,
    /// Takes lines about trouble with the database and its end.
    pub log: Arc<dyn Fn(&str) + Send + Sync>,
}

impl Options {
    /// The defaults for this address.
    pub fn new(address: Address) -> Self {
        Self {
            address,
            node: 0,
            replication: None,
            retention_s: None,
            create: true,
            accept_loss: false,
            // Whoever closed stderr does not want to know.
            log: Arc::new(|line| drop(writeln!(io::stderr(), "storage: {line}"))),
        }
    }
}

/// Something to do on the driver's thread.
type Job = Box<dyn FnOnce(Rc<Engine>) -> Pin<Box<dyn Future<Output = ()>>> + Send>;

/// Logs in a keyspace of a ScyllaDB cluster. One process at a time, by a lease.
pub struct ScyllaStore {
    /// None once it is being closed.
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    about: keyspace::About,
}

impl ScyllaStore {
    /// Connects, makes or checks the schema, and takes the lease: at once, or within about ten seconds when a relay that
    /// held it was killed on another machine.
    ///
    /// # Errors
    /// [`StoreError::Held`] when another relay writes to the keyspace, [`StoreError::Unusable`] or
    /// [`StoreError::Unavailable`].
    pub fn open(options: Options) -> Result<Self, StoreError> {
        let (jobs, incoming) = flume::unbounded();
        let (started, start) = flume::bounded(1);
        let thread = thread::Builder::new().name("cql".into()).spawn(move || run(options, &incoming, &started))?;
        match start.recv().map_err(|_| StoreError::Closed)? {
            Ok(about) => Ok(Self { jobs: Some(jobs), thread: Some(thread), about }),
            Err(error) => {
                // It ends by itself; whether it panicked is told by itself too.
                let _ = thread.join();
                Err(error)
            }
        }
    }

    /// Hosts, keyspace, copies and retention in one line, for the start of a relay.
    pub fn describe(&self) -> String {
        self.about.line.clone()
    }

    /// What is unsafe about the keyspace, a line each.
    pub fn warnings(&self) -> Vec<String> {
        self.about.warnings.clone()
    }

    fn post<F>(&self, job: impl FnOnce(Rc<Engine>) -> F + Send + 'static) -> Result<(), StoreError>
    where
        F: Future<Output = ()> + 'static,
    {
        let job: Job = Box::new(|engine| Box::pin(job(engine)));
        self.jobs.as_ref().and_then(|jobs| jobs.send(job).ok()).ok_or(StoreError::Closed)
    }

    /// Does something on the driver's thread and waits for it.
    fn call<T: Send + 'static, F>(&self, job: impl FnOnce(Rc<Engine>) -> F + Send + 'static) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>> + 'static,
    {
        let (reply, replied) = flume::bounded(1);
        self.post(|engine| async move {
            // Nobody waits any more when this fails.
            let _ = reply.send(job(engine).await);
        })?;
        replied.recv().map_err(|_| StoreError::Closed)?
    }
}

/// The driver's thread: until every sender of jobs is gone.
fn run(options: Options, jobs: &Receiver<Job>, started: &Sender<Result<keyspace::About, StoreError>>) {
    let runtime = match runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return drop(started.send(Err(error.into()))),
    };
    LocalSet::new().block_on(&runtime, async {
        let engine = match Engine::start(options).await {
            Ok(engine) => engine,
            Err(error) => return drop(started.send(Err(error))),
        };
        if started.send(Ok(engine.about.clone())).is_ok() {
            while let Ok(job) = jobs.recv_async().await {
                tokio::task::spawn_local(job(engine.clone()));
            }
        }
        engine.close().await;
    });
}

impl Drop for ScyllaStore {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Store for ScyllaStore {
    fn open_log(&self, room: &str) -> Result<LogState, StoreError> {
        let room = Arc::from(room);
        self.call(|engine| async move { Ok(engine.open(&room, Some(soon())).await?.state) })
    }

    fn append(&self, appends: &[Append]) -> Result<(), StoreError> {
        let appends = appends.to_vec();
        self.call(|engine| async move {
            let deadline = Some(soon());
            for append in &appends {
                let state = engine.open(&append.room, deadline).await?.state;
                engine.stored(append, state, deadline).await?;
            }
            all(appends.iter().map(|append| engine.append(append, deadline))).await.into_iter().collect()
        })
    }

    fn read(&self, room: &str, first: u64, last: u64, limit: usize) -> Result<Vec<Record>, StoreError> {
        let room = Arc::from(room);
        self.call(move |engine| async move { engine.read(&room, first, last, limit, Some(soon())).await })
    }

    fn keys(&self, room: &str, first: u64, since_ms: u64) -> Result<Vec<StoredKey>, StoreError> {
        let name = Arc::from(room);
        let found = self.call(move |engine| async move { engine.keys(&name, first, since_ms, Some(soon())).await })?;
        found.map_or_else(|| keys::from_records(self, room, first, since_ms), Ok)
    }

    fn reserved_ids(&self) -> Result<u64, StoreError> {
        self.call(|engine| async move { engine.reserved_ids().await })
    }

    fn reserve_ids(&self, until_ms: u64) -> Result<(), StoreError> {
        self.call(move |engine| async move { engine.reserve_ids(until_ms).await })
    }

    fn release_ids(&self, used_ms: u64) -> Result<(), StoreError> {
        self.call(move |engine| async move { engine.release_ids(used_ms).await })
    }

    fn rooms(&self, after: Option<&str>, limit: usize) -> Result<Vec<Arc<str>>, StoreError> {
        let after = after.map(str::to_owned);
        self.call(move |engine| async move { engine.rooms(after.as_deref(), limit).await })
    }

    fn concurrent(&self) -> Option<&dyn Concurrent> {
        Some(self)
    }

    fn metrics(&self) -> Vec<Metric> {
        self.call(|engine| async move { Ok(engine.metrics()) }).unwrap_or_default()
    }
}

impl Concurrent for ScyllaStore {
    fn submit(&self, append: Append, done: Done) {
        // When the store is closed it is not told, and nobody needs to hear it any more.
        let _ = self.post(|engine| async move {
            add(&engine.figures.in_flight, 1);
            let outcome = engine.append(&append, None).await;
            engine.figures.in_flight.set(engine.figures.in_flight.get() - 1);
            done(outcome);
        });
    }

    fn reserve_ahead(&self, until_ms: u64, done: Done) {
        // A closed store reserves nothing, and nobody waits for that.
        let _ = self.post(move |engine| async move { done(engine.reserve_ids(until_ms).await) });
    }

    fn on_lost(&self, told: Box<dyn FnOnce(StoreError) + Send>) {
        let _ = self.post(|engine| async move { engine.lease.on_lost(told) });
    }
}

/// Everything at the same time; the outcomes in order.
async fn all<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut waiting: Vec<Pin<Box<F>>> = futures.map(Box::pin).collect();
    let mut outcomes: Vec<Option<F::Output>> = waiting.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        let mut is_over = true;
        for (future, outcome) in waiting.iter_mut().zip(&mut outcomes).filter(|(_, outcome)| outcome.is_none()) {
            match future.as_mut().poll(context) {
                std::task::Poll::Ready(value) => *outcome = Some(value),
                std::task::Poll::Pending => is_over = false,
            }
        }
        if is_over { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    outcomes.into_iter().flatten().collect()
}
