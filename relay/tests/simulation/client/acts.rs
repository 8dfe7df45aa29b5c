//! What a client does when it is its turn.

use std::sync::Arc;

use protocol::frame::Opcode;
use protocol::{Command, Content, Dialect, Page, Start, centrifuge, handshake, native};

use super::Client;
use super::conn::{Asked, Conn, Name};
use crate::env::Env;
use crate::oracle::Sent;
use crate::process::Process;

/// No room has it.
const NO_EPOCH: u64 = 0;
/// A rude client talks so often, microseconds.
const BABBLE_US: u64 = 500_000;
/// A client remembers so many messages to repeat.
const REPEATABLE_MAX: usize = 30;

impl Client {
    /// One thing that a client does, by chance.
    pub fn act(&mut self, process: Option<&mut Process>, generation: u32, env: &mut Env) {
        let stall_percent = env.plan.stall_percent;
        if env.chance(stall_percent) {
            self.stalled = !self.stalled;
        }
        if !self.stalled && env.rng.bool() {
            return self.read(env);
        }
        let Some(mut conn) = self.conn.take() else {
            if let Some(process) = process.filter(|process| !process.stopping) {
                self.connect(process, generation, env);
            }
            return;
        };
        if conn.said_close || conn.misbehaved || conn.heard_close {
            if env.rng.u8(..8) == 0 {
                return self.vanish(&conn, env);
            }
            self.conn = Some(conn);
            return;
        }
        let drop_percent = env.plan.drop_percent;
        if env.chance(drop_percent) {
            return self.vanish(&conn, env);
        }
        match env.rng.u8(..104) {
            99.. => self.pipeline(&mut conn, env),
            0..50 => {
                for _ in 0..env.rng.u32(1..=env.plan.burst) {
                    let room = Self::room(env);
                    self.publish(&mut conn, &room, env);
                }
            }
            50..57 => self.repeat(&mut conn, env),
            57..60 => self.contradict(&mut conn, env),
            60..78 => {
                let room = Self::room(env);
                self.join(&mut conn, room, env);
            }
            78..83 => self.leave_some(&mut conn, env),
            83..92 => {
                let room = Self::room(env);
                self.history(&mut conn, room, env);
            }
            92 | 93 => {
                let room = Self::room(env);
                self.info(&mut conn, room, env);
            }
            94 | 95 => self.ask(&mut conn, Asked::Ping, Command::Ping, env),
            96 => {
                env.trace.add(|| format!("client {} says close", self.index));
                conn.said_close = true;
                conn.frame(Opcode::Close, &1000u16.to_be_bytes(), env);
            }
            97 => self.misbehave(&mut conn, env),
            _ => self.flood(&mut conn, env),
        }
        self.conn = Some(conn);
    }

    /// Connects, and often joins and publishes before any answer.
    pub fn connect(&mut self, process: &mut Process, generation: u32, env: &mut Env) {
        let id = process.connect(env, generation);
        env.trace.add(|| format!("client {} connects as {id:?}", self.index));
        let offers_deflate = env.chance(env.plan.deflate_percent);
        let mut conn = Conn::new(id, offers_deflate, env);
        let (path, subprotocol) = match self.dialect {
            Dialect::Native => (native::PATH, env.rng.bool().then_some(native::SUBPROTOCOL)),
            Dialect::NativeParts => (native::PATH, Some(native::SUBPROTOCOL_PARTS)),
            Dialect::Centrifuge => (centrifuge::PATH, None),
        };
        let mut head = Vec::new();
        match env.rng.u8(..100) {
            0 if !env.calm => {
                conn.misbehaved = true;
                handshake::request("relay", "/nowhere", None, false, conn.key, &mut head);
            }
            1 if !env.calm => {
                conn.misbehaved = true;
                handshake::request("relay", path, subprotocol, offers_deflate, conn.key, &mut head);
                head.truncate(env.rng.usize(..head.len()));
            }
            _ => handshake::request("relay", path, subprotocol, offers_deflate, conn.key, &mut head),
        }
        conn.push(&head, env);
        if !conn.misbehaved {
            let user = self.user.clone();
            self.ask(&mut conn, Asked::Connect, Command::Connect { user: Some(user.into()), device: None }, env);
            if !env.calm && env.rng.u8(..4) != 0 {
                self.come_back(&mut conn, env);
            }
        }
        self.stalled = false;
        self.conn = Some(conn);
    }

