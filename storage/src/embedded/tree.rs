//! The LSM tree of one data directory: how it is opened and the few rows that are not about one log.

use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use fjall::compaction::Leveled;
use fjall::compaction::filter::{CompactionFilter, CompactionFilterResult, Context, Factory, ItemAccessor, Verdict};
use fjall::config::BlockSizePolicy;
use fjall::{CompressionType, Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode, Readable};

use super::Options;
use super::error::{from_fjall, from_io, unreadable};
use super::layout::{self, Keys};
use crate::{StoreError, StoredKey};

const ROWS: &str = "rows";
/// Apart, so that what is soon forgotten is not merged with what stays.
const KEYS: &str = "keys";
/// New rows of keys in memory, bytes: small, since a journal stays until both keyspaces have theirs in tables.
const KEYS_BUFFER_BYTES: u64 = 4 << 20;
/// Records of a log lie together, so larger blocks compress better and a page of history is one or two of them.
const BLOCK_BYTES: u32 = 16 << 10;
/// The first only flushes, and hands compactions back until another takes them: with one other that merges for long it
/// spins, so there are two. With one worker alone a long compaction would hold up flushes, and they the appends.
const WORKERS: usize = 3;
/// New tables that are merged at once, into the level below. While the result of a merge is noted, appends wait, up to
/// tens of milliseconds: twelve at once, instead of fjall's four, means a third of the merges and half of their CPU. From
/// twenty on fjall holds appends up.
const TABLES_MERGED: u8 = 12;
/// The least fjall allows. Journals go as soon as their records are in tables; this is where it begins to hurry.
const JOURNALS_BYTES_MAX: u64 = 64 << 20;
const TABLE_FILES_OPEN_MAX: usize = 256;

/// fjall's database with its keyspaces.
#[derive(Clone)]
pub struct Tree {
    pub db: Database,
    pub rows: Keyspace,
    pub keys: Keyspace,
}

impl Tree {
    /// Opens the tree in `dir`.
    pub fn open(dir: &Path, options: &Options) -> Result<Self, StoreError> {
        // Records are mostly shorter than what the journal would compress (4 KiB), and for the others CPU is dearer
        // than journal bytes. Tables keep fjall's default: LZ4 from the second level down, where records stay.
        let open = || {
            let db = Database::builder(dir)
                .cache_size(options.cache_bytes)
                .journal_compression(CompressionType::None)
                .max_cached_files(Some(TABLE_FILES_OPEN_MAX))
                .max_journaling_size(JOURNALS_BYTES_MAX)
                .worker_threads(WORKERS)
                .with_compaction_filter_factories(Arc::new(|keyspace| match keyspace {
                    KEYS => Some(Arc::new(Forgetting)),
                    _ => None,
                }))
                .open()?;
            let rows = db.keyspace(ROWS, || {
                KeyspaceCreateOptions::default()
                    .data_block_size_policy(BlockSizePolicy::all(BLOCK_BYTES))
                    .max_memtable_size(options.write_buffer_bytes)
                    .compaction_strategy(Arc::new(Leveled::default().with_l0_threshold(TABLES_MERGED)))
            })?;
            let keys = db.keyspace(KEYS, || {
                KeyspaceCreateOptions::default().max_memtable_size(KEYS_BUFFER_BYTES.min(options.write_buffer_bytes))
            })?;
            Ok(Self { db, rows, keys })
        };
        open().map_err(|error| from_fjall(dir, error))
    }

