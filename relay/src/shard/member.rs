//! The members connected to this shard: joining and leaving feeds, frames, and visits to one connection.

use std::io;
use std::mem;
use std::sync::Arc;

use protocol::{Dialect, ErrorCode, Event, Message, Start};
use storage::Record;
use uring::Segment;

use super::backlog::{Reply, next_batch};
use super::command::Refusal;
use super::{Shard, StoreRequest};
use crate::chain::{Cursor, Next};
use crate::feed::{Encoding, Feed, Shared};
use crate::ids::{SessionId, owner_of};
use crate::mesh::Mesh;
use crate::room::Waiter;
use crate::session::{Membership, Phase, Sending, Session, Speaks};

/// While memory is short a feed keeps no more than this of each encoding, bytes.
pub(super) const SHORT_FEED_BYTES: usize = 64 * 1024;

impl Shard {
    /// Notes that a join is sent to the owner. Returns what this core can serve of it.
    pub(super) fn begin_join(
        &mut self,
        session: &mut Session,
        room: &Arc<str>,
        start: Start,
    ) -> Result<Option<Shared>, Refusal> {
        if session.rooms.len() >= self.setup.limits.rooms_per_session_max {
            return Err((ErrorCode::TooManyRooms, "this connection is in as many rooms as it may", 0));
        }
        let feed = self.feed_of.get(room).copied().unwrap_or_else(|| self.new_feed(room.clone()));
        if session.rooms.iter().any(|membership| membership.feed == feed) {
            return Err((ErrorCode::Already, "already a member of this room", 0));
        }
        let recent_max = u64::from(self.setup.limits.history_messages_max);
        let joined = self.feed(feed);
        joined.joining += 1;
        let from = match start {
            Start::Recent(n) => joined.head.saturating_sub(u64::from(n).min(recent_max)),
            Start::Since { seq, .. } => seq,
        };
        let shared = session.encoding().and_then(|encoding| joined.shared(encoding, from));
        // Most connections are in one room: no room for four.
        session.rooms.reserve_exact(1);
        session.rooms.push(Membership { feed, at: u32::MAX, cursor: Cursor::lost(0) });
        Ok(shared)
    }

    fn new_feed(&mut self, room: Arc<str>) -> u32 {
        let index = self.free_feeds.pop().unwrap_or_else(|| {
            self.feeds.push(None);
            self.feeds.len() as u32 - 1
        });
        self.feeds[index as usize] = Some(Box::new(Feed::new(room.clone())));
        self.feed_of.insert(room, index);
        index
    }

    fn feed(&mut self, index: u32) -> &mut Feed {
        self.feeds[index as usize].as_deref_mut().expect("a membership or a join keeps its feed")
    }

    fn drop_unused_feed(&mut self, index: u32) {
        if self.feed(index).is_unused()
            && let Some(feed) = self.feeds[index as usize].take()
        {
            self.memory.give(feed.counted);
            self.feed_of.remove(&feed.room);
            self.free_feeds.push(index);
        }
    }

    /// Changes what a feed keeps, and counts it.
    pub(super) fn change_feed(&mut self, index: u32, change: impl FnOnce(&mut Feed)) {
        let Some(feed) = self.feeds[index as usize].as_deref_mut() else { return };
        change(feed);
        let bytes = feed.bytes();
        self.memory.replace(mem::replace(&mut feed.counted, bytes), bytes);
    }

    /// Leaves a room; false when it is not joined.
    pub(super) fn leave(&mut self, session: &mut Session, room: &str) -> bool {
        let Some(&feed) = self.feed_of.get(room) else { return false };
        let Some(n) = session.rooms.iter().position(|m| m.feed == feed && m.is_joined()) else { return false };
        let membership = session.rooms.swap_remove(n);
        if matches!(session.sending, Sending::Feed { feed: of, .. } if of == feed) {
            // Its cursor is of this membership: bytes that are not taken may not move that of a later one.
            session.sending = Sending::Private;
        }
        self.drop_backlog(session, room);
        self.forget(session.encoding(), membership);
        true
    }