    fn ask(&mut self, conn: &mut Conn, asked: Asked, command: Command<'_>, env: &mut Env) {
        conn.tag += 1;
        env.trace.add(|| format!("client {} asks {} {asked:?}", self.index, conn.tag));
        conn.waiting.insert(conn.tag, asked);
        conn.request(self.dialect, conn.tag, command, env);
    }

    fn info(&mut self, conn: &mut Conn, room: Arc<str>, env: &mut Env) {
        let command = Command::Info { room: room.to_string().into() };
        self.ask(conn, Asked::Info { room }, command, env);
    }

    fn room(env: &mut Env) -> Arc<str> {
        env.plan.rooms[env.rng.usize(..env.plan.rooms.len())].clone()
    }

    /// Several commands on one room, of which each is to find what those before it did.
    fn pipeline(&mut self, conn: &mut Conn, env: &mut Env) {
        let room = Self::room(env);
        for _ in 0..env.rng.u32(2..=9) {
            let room = room.clone();
            match env.rng.u8(..9) {
                8 => self.info(conn, room, env),
                0..3 => self.join(conn, room, env),
                3..6 => self.leave(conn, &room, env),
                6 => self.publish(conn, &room, env),
                _ => self.history(conn, room, env),
            }
        }
    }

    /// Publishes something in a room, from outside.
    pub fn speak(&mut self, room: &Arc<str>, env: &mut Env) {
        let mut conn = self.conn.take().expect("it is connected");
        self.publish(&mut conn, room, env);
        self.conn = Some(conn);
    }

    fn publish(&mut self, conn: &mut Conn, room: &Arc<str>, env: &mut Env) {
        let key = env.rng.bool().then(|| format!("key-{}.{}", self.index, self.published + 1));
        self.publish_new(conn, room, key, env);
    }

    /// Another message with a key that was used before.
    fn contradict(&mut self, conn: &mut Conn, env: &mut Env) {
        if self.repeatable.is_empty() {
            return;
        }
        let first = env.oracle.sent(&self.repeatable[env.rng.usize(..self.repeatable.len())]);
        let (room, key) = (first.room.clone(), first.key.clone());
        self.publish_new(conn, &room, key, env);
    }

    fn publish_new(&mut self, conn: &mut Conn, room: &Arc<str>, key: Option<String>, env: &mut Env) {
        self.published += 1;
        let is_json = self.dialect == Dialect::Centrifuge;
        let content = if is_json { Content::Json } else { Content::from_u8(env.rng.u8(..3)).expect("three kinds") };
        let name = format!("{}.{}", self.index, self.published);
        let most = env.plan.limits.body_bytes_max;
        let filler = if env.rng.u8(..100) == 0 { most } else { env.rng.usize(..=most - name.len() - 8) };
        let filler = "é".repeat(filler / 2);
        let body = match content {
            Content::Text => format!("{name} {filler}").into_bytes(),
            Content::Json if env.rng.bool() => format!("\"{name} {filler}\"").into_bytes(),
            Content::Json => format!("[{name:?},{filler:?}]").into_bytes(),
            Content::Binary => [b"\xff", name.as_bytes(), b"\n", filler.as_bytes()].concat(),
        };
        if key.is_some() {
            self.repeatable.push(body.clone());
            if self.repeatable.len() > REPEATABLE_MAX {
                self.repeatable.remove(0);
            }
        }
        let user = &self.user;
        env.oracle.attempt(&body, conn.client, || Sent::new(room, user, key, content));
        self.send(conn, body, env);
    }

    /// The same message with the same key, whatever became of it.
    fn repeat(&mut self, conn: &mut Conn, env: &mut Env) {
        if self.repeatable.is_empty() {
            return;
        }
        env.meet("a repeat");
        let body = self.repeatable[env.rng.usize(..self.repeatable.len())].clone();
        env.oracle.attempt(&body, conn.client, || unreachable!("it was sent before"));
        self.send(conn, body, env);
    }

