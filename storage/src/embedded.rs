//! The default engine: an embedded LSM tree (fjall) in a directory, durable by group commit with fsync.
//!
//! One call of `append` is one batch in the tree's journal and one fdatasync, however many rooms it has. The rows are
//! described in `layout`; `recovery` says what is checked before anything is served, `marks` how a loss is noticed.
//!
//! In the directory: `lock`, `tree/` (fjall's), `marks/`, after damage `salvage/`, and after an accepted loss `lost-…/`.

mod error;
mod journal;
mod layout;
mod lock;
mod log;
mod mark;
mod marks;
mod recovery;
mod tree;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use fjall::OwnedWriteBatch;

use crate::continuation::{already_stored, repeated};
use crate::seqs::{block, is_block_start};
use crate::states::States;
use crate::{Append, LogState, Record, Store, StoreError, StoredKey, keys};
use error::{from_fjall, from_io};
use layout::{Facts, Keys};
use lock::Lock;
use log::Log;
use mark::Mark;
use marks::Marks;
use recovery::{Layout, Opened};
use tree::Tree;

/// So much must fit on a disk that was full before it is used again.
const PROBE_BYTES: usize = 1 << 20;

/// How an [`EmbeddedStore`] is opened. The defaults serve a relay with tens of thousands of users.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Make the store where there is none; else that is refused and nothing is written.
    pub create: bool,
    /// Go on without acked messages that are missing: their logs get a new epoch and end before the first of them.
    pub accept_loss: bool,
    /// Cache of table blocks, bytes.
    pub cache_bytes: u64,
    /// New rows kept in memory before they are written as a table, bytes; up to five times this may be in use.
    pub write_buffer_bytes: u64,
    /// States of logs kept in memory, so that appends to them need no lookup.
    pub log_states_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            create: true,
            accept_loss: false,
            cache_bytes: 64 << 20,
            write_buffer_bytes: 16 << 20,
            log_states_max: 1 << 16,
        }
    }
}

/// Logs in a directory of this machine. One process at a time.
pub struct EmbeddedStore {
    layout: Layout,
    options: Options,
    /// There was none before.
    is_new: bool,
    appender: Mutex<Appender>,
    /// None while a full disk keeps it closed.
    engine: RwLock<Option<Engine>>,
    /// Held for as long as this value lives; declared last so that it is released last.
    _lock: Lock,
}

/// What only the appending thread uses, and whether it may.
struct Appender {
    scratch: Scratch,
    health: Health,
}

/// Buffers that are used again for each record.
#[derive(Default)]
struct Scratch {
    bytes: Vec<u8>,
    keys: Keys,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Health {
    Good,
    /// The disk was full. What the last append left is unknown, so the tree is opened again once there is space.
    Full,
    /// A write or fsync failed for another reason: the kernel may have dropped what it took, so only a new start,
    /// which reads everything from the disk again, may go on.
    Failed(String),
}

struct Engine {
    tree: Tree,
    marks: Marks,
    store_epoch: u64,
    /// See [`Opened`].
    keys_since_ms: AtomicU64,
    /// Rooms and messages when it was opened.
    held: (usize, u64),
    states: Mutex<States<LogState>>,
}

impl EmbeddedStore {
    /// Opens or makes the data directory, unless it has other things in it, and checks it against its marks, which takes
    /// a few seconds per 100,000 logs.
    ///
    /// # Errors
    /// [`StoreError::Locked`], [`StoreError::Damaged`], [`StoreError::Full`] or [`StoreError::Unreadable`].
    pub fn open(dir: impl AsRef<Path>, options: Options) -> Result<Self, StoreError> {
        let layout = Layout::of(dir.as_ref());
        let is_new = recovery::is_new(&layout, options.create)?;
        let lock = Lock::take(&layout)?;
        let engine = Engine::new(recovery::open(&layout, &options)?, &options);
        // Accepted once: what is missing later, when a full disk makes this open again, is a new loss.
        let options = Options { accept_loss: false, ..options };
        let appender = Appender { scratch: Scratch::default(), health: Health::Good };
        let engine = RwLock::new(Some(engine));
        Ok(Self { layout, options, is_new, appender: Mutex::new(appender), engine, _lock: lock })
    }

