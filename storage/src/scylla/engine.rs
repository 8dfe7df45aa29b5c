//! The engine on the driver's thread: what it knows of the keyspace, and how it begins and ends.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use protocol::snowflake;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::Options;
use super::figures::Figures;
use super::keyspace;
use super::lease::{Lease, wall_us};
use super::link::{Deadline, Failure, Link, Wired, connect};
use super::open::Known;
use crate::states::States;
use crate::{Metric, StoreError};

/// Writes under way at once; further appends wait for one of them.
const WRITES_MAX: usize = 512;
/// Logs whose state is kept in memory, so that appends to them need no lookup.
const LOGS_MAX: usize = 1 << 16;
/// How long reads and other calls that somebody waits for are tried.
const CALL_TIMEOUT: Duration = Duration::from_secs(4);
/// High-water marks are written this often; an ack does not wait for them.
const MARK_EVERY: Duration = Duration::from_secs(10);
/// How long closing tries to write marks, to give back ids and to release the lease.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// The setting with the epoch of logs that were never written: the first relay chooses it.
const EPOCH: &str = "epoch";
/// The setting with the time when messages got their keys beside them: what the first relay that writes them chooses.
const KEYS_SINCE: &str = "keys since";
/// The setting with the shortest time that messages were ever kept, seconds; not there as long as they are kept for ever.
/// Older relays noted a 1, whatever the time was.
const EXPIRES: &str = "messages expire";
/// Clocks of this process and of the database may differ by so much, milliseconds.
const CLOCKS_MS: i64 = 60_000;

/// The newest message of a log that was acked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    pub seq: i64,
    pub id: i64,
    /// From when on it may have expired, milliseconds since 1970; [`GONE`] when nothing up to it need be there.
    pub expires_ms: i64,
}

/// In place of the time when a mark's message expires.
pub const GONE: i64 = 0;

/// Everything the tasks on the driver's thread share.
pub struct Engine {
    pub options: Rc<Options>,
    pub link: Rc<Link>,
    pub lease: Rc<Lease>,
    /// Of logs that were never written.
    pub epoch: u64,
    /// Messages that were taken until then may have keys that stand in their records alone, milliseconds since 1970.
    pub keys_since_ms: u64,
    /// The shortest time that messages were ever kept, seconds. None: all that were ever acked are there.
    kept_s: Option<u64>,
    pub known: RefCell<States<Known>>,
    /// Slots in which this term may make logs.
    pub slots: RefCell<HashSet<u32>>,
    pub marks: RefCell<HashMap<Arc<str>, Mark>>,
    pub writes: Semaphore,
    reserved_ms: Cell<Option<u64>>,
    /// Renews the lease.
    keeping: JoinHandle<()>,
    pub figures: Rc<Figures>,
    /// What there is to say at the start: the keyspace in one line, and what is unsafe about it.
    pub about: keyspace::About,
}

/// Whether this time, milliseconds since 1970, has come on the database's clock or may have.
pub fn is_over(ms: i64) -> bool {
    ms <= wall_us() / 1000 + CLOCKS_MS
}

/// Until when something that a caller waits for is tried.
pub fn soon() -> Instant {
    Instant::now() + CALL_TIMEOUT
}

impl Engine {
    /// Connects, makes or checks the schema, and takes the lease.
    pub async fn start(options: Options) -> Result<Rc<Self>, StoreError> {
        let options = Rc::new(options);
        let session = connect(&options).await.map_err(|failure| {
            let store = options.address.to_string();
            StoreError::Unusable {
                store,
                message: format!(
                    "cannot connect: {}; check that the database runs there, and the login",
                    failure.message()
                ),
            }
        })?;
        keyspace::prepare(&session, &options).await?;
        let about = keyspace::About::of(&session, &options).await?;
        let figures = Rc::new(Figures::default());
        let wired = Wired::new(session, &options.address.keyspace).await.map_err(Failure::unavailable)?;
        let link = Rc::new(Link::new(options.clone(), wired, figures.clone()));
        let mending = link.clone();
        tokio::task::spawn_local(async move { mending.mend().await });
        let lease = Rc::new(Lease::acquire(options.clone(), &link).await?);
        let (kept, through) = (lease.clone(), link.clone());
        let keeping = tokio::task::spawn_local(async move { kept.keep(&through).await });
        let mut engine = Self {
            kept_s: None,
            keys_since_ms: 0,
            options,
            link,
            lease,
            epoch: 0,
            known: RefCell::new(States::new(LOGS_MAX)),
            slots: RefCell::default(),
            marks: RefCell::default(),
            writes: Semaphore::new(WRITES_MAX),
            reserved_ms: Cell::new(None),
            keeping,
            figures,
            about,
        };
        engine.epoch = engine.once(EPOCH, fastrand::u64(1..)).await?;
        engine.kept_s = engine.shortest_retention().await?;
        engine.keys_since_ms = engine.once(KEYS_SINCE, (wall_us() / 1000 + CLOCKS_MS) as u64).await?;
        let engine = Rc::new(engine);
        let marking = engine.clone();
        tokio::task::spawn_local(async move {
            loop {
                sleep(MARK_EVERY).await;
                marking.write_marks(Some(soon())).await;
            }
        });
        Ok(engine)
    }

