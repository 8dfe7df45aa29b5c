//! Long replies: kept as the messages they are made of, and encoded piece by piece as their connection takes them.
//!
//! Records are shared with the room's tail and with everybody who asked for the same, so that who does not read costs a
//! list of pointers and one piece.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;

use foldhash::HashMap;
use protocol::{Dialect, ErrorCode, Event, Message};
use storage::Record;

use crate::budget::Use;
use crate::ids::SessionId;
use crate::session::{Session, Speaks};
use crate::shard::turn::{BUSY_RETRY_MS, Refusal, Turn};
use crate::sizes::{FRAME_BODY_BYTES_MAX, all_sent_bytes, next_batch, records_bytes};

/// What is made of these at most, beside names and numbers, bytes.
const FRAME_BYTES_MAX: usize = 6 * FRAME_BODY_BYTES_MAX;
/// With so many bytes to take a connection needs no more at once.
const PIECE_BYTES: usize = 32 * 1024;
/// What a page has around its messages, bytes.
const PAGE_BYTES: usize = 200;

/// There is no room for a reply among those that wait: its command may be tried again.
pub(super) const TOO_MUCH: Refusal = (ErrorCode::Busy, "too much waits for this connection", BUSY_RETRY_MS);

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
struct Waiting {
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

/// What waits to be sent to each connection alone and is not encoded yet. A connection without has no place here, which its
/// session knows (`has_backlog`).
#[derive(Default)]
pub(super) struct Replies {
    of: HashMap<SessionId, Waiting>,
}

impl Replies {
    pub(super) fn is_empty(&self) -> bool {
        self.of.is_empty()
    }

    /// What waits for a connection alone or is on its way to it alone, bytes.
    pub(super) fn owed_bytes(&self, session: &Session) -> usize {
        session.out.owed_bytes() + self.size(session).sent
    }

    /// What that holds in memory, bytes.
    pub(super) fn owed_memory(&self, session: &Session) -> usize {
        session.out.owed_bytes() + self.size(session).memory
    }

    fn size(&self, session: &Session) -> Size {
        let waiting = session.out.has_backlog.then(|| self.of.get(&session.id)).flatten();
        waiting.map_or(Size::default(), |waiting| waiting.size)
    }

    /// There is room for a reply in memory, and among what waits for this connection; when nothing does, for any.
    pub(super) fn may_owe(&self, turn: &Turn, session: &Session, reply: &Reply) -> bool {
        let (owed, Size { sent, memory }) = (self.owed_bytes(session), reply.size());
        let fits = owed == 0 || owed + sent <= turn.setup.limits.replies_bytes_max;
        let wanted = if owed == 0 { Use::Answer } else { Use::More };
        fits && (sent == 0 || turn.memory.allows(wanted, memory + reply.piece_bytes()))
    }

    /// Tells a client that its command, with this tag, was not carried out.
    pub(super) fn refuse(&mut self, turn: &mut Turn, session: &mut Session, dialect: Dialect, of: (u32, Refusal)) {
        let (tag, (code, message, retry_after_ms)) = of;
        turn.stats.refuse(code);
        if tag != 0 && session.is_open() {
            self.say(session, dialect, tag, &Event::Error { code, message, retry_after_ms });
        }
    }

    /// Adds a short reply behind those that wait: what is asked of one room is answered in order.
    pub(super) fn say(&mut self, session: &mut Session, dialect: Dialect, tag: u32, event: &Event<'_>) {
        let Some(waiting) = self.of.get_mut(&session.id) else {
            return dialect.encode(tag, event, &mut session.out.replies);
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
        let waiting = self.of.entry(session.id).or_default();
        waiting.push(reply);
        session.out.has_backlog = true;
        self.encode_some(session);
    }

    /// Encodes so much of what waits for a connection that it has something to take.
    pub(super) fn encode_some(&mut self, session: &mut Session) {
        while session.out.has_backlog && session.out.replies.len() < PIECE_BYTES {
            self.encode_next(session);
        }
    }

    fn encode_next(&mut self, session: &mut Session) {
        let Speaks::Dialect(dialect) = session.speaks else { return self.drop_all(session) };
        let Some(waiting) = self.of.get_mut(&session.id) else { return self.drop_all(session) };
        let Some(mut reply) = waiting.pop() else { return self.drop_all(session) };
        match &mut reply {
            Reply::Encoded(bytes) => session.out.replies.append(bytes),
            Reply::Page { tag, room, epoch, head, records, .. } => {
                let messages: Vec<Message<'_>> = records.iter().map(|record| record.message()).collect();
                let page = Event::History { room, epoch: *epoch, head: *head, messages: &messages[..] };
                dialect.encode(*tag, &page, &mut session.out.replies);
            }
            Reply::Backlog { room, records, at, size } => {
                let piece = next_batch(records, *at);
                let messages: Vec<Message<'_>> = records[piece.clone()].iter().map(|record| record.message()).collect();
                dialect.encode(0, &Event::Batch { room, messages: &messages }, &mut session.out.replies);
                size.sent -= all_sent_bytes(room, &records[piece.clone()]);
                *at = piece.end;
                if piece.end < records.len() {
                    waiting.push_rest(reply);
                }
            }
        }
        if waiting.replies.is_empty() {
            self.of.remove(&session.id);
            session.out.has_backlog = false;
        }
    }

    /// A member leaves: what it was still to begin with is not sent any more.
    pub(super) fn drop_of_room(&mut self, session: &mut Session, room: &str) {
        let Some(waiting) = self.of.get_mut(&session.id) else { return };
        waiting.replies.retain(|reply| !reply.is_backlog_of(room));
        waiting.size = waiting.replies.iter().map(Reply::size).fold(Size::default(), Size::and);
        if waiting.replies.is_empty() {
            self.drop_all(session);
        }
    }

    /// Nothing of it is sent any more.
    pub(super) fn drop_all(&mut self, session: &mut Session) {
        if mem::take(&mut session.out.has_backlog) {
            self.of.remove(&session.id);
        }
    }
}
