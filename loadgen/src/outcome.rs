//! What a thread brings home.

use std::ops::Range;

use crate::audit::Missing;
use crate::crowd::{Counts, Crowd};
use crate::faults::Faults;
use crate::latency::Latencies;
use crate::room::Room;
use crate::slow::Slow;
use crate::verify::Deliveries;

/// How many receivers with lost messages a thread names.
const EXAMPLES_MAX: usize = 10;

/// Everything that one thread saw.
pub struct Outcome {
    pub rooms: Vec<Room>,
    pub deliveries: Deliveries,
    pub missing: Vec<Missing>,
    /// Announced gaps: room and seqs.
    pub gaps: Vec<(u32, Range<u64>)>,
    pub times: Latencies,
    pub counts: Counts,
    pub faults: Faults,
    /// Only the thread of the slow readers has it.
    pub slow: Option<Slow>,
}

impl Outcome {
    /// What a crowd saw.
    pub fn of(mut crowd: Crowd<'_>) -> Self {
        crowd.record_heard();
        let plan = crowd.plan();
        let missing = crowd.ledger.examples().take(EXAMPLES_MAX);
        let missing = missing.map(|(user, seqs)| Missing { room: plan.room_of(user), user, seqs }).collect();
        let gaps = crowd.ledger.gaps().map(|(user, seqs)| (plan.room_of(user), seqs)).collect();
        let Crowd { rooms, ledger, times, counts, faults, .. } = crowd;
        Self { rooms, deliveries: ledger.deliveries, missing, gaps, times, counts, faults, slow: None }
    }
}
