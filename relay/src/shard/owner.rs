//! The rooms this shard owns: joins, publishes and history, storage's answers, and cutting.

use std::mem;
use std::sync::Arc;

use protocol::{ErrorCode, Page, Start};
use storage::Record;

use super::command::BUSY_RETRY_MS;
use super::page::{bodies_bytes, page_range, shorten};
use super::{Owned, Shard, StoreReply, StoreRequest};
use crate::dedupe::Known;
use crate::feed::Shared;
use crate::mesh::Mesh;
use crate::room::{Log, Publish, Room, Verdict, Waiter};

/// Records of one append.
const APPEND_RECORDS_MAX: usize = 1024;
/// Messages that may leave the tail while storage reads those before it: so many of the tail are read, too.
const OVERTAKEN_MAX: u64 = 256;
/// Messages of one `Deliver`.
const DELIVER_RECORDS_MAX: usize = 1024;

/// Messages that become visible together, shared by all cores.
type Frame = Arc<[Arc<Record>]>;

/// What storage read for a command that is tried again with it.
#[derive(Clone, Copy)]
struct Extra<'a> {
    /// Seq of the first of the records, or of what they would begin with.
    first: u64,
    records: &'a [Arc<Record>],
    /// What was asked for before that has expired.
    is_cut: bool,
}

impl Extra<'_> {
    /// The seq after its last record.
    fn end(&self) -> u64 {
        self.first + self.records.len() as u64
    }
}

impl Shard {
    /// A command for a room this shard owns.
    pub(super) fn own(&mut self, message: Mesh) {
        let (Mesh::Join { room, .. }
        | Mesh::Leave { room, .. }
        | Mesh::Publish { room, .. }
        | Mesh::History { room, .. }) = &message
        else {
            return;
        };
        let Some(&index) = self.room_of.get(room) else { return self.load(room.clone(), message) };
        match &mut self.rooms[index as usize] {
            Some(Owned::Ready(_)) => self.with_room(index, |shard, room| shard.execute(index, room, message, None)),
            Some(Owned::Loading { waiting, .. }) if waiting.len() < self.setup.limits.pending_publishes_max => {
                waiting.push(message);
            }
            _ => self.refuse_message(&message, ErrorCode::Busy, BUSY_RETRY_MS),
        }
    }

    /// Runs `work` on a room, which is taken out of the table meanwhile.
    fn with_room(&mut self, index: u32, work: impl FnOnce(&mut Self, &mut Room)) {
        match self.rooms[index as usize].take() {
            Some(Owned::Ready(mut room)) => {
                work(self, &mut room);
                self.rooms[index as usize] = Some(Owned::Ready(room));
            }
            other => self.rooms[index as usize] = other,
        }
    }

    fn load(&mut self, room: Arc<str>, first: Mesh) {
        if matches!(first, Mesh::Leave { .. }) {
            return;
        }
        let rooms_max = self.setup.limits.max_rooms.div_ceil(self.setup.shards);
        if self.room_of.len() >= rooms_max {
            return self.refuse_message(&first, ErrorCode::Busy, BUSY_RETRY_MS);
        }
        let index = self.free_rooms.pop().unwrap_or_else(|| {
            self.rooms.push(None);
            self.rooms.len() as u32 - 1
        });
        self.rooms[index as usize] = Some(Owned::Loading { waiting: vec![first], since_us: self.now.us });
        self.room_of.insert(room.clone(), index);
        self.stats.opens += 1;
        self.outbox.store.push(StoreRequest::Open { room });
    }

    /// Forgets a room that is idle or could not be loaded.
    pub(super) fn unload(&mut self, index: u32, room: &str) {
        self.rooms[index as usize] = None;
        self.room_of.remove(room);
        self.free_rooms.push(index);
    }