    /// The directory's absolute path, and whether it was made now or has messages.
    pub fn describe(&self) -> String {
        let path = std::path::absolute(&self.layout.dir).unwrap_or_else(|_| self.layout.dir.clone());
        if self.is_new {
            return format!("new embedded store in {}", path.display());
        }
        let (rooms, messages) = self.with(|engine| Ok(engine.held)).unwrap_or_default();
        format!("embedded store in {} with {messages} messages in {rooms} rooms", path.display())
    }

    fn appender(&self) -> MutexGuard<'_, Appender> {
        self.appender.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `work` on the open engine.
    fn with<T>(&self, work: impl FnOnce(&Engine) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let engine = self.engine.read().unwrap_or_else(PoisonError::into_inner);
        work(engine.as_ref().ok_or_else(|| StoreError::Full { path: self.layout.dir.clone() })?)
    }

    /// Refuses when an earlier write failed; opens the tree again when that was for want of space and there is some.
    fn check_health(&self, appender: &mut Appender) -> Result<(), StoreError> {
        match &appender.health {
            Health::Good => return Ok(()),
            Health::Failed(why) => {
                let message = format!("{why}; restart the relay, which checks what is on the disk");
                return Err(StoreError::Io(std::io::Error::other(message)));
            }
            Health::Full => (),
        }
        self.probe()?;
        let mut engine = self.engine.write().unwrap_or_else(PoisonError::into_inner);
        drop(engine.take());
        *engine = Some(Engine::new(recovery::open(&self.layout, &self.options)?, &self.options));
        appender.health = Health::Good;
        Ok(())
    }

    /// Whether the disk takes a megabyte.
    fn probe(&self) -> Result<(), StoreError> {
        let path = self.layout.dir.join("probe");
        let outcome = File::create(&path).and_then(|file| {
            file.write_all_at(&vec![1; PROBE_BYTES], 0)?;
            file.sync_all()
        });
        let removed = std::fs::remove_file(&path);
        outcome.and(removed).map_err(|error| from_io(&self.layout.dir, error))
    }

    /// Writes appends, and up to where ids are reserved, in one batch.
    fn commit(&self, appends: &[Append], reserved_ms: Option<u64>) -> Result<(), StoreError> {
        let appender = &mut *self.appender();
        self.check_health(appender)?;
        self.with(|engine| {
            let mut batch = engine.tree.batch(appends.iter().map(|append| append.records.len() + 1).sum());
            let mut ends = Vec::with_capacity(appends.len());
            for append in appends.iter().filter(|append| !append.records.is_empty()) {
                let state = engine.stage(&self.layout.dir, append, &mut batch, &mut appender.scratch)?;
                ends.push((append, state));
            }
            if let Some(reserved_ms) = reserved_ms {
                batch.insert(&engine.tree.rows, layout::RESERVED, reserved_ms.to_be_bytes());
            }
            let keys_since_ms = engine.stage_layout(&self.layout.dir, &ends, &mut batch)?;
            batch.commit().map_err(|error| self.failed(appender, error))?;
            engine.keys_since_ms.store(keys_since_ms, Ordering::Relaxed);
            self.note(engine, appender, &ends)?;
            let mut states = engine.states();
            for (append, state) in ends {
                states.set(&append.room, state);
            }
            Ok(())
        })
    }

    /// Remembers a failed write, and says what it means.
    fn failed(&self, appender: &mut Appender, error: fjall::Error) -> StoreError {
        let mut meaning = from_fjall(&self.layout.dir, error);
        // A background write that failed shows only as fjall's refusal: see whether space was the reason.
        if !matches!(meaning, StoreError::Full { .. })
            && let Err(full @ StoreError::Full { .. }) = self.probe()
        {
            meaning = full;
        }
        appender.health = match &meaning {
            StoreError::Full { .. } => Health::Full,
            other => Health::Failed(format!("an earlier write failed ({other})")),
        };
        meaning
    }