    /// Leaves all rooms, and forgets what waits for its turn or to be sent. Joins that are under way are left when their
    /// reply comes.
    pub(super) fn leave_all(&mut self, session: &mut Session) {
        session.pipeline = None;
        self.drop_backlogs(session);
        for membership in mem::take(&mut session.rooms) {
            if membership.is_joined() {
                self.forget(session.encoding(), membership);
            }
        }
    }

    fn forget(&mut self, encoding: Option<Encoding>, membership: Membership) {
        let Some(encoding) = encoding else { return };
        let feed = self.feed(membership.feed);
        let moved = feed.remove(membership.at, encoding);
        let room = feed.room.clone();
        if let Some(moved) = moved.and_then(|id| self.sessions.get(id)) {
            let other = moved.rooms.iter_mut().find(|m| m.feed == membership.feed);
            other.expect("a member knows its rooms").at = membership.at;
        }
        self.drop_unused_feed(membership.feed);
        let owner = owner_of(&room, self.setup.shards);
        self.post(owner, Mesh::Leave { room, shard: self.setup.shard });
    }

    /// The owner took a member: frames follow from here on.
    pub(super) fn on_joined(&mut self, message: Mesh) {
        let Mesh::Joined { waiter, room, epoch, from, head, recovering, recovered, resume, backlog } = message else {
            return;
        };
        let index = self.feed_of.get(&room).copied().expect("a join under way keeps its feed");
        let feed = self.feed(index);
        feed.joining -= 1;
        if feed.head != head {
            feed.reset(head);
        }
        let backlog = Reply::backlog(room.clone(), backlog);
        let open = self.with_session(waiter.session, |shard, session| {
            let joining = session.rooms.iter().position(|m| m.feed == index && !m.is_joined());
            let mut member = session.encoding().zip(joining);
            if let Some((encoding, n)) = member
                && !shard.may_owe(session, &backlog)
            {
                session.rooms.swap_remove(n);
                member = None;
                shard.refuse_reply(session, encoding.dialect, waiter.tag);
            }
            if let Some((encoding, n)) = member {
                let feed = shard.feed(index);
                let (at, cursor) = feed.add(session.id, encoding, resume);
                (session.rooms[n].at, session.rooms[n].cursor) = (at, cursor);
                session.more = resume < head;
                shard.stats.resumed += u64::from(session.more);
                let dialect = encoding.dialect;
                let joined = Event::Joined { room: &room, epoch, from, head, recovering, recovered };
                shard.say(session, dialect, waiter.tag, &joined);
                if !backlog.is_empty() {
                    shard.owe(session, backlog);
                }
            }
            member.is_some()
        });
        if open != Some(true) {
            self.drop_unused_feed(index);
            let owner = owner_of(&room, self.setup.shards);
            self.post(owner, Mesh::Leave { room, shard: self.setup.shard });
        }
    }

    /// Messages for all members here: encoded once per dialect in use.
    pub(super) fn on_deliver(&mut self, room: &Arc<str>, records: &[Arc<Record>]) {
        let Some(&index) = self.feed_of.get(room) else { return };
        let bytes_max = self.setup.limits.feed_bytes_max;
        let bytes_max = if self.memory.is_short() { bytes_max.min(SHORT_FEED_BYTES) } else { bytes_max };
        let now_s = self.now.s();
        let deflate_min = self.setup.deflate_members_min;
        let feed = self.feeds[index as usize].as_deref_mut().expect("a room's name is forgotten with its feed");
        let Some(start) = records.iter().position(|record| record.seq > feed.head) else { return };
        let records = &records[start..];
        if records[0].seq > feed.head + 1 {
            feed.reset(records[0].seq - 1);
        }
        for dialect in Dialect::ALL {
            let [plain, deflated] = [false, true].map(|deflate| Encoding { dialect, deflate });
            if feed.chain(plain).is_none() && feed.chain(deflated).is_none() {
                continue;
            }
            encode_batches(dialect, room, records, |frame, last| {
                if let Some((chain, _)) = feed.chain_mut(plain) {
                    chain.append(frame, last, now_s, bytes_max);
                }
                if let Some((chain, members)) = feed.chain_mut(deflated) {
                    let frame = if members < deflate_min { frame } else { self.deflation.frames(frame) };
                    chain.append(frame, last, now_s, bytes_max);
                }
            });
        }
        feed.head = records[records.len() - 1].seq;
        feed.recent += records.len() as u32;
        feed.touched_s = now_s;
        if feed.paced {
            self.fanout.sweep_wanted = true;
        } else {
            self.serve_at_once(index);
        }
        self.change_feed(index, |_| {});
    }

