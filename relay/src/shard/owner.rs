//! The rooms this shard owns: joins, publishes and history, storage's answers, and cutting.

use std::mem;
use std::sync::Arc;

use protocol::{ErrorCode, Page, Start};
use storage::Record;

use super::command::BUSY_RETRY_MS;
use super::page::{all_sent_bytes, found_end, page_range, shorten, split};
use super::table::Owned;
use super::{Found, Shard, StoreReply, StoreRequest, Unread, Wanted};
use crate::budget::Use;
use crate::dedupe::Known;
use crate::feed::Shared;
use crate::ids::{Origin, user_hash};
use crate::mesh::{Answer, Answered, Ask, Asked, Mesh};
use crate::room::{Log, Most, Publish, Room, Verdict};
use crate::sizes::{record_bytes, records_bytes};

/// What one append has at most.
const APPEND: Most = Most { messages: 1024, bytes: 1 << 20 };
/// Messages that may leave the tail while storage reads those before it: so many of the tail are read, too.
const OVERTAKEN_MAX: u64 = 256;
/// What one `Deliver` has at most.
const DELIVER: Most = Most { messages: 1024, bytes: 1 << 20 };

/// Messages that become visible together, shared by all cores.
type Frame = Arc<[Arc<Record>]>;

impl Shard {
    /// Storage answers.
    pub fn on_stored(&mut self, reply: StoreReply) {
        match reply {
            StoreReply::Opened { room, log } => self.on_opened(&room, log),
            StoreReply::Appended { room } => {
                let Some(index) = self.rooms.find(&room) else { return };
                self.with_room(index, |shard, room| shard.on_appended(index, room));
            }
            StoreReply::Read { room, wanted, found } => {
                let Some(index) = self.rooms.find(&room) else { return };
                self.with_room(index, |shard, room| shard.on_read(index, room, wanted, found));
            }
        }
    }

    fn on_opened(&mut self, name: &Arc<str>, log: Option<Log>) {
        let Some(index) = self.rooms.find(name) else { return };
        let Some(Owned::Loading { waiting, .. }) = self.rooms.get(index) else { return };
        let waiting = mem::take(waiting);
        self.memory.give(waiting.iter().map(Asked::bytes).sum());
        let Some(log) = log else {
            self.unload(index, name);
            return waiting.iter().for_each(|asked| self.refuse(asked, ErrorCode::Unavailable, BUSY_RETRY_MS));
        };
        let mut room = Room::load(name.clone(), log, self.setup.shards, self.tail_max());
        room.used_us = self.now.us;
        self.memory.add(room.bytes());
        self.rooms.loaded(index, Box::new(room));
        self.with_room(index, |shard, room| {
            for asked in waiting {
                shard.perform(index, room, asked);
            }
        });
        self.forget_empty(index);
    }

    fn on_appended(&mut self, index: u32, room: &mut Room) {
        let (was_cut, before, name) = (room.cut == room.durable, room.durable, room.name.clone());
        let tail_max = self.tail_max();
        room.stored(self.now.us, tail_max, |origin, Known { seq, id, differs }| {
            let answer = if differs { Answer::KeyTaken { seq, id } } else { Answer::Acked { seq, id } };
            self.answer(origin, &name, answer);
        });
        self.stats.stored += room.durable - before;
        if was_cut {
            self.uncut.push(index);
        }
        if room.has_pending() {
            self.ready.push(index);
        }
        if self.memory.is_short() {
            room.drop_tail();
        }
    }

    /// How much a room keeps of its newest messages.
    fn tail_max(&self) -> Most {
        Most { messages: self.setup.limits.tail_messages_max, bytes: self.setup.limits.tail_bytes_max }
    }