    /// Notes in the marks what is durable now; an append is Ok only when this is written too.
    fn note(&self, engine: &Engine, appender: &mut Appender, ends: &[(&Append, LogState)]) -> Result<(), StoreError> {
        let marks = ends.iter().map(|(append, state)| {
            let mark = Mark { epoch: state.epoch, last_seq: state.last_seq, last_id: state.last_id };
            (&*append.room, mark)
        });
        engine.marks.note(marks).map_err(|error| self.failed(appender, fjall::Error::Io(error)))
    }
}

impl Engine {
    fn new(opened: Opened, options: &Options) -> Self {
        let Opened { tree, marks, store_epoch, keys_since_ms, held } = opened;
        let keys_since_ms = keys_since_ms.into();
        let states = Mutex::new(States::new(options.log_states_max));
        Self { tree, marks, store_epoch, keys_since_ms, held, states }
    }

    fn states(&self) -> MutexGuard<'_, States<LogState>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state of a log, not newer than any snapshot taken after this returns.
    fn state(&self, dir: &Path, room: &str) -> Result<LogState, StoreError> {
        if let Some(state) = self.states().get(room) {
            return Ok(state);
        }
        Log::now(dir, &self.tree, room)?.state(self.store_epoch)
    }

    /// Adds to the batch what this append brings that is not stored yet; the state of its log after that.
    fn stage(
        &self,
        dir: &Path,
        append: &Append,
        batch: &mut OwnedWriteBatch,
        scratch: &mut Scratch,
    ) -> Result<LogState, StoreError> {
        let Scratch { bytes, keys } = scratch;
        // What is copied from another store is mostly older than anybody asks for.
        let keys_after_ms = tree::now_ms().saturating_sub(layout::KEYS_KEPT_MS);
        keys.set_room(&append.room)?;
        let mut state = self.state(dir, &append.room)?;
        let stored = self.stored_ids(dir, append, state)?;
        let first = append.records.first().map_or(0, |first| first.seq);
        let skip = already_stored(append, state, |seq| Ok(stored.get((seq - first) as usize).copied()))?;
        if state.last_seq == 0 && Log::now(dir, &self.tree, &append.room)?.facts()?.is_none() {
            state.epoch = append.epoch;
            let created_ms = append.records.first().map_or(0, |first| first.time_ms);
            let facts = Facts { epoch: append.epoch, created_ms, id_floor: 0 };
            batch.insert(&self.tree.rows, keys.facts(), facts.encode());
        }
        for record in &append.records[skip..] {
            if is_block_start(record.seq) {
                batch.insert(&self.tree.rows, keys.sparse(block(record.seq)), record.id.to_be_bytes());
            }
            bytes.clear();
            record.encode(bytes);
            batch.insert(&self.tree.rows, keys.record(record.seq, record.id), &bytes[..]);
            if let Some(key) = StoredKey::of(record).filter(|key| key.time_ms >= keys_after_ms) {
                bytes.clear();
                key.encode(bytes);
                batch.insert(&self.tree.keys, keys.key(record.seq), &bytes[..]);
            }
            (state.last_seq, state.last_id) = (record.seq, record.id);
        }
        Ok(state)
    }

    /// Takes a directory of the layout without keys over to the newest one, with this batch; since when it has keys.
    fn stage_layout(
        &self,
        dir: &Path,
        ends: &[(&Append, LogState)],
        batch: &mut OwnedWriteBatch,
    ) -> Result<u64, StoreError> {
        let since_ms = self.keys_since_ms.load(Ordering::Relaxed);
        if since_ms != u64::MAX || ends.is_empty() {
            return Ok(since_ms);
        }
        // Whatever the clock said, no message was taken later than ids were reserved for.
        let reserved_ms = self.tree.setting(dir, layout::RESERVED)?.unwrap_or(0);
        let since_ms = reserved_ms.max(tree::now_ms());
        batch.insert(&self.tree.rows, layout::FORMAT, layout::FORMAT_VERSION.to_be_bytes());
        batch.insert(&self.tree.rows, layout::KEYS_SINCE, since_ms.to_be_bytes());
        Ok(since_ms)
    }

