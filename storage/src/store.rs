//! The interface of an engine: blocking, batched, no runtime.

use std::path::PathBuf;
use std::sync::Arc;

use crate::{Record, StoredKey, keys};

/// What an engine knows of a room's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogState {
    /// Names this incarnation of the log: constant over restarts, another one when a log was lost or begun anew.
    pub epoch: u64,
    /// Seq of the last durable record; 0 when the log is empty.
    pub last_seq: u64,
    /// Id of the last durable record; 0 when the log is empty.
    pub last_id: u64,
}

/// Records to append to one log: dense, ascending, the first directly after the last durable one.
#[derive(Debug, Clone)]
pub struct Append {
    /// Whose log.
    pub room: Arc<str>,
    /// The epoch [`Store::open_log`] named; stored with the first record of a log.
    pub epoch: u64,
    /// What to append.
    pub records: Vec<Arc<Record>>,
}

/// An engine. Appends come from one thread at a time, reads from others, at the same time. One process at a time may have
/// a store open; a second one is refused.
pub trait Store: Send + Sync + 'static {
    /// The state of a room's log, an empty one if there is none yet. Writes nothing.
    fn open_log(&self, room: &str) -> Result<LogState, StoreError>;

    /// Appends to several logs (each at most once per call); all of it is durable when this returns Ok.
    /// After an error the outcome is unknown; the same call, unchanged, may be repeated until it succeeds, and
    /// stores nothing twice.
    fn append(&self, appends: &[Append]) -> Result<(), StoreError>;

    /// The durable records `first..=last` of a log in ascending order, without holes; at most `limit`. Fewer when the log
    /// ends earlier or, because records were kept for a set time only, begins later: those that lie before one that has
    /// expired count as expired, too, whether or not they are still there (the time was set, or shortened, later).
    fn read(&self, room: &str, first: u64, last: u64, limit: usize) -> Result<Vec<Record>, StoreError>;

    /// The keys of a log's messages from `first` on that were taken after `since_ms`, ascending; there may be older ones
    /// among them, but none before `first`, and those that were ten minutes old when they were appended may be missing. An
    /// engine that keeps keys beside records reads no bodies for them.
    fn keys(&self, room: &str, first: u64, since_ms: u64) -> Result<Vec<StoredKey>, StoreError> {
        keys::from_records(self, room, first, since_ms)
    }

    /// Up to which time (milliseconds since 1970) ids may have been given out by this node; 0 at first.
    fn reserved_ids(&self) -> Result<u64, StoreError>;

    /// Makes it durable that ids up to `until_ms` may be given out. Never goes back.
    fn reserve_ids(&self, until_ms: u64) -> Result<(), StoreError>;

    /// [`Store::reserve_ids`] and [`Store::append`] in one write, where the engine can.
    fn append_reserving(&self, appends: &[Append], until_ms: u64) -> Result<(), StoreError> {
        self.reserve_ids(until_ms)?;
        self.append(appends)
    }

    /// Gives back what was reserved after `used_ms`: this node never gave out a later id, and gives out none any more.
    fn release_ids(&self, used_ms: u64) -> Result<(), StoreError>;

    /// Names of rooms that have a log, in an order of the engine's own: at most `limit` of those that come after `after`.
    fn rooms(&self, after: Option<&str>, limit: usize) -> Result<Vec<Arc<str>>, StoreError>;

    /// The engine as one whose logs do not wait for each other; None where one write serves all logs.
    fn concurrent(&self) -> Option<&dyn Concurrent> {
        None
    }

    /// What the engine counts and measures, for `/metrics`.
    fn metrics(&self) -> Vec<Metric> {
        Vec::new()
    }
}

/// Told once, from a thread of the engine, what became of an append or a reservation.
pub type Done = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// An engine that appends to many logs at the same time.
pub trait Concurrent {
    /// Begins an append and returns at once. An outcome that is unknown is tried again, unchanged and ever more slowly,
    /// until it is durable: `done` gets an error only when this process will never make it so.
    /// At most one append of a room may be under way.
    fn submit(&self, append: Append, done: Done);

    /// Begins [`Store::reserve_ids`] and returns at once; tried for some seconds.
    fn reserve_ahead(&self, until_ms: u64, done: Done);

