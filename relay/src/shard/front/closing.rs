//! How connections end: told why in a close frame, sent away, or at once.

use protocol::frame::{self, FrameError, Opcode};
use protocol::{Close, Event};

use super::Front;
use super::frames::decoder;
use super::request::turn_away;
use crate::ids::SessionId;
use crate::session::{Phase, Sending, Session, Speaks};
use crate::shard::outbox::StoreRequest;
use crate::shard::turn::Turn;

impl Front {
    /// Closes a session that lets too much pile up: asked before a short reply is added.
    pub(super) fn close_swamped(&mut self, turn: &mut Turn, session: &mut Session) {
        if session.is_open() && session.out.replies.len() > turn.setup.limits.replies_bytes_max {
            turn.stats.slow_closed += 1;
            // What it does not take is dropped. Before its first send, the handshake's response is among the replies.
            if session.out.sending != Sending::Nothing {
                session.out.replies.clear();
            }
            self.close(turn, session, Close::SlowConsumer);
        }
    }

    /// Queues the close frame and leaves all rooms; the socket is closed when the peer answers, or soon after.
    pub(super) fn close(&mut self, turn: &mut Turn, session: &mut Session, why: Close) {
        let (_, reason) = session.close_reason(why);
        self.close_because(turn, session, why, reason);
    }

    /// [`Front::close`] with more to say than the dialect's own words.
    pub(super) fn close_because(&mut self, turn: &mut Turn, session: &mut Session, why: Close, reason: &str) {
        if !session.is_open() {
            return;
        }
        let (code, _) = session.close_reason(why);
        frame::write_close(code, reason, &mut session.out.replies);
        self.leave_all(turn, session);
        session.phase = Phase::Closing;
        session.alive.hear(turn.now.ds());
        self.fanout.mark(session);
    }

    /// The peer broke the protocol: it is told how and closed.
    pub(super) fn fail(&mut self, turn: &mut Turn, session: &mut Session, error: FrameError) {
        if session.is_open() {
            frame::write_close(error.close_code(), &error.to_string(), &mut session.out.replies);
            self.leave_all(turn, session);
        }
        session.phase = Phase::Closing;
        session.out.close_when_sent = true;
    }

    pub(super) fn on_close(&mut self, turn: &mut Turn, session: &mut Session, code: Option<u16>) {
        if session.is_open() {
            match code {
                Some(code) => frame::write_close(code, "", &mut session.out.replies),
                None => frame::write(Opcode::Close, b"", &mut session.out.replies),
            }
            self.leave_all(turn, session);
        }
        session.phase = Phase::Closing;
        session.out.close_when_sent = true;
    }

    /// The peer has said everything: it is still sent what is ready, then the connection is over.
    pub(super) fn part(&mut self, turn: &mut Turn, session: &mut Session) {
        self.leave_all(turn, session);
        session.phase = Phase::Closing;
        session.alive.hear(turn.now.ds());
        session.out.close_when_sent = true;
    }

    pub(in crate::shard) fn send_away(&mut self, turn: &mut Turn, id: SessionId) {
        let Some(mut session) = self.sessions.take(id) else { return };
        let reconnect_after_ms = self.random.u32(0..=turn.setup.limits.reconnect_spread_ms);
        if session.is_open() {
            let (_, reason) = session.close_reason(Close::GoingAway);
            if let Speaks::Dialect(dialect) = session.speaks {
                dialect.encode(0, &Event::GoingAway { reason, reconnect_after_ms }, &mut session.out.replies);
            }
            let hint = format!("{reason}; reconnect after {reconnect_after_ms} ms");
            self.close_because(turn, &mut session, Close::GoingAway, &hint);
            self.sessions.put(session);
        } else {
            self.sessions.put(session);
            self.end(turn, id);
        }
    }

    /// Ends a connection at once.
    pub(super) fn end(&mut self, turn: &mut Turn, id: SessionId) {
        if let Some(mut session) = self.sessions.remove(id) {
            if session.pipeline.is_some() {
                turn.outbox.store.push(StoreRequest::Forget { session: id });
            }
            self.admitted -= usize::from(!session.refused);
            self.leave_all(turn, &mut session);
            self.held.forget(turn, &session);
            turn.outbox.closes.push(id);
        }
    }

    /// Gives up what was begun first, while too much is half-way.
    pub(in crate::shard) fn give_up_halfway(&mut self, turn: &mut Turn) {
        while let Some(id) = self.held.to_give_up() {
            turn.stats.overload_closed += 1;
            self.with_session(turn, id, |front, turn, session| {
                match session.phase {
                    Phase::Handshake(_) => turn_away(turn, session),
                    _ => front.close(turn, session, Close::Overloaded),
                }
                // The rest of the message is no message.
                session.out.close_when_sent = true;
                session.decoder = decoder(turn, session.deflate);
            });
        }
    }
}