    pub(super) fn on_acked(&mut self, waiter: Waiter, room: &str, seq: u64, id: u64) {
        self.answer(waiter, &Event::Acked { room, seq, id });
    }

    pub(super) fn on_key_taken(&mut self, waiter: Waiter, seq: u64, id: u64) {
        self.stats.refuse(ErrorCode::KeyTaken);
        self.answer(waiter, &Event::KeyTaken { seq, id });
    }

    pub(super) fn on_refused(
        &mut self,
        waiter: Waiter,
        room: &str,
        code: ErrorCode,
        retry_after_ms: u32,
        is_join: bool,
    ) {
        self.stats.refuse(code);
        if let Some(&index) = self.feed_of.get(room).filter(|_| is_join) {
            self.feed(index).joining -= 1;
            if let Some(session) = self.sessions.get(waiter.session) {
                session.rooms.retain(|m| m.feed != index || m.is_joined());
            }
            self.drop_unused_feed(index);
        }
        let message = code.to_string();
        self.answer(waiter, &Event::Error { code, message: &message, retry_after_ms });
    }

    /// Queues a reply, if the client asked for one and is still there.
    fn answer(&mut self, waiter: Waiter, event: &Event<'_>) {
        if waiter.tag == 0 {
            return;
        }
        self.with_session(waiter.session, |shard, session| {
            shard.close_swamped(session);
            if let (Phase::Open, Speaks::Dialect(dialect)) = (&session.phase, session.speaks) {
                shard.say(session, dialect, waiter.tag, event);
            }
        });
    }

    /// One send to one connection, if none is in flight: the rest of the last one, private bytes, or the next bytes of
    /// a feed.
    pub(super) fn visit(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get(id) else { return };
        if session.sending != Sending::Nothing {
            return;
        }
        if session.rest.is_none() && session.replies.is_empty() {
            if session.has_backlog {
                let Some(mut session) = self.sessions.take(id) else { return };
                self.encode_some(&mut session);
                self.sessions.put(session);
            } else if session.is_open() {
                return self.visit_feeds(id);
            }
        }
        let Some(session) = self.sessions.get(id) else { return };
        let private = match session.rest.take() {
            Some(rest) => Some(rest),
            None if session.replies.is_empty() => None,
            None => Some(Segment::from(mem::take(&mut session.replies))),
        };
        if let Some(segment) = private {
            session.sending = Sending::Private;
            session.rest = Some(segment.clone());
            self.outbox.sends.push((id, segment));
            self.recount(id);
        } else if session.close_when_sent {
            self.end(id);
        }
    }

    fn visit_feeds(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get(id) else { return };
        let Some(encoding) = session.encoding() else { return };
        let mut gap = None;
        session.more = false;
        for membership in &mut session.rooms {
            let feed = self.feeds[membership.feed as usize].as_deref();
            let Some((feed, chain)) = feed.and_then(|feed| Some((feed, feed.chain(encoding)?))) else { continue };
            if !membership.is_joined() {
                continue;
            }
            match chain.next(membership.cursor) {
                Next::Head => {}
                Next::Visit { segment, to } => {
                    self.stats.delivered += to.seq - membership.cursor.seq;
                    session.sending = Sending::Feed { feed: membership.feed, from: membership.cursor };
                    session.rest = Some(segment.clone());
                    membership.cursor = to;
                    session.more = to != chain.head();
                    self.stats.visits += 1;
                    self.outbox.sends.push((id, segment));
                    return;
                }
                Next::Gap { from, to, cursor } => {
                    membership.cursor = cursor;
                    gap = Some((feed.room.clone(), from, to));
                    break;
                }
            }
        }
        if let Some((room, from, to)) = gap {
            self.tell_gap(id, encoding.dialect, &room, from, to);
        }
    }

