//! One eventfd per thread: its rings, other threads and signal handlers all wake it the same way.

use std::os::fd::BorrowedFd;
use std::time::Duration;

/// Cheap to clone and to send to other threads.
#[derive(Clone, Debug)]
pub struct Wake {}

impl Wake {
    pub fn new() -> std::io::Result<Self> {
        unimplemented!()
    }
    /// Makes the owner's next or current wait return. Never blocks.
    pub fn wake(&self) {
        unimplemented!()
    }
    /// Forgets past wake-ups; call before looking at the queues, then look, then wait.
    pub fn clear(&self) {
        unimplemented!()
    }
    /// Blocks the thread until woken or until the time is over (loadgen and tests; the relay waits inside glommio on
    /// [`Wake::fd`], which is readable when woken).
    pub fn wait(&self, _timeout: Duration) {
        unimplemented!()
    }
    pub fn fd(&self) -> BorrowedFd<'_> {
        unimplemented!()
    }
}
