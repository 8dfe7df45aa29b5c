//! Request heads, and commands: from a connection to the shard that owns the room.

use std::sync::Arc;

use protocol::frame;
use protocol::handshake::{self, Upgrade};
use protocol::{ClientId, Close, Command, Content, Dialect, ErrorCode, Event, NewParts, Request, centrifuge, json};
use storage::Key;

use super::Shard;
use crate::budget::Use;
use crate::dedupe::{body_hash, key_hash};
use crate::ids::{SessionId, owner_of};
use crate::mesh::Ask;
use crate::name;
use crate::pipeline::Step;
use crate::session::{Phase, Sending, Session, Speaks};

/// Where conformance suites find the echo.
const ECHO_PATH: &str = "/echo";
/// What a client reads when the relay is full, and when it may try again, seconds.
pub const FULL: &str = "This relay has as many connections as it may (--max-connections).\n";
pub const FULL_RETRY_S: u32 = 5;
/// …and when too many requests are half-way.
const SHORT: &str = "This relay has as much in memory as it may (--memory-bytes-max).\n";
/// Size of a request head, bytes.
const HEAD_BYTES_MAX: usize = 8 * 1024;

impl Shard {
    /// Closes a session that lets too much pile up: asked before a short reply is added.
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

    /// A request head, as far as it has come. Returns how many of its bytes are no WebSocket yet.
    pub(super) fn on_head(&mut self, session: &mut Session, head: Vec<u8>) -> usize {
        match handshake::read_request(&head, HEAD_BYTES_MAX) {
            handshake::Request::Partial => {
                let all = head.len();
                session.phase = Phase::Handshake(head);
                all
            }
            handshake::Request::Refused { response } => {
                self.refuse_request(session, response);
                head.len()
            }
            handshake::Request::Upgrade { upgrade, used } => {
                self.on_upgrade(session, &upgrade);
                used
            }
        }
    }

    /// A request that does not come in time.
    pub(super) fn time_out(&mut self, session: &mut Session) {
        self.turn_down(session, 408, "No whole request came in time (--connect-timeout-ms).\n", None);
        self.mark(session);
    }

    /// There is no memory for requests that stay half-way.
    pub(super) fn turn_away(&mut self, session: &mut Session) {
        self.turn_down(session, 503, SHORT, Some(FULL_RETRY_S));
    }

    /// Answers a request with this status, and with when to try again, seconds.
    fn turn_down(&mut self, session: &mut Session, status: u16, body: &str, retry_after_s: Option<u32>) {
        let mut response = Vec::new();
        handshake::refuse(status, body, retry_after_s, &mut response);
        self.refuse_request(session, response);
    }

    fn refuse_request(&mut self, session: &mut Session, response: Vec<u8>) {
        session.heard_ds = self.now.ds();
        session.replies = response;
        session.phase = Phase::Closing;
        session.close_when_sent = true;
    }

