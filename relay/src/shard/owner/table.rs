//! The table of rooms that this shard owns: which are in memory, how one gets there, and which one goes.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use foldhash::HashMap;
use protocol::ErrorCode;

use super::Owner;
use crate::config::Limits;
use crate::ids::{Origin, Principal};
use crate::mesh::Asked;
use crate::rate::{Buckets, Rate};
use crate::room::Room;
use crate::shard::outbox::StoreRequest;
use crate::shard::turn::{BUSY_RETRY_MS, Turn};

/// Rooms that nobody used this long are forgotten, microseconds.
const IDLE_US: u64 = 60_000_000;
/// Of the places for rooms this part is kept free, if there are rooms that nobody uses.
const SPARE_PART: usize = 16;
/// Rooms that one attempt to forget one looks at, and that one round of upkeep forgets.
const LOOKS_MAX: usize = 64;
const FORGETS_MAX: usize = 1024;
/// Who opens rooms may open as many at once as otherwise in so many seconds.
const BURST_S: u32 = 10;

/// A room this shard owns.
pub(super) enum Owned {
    /// Storage is asked for its log; the commands that wait, and since when.
    Loading {
        waiting: Vec<Asked>,
        since_us: u64,
    },
    Ready(Box<Room>),
}

/// Rooms by index, which stays the same while a room is in memory, and by name.
#[derive(Default)]
pub(super) struct Rooms {
    slots: Vec<Option<Owned>>,
    free: Vec<u32>,
    by_name: HashMap<Arc<str>, u32>,
    /// When each room that is ready was used last, as far as was looked, its index and its number.
    unused: BinaryHeap<Reverse<(u64, u32, u64)>>,
    /// Rooms that were ready so far.
    number: u64,
}

impl Rooms {
    pub(super) fn len(&self) -> usize {
        self.by_name.len()
    }

    pub(super) fn find(&self, name: &str) -> Option<u32> {
        self.by_name.get(name).copied()
    }

    pub(super) fn get(&mut self, index: u32) -> Option<&mut Owned> {
        self.slots.get_mut(index as usize)?.as_mut()
    }

    pub(super) fn ready(&self, index: u32) -> Option<&Room> {
        match self.slots.get(index as usize)? {
            Some(Owned::Ready(room)) => Some(room),
            _ => None,
        }
    }

    /// Indices that were ever taken.
    pub(super) fn indices(&self) -> u32 {
        self.slots.len() as u32
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Owned> {
        self.slots.iter().flatten()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Owned> {
        self.slots.iter_mut().flatten()
    }

    fn add(&mut self, name: Arc<str>, owned: Owned) {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() as u32 - 1
        });
        self.slots[index as usize] = Some(owned);
        self.by_name.insert(name, index);
    }

    /// Storage answered: the room is ready.
    pub(super) fn loaded(&mut self, index: u32, mut room: Box<Room>) {
        self.number += 1;
        room.number = self.number;
        self.unused.push(Reverse((room.used_us, index, room.number)));
        self.slots[index as usize] = Some(Owned::Ready(room));
    }

    fn remove(&mut self, index: u32, name: &str) -> Option<Owned> {
        self.by_name.remove(name)?;
        self.free.push(index);
        self.slots[index as usize].take()
    }

    /// The room that is idle for longest, if that is since before `before_us`. Looks at a few at most: of those that
    /// were used since they were looked at last, it notes when.
    fn longest_idle(&mut self, before_us: u64, now_us: u64) -> Option<u32> {
        for _ in 0..LOOKS_MAX {
            let &Reverse((used_us, index, number)) = self.unused.peek()?;
            if used_us >= before_us {
                return None;
            }
            self.unused.pop();
            let Some(Owned::Ready(room)) = self.get(index) else { continue };
            if room.number != number {
                continue;
            }
            if !room.is_idle() {
                // Behind all others, those used at this time too.
                room.used_us = now_us + 1;
            } else if room.used_us == used_us {
                return Some(index);
            }
            let used_us = room.used_us;
            self.unused.push(Reverse((used_us, index, number)));
        }
        None
    }
}

/// How often rooms that are not in memory are opened: by connection, user and address. What others hold open costs
/// nobody anything, so a crowd that comes back to its rooms is no flood.
pub(super) struct Openers {
    sessions: Buckets,
    users: Buckets,
    /// None when addresses do not count, as behind a proxy.
    addresses: Option<Buckets>,
}

