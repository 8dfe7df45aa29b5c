//! What all threads of a sweep share: who is in which room, the steps, and every line with its time.

use std::net::SocketAddr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::time::{Duration, Instant};

use loadgen::dice::Dice;
use loadgen::plan::Plan;
use loadgen::preflight::Fit;

/// Viewers whose deliveries are timed; the others only receive.
const TIMED: u32 = 400;
/// After the last step lines have so long to arrive.
const DRAIN_NS: u64 = 3_000_000_000;

/// How viewers speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
pub enum Dialect {
    Native,
    Json,
}

/// A line that somebody is to say.
#[derive(Debug, Clone, Copy)]
pub struct Line {
    pub due_ns: u64,
    pub user: u32,
    pub filler: usize,
}

/// Everything fixed before the first connection, and what the threads tell each other.
pub struct Stage {
    pub plan: Plan,
    pub fit: Fit,
    pub address: SocketAddr,
    pub dialect: Dialect,
    pub threads: u32,
    /// Lines a second of each step.
    pub steps: Vec<f64>,
    pub hold: Duration,
    /// Of each thread: how many are in their rooms.
    pub joined: Vec<AtomicU32>,
    /// When the first step began, 0 before that.
    pub begun_ns: AtomicU64,
    pub failed: OnceLock<String>,
    pub clock: Instant,
}

impl Stage {
    pub fn users(&self) -> u32 {
        self.plan.shape.users
    }
    pub fn now_ns(&self) -> u64 {
        self.clock.elapsed().as_nanos() as u64
    }
    pub fn fail(&self, why: String) {
        let _ = self.failed.set(why);
    }
    pub fn is_timed(&self, user: u32) -> bool {
        user.is_multiple_of((self.users() / TIMED).max(1))
    }
    pub fn source_of(&self, user: u32) -> Option<SocketAddr> {
        let address = self.fit.sources.get((user / self.fit.users_per_source) as usize)?;
        Some((*address, 0).into())
    }
    pub fn room_of(&self, user: u32) -> String {
        format!("sweep-{}", self.plan.room_of(user))
    }

    pub fn steps_ns(&self) -> u64 {
        self.hold.as_nanos() as u64 * self.steps.len() as u64
    }
    pub fn end_ns(&self) -> u64 {
        self.steps_ns() + DRAIN_NS
    }
    pub fn seconds(&self) -> usize {
        self.steps_ns().div_ceil(1_000_000_000) as usize
    }

    /// The lines of one thread's viewers: a Poisson process of each step's rate, by anybody.
    pub fn lines_of(&self, thread: u32) -> Vec<Line> {
        let mut dice = Dice::new(self.plan.shape.seed, u64::from(thread), 7);
        let mine = self.users().saturating_sub(thread).div_ceil(self.threads);
        let mut lines = Vec::new();
        let hold_ns = self.hold.as_nanos() as f64;
        for (step, rate) in self.steps.iter().enumerate() {
            let (begin_ns, gap_ns) = (hold_ns * step as f64, 1e9 * f64::from(self.threads) / rate);
            let mut at_ns = 0.0;
            loop {
                let uniform = (dice.roll() >> 11) as f64 / (1_u64 << 53) as f64;
                at_ns -= (1.0 - uniform).ln() * gap_ns;
                if at_ns >= hold_ns {
                    break;
                }
                let user = dice.below(u64::from(mine)) as u32 * self.threads + thread;
                lines.push(Line { due_ns: (begin_ns + at_ns) as u64, user, filler: 5 + dice.below(60) as usize });
            }
        }
        lines
    }
}
