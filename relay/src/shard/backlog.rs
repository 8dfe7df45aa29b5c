//! Long replies: kept as the messages they are made of, and encoded piece by piece as their connection takes them.
//!
//! Records are shared with the room's tail and with everybody who asked for the same, so that who does not read costs a
//! list of pointers and one piece.

use std::collections::VecDeque;
use std::mem;
use std::ops::Range;
use std::sync::Arc;

use protocol::{Dialect, ErrorCode, Event, Message};
use storage::Record;

use super::Shard;
use super::command::BUSY_RETRY_MS;
use super::intake::MESSAGE_NS;
use super::page::all_sent_bytes;
use crate::budget::Use;
use crate::chain::VISIT_BYTES_MAX;
use crate::ids::SessionId;
use crate::session::{Phase, Session, Speaks};
use crate::sizes::records_bytes;

/// Bodies of one frame, bytes: a longer run of messages becomes several frames.
const FRAME_BODY_BYTES_MAX: usize = 48 * 1024;
/// What is made of these at most, beside names and numbers, bytes.
const FRAME_BYTES_MAX: usize = 6 * FRAME_BODY_BYTES_MAX;
/// With so many bytes to take a connection needs no more at once.
const PIECE_BYTES: usize = 32 * 1024;
/// What a page has around its messages, bytes.
const PAGE_BYTES: usize = 200;

/// So much that waits to be sent is a reply: visits to feeds are shorter, bytes.
const LARGE_BYTES: usize = 4 * VISIT_BYTES_MAX;

/// A reply that is to be sent.
pub(super) enum Reply {
    /// Short ones behind those that are not encoded yet.
    Encoded(Vec<u8>),
    /// Messages that a new member begins with: what is left of them.
    Backlog { room: Arc<str>, records: Vec<Arc<Record>>, at: usize, size: Size },
    /// A page of history, one frame.
    Page { tag: u32, room: Arc<str>, epoch: u64, head: u64, records: Vec<Arc<Record>>, size: Size },
}

/// What a reply counts for while it waits, bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Size {
    /// No less than what is sent of it.
    sent: usize,
    /// Records as they lie in memory: those of a member's beginning until it is sent to the end.
    memory: usize,
}

impl Size {
    fn of(room: &str, records: &[Arc<Record>]) -> Self {
        Self { sent: all_sent_bytes(room, records), memory: records_bytes(records) }
    }

    fn and(self, other: Self) -> Self {
        Self { sent: self.sent + other.sent, memory: self.memory + other.memory }
    }
}

impl Reply {
    pub(super) fn backlog(room: Arc<str>, records: Vec<Arc<Record>>) -> Self {
        Self::Backlog { size: Size::of(&room, &records), room, records, at: 0 }
    }

    pub(super) fn page(tag: u32, room: Arc<str>, (epoch, head): (u64, u64), records: Vec<Arc<Record>>) -> Self {
        let mut size = Size::of(&room, &records);
        size.sent += PAGE_BYTES;
        Self::Page { size, tag, room, epoch, head, records }
    }

    fn size(&self) -> Size {
        match self {
            Self::Encoded(bytes) => Size { sent: bytes.len(), memory: bytes.len() },
            Self::Backlog { size, .. } | Self::Page { size, .. } => *size,
        }
    }

    /// What is sent of it in one piece, at most.
    fn piece_bytes(&self) -> usize {
        match self {
            Self::Page { size, .. } => size.sent,
            _ => self.size().sent.min(FRAME_BYTES_MAX),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Self::Backlog { records, at, .. } if *at == records.len())
    }

    fn is_backlog_of(&self, name: &str) -> bool {
        matches!(self, Self::Backlog { room, .. } if **room == *name)
    }
}

/// The replies of one connection that are to be encoded, in order, and what they count for.
#[derive(Default)]
pub(super) struct Waiting {
    replies: VecDeque<Reply>,
    size: Size,
}