impl Openers {
    pub(super) fn new(limits: &Limits, shards: usize, seed: u64) -> Self {
        let buckets = |per_s, n| {
            let rate = Rate { per_s, burst: BURST_S * per_s };
            Buckets::new(rate.part(shards), seed.wrapping_add(n))
        };
        Self {
            sessions: buckets(limits.session_open_rate, 0),
            users: buckets(limits.user_open_rate, 2),
            addresses: (limits.address_open_rate > 0).then(|| buckets(limits.address_open_rate, 4)),
        }
    }

    /// Counts one room that this client opens, or says in how many milliseconds it may.
    fn open(&mut self, Asked { origin, principal, .. }: &Asked, now_us: u64) -> Result<(), u32> {
        let Principal { user, address, .. } = principal;
        let Origin::Session(session, _) = *origin;
        let mut wait_ms = self.sessions.wait_ms(session, now_us).max(self.users.wait_ms(&**user, now_us));
        if let Some(addresses) = &mut self.addresses {
            wait_ms = wait_ms.max(addresses.wait_ms(*address, now_us));
        }
        if wait_ms > 0 {
            return Err(wait_ms);
        }
        self.sessions.take(session, now_us);
        self.users.take(&**user, now_us);
        if let Some(addresses) = &mut self.addresses {
            addresses.take(*address, now_us);
        }
        Ok(())
    }
}

impl Owner {
    /// A command for a room this shard owns.
    pub(in crate::shard) fn on_ask(&mut self, turn: &mut Turn, asked: Asked) {
        let Some(index) = self.rooms.find(&asked.room) else { return self.load(turn, asked) };
        let waiting_max = turn.setup.limits.pending_publishes_max;
        match self.rooms.get(index) {
            Some(Owned::Ready(_)) => {
                self.with_room(turn, index, |owner, turn, room| owner.execute(turn, index, room, asked, None));
            }
            Some(Owned::Loading { waiting, .. }) if waiting.len() < waiting_max => {
                turn.memory.add(asked.bytes());
                waiting.push(asked);
            }
            _ => turn.refuse(&asked, ErrorCode::Busy, BUSY_RETRY_MS),
        }
    }

    /// One member fewer on this core, a connection of this user. A room that has members is in memory.
    pub(in crate::shard) fn on_leave(&mut self, turn: &mut Turn, room: &str, core: usize, user: u64) {
        let Some(index) = self.rooms.find(room) else { return };
        self.with_room(turn, index, |_, turn, room| {
            room.used_us = turn.now.us;
            room.audience.leave(core, user);
        });
        self.forget_empty(turn, index);
    }

    /// Runs `work` on a room, which is taken out of the table meanwhile, and counts what it holds afterwards.
    pub(super) fn with_room(
        &mut self,
        turn: &mut Turn,
        index: u32,
        work: impl FnOnce(&mut Self, &mut Turn, &mut Room),
    ) {
        match self.rooms.slots[index as usize].take() {
            Some(Owned::Ready(mut room)) => {
                let before = room.bytes();
                work(self, turn, &mut room);
                turn.memory.replace(before, room.bytes());
                self.rooms.slots[index as usize] = Some(Owned::Ready(room));
            }
            other => self.rooms.slots[index as usize] = other,
        }
    }

    /// Asks storage for a room that is not in memory, in the place of another one if need be.
    fn load(&mut self, turn: &mut Turn, first: Asked) {
        if let Err(wait_ms) = self.openers.open(&first, turn.now.us) {
            return turn.refuse(&first, ErrorCode::RateLimited, wait_ms);
        }
        if !self.find_place(turn) {
            return turn.refuse(&first, ErrorCode::Busy, BUSY_RETRY_MS);
        }
        turn.memory.add(first.bytes());
        let room = first.room.clone();
        self.rooms.add(room.clone(), Owned::Loading { waiting: vec![first], since_us: turn.now.us });
        turn.stats.opens += 1;
        turn.outbox.store.push(StoreRequest::Open { room });
    }

    /// Forgets a room that is idle or could not be loaded.
    pub(super) fn unload(&mut self, turn: &mut Turn, index: u32, name: &str) {
        self.remove(turn, index, name);
        turn.setup.budget.close_room();
    }

    fn remove(&mut self, turn: &mut Turn, index: u32, name: &str) {
        if let Some(Owned::Ready(room)) = self.rooms.remove(index, name) {
            turn.memory.give(room.bytes());
        }
    }

    /// A place for one more room: a free one, or that of a room that nobody uses. A shard with more than its even part leaves
    /// the last free ones to others, or it would have them all in the end.
    fn find_place(&mut self, turn: &mut Turn) -> bool {
        let has_its_part = self.rooms.len() >= turn.setup.limits.max_rooms / turn.setup.shards;
        if has_its_part && turn.setup.budget.rooms_left() <= spare(turn) {
            return self.take_place(turn, u64::MAX) || turn.setup.budget.open_room();
        }
        turn.setup.budget.open_room() || self.take_place(turn, u64::MAX)
    }

