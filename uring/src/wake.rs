//! One eventfd per thread: its rings, other threads and signal handlers all wake it the same way.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd};
use std::ptr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Cheap to clone and to send to other threads.
#[derive(Clone, Debug)]
pub struct Wake {
    eventfd: Arc<File>,
}

impl Wake {
    /// A wake that nobody has used yet. Fails when descriptors run out.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointer is passed; the result is checked below.
        let fd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and nobody else owns it.
        let eventfd = unsafe { File::from_raw_fd(fd) };
        Ok(Self { eventfd: Arc::new(eventfd) })
    }

    /// Makes the owner's next or current wait return. Never blocks.
    pub fn wake(&self) {
        // It fails only when the counter is full, and then it is readable anyway.
        let _ = (&*self.eventfd).write(&1u64.to_ne_bytes());
    }

    /// Forgets past wake-ups; call before looking at the queues, then look, then wait. Returns whether there were any.
    pub fn clear(&self) -> bool {
        // It fails only when there is nothing to forget.
        (&*self.eventfd).read(&mut [0; 8]).is_ok()
    }

    /// Blocks the thread until woken or until the time is over, which the kernel keeps.
    pub fn wait(&self, timeout: Duration) {
        // None is later than the clock can say: for ever.
        let deadline = Instant::now().checked_add(timeout);
        let mut poll = libc::pollfd { fd: self.eventfd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        loop {
            let left = deadline.map(|deadline| {
                let left = deadline.saturating_duration_since(Instant::now());
                libc::timespec { tv_sec: left.as_secs() as _, tv_nsec: left.subsec_nanos().into() }
            });
            let timeout = left.as_ref().map_or(ptr::null(), ptr::from_ref);
            // SAFETY: the pointers are to live local values (or null: no timeout), the count is 1, and a null mask
            // leaves signals alone.
            let ready = unsafe { libc::ppoll(&raw mut poll, 1, timeout, ptr::null()) };
            // A ring's work runs in this thread and interrupts the call: it goes on for the time that is left.
            if ready >= 0 || io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
                return;
            }
        }
    }

    /// Readable when woken.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.eventfd.as_fd()
    }
}
