//! What needs a part of a room's log: joins and pages of history, from the tail or from storage.

use std::sync::Arc;

use protocol::{ErrorCode, Page, Start};
use storage::Record;

use super::page::{found_end, page_range, shorten, split};
use super::{Owner, busy};
use crate::budget::Use;
use crate::feed::Shared;
use crate::ids::{Origin, user_hash};
use crate::mesh::{Answer, Asked};
use crate::room::{Room, Wanted};
use crate::shard::outbox::{Found, StoreRequest, Unread};
use crate::shard::turn::{BUSY_RETRY_MS, Turn};
use crate::sizes::{all_sent_bytes, records_bytes};

/// How many messages of the tail are read from storage together with those before it. They may have left the tail by the
/// time storage answers.
const OVERTAKEN_MAX: u64 = 256;

impl Owner {
    pub(super) fn on_read(
        &mut self,
        turn: &mut Turn,
        index: u32,
        room: &mut Room,
        wanted: Wanted,
        found: Result<Found, Unread>,
    ) {
        let mut waiting = room.reads.remove(&wanted).unwrap_or_default();
        if let Err(Unread::Gone(session)) = found {
            let (gone, left): (Vec<_>, Vec<_>) =
                waiting.into_iter().partition(|asked| matches!(asked.origin, Origin::Session(of, _) if of == session));
            waiting = gone;
            if let Some(first) = left.first() {
                let Origin::Session(asker, _) = first.origin;
                room.reads.insert(wanted, left);
                turn.outbox.store.push(StoreRequest::Read { room: room.name.clone(), wanted, asker });
            }
        }
        self.readers -= waiting.len();
        turn.memory.give(waiting.iter().map(Asked::bytes).sum());
        let found = found.ok().filter(|found| found.is_whole(&wanted));
        if let Some(found) = found.as_ref().filter(|found| found.has_expired) {
            room.expired(found.first);
        }
        for asked in waiting {
            match &found {
                Some(_) => self.execute(turn, index, room, asked, found.as_ref()),
                None => turn.refuse(&asked, ErrorCode::Unavailable, BUSY_RETRY_MS),
            }
        }
    }

    /// A page of history.
    pub(super) fn page(
        &mut self,
        turn: &mut Turn,
        room: &mut Room,
        (page, limit, newest_first): (Page, u32, bool),
        asked: Asked,
        extra: Option<&Found>,
    ) {
        let origin = asked.origin;
        let limit = u64::from(limit.min(turn.setup.limits.history_messages_max));
        let (first, last) = page_range(page, limit, room.kept_from..=room.durable);
        let last = found_end(page, (first, last), extra, room.tail_first());
        let bytes_max = turn.setup.limits.history_bytes_max;
        let wanted = Wanted { first, last, split: split(page, (first, last)), bytes_max };
        let told = extra.map_or((first, last), |found| found.narrow((first, last)));
        let Some(mut records) = self.collect(turn, room, wanted, told, extra, asked) else { return };
        shorten(&room.name, &mut records, page, bytes_max);
        if !has_memory_for(turn, &records) {
            return turn.answer(origin, &room.name, busy(false));
        }
        if newest_first {
            records.reverse();
        }
        let spare = (limit as u32).saturating_sub(records.len() as u32);
        turn.answer(origin, &room.name, Answer::Page { epoch: room.epoch, head: room.durable, spare, records });
    }

    /// Makes the client a member of its core, from where it asked to what that core was sent or already has; frames
    /// continue there.
    pub(super) fn join(
        &mut self,
        turn: &mut Turn,
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
            self.cut(turn, index, room);
        }
        let state = room.audience.of(core);
        let head = if state.members > 0 { state.sent } else { room.cut };
        // Without a member the core's frames may have a hole, which only its next frame would show.
        let shared = shared.filter(|shared| state.members > 0 && shared.boundary <= head);
        let (from, recovering, recovered) = match start {
            Start::Recent(n) => {
                let newest = head - head.min(u64::from(n.min(turn.setup.limits.history_messages_max)));
                let newest = newest.max(room.kept_from - 1).min(head);
                (shared.map_or(newest, |shared| newest.min(shared.boundary)), false, false)
            }
            Start::Since { seq, .. } if seq > head && seq <= room.cut => {
                // This core's lane is full and its members are behind what the client has seen elsewhere.
                return turn.answer(origin, &room.name, busy(true));
            }
            Start::Since { seq, epoch } => {
                let known = epoch.is_none_or(|epoch| epoch == room.epoch) && seq <= head;
                let is_near = shared.is_some() || head.saturating_sub(seq) <= turn.setup.limits.recovery_messages_max;
                let private_end = shared.map_or(head, |shared| shared.boundary);
                let recovered = known && is_near && (seq + 1 >= room.kept_from || seq >= private_end);
                (if recovered { seq } else { head }, true, recovered)
            }
        };
        let resume = shared.filter(|_| from < head).map_or(head, |shared| shared.boundary);
        let bytes_max = turn.setup.limits.replies_bytes_max / 2;
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
        let Some(mut backlog) = self.collect(turn, room, wanted, (from + 1, resume), extra, asked) else { return };
        let (from, resume, recovered) = if all_sent_bytes(&room.name, &backlog) <= bytes_max {
            (from, resume, recovered)
        } else if recovering {
            backlog.clear();
            (head, head, false)
        } else {
            shorten(&room.name, &mut backlog, Page::Newest, bytes_max);
            (resume - backlog.len() as u64, resume, false)
        };
        if !has_memory_for(turn, &backlog) {
            return turn.answer(origin, &room.name, busy(true));
        }
        room.audience.join(core, user, head);
        let epoch = room.epoch;
        let joined = Answer::Joined { epoch, from, head, recovering, recovered, resume, backlog, user };
        turn.answer(origin, &room.name, joined);
    }

    /// The durable records to be told, those that are wanted or fewer of them, from what storage read (`extra`) and the
    /// tail. None when storage must be asked for all that are wanted: `asked` then waits, together with all others that
    /// need the same records, and is tried again; or it was refused, because as many wait as may.
    fn collect(
        &mut self,
        turn: &mut Turn,
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
        if self.readers >= turn.setup.limits.pending_reads_max {
            turn.refuse(&asked, ErrorCode::Busy, BUSY_RETRY_MS);
            return None;
        }
        self.readers += 1;
        // What is read last may have left the tail by then.
        let last = wanted.last.min(tail_first - 1 + OVERTAKEN_MAX);
        let wanted = Wanted { last, split: wanted.split.min(last + 1), ..wanted };
        let waiting = room.reads.entry(wanted).or_default();
        if waiting.is_empty() {
            turn.stats.reads += 1;
            let Origin::Session(asker, _) = asked.origin;
            turn.outbox.store.push(StoreRequest::Read { room: room.name.clone(), wanted, asker });
        }
        turn.memory.add(asked.bytes());
        waiting.push(asked);
        None
    }
}

/// A reply with these records can be made.
fn has_memory_for(turn: &Turn, records: &[Arc<Record>]) -> bool {
    records.is_empty() || turn.memory.allows(Use::Answer, records_bytes(records))
}
