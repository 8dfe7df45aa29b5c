//! The mark files: a second, independent memory of how far each log was durable.
//!
//! An LSM journal that is damaged or shortened is silently cut off there when it is opened, so the tree alone cannot
//! know what it lost. After each commit, once its fsync has returned, one write notes the new ends of its logs here.
//! So a mark is never ahead of the data. The file itself is synced by a thread of its own, at most once a second and on
//! close: no commit pays for a second fsync, and killing the process loses no mark, since the kernel has the bytes.
//! What this cannot see: after a power failure the marks of the last second may be missing, and a loss of exactly
//! those commits' records (which were on disk) would go unnoticed.
//!
//! Files are numbered and the highest is written to. When it is large, the next begins and all before it are merged.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::error::{from_io, unreadable};
use super::mark::{self, Mark, MarkMap};
use crate::StoreError;

const SYNC_EVERY: Duration = Duration::from_secs(1);
/// A file is merged with its predecessors beyond this size.
const MERGE_BYTES: u64 = 16 << 20;

/// Open for writing. Appends note marks, one thread syncs and merges.
#[derive(Debug)]
pub struct Marks {
    shared: Arc<Shared>,
    syncer: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    dir: PathBuf,
    active: Mutex<Active>,
    changed: Condvar,
}

#[derive(Debug)]
struct Active {
    file: Arc<File>,
    number: u64,
    len: u64,
    buffer: Vec<u8>,
    dirty: bool,
    closing: bool,
    failed: Option<String>,
}

/// All marks in `dir`; None when there is no mark file at all.
///
/// # Errors
/// [`StoreError::Unreadable`] when bytes that were once on disk are damaged, unless `accept_loss`.
pub fn read_all(dir: &Path, accept_loss: bool) -> Result<Option<MarkMap>, StoreError> {
    let files = numbered(dir).map_err(|error| from_io(dir, error))?;
    let mut marks = MarkMap::new();
    for (_, path) in &files {
        let bytes = std::fs::read(path).map_err(|error| from_io(path, error))?;
        let outcome = mark::read(&bytes, &mut marks);
        if let Err(offset) = outcome
            && !accept_loss
        {
            let message = format!(
                "damaged at byte {offset}, so a loss of messages could go unnoticed; restore the directory from a \
                 backup, or start with --accept-loss to go on with what is readable"
            );
            return Err(unreadable(path, message));
        }
    }
    Ok((!files.is_empty()).then_some(marks))
}

impl Marks {
    /// Replaces all mark files in `dir` by one with these marks, synced, and starts to write a new one.
    pub fn start(dir: &Path, marks: &MarkMap) -> std::io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let last = numbered(dir)?.last().map_or(0, |(number, _)| *number);
        merge_into(dir, last + 1, marks)?;
        let active = Active {
            file: Arc::new(File::create_new(path_of(dir, last + 2))?),
            number: last + 2,
            len: 0,
            buffer: Vec::new(),
            dirty: false,
            closing: false,
            failed: None,
        };
        File::open(dir)?.sync_all()?;
        let shared = Arc::new(Shared { dir: dir.to_owned(), active: Mutex::new(active), changed: Condvar::new() });
        let for_syncer = shared.clone();
        let syncer = std::thread::Builder::new().name("storage-marks".into()).spawn(move || for_syncer.sync_loop())?;
        Ok(Self { shared, syncer: Some(syncer) })
    }

    /// Notes that these logs are durable up to here, in one write.
    ///
    /// # Errors
    /// When that write or an earlier sync failed. A write may be repeated; a sync that failed is for good.
    pub fn note<'a>(&self, marks: impl Iterator<Item = (&'a str, Mark)>) -> std::io::Result<()> {
        let mut active = self.shared.lock();
        if let Some(failed) = &active.failed {
            return Err(std::io::Error::other(failed.clone()));
        }
        let mut buffer = std::mem::take(&mut active.buffer);
        buffer.clear();
        for (room, mark) in marks {
            mark::write_mark(&mut buffer, room, mark);
        }
        let outcome = active.write(&buffer);
        active.buffer = buffer;
        outcome?;
        if !std::mem::replace(&mut active.dirty, true) {
            self.shared.changed.notify_one();
        }
        Ok(())
    }
}

impl Drop for Marks {
    /// Syncs and ends the thread.
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.changed.notify_one();
        if let Some(syncer) = self.syncer.take() {
            // A panic of that thread was already reported by itself, and there is nothing left to sync here.
            let _ = syncer.join();
        }
    }
}

impl Active {
    /// At the known end, so that a write after one that failed half-way overwrites its rest.
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.file.write_all_at(bytes, self.len)?;
        self.len += bytes.len() as u64;
        Ok(())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Active> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sync_loop(&self) {
        let mut active = self.lock();
        loop {
            active = self
                .changed
                .wait_while(active, |active| !active.dirty && !active.closing)
                .unwrap_or_else(PoisonError::into_inner);
            active = self
                .changed
                .wait_timeout_while(active, SYNC_EVERY, |active| !active.closing)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
            if active.dirty && active.failed.is_none() {
                active = self.sync(active);
            }
            if active.closing && (!active.dirty || active.failed.is_some()) {
                return;
            }
            if active.len > MERGE_BYTES {
                active = self.merge(active);
            }
        }
    }

