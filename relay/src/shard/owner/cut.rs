//! How messages get from publishers to members: into one append a room and turn, and when they are stored into a cut,
//! which every core with members is sent.

use std::mem;
use std::sync::Arc;

use storage::Record;

use super::Owner;
use super::table::Owned;
use crate::mesh::Mesh;
use crate::room::{Most, Room};
use crate::shard::outbox::StoreRequest;
use crate::shard::turn::Turn;
use crate::sizes::record_bytes;
use crate::tempo::Tempo;

/// What one append has at most.
const APPEND: Most = Most { messages: 1024, bytes: 1 << 20 };
/// What one `Deliver` has at most.
const DELIVER: Most = Most { messages: 1024, bytes: 1 << 20 };

/// Messages that become visible together, shared by all cores.
type Cut = Arc<[Arc<Record>]>;

impl Owner {
    /// Sends what became pending in this turn to storage, one append a room.
    pub(in crate::shard) fn form_appends(&mut self, turn: &mut Turn) {
        for index in mem::take(&mut self.ready) {
            let now = (turn.now.us, turn.now.wall_ms);
            if let Some(Owned::Ready(room)) = self.rooms.get(index)
                && let Some(append) = room.form_append(&mut self.ids, now, APPEND)
            {
                turn.outbox.store.push(StoreRequest::Append(append));
            }
        }
    }

    /// Makes what is due visible, and sends again what a full lane did not take.
    pub(in crate::shard) fn cut_due(&mut self, turn: &mut Turn, tempo: &Tempo) {
        let now_us = turn.now.us;
        for index in mem::take(&mut self.uncut) {
            self.with_room(turn, index, |owner, turn, room| {
                if room.cut == room.durable {
                    return;
                }
                if now_us >= room.uncut_since_us + cut_delay_us(room, tempo) {
                    owner.cut(turn, index, room);
                } else {
                    owner.uncut.push(index);
                }
            });
        }
        let mut behind = mem::take(&mut self.behind);
        behind.sort_unstable();
        behind.dedup();
        for index in behind {
            self.with_room(turn, index, |owner, turn, room| owner.forward(turn, index, room));
        }
    }

    /// When the next room is due to be cut.
    pub(in crate::shard) fn next_cut_us(&self, tempo: &Tempo) -> u64 {
        let uncut = self.uncut.iter().filter_map(|&index| self.rooms.ready(index));
        let due = uncut.map(|room| room.uncut_since_us + cut_delay_us(room, tempo));
        due.min().unwrap_or(u64::MAX)
    }

    /// Everything durable becomes visible.
    pub(super) fn cut(&mut self, turn: &mut Turn, index: u32, room: &mut Room) {
        room.recent_cut += (room.durable - room.cut) as u32;
        room.cut = room.durable;
        let waited_us = turn.now.us - room.uncut_since_us.min(turn.now.us);
        room.cut_durable_ms = turn.now.wall_ms - (waited_us / 1000).min(turn.now.wall_ms);
        self.forward(turn, index, room);
    }

    /// Brings every core that has members up to what is visible; a core whose lane is full stays behind.
    fn forward(&mut self, turn: &mut Turn, index: u32, room: &mut Room) {
        let mut shared: Option<(u64, Vec<Cut>)> = None;
        for core in 0..room.audience.cores() {
            let Some(sent) = room.audience.lacks(core, room.cut) else { continue };
            if turn.lane_is_full(core) || turn.lane_must_wait(core) {
                self.behind.push(index);
                continue;
            }
            // What the tail does not have any more is a gap for that core's members.
            let first = (sent + 1).max(room.tail_first());
            if shared.as_ref().is_none_or(|(from, _)| *from != first) {
                let records = room.tail(first, room.cut);
                shared = Some((first, pieces(&records).map(Arc::from).collect()));
            }
            for records in shared.iter().flat_map(|(_, cuts)| cuts) {
                let (room, records, durable_ms) = (room.name.clone(), records.clone(), room.cut_durable_ms);
                turn.post(core, Mesh::Deliver { room, records, durable_ms });
            }
            room.audience.sent(core, room.cut);
        }
    }
}

/// How long durable messages of a room wait for others to share their frame.
fn cut_delay_us(room: &Room, tempo: &Tempo) -> u64 {
    tempo.cut_us(&room.rate, room.audience.members_on_one_core() as usize)
}

/// Records in pieces that are not too large for one `Deliver`.
fn pieces(mut records: &[Arc<Record>]) -> impl Iterator<Item = &[Arc<Record>]> {
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = |record: &&Arc<Record>| {
            bytes += record_bytes(record);
            bytes <= DELIVER.bytes
        };
        let count = records.iter().take(DELIVER.messages).take_while(fits).count();
        let (piece, rest) = records.split_at(count.max(1).min(records.len()));
        records = rest;
        (!piece.is_empty()).then_some(piece)
    })
}