    /// Writes the marks that are due and lets the next relay begin.
    pub async fn close(&self) {
        let _ = timeout(CLOSE_TIMEOUT, self.write_marks(Some(Instant::now() + CLOSE_TIMEOUT))).await;
        self.keeping.abort();
        let _ = timeout(CLOSE_TIMEOUT, self.lease.release(&self.link.wired())).await;
    }

    /// From when on a message with this id may have expired, milliseconds since 1970.
    pub fn expires_ms(&self, id: u64) -> i64 {
        match self.about.retention_s {
            0 => i64::MAX,
            seconds => (snowflake::time_ms(id) + u64::from(seconds) * 1000) as i64,
        }
    }

    /// Whether a message with this id, or a later one, may have expired by now.
    pub fn may_have_expired(&self, id: u64) -> bool {
        self.kept_s.is_some_and(|kept_s| is_over((snowflake::time_ms(id) + kept_s * 1000) as i64))
    }

    /// The shortest time that messages were ever kept, seconds, this process's included.
    async fn shortest_retention(&self) -> Result<Option<u64>, StoreError> {
        let stored = self.setting(EXPIRES).await?;
        let now = Some(u64::from(self.about.retention_s)).filter(|&seconds| seconds > 0);
        let shortest = stored.into_iter().chain(now).min();
        if let Some(seconds) = shortest.filter(|_| shortest != stored) {
            self.set(EXPIRES, seconds, Some(soon())).await?;
        }
        Ok(shortest)
    }

    /// The value of a setting that never changes once it is there.
    async fn once(&self, name: &str, value: u64) -> Result<u64, StoreError> {
        if let Some(value) = self.setting(name).await? {
            return Ok(value);
        }
        self.link
            .until(Some(soon()), async |wired| {
                wired.applies(&wired.statements.first_setting, (name, value as i64)).await
            })
            .await?;
        let message = format!("the setting {name:?} was written but cannot be read");
        self.setting(name).await?.ok_or(StoreError::Unavailable { message })
    }

    async fn setting(&self, name: &str) -> Result<Option<u64>, StoreError> {
        self.link
            .until(Some(soon()), async |wired| {
                let row = wired.row::<(i64,)>(&wired.statements.setting, (name,)).await?;
                Ok(row.map(|(value,)| value as u64))
            })
            .await
    }

    fn reserved_name(&self) -> String {
        format!("reserved ids of node {}", self.options.node)
    }

    /// Up to which time this node's ids may have been given out.
    pub async fn reserved_ids(&self) -> Result<u64, StoreError> {
        if let Some(reserved) = self.reserved_ms.get() {
            return Ok(reserved);
        }
        let reserved = self.setting(&self.reserved_name()).await?.unwrap_or(0);
        self.reserved_ms.set(Some(reserved));
        Ok(reserved)
    }

    /// Makes it durable that ids up to `until_ms` may be given out.
    pub async fn reserve_ids(&self, until_ms: u64) -> Result<(), StoreError> {
        if self.reserved_ids().await? >= until_ms { Ok(()) } else { self.set_reserved(until_ms, Some(soon())).await }
    }

    /// Gives back what was reserved after `used_ms`.
    pub async fn release_ids(&self, used_ms: u64) -> Result<(), StoreError> {
        if self.reserved_ids().await? <= used_ms {
            return Ok(());
        }
        self.set_reserved(used_ms, Some(Instant::now() + CLOSE_TIMEOUT)).await
    }

    async fn set_reserved(&self, until_ms: u64, deadline: Deadline) -> Result<(), StoreError> {
        self.set(&self.reserved_name(), until_ms, deadline).await?;
        self.reserved_ms.set(Some(until_ms));
        Ok(())
    }

    /// Changes a setting, durable once this returns Ok.
    async fn set(&self, name: &str, value: u64, deadline: Deadline) -> Result<(), StoreError> {
        self.lease.hold(deadline).await?;
        self.link
            .until(deadline, async |wired| {
                let values = (name, value as i64, self.lease.timestamp());
                wired.run(&wired.statements.set_setting, values).await
            })
            .await?;
        self.lease.hold(deadline).await
    }

    /// What is counted and measured.
    pub fn metrics(&self) -> Vec<Metric> {
        self.figures.metrics(&self.link.wired().session.get_metrics(), self.lease.left_s())
    }
}
