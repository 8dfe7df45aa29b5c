//! What all threads of a run share: the plan, the table of sends, the phase, and the gauges each thread shows.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use crate::dice::mix;
use crate::plan::Plan;
use crate::room::Reference;
use crate::sends::Sends;
use crate::target::{Target, Url};

/// Where a run stands. Only the coordinator moves it on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    /// Those who write the history connect and join.
    Assemble = 0,
    /// They write it.
    History = 1,
    /// Users connect and join.
    Ramp = 2,
    /// What is due is sent, until the plan's end and the last ack.
    Traffic = 3,
    /// Everything is acked: threads say how many members are still behind.
    Settle = 4,
    /// The run is over and each member's tail counts.
    Stop = 5,
    /// The run was interrupted: tails do not count.
    Abort = 6,
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
    pub batch_bytes: AtomicU64,
    pub inflated_bytes: AtomicU64,
    /// Messages not sent yet or sent and not answered.
    pub outstanding: AtomicU64,
    /// Users that are to drop out, or have and do not have everything again.
    pub away: AtomicU64,
    /// Members at present; connections lost, but for those that a storm drops; answers that a user publishes too fast.
    pub connected: AtomicU64,
    pub lost: AtomicU64,
    pub rate_limited: AtomicU64,
    /// In [`Phase::Settle`]: members that have not reached their room's highest acked seq. `u64::MAX`: not counted yet.
    pub behind: AtomicU64,
    /// 99th percentile of delivery so far, nanoseconds.
    pub p99_ns: AtomicU64,
}

impl Gauges {
    /// This thread waits for nothing but messages that are not sent yet.
    pub fn settle(&self, unsent: u64) {
        self.outstanding.store(unsent, Relaxed);
        self.behind.store(0, Relaxed);
    }
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
    /// Users of one thread that may be connecting at the same time.
    pub dials: u64,
    /// Whether permessage-deflate is offered.
    pub deflate: bool,
    /// In the names of rooms and users and in keys, so that no other run against the same server has them too.
    pub run_id: String,
    pub room_names: Vec<String>,
    /// Threads with rings. Slow readers have one more.
    pub threads: usize,
    /// By thread.
    pub gauges: Vec<Gauges>,
    phase: AtomicU8,
    ramp_ns: AtomicU64,
    t0_ns: AtomicU64,
    /// Since traffic began.
    storm_over_ns: AtomicU64,
    /// How often not one connection was left, and when that was last, nanoseconds of the run's clock.
    outages: AtomicU64,
    outage_ns: AtomicU64,
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
    pub dials: u64,
    pub deflate: bool,
}

impl World {
    /// The shared state of a run that has not begun. `run_id` is a short word.
    pub fn new(plan: Plan, route: Route, run_id: String) -> Self {
        let threads = usize::from(route.threads);
        let slow_threads = usize::from(plan.shape.scenario.has_slow_readers());
        let first = if plan.historians.is_empty() { Phase::Ramp } else { Phase::Assemble };
        let gauges = || Gauges { behind: AtomicU64::new(u64::MAX), ..Gauges::default() };
        Self {
            sends: Sends::new(&plan),
            room_names: (0..plan.sizes.len()).map(|room| format!("load-{run_id}-{room}")).collect(),
            plan,
            target: route.url.target,
            authority: route.url.authority,
            path: route.url.path,
            address: route.address,
            sources: route.sources,
            users_per_source: route.users_per_source,
            ramp: route.ramp,
            ring_sockets: route.ring_sockets,
            dials: route.dials,
            deflate: route.deflate,
            run_id,
            threads,
            gauges: (0..threads + slow_threads).map(|_| gauges()).collect(),
            phase: AtomicU8::new(first as u8),
            ramp_ns: AtomicU64::new(0),
            t0_ns: AtomicU64::new(0),
            storm_over_ns: AtomicU64::new(u64::MAX),
            outages: AtomicU64::new(0),
            outage_ns: AtomicU64::new(0),
            origin: Instant::now(),
        }
    }

    /// What checking a message needs.
    pub fn reference(&self) -> Reference<'_> {
        Reference { plan: &self.plan, sends: &self.sends, run_id: &self.run_id }
    }

    /// The name of a user.
    pub fn user_name(&self, user: u32) -> String {
        format!("{}-{user}", self.run_id)
    }

    /// Nanoseconds since the run's clock started (`CLOCK_MONOTONIC`).
    pub fn now_ns(&self) -> u64 {
        self.origin.elapsed().as_nanos() as u64
    }

    /// Where the run stands.
    pub fn phase(&self) -> Phase {
        match self.phase.load(Relaxed) {
            0 => Phase::Assemble,
            1 => Phase::History,
            2 => Phase::Ramp,
            3 => Phase::Traffic,
            4 => Phase::Settle,
            5 => Phase::Stop,
            _ => Phase::Abort,
        }
    }

    /// Moves on; threads see it within one turn of their loops.
    pub fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Relaxed);
    }

    /// The users of thread `index`, ascending. The thread after the last one has the slow readers.
    pub fn users_of(&self, index: usize) -> Vec<u32> {
        let is_slow = |user: &u32| self.plan.role_of(*user).is_slow();
        if index == self.threads {
            return (0..self.plan.shape.users).filter(is_slow).collect();
        }
        (index as u32..self.plan.shape.users).step_by(self.threads).filter(|user| !is_slow(user)).collect()
    }

    /// Lets all users connect, from now on.
    pub fn start_ramp(&self) {
        self.ramp_ns.store(self.now_ns(), Relaxed);
        self.enter(Phase::Ramp);
    }

    /// When users began to connect, nanoseconds of the run's clock; `None` before.
    pub fn ramp_ns(&self) -> Option<u64> {
        (self.phase() >= Phase::Ramp).then(|| self.ramp_ns.load(Relaxed))
    }

    /// When the storm breaks, nanoseconds of the run's clock, and how fast users may come back; `None` without one or
    /// before there is traffic.
    pub fn storm_ns(&self) -> Option<(u64, Option<u32>)> {
        let storm = self.plan.shape.scenario.storm.filter(|_| self.phase() >= Phase::Traffic)?;
        Some((self.t0_ns() + self.plan.shape.warm_up_ns + storm.at_ns, storm.ramp))
    }

    /// The storm is over: everybody is back and has everything.
    pub fn end_storm(&self) {
        self.storm_over_ns.store(self.now_ns() - self.t0_ns(), Relaxed);
    }

    /// From when to when the storm was, as far as it came, nanoseconds since traffic began.
    pub fn storm(&self) -> Option<Range<u64>> {
        let storm = self.plan.shape.scenario.storm?;
        Some(self.plan.shape.warm_up_ns + storm.at_ns..self.storm_over_ns.load(Relaxed))
    }

    /// How often not one connection was left.
    pub fn outages(&self) -> u64 {
        self.outages.load(Relaxed)
    }

    /// When that was last, nanoseconds of the run's clock; 0: never.
    pub fn outage_ns(&self) -> u64 {
        self.outage_ns.load(Relaxed)
    }

    /// Not one connection is left: those that ended without a word did so because the server had gone.
    pub fn note_outage(&self) {
        self.outage_ns.store(self.now_ns(), Relaxed);
        self.outages.fetch_add(1, Relaxed);
    }

    /// Members at present, but for slow readers: they may not have noticed yet that their connection is gone.
    pub fn connected(&self) -> u64 {
        self.gauges[..self.threads].iter().map(|gauges| gauges.connected.load(Relaxed)).sum()
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
