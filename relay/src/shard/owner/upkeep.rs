//! What time alone causes for rooms: commands that wait too long, rates, and memory that is short.

use std::mem;

use protocol::ErrorCode;

use super::Owner;
use super::table::Owned;
use crate::mesh::{Answer, Asked};
use crate::room::Room;
use crate::shard::turn::{BUSY_RETRY_MS, Turn};
use crate::shard::upkeep::PARTS;

impl Owner {
    /// Tells those whose publish waits too long, and refuses what a silent storage holds up.
    pub(in crate::shard) fn check_rooms(&mut self, turn: &mut Turn, part: usize) {
        let timeout_us = turn.setup.limits.publish_timeout_ms * 1000;
        let now_us = turn.now.us;
        for index in (part as u32..self.rooms.indices()).step_by(PARTS) {
            match self.rooms.get(index) {
                Some(Owned::Ready(_)) => {
                    self.with_room(turn, index, |owner, turn, room| owner.check_room(turn, room, timeout_us));
                }
                Some(Owned::Loading { waiting, since_us }) if *since_us + timeout_us <= now_us => {
                    let waiting = mem::take(waiting);
                    turn.memory.give(waiting.iter().map(Asked::bytes).sum());
                    for asked in waiting {
                        turn.refuse(&asked, ErrorCode::Unavailable, BUSY_RETRY_MS);
                    }
                }
                _ => {}
            }
        }
    }

    fn check_room(&mut self, turn: &mut Turn, room: &mut Room, timeout_us: u64) {
        let name = room.name.clone();
        room.give_up(turn.now.us, timeout_us, |origin, unknown| {
            let code = if unknown { ErrorCode::Unknown } else { ErrorCode::Busy };
            turn.answer(origin, &name, Answer::Refused { code, retry_after_ms: BUSY_RETRY_MS, is_join: false });
        });
        room.tidy(self.rate, turn.now.us, turn.now.wall_ms);
    }

    /// While the relay is short of memory, rooms give up what can be had again.
    pub(in crate::shard) fn relieve(&mut self, turn: &mut Turn) {
        for _ in 0..self.rooms.indices() {
            if !turn.memory.is_short() {
                break;
            }
            self.relieved = (self.relieved + 1) % self.rooms.indices();
            self.with_room(turn, self.relieved, |_, _, room| room.drop_tail());
        }
    }

    pub(in crate::shard) fn measure_rooms(&mut self, elapsed_us: u64) {
        for owned in self.rooms.iter_mut() {
            if let Owned::Ready(room) = owned {
                room.rate.measure(mem::take(&mut room.recent_cut), elapsed_us);
            }
        }
    }

    pub(in crate::shard) fn has_unstored(&self) -> bool {
        self.rooms.iter().any(|owned| match owned {
            Owned::Ready(room) => room.has_pending() || room.is_flying(),
            Owned::Loading { waiting, .. } => !waiting.is_empty(),
        })
    }
}