    /// The stored ids from the append's first seq on, as far as both go; empty unless it repeats something.
    fn stored_ids(&self, dir: &Path, append: &Append, state: LogState) -> Result<Vec<u64>, StoreError> {
        let Some((first, last)) = repeated(append, state.last_seq) else { return Ok(Vec::new()) };
        let records = Log::now(dir, &self.tree, &append.room)?.range(first, last, state.last_seq)?;
        Ok(records.iter().map(|record| record.id).collect())
    }
}

impl Store for EmbeddedStore {
    fn open_log(&self, room: &str) -> Result<LogState, StoreError> {
        self.with(|engine| engine.state(&self.layout.dir, room))
    }

    fn append(&self, appends: &[Append]) -> Result<(), StoreError> {
        self.commit(appends, None)
    }

    fn read(&self, room: &str, first: u64, last: u64, limit: usize) -> Result<Vec<Record>, StoreError> {
        self.with(|engine| {
            let head = engine.state(&self.layout.dir, room)?.last_seq;
            let first = first.max(1);
            let last = last.min(head).min(first.saturating_add(limit as u64).saturating_sub(1));
            if first > last || limit == 0 {
                return Ok(Vec::new());
            }
            Log::now(&self.layout.dir, &engine.tree, room)?.range(first, last, head)
        })
    }

    fn keys(&self, room: &str, first: u64, since_ms: u64) -> Result<Vec<StoredKey>, StoreError> {
        let has_rows = self.with(|engine| Ok(engine.keys_since_ms.load(Ordering::Relaxed) <= since_ms))?;
        if !has_rows {
            return keys::from_records(self, room, first, since_ms);
        }
        self.with(|engine| {
            let head = engine.state(&self.layout.dir, room)?.last_seq;
            if first > head {
                return Ok(Vec::new());
            }
            Log::now(&self.layout.dir, &engine.tree, room)?.keys(first, head, since_ms)
        })
    }

    fn reserved_ids(&self) -> Result<u64, StoreError> {
        self.with(|engine| Ok(engine.tree.setting(&self.layout.dir, layout::RESERVED)?.unwrap_or(0)))
    }

    fn reserve_ids(&self, until_ms: u64) -> Result<(), StoreError> {
        if self.reserved_ids()? >= until_ms { Ok(()) } else { self.commit(&[], Some(until_ms)) }
    }

    fn append_reserving(&self, appends: &[Append], until_ms: u64) -> Result<(), StoreError> {
        self.commit(appends, Some(until_ms.max(self.reserved_ids()?)))
    }

    fn release_ids(&self, used_ms: u64) -> Result<(), StoreError> {
        if self.reserved_ids()? <= used_ms { Ok(()) } else { self.commit(&[], Some(used_ms)) }
    }

    fn rooms(&self, after: Option<&str>, limit: usize) -> Result<Vec<Arc<str>>, StoreError> {
        self.with(|engine| engine.tree.rooms(&self.layout.dir, after, limit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_failed_write_appends_are_refused_and_reads_go_on_until_it_is_opened_again() {
        let dir = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(&dir, Options::default()).unwrap();
        store.reserve_ids(5).unwrap();
        let failed_fsync = fjall::Error::Io(rustix::io::Errno::IO.into());
        store.failed(&mut store.appender(), failed_fsync);
        for refused in [store.append(&[]), store.reserve_ids(9)] {
            let message = refused.unwrap_err().to_string();
            assert!(message.contains("an earlier write failed") && message.contains("restart"), "{message}");
        }
        assert_eq!(store.reserved_ids().unwrap(), 5);
        drop(store);
        EmbeddedStore::open(&dir, Options::default()).unwrap().reserve_ids(9).unwrap();
    }
}