    /// A member fell behind what its feed keeps: it hears exactly what it will not get.
    fn tell_gap(&mut self, id: SessionId, dialect: Dialect, room: &str, from: u64, to: u64) {
        self.stats.gaps += 1;
        let Some(mut session) = self.sessions.take(id) else { return };
        dialect.encode(0, &Event::Gap { room, from, to }, &mut session.replies);
        if dialect.gap_ends_membership() {
            self.leave(&mut session, room);
        }
        self.sessions.put(session);
        self.visit(id);
    }

    /// A send ended: all or some of its bytes were taken, or none (`WouldBlock`).
    pub fn on_sent(&mut self, id: SessionId, result: io::Result<usize>) {
        let now_ds = self.now.ds();
        let Some(session) = self.sessions.get(id) else { return };
        let taken = match result {
            Ok(taken) => taken,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(_) => return self.end(id),
        };
        let sending = mem::replace(&mut session.sending, Sending::Nothing);
        let Some(segment) = session.rest.take() else { return };
        let left = segment.len() - taken;
        let has_crept_on = self.creep(id, taken, left);
        let Some(session) = self.sessions.get(id) else { return };
        if left == 0 {
            if has_crept_on {
                session.blocked_ds = 0;
            }
            session.taken = session.taken.saturating_add(taken as u32);
            let (waits, holds) = (session.reading.paused || session.reading.has_left, session.counted_bytes() > 0);
            if self.has_more(id) {
                self.visit(id);
            }
            if waits {
                self.with_session(id, |_, _| {});
            } else if holds {
                self.recount(id);
            }
            return;
        }
        if has_crept_on || session.blocked_ds == 0 {
            session.blocked_ds = now_ds;
        }
        match sending {
            // Nothing was taken of whole frames: the member may still skip them.
            Sending::Feed { feed, from } if taken == 0 => {
                if let Some(membership) = session.rooms.iter_mut().find(|m| m.feed == feed && m.is_joined()) {
                    membership.cursor = from;
                }
            }
            _ => session.rest = Some(segment.skip(taken)),
        }
        session.sending = Sending::Blocked;
        self.outbox.polls.push(id);
        self.recount(id);
    }

    /// Something waits that no sweep will come by for.
    fn has_more(&mut self, id: SessionId) -> bool {
        let Some(session) = self.sessions.get(id) else { return false };
        if !session.replies.is_empty()
            || session.has_backlog
            || session.close_when_sent
            || session.more
            || session.rooms.len() > 1
        {
            return true;
        }
        let Some(membership) = session.rooms.first() else { return false };
        self.feeds[membership.feed as usize].as_deref().is_some_and(|feed| !feed.paced)
    }

    /// The socket takes bytes again.
    pub fn on_writable(&mut self, id: SessionId) {
        let now_ds = self.now.ds();
        let Some(session) = self.sessions.get(id) else { return };
        if session.sending == Sending::Blocked {
            session.sending = Sending::Nothing;
            if session.is_open() {
                // Its kernel made room: a slow reader is no silent one, though pings wait behind what it has not read.
                session.heard_ds = now_ds;
            }
            self.visit(id);
        }
    }

    /// Ends a connection at once.
    pub(super) fn end(&mut self, id: SessionId) {
        if let Some(mut session) = self.sessions.remove(id) {
            if session.pipeline.is_some() {
                self.outbox.store.push(StoreRequest::Forget { session: id });
            }
            self.admitted -= usize::from(!session.refused);
            self.forget_left_over(&session);
            self.leave_all(&mut session);
            self.close_account(&session);
            self.outbox.closes.push(id);
        }
    }
}

/// Encodes records as frames of bounded size; `each` gets a frame and its last seq.
fn encode_batches(dialect: Dialect, room: &str, records: &[Arc<Record>], mut each: impl FnMut(&[u8], u64)) {
    let mut frame = Vec::new();
    let mut batch = next_batch(records, 0);
    while !batch.is_empty() {
        let records_of_it = &records[batch.clone()];
        let messages: Vec<Message<'_>> = records_of_it.iter().map(|record| record.message()).collect();
        frame.clear();
        dialect.encode(0, &Event::Batch { room, messages: &messages }, &mut frame);
        each(&frame, records_of_it[records_of_it.len() - 1].seq);
        batch = next_batch(records, batch.end);
    }
}
