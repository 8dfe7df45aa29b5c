//! From a connection's bytes to commands, and from commands to the shard that owns their room.

use std::mem;
use std::sync::Arc;

use protocol::frame::{self, Decoder, FrameError, Incoming, Opcode, Role};
use protocol::handshake;
use protocol::{ClientId, Close, Command, Content, Dialect, ErrorCode, Event, NewParts, Request, centrifuge};
use storage::Key;

use super::Shard;
use crate::dedupe::{body_hash, key_hash};
use crate::ids::{SessionId, owner_of};
use crate::pipeline::Ask;
use crate::room::{Bucket, Rate};
use crate::session::{Phase, Sending, Session, Speaks};

/// Where conformance suites find the echo.
const ECHO_PATH: &str = "/echo";
/// What a client reads when the relay is full, and when it may try again, seconds.
pub const FULL: &str = "This relay has as many connections as it may (--max-connections).\n";
pub const FULL_RETRY_S: u32 = 5;
/// Size of a request head, bytes.
const HEAD_BYTES_MAX: usize = 8 * 1024;

impl Shard {
    /// Bytes from a connection; they are unmasked in place.
    pub fn on_bytes(&mut self, id: SessionId, bytes: &mut [u8]) {
        let Some(mut session) = self.sessions.take(id) else { return };
        // A handshake, and a closed connection, end in their time however much the peer says.
        if session.is_open() {
            session.heard_ds = self.now.ds();
        }
        self.close_swamped(&mut session);
        if let Phase::Handshake(head) = &mut session.phase {
            let mut head = mem::take(head);
            head.extend_from_slice(bytes);
            self.on_head(&mut session, head);
        } else {
            self.on_frames(&mut session, bytes);
        }
        self.mark(&mut session);
        self.sessions.put(session);
    }

    /// Closes a session that lets too much pile up: asked before a reply is added, so that a single one may be large.
    pub(super) fn close_swamped(&mut self, session: &mut Session) {
        if session.is_open() && session.replies.len() > self.setup.limits.replies_bytes_max {
            self.stats.slow_closed += 1;
            // What it does not take is dropped. Before its first send, the handshake's response is among the replies.
            if session.sending != Sending::Nothing {
                session.replies.clear();
            }
            self.close(session, Close::SlowConsumer);
        }
    }

    /// The session has something to send: it is looked at before the turn ends.
    pub(super) fn mark(&mut self, session: &mut Session) {
        if !session.dirty {
            session.dirty = true;
            self.fanout.dirty.push(session.id);
        }
    }

    fn on_head(&mut self, session: &mut Session, mut head: Vec<u8>) {
        let (upgrade, used) = match handshake::read_request(&head, HEAD_BYTES_MAX) {
            handshake::Request::Partial => {
                session.phase = Phase::Handshake(head);
                return;
            }
            handshake::Request::Refused { response } => {
                session.heard_ds = self.now.ds();
                return refuse(session, response);
            }
            handshake::Request::Upgrade { upgrade, used } => (upgrade, used),
        };
        session.heard_ds = self.now.ds();
        let answer = |status, body: &str, retry_after_s| {
            let mut response = Vec::new();
            handshake::refuse(status, body, retry_after_s, &mut response);
            response
        };
        if session.refused {
            self.stats.full += 1;
            return refuse(session, answer(503, FULL, Some(FULL_RETRY_S)));
        }
        let subprotocol = if self.setup.echo && upgrade.path == ECHO_PATH {
            session.speaks = Speaks::Echo;
            None
        } else if let Some(dialect) = Dialect::of_path(&upgrade.path) {
            session.speaks = Speaks::Dialect(dialect);
            match dialect.choose_subprotocol(&upgrade.subprotocols) {
                Ok((dialect, subprotocol)) => {
                    session.speaks = Speaks::Dialect(dialect);
                    subprotocol
                }
                Err(malformed) => return refuse(session, answer(400, &malformed.0, None)),
            }
        } else {
            let body = format!("No WebSocket here. Use {} or {}.\n", protocol::native::PATH, centrifuge::PATH);
            return refuse(session, answer(404, &body, None));
        };
        session.deflate = upgrade.deflate;
        session.decoder = self.decoder(session.deflate);
        handshake::accept(&upgrade, subprotocol, session.deflate, &mut session.replies);
        session.phase = Phase::Open;
        self.on_frames(session, &mut head[used..]);
    }

