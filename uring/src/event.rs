//! What a ring tells its caller.

use std::io;
use std::os::fd::OwnedFd;

/// A connection of one ring. A slot that was closed and taken again has another generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Socket {
    /// Index in the ring's fixed-file table.
    pub slot: u16,
    /// How often the slot was taken before (wraps).
    pub generation: u32,
}

/// What happened. Errors are per socket; the ring itself goes on.
#[derive(Debug)]
pub enum Event<'a> {
    /// A new connection on a listener, as an ordinary (blocking, close-on-exec) descriptor: hand it to
    /// [`Ring::register`](crate::Ring::register) of any ring, or answer and drop it.
    Accepted(OwnedFd),
    /// Accepting failed (descriptors or memory ran out); the ring tries again after 10 ms.
    AcceptFailed(io::Error),
    /// The outcome of [`Ring::connect`](crate::Ring::connect). After an error call [`Ring::close`](crate::Ring::close).
    Connected(Socket, io::Result<()>),
    /// Bytes from the peer, the caller's until the call returns; may be decoded in place.
    Received(Socket, &'a mut [u8]),
    /// The send ended: so many bytes were taken (maybe fewer than given). `WouldBlock`: none were, and
    /// [`Ring::wait_writable`](crate::Ring::wait_writable) tells when to try again.
    Sent(Socket, io::Result<usize>),
    /// Room to send, or an error that the next send reports.
    Writable(Socket),
    /// The peer closed (None) or the connection failed. Nothing more is received; call
    /// [`Ring::close`](crate::Ring::close).
    Ended(Socket, Option<io::Error>),
    /// The slot is free; no further event of this socket comes.
    Closed(Socket),
}
