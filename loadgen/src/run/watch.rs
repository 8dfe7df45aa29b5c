//! What the server and the machine use while a run goes on.

use std::sync::atomic::AtomicU64;

use crate::machine::{self, Usage};
use crate::world::{Gauges, World};

/// The two numbers of joined users between which the server's memory per connection is measured.
const MEMORY_FROM_USERS: u64 = 10_000;
const MEMORY_TO_USERS: u64 = 60_000;

/// What happened between two moments.
#[derive(Debug, Clone, Copy, Default, serde::Serialize)]
pub struct Window {
    pub seconds: f64,
    pub sent: u64,
    pub delivered: u64,
    pub frames: u64,
    pub chunks: u64,
    pub bytes: u64,
    /// Payloads of batches as sent, and when they are not compressed.
    pub batch_bytes: u64,
    pub inflated_bytes: u64,
    pub generator_cpu_s: f64,
    pub server_cpu_s: Option<f64>,
    /// At the window's start and end.
    pub server_rss_start_bytes: Option<u64>,
    pub server_rss_bytes: Option<u64>,
}

/// What is looked at while a run goes on.
#[derive(Default)]
pub struct Watch {
    server: Option<u32>,
    memory_from: Option<(u64, u64)>,
    memory_to: Option<(u64, u64)>,
    pub server_rss_max_bytes: Option<u64>,
    pub tcp_memory_max_bytes: u64,
    slab_before_bytes: u64,
    pub slab_growth_max_bytes: u64,
}

/// Totals at one moment.
pub struct Totals {
    at_ns: u64,
    counts: [u64; 7],
    generator: Usage,
    server: Option<Usage>,
}

impl Watch {
    /// Watches the server's process, if it is one of this machine. To be made before the ramp: growth counts from now.
    pub fn new(server: Option<u32>) -> Self {
        Self { server, slab_before_bytes: machine::slab_bytes(), ..Self::default() }
    }

    /// Looks now.
    pub fn look(&mut self) {
        self.tcp_memory_max_bytes = self.tcp_memory_max_bytes.max(machine::tcp_memory_bytes());
        let slab_growth_bytes = machine::slab_bytes().saturating_sub(self.slab_before_bytes);
        self.slab_growth_max_bytes = self.slab_growth_max_bytes.max(slab_growth_bytes);
        self.server_rss_max_bytes = self.server_rss_max_bytes.max(self.usage().map(|usage| usage.rss_bytes));
    }

    /// Notes the server's memory when the two marks are passed.
    pub fn at_joined(&mut self, joined: u64) {
        let server = self.server;
        for (mark, users) in [(&mut self.memory_from, MEMORY_FROM_USERS), (&mut self.memory_to, MEMORY_TO_USERS)] {
            if mark.is_none() && joined >= users {
                *mark = server.and_then(|pid| machine::usage(Some(pid))).map(|usage| (joined, usage.rss_bytes));
            }
        }
    }

    /// Growth of the server's memory per joined connection, bytes.
    pub fn bytes_per_connection(&self) -> Option<f64> {
        let ((users_from, from), (users_to, to)) = (self.memory_from?, self.memory_to?);
        (users_to > users_from).then(|| (to as f64 - from as f64) / (users_to - users_from) as f64)
    }

    /// Adds up where the run stands.
    pub fn totals(&self, world: &World) -> Totals {
        let total = |gauge: fn(&Gauges) -> &AtomicU64| world.total(gauge);
        let counts = [
            total(|gauges| &gauges.sent),
            total(|gauges| &gauges.delivered),
            total(|gauges| &gauges.frames),
            total(|gauges| &gauges.chunks),
            total(|gauges| &gauges.bytes),
            total(|gauges| &gauges.batch_bytes),
            total(|gauges| &gauges.inflated_bytes),
        ];
        let generator = machine::usage(None).unwrap_or_default();
        Totals { at_ns: world.now_ns(), counts, generator, server: self.usage() }
    }

    fn usage(&self) -> Option<Usage> {
        self.server.and_then(|pid| machine::usage(Some(pid)))
    }
}

/// What happened between two moments.
pub fn window(start: &Totals, end: &Totals) -> Window {
    let [sent, delivered, frames, chunks, bytes, batch_bytes, inflated_bytes] =
        std::array::from_fn(|nth| end.counts[nth] - start.counts[nth]);
    Window {
        seconds: (end.at_ns - start.at_ns) as f64 / 1e9,
        sent,
        delivered,
        frames,
        chunks,
        bytes,
        batch_bytes,
        inflated_bytes,
        generator_cpu_s: end.generator.cpu_s - start.generator.cpu_s,
        server_cpu_s: end.server.zip(start.server).map(|(end, start)| end.cpu_s - start.cpu_s),
        server_rss_start_bytes: start.server.map(|usage| usage.rss_bytes),
        server_rss_bytes: end.server.map(|usage| usage.rss_bytes),
    }
}