    fn send(&mut self, conn: &mut Conn, body: Vec<u8>, env: &mut Env) {
        let sent = env.oracle.sent(&body);
        let (room, key, content) = (sent.room.clone(), sent.key.clone(), sent.content);
        let publish = |body: Vec<u8>| Command::Publish {
            room: room.to_string().into(),
            content,
            body: body.into(),
            key: key.map(Into::into),
        };
        if self.dialect != Dialect::Centrifuge && env.rng.u8(..10) == 0 {
            env.trace.add(|| format!("client {} publishes without a tag to {room}", self.index));
            conn.untagged += 1;
            return conn.request(self.dialect, 0, publish(body), env);
        }
        self.ask(conn, Asked::Publish(Name(body.clone())), publish(body), env);
    }

    fn join(&mut self, conn: &mut Conn, room: Arc<str>, env: &mut Env) {
        let place = self.places.get(&room).copied();
        let start = match (place, env.rng.u8(..20)) {
            (Some((epoch, seq)), 0..10) => Start::Since { seq, epoch: Some(epoch) },
            (Some((_, seq)), 10) => Start::Since { seq, epoch: None },
            (Some((epoch, seq)), 11) => Start::Since { seq, epoch: Some(epoch + 1) },
            (Some((epoch, seq)), 12) => Start::Since { seq: env.rng.u64(..=seq), epoch: Some(epoch) },
            (Some((epoch, seq)), 13) => Start::Since { seq: seq + env.rng.u64(..1000), epoch: Some(epoch) },
            (Some((epoch, seq)), 15 | 16) => {
                Start::Since { seq: seq.saturating_sub(env.rng.u64(..10)), epoch: Some(epoch) }
            }
            (_, 14) => Start::Since { seq: self.known.get(&room).copied().unwrap_or(0), epoch: None },
            _ => {
                let recent = [0, 1, 5, 60, 5000];
                Start::Recent(recent[env.rng.usize(..recent.len())])
            }
        };
        let real = match start {
            Start::Since { seq, .. } => {
                let known = self.known.get(&room).copied().unwrap_or(0);
                seq <= known.max(place.map_or(0, |(_, seq)| seq))
            }
            Start::Recent(_) => true,
        };
        let command = Command::Join { room: room.to_string().into(), start };
        let asked = match start {
            // Without a position this dialect asks where the room is, and there is nothing to recover.
            Start::Since { seq: 0, epoch: None } if self.dialect == Dialect::Centrifuge => {
                Start::Since { seq: 0, epoch: Some(NO_EPOCH) }
            }
            start => start,
        };
        self.ask(conn, Asked::Join { room, start: asked, real }, command, env);
    }

    /// Joins the rooms it was in, where it was or a little before.
    fn come_back(&mut self, conn: &mut Conn, env: &mut Env) {
        for (room, (epoch, seq)) in self.places.clone() {
            let lost = if env.rng.u8(..3) == 0 { env.rng.u64(..seq.clamp(1, 6)) } else { 0 };
            let start = Start::Since { seq: seq - lost, epoch: Some(epoch) };
            let command = Command::Join { room: room.to_string().into(), start };
            self.ask(conn, Asked::Join { room, start, real: true }, command, env);
        }
    }

    fn leave_some(&mut self, conn: &mut Conn, env: &mut Env) {
        let room = match conn.joined.keys().next() {
            Some(room) if env.rng.u8(..4) != 0 => room.clone(),
            _ => Self::room(env),
        };
        self.leave(conn, &room, env);
    }

    fn leave(&mut self, conn: &mut Conn, room: &Arc<str>, env: &mut Env) {
        self.ask(conn, Asked::Leave { room: room.clone() }, Command::Leave { room: room.to_string().into() }, env);
    }

    fn history(&mut self, conn: &mut Conn, room: Arc<str>, env: &mut Env) {
        let head = env.oracle.head(&room);
        let seq = env.rng.u64(..=head + 2);
        let page = [Page::Newest, Page::Before(seq), Page::After(seq), Page::Around(seq)][env.rng.usize(..4)];
        let limit = [0, 1, 4, 100, 100_000][env.rng.usize(..5)];
        self.ask_page(conn, room, page, limit, env);
    }

