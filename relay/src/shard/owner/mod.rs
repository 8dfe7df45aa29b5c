//! The rooms that a shard owns: their logs, and who follows them. Commands come in, and answers and messages go out.
//!
//! [`table`] finds, loads and forgets rooms, [`reads`] is what needs a part of a log (joins and pages), [`cut`] stores
//! messages and makes them visible, [`upkeep`] is what time alone causes.

mod cut;
mod page;
mod reads;
mod table;
mod upkeep;

use std::mem;
use std::sync::Arc;

use protocol::ErrorCode;
use protocol::snowflake::Snowflake;

use self::table::{Openers, Owned, Rooms};
use super::outbox::{Found, StoreReply};
use super::turn::{BUSY_RETRY_MS, Setup, Turn};
use crate::dedupe::Known;
use crate::mesh::{Answer, Ask, Asked};
use crate::rate::Rate;
use crate::room::{Log, Most, Publish, Room, Verdict};

/// A shard's rooms.
pub(super) struct Owner {
    rate: Rate,
    rooms: Rooms,
    openers: Openers,
    /// Rooms with pending publishes and no append on its way.
    ready: Vec<u32>,
    /// Rooms with durable messages that are not visible yet.
    uncut: Vec<u32>,
    /// Rooms with a core whose lane was full.
    behind: Vec<u32>,
    ids: Snowflake,
    /// Commands that wait for reads of storage.
    readers: usize,
    /// The room that gave up its tail last.
    relieved: u32,
}

impl Owner {
    pub(super) fn new(setup: &Setup) -> Self {
        let limits = &setup.limits;
        Self {
            rate: Rate { per_s: limits.user_publish_rate, burst: limits.publish_burst },
            rooms: Rooms::default(),
            openers: Openers::new(limits, setup.shards, setup.seed),
            ready: Vec::new(),
            uncut: Vec::new(),
            behind: Vec::new(),
            ids: Snowflake::new(setup.node, setup.shard as u16, setup.ids_after_ms),
            readers: 0,
            relieved: 0,
        }
    }

    pub(super) fn rooms(&self) -> usize {
        self.rooms.len()
    }

    /// A full lane keeps messages from a core.
    pub(super) fn is_behind(&self) -> bool {
        !self.behind.is_empty()
    }

    /// Storage answers.
    pub(super) fn on_stored(&mut self, turn: &mut Turn, reply: StoreReply) {
        match reply {
            StoreReply::Opened { room, log } => self.on_opened(turn, &room, log),
            StoreReply::Appended { room } => {
                let Some(index) = self.rooms.find(&room) else { return };
                self.with_room(turn, index, |owner, turn, room| owner.on_appended(turn, index, room));
            }
            StoreReply::Read { room, wanted, found } => {
                let Some(index) = self.rooms.find(&room) else { return };
                self.with_room(turn, index, |owner, turn, room| owner.on_read(turn, index, room, wanted, found));
            }
        }
    }

    fn on_opened(&mut self, turn: &mut Turn, name: &Arc<str>, log: Option<Log>) {
        let Some(index) = self.rooms.find(name) else { return };
        let Some(Owned::Loading { waiting, .. }) = self.rooms.get(index) else { return };
        let waiting = mem::take(waiting);
        turn.memory.give(waiting.iter().map(Asked::bytes).sum());
        let Some(log) = log else {
            self.unload(turn, index, name);
            return waiting.iter().for_each(|asked| turn.refuse(asked, ErrorCode::Unavailable, BUSY_RETRY_MS));
        };
        let mut room = Room::load(name.clone(), log, turn.setup.shards, tail_max(turn));
        room.used_us = turn.now.us;
        turn.memory.add(room.bytes());
        self.rooms.loaded(index, Box::new(room));
        self.with_room(turn, index, |owner, turn, room| {
            for asked in waiting {
                owner.execute(turn, index, room, asked, None);
            }
        });
        self.forget_empty(turn, index);
    }

    fn on_appended(&mut self, turn: &mut Turn, index: u32, room: &mut Room) {
        let (was_cut, before, name) = (room.cut == room.durable, room.durable, room.name.clone());
        let tail_max = tail_max(turn);
        for came_us in room.flying_since_us() {
            turn.stats.publish_durable.record(turn.now.us.saturating_sub(*came_us));
        }
        room.stored(turn.now.us, tail_max, |origin, Known { seq, id, differs }| {
            let answer = if differs { Answer::KeyTaken { seq, id } } else { Answer::Acked { seq, id } };
            turn.answer(origin, &name, answer);
        });
        turn.stats.stored += room.durable - before;
        if was_cut {
            self.uncut.push(index);
        }
        if room.has_pending() {
            self.ready.push(index);
        }
        if turn.memory.is_short() {
            room.drop_tail();
        }
    }

    /// Runs a command of a room, `extra` being what storage found for it.
    fn execute(&mut self, turn: &mut Turn, index: u32, room: &mut Room, asked: Asked, extra: Option<&Found>) {
        room.used_us = turn.now.us;
        if !asked.ask.is_allowed(asked.principal.rights) {
            return turn.refuse(&asked, ErrorCode::Denied, 0);
        }
        match asked.ask {
            Ask::Publish { content, body, key, parts } => {
                let (user, origin) = (asked.principal.user, asked.origin);
                self.publish(turn, index, room, Publish { user, content, body, key, parts, origin });
            }
            Ask::Join { start, shared } => self.join(turn, index, room, (start, shared), asked, extra),
            Ask::History { page, limit, epoch, newest_first } => {
                if epoch.is_some_and(|epoch| epoch != room.epoch) {
                    return turn.refuse(&asked, ErrorCode::Unrecoverable, 0);
                }
                self.page(turn, room, (page, limit, newest_first), asked, extra);
            }
            Ask::Info => {
                let (members, people) = (room.audience.members(), room.audience.people() as u32);
                let (epoch, head, per_minute) = (room.epoch, room.durable, room.rate.per_minute());
                turn.answer(asked.origin, &room.name, Answer::Info { epoch, head, members, people, per_minute });
            }
        }
    }

    fn publish(&mut self, turn: &mut Turn, index: u32, room: &mut Room, publish: Publish) {
        turn.stats.published += 1;
        let origin = publish.origin;
        let was_ready = room.has_pending();
        let limits = &turn.setup.limits;
        let pending_max = Most { messages: limits.pending_publishes_max, bytes: limits.pending_bytes_max };
        let answer = match room.publish(publish, self.rate, pending_max, turn.now.us) {
            Verdict::Pending => {
                if !was_ready && room.has_pending() && !room.is_flying() {
                    self.ready.push(index);
                }
                return;
            }
            Verdict::Repeat { seq, id } => Answer::Acked { seq, id },
            Verdict::KeyTaken { seq, id } => Answer::KeyTaken { seq, id },
            Verdict::Busy => busy(false),
            Verdict::RateLimited { retry_after_ms } => {
                Answer::Refused { code: ErrorCode::RateLimited, retry_after_ms, is_join: false }
            }
        };
        turn.answer(origin, &room.name, answer);
    }
}

/// How much a room keeps of its newest messages.
fn tail_max(turn: &Turn) -> Most {
    Most { messages: turn.setup.limits.tail_messages_max, bytes: turn.setup.limits.tail_bytes_max }
}

fn busy(is_join: bool) -> Answer {
    Answer::Refused { code: ErrorCode::Busy, retry_after_ms: BUSY_RETRY_MS, is_join }
}

#[cfg(test)]
mod tests;
