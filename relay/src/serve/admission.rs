//! How many connections there may be, and where each goes: this shard, another one, or away with a 503.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::os::fd::OwnedFd;

use protocol::handshake;

use crate::config::Limits;
use crate::invalid::Invalid;
use crate::shard::{FULL, FULL_RETRY_S};

/// Slots of each shard beyond its share: a connection that is one too many is answered there, not cut off.
const SPARE: usize = 64;

/// How many connections a relay takes, and which limit says so.
#[derive(Debug, Clone, Copy)]
pub struct Capacity {
    pub connections: usize,
    pub shards: usize,
    /// Rings of each shard and the slots of each ring.
    pub rings: usize,
    pub slots: u16,
    nofile: u64,
}

impl Capacity {
    /// Rings as needed for `--max-connections`: a ring's table of sockets is limited like a process's open files.
    pub fn new(limits: &Limits, shards: usize) -> Result<Self, Invalid> {
        let nofile = uring::open_files_max();
        let slots_max = nofile.min(32_768) as usize;
        let share = limits.max_connections.div_ceil(shards) + SPARE;
        let rings = share.div_ceil(slots_max);
        if rings > 256 {
            return Err(Invalid(format!(
                "--max-connections {} needs {rings} rings a shard, but 256 is the most; raise the limit of open files (ulimit -n, now {nofile}) or --shards",
                limits.max_connections
            )));
        }
        let slots = share.div_ceil(rings) as u16;
        Ok(Self { connections: limits.max_connections, shards, rings, slots, nofile })
    }

    /// Connections this shard takes; all shards together take exactly `connections`.
    pub fn share(&self, shard: usize) -> usize {
        (self.connections + self.shards - 1 - shard) / self.shards
    }
}

impl std::fmt::Display for Capacity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { connections, shards, rings, slots, nofile } = self;
        write!(
            f,
            "{connections} connections, limited by --max-connections ({shards} shards × {rings} rings × {slots} sockets; a ring may have up to {} by ulimit -n)",
            (*nofile).min(32_768)
        )
    }
}

/// A connection on its way to a shard that has room, and how many shards have refused it.
pub struct Handover {
    pub fd: OwnedFd,
    pub refused: usize,
}

/// Answers a connection for which there is not even a spare slot.
pub fn turn_away(fd: OwnedFd) {
    let mut response = Vec::new();
    handshake::refuse(503, FULL, Some(FULL_RETRY_S), &mut response);
    let mut stream = TcpStream::from(fd);
    // The peer may be gone already; there is nobody else to tell.
    let _ = stream.set_nonblocking(true);
    let _ = stream.write_all(&response);
    let _ = stream.shutdown(Shutdown::Write);
}
