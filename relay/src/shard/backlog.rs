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
use crate::room::Waiter;
use crate::session::{Phase, Session, Speaks};

/// Bodies of one frame, bytes: a longer run of messages becomes several frames.
const FRAME_BODY_BYTES_MAX: usize = 48 * 1024;
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
    /// Messages that a new member begins with: what is left of them, and what that takes when it is sent, bytes.
    Backlog { room: Arc<str>, records: Vec<Arc<Record>>, at: usize, bytes: usize },
    /// A page of history, one frame.
    Page { tag: u32, room: Arc<str>, epoch: u64, head: u64, records: Vec<Arc<Record>>, bytes: usize },
}

impl Reply {
    pub(super) fn backlog(room: Arc<str>, records: Vec<Arc<Record>>) -> Self {
        Self::Backlog { bytes: all_sent_bytes(&room, &records), room, records, at: 0 }
    }

    pub(super) fn page(tag: u32, room: Arc<str>, (epoch, head): (u64, u64), records: Vec<Arc<Record>>) -> Self {
        Self::Page { bytes: PAGE_BYTES + all_sent_bytes(&room, &records), tag, room, epoch, head, records }
    }

    /// What it counts for while it waits: no less than what is sent of it.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Encoded(bytes) => bytes.len(),
            Self::Backlog { bytes, .. } | Self::Page { bytes, .. } => *bytes,
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
    bytes: usize,
}

impl Shard {
    /// What waits for a connection alone or is on its way to it alone, bytes.
    pub(super) fn owed_bytes(&self, session: &Session) -> usize {
        let waiting =
            if session.has_backlog { self.backlogs.get(&session.id).map_or(0, |waiting| waiting.bytes) } else { 0 };
        session.owed_bytes() + waiting
    }

    /// There is room for a reply of so many bytes in memory, and among what waits for this connection; when nothing does,
    /// for any.
    pub(super) fn may_owe(&self, session: &Session, bytes: usize) -> bool {
        let owed = self.owed_bytes(session);
        let fits = owed == 0 || owed + bytes <= self.setup.limits.replies_bytes_max;
        fits && (bytes == 0 || self.memory.allows(Use::Finish, bytes))
    }

    /// A page of history, with its waiter's tag; it is `spare` messages shorter than it was charged for.
    pub(super) fn on_page(&mut self, waiter: Waiter, spare: u32, page: impl FnOnce(u32) -> Reply) {
        let Some(mut session) = self.sessions.take(waiter.session) else { return };
        self.spend(&mut session, -i64::from(spare) * MESSAGE_NS);
        if let (Phase::Open, Speaks::Dialect(dialect), 1..) = (&session.phase, session.speaks, waiter.tag) {
            let page = page(waiter.tag);
            if self.may_owe(&session, page.bytes()) {
                self.owe(&mut session, page);
            } else {
                self.refuse_reply(&mut session, dialect, waiter.tag);
            }
        }
        self.regulate(&mut session);
        self.mark(&mut session);
        self.sessions.put(session);
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
            waiting.bytes += bytes.len() - before;
        }
    }

    /// Adds a reply behind those that wait.
    pub(super) fn owe(&mut self, session: &mut Session, reply: Reply) {
        let waiting = self.backlogs.entry(session.id).or_default();
        waiting.bytes += reply.bytes();
        waiting.replies.push_back(reply);
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
        let Some(mut reply) = waiting.replies.pop_front() else { return self.drop_backlogs(session) };
        waiting.bytes -= reply.bytes();
        match &mut reply {
            Reply::Encoded(bytes) => session.replies.append(bytes),
            Reply::Page { tag, room, epoch, head, records, .. } => {
                let messages: Vec<Message<'_>> = records.iter().map(|record| record.message()).collect();
                let page = Event::History { room, epoch: *epoch, head: *head, messages: &messages };
                dialect.encode(*tag, &page, &mut session.replies);
            }
            Reply::Backlog { room, records, at, bytes } => {
                let piece = next_batch(records, *at);
                let messages: Vec<Message<'_>> = records[piece.clone()].iter().map(|record| record.message()).collect();
                dialect.encode(0, &Event::Batch { room, messages: &messages }, &mut session.replies);
                *bytes -= all_sent_bytes(room, &records[piece.clone()]);
                *at = piece.end;
                if piece.end < records.len() {
                    waiting.bytes += reply.bytes();
                    waiting.replies.push_front(reply);
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
        waiting.bytes = waiting.replies.iter().map(Reply::bytes).sum();
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
