//! One simulated TCP connection: what the kernel and the network hold between a client and its shard.

use std::collections::VecDeque;
use std::io;

use fastrand::Rng;
use uring::Segment;

use crate::sabotage::Sabotage;

/// What a socket that trickles takes at once, bytes.
const TRICKLE_BYTES_MAX: usize = 16;

/// Both directions of a connection, and the shard's one send.
#[derive(Default)]
pub struct Socket {
    /// The shard was told of it.
    pub opened: bool,
    /// It is one connection too many: the handshake is answered 503.
    pub refused: bool,
    /// Stands for where it comes from.
    pub address: u32,
    /// It takes a few bytes at a time.
    trickles: bool,
    /// From the client, not received yet.
    pub up: VecDeque<u8>,
    /// Taken from the shard, not read by the client yet.
    pub down: VecDeque<u8>,
    /// The send in flight, and a copy of its bytes: they may not change until it ends.
    sending: Option<(Segment, Vec<u8>)>,
    /// The last send ended in the middle of a segment.
    is_cut: bool,
    pub wants_writable: bool,
    /// The shard asked not to be given what the client sends.
    pub paused: bool,
    pub paused_turns: u32,
    pub client_gone: bool,
    pub server_closed: bool,
}

impl Socket {
    pub fn new(refused: bool, trickles: bool, address: u32) -> Self {
        Self { refused, address, trickles, ..Self::default() }
    }

    pub fn is_sending(&self) -> bool {
        self.sending.is_some()
    }

    /// The shard starts a send.
    pub fn send(&mut self, segment: Segment) {
        assert!(self.sending.is_none(), "a second send while one is in flight");
        assert!(!self.wants_writable, "a send while the socket is waited for to be writable");
        assert!(!segment.is_empty(), "a send of nothing");
        let copy = segment.bytes().to_vec();
        self.sending = Some((segment, copy));
    }

    /// The send ends: the network takes all, some or nothing of it.
    pub fn end_send(
        &mut self,
        rng: &mut Rng,
        capacity: usize,
        sabotage: Option<Sabotage>,
    ) -> Option<io::Result<usize>> {
        let (segment, copy) = self.sending.take()?;
        assert!(segment.bytes() == copy, "bytes changed while they were being sent");
        if self.client_gone && rng.bool() {
            return Some(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let space = if self.client_gone { usize::MAX } else { capacity.saturating_sub(self.down.len()) };
        let mut taken = copy.len().min(space);
        if rng.u8(..8) == 0 && capacity != usize::MAX {
            taken = 0;
        }
        if self.trickles && capacity != usize::MAX {
            taken = taken.min(rng.usize(..=TRICKLE_BYTES_MAX));
        }
        if taken > 1 && rng.u8(..4) == 0 && capacity != usize::MAX {
            taken = rng.usize(1..=taken);
        }
        if taken == 0 {
            return Some(Err(io::ErrorKind::WouldBlock.into()));
        }
        if !self.client_gone {
            let is_whole = taken == copy.len();
            self.take(&copy[..taken], is_whole && !self.is_cut, rng, sabotage);
            self.is_cut = !is_whole;
        }
        Some(Ok(taken))
    }

    fn take(&mut self, bytes: &[u8], whole: bool, rng: &mut Rng, sabotage: Option<Sabotage>) {
        self.down.extend(bytes);
        let http = bytes.starts_with(b"HTTP");
        if http || rng.u8(..20) != 0 {
            return;
        }
        match sabotage {
            Some(Sabotage::SendTwice) if whole => self.down.extend(bytes),
            Some(Sabotage::LoseSend) if whole => self.down.truncate(self.down.len() - bytes.len()),
            Some(Sabotage::FlipBit) => {
                let at = self.down.len() - 1 - rng.usize(..bytes.len());
                self.down[at] ^= 1 << rng.u8(..8);
            }
            _ => {}
        }
    }

    pub fn is_writable(&self, capacity: usize) -> bool {
        self.client_gone || self.down.len() < capacity
    }

    /// Some bytes from the client, at most `most`.
    pub fn receive(&mut self, most: usize) -> Vec<u8> {
        let count = self.up.len().min(most);
        self.up.drain(..count).collect()
    }

    /// The server's end is gone. What the client has not read may or may not arrive.
    pub fn close_server(&mut self, keep_bytes: usize) {
        self.server_closed = true;
        self.sending = None;
        self.wants_writable = false;
        self.up.clear();
        self.down.truncate(keep_bytes);
    }

    /// Nothing moves any more without the client or the shard.
    pub fn is_quiet(&self) -> bool {
        self.up.is_empty() && self.down.is_empty() && self.sending.is_none() && !self.wants_writable
    }
}
