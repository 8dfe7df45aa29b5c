//! One listener of a ring and its accepts under way.

use std::io;
use std::net::TcpListener;

/// A listener; it keeps its place in the ring's list, so its index names it.
pub struct Acceptor {
    /// None once closed.
    pub listener: Option<TcpListener>,
    /// No accept is armed any more; the listener closes as soon as the pending ones have ended.
    pub stopping: bool,
    /// Accepts that the kernel has.
    pub pending: u16,
    /// Accepting rests for a moment, because descriptors or memory ran out.
    pub pausing: bool,
}

/// Whether accepting again at once would fail again: descriptors or memory ran out, or the listener is unusable.
pub fn needs_pause(error: &io::Error) -> bool {
    !matches!(error.raw_os_error(), Some(libc::ECANCELED | libc::ECONNABORTED | libc::EINTR | libc::EAGAIN))
}