    fn ask_page(&mut self, conn: &mut Conn, room: Arc<str>, page: Page, limit: u32, env: &mut Env) {
        let command = Command::history(room.to_string(), page, limit);
        self.ask(conn, Asked::History { room, page, limit }, command, env);
    }

    /// Asks for a page from outside; the answer is in [`Client::page`].
    pub fn look_up(&mut self, room: &Arc<str>, page: Page, env: &mut Env) {
        let mut conn = self.conn.take().expect("it is connected");
        self.page = None;
        self.ask_page(&mut conn, room.clone(), page, u32::MAX, env);
        self.conn = Some(conn);
    }

    /// The connection breaks without a word.
    pub fn vanish(&mut self, conn: &Conn, env: &mut Env) {
        env.trace.add(|| format!("client {} vanishes from {:?}", self.index, conn.id));
        let socket = env.sockets.get_mut(&conn.id).expect("the client keeps its socket");
        socket.client_gone = true;
        socket.down.clear();
        // What it said last may or may not arrive.
        socket.up.truncate(env.rng.usize(..=socket.up.len()));
        if socket.server_closed {
            env.sockets.remove(&conn.id);
        }
    }

    /// A client that never ends its handshake, or was told that it is closed, and does not care.
    pub fn babble(&mut self, env: &mut Env) {
        if let Some(conn) = &mut self.conn
            && conn.rude
            && env.clock.us >= conn.babbled_us + BABBLE_US
        {
            conn.babbled_us = env.clock.us;
            if conn.heard_close {
                conn.frame(Opcode::Ping, b"?", env);
            } else if conn.is_mute() {
                conn.push(b"x", env);
            }
        }
    }

    /// Ends a flood that would go on for longer than anybody waits.
    pub fn cease(&mut self, env: &mut Env) {
        if let Some(conn) = self.conn.take_if(|conn| conn.floods) {
            env.sockets.get_mut(&conn.id).expect("the client keeps its socket").up.clear();
            self.vanish(&conn, env);
        }
    }

    /// Ends the connection from outside.
    pub fn go(&mut self, env: &mut Env) {
        if let Some(conn) = self.conn.take() {
            self.vanish(&conn, env);
        }
    }

    /// Far more than an honest client would say at once; in most cases nothing of it has an effect.
    fn flood(&mut self, conn: &mut Conn, env: &mut Env) {
        // Its close frame would wait behind all that it said: none is waited for.
        if env.rng.u8(..4) == 0 {
            (conn.misbehaved, conn.floods, conn.rude) = (true, true, true);
            for _ in 0..env.rng.u32(1..=400) {
                let room = Self::room(env);
                self.history(conn, room, env);
            }
            return;
        }
        if env.rng.u8(..4) != 0 {
            return;
        }
        (conn.misbehaved, conn.rude) = (true, true);
        let count = 3000;
        let limit = env.plan.limits.frame_bytes_max;
        match env.rng.u8(..4) {
            0 => (0..count).for_each(|_| conn.frame(Opcode::Pong, b"", env)),
            1 => conn.empty_fragments(count, env),
            2 if self.dialect == Dialect::Centrifuge => {
                (0..4).for_each(|_| conn.frame(Opcode::Text, "{}".repeat(limit / 2).as_bytes(), env));
            }
            _ => (0..count).for_each(|_| conn.frame(Opcode::Ping, b"?", env)),
        }
    }

    fn misbehave(&mut self, conn: &mut Conn, env: &mut Env) {
        if env.rng.u8(..4) != 0 {
            return;
        }
        conn.misbehaved = true;
        let opcode = if self.dialect == Dialect::Centrifuge { Opcode::Text } else { Opcode::Binary };
        let size = if env.rng.bool() { 10 } else { env.plan.limits.frame_bytes_max + 1 };
        match env.rng.u8(..3) {
            // A block of the reserved kind.
            0 if conn.deflates => conn.corrupt(opcode, &[0xff; 10], env),
            1 if conn.deflates => conn.bomb(opcode, size, env),
            _ => conn.frame(opcode, "{".repeat(size).as_bytes(), env),
        }
    }
}