impl Waiting {
    fn push(&mut self, reply: Reply) {
        self.size = self.size.and(reply.size());
        self.replies.push_back(reply);
    }

    fn pop(&mut self) -> Option<Reply> {
        let reply = self.replies.pop_front()?;
        let Size { sent, memory } = reply.size();
        self.size = Size { sent: self.size.sent - sent, memory: self.size.memory - memory };
        Some(reply)
    }

    /// Brings back what is left of the first one.
    fn push_rest(&mut self, reply: Reply) {
        self.size = self.size.and(reply.size());
        self.replies.push_front(reply);
    }
}

impl Shard {
    /// What waits for a connection alone or is on its way to it alone, bytes.
    pub(super) fn owed_bytes(&self, session: &Session) -> usize {
        session.owed_bytes() + self.waiting(session).sent
    }

    /// What that holds in memory, bytes.
    pub(super) fn owed_memory(&self, session: &Session) -> usize {
        session.owed_bytes() + self.waiting(session).memory
    }

    fn waiting(&self, session: &Session) -> Size {
        let waiting = session.has_backlog.then(|| self.backlogs.get(&session.id)).flatten();
        waiting.map_or(Size::default(), |waiting| waiting.size)
    }

    /// There is room for a reply in memory, and among what waits for this connection; when nothing does, for any.
    pub(super) fn may_owe(&self, session: &Session, reply: &Reply) -> bool {
        let (owed, Size { sent, memory }) = (self.owed_bytes(session), reply.size());
        let fits = owed == 0 || owed + sent <= self.setup.limits.replies_bytes_max;
        let wanted = if owed == 0 { Use::Answer } else { Use::More };
        fits && (sent == 0 || self.memory.allows(wanted, memory + reply.piece_bytes()))
    }

    /// A page of history for the command with this tag; it is `spare` messages shorter than it was charged for.
    pub(super) fn on_page(&mut self, id: SessionId, tag: u32, spare: u32, page: impl FnOnce() -> Reply) {
        self.with_session(id, |shard, session| {
            shard.spend(session, -i64::from(spare) * MESSAGE_NS);
            if let (Phase::Open, Speaks::Dialect(dialect), 1..) = (&session.phase, session.speaks, tag) {
                let page = page();
                if shard.may_owe(session, &page) {
                    shard.owe(session, page);
                } else {
                    shard.refuse_reply(session, dialect, tag);
                }
            }
        });
    }

    /// There is no room for a reply among those that wait: its command may be tried again.
    pub(super) fn refuse_reply(&mut self, session: &mut Session, dialect: Dialect, tag: u32) {
        self.stats.refuse(ErrorCode::Busy);
        if tag == 0 {
            return;
        }
        let message = "too much waits for this connection";
        let error = Event::Error { code: ErrorCode::Busy, message, retry_after_ms: BUSY_RETRY_MS };
        self.say(session, dialect, tag, &error);
    }

    /// Adds a short reply behind those that wait: what is asked of one room is answered in order.
    pub(super) fn say(&mut self, session: &mut Session, dialect: Dialect, tag: u32, event: &Event<'_>) {
        let Some(waiting) = self.backlogs.get_mut(&session.id) else {
            return dialect.encode(tag, event, &mut session.replies);
        };
        if !matches!(waiting.replies.back(), Some(Reply::Encoded(_))) {
            waiting.replies.push_back(Reply::Encoded(Vec::new()));
        }
        if let Some(Reply::Encoded(bytes)) = waiting.replies.back_mut() {
            let before = bytes.len();
            dialect.encode(tag, event, bytes);
            let more = bytes.len() - before;
            waiting.size = waiting.size.and(Size { sent: more, memory: more });
        }
    }

    /// Adds a reply behind those that wait.
    pub(super) fn owe(&mut self, session: &mut Session, reply: Reply) {
        let waiting = self.backlogs.entry(session.id).or_default();
        waiting.push(reply);
        session.has_backlog = true;
        self.encode_some(session);
    }

