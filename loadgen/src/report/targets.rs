//! What a run is held against on two cores, server and generator together. Printed, and never decides the exit code.

use crate::plan::Distribution;

/// A single room of so many users is a giant one: the whole audience of a stream.
const GIANT_USERS: u32 = 50_000;
/// A single room of up to so many is a large one.
const LARGE_USERS: u32 = 12_000;

/// The targets of one kind of run.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Targets {
    pub delivery_p50_ns: Option<u64>,
    pub delivery_p99_ns: u64,
    pub server_cpu_us_per_delivery: f64,
    pub server_bytes_per_connection: f64,
}

impl Targets {
    /// For rooms that spread like this.
    pub fn of(distribution: Distribution, rooms: u32, largest_room: u32) -> Self {
        let giant = rooms == 1 && largest_room >= GIANT_USERS;
        Self {
            delivery_p50_ns: giant.then_some(700_000_000),
            delivery_p99_ns: match distribution {
                _ if rooms == 1 && largest_room > LARGE_USERS => 1_500_000_000,
                _ if rooms == 1 => 150_000_000,
                Distribution::Uniform => 20_000_000,
                Distribution::Zipf(_) => 500_000_000,
            },
            server_cpu_us_per_delivery: if giant { 0.01 } else { 0.3 },
            server_bytes_per_connection: 450.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_giant_room_a_large_one_and_many_have_targets_of_their_own() {
        let giant = Targets::of(Distribution::Uniform, 1, 70_000);
        assert_eq!((giant.delivery_p50_ns, giant.delivery_p99_ns), (Some(700_000_000), 1_500_000_000));
        let large = Targets::of(Distribution::Zipf(1.0), 1, 10_000);
        assert_eq!((large.delivery_p50_ns, large.delivery_p99_ns), (None, 150_000_000));
        assert_eq!(Targets::of(Distribution::Zipf(1.0), 1_000, 9_350).delivery_p99_ns, 500_000_000);
        assert_eq!(Targets::of(Distribution::Uniform, 7_000, 10).delivery_p99_ns, 20_000_000);
        assert!(giant.server_cpu_us_per_delivery < large.server_cpu_us_per_delivery);
    }
}
