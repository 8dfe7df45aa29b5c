//! What all threads of a run share: the plan, the table of sends, the phase, and the gauges each thread shows.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use crate::dice::mix;
use crate::plan::Plan;
use crate::sends::Sends;
use crate::target::{Target, Url};

/// Where a run stands. Only the coordinator moves it on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    /// Users connect and join.
    Ramp = 0,
    /// What is due is sent, until the plan's end and the last ack.
    Traffic = 1,
    /// Everything is acked: threads say how many members are still behind.
    Settle = 2,
    /// The run is over and each member's tail counts.
    Stop = 3,
    /// The run was interrupted: tails do not count.
    Abort = 4,
}

/// One thread's figures while it runs; that thread is the only writer.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Gauges {
    pub joined: AtomicU64,
    pub failed: AtomicU64,
    pub sent: AtomicU64,
    pub acked: AtomicU64,
    pub delivered: AtomicU64,
    pub chunks: AtomicU64,
    pub frames: AtomicU64,
    pub bytes: AtomicU64,
    /// Messages not sent yet or sent and not answered.
    pub outstanding: AtomicU64,
    /// In [`Phase::Settle`]: members that have not reached their room's highest acked seq. `u64::MAX`: not counted yet.
    pub behind: AtomicU64,
    /// 99th percentile of delivery so far, nanoseconds.
    pub p99_ns: AtomicU64,
}

/// Read by all threads.
#[derive(Debug)]
pub struct World {
    pub plan: Plan,
    pub sends: Sends,
    pub target: Target,
    /// Host and port for the Host header, and the request's path.
    pub authority: String,
    pub path: String,
    pub address: SocketAddr,
    /// Source address of each run of `users_per_source` users; empty: the system chooses.
    pub sources: Vec<IpAddr>,
    pub users_per_source: u32,
    /// New connections per second over all threads.
    pub ramp: u32,
    /// Sockets of one ring.
    pub ring_sockets: u16,
    /// Makes idempotency keys differ between runs against one store.
    pub run_id: String,
    pub room_names: Vec<String>,
    pub gauges: Vec<Gauges>,
    phase: AtomicU8,
    t0_ns: AtomicU64,
    origin: Instant,
}

/// How the users reach the server.
#[derive(Debug, Clone)]
pub struct Route {
    pub url: Url,
    pub address: SocketAddr,
    pub sources: Vec<IpAddr>,
    pub users_per_source: u32,
    pub ramp: u32,
    pub threads: u16,
    pub ring_sockets: u16,
}

impl World {
    /// The shared state of a run that has not begun. `run_id` is a short word.
    pub fn new(plan: Plan, route: Route, run_id: String) -> Self {
        let gauges = || Gauges { behind: AtomicU64::new(u64::MAX), ..Gauges::default() };
        Self {
            sends: Sends::new(&plan),
            room_names: (0..plan.sizes.len()).map(|room| format!("load-{room}")).collect(),
            plan,
            target: route.url.target,
            authority: route.url.authority,
            path: route.url.path,
            address: route.address,
            sources: route.sources,
            users_per_source: route.users_per_source,
            ramp: route.ramp,
            ring_sockets: route.ring_sockets,
            run_id,
            gauges: (0..route.threads).map(|_| gauges()).collect(),
            phase: AtomicU8::new(Phase::Ramp as u8),
            t0_ns: AtomicU64::new(0),
            origin: Instant::now(),
        }
    }

    /// Nanoseconds since the run's clock started (`CLOCK_MONOTONIC`).
    pub fn now_ns(&self) -> u64 {
        self.origin.elapsed().as_nanos() as u64
    }

    /// Where the run stands.
    pub fn phase(&self) -> Phase {
        match self.phase.load(Relaxed) {
            0 => Phase::Ramp,
            1 => Phase::Traffic,
            2 => Phase::Settle,
            3 => Phase::Stop,
            _ => Phase::Abort,
        }
    }

    /// Moves on; threads see it within one turn of their loops.
    pub fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Relaxed);
    }

    /// Fixes when traffic starts, nanoseconds of the run's clock.
    pub fn start_traffic(&self, t0_ns: u64) {
        self.t0_ns.store(t0_ns, Relaxed);
        self.enter(Phase::Traffic);
    }

    /// When traffic starts. Read it after the phase.
    pub fn t0_ns(&self) -> u64 {
        self.t0_ns.load(Relaxed)
    }

    /// The source address of a user, with port 0.
    pub fn source_of(&self, user: u32) -> Option<SocketAddr> {
        let source = self.sources.get((user / self.users_per_source) as usize)?;
        Some(SocketAddr::new(*source, 0))
    }

    /// The handshake key of a user.
    pub fn handshake_key(&self, user: u32) -> [u8; 16] {
        let mut key = [0; 16];
        key[..8].copy_from_slice(&mix(self.plan.shape.seed, u64::from(user), 1 << 40).to_le_bytes());
        key[8..].copy_from_slice(&mix(self.plan.shape.seed, u64::from(user), 1 << 41).to_le_bytes());
        key
    }

    /// Sum of one gauge over all threads.
    pub fn total(&self, gauge: impl Fn(&Gauges) -> &AtomicU64) -> u64 {
        self.gauges.iter().map(|gauges| gauge(gauges).load(Relaxed)).fold(0, u64::saturating_add)
    }

    /// Highest value of one gauge over all threads.
    pub fn highest(&self, gauge: impl Fn(&Gauges) -> &AtomicU64) -> u64 {
        self.gauges.iter().map(|gauges| gauge(gauges).load(Relaxed)).max().unwrap_or(0)
    }
}
