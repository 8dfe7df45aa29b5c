//! A connection from the client's side: what it was promised, and its bytes.

use std::collections::BTreeMap;
use std::sync::Arc;

use protocol::frame::{self, Decoder, Opcode, Role};
use protocol::{Command, Dialect, Page, Request, Start};
use relay::ids::SessionId;

use crate::env::Env;
use crate::speech::{self, RSV1};

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
    Ping,
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
    pub key: [u8; 16],
    /// The response head so far; None once it was read.
    pub head: Option<Vec<u8>>,
    pub decoder: Decoder,
    pub offers_deflate: bool,
    /// Its messages may be deflated.
    pub deflates: bool,
    pub tag: u32,
    pub waiting: BTreeMap<u32, Asked>,
    /// Rooms it is a member of.
    pub joined: BTreeMap<Arc<str>, Place>,
    /// It sent something that cannot be read, and only waits for the end.
    pub misbehaved: bool,
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
            key: env.rng.u128(..).to_ne_bytes(),
            head: Some(Vec::new()),
            decoder: Decoder::new(Role::Client, 1 << 30),
            offers_deflate,
            deflates: false,
            tag: 0,
            waiting: BTreeMap::new(),
            joined: BTreeMap::new(),
            misbehaved: false,
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

    pub fn is_joining(&self, room: &str) -> bool {
        self.waiting.values().any(|asked| matches!(asked, Asked::Join { room: other, .. } if **other == *room))
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