    /// Storage answers.
    pub fn on_stored(&mut self, reply: StoreReply) {
        match reply {
            StoreReply::Opened { room, log } => self.on_opened(&room, log),
            StoreReply::Appended { room } => {
                let Some(&index) = self.room_of.get(&room) else { return };
                self.with_room(index, |shard, room| shard.on_appended(index, room));
            }
            StoreReply::Read { room, first, last, found } => {
                let Some(&index) = self.room_of.get(&room) else { return };
                let found = found.as_ref().map(|(kept_from, records)| Extra {
                    first: *kept_from,
                    records,
                    is_cut: *kept_from > first,
                });
                self.with_room(index, |shard, room| shard.on_read(index, room, (first, last), found));
            }
        }
    }

    fn on_opened(&mut self, name: &Arc<str>, log: Option<Log>) {
        let Some(&index) = self.room_of.get(name) else { return };
        let slot = &mut self.rooms[index as usize];
        let Some(Owned::Loading { waiting, .. }) = slot else { return };
        let waiting = mem::take(waiting);
        let Some(log) = log else {
            self.unload(index, name);
            return waiting
                .iter()
                .for_each(|message| self.refuse_message(message, ErrorCode::Unavailable, BUSY_RETRY_MS));
        };
        let mut room = Room::load(name.clone(), log, self.setup.shards);
        room.used_us = self.now.us;
        *slot = Some(Owned::Ready(Box::new(room)));
        self.with_room(index, |shard, room| {
            for message in waiting {
                shard.execute(index, room, message, None);
            }
        });
    }

    fn on_appended(&mut self, index: u32, room: &mut Room) {
        let (was_cut, before, name) = (room.cut == room.durable, room.durable, room.name.clone());
        room.stored(self.now.us, self.setup.limits.tail_messages_max, |waiter, Known { seq, id, differs }| {
            let room = name.clone();
            let reply =
                if differs { Mesh::KeyTaken { waiter, room, seq, id } } else { Mesh::Acked { waiter, room, seq, id } };
            self.reply(waiter, reply);
        });
        self.stats.stored += room.durable - before;
        if was_cut {
            self.uncut.push(index);
        }
        if room.has_pending() {
            self.ready.push(index);
        }
    }

    fn on_read(&mut self, index: u32, room: &mut Room, asked: (u64, u64), found: Option<Extra<'_>>) {
        let whole = found.filter(|extra| {
            let ends_right = extra.records.last().is_none_or(|record| record.seq + 1 == extra.end());
            extra.first >= asked.0 && extra.end() > asked.1 && ends_right
        });
        if let Some(extra) = whole.filter(|extra| extra.is_cut) {
            room.expired(extra.first);
        }
        let waiting = room.reads.remove(&asked).unwrap_or_default();
        room.readers -= waiting.len();
        for message in waiting {
            match whole {
                Some(_) => self.execute(index, room, message, whole),
                None => self.refuse_message(&message, ErrorCode::Unavailable, BUSY_RETRY_MS),
            }
        }
    }

    fn execute(&mut self, index: u32, room: &mut Room, message: Mesh, extra: Option<Extra<'_>>) {
        room.used_us = self.now.us;
        match message {
            Mesh::Publish { waiter, principal, content, body, key, parts, .. } => {
                if !principal.rights.publish {
                    return self.refuse(waiter, &room.name, ErrorCode::Denied, 0);
                }
                let publish = Publish { user: principal.user, content, body, key, parts, waiter };
                self.publish(index, room, publish);
            }
            Mesh::Join { waiter, ref principal, start, shared, .. } => {
                if !principal.rights.read {
                    return self.refuse_join(waiter, &room.name, ErrorCode::Denied, 0);
                }
                self.join(index, room, waiter, (start, shared), message, extra);
            }
            Mesh::History { waiter, ref principal, page, limit, epoch, newest_first, .. } => {
                if !principal.rights.read {
                    return self.refuse(waiter, &room.name, ErrorCode::Denied, 0);
                }
                if epoch.is_some_and(|epoch| epoch != room.epoch) {
                    return self.refuse(waiter, &room.name, ErrorCode::Unrecoverable, 0);
                }
                let limit = u64::from(limit.min(self.setup.limits.history_messages_max));
                let (first, last) = page_range(page, limit, room.kept_from..=room.durable);
                let last = found_end(page, (first, last), extra, room.tail_first());
                if let Some(mut records) = self.collect(room, first, last, extra, message) {
                    shorten(&mut records, page, self.setup.limits.history_bytes_max);
                    if newest_first {
                        records.reverse();
                    }
                    let (epoch, head, spare) =
                        (room.epoch, room.durable, (limit as u32).saturating_sub(records.len() as u32));
                    self.reply(waiter, Mesh::Page { waiter, room: room.name.clone(), epoch, head, spare, records });
                }
            }
            Mesh::Leave { shard, .. } => room.cores[shard].members = room.cores[shard].members.saturating_sub(1),
            _ => {}
        }
    }

