//! A shard's halves together, and what their tests have in common.

use super::*;
use crate::config::Limits;

/// The first of so many shards, with the limits as they are by default.
pub(super) fn setup(shards: usize) -> Setup {
    Setup::first_of(shards, Limits::defaults())
}

fn shard(shards: usize) -> Shard {
    let mut shard = Shard::new(setup(shards));
    shard.begin(Now { us: 50_000, wall_ms: 1, cpu_us: 1 });
    shard.flush();
    assert!(shard.deadline_us() > 100_000, "nothing is due but upkeep");
    shard
}

fn leave(room: &str) -> Mesh {
    Mesh::Leave { room: room.into(), core: 0, user: 7 }
}

#[test]
fn what_the_last_stage_says_to_the_shard_itself_makes_the_next_turn_due_at_once() {
    let mut shard = shard(1);
    shard.turn.post(0, leave("room"));
    assert_eq!(shard.deadline_us(), 50_000);
    shard.begin(Now { us: 50_001, ..shard.turn.now });
    shard.flush();
    assert!(shard.turn.local.is_empty() && shard.deadline_us() > 100_000);
}

#[test]
fn what_a_lane_did_not_take_is_offered_again_within_a_millisecond() {
    let mut shard = shard(2);
    shard.turn.post(1, leave("room"));
    assert_eq!(shard.deadline_us(), 51_000);
    shard.turn.outbox.mesh[1].clear();
    assert!(shard.deadline_us() > 100_000);
}

#[test]
fn who_stops_takes_no_commands_and_looks_at_the_time_often() {
    let mut shard = shard(1);
    shard.stop();
    assert!(shard.turn.owner("room").is_err());
    assert_eq!(shard.deadline_us(), 51_000);
}
