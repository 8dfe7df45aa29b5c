//! The members of rooms that are connected here: joining and leaving, answers and messages from owners.

use std::mem;
use std::sync::Arc;

use protocol::{ErrorCode, Event, Start};
use storage::Record;

use super::Front;
use super::intake::MESSAGE_NS;
use super::replies::{Reply, TOO_MUCH};
use crate::chain::Cursor;
use crate::feed::Shared;
use crate::ids::{Origin, SessionId, user_hash};
use crate::mesh::{Answer, Answered};
use crate::session::{Membership, Phase, Sending, Session, Speaks};
use crate::shard::turn::{Refusal, Turn};

impl Front {
    /// Notes that a join is sent to the owner. Returns what this core can serve of it.
    pub(super) fn begin_join(
        &mut self,
        turn: &mut Turn,
        session: &mut Session,
        room: &Arc<str>,
        start: Start,
    ) -> Result<Option<Shared>, Refusal> {
        if session.rooms.len() >= turn.setup.limits.rooms_per_session_max {
            return Err((ErrorCode::TooManyRooms, "this connection is in as many rooms as it may", 0));
        }
        let feed = self.feeds.open(room);
        if session.rooms.iter().any(|membership| membership.feed == feed) {
            return Err((ErrorCode::Already, "already a member of this room", 0));
        }
        let recent_max = u64::from(turn.setup.limits.history_messages_max);
        let joined = self.feeds.of_member(feed);
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

    /// Leaves a room; false when it is not joined.
    pub(super) fn leave(&mut self, turn: &mut Turn, session: &mut Session, room: &str) -> bool {
        let Some(feed) = self.feeds.find(room) else { return false };
        let Some(n) = session.rooms.iter().position(|m| m.feed == feed && m.is_joined()) else { return false };
        let membership = session.rooms.swap_remove(n);
        if matches!(session.out.sending, Sending::Feed { feed: of, .. } if of == feed) {
            // Its cursor is of this membership: bytes that are not taken may not move that of a later one.
            session.out.sending = Sending::Private;
        }
        self.held.replies.drop_of_room(session, room);
        self.forget(turn, session, membership);
        true
    }

    /// Leaves all rooms, and forgets what waits for its turn or to be sent. Joins that are under way are left when their
    /// reply comes.
    pub(super) fn leave_all(&mut self, turn: &mut Turn, session: &mut Session) {
        session.pipeline = None;
        self.held.replies.drop_all(session);
        for membership in mem::take(&mut session.rooms) {
            if membership.is_joined() {
                self.forget(turn, session, membership);
            }
        }
    }

    fn forget(&mut self, turn: &mut Turn, session: &Session, membership: Membership) {
        let (Some(encoding), Some(user)) = (session.encoding(), &session.user) else { return };
        let feed = self.feeds.of_member(membership.feed);
        let moved = feed.remove(membership.at, encoding);
        let room = feed.room.clone();
        if let Some(moved) = moved.and_then(|id| self.sessions.get(id)) {
            let other = moved.rooms.iter_mut().find(|m| m.feed == membership.feed);
            other.expect("a member knows its rooms").at = membership.at;
        }
        self.feeds.drop_unused(turn, membership.feed);
        turn.leave(room, user_hash(user));
    }

    /// The owner answers a command of a connection.
    pub(in crate::shard) fn on_answer(&mut self, turn: &mut Turn, Answered { origin, room, answer }: Answered) {
        let Origin::Session(id, tag) = origin;
        match answer {
            Answer::Joined { epoch, from, head, recovering, recovered, resume, backlog, user } => {
                let joined = Event::Joined { room: &room, epoch, from, head, recovering, recovered };
                if !self.on_joined(turn, (id, tag), &room, &joined, (head, resume, backlog)) {
                    turn.leave(room.clone(), user);
                }
            }
            Answer::Acked { seq, id: message } => {
                self.reply(turn, (id, tag), &Event::Acked { room: &room, seq, id: message });
            }
            Answer::KeyTaken { seq, id: message } => {
                turn.stats.refuse(ErrorCode::KeyTaken);
                self.reply(turn, (id, tag), &Event::KeyTaken { seq, id: message });
            }
            Answer::Page { epoch, head, spare, records } => {
                self.on_page(turn, id, (tag, spare), || Reply::page(tag, room.clone(), (epoch, head), records));
            }
            Answer::Info { epoch, head, members, people, per_minute } => {
                let info = Event::Info { room: &room, epoch, head, members, people, per_minute };
                self.reply(turn, (id, tag), &info);
            }
            Answer::Refused { code, retry_after_ms, is_join } => {
                turn.stats.refuse(code);
                if is_join {
                    self.end_join(turn, id, &room);
                }
                self.reply(turn, (id, tag), &Event::Error { code, message: &code.to_string(), retry_after_ms });
            }
        }
        self.unanswered -= 1;
        self.go_on(turn, id, &room);
    }

    /// The owner took a member: frames follow from here on. False when it is gone meanwhile.
    fn on_joined(
        &mut self,
        turn: &mut Turn,
        (id, tag): (SessionId, u32),
        room: &Arc<str>,
        joined: &Event<'_>,
        (head, resume, backlog): (u64, u64, Vec<Arc<Record>>),
    ) -> bool {
        let index = self.feeds.find(room).expect("a join under way keeps its feed");
        let feed = self.feeds.of_member(index);
        feed.joining -= 1;
        if feed.head != head {
            feed.reset(head);
        }
        let backlog = Reply::backlog(room.clone(), backlog);
        let open = self.with_session(turn, id, |front, turn, session| {
            let joining = session.rooms.iter().position(|m| m.feed == index && !m.is_joined());
            let mut member = session.encoding().zip(joining);
            if let Some((encoding, n)) = member
                && !front.held.replies.may_owe(turn, session, &backlog)
            {
                session.rooms.swap_remove(n);
                member = None;
                front.held.replies.refuse(turn, session, encoding.dialect, (tag, TOO_MUCH));
            }
            if let Some((encoding, n)) = member {
                let feed = front.feeds.of_member(index);
                let (at, cursor) = feed.add(session.id, encoding, resume);
                (session.rooms[n].at, session.rooms[n].cursor) = (at, cursor);
                session.out.more = resume < head;
                turn.stats.resumed += u64::from(session.out.more);
                front.held.replies.say(session, encoding.dialect, tag, joined);
                if !backlog.is_empty() {
                    front.held.replies.owe(session, backlog);
                }
            }
            member.is_some()
        });
        let is_member = open == Some(true);
        if !is_member {
            self.feeds.drop_unused(turn, index);
        }
        is_member
    }

    /// The owner did not take a member.
    fn end_join(&mut self, turn: &mut Turn, id: SessionId, room: &str) {
        let Some(index) = self.feeds.find(room) else { return };
        self.feeds.of_member(index).joining -= 1;
        if let Some(session) = self.sessions.get(id) {
            session.rooms.retain(|m| m.feed != index || m.is_joined());
        }
        self.feeds.drop_unused(turn, index);
    }

    /// Queues a reply, if the client asked for one and is still there.
    fn reply(&mut self, turn: &mut Turn, (id, tag): (SessionId, u32), event: &Event<'_>) {
        if tag == 0 {
            return;
        }
        self.with_session(turn, id, |front, turn, session| {
            front.close_swamped(turn, session);
            if let (Phase::Open(_), Speaks::Dialect(dialect)) = (&session.phase, session.speaks) {
                front.held.replies.say(session, dialect, tag, event);
            }
        });
    }

    /// A page of history for the command with this tag; it is `spare` messages shorter than it was charged for.
    fn on_page(&mut self, turn: &mut Turn, id: SessionId, (tag, spare): (u32, u32), page: impl FnOnce() -> Reply) {
        self.with_session(turn, id, |front, turn, session| {
            front.held.intake.spend(turn, session, -i64::from(spare) * MESSAGE_NS);
            if let (Phase::Open(_), Speaks::Dialect(dialect), 1..) = (&session.phase, session.speaks, tag) {
                let (page, replies) = (page(), &mut front.held.replies);
                if replies.may_owe(turn, session, &page) {
                    replies.owe(session, page);
                } else {
                    replies.refuse(turn, session, dialect, (tag, TOO_MUCH));
                }
            }
        });
    }

    /// Messages for all members here.
    pub(in crate::shard) fn on_deliver(
        &mut self,
        turn: &mut Turn,
        room: &str,
        records: &[Arc<Record>],
        durable_ms: u64,
    ) {
        if let Some(index) = self.feeds.deliver(turn, &mut self.deflation, room, records) {
            let feed = self.feeds.of_member(index);
            feed.note_durable(durable_ms);
            self.fanout.serve(index, feed);
        }
    }
}
