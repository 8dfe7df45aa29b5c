//! What the repository's recipes are held against on two cores, server and generator together. Printed, and never decides
//! the exit code. Other runs have no targets: what is good depends on what was asked for.

use crate::plan::{Distribution, Shape};

/// Recipes send one message a minute for each user.
const SLOT_NS: u64 = 60_000_000_000;
/// A recipe of 70,000 that this machine cannot carry is another run when fewer than so many are left.
const CROWD_USERS: u32 = 50_000;
const LARGE_ROOM_USERS: u32 = 10_000;
const CROWD_ROOMS: u32 = 1_000;

/// The targets of one recipe.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize)]
pub struct Targets {
    pub delivery_p50_ns: Option<u64>,
    pub delivery_p99_ns: Option<u64>,
    /// Of the rooms of two beside a giant one.
    pub pairs_p99_ns: Option<u64>,
    pub server_cpu_us_per_delivery: Option<f64>,
    pub server_bytes_per_connection: f64,
}

impl Targets {
    /// Those of the recipe that makes such a run, if one does.
    pub fn of(shape: &Shape) -> Option<Self> {
        let crowd = shape.users - 2 * shape.scenario.pairs;
        let none = Self { server_bytes_per_connection: 450.0, ..Self::default() };
        let giant = Self {
            delivery_p50_ns: Some(700_000_000),
            delivery_p99_ns: Some(1_500_000_000),
            pairs_p99_ns: (shape.scenario.pairs > 0).then_some(50_000_000),
            server_cpu_us_per_delivery: Some(0.01),
            ..none
        };
        match (shape.rooms, shape.distribution) {
            _ if shape.slot_ns != SLOT_NS => None,
            (1, _) if crowd >= CROWD_USERS => Some(giant),
            (1, _) if crowd == LARGE_ROOM_USERS => Some(Self { delivery_p99_ns: Some(150_000_000), ..none }),
            (CROWD_ROOMS, Distribution::Uniform) if crowd >= CROWD_USERS => {
                Some(Self { delivery_p99_ns: Some(20_000_000), ..none })
            }
            (CROWD_ROOMS, Distribution::Zipf(1.0)) if crowd >= CROWD_USERS => {
                Some(Self { delivery_p99_ns: Some(500_000_000), server_cpu_us_per_delivery: Some(0.3), ..none })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::shape;
    use crate::scenario::Scenario;

    #[test]
    fn each_recipe_has_its_targets_and_no_other_run_has_any() {
        let giant = Targets::of(&shape(70_000, 1, Distribution::Uniform)).expect("it is the outage");
        assert_eq!((giant.delivery_p99_ns, giant.pairs_p99_ns), (Some(1_500_000_000), None));
        let scenario = Scenario { pairs: 1_000, ..Scenario::default() };
        let pairs = Targets::of(&Shape { scenario, ..shape(72_000, 1, Distribution::Zipf(1.0)) });
        assert_eq!(pairs.and_then(|targets| targets.pairs_p99_ns), Some(50_000_000));
        for (shape, p99_ms) in [
            (shape(70_000, 1_000, Distribution::Zipf(1.0)), Some(500)),
            (shape(70_000, 1_000, Distribution::Uniform), Some(20)),
            (shape(10_000, 1, Distribution::Zipf(1.0)), Some(150)),
            (shape(500, 1_000, Distribution::Zipf(1.0)), None),
            (shape(70_000, 999, Distribution::Zipf(1.0)), None),
            (shape(70_000, 1_000, Distribution::Zipf(0.9)), None),
            (shape(20_000, 1, Distribution::Zipf(1.0)), None),
            (Shape { slot_ns: 1_000_000_000, ..shape(70_000, 1, Distribution::Uniform) }, None),
        ] {
            let found = Targets::of(&shape).and_then(|targets| targets.delivery_p99_ns);
            assert_eq!(found, p99_ms.map(|ms: u64| ms * 1_000_000), "{shape:?}");
        }
    }
}
