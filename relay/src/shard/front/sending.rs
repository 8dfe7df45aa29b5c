//! What goes out to one connection: one send at a time, private bytes before those of feeds.

use std::io;
use std::mem;

use protocol::{Dialect, Event};

use super::Front;
use super::feeds::Feeds;
use crate::chain::{Next, VISIT_BYTES_MAX};
use crate::config::Limits;
use crate::ids::SessionId;
use crate::session::{Sending, Session};
use crate::shard::turn::Turn;

/// So much that waits to be sent is a reply: visits to feeds are shorter, bytes.
const LARGE_BYTES: usize = 4 * VISIT_BYTES_MAX;

/// How long messages waited is looked at in one of so many visits.
const VISITS_A_SAMPLE: u64 = 64;

impl Front {
    /// One send to one connection, if none is in flight: the rest of the last one, private bytes, or the next bytes of
    /// a feed.
    pub(super) fn visit(&mut self, turn: &mut Turn, id: SessionId) {
        let Some(session) = self.sessions.get(id) else { return };
        if session.out.sending != Sending::Nothing {
            return;
        }
        if session.out.rest.is_none() && session.out.replies.is_empty() {
            if session.out.has_backlog {
                self.held.replies.encode_some(session);
            } else if session.is_open() {
                return self.visit_feeds(turn, id);
            }
        }
        if let Some(segment) = session.out.next_private() {
            turn.outbox.sends.push((id, segment));
            self.held.account(turn, session);
        } else if session.out.close_when_sent {
            self.end(turn, id);
        }
    }

    fn visit_feeds(&mut self, turn: &mut Turn, id: SessionId) {
        let Some(session) = self.sessions.get(id) else { return };
        let Some(encoding) = session.encoding() else { return };
        let mut gap = None;
        session.out.more = false;
        for membership in &mut session.rooms {
            let feed = self.feeds.get(membership.feed);
            let Some((feed, chain)) = feed.and_then(|feed| Some((feed, feed.chain(encoding)?))) else { continue };
            if !membership.is_joined() {
                continue;
            }
            match chain.next(membership.cursor) {
                Next::Head => {}
                Next::Visit { segment, to } => {
                    turn.stats.delivered += to.seq - membership.cursor.seq;
                    if turn.stats.visits.is_multiple_of(VISITS_A_SAMPLE)
                        && let Some(since_ms) = feed.durable_since(membership.cursor.seq)
                    {
                        turn.stats.durable_sent.record(1000 * turn.now.wall_ms.saturating_sub(since_ms));
                    }
                    session.out.sending = Sending::Feed { feed: membership.feed, from: membership.cursor };
                    session.out.rest = Some(segment.clone());
                    membership.cursor = to;
                    session.out.more = to != chain.head();
                    turn.stats.visits += 1;
                    turn.outbox.sends.push((id, segment));
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
            self.tell_gap(turn, id, encoding.dialect, &room, from, to);
        }
    }

    /// A member fell behind what its feed keeps: it hears exactly what it will not get.
    fn tell_gap(&mut self, turn: &mut Turn, id: SessionId, dialect: Dialect, room: &str, from: u64, to: u64) {
        turn.stats.gaps += 1;
        let Some(mut session) = self.sessions.take(id) else { return };
        dialect.encode(0, &Event::Gap { room, from, to }, &mut session.out.replies);
        if dialect.gap_ends_membership() {
            self.leave(turn, &mut session, room);
        }
        self.sessions.put(session);
        self.visit(turn, id);
    }

    /// A send ended: all or some of its bytes were taken, or none (`WouldBlock`).
    pub(in crate::shard) fn on_sent(&mut self, turn: &mut Turn, id: SessionId, result: io::Result<usize>) {
        let now_ds = turn.now.ds();
        let Some(session) = self.sessions.get(id) else { return };
        let taken = match result {
            Ok(taken) => taken,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(_) => return self.end(turn, id),
        };
        let sending = mem::replace(&mut session.out.sending, Sending::Nothing);
        let Some(segment) = session.out.rest.take() else { return };
        let left = segment.len() - taken;
        let has_crept_on = creep(session, &turn.setup.limits, turn.now.us, (taken, left));
        if left == 0 {
            if has_crept_on {
                session.out.blocked_ds = 0;
            }
            session.alive.take(taken);
            let (waits, holds) = (session.reading.paused || session.reading.has_left, session.counted_bytes() > 0);
            if has_more(session, &self.feeds) {
                self.visit(turn, id);
            }
            if waits {
                self.with_session(turn, id, |_, _, _| {});
            } else if holds {
                self.recount(turn, id);
            }
            return;
        }
        if has_crept_on || session.out.blocked_ds == 0 {
            session.out.blocked_ds = now_ds;
        }
        match sending {
            // Nothing was taken of whole frames: the member may still skip them.
            Sending::Feed { feed, from } if taken == 0 => {
                if let Some(membership) = session.rooms.iter_mut().find(|m| m.feed == feed && m.is_joined()) {
                    membership.cursor = from;
                }
            }
            _ => session.out.rest = Some(segment.skip(taken)),
        }
        session.out.sending = Sending::Blocked;
        turn.outbox.polls.push(id);
        self.recount(turn, id);
    }

    /// Counts again what a connection holds that something was sent to.
    pub(super) fn recount(&mut self, turn: &mut Turn, id: SessionId) {
        if let Some(session) = self.sessions.get(id) {
            self.held.account(turn, session);
        }
    }

    /// The socket takes bytes again.
    pub(in crate::shard) fn on_writable(&mut self, turn: &mut Turn, id: SessionId) {
        let now_ds = turn.now.ds();
        let Some(session) = self.sessions.get(id) else { return };
        if session.out.sending == Sending::Blocked {
            session.out.sending = Sending::Nothing;
            if session.is_open() {
                // Its kernel made room: a slow reader is no silent one, though pings wait behind what it has not read.
                session.alive.hear(now_ds);
            }
            self.visit(turn, id);
        }
    }
}

/// Something waits that no sweep will come by for.
fn has_more(session: &Session, feeds: &Feeds) -> bool {
    if session.out.has_private() || session.out.more || session.rooms.len() > 1 {
        return true;
    }
    let feed = session.rooms.first().and_then(|membership| feeds.get(membership.feed));
    feed.is_some_and(|feed| !feed.paced)
}

/// A connection took so many bytes of what it is sent, and `left` are left of it. Returns whether it may take its time
/// anew: it took something, or while replies wait for it enough since its time began.
fn creep(session: &mut Session, limits: &Limits, now_us: u64, (taken, left): (usize, usize)) -> bool {
    let out = &session.out;
    let is_owed = out.has_backlog || !out.replies.is_empty() || left > LARGE_BYTES;
    if !is_owed || out.blocked_ds == 0 {
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