    /// Encodes so much of what waits for a connection that it has something to take.
    pub(super) fn encode_some(&mut self, session: &mut Session) {
        while session.has_backlog && session.replies.len() < PIECE_BYTES {
            self.encode_next(session);
        }
    }

    fn encode_next(&mut self, session: &mut Session) {
        let Speaks::Dialect(dialect) = session.speaks else { return self.drop_backlogs(session) };
        let Some(waiting) = self.backlogs.get_mut(&session.id) else { return self.drop_backlogs(session) };
        let Some(mut reply) = waiting.pop() else { return self.drop_backlogs(session) };
        match &mut reply {
            Reply::Encoded(bytes) => session.replies.append(bytes),
            Reply::Page { tag, room, epoch, head, records, .. } => {
                let messages: Vec<Message<'_>> = records.iter().map(|record| record.message()).collect();
                let page = Event::History { room, epoch: *epoch, head: *head, messages: &messages[..] };
                dialect.encode(*tag, &page, &mut session.replies);
            }
            Reply::Backlog { room, records, at, size } => {
                let piece = next_batch(records, *at);
                let messages: Vec<Message<'_>> = records[piece.clone()].iter().map(|record| record.message()).collect();
                dialect.encode(0, &Event::Batch { room, messages: &messages }, &mut session.replies);
                size.sent -= all_sent_bytes(room, &records[piece.clone()]);
                *at = piece.end;
                if piece.end < records.len() {
                    waiting.push_rest(reply);
                }
            }
        }
        if waiting.replies.is_empty() {
            self.backlogs.remove(&session.id);
            session.has_backlog = false;
        }
    }

    /// A connection took so many bytes of what it is sent, and `left` are left of it. Returns whether it may take its time
    /// anew: it took something, or while replies wait for it enough since its time began.
    pub(super) fn creep(&mut self, id: SessionId, taken: usize, left: usize) -> bool {
        let (limits, now_us) = (&self.setup.limits, self.now.us);
        let Some(session) = self.sessions.get(id) else { return false };
        let is_owed = session.has_backlog || !session.replies.is_empty() || left > LARGE_BYTES;
        if !is_owed || session.blocked_ds == 0 {
            if let Some(allowance) = &mut session.allowance {
                allowance.crept = 0;
            }
            return left == 0 || taken > 0;
        }
        let least = u64::from(limits.replies_rate_min) * limits.slow_consumer_timeout_ms / 1000;
        let crept = &mut session.allowance(limits, now_us).crept;
        *crept = crept.saturating_add(taken as u32);
        let has_crept_on = taken > 0 && u64::from(*crept) >= least;
        if has_crept_on {
            *crept = 0;
        }
        has_crept_on
    }

    /// A member leaves: what it was still to begin with is not sent any more.
    pub(super) fn drop_backlog(&mut self, session: &mut Session, room: &str) {
        let Some(waiting) = self.backlogs.get_mut(&session.id) else { return };
        waiting.replies.retain(|reply| !reply.is_backlog_of(room));
        waiting.size = waiting.replies.iter().map(Reply::size).fold(Size::default(), Size::and);
        if waiting.replies.is_empty() {
            self.drop_backlogs(session);
        }
    }

    /// Nothing of it is sent any more.
    pub(super) fn drop_backlogs(&mut self, session: &mut Session) {
        if mem::take(&mut session.has_backlog) {
            self.backlogs.remove(&session.id);
        }
    }
}

/// The records of the next frame, from `start` on.
pub(super) fn next_batch(records: &[Arc<Record>], start: usize) -> Range<usize> {
    let mut bytes = 0;
    let full = records[start..].iter().position(|record| {
        bytes += record.body.len();
        bytes >= FRAME_BODY_BYTES_MAX
    });
    start..full.map_or(records.len(), |last| start + last + 1)
}
