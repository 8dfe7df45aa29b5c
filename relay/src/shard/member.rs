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
use crate::ids::{Origin, SessionId, owner_of, user_hash};
use crate::mesh::{Answer, Answered, Mesh};
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
        self.forget(session, membership);
        true
    }

    /// Leaves all rooms, and forgets what waits for its turn or to be sent. Joins that are under way are left when their
    /// reply comes.
    pub(super) fn leave_all(&mut self, session: &mut Session) {
        session.pipeline = None;
        self.drop_backlogs(session);
        for membership in mem::take(&mut session.rooms) {
            if membership.is_joined() {
                self.forget(session, membership);
            }
        }
    }

    fn forget(&mut self, session: &Session, membership: Membership) {
        let (Some(encoding), Some(user)) = (session.encoding(), &session.user) else { return };
        let feed = self.feed(membership.feed);
        let moved = feed.remove(membership.at, encoding);
        let room = feed.room.clone();
        if let Some(moved) = moved.and_then(|id| self.sessions.get(id)) {
            let other = moved.rooms.iter_mut().find(|m| m.feed == membership.feed);
            other.expect("a member knows its rooms").at = membership.at;
        }
        self.drop_unused_feed(membership.feed);
        self.tell_owner_of_leave(room, user_hash(user));
    }

    fn tell_owner_of_leave(&mut self, room: Arc<str>, user: u64) {
        let (owner, core) = (owner_of(&room, self.setup.shards), self.setup.shard);
        self.post(owner, Mesh::Leave { room, core, user });
    }

    /// The owner answers a command of a connection.
    pub(super) fn on_answer(&mut self, Answered { origin, room, answer }: Answered) {
        let Origin::Session(id, tag) = origin;
        match answer {
            Answer::Joined { epoch, from, head, recovering, recovered, resume, backlog, user } => {
                let joined = Event::Joined { room: &room, epoch, from, head, recovering, recovered };
                if !self.on_joined((id, tag), &room, &joined, (head, resume, backlog)) {
                    self.tell_owner_of_leave(room.clone(), user);
                }
            }
            Answer::Acked { seq, id: message } => {
                self.reply((id, tag), &Event::Acked { room: &room, seq, id: message });
            }
            Answer::KeyTaken { seq, id: message } => {
                self.stats.refuse(ErrorCode::KeyTaken);
                self.reply((id, tag), &Event::KeyTaken { seq, id: message });
            }
            Answer::Page { epoch, head, spare, records } => {
                self.on_page(id, tag, spare, || Reply::page(tag, room.clone(), (epoch, head), records));
            }
            Answer::Refused { code, retry_after_ms, is_join } => {
                self.stats.refuse(code);
                if is_join {
                    self.end_join(id, &room);
                }
                self.reply((id, tag), &Event::Error { code, message: &code.to_string(), retry_after_ms });
            }
        }
        self.unanswered -= 1;
        self.go_on(id, &room);
    }

    /// The owner took a member: frames follow from here on. False when it is gone meanwhile.
    fn on_joined(
        &mut self,
        (id, tag): (SessionId, u32),
        room: &Arc<str>,
        joined: &Event<'_>,
        (head, resume, backlog): (u64, u64, Vec<Arc<Record>>),
    ) -> bool {
        let index = self.feed_of.get(room).copied().expect("a join under way keeps its feed");
        let feed = self.feed(index);
        feed.joining -= 1;
        if feed.head != head {
            feed.reset(head);
        }
        let backlog = Reply::backlog(room.clone(), backlog);
        let open = self.with_session(id, |shard, session| {
            let joining = session.rooms.iter().position(|m| m.feed == index && !m.is_joined());
            let mut member = session.encoding().zip(joining);
            if let Some((encoding, n)) = member
                && !shard.may_owe(session, &backlog)
            {
                session.rooms.swap_remove(n);
                member = None;
                shard.refuse_reply(session, encoding.dialect, tag);
            }
            if let Some((encoding, n)) = member {
                let feed = shard.feed(index);
                let (at, cursor) = feed.add(session.id, encoding, resume);
                (session.rooms[n].at, session.rooms[n].cursor) = (at, cursor);
                session.more = resume < head;
                shard.stats.resumed += u64::from(session.more);
                shard.say(session, encoding.dialect, tag, joined);
                if !backlog.is_empty() {
                    shard.owe(session, backlog);
                }
            }
            member.is_some()
        });
        let is_member = open == Some(true);
        if !is_member {
            self.drop_unused_feed(index);
        }
        is_member
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

    /// The owner did not take a member.
    fn end_join(&mut self, id: SessionId, room: &str) {
        let Some(&index) = self.feed_of.get(room) else { return };
        self.feed(index).joining -= 1;
        if let Some(session) = self.sessions.get(id) {
            session.rooms.retain(|m| m.feed != index || m.is_joined());
        }
        self.drop_unused_feed(index);
    }

    /// Queues a reply, if the client asked for one and is still there.
    fn reply(&mut self, (id, tag): (SessionId, u32), event: &Event<'_>) {
        if tag == 0 {
            return;
        }
        self.with_session(id, |shard, session| {
            shard.close_swamped(session);
            if let (Phase::Open, Speaks::Dialect(dialect)) = (&session.phase, session.speaks) {
                shard.say(session, dialect, tag, event);
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
