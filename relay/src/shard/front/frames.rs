//! From a connection's bytes to frames, messages and commands, as many as its share of the turn goes for.

use std::mem;
use std::ops::ControlFlow;

use protocol::frame::{self, Decoder, Incoming, Opcode, Role};
use protocol::{Dialect, ErrorCode};

use super::Front;
use super::intake::{BYTE_NS, FRAME_NS, INFLATED_BYTE_NS, Rest};
use crate::deflation::Deflation;
use crate::session::{Session, Speaks};
use crate::shard::turn::Turn;

impl Front {
    /// The frames in `bytes`, as far as the connection's share goes. Returns what is left of the message that was begun
    /// last, and how many of the bytes were used.
    pub(super) fn on_frames(
        &mut self,
        turn: &mut Turn,
        session: &mut Session,
        bytes: &mut [u8],
    ) -> (Option<Rest>, usize) {
        let spare = decoder(turn, session.deflate);
        let mut decoder = mem::replace(&mut session.decoder, spare);
        let (mut at, mut rest) = (0, None);
        // To the end even when nothing is left: that is when a delivered message's buffer is freed.
        while !session.out.close_when_sent
            && rest.is_none()
            && (at == bytes.len() || self.held.may_go_on(turn, session))
        {
            match decoder.next(&mut bytes[at..]) {
                Ok((used, incoming)) => {
                    at += used;
                    self.held.intake.spend(turn, session, used as i64 * BYTE_NS);
                    let Some(incoming) = incoming else { break };
                    self.held.intake.spend(turn, session, FRAME_NS);
                    rest = self.on_incoming(turn, session, &incoming);
                }
                Err(error) => self.fail(turn, session, error),
            }
        }
        session.decoder = decoder;
        (rest, at)
    }

    /// Returns what there was no time for.
    fn on_incoming(&mut self, turn: &mut Turn, session: &mut Session, incoming: &Incoming<'_>) -> Option<Rest> {
        if let Incoming::Close { code, .. } = incoming {
            self.on_close(turn, session, *code);
        }
        if !session.is_open() {
            return None;
        }
        match (incoming, session.speaks) {
            (Incoming::Deflated { opcode, payload }, _) => return self.on_deflated(turn, session, *opcode, payload),
            (Incoming::Ping(payload), _) => {
                frame::write(Opcode::Pong, payload, &mut session.out.replies);
                self.chatter(turn, session);
            }
            (Incoming::Pong(_), _) => self.chatter(turn, session),
            (Incoming::Text(text), Speaks::Echo) => echo(session, &mut self.deflation, Opcode::Text, text.as_bytes()),
            (Incoming::Binary(bytes), Speaks::Echo) => echo(session, &mut self.deflation, Opcode::Binary, bytes),
            (Incoming::Text(text), Speaks::Dialect(_)) => {
                return self.on_text(turn, session, text, 0).map(|at| Rest { text: Box::from(&text[at..]), at: 0 });
            }
            (Incoming::Binary(bytes), Speaks::Dialect(dialect)) => {
                self.on_message(turn, session, dialect, &Incoming::Binary(bytes));
            }
            (Incoming::Close { .. }, _) => {}
        }
        None
    }

    fn on_deflated(&mut self, turn: &mut Turn, session: &mut Session, opcode: Opcode, payload: &[u8]) -> Option<Rest> {
        let mut inflater = self.inflater.take().unwrap_or_default();
        let rest = match inflater.inflate(opcode, payload, turn.setup.limits.frame_bytes_max) {
            Ok(incoming) => {
                if let Incoming::Text(text) = incoming {
                    self.held.intake.spend(turn, session, text.len() as i64 * INFLATED_BYTE_NS);
                }
                self.on_incoming(turn, session, &incoming)
            }
            Err(error) => {
                self.fail(turn, session, error);
                None
            }
        };
        self.inflater = Some(inflater);
        rest
    }

    /// A text message from byte `at` on. Returns where to go on with it when it is the connection's turn again.
    pub(super) fn on_text(&mut self, turn: &mut Turn, session: &mut Session, text: &str, at: usize) -> Option<usize> {
        let Speaks::Dialect(dialect) = session.speaks else { return None };
        let used = self.on_message(turn, session, dialect, &Incoming::Text(&text[at..]));
        (session.is_open() && at + used < text.len()).then_some(at + used)
    }

    /// The commands of a message, as many as there is time for. Returns how many bytes they were.
    fn on_message(
        &mut self,
        turn: &mut Turn,
        session: &mut Session,
        dialect: Dialect,
        message: &Incoming<'_>,
    ) -> usize {
        let decoded = dialect.decode_some(message, &mut |request| {
            self.on_request(turn, session, dialect, &request);
            if session.is_open() && self.held.may_go_on(turn, session) {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        });
        decoded.unwrap_or_else(|malformed| {
            self.refuse_unread(turn, session, dialect, (0, ErrorCode::BadRequest), &malformed.0);
            0
        })
    }
}

pub(super) fn decoder(turn: &Turn, deflate: bool) -> Decoder {
    let decoder = Decoder::new(Role::Server, turn.setup.limits.frame_bytes_max);
    if deflate { decoder.with_deflate() } else { decoder }
}

fn echo(session: &mut Session, deflation: &mut Deflation, opcode: Opcode, payload: &[u8]) {
    if !session.deflate {
        return frame::write(opcode, payload, &mut session.out.replies);
    }
    let mut plain = Vec::with_capacity(payload.len() + 10);
    frame::write(opcode, payload, &mut plain);
    session.out.replies.extend_from_slice(deflation.frames(&plain));
}