    fn on_frames(&mut self, session: &mut Session, bytes: &mut [u8]) {
        let spare = self.decoder(session.deflate);
        let mut decoder = mem::replace(&mut session.decoder, spare);
        let mut at = 0;
        // To the end even when nothing is left: that is when a delivered message's buffer is freed.
        while !session.close_when_sent {
            match decoder.next(&mut bytes[at..]) {
                Ok((_, None)) => break,
                Ok((used, Some(Incoming::Deflated { opcode, payload }))) => {
                    self.on_deflated(session, opcode, payload);
                    at += used;
                }
                Ok((used, Some(incoming))) => {
                    self.on_incoming(session, &incoming);
                    at += used;
                }
                Err(error) => self.fail(session, error),
            }
        }
        session.decoder = decoder;
    }

    fn decoder(&self, deflate: bool) -> Decoder {
        let decoder = Decoder::new(Role::Server, self.setup.limits.frame_bytes_max);
        if deflate { decoder.with_deflate() } else { decoder }
    }

    fn on_deflated(&mut self, session: &mut Session, opcode: Opcode, payload: &[u8]) {
        if !session.is_open() {
            return;
        }
        let mut inflater = self.inflater.take().unwrap_or_default();
        match inflater.inflate(opcode, payload, self.setup.limits.frame_bytes_max) {
            Ok(incoming) => self.on_incoming(session, &incoming),
            Err(error) => self.fail(session, error),
        }
        self.inflater = Some(inflater);
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

    fn on_incoming(&mut self, session: &mut Session, incoming: &Incoming<'_>) {
        if let Incoming::Close { code, .. } = incoming {
            if session.is_open() {
                match code {
                    Some(code) => frame::write_close(*code, "", &mut session.replies),
                    None => frame::write(Opcode::Close, b"", &mut session.replies),
                }
                self.leave_all(session);
            }
            session.phase = Phase::Closing;
            session.close_when_sent = true;
            return;
        }
        if !session.is_open() {
            return;
        }
        match (incoming, session.speaks) {
            (Incoming::Ping(payload), _) => frame::write(Opcode::Pong, payload, &mut session.replies),
            (Incoming::Text(text), Speaks::Echo) => self.echo(session, Opcode::Text, text.as_bytes()),
            (Incoming::Binary(bytes), Speaks::Echo) => self.echo(session, Opcode::Binary, bytes),
            (Incoming::Text(_) | Incoming::Binary(_), Speaks::Dialect(dialect)) => {
                let decoded = dialect.decode(incoming, &mut |request| self.on_request(session, dialect, &request));
                if let Err(malformed) = decoded {
                    let error = Event::Error { code: ErrorCode::BadRequest, message: &malformed.0, retry_after_ms: 0 };
                    dialect.encode(0, &error, &mut session.replies);
                    self.close(session, Close::BadRequest);
                }
            }
            (Incoming::Pong(_) | Incoming::Close { .. } | Incoming::Deflated { .. }, _) => {}
        }
    }

    fn echo(&mut self, session: &mut Session, opcode: Opcode, payload: &[u8]) {
        if !session.deflate {
            return frame::write(opcode, payload, &mut session.replies);
        }
        let mut plain = Vec::with_capacity(payload.len() + 10);
        frame::write(opcode, payload, &mut plain);
        session.replies.extend_from_slice(self.deflation.frames(&plain));
    }

    /// Queues the close frame and leaves all rooms; the socket is closed when the peer answers, or soon after.
    pub(super) fn close(&mut self, session: &mut Session, why: Close) {
        let (_, reason) = session.close_reason(why);
        self.close_because(session, why, reason);
    }

    /// [`Shard::close`] with more to say than the dialect's own words.
    pub(super) fn close_because(&mut self, session: &mut Session, why: Close, reason: &str) {
        if !session.is_open() {
            return;
        }
        let (code, _) = session.close_reason(why);
        frame::write_close(code, reason, &mut session.replies);
        self.leave_all(session);
        session.phase = Phase::Closing;
        session.heard_ds = self.now.ds();
        self.mark(session);
    }

    fn on_request(&mut self, session: &mut Session, dialect: Dialect, request: &Request<'_>) {
        if !session.is_open() {
            return;
        }
        let outcome = self.run(session, dialect, request);
        self.refuse_at_once(session, dialect, request.tag, outcome);
    }

    /// Runs a command that asks nothing of a room; the others are checked and get in line.
    fn run(&mut self, session: &mut Session, dialect: Dialect, request: &Request<'_>) -> Result<(), Refusal> {
        match &request.command {
            Command::Pong => return Ok(()),
            Command::Ping => {
                dialect.encode(request.tag, &Event::Pong, &mut session.replies);
                return Ok(());
            }
            Command::Connect { user, .. } => return self.connect(session, dialect, request.tag, user.as_deref()),
            Command::Unsupported => return Err((ErrorCode::Unsupported, "this relay has no such command", 0)),
            _ => {}
        }
        let Some(user) = session.user.clone() else {
            return Err((ErrorCode::NotConnected, "connect first", 0));
        };
        let Some(room) = request.command.room() else { return Ok(()) };
        let room: Arc<str> = self.name(room)?.into();
        let ask = match &request.command {
            Command::Join { start, .. } => Ask::Join { start: *start },
            Command::Publish { content, body, key, .. } => {
                self.check_publish(session, *content, body, key.as_deref())?;
                let content = *content;
                let key =
                    key.as_deref().map(|key| Key { hash: key_hash(&user, key), body: Some(body_hash(content, body)) });
                let client = dialect.names_clients().then(|| self.client_id(session.id));
                let parts = NewParts { client, ..NewParts::default() }.pack();
                Ask::Publish { content, body: Box::from(&**body), key, parts }
            }
            Command::History { page, limit, .. } => Ask::History { page: *page, limit: *limit },
            _ => Ask::Leave,
        };
        self.in_order(session, dialect, (request.tag, room), ask)
    }

    fn connect(
        &mut self,
        session: &mut Session,
        dialect: Dialect,
        tag: u32,
        user: Option<&str>,
    ) -> Result<(), Refusal> {
        if session.user.is_some() {
            return Err((ErrorCode::Already, "already connected", 0));
        }
        let user: Arc<str> = match user {
            Some(user) if !user.is_empty() => self.name(user)?.into(),
            _ => format!("guest-{:08x}", self.random.u32(..)).into(),
        };
        let ping_s = (self.setup.limits.ping_interval_ms / 1000) as u32;
        let (session_id, client) = (session.id.0, self.client_id(session.id));
        let connected = Event::Connected { user: &user, session: session_id, client, ping_s };
        dialect.encode(tag, &connected, &mut session.replies);
        session.user = Some(user);
        Ok(())
    }

    /// What others know a connection by.
    fn client_id(&self, id: SessionId) -> ClientId {
        ClientId::new(id.0, self.setup.nonce)
    }

    /// A room's owner, if it takes commands.
    pub(super) fn owner(&self, room: &str) -> Result<usize, Refusal> {
        let owner = owner_of(room, self.setup.shards);
        if self.lane_is_full(owner) || self.upkeep.is_stopping() {
            return Err((ErrorCode::Busy, "the relay is overloaded or stopping", BUSY_RETRY_MS));
        }
        Ok(owner)
    }

    fn name<'n>(&self, name: &'n str) -> Result<&'n str, Refusal> {
        if name.is_empty() || name.chars().any(char::is_control) {
            return Err((ErrorCode::BadRequest, "a name is empty or has control characters", 0));
        }
        if name.len() > self.setup.limits.name_bytes_max {
            return Err((ErrorCode::TooLarge, "a name is longer than the limit", 0));
        }
        Ok(name)
    }

    fn check_publish(
        &self,
        session: &mut Session,
        content: Content,
        body: &[u8],
        key: Option<&str>,
    ) -> Result<(), Refusal> {
        let limits = &self.setup.limits;
        if body.len() > limits.body_bytes_max || key.is_some_and(|key| key.len() > limits.name_bytes_max) {
            return Err((ErrorCode::TooLarge, "the body or the key is larger than the limit", 0));
        }
        let valid = match content {
            Content::Text => str::from_utf8(body).is_ok(),
            Content::Json => centrifuge::is_json(body),
            Content::Binary => true,
        };
        if !valid {
            return Err((ErrorCode::BadRequest, "the body is not what its content type says", 0));
        }
        let rate = Rate { per_s: limits.session_publish_rate, burst: 2 * limits.session_publish_rate };
        let bucket = session.bucket.get_or_insert_with(|| Bucket::full(rate, self.now.us));
        bucket
            .take(rate, self.now.us)
            .map_err(|retry_ms| (ErrorCode::RateLimited, "this connection publishes too fast", retry_ms))
    }
}

/// Code, message and when to try again, milliseconds.
pub(super) type Refusal = (ErrorCode, &'static str, u32);

/// After `busy`, clients try again this much later, milliseconds.
pub(super) const BUSY_RETRY_MS: u32 = 500;

fn refuse(session: &mut Session, response: Vec<u8>) {
    session.replies = response;
    session.phase = Phase::Closing;
    session.close_when_sent = true;
}