    /// Syncs without holding the lock, then writes down how much that covered.
    fn sync<'a>(&'a self, mut active: MutexGuard<'a, Active>) -> MutexGuard<'a, Active> {
        active.dirty = false;
        let (file, length) = (active.file.clone(), active.len);
        drop(active);
        let outcome = file.sync_data();
        active = self.lock();
        let mut entry = Vec::new();
        mark::write_synced(&mut entry, length);
        if let Err(error) = outcome.and_then(|()| active.write(&entry)) {
            active.failed = Some(format!("the mark file could not be synced ({error}); restart the relay"));
        }
        active
    }

    /// Begins the next file and merges all before it. When that fails the old files simply stay.
    fn merge<'a>(&'a self, mut active: MutexGuard<'a, Active>) -> MutexGuard<'a, Active> {
        let full = active.number;
        let Ok(file) = File::create_new(path_of(&self.dir, full + 1)) else {
            return active;
        };
        active = self.sync_before_leaving(active);
        active.file = Arc::new(file);
        active.number = full + 1;
        active.len = 0;
        drop(active);
        let merged = numbered(&self.dir).and_then(|files| {
            let mut marks = MarkMap::new();
            for (_, path) in files.iter().filter(|(number, _)| *number <= full) {
                mark::read(&std::fs::read(path)?, &mut marks).map_err(|offset| {
                    std::io::Error::other(format!("{} is damaged at byte {offset}", path.display()))
                })?;
            }
            merge_into(&self.dir, full, &marks)
        });
        active = self.lock();
        if let Err(error) = merged
            && error.kind() != std::io::ErrorKind::StorageFull
        {
            active.failed = Some(format!("the mark files could not be merged ({error}); restart the relay"));
        }
        active
    }

    fn sync_before_leaving<'a>(&'a self, mut active: MutexGuard<'a, Active>) -> MutexGuard<'a, Active> {
        while active.dirty && active.failed.is_none() {
            active = self.sync(active);
        }
        active
    }
}

fn path_of(dir: &Path, number: u64) -> PathBuf {
    dir.join(number.to_string())
}

/// The mark files in ascending order of their numbers.
fn numbered(dir: &Path) -> std::io::Result<Vec<(u64, PathBuf)>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if let Some(number) = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok()) {
            files.push((number, path));
        }
    }
    files.sort_unstable();
    Ok(files)
}

/// Writes file `number` with these marks, synced, then removes all before it. A crash leaves the old ones or the new.
fn merge_into(dir: &Path, number: u64, marks: &MarkMap) -> std::io::Result<()> {
    let mut entries = Vec::new();
    for (room, &mark) in marks {
        mark::write_mark(&mut entries, room, mark);
    }
    // What says that all of it is on disk comes first, so that a file cut short is noticed.
    let mut bytes = Vec::new();
    mark::write_synced(&mut bytes, (mark::SYNCED_BYTES + entries.len()) as u64);
    bytes.append(&mut entries);
    let unfinished = dir.join("unfinished");
    let file = File::create(&unfinished)?;
    file.write_all_at(&bytes, 0)?;
    file.sync_all()?;
    std::fs::rename(&unfinished, path_of(dir, number))?;
    File::open(dir)?.sync_all()?;
    for (old, path) in numbered(dir)? {
        if old < number {
            std::fs::remove_file(path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(last_seq: u64) -> Mark {
        Mark { epoch: 1, last_seq, last_id: last_seq }
    }

    #[test]
    fn merging_keeps_the_latest_marks_and_leaves_two_files() {
        let dir = tempfile::tempdir().unwrap();
        let marks = Marks::start(dir.path(), &MarkMap::from([("old".into(), mark(1)), ("a".into(), mark(1))])).unwrap();
        for round in 2..5 {
            marks.note([("a", mark(round)), ("b", mark(round * 10))].into_iter()).unwrap();
            drop(marks.shared.merge(marks.shared.lock()));
            assert_eq!(numbered(dir.path()).unwrap().len(), 2);
        }
        marks.note([("b", mark(41))].into_iter()).unwrap();
        drop(marks);
        let expected = MarkMap::from([("old".into(), mark(1)), ("a".into(), mark(4)), ("b".into(), mark(41))]);
        assert_eq!(read_all(dir.path(), false).unwrap(), Some(expected));
    }

    #[test]
    fn what_was_noted_is_readable_at_once_and_marked_as_synced_when_closed() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read_all(dir.path(), false).unwrap(), None);
        let marks = Marks::start(dir.path(), &MarkMap::new()).unwrap();
        marks.note([("a", mark(5))].into_iter()).unwrap();
        assert_eq!(read_all(dir.path(), false).unwrap().unwrap()["a"], mark(5));
        drop(marks);
        let (_, active) = numbered(dir.path()).unwrap().pop().unwrap();
        let mut bytes = std::fs::read(&active).unwrap();
        bytes[10] ^= 1;
        std::fs::write(&active, bytes).unwrap();
        assert!(matches!(read_all(dir.path(), false), Err(StoreError::Unreadable { .. })));
    }
}
