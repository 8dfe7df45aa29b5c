//! Commands: checked, and carried out or put in line for the shard that owns the room.

use std::sync::Arc;

use protocol::{ClientId, Close, Command, Content, Dialect, ErrorCode, Event, NewParts, Request, json};
use storage::Key;

use super::Front;
use crate::dedupe::{body_hash, key_hash};
use crate::ids::SessionId;
use crate::mesh::Ask;
use crate::pipeline::Step;
use crate::session::Session;
use crate::shard::turn::{Refusal, Turn};

impl Front {
    /// Tells why the dialect does not take a command; where no reply can, the end of the connection does.
    pub(super) fn refuse_unread(
        &mut self,
        turn: &mut Turn,
        session: &mut Session,
        dialect: Dialect,
        (tag, code): (u32, ErrorCode),
        why: &str,
    ) {
        turn.stats.refuse(code);
        self.held.replies.say(session, dialect, tag, &Event::Error { code, message: why, retry_after_ms: 0 });
        match code {
            _ if tag != 0 => {}
            ErrorCode::NotAvailable => self.close_because(turn, session, Close::NotAvailable, why),
            _ => self.close_because(turn, session, Close::BadRequest, why),
        }
    }

    pub(super) fn on_request(
        &mut self,
        turn: &mut Turn,
        session: &mut Session,
        dialect: Dialect,
        request: &Request<'_>,
    ) {
        if !session.is_open() {
            return;
        }
        turn.stats.commands += 1;
        let outcome = self.run(turn, session, dialect, request);
        self.charge(turn, session, &request.command, outcome.as_ref().err().map(|(code, ..)| *code));
        if let Err(refusal) = outcome {
            self.held.replies.refuse(turn, session, dialect, (request.tag, refusal));
        }
    }

    /// Runs a command that asks nothing of a room; the others get in line.
    fn run(
        &mut self,
        turn: &mut Turn,
        session: &mut Session,
        dialect: Dialect,
        request: &Request<'_>,
    ) -> Result<(), Refusal> {
        match &request.command {
            Command::Pong => Ok(()),
            Command::Ping => {
                dialect.encode(request.tag, &Event::Pong, &mut session.out.replies);
                Ok(())
            }
            Command::Connect { user, .. } => self.connect(turn, session, dialect, request.tag, user.as_deref()),
            Command::Unsupported => Err((ErrorCode::Unsupported, "this relay has no such command", 0)),
            Command::Refused { code, why } => {
                self.refuse_unread(turn, session, dialect, (request.tag, *code), why);
                Ok(())
            }
            Command::Join { room, .. }
            | Command::Leave { room }
            | Command::Publish { room, .. }
            | Command::History { room, .. }
            | Command::Info { room } => {
                let Some(user) = session.user.clone() else {
                    return Err((ErrorCode::NotConnected, "connect first", 0));
                };
                let room: Arc<str> = name(turn, room)?.into();
                let step = step_of(turn, session, dialect, &user, &request.command)?;
                self.in_order(turn, session, dialect, (request.tag, room), step)
            }
        }
    }

    fn connect(
        &mut self,
        turn: &mut Turn,
        session: &mut Session,
        dialect: Dialect,
        tag: u32,
        user: Option<&str>,
    ) -> Result<(), Refusal> {
        if session.user.is_some() {
            return Err((ErrorCode::Already, "already connected", 0));
        }
        let user: Arc<str> = match user {
            Some(user) if !user.is_empty() => name(turn, user)?.into(),
            _ => format!("guest-{:08x}", self.random.u32(..)).into(),
        };
        let ping_s = (turn.setup.limits.ping_interval_ms / 1000) as u32;
        let (session_id, client) = (session.id.0, client_id(turn, session.id));
        let connected = Event::Connected { user: &user, session: session_id, client, ping_s };
        dialect.encode(tag, &connected, &mut session.out.replies);
        session.user = Some(user);
        // Who it is does not depend on what it came with.
        session.take_arrival();
        session.alive.ping(turn.now.ds(), false);
        Ok(())
    }
}

/// What a command asks of its room, checked.
fn step_of(
    turn: &Turn,
    session: &mut Session,
    dialect: Dialect,
    user: &str,
    command: &Command<'_>,
) -> Result<Step, Refusal> {
    Ok(Step::Ask(match command {
        Command::Join { start, .. } => Ask::Join { start: *start, shared: None },
        Command::Publish { content, body, key, .. } => {
            check_publish(turn, session, *content, body, key.as_deref())?;
            let (content, key) = (*content, key.as_deref());
            let key = key.map(|key| Key { hash: key_hash(user, key), body: Some(body_hash(content, body)) });
            let client = dialect.names_clients().then(|| client_id(turn, session.id));
            let parts = NewParts { client, ..NewParts::default() }.pack();
            Ask::Publish { content, body: Box::from(&**body), key, parts }
        }
        Command::History { page, limit, epoch, newest_first, .. } => {
            Ask::History { page: *page, limit: *limit, epoch: *epoch, newest_first: *newest_first }
        }
        Command::Info { .. } => Ask::Info,
        Command::Leave { .. } => return Ok(Step::Leave),
        Command::Connect { .. } | Command::Ping | Command::Pong | Command::Unsupported | Command::Refused { .. } => {
            return Err((ErrorCode::Internal, "the command is about no room", 0));
        }
    }))
}

/// What others know a connection by.
fn client_id(turn: &Turn, id: SessionId) -> ClientId {
    ClientId::new(id.0, turn.setup.nonce)
}

fn name<'n>(turn: &Turn, name: &'n str) -> Result<&'n str, Refusal> {
    crate::name::check(name, turn.setup.limits.name_bytes_max).map_err(|(code, why)| (code, why, 0))?;
    Ok(name)
}

fn check_publish(
    turn: &Turn,
    session: &mut Session,
    content: Content,
    body: &[u8],
    key: Option<&str>,
) -> Result<(), Refusal> {
    let limits = &turn.setup.limits;
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
        .allowance(limits, turn.now.us)
        .publish(limits, body.len(), turn.now.us)
        .map_err(|retry_ms| (ErrorCode::RateLimited, "this connection publishes too fast", retry_ms))
}
