//! Who may write a data directory: one process, one store.

use std::fs::{self, File, TryLockError};

use super::error::from_io;
use super::recovery::Layout;
use crate::store::StoreError;

/// Holds the file `lock` of a data directory until it is dropped or its process ends.
pub struct Lock(File);

impl Lock {
    /// Makes the directory if it is not there.
    pub fn take(layout: &Layout) -> Result<Self, StoreError> {
        let io = |error| from_io(&layout.dir, error);
        fs::create_dir_all(&layout.dir).map_err(io)?;
        let file =
            File::options().create(true).truncate(false).write(true).open(layout.dir.join("lock")).map_err(io)?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => Err(StoreError::Locked { path: layout.dir.clone() }),
            Err(TryLockError::Error(error)) => Err(io(error)),
        }
    }
}

impl Drop for Lock {
    /// Closing the file is not enough: a child that is being started has it open as well, until it runs its program.
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_free_when_its_store_is_gone_though_a_child_has_the_file_open() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::of(dir.path());
        let lock = Lock::take(&layout).unwrap();
        let of_a_child = lock.0.try_clone().unwrap();
        assert!(matches!(Lock::take(&layout), Err(StoreError::Locked { .. })));
        drop(lock);
        Lock::take(&layout).unwrap();
        drop(of_a_child);
    }
}