    /// Makes a new tree in `dir`, which must not exist. It appears there whole or not at all.
    pub fn create(dir: &Path, options: &Options) -> Result<(), StoreError> {
        let unfinished = dir.with_extension("unfinished");
        let io = |error| from_io(dir, error);
        match std::fs::remove_dir_all(&unfinished) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(error)),
            _ => (),
        }
        let tree = Self::open(&unfinished, options)?;
        tree.write_settings(dir)?;
        drop(tree);
        std::fs::rename(&unfinished, dir).map_err(io)?;
        let parent = dir.parent().unwrap_or(dir);
        std::fs::File::open(parent).and_then(|parent| parent.sync_all()).map_err(io)
    }

    /// Writes the settings of a new tree; the epoch for logs that were never written is returned.
    pub fn write_settings(&self, dir: &Path) -> Result<u64, StoreError> {
        let epoch = fastrand::u64(1..);
        let mut batch = self.batch(2);
        batch.insert(&self.rows, layout::FORMAT, layout::FORMAT_VERSION.to_be_bytes());
        batch.insert(&self.rows, layout::EPOCH, epoch.to_be_bytes());
        batch.commit().map_err(|error| from_fjall(dir, error))?;
        Ok(epoch)
    }

    /// The number of a setting.
    pub fn setting(&self, dir: &Path, name: &[u8]) -> Result<Option<u64>, StoreError> {
        let Some(value) = self.rows.get(name).map_err(|error| from_fjall(dir, error))? else {
            return Ok(None);
        };
        let number = value.as_ref().try_into().map(u64::from_be_bytes);
        number
            .map(Some)
            .map_err(|_| unreadable(dir, "a setting is damaged; restore the directory from a backup".into()))
    }

    /// Rooms with a log, at most `limit` of those after `after`, shorter names first.
    pub fn rooms(&self, dir: &Path, after: Option<&str>, limit: usize) -> Result<Vec<Arc<str>>, StoreError> {
        let start = match after {
            Some(room) => Bound::Excluded(Keys::of(room)?.facts().to_vec()),
            None => Bound::Included(b"f".to_vec()),
        };
        let rows = self.db.snapshot().range(&self.rows, (start, Bound::Excluded(b"g".to_vec())));
        let mut rooms = Vec::new();
        for row in rows.take(limit) {
            let key = row.key().map_err(|error| from_fjall(dir, error))?;
            let room = Keys::room_of_facts(&key).ok_or_else(|| {
                unreadable(dir, "the key of a row of facts is damaged; restore the directory from a backup".into())
            })?;
            rooms.push(room.into());
        }
        Ok(rooms)
    }

    /// A batch whose commit returns when it is on disk (fdatasync of the journal). fjall shows its rows to readers
    /// only after that, so nobody reads what a crash could take back.
    pub fn batch(&self, rows: usize) -> OwnedWriteBatch {
        OwnedWriteBatch::with_capacity(self.db.clone(), rows).durability(Some(PersistMode::SyncData))
    }
}

/// Drops rows of keys that nobody asks for any more, when they are merged.
struct Forgetting;

impl Factory for Forgetting {
    fn name(&self) -> &'static str {
        "keys that are too old"
    }

    fn make_filter(&self, _: &Context) -> Box<dyn CompactionFilter> {
        Box::new(Newer { than_ms: now_ms().saturating_sub(layout::KEYS_KEPT_MS) })
    }
}

/// Keeps the keys of messages that were taken later.
struct Newer {
    than_ms: u64,
}

impl CompactionFilter for Newer {
    fn filter_item(&mut self, item: ItemAccessor<'_>, _: &Context) -> CompactionFilterResult {
        let is_old = StoredKey::decode(0, &item.value()?).is_ok_and(|stored| stored.time_ms < self.than_ms);
        Ok(if is_old { Verdict::Destroy } else { Verdict::Keep })
    }
}

/// Milliseconds since 1970.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Key;

    #[test]
    fn keys_that_nobody_asks_for_go_when_they_are_merged() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::open(dir.path(), &Options::default()).unwrap();
        let mut rows = Keys::of("room").unwrap();
        let age_ms = |seq| if seq <= 30 { layout::KEYS_KEPT_MS + 60_000 } else { layout::KEYS_KEPT_MS - 60_000 };
        for seq in 1..=50 {
            let key = Key { hash: u128::from(seq), body: Some(seq) };
            let mut value = Vec::new();
            StoredKey { key, seq, id: seq, time_ms: now_ms() - age_ms(seq) }.encode(&mut value);
            tree.keys.insert(rows.key(seq), value).unwrap();
        }
        assert_eq!(tree.keys.iter().count(), 50);
        tree.keys.rotate_memtable_and_wait().unwrap();
        tree.keys.major_compact().unwrap();
        let seqs: Vec<_> = tree.keys.iter().map(|row| Keys::seq_of_key(&row.key().unwrap()).unwrap()).collect();
        assert_eq!(seqs, (31..=50).collect::<Vec<_>>());
    }
}
