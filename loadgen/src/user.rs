//! One virtual user's connection: what a thread keeps for each, in one array.

use protocol::frame::{Decoder, Role};
use uring::Socket;

/// Larger messages of the server are refused, bytes.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// How far a connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Not opened yet.
    Idle,
    Connecting,
    /// The request head is sent.
    Handshaking,
    /// Connect and join are sent.
    Joining,
    Joined,
    /// Dropped out, and not connecting again yet.
    Away,
    /// Closed or failed; nothing more is expected of it.
    Ended,
}

/// State of a user; its number is its place in the thread's array.
#[derive(Debug)]
pub struct User {
    pub socket: Socket,
    pub ring: u16,
    pub phase: Phase,
    /// It has dropped out once: it joins where it left off, and is verified but not timed any more.
    pub returns: bool,
    /// The server may compress what it sends.
    pub deflate: bool,
    pub room: u32,
    /// Messages sent and not answered.
    pub in_flight: u32,
    /// The seq expected next.
    pub next_seq: u64,
    /// When the present step of connecting began, nanoseconds of the run's clock.
    pub step_ns: u64,
    pub decoder: Decoder,
}

// 70,000 users are to fit in 7 MB.
const _: () = assert!(size_of::<User>() <= 100);

impl User {
    /// A user that has not connected, to be a member of `room`.
    pub fn new(room: u32) -> Self {
        Self {
            socket: Socket { slot: 0, generation: 0 },
            ring: 0,
            phase: Phase::Idle,
            returns: false,
            deflate: false,
            room,
            in_flight: 0,
            next_seq: 1,
            step_ns: 0,
            decoder: Decoder::new(Role::Client, MESSAGE_BYTES_MAX),
        }
    }

    /// The handshake is over: from now on the server may compress what it sends, or not.
    pub fn accept(&mut self, deflate: bool) {
        let decoder = Decoder::new(Role::Client, MESSAGE_BYTES_MAX);
        self.decoder = if deflate { decoder.with_deflate() } else { decoder };
        self.deflate = deflate;
    }

    /// Takes the decoder out while its output is being handled.
    pub fn take_decoder(&mut self) -> Decoder {
        std::mem::replace(&mut self.decoder, Decoder::new(Role::Client, MESSAGE_BYTES_MAX))
    }
}