    fn on_read(&mut self, index: u32, room: &mut Room, wanted: Wanted, found: Result<Found, Unread>) {
        let mut waiting = room.reads.remove(&wanted).unwrap_or_default();
        if let Err(Unread::Gone(session)) = found {
            let (gone, left): (Vec<_>, Vec<_>) =
                waiting.into_iter().partition(|asked| matches!(asked.origin, Origin::Session(of, _) if of == session));
            waiting = gone;
            if let Some(first) = left.first() {
                let Origin::Session(asker, _) = first.origin;
                room.reads.insert(wanted, left);
                self.outbox.store.push(StoreRequest::Read { room: room.name.clone(), wanted, asker });
            }
        }
        self.readers -= waiting.len();
        self.memory.give(waiting.iter().map(Asked::bytes).sum());
        let found = found.ok().filter(|found| found.is_whole(&wanted));
        if let Some(found) = found.as_ref().filter(|found| found.has_expired) {
            room.expired(found.first);
        }
        for asked in waiting {
            match &found {
                Some(_) => self.execute(index, room, asked, found.as_ref()),
                None => self.refuse(&asked, ErrorCode::Unavailable, BUSY_RETRY_MS),
            }
        }
    }

    /// Runs a command of a room.
    pub(super) fn perform(&mut self, index: u32, room: &mut Room, asked: Asked) {
        self.execute(index, room, asked, None);
    }

    fn execute(&mut self, index: u32, room: &mut Room, asked: Asked, extra: Option<&Found>) {
        room.used_us = self.now.us;
        if !asked.ask.is_allowed(asked.principal.rights) {
            return self.refuse(&asked, ErrorCode::Denied, 0);
        }
        match asked.ask {
            Ask::Publish { content, body, key, parts } => {
                let (user, origin) = (asked.principal.user, asked.origin);
                self.publish(index, room, Publish { user, content, body, key, parts, origin });
            }
            Ask::Join { start, shared } => self.join(index, room, (start, shared), asked, extra),
            Ask::History { page, limit, epoch, newest_first } => {
                if epoch.is_some_and(|epoch| epoch != room.epoch) {
                    return self.refuse(&asked, ErrorCode::Unrecoverable, 0);
                }
                self.page(room, (page, limit, newest_first), asked, extra);
            }
        }
    }

    /// A page of history.
    fn page(
        &mut self,
        room: &mut Room,
        (page, limit, newest_first): (Page, u32, bool),
        asked: Asked,
        extra: Option<&Found>,
    ) {
        let origin = asked.origin;
        let limit = u64::from(limit.min(self.setup.limits.history_messages_max));
        let (first, last) = page_range(page, limit, room.kept_from..=room.durable);
        let last = found_end(page, (first, last), extra, room.tail_first());
        let bytes_max = self.setup.limits.history_bytes_max;
        let wanted = Wanted { first, last, split: split(page, (first, last)), bytes_max };
        let told = extra.map_or((first, last), |found| found.narrow((first, last)));
        let Some(mut records) = self.collect(room, wanted, told, extra, asked) else { return };
        shorten(&room.name, &mut records, page, bytes_max);
        if !self.has_memory_for(&records) {
            return self.answer(origin, &room.name, busy(false));
        }
        if newest_first {
            records.reverse();
        }
        let spare = (limit as u32).saturating_sub(records.len() as u32);
        self.answer(origin, &room.name, Answer::Page { epoch: room.epoch, head: room.durable, spare, records });
    }

