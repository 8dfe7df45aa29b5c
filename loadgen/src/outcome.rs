//! What a thread brings home.

use std::ops::Range;

use crate::audit::Missing;
use crate::crowd::{Counts, Crowd};
use crate::faults::Faults;
use crate::latency::Latencies;
use crate::room::Room;
use crate::slow::Slow;
use crate::unreached::Waiting;
use crate::user::Phase;
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
    /// Why attempts to come back failed.
    pub attempts: Faults,
    /// Users that had begun to connect and not joined.
    pub waiting: Waiting,
    /// Only the thread of the slow readers has it.
    pub slow: Option<Slow>,
}

impl Outcome {
    /// What a crowd saw.
    pub fn of(mut crowd: Crowd<'_>) -> Self {
        crowd.finish();
        let plan = crowd.plan();
        let missing = crowd.ledger.examples().take(EXAMPLES_MAX);
        let missing = missing.map(|(user, seqs)| Missing { user, seqs }).collect();
        let gaps = crowd.ledger.gaps().map(|(user, seqs)| (plan.room_of(user), seqs)).collect();
        let in_phase = |phase| crowd.users.iter().filter(|user| user.phase == phase).count() as u64;
        let waiting = Waiting {
            connection: in_phase(Phase::Connecting),
            handshake: in_phase(Phase::Handshaking),
            join: in_phase(Phase::Joining),
            joins_busy: crowd.counts.joins_busy,
        };
        let Crowd { rooms, ledger, times, counts, faults, attempts, .. } = crowd;
        Self {
            rooms,
            deliveries: ledger.deliveries,
            missing,
            gaps,
            times,
            counts,
            faults,
            attempts,
            waiting,
            slow: None,
        }
    }
}