    fn publish(&mut self, index: u32, room: &mut Room, publish: Publish) {
        self.stats.published += 1;
        let waiter = publish.waiter;
        let was_ready = room.has_pending();
        match room.publish(publish, self.rate, self.setup.limits.pending_publishes_max, self.now.us) {
            Verdict::Pending => {
                if !was_ready && room.has_pending() && !room.is_flying() {
                    self.ready.push(index);
                }
            }
            Verdict::Repeat { seq, id } => {
                self.reply(waiter, Mesh::Acked { waiter, room: room.name.clone(), seq, id });
            }
            Verdict::KeyTaken { seq, id } => {
                self.reply(waiter, Mesh::KeyTaken { waiter, room: room.name.clone(), seq, id });
            }
            Verdict::Busy => self.refuse(waiter, &room.name, ErrorCode::Busy, BUSY_RETRY_MS),
            Verdict::RateLimited { retry_after_ms } => {
                self.refuse(waiter, &room.name, ErrorCode::RateLimited, retry_after_ms);
            }
        }
    }

    /// Makes the client a member of its core, from where it asked to what that core was sent or already has; frames
    /// continue there.
    fn join(
        &mut self,
        index: u32,
        room: &mut Room,
        waiter: Waiter,
        (start, shared): (Start, Option<Shared>),
        message: Mesh,
        extra: Option<Extra<'_>>,
    ) {
        let core = waiter.session.shard();
        if let Start::Since { seq, .. } = start
            && seq > room.cut
            && room.cut < room.durable
        {
            self.cut(index, room);
        }
        let state = room.cores[core];
        let head = if state.members > 0 { state.forwarded } else { room.cut };
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
                return self.refuse_join(waiter, &room.name, ErrorCode::Busy, BUSY_RETRY_MS);
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
        let Some(mut backlog) = self.collect(room, from + 1, resume, extra, message) else { return };
        let bytes_max = self.setup.limits.replies_bytes_max / 2;
        let (from, resume, recovered) = if bodies_bytes(&backlog) <= bytes_max {
            (from, resume, recovered)
        } else if recovering {
            backlog.clear();
            (head, head, false)
        } else {
            shorten(&mut backlog, Page::Newest, bytes_max);
            (resume - backlog.len() as u64, resume, false)
        };
        let state = &mut room.cores[core];
        state.members += 1;
        state.forwarded = head;
        let (name, epoch) = (room.name.clone(), room.epoch);
        let joined = Mesh::Joined { waiter, room: name, epoch, from, head, recovering, recovered, resume, backlog };
        self.reply(waiter, joined);
    }

    /// The durable records `first..=last`, from what storage read (`extra`) and the tail. None when storage must be
    /// asked first: `message` then waits, together with all others that need the same records, and is tried again; or
    /// it was refused, because as many wait as there may be connections.
    fn collect(
        &mut self,
        room: &mut Room,
        first: u64,
        last: u64,
        extra: Option<Extra<'_>>,
        message: Mesh,
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
        if room.readers >= self.setup.limits.max_connections {
            self.refuse_message(&message, ErrorCode::Busy, BUSY_RETRY_MS);
            return None;
        }
        room.readers += 1;
        let asked_last = last.min(tail_first - 1 + OVERTAKEN_MAX);
        let waiting = room.reads.entry((first, asked_last)).or_default();
        if waiting.is_empty() {
            self.stats.reads += 1;
            self.outbox.store.push(StoreRequest::Read { room: room.name.clone(), first, last: asked_last });
        }
        waiting.push(message);
        None
    }

