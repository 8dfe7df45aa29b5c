//! Descriptors on their way into the fixed-file table, a few hundred per system call.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use io_uring::Submitter;

/// So many wait at most, so that they never use up the process's descriptors.
const WAITING_MAX: usize = 256;

/// Descriptors that have a slot but are not in the table yet. They must be placed before any operation on their slots
/// is submitted.
#[derive(Default)]
pub struct Arrivals {
    waiting: Vec<(u16, OwnedFd)>,
}

impl Arrivals {
    pub fn add(&mut self, slot: u16, fd: OwnedFd) {
        self.waiting.push((slot, fd));
    }

    pub fn is_full(&self) -> bool {
        self.waiting.len() >= WAITING_MAX
    }

    /// Puts all into the table and closes them here. One that the kernel refuses (no memory) leaves its slot empty:
    /// its operations then fail with EBADF, and that is how its owner learns of it.
    pub fn place(&mut self, submitter: &Submitter<'_>) {
        if self.waiting.is_empty() {
            return;
        }
        self.waiting.sort_unstable_by_key(|(slot, _)| *slot);
        for run in self.waiting.chunk_by(|(a, _), (b, _)| a + 1 == *b) {
            let fds: Vec<RawFd> = run.iter().map(|(_, fd)| fd.as_raw_fd()).collect();
            let first = u32::from(run[0].0);
            let mut done = 0;
            while done < fds.len() {
                done += submitter.register_files_update(first + done as u32, &fds[done..]).unwrap_or(0).max(1);
            }
        }
        self.waiting.clear();
    }
}
