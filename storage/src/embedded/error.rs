//! What fjall's and the kernel's errors mean to whoever runs the relay.

use std::io::ErrorKind;
use std::path::Path;

use crate::StoreError;

/// An I/O error somewhere in the data directory `dir`.
pub fn from_io(dir: &Path, error: std::io::Error) -> StoreError {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            StoreError::Full { path: dir.to_owned() }
        }
        ErrorKind::PermissionDenied | ErrorKind::NotADirectory | ErrorKind::ReadOnlyFilesystem => {
            unreadable(dir, format!("{error}; give the relay a directory it may write to"))
        }
        ErrorKind::NotFound | ErrorKind::AlreadyExists => {
            unreadable(dir, format!("{error}; give the relay a directory that exists or can be made"))
        }
        _ => StoreError::Io(error),
    }
}

/// An error of the LSM tree in `dir`.
pub fn from_fjall(dir: &Path, error: fjall::Error) -> StoreError {
    match error {
        fjall::Error::Io(error) | fjall::Error::Storage(fjall::LsmError::Io(error)) => from_io(dir, error),
        fjall::Error::Locked => StoreError::Locked { path: dir.to_owned() },
        fjall::Error::InvalidVersion(_) | fjall::Error::Storage(fjall::LsmError::InvalidVersion(_)) => {
            unreadable(dir, "written in another version's format; use the relay that wrote it".into())
        }
        other => unreadable(dir, format!("{other}; restore the directory from a backup")),
    }
}

/// A directory this relay cannot use, and why.
pub fn unreadable(dir: &Path, message: String) -> StoreError {
    StoreError::Unreadable { path: dir.to_owned(), message }
}