    fn on_upgrade(&mut self, session: &mut Session, upgrade: &Upgrade) {
        if session.refused {
            self.stats.full += 1;
            return self.turn_down(session, 503, FULL, Some(FULL_RETRY_S));
        }
        let subprotocol = if self.setup.echo {
            if upgrade.path != ECHO_PATH {
                return self.turn_down(session, 404, &format!("Only {ECHO_PATH} is served here."), None);
            }
            session.speaks = Speaks::Echo;
            None
        } else if let Some(dialect) = Dialect::of_path(&upgrade.path) {
            session.speaks = Speaks::Dialect(dialect);
            match dialect.choose_subprotocol(&upgrade.subprotocols) {
                Ok((dialect, subprotocol)) => {
                    session.speaks = Speaks::Dialect(dialect);
                    subprotocol
                }
                Err(malformed) => return self.turn_down(session, 400, &malformed.0, None),
            }
        } else {
            let body = format!("No WebSocket here. Use {} or {}.\n", protocol::native::PATH, centrifuge::PATH);
            return self.turn_down(session, 404, &body, None);
        };
        session.heard_ds = self.now.ds();
        session.deflate = upgrade.deflate;
        session.decoder = self.decoder(session.deflate);
        handshake::accept(upgrade, subprotocol, session.deflate, &mut session.replies);
        session.phase = Phase::Open;
        if let Speaks::Dialect(dialect) = session.speaks
            && let Some(why) = dialect.unserved(subprotocol, &upgrade.query)
        {
            self.close_because(session, Close::WrongEncoding, why);
        }
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

    /// Tells why the dialect does not take a command; where no reply can, the end of the connection does.
    pub(super) fn refuse_unread(
        &mut self,
        session: &mut Session,
        dialect: Dialect,
        (tag, code): (u32, ErrorCode),
        why: &str,
    ) {
        self.stats.refuse(code);
        self.say(session, dialect, tag, &Event::Error { code, message: why, retry_after_ms: 0 });
        match code {
            _ if tag != 0 => {}
            ErrorCode::NotAvailable => self.close_because(session, Close::NotAvailable, why),
            _ => self.close_because(session, Close::BadRequest, why),
        }
    }

    pub(super) fn on_request(&mut self, session: &mut Session, dialect: Dialect, request: &Request<'_>) {
        if !session.is_open() {
            return;
        }
        self.stats.commands += 1;
        let outcome = self.run(session, dialect, request);
        self.charge(session, &request.command, outcome.as_ref().err().map(|(code, ..)| *code));
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
            Command::Refused { code, why } => {
                self.refuse_unread(session, dialect, (request.tag, *code), why);
                return Ok(());
            }
            _ => {}
        }
        let Some(user) = session.user.clone() else {
            return Err((ErrorCode::NotConnected, "connect first", 0));
        };
        let Some(room) = request.command.room() else { return Ok(()) };
        let room: Arc<str> = self.name(room)?.into();
        let ask = match &request.command {
            Command::Join { start, .. } => Ask::Join { start: *start, shared: None },
            Command::Publish { content, body, key, .. } => {
                self.check_publish(session, *content, body, key.as_deref())?;
                let content = *content;
                let key =
                    key.as_deref().map(|key| Key { hash: key_hash(&user, key), body: Some(body_hash(content, body)) });
                let client = dialect.names_clients().then(|| self.client_id(session.id));
                let parts = NewParts { client, ..NewParts::default() }.pack();
                Ask::Publish { content, body: Box::from(&**body), key, parts }
            }
            Command::History { page, limit, epoch, newest_first, .. } => {
                Ask::History { page: *page, limit: *limit, epoch: *epoch, newest_first: *newest_first }
            }
            _ => return self.in_order(session, dialect, (request.tag, room), Step::Leave),
        };
        self.in_order(session, dialect, (request.tag, room), Step::Ask(ask))
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
        session.pinged_ds = self.now.ds();
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

    /// There is memory left for new work.
    pub(super) fn check_memory(&self, wanted: Use, bytes: usize) -> Result<(), Refusal> {
        if self.memory.allows(wanted, bytes) {
            return Ok(());
        }
        Err((ErrorCode::Busy, "the relay has as much in memory as it may", BUSY_RETRY_MS))
    }

    fn name<'n>(&self, name: &'n str) -> Result<&'n str, Refusal> {
        name::check(name, self.setup.limits.name_bytes_max).map_err(|(code, why)| (code, why, 0))?;
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
        match content {
            Content::Text if str::from_utf8(body).is_err() => {
                return Err((ErrorCode::BadRequest, "the body is not UTF-8", 0));
            }
            Content::Json => json::check(body).map_err(|why| (ErrorCode::BadRequest, why, 0))?,
            Content::Text | Content::Binary => {}
        }
        session
            .allowance(limits, self.now.us)
            .publish(limits, body.len(), self.now.us)
            .map_err(|retry_ms| (ErrorCode::RateLimited, "this connection publishes too fast", retry_ms))
    }
}

/// Code, message and when to try again, milliseconds.
pub(super) type Refusal = (ErrorCode, &'static str, u32);

/// After `busy`, clients try again this much later, milliseconds.
pub(super) const BUSY_RETRY_MS: u32 = 500;