    /// Forgets the room that nobody used for longest, if that is since before `before_us`. Its place is the caller's: to
    /// give it back and take it again would lose it to another shard.
    fn take_place(&mut self, turn: &mut Turn, before_us: u64) -> bool {
        let Some(index) = self.rooms.longest_idle(before_us, turn.now.us) else { return false };
        let Some(name) = self.rooms.ready(index).map(|room| room.name.clone()) else { return false };
        self.remove(turn, index, &name);
        true
    }

    /// Forgets a room that nobody is in and nobody ever wrote to: there is nothing to keep.
    pub(super) fn forget_empty(&mut self, turn: &mut Turn, index: u32) {
        let empty = self.rooms.ready(index).filter(|room| room.durable == 0 && room.is_idle());
        if let Some(name) = empty.map(|room| room.name.clone()) {
            self.unload(turn, index, &name);
        }
    }

    /// Forgets rooms that were idle for long, and when the table is nearly full, those that are idle at all.
    pub(in crate::shard) fn forget_rooms(&mut self, turn: &mut Turn) {
        for _ in 0..FORGETS_MAX {
            let before_us = if turn.setup.budget.rooms_left() < spare(turn) {
                u64::MAX
            } else {
                turn.now.us.saturating_sub(IDLE_US)
            };
            if !self.take_place(turn, before_us) {
                return;
            }
            turn.setup.budget.close_room();
        }
    }
}

/// So many places are kept free, if there are rooms that nobody uses.
fn spare(turn: &Turn) -> usize {
    turn.setup.limits.max_rooms.div_ceil(SPARE_PART)
}

#[cfg(test)]
mod tests {
    use storage::LogState;

    use super::*;
    use crate::room::{Log, Most};

    fn room(name: &str, used_us: u64) -> Box<Room> {
        let most = Most { messages: 1, bytes: 1 };
        let state = LogState { epoch: 1, last_seq: 1, last_id: 1 };
        let mut room = Room::load(name.into(), Log { state, tail: Vec::new(), keys: Vec::new() }, 1, most);
        room.used_us = used_us;
        Box::new(room)
    }

    fn table(used_us: &[u64]) -> Rooms {
        let mut rooms = Rooms::default();
        for (index, &used_us) in used_us.iter().enumerate() {
            let name = index.to_string();
            rooms.add(name.as_str().into(), Owned::Loading { waiting: Vec::new(), since_us: 0 });
            rooms.loaded(index as u32, room(&name, used_us));
        }
        rooms
    }

    fn use_room(rooms: &mut Rooms, index: u32, change: impl FnOnce(&mut Room)) {
        let Some(Owned::Ready(room)) = rooms.get(index) else { panic!("it is ready") };
        change(room);
    }

    #[test]
    fn the_room_that_nobody_used_for_longest_is_found_and_none_that_is_in_use() {
        let mut rooms = table(&[30, 10, 20, 5]);
        use_room(&mut rooms, 3, |room| room.audience.join(0, 1, 1));
        use_room(&mut rooms, 1, |room| room.used_us = 25);
        let found: Vec<_> = std::iter::from_fn(|| rooms.longest_idle(u64::MAX, 40)).take(5).collect();
        assert_eq!(found, [2, 1, 0], "the one with a member stays");
    }

    #[test]
    fn a_room_that_is_in_use_stays_though_it_was_not_used_since_it_was_looked_at() {
        let mut rooms = table(&[40, 40, 40]);
        for index in [0, 1] {
            use_room(&mut rooms, index, |room| room.audience.join(0, 1, 1));
        }
        assert_eq!([rooms.longest_idle(u64::MAX, 40), rooms.longest_idle(u64::MAX, 40)], [Some(2), None]);
    }

    #[test]
    fn a_room_that_was_used_since_then_is_not_forgotten() {
        let mut rooms = table(&[30, 10]);
        assert_eq!(
            (rooms.longest_idle(10, 40), rooms.longest_idle(11, 40), rooms.longest_idle(30, 40)),
            (None, Some(1), None)
        );
    }

    #[test]
    fn an_index_that_was_taken_again_is_another_room() {
        let mut rooms = table(&[10, 20]);
        rooms.remove(0, "0");
        rooms.add("new".into(), Owned::Loading { waiting: Vec::new(), since_us: 0 });
        rooms.loaded(0, room("new", 30));
        assert_eq!(rooms.longest_idle(u64::MAX, 40), Some(1));
        assert_eq!(rooms.longest_idle(u64::MAX, 40), Some(0));
    }
}