    /// Calls `told`, at once or later, when this process may not write to the store any more.
    fn on_lost(&self, told: Box<dyn FnOnce(StoreError) + Send>);
}

/// One figure of an engine, as Prometheus names and understands it.
#[derive(Debug, Clone, PartialEq)]
pub struct Metric {
    /// Such as `relay_store_retries_total`; the unit is its last word, `_total` that of a count.
    pub name: &'static str,
    /// What it says, in one line.
    pub help: &'static str,
    /// It only rises.
    pub is_counter: bool,
    /// Which of several of this name it is, such as a shard's number.
    pub label: Option<(&'static str, usize)>,
    /// The figure.
    pub value: f64,
}

impl Metric {
    /// A figure that rises and falls.
    pub fn gauge(name: &'static str, help: &'static str, value: f64) -> Self {
        Self { name, help, is_counter: false, label: None, value }
    }

    /// A figure that only rises.
    pub fn counter(name: &'static str, help: &'static str, value: u64) -> Self {
        Self { is_counter: true, ..Self::gauge(name, help, value as f64) }
    }
}

/// What can go wrong. Every message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has the directory open.
    #[error("{path}: another relay is using this data directory; stop it, or name another one", path = path.display())]
    Locked {
        /// The data directory.
        path: PathBuf,
    },
    /// The append was not acked; repeat it unchanged once there is space.
    #[error("{path}: no space left on this disk; free some, nothing that was acked is lost", path = path.display())]
    Full {
        /// The data directory.
        path: PathBuf,
    },
    /// A log is shorter than what was acked: refused, never silently shortened.
    #[error("room {room:?}: messages {from}..={to} were acked but are missing from {path}; restore the directory from a backup, or start with --accept-loss to give this log a new epoch without them (rooms affected: {rooms})", path = path.display())]
    Damaged {
        /// The data directory.
        path: PathBuf,
        /// One of the rooms.
        room: String,
        /// Seq of its first missing message.
        from: u64,
        /// Seq of its last missing message.
        to: u64,
        /// How many rooms miss messages.
        rooms: usize,
    },
    /// Something that cannot be used, why, and what to do.
    #[error("{path}: {message}", path = path.display())]
    Unreadable {
        /// The directory or file.
        path: PathBuf,
        /// Why, and what to do.
        message: String,
    },
    /// The database does not answer, refuses, or is overloaded. An append's outcome is unknown.
    #[error("the database does not serve: {message}; nothing that was acked is lost, and it is tried again")]
    Unavailable {
        /// What it or the driver said.
        message: String,
    },
    /// Another relay writes to this store.
    #[error("{store}: {holder} is writing to it; stop that relay, or name another keyspace")]
    Held {
        /// The store's URL, without its password.
        store: String,
        /// Who holds the lease.
        holder: String,
    },
    /// This process was paused or cut off for longer than its lease, and another relay writes now.
    #[error(
        "{store}: {holder} took over while this relay was paused or cut off for longer than its lease; nothing that was acked is lost, but this relay must end"
    )]
    Lost {
        /// The store's URL, without its password.
        store: String,
        /// Who holds the lease now.
        holder: String,
    },
    /// The store was closed before this could be done.
    #[error("the store is closed")]
    Closed,
    /// A database that cannot be used as it is: why, and what to do.
    #[error("{store}: {message}")]
    Unusable {
        /// The store's URL, without its password.
        store: String,
        /// Why, and what to do.
        message: String,
    },
    /// Any other failure of the disk or the kernel.
    #[error("storage failed: {0}")]
    Io(std::io::Error),
    /// An append that does not follow the log's last record: a programming error of the caller or a second writer.
    #[error("room {room:?}: append at seq {found}, but the log continues at {expected}")]
    OutOfOrder {
        /// The room.
        room: String,
        /// The seq that would continue its log.
        expected: u64,
        /// The seq that was refused.
        found: u64,
    },
    /// Bytes that are no record this version can read.
    #[error("a stored record cannot be read: {message}")]
    BadRecord {
        /// Why.
        message: String,
    },
}

// By hand: what derives this makes it the source as well, and the message would be told twice.
impl From<std::io::Error> for StoreError {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}
