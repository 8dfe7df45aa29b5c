//! One io_uring with its table of sockets.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;

use crate::{Segment, Wake};

/// Sizes of a ring. All memory is allocated when it is made.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// Slots for connections, at most RLIMIT_NOFILE.
    pub sockets: u16,
    /// Provided receive buffers, a power of two.
    pub recv_buffers: u16,
    pub recv_buffer_bytes: u32,
    /// Submission queue entries, a power of two; the completion queue has eight times as many.
    pub queue_entries: u32,
}

/// A connection of one ring. A slot that was closed and taken again has another generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Socket {
    pub slot: u16,
    pub generation: u32,
}

/// Why a ring could not be made; each message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error("io_uring is not available: {0}")]
    Unavailable(String),
    #[error("a ring of {sockets} sockets is over this process's limit of {limit} open files (ulimit -n)")]
    TooManySockets { sockets: u16, limit: u64 },
    #[error("cannot set up io_uring: {0}")]
    Io(#[from] io::Error),
}

/// What happened. Errors are per socket; the ring itself goes on.
#[derive(Debug)]
pub enum Event<'a> {
    /// A new connection on a listener, as an ordinary descriptor: hand it to [`Ring::register`] of any ring, or
    /// answer and drop it.
    Accepted(OwnedFd),
    /// Accepting failed (descriptors or memory ran out); the ring tries again at the next turn.
    AcceptFailed(io::Error),
    Connected(Socket, io::Result<()>),
    /// Bytes from the peer, the caller's until the call returns; may be decoded in place.
    Received(Socket, &'a mut [u8]),
    /// The send ended: so many bytes were taken (maybe fewer than given). `WouldBlock`: none were, and
    /// [`Ring::wait_writable`] tells when to try again.
    Sent(Socket, io::Result<usize>),
    Writable(Socket),
    /// The peer closed (None) or the connection failed. Nothing more is received; call [`Ring::close`].
    Ended(Socket, Option<io::Error>),
    /// The slot is free; no further event of this socket comes.
    Closed(Socket),
}

/// An io_uring of one thread, its fixed-file table and its receive buffers.
pub struct Ring {}

impl Ring {
    /// `wake` is notified when completions arrive.
    pub fn new(_config: Config, _wake: &Wake) -> Result<Self, SetupError> {
        unimplemented!()
    }
    /// Free slots.
    pub fn free(&self) -> usize {
        unimplemented!()
    }
    /// Accepts from this listener until [`Ring::stop_listening`].
    pub fn listen(&mut self, _listener: TcpListener) {
        unimplemented!()
    }
    /// Stops accepting and closes the listener(s).
    pub fn stop_listening(&mut self) {
        unimplemented!()
    }
    /// Moves an accepted connection into a slot and starts to receive. Gives the descriptor back when no slot is free.
    pub fn register(&mut self, _fd: OwnedFd) -> Result<Socket, OwnedFd> {
        unimplemented!()
    }
    /// Opens a connection from `source` (port 0 with IP_BIND_ADDRESS_NO_PORT); [`Event::Connected`] tells the outcome
    /// and, when it is good, receiving has started. `WouldBlock` when no slot is free.
    pub fn connect(&mut self, _source: Option<SocketAddr>, _target: SocketAddr) -> io::Result<Socket> {
        unimplemented!()
    }
    /// Queues one SEND (MSG_DONTWAIT | MSG_NOSIGNAL). At most one may be in flight per socket (asserted).
    pub fn send(&mut self, _socket: Socket, _segment: Segment) {
        unimplemented!()
    }
    /// Arms one writability poll; answers with [`Event::Writable`].
    pub fn wait_writable(&mut self, _socket: Socket) {
        unimplemented!()
    }
    /// Stops receiving for now (a reader that is slow on purpose); bytes stay in the kernel.
    pub fn pause(&mut self, _socket: Socket) {
        unimplemented!()
    }
    /// Goes on after [`Ring::pause`].
    pub fn resume(&mut self, _socket: Socket) {
        unimplemented!()
    }
    /// Ends the connection: pending operations end, the peer gets what was sent and a FIN; [`Event::Closed`] follows.
    /// Calls for a socket that is closing or closed already are ignored.
    pub fn close(&mut self, _socket: Socket) {
        unimplemented!()
    }
    /// Enters the kernel once: submits what is queued and takes what has completed, giving each event to `each` until
    /// no completion is left. Returns how many events there were.
    pub fn turn(&mut self, _each: impl FnMut(Event<'_>)) -> usize {
        unimplemented!()
    }
}
