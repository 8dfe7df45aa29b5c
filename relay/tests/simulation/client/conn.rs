//! A connection from the client's side: what it was promised, and its bytes.

use std::collections::BTreeMap;
use std::sync::Arc;

use protocol::frame::{self, Decoder, Opcode, Role};
use protocol::{ClientId, Command, Dialect, ErrorCode, Page, Request, Start};
use relay::config::Limits;
use relay::ids::SessionId;

use crate::env::Env;
use crate::oracle::Oracle;
use crate::speech::{self, Heard, RSV1};

/// A body, which is its message's name. Shown in brief.
pub struct Name(pub Vec<u8>);

impl std::fmt::Debug for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let start = &self.0[..self.0.len().min(12)];
        write!(f, "{:?} of {} bytes", String::from_utf8_lossy(start), self.0.len())
    }
}

/// A request that waits for its reply.
#[derive(Debug)]
pub enum Asked {
    Connect,
    /// `real`: the client knows that the seq it names is durable.
    Join {
        room: Arc<str>,
        start: Start,
        real: bool,
    },
    Leave {
        room: Arc<str>,
    },
    Publish(Name),
    History {
        room: Arc<str>,
        page: Page,
        limit: u32,
    },
    Info {
        room: Arc<str>,
    },
    Ping,
}

impl Asked {
    /// The room it is about.
    pub fn room<'a>(&'a self, oracle: &'a Oracle) -> Option<&'a Arc<str>> {
        match self {
            Self::Join { room, .. } | Self::Leave { room } | Self::History { room, .. } | Self::Info { room } => {
                Some(room)
            }
            Self::Publish(Name(body)) => Some(&oracle.sent(body).room),
            Self::Connect | Self::Ping => None,
        }
    }

    fn body_bytes(&self) -> usize {
        if let Self::Publish(Name(body)) = self { body.len() } else { 0 }
    }
}

/// What a connection was told of a room, in the order of its commands.
#[derive(Debug, Default, Clone, Copy)]
pub struct Told {
    /// Up to where the room reached by the reply of a join or history.
    pub head: u64,
    /// The last ack of a message that was sent once: tag and seq.
    pub acked: (u32, u64),
}

/// A room as one of its members knows it.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// The last seq it has.
    pub last: u64,
    /// Where the room ended when it joined; all up to there was promised by the reply.
    pub promised: u64,
}

/// One connection, from the client's side.
pub struct Conn {
    pub id: SessionId,
    /// What others know it by.
    pub client: ClientId,
    pub key: [u8; 16],
    /// The response head so far; None once it was read.
    pub head: Option<Vec<u8>>,
    pub decoder: Decoder,
    pub offers_deflate: bool,
    /// Its messages may be deflated.
    pub deflates: bool,
    pub tag: u32,
    pub waiting: BTreeMap<u32, Asked>,
    /// Publishes that asked for no reply.
    pub untagged: usize,
    pub told: BTreeMap<Arc<str>, Told>,
    /// Rooms it is a member of.
    pub joined: BTreeMap<Arc<str>, Place>,
    /// It sent something that cannot be read, and only waits for the end.
    pub misbehaved: bool,
    /// It asked for more than is read in a while.
    pub floods: bool,
    /// It goes on talking after the relay's close frame and never answers it.
    pub rude: bool,
    pub babbled_us: u64,
    /// It sent its close frame.
    pub said_close: bool,
    /// The relay sent its close frame: nothing may follow.
    pub heard_close: bool,
}

impl Conn {
    pub fn new(id: SessionId, offers_deflate: bool, env: &mut Env) -> Self {
        Self {
            id,
            client: ClientId::new(id.0, env.nonce),
            key: env.rng.u128(..).to_ne_bytes(),
            head: Some(Vec::new()),
            decoder: Decoder::new(Role::Client, 1 << 30),
            offers_deflate,
            deflates: false,
            tag: 0,
            waiting: BTreeMap::new(),
            untagged: 0,
            told: BTreeMap::new(),
            joined: BTreeMap::new(),
            misbehaved: false,
            floods: false,
            rude: env.rng.u8(..10) == 0 && !env.calm,
            babbled_us: 0,
            said_close: false,
            heard_close: false,
        }
    }

    /// It never ends its handshake.
    pub fn is_mute(&self) -> bool {
        self.misbehaved && self.head.is_some()
    }

