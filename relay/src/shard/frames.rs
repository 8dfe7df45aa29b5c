//! From a connection's bytes to frames, messages and commands, as many as its share of the turn goes for.

use std::mem;
use std::ops::ControlFlow;

use protocol::frame::{self, Decoder, FrameError, Incoming, Opcode, Role};
use protocol::{Dialect, ErrorCode};

use super::Shard;
use super::intake::{BYTE_NS, FRAME_NS, INFLATED_BYTE_NS, Rest};
use crate::session::{Phase, Session, Speaks};

impl Shard {
    /// The frames in `bytes`, as far as the connection's share goes. Returns what is left of the message that was begun
    /// last, and how many of the bytes were used.
    pub(super) fn on_frames(&mut self, session: &mut Session, bytes: &mut [u8]) -> (Option<Rest>, usize) {
        let spare = self.decoder(session.deflate);
        let mut decoder = mem::replace(&mut session.decoder, spare);
        let (mut at, mut rest) = (0, None);
        // To the end even when nothing is left: that is when a delivered message's buffer is freed.
        while !session.close_when_sent && rest.is_none() && (at == bytes.len() || self.may_go_on(session)) {
            match decoder.next(&mut bytes[at..]) {
                Ok((used, incoming)) => {
                    at += used;
                    self.spend(session, used as i64 * BYTE_NS);
                    let Some(incoming) = incoming else { break };
                    self.spend(session, FRAME_NS);
                    rest = self.on_incoming(session, &incoming);
                }
                Err(error) => self.fail(session, error),
            }
        }
        session.decoder = decoder;
        (rest, at)
    }

    pub(super) fn decoder(&self, deflate: bool) -> Decoder {
        let decoder = Decoder::new(Role::Server, self.setup.limits.frame_bytes_max);
        if deflate { decoder.with_deflate() } else { decoder }
    }

    /// The peer broke the protocol: it is told how and closed.
    fn fail(&mut self, session: &mut Session, error: FrameError) {
        if session.is_open() {
            frame::write_close(error.close_code(), &error.to_string(), &mut session.replies);
            self.leave_all(session);
        }
        session.phase = Phase::Closing;
        session.close_when_sent = true;
    }

    /// Returns what there was no time for.
    fn on_incoming(&mut self, session: &mut Session, incoming: &Incoming<'_>) -> Option<Rest> {
        if let Incoming::Close { code, .. } = incoming {
            self.on_close(session, *code);
        }
        if !session.is_open() {
            return None;
        }
        match (incoming, session.speaks) {
            (Incoming::Deflated { opcode, payload }, _) => return self.on_deflated(session, *opcode, payload),
            (Incoming::Ping(payload), _) => {
                frame::write(Opcode::Pong, payload, &mut session.replies);
                self.chatter(session);
            }
            (Incoming::Pong(_), _) => self.chatter(session),
            (Incoming::Text(text), Speaks::Echo) => self.echo(session, Opcode::Text, text.as_bytes()),
            (Incoming::Binary(bytes), Speaks::Echo) => self.echo(session, Opcode::Binary, bytes),
            (Incoming::Text(text), Speaks::Dialect(_)) => {
                return self.on_text(session, text, 0).map(|at| Rest { text: Box::from(&text[at..]), at: 0 });
            }
            (Incoming::Binary(bytes), Speaks::Dialect(dialect)) => {
                self.on_message(session, dialect, &Incoming::Binary(bytes));
            }
            (Incoming::Close { .. }, _) => {}
        }
        None
    }

    fn on_close(&mut self, session: &mut Session, code: Option<u16>) {
        if session.is_open() {
            match code {
                Some(code) => frame::write_close(code, "", &mut session.replies),
                None => frame::write(Opcode::Close, b"", &mut session.replies),
            }
            self.leave_all(session);
        }
        session.phase = Phase::Closing;
        session.close_when_sent = true;
    }

    fn on_deflated(&mut self, session: &mut Session, opcode: Opcode, payload: &[u8]) -> Option<Rest> {
        let mut inflater = self.inflater.take().unwrap_or_default();
        let rest = match inflater.inflate(opcode, payload, self.setup.limits.frame_bytes_max) {
            Ok(incoming) => {
                if let Incoming::Text(text) = incoming {
                    self.spend(session, text.len() as i64 * INFLATED_BYTE_NS);
                }
                self.on_incoming(session, &incoming)
            }
            Err(error) => {
                self.fail(session, error);
                None
            }
        };
        self.inflater = Some(inflater);
        rest
    }

    /// A text message from byte `at` on. Returns where to go on with it when it is the connection's turn again.
    pub(super) fn on_text(&mut self, session: &mut Session, text: &str, at: usize) -> Option<usize> {
        let Speaks::Dialect(dialect) = session.speaks else { return None };
        let used = self.on_message(session, dialect, &Incoming::Text(&text[at..]));
        (session.is_open() && at + used < text.len()).then_some(at + used)
    }

    /// The commands of a message, as many as there is time for. Returns how many bytes they were.
    fn on_message(&mut self, session: &mut Session, dialect: Dialect, message: &Incoming<'_>) -> usize {
        let decoded = dialect.decode_some(message, &mut |request| {
            self.on_request(session, dialect, &request);
            if session.is_open() && self.may_go_on(session) {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        });
        decoded.unwrap_or_else(|malformed| {
            self.refuse_unread(session, dialect, (0, ErrorCode::BadRequest), &malformed.0);
            0
        })
    }

    fn echo(&mut self, session: &mut Session, opcode: Opcode, payload: &[u8]) {
        if !session.deflate {
            return frame::write(opcode, payload, &mut session.replies);
        }
        let mut plain = Vec::with_capacity(payload.len() + 10);
        frame::write(opcode, payload, &mut plain);
        session.replies.extend_from_slice(self.deflation.frames(&plain));
    }
}
