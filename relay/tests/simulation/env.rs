//! What all parts of one simulation share: randomness, time, the network, the oracle and the trace.

use std::collections::BTreeMap;

use fastrand::Rng;
use protocol::frame::{Deflater, Inflater};
use protocol::snowflake::EPOCH_MS;
use relay::ids::SessionId;
use relay::shard::Now;

use crate::oracle::Oracle;
use crate::plan::Plan;
use crate::sabotage::Sabotage;
use crate::socket::Socket;

/// How often things worth meeting were met, by name.
pub type Met = BTreeMap<&'static str, u64>;

/// The world around shards and clients.
pub struct Env {
    pub rng: Rng,
    pub plan: Plan,
    /// Of the process that runs.
    pub nonce: u64,
    pub sabotage: Option<Sabotage>,
    pub clock: Clock,
    pub sockets: BTreeMap<SessionId, Socket>,
    pub oracle: Oracle,
    /// For the clients' side of permessage-deflate.
    pub deflater: Deflater,
    /// Out while a message it inflated is read.
    pub inflater: Option<Inflater>,
    /// Nothing goes wrong now, and nobody begins anything.
    pub calm: bool,
    pub met: Met,
    pub trace: Trace,
}

impl Env {
    pub fn meet(&mut self, what: &'static str) {
        *self.met.entry(what).or_default() += 1;
    }

    /// True in `percent` of the cases.
    pub fn chance(&mut self, percent: u32) -> bool {
        self.rng.u32(..100) < percent
    }

    /// What a socket takes before it would block.
    pub fn socket_bytes(&self) -> usize {
        if self.calm { usize::MAX } else { self.plan.socket_bytes }
    }
}

/// Monotonic time of the process, wall time and CPU time.
#[derive(Default)]
pub struct Clock {
    pub us: u64,
    began_us: u64,
    back_ms: u64,
    cpu_us: u64,
}

impl Clock {
    pub fn pass(&mut self, us: u64, rng: &mut Rng) {
        self.us += us;
        self.cpu_us += us.min(10_000) * rng.u64(..=100) / 100;
    }

    /// A process starts: its monotonic time starts at 0.
    pub fn restart(&mut self) {
        self.began_us = self.us;
    }

    pub fn step_back(&mut self, ms: u64) {
        self.back_ms += ms;
    }

    /// How long ago this wall time was at most, milliseconds.
    pub fn age_ms_max(&self, wall_ms: u64) -> u64 {
        self.latest_ms().saturating_sub(wall_ms)
    }

    /// The latest wall time there was, milliseconds.
    pub fn latest_ms(&self) -> u64 {
        self.wall_ms() + self.back_ms
    }

    pub fn wall_ms(&self) -> u64 {
        EPOCH_MS + 1_000_000_000 + self.us / 1000 - self.back_ms
    }

    pub fn now(&self) -> Now {
        Now { us: self.us - self.began_us, wall_ms: self.wall_ms(), cpu_us: self.cpu_us }
    }
}

/// The story of a simulation, line by line; costs nothing unless it is wanted.
pub enum Trace {
    Off,
    Kept(Vec<String>),
    Printed,
}

impl Trace {
    pub fn add(&mut self, line: impl FnOnce() -> String) {
        match self {
            Self::Off => {}
            Self::Kept(lines) => lines.push(line()),
            Self::Printed => println!("{}", line()),
        }
    }
}
