//! The interface of an engine: blocking, batched, no runtime.

use std::path::PathBuf;
use std::sync::Arc;

use crate::Record;

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

/// An engine. Appends come from one thread at a time, reads from others, at the same time.
pub trait Store: Send + Sync + 'static {
    /// The state of a room's log, an empty one if there is none yet. Writes nothing.
    fn open_log(&self, room: &str) -> Result<LogState, StoreError>;

    /// Appends to several logs (each at most once per call); all of it is durable when this returns Ok.
    /// After an error the outcome is unknown; the same call, unchanged, may be repeated until it succeeds, and
    /// stores nothing twice.
    fn append(&self, appends: &[Append]) -> Result<(), StoreError>;

    /// The durable records `first..=last` of a log in ascending order, without holes; fewer when the log ends earlier,
    /// at most `limit`.
    fn read(&self, room: &str, first: u64, last: u64, limit: usize) -> Result<Vec<Record>, StoreError>;

    /// Up to which time (milliseconds since 1970) ids may have been given out by this node; 0 at first.
    fn reserved_ids(&self) -> Result<u64, StoreError>;

    /// Makes it durable that ids up to `until_ms` may be given out. Never goes back.
    fn reserve_ids(&self, until_ms: u64) -> Result<(), StoreError>;
}

/// What can go wrong. Every message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has the directory open.
    #[error("{path}: another relay is using this data directory; stop it, or name another one with --data", path = path.display())]
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
    /// Any other failure of the disk or the kernel.
    #[error("storage failed: {0}")]
    Io(#[from] std::io::Error),
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
