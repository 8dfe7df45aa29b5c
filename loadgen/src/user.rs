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
    /// Its connection is gone, and it does not connect again yet.
    Away,
    /// Closed or failed; nothing more is expected of it.
    Ended,
}

impl Phase {
    /// Whether there is a connection, made or being made.
    pub fn has_connection(self) -> bool {
        !matches!(self, Self::Idle | Self::Away | Self::Ended)
    }
}

/// State of a user; its number is its place in the thread's array.
#[derive(Debug)]
pub struct User {
    pub socket: Socket,
    pub ring: u16,
    pub phase: Phase,
    /// It has lost its connection once: from then on it joins where it left off.
    pub returns: bool,
    /// What it receives counts in the times.
    pub is_timed: bool,
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
            is_timed: true,
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