    fn publish(&mut self, index: u32, room: &mut Room, publish: Publish) {
        self.stats.published += 1;
        let origin = publish.origin;
        let was_ready = room.has_pending();
        let limits = &self.setup.limits;
        let pending_max = Most { messages: limits.pending_publishes_max, bytes: limits.pending_bytes_max };
        let answer = match room.publish(publish, self.rate, pending_max, self.now.us) {
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
        self.answer(origin, &room.name, answer);
    }

    /// Makes the client a member of its core, from where it asked to what that core was sent or already has; frames
    /// continue there.
    fn join(
        &mut self,
        index: u32,
        room: &mut Room,
        (start, shared): (Start, Option<Shared>),
        asked: Asked,
        extra: Option<&Found>,
    ) {
        let (origin, user) = (asked.origin, user_hash(&asked.principal.user));
        let core = origin.core();
        if let Start::Since { seq, .. } = start
            && seq > room.cut
            && room.cut < room.durable
        {
            self.cut(index, room);
        }
        let state = room.audience.of(core);
        let head = if state.members > 0 { state.sent } else { room.cut };
        // Without a member the core's frames may have a hole, which only its next frame would show.
        let shared = shared.filter(|shared| state.members > 0 && shared.boundary <= head);
        let (from, recovering, recovered) = match start {
            Start::Recent(n) => {
                let newest = head - head.min(u64::from(n.min(self.setup.limits.history_messages_max)));
                let newest = newest.max(room.kept_from - 1).min(head);
                (shared.map_or(newest, |shared| newest.min(shared.boundary)), false, false)
            }
            Start::Since { seq, .. } if seq > head && seq <= room.cut => {
                // This core's lane is full and its members are behind what the client has seen elsewhere.
                return self.answer(origin, &room.name, busy(true));
            }
            Start::Since { seq, epoch } => {
                let known = epoch.is_none_or(|epoch| epoch == room.epoch) && seq <= head;
                let is_near = shared.is_some() || head.saturating_sub(seq) <= self.setup.limits.recovery_messages_max;
                let private_end = shared.map_or(head, |shared| shared.boundary);
                let recovered = known && is_near && (seq + 1 >= room.kept_from || seq >= private_end);
                (if recovered { seq } else { head }, true, recovered)
            }
        };
        let resume = shared.filter(|_| from < head).map_or(head, |shared| shared.boundary);
        let bytes_max = self.setup.limits.replies_bytes_max / 2;
        let wanted = Wanted { first: from + 1, last: resume, split: resume + 1, bytes_max };
        let (from, resume, recovered) = match extra {
            Some(found) if found.more_before && from + 1 < found.first => {
                if recovering {
                    (head, head, false)
                } else {
                    (resume.min(found.first - 1), resume, false)
                }
            }
            _ => (from, resume, recovered),
        };
        let Some(mut backlog) = self.collect(room, wanted, (from + 1, resume), extra, asked) else { return };
        let (from, resume, recovered) = if all_sent_bytes(&room.name, &backlog) <= bytes_max {
            (from, resume, recovered)
        } else if recovering {
            backlog.clear();
            (head, head, false)
        } else {
            shorten(&room.name, &mut backlog, Page::Newest, bytes_max);
            (resume - backlog.len() as u64, resume, false)
        };
        if !self.has_memory_for(&backlog) {
            return self.answer(origin, &room.name, busy(true));
        }
        room.audience.join(core, user, head);
        let epoch = room.epoch;
        let joined = Answer::Joined { epoch, from, head, recovering, recovered, resume, backlog, user };
        self.answer(origin, &room.name, joined);
    }

    /// A reply with these records can be made.
    fn has_memory_for(&self, records: &[Arc<Record>]) -> bool {
        records.is_empty() || self.memory.allows(Use::Answer, records_bytes(records))
    }

    /// The durable records to be told, those that are wanted or fewer of them, from what storage read (`extra`) and the
    /// tail. None when storage must be asked for all that are wanted: `asked` then waits, together with all others that
    /// need the same records, and is tried again; or it was refused, because as many wait as may.
    fn collect(
        &mut self,
        room: &mut Room,
        wanted: Wanted,
        (first, last): (u64, u64),
        extra: Option<&Found>,
        asked: Asked,
    ) -> Option<Vec<Arc<Record>>> {
        let tail_first = room.tail_first();
        if first > last || first >= tail_first {
            return Some(room.tail(first, last));
        }
        let stored_last = last.min(tail_first - 1);
        if let Some(extra) = extra
            && extra.first <= first
            && extra.end() > stored_last
        {
            let part = &extra.records[(first - extra.first) as usize..=(stored_last - extra.first) as usize];
            let mut all = part.to_vec();
            all.extend(room.tail(stored_last + 1, last));
            return Some(all);
        }
        if self.readers >= self.setup.limits.pending_reads_max {
            self.refuse(&asked, ErrorCode::Busy, BUSY_RETRY_MS);
            return None;
        }
        self.readers += 1;
        // What is read last may have left the tail by then.
        let last = wanted.last.min(tail_first - 1 + OVERTAKEN_MAX);
        let wanted = Wanted { last, split: wanted.split.min(last + 1), ..wanted };
        let waiting = room.reads.entry(wanted).or_default();
        if waiting.is_empty() {
            self.stats.reads += 1;
            let Origin::Session(asker, _) = asked.origin;
            self.outbox.store.push(StoreRequest::Read { room: room.name.clone(), wanted, asker });
        }
        self.memory.add(asked.bytes());
        waiting.push(asked);
        None
    }

    /// Sends what became pending in this turn to storage, one append a room.
    pub(super) fn form_appends(&mut self) {
        for index in mem::take(&mut self.ready) {
            let now = (self.now.us, self.now.wall_ms);
            if let Some(Owned::Ready(room)) = self.rooms.get(index)
                && let Some(append) = room.form_append(&mut self.ids, now, APPEND)
            {
                self.outbox.store.push(StoreRequest::Append(append));
            }
        }
    }

    /// Makes what is due visible, and sends again what a full lane did not take.
    pub(super) fn cut_due(&mut self) {
        let now_us = self.now.us;
        for index in mem::take(&mut self.uncut) {
            self.with_room(index, |shard, room| {
                if room.cut == room.durable {
                    return;
                }
                if now_us >= room.uncut_since_us + shard.cut_delay_us(room) {
                    shard.cut(index, room);
                } else {
                    shard.uncut.push(index);
                }
            });
        }
        let mut behind = mem::take(&mut self.behind);
        behind.sort_unstable();
        behind.dedup();
        for index in behind {
            self.with_room(index, |shard, room| shard.forward(index, room));
        }
    }

    /// When the next room is due to be cut.
    pub(super) fn next_cut_us(&self) -> u64 {
        let uncut = self.uncut.iter().filter_map(|&index| self.rooms.ready(index));
        let due = uncut.map(|room| room.uncut_since_us + self.cut_delay_us(room));
        due.min().unwrap_or(u64::MAX)
    }

    /// How long durable messages of a room wait for others to share their frame.
    fn cut_delay_us(&self, room: &Room) -> u64 {
        self.tempo.cut_us(&room.rate, room.audience.members_on_one_core() as usize)
    }

    /// Everything durable becomes visible.
    fn cut(&mut self, index: u32, room: &mut Room) {
        room.recent_cut += (room.durable - room.cut) as u32;
        room.cut = room.durable;
        self.forward(index, room);
    }

    /// Brings every core that has members up to what is visible; a core whose lane is full stays behind.
    fn forward(&mut self, index: u32, room: &mut Room) {
        let mut shared: Option<(u64, Vec<Frame>)> = None;
        for core in 0..room.audience.cores() {
            let Some(sent) = room.audience.lacks(core, room.cut) else { continue };
            if self.lane_is_full(core) || self.lane_must_wait(core) {
                self.behind.push(index);
                continue;
            }
            // What the tail does not have any more is a gap for that core's members.
            let first = (sent + 1).max(room.tail_first());
            if shared.as_ref().is_none_or(|(from, _)| *from != first) {
                let records = room.tail(first, room.cut);
                shared = Some((first, pieces(&records).map(Arc::from).collect()));
            }
            for records in shared.iter().flat_map(|(_, frames)| frames) {
                self.post(core, Mesh::Deliver { room: room.name.clone(), records: records.clone() });
            }
            room.audience.sent(core, room.cut);
        }
    }

    /// Sends the answer to a command to where that came from.
    pub(super) fn answer(&mut self, origin: Origin, room: &Arc<str>, answer: Answer) {
        self.post(origin.core(), Mesh::Answer(Answered { origin, room: room.clone(), answer }));
    }

    /// Refuses a command.
    pub(super) fn refuse(&mut self, asked: &Asked, code: ErrorCode, retry_after_ms: u32) {
        let is_join = matches!(asked.ask, Ask::Join { .. });
        self.answer(asked.origin, &asked.room, Answer::Refused { code, retry_after_ms, is_join });
    }
}

fn busy(is_join: bool) -> Answer {
    Answer::Refused { code: ErrorCode::Busy, retry_after_ms: BUSY_RETRY_MS, is_join }
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
