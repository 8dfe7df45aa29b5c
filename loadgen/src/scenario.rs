//! What happens in a run besides people chatting: pairs beside the giants, slow readers, storms.

/// Everything is off by default. Times are nanoseconds, shares lie in 0..=1.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize)]
pub struct Scenario {
    /// Rooms of two beside the others; twice as many of the users are in them.
    pub pairs: u32,
    /// Lines that a join asks for.
    pub recent: u32,
    /// Lines that are in the largest room before the users come.
    pub history: u32,
    /// Shares of the largest room's members that read slowly, or not at all once there is traffic.
    pub slow_share: f64,
    pub stalled_share: f64,
    /// How fast a slow reader reads.
    pub slow_bytes_per_s: u64,
    /// After so long the server should close a connection that takes nothing.
    pub slow_timeout_ns: u64,
    pub storm: Option<Storm>,
}

/// Users lose their connections at once and come back.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Storm {
    /// Share of those who are in no pair and read as they should.
    pub share: f64,
    /// From the start of the measured window.
    pub at_ns: u64,
    /// New connections per second while they come back; `None`: all at once.
    pub ramp: Option<u32>,
}

impl Scenario {
    /// Whether some users need the thread of the slow readers.
    pub fn has_slow_readers(&self) -> bool {
        self.slow_share > 0.0 || self.stalled_share > 0.0
    }
}