    /// Sends what became pending in this turn to storage, one append a room.
    pub(super) fn form_appends(&mut self) {
        for index in mem::take(&mut self.ready) {
            let now = (self.now.us, self.now.wall_ms);
            if let Some(Owned::Ready(room)) = &mut self.rooms[index as usize]
                && let Some(append) = room.form_append(&mut self.ids, now, APPEND_RECORDS_MAX)
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
        let due = self.uncut.iter().filter_map(|&index| match &self.rooms[index as usize] {
            Some(Owned::Ready(room)) => Some(room.uncut_since_us + self.cut_delay_us(room)),
            _ => None,
        });
        due.min().unwrap_or(u64::MAX)
    }

    /// How long durable messages of a room wait for others to share their frame.
    fn cut_delay_us(&self, room: &Room) -> u64 {
        self.tempo.cut_us(&room.rate, room.members_on_one_core() as usize)
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
        for shard in 0..room.cores.len() {
            let state = room.cores[shard];
            if state.members == 0 || state.forwarded == room.cut {
                continue;
            }
            if self.lane_is_full(shard) {
                self.behind.push(index);
                continue;
            }
            // What the tail does not have any more is a gap for that core's members.
            let first = (state.forwarded + 1).max(room.tail_first());
            if shared.as_ref().is_none_or(|(from, _)| *from != first) {
                let records = room.tail(first, room.cut);
                shared = Some((first, records.chunks(DELIVER_RECORDS_MAX).map(Arc::from).collect()));
            }
            for records in shared.iter().flat_map(|(_, frames)| frames) {
                self.post(shard, Mesh::Deliver { room: room.name.clone(), records: records.clone() });
            }
            room.cores[shard].forwarded = room.cut;
        }
    }

    /// Sends a reply to the shard that has the connection.
    pub(super) fn reply(&mut self, waiter: Waiter, message: Mesh) {
        self.post(waiter.session.shard(), message);
    }

    pub(super) fn refuse(&mut self, waiter: Waiter, room: &Arc<str>, code: ErrorCode, retry_after_ms: u32) {
        self.reply(waiter, Mesh::Refused { waiter, room: room.clone(), code, retry_after_ms, is_join: false });
    }

    fn refuse_join(&mut self, waiter: Waiter, room: &Arc<str>, code: ErrorCode, retry_after_ms: u32) {
        self.reply(waiter, Mesh::Refused { waiter, room: room.clone(), code, retry_after_ms, is_join: true });
    }

    /// Refuses a command that cannot be run.
    pub(super) fn refuse_message(&mut self, message: &Mesh, code: ErrorCode, retry_after_ms: u32) {
        match message {
            Mesh::Join { waiter, room, .. } => self.refuse_join(*waiter, room, code, retry_after_ms),
            Mesh::Publish { waiter, room, .. } | Mesh::History { waiter, room, .. } => {
                self.refuse(*waiter, room, code, retry_after_ms);
            }
            _ => {}
        }
    }
}

/// Where a page ends. When what it asked for has expired and storage found the next ones that are kept, it ends with
/// these: reading on could meet the next expiry.
fn found_end(page: Page, (first, last): (u64, u64), extra: Option<Extra<'_>>, tail_first: u64) -> u64 {
    match (page, extra) {
        (Page::After(_) | Page::Around(_), Some(extra))
            if extra.is_cut && (extra.first..extra.end()).contains(&first) && extra.end() < tail_first =>
        {
            last.min(extra.end() - 1)
        }
        _ => last,
    }
}