    /// It may have as many commands under way as it may, one that was just answered among them.
    pub fn may_be_at_its_share(&self, answered: &Asked, limits: &Limits) -> bool {
        let commands = self.waiting.len() + self.untagged + 1;
        let bytes: usize = self.waiting.values().chain([answered]).map(Asked::body_bytes).sum();
        commands > limits.commands_per_session_max
            || bytes + self.untagged * limits.body_bytes_max > limits.frame_bytes_max
    }

    /// A command that was refused before it got in line: it has no effect, so nothing waits for it or is waited for.
    pub fn is_refused_at_the_door(&self, asked: &Asked, heard: &Heard<'_>, limits: &Limits) -> bool {
        let Heard::Refused { code } = heard else { return false };
        let is_publish = matches!(asked, Asked::Publish(_));
        match code {
            ErrorCode::TooLarge | ErrorCode::RateLimited => is_publish,
            ErrorCode::Busy => is_publish || self.may_be_at_its_share(asked, limits),
            _ => false,
        }
    }

    /// A command on the same room that was to take effect before this one and is not answered.
    pub fn overtaken(&self, tag: u32, asked: &Asked, oracle: &Oracle) -> Option<(&u32, &Asked)> {
        let room = asked.room(oracle)?;
        let is_publish = |asked: &Asked| matches!(asked, Asked::Publish(_));
        let before = self.waiting.range(..tag).filter(|(_, other)| other.room(oracle) == Some(room));
        // Publishes take effect in their order however they are answered: what is known of one is told at once.
        before.into_iter().find(|(_, other)| !(is_publish(asked) && is_publish(other)))
    }

    /// A join or history was answered: what this connection publishes from now on is behind it.
    pub fn told_head(&mut self, room: &Arc<str>, head: u64) {
        self.told.entry(room.clone()).or_default().head = head;
    }

    /// A message that was sent once was stored: behind what the connection asked for and published before it.
    pub fn told_ack(&mut self, room: &Arc<str>, (tag, seq): (u32, u64)) {
        let told = self.told.entry(room.clone()).or_default();
        let is_in_order = seq > told.head && (tag, seq) > told.acked && seq > told.acked.1;
        assert!(
            is_in_order,
            "invariant 12, commands on a room take effect in order: {room} {seq} is the ack of {tag} after {told:?}"
        );
        told.acked = (tag, seq);
    }

    pub fn push(&self, bytes: &[u8], env: &mut Env) {
        let socket = env.sockets.get_mut(&self.id).expect("the client keeps its socket");
        if !socket.server_closed {
            socket.up.extend(bytes);
        }
    }

    pub fn frame(&self, opcode: Opcode, payload: &[u8], env: &mut Env) {
        let mut bytes = Vec::new();
        let mask = env.rng.u32(..).to_ne_bytes();
        frame::write_masked(opcode, payload, mask, &mut bytes);
        self.push(&bytes, env);
    }

    /// A frame that says of itself that it is deflated.
    pub fn corrupt(&self, opcode: Opcode, payload: &[u8], env: &mut Env) {
        let mut bytes = Vec::new();
        frame::write_masked(opcode, payload, [0; 4], &mut bytes);
        bytes[0] |= RSV1;
        self.push(&bytes, env);
    }

    /// A message that begins with nothing and goes on with nothing.
    pub fn empty_fragments(&self, count: usize, env: &mut Env) {
        let mut bytes = vec![0x01, 0x80, 0, 0, 0, 0];
        bytes.extend([0x00, 0x80, 0, 0, 0, 0].repeat(count));
        self.push(&bytes, env);
    }

    /// A small frame of so many bytes.
    pub fn bomb(&self, opcode: Opcode, size: usize, env: &mut Env) {
        let mut bytes = Vec::new();
        env.deflater.write_masked(opcode, "{".repeat(size).as_bytes(), [9; 4], &mut bytes);
        self.push(&bytes, env);
    }

    pub fn request(&self, dialect: Dialect, tag: u32, command: Command<'_>, env: &mut Env) {
        let mut bytes = Vec::new();
        let mask = env.rng.u32(..).to_ne_bytes();
        let cut = if env.rng.u8(..10) == 0 { env.rng.usize(..50) } else { usize::MAX };
        let deflates = self.deflates && env.rng.u8(..3) == 0;
        if deflates {
            env.meet(if cut == usize::MAX { "a deflated request" } else { "a deflated request in fragments" });
        }
        let deflater = deflates.then_some(&mut env.deflater);
        speech::say(dialect, &Request { tag, command }, (mask, cut), deflater, &mut bytes);
        self.push(&bytes, env);
    }
}
