//! What is asked of a run, and what is measured of it.

use std::ops::Range;
use std::time::{Duration, Instant};

use loadgen::latency::{Latency, Summary};

use crate::cpu::Cpu;

/// Publishes that are still unanswered so long after the measurement are given up.
const DRAIN: Duration = Duration::from_secs(30);

/// When publishes are made.
#[derive(Debug, Clone, Copy)]
pub enum Pace {
    /// So many are outstanding all the time: each ack lets the next one of its room go.
    FlatOut { outstanding: usize },
    /// So many a second arrive, at random times in random rooms.
    Rate(f64),
}

/// One run.
#[derive(Debug, Clone)]
pub struct Load {
    pub rooms: usize,
    pub pace: Pace,
    pub warm_up: Duration,
    pub measured: Duration,
}

impl Load {
    pub fn is_flat_out(&self) -> bool {
        matches!(self.pace, Pace::FlatOut { .. })
    }

    /// The rooms of the publishes to begin with.
    pub fn at_first(&self) -> impl Iterator<Item = usize> + use<> {
        let (rooms, outstanding) = match self.pace {
            Pace::FlatOut { outstanding } => (self.rooms, outstanding.max(self.rooms)),
            Pace::Rate(_) => (self.rooms, 0),
        };
        (0..outstanding).map(move |n| n % rooms)
    }
}

/// Arrivals of the open model: nobody waits for an ack before publishing.
pub struct Arrivals {
    mean_ns: f64,
    next_ns: f64,
    rooms: usize,
    random: fastrand::Rng,
}

impl Arrivals {
    pub fn of(load: &Load) -> Self {
        let mean_ns = match load.pace {
            Pace::FlatOut { .. } => f64::INFINITY,
            Pace::Rate(per_s) => 1e9 / per_s,
        };
        let mut arrivals = Self { mean_ns, next_ns: 0.0, rooms: load.rooms, random: fastrand::Rng::with_seed(1) };
        arrivals.next_ns = arrivals.gap();
        arrivals
    }

    fn gap(&mut self) -> f64 {
        -(1.0 - self.random.f64()).ln() * self.mean_ns
    }

    /// The next one that is due by `now_ns`: its intended time and room. None when the run is over.
    pub fn due(&mut self, now_ns: u64, meter: &Meter) -> Option<(u64, usize)> {
        let at_ns = self.next_ns as u64;
        if at_ns > now_ns || !meter.is_open(at_ns) {
            return None;
        }
        self.next_ns += self.gap();
        Some((at_ns, self.random.usize(..self.rooms)))
    }

    pub fn next_ns(&self) -> u64 {
        self.next_ns as u64
    }
}

/// Measures one run. Times are nanoseconds since it was made.
pub struct Meter {
    began: Instant,
    window: Range<u64>,
    pid: u32,
    not_thread: &'static str,
    cpu: (Option<Cpu>, Option<Cpu>),
    ack: Latency,
    acked: u64,
    refused: u64,
    outstanding: u64,
}

/// What was measured.
pub struct Measured {
    pub per_s: f64,
    pub ack: Option<Summary>,
    /// Microseconds a message, by thread.
    pub cpu: Vec<(String, f64)>,
    pub refused: u64,
    pub unanswered: u64,
    pub records_per_append: Option<f64>,
    pub records_per_write: Option<f64>,
    pub write_ms: Option<f64>,
}

impl Meter {
    /// `pid` is whose CPU counts, without its threads of the name `not_thread`.
    pub fn new(load: &Load, pid: u32, not_thread: &'static str) -> Self {
        let start = load.warm_up.as_nanos() as u64;
        Self {
            began: Instant::now(),
            window: start..start + load.measured.as_nanos() as u64,
            pid,
            not_thread,
            cpu: (None, None),
            ack: Latency::default(),
            acked: 0,
            refused: 0,
            outstanding: 0,
        }
    }

    /// What time it is. To be called every turn: it also reads the CPU times where the measurement begins and ends.
    pub fn now_ns(&mut self) -> u64 {
        let now_ns = self.began.elapsed().as_nanos() as u64;
        if self.cpu.0.is_none() && now_ns >= self.window.start {
            self.cpu.0 = Some(Cpu::of(self.pid, self.not_thread));
        }
        if self.cpu.1.is_none() && now_ns >= self.window.end {
            self.cpu.1 = Some(Cpu::of(self.pid, self.not_thread));
        }
        now_ns
    }

    /// Whether publishes that are intended for this time are still made.
    pub fn is_open(&self, at_ns: u64) -> bool {
        at_ns < self.window.end
    }

    /// Everything is answered, or will not be.
    pub fn is_over(&self, now_ns: u64) -> bool {
        now_ns >= self.window.end && (self.outstanding == 0 || now_ns > self.window.end + DRAIN.as_nanos() as u64)
    }

    pub fn published(&mut self) {
        self.outstanding += 1;
    }

    pub fn acked(&mut self, intended_ns: u64, now_ns: u64) {
        self.outstanding -= 1;
        self.acked += u64::from(self.window.contains(&now_ns));
        if self.window.contains(&intended_ns) {
            self.ack.record(now_ns.saturating_sub(intended_ns));
        }
    }

    pub fn refused(&mut self) {
        self.outstanding -= 1;
        self.refused += 1;
    }

    pub fn finish(self) -> Measured {
        let (before, after) = (self.cpu.0.unwrap_or_default(), self.cpu.1.unwrap_or_default());
        let a_message = |ns: u64| ns as f64 / 1e3 / self.acked.max(1) as f64;
        Measured {
            per_s: self.acked as f64 * 1e9 / (self.window.end - self.window.start) as f64,
            ack: self.ack.summary(),
            cpu: after.since(&before).into_iter().map(|(name, ns)| (name, a_message(ns))).collect(),
            refused: self.refused,
            unanswered: self.outstanding,
            records_per_append: None,
            records_per_write: None,
            write_ms: None,
        }
    }
}
