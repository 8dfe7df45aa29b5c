//! A simulated client: what it does, and that what it hears keeps every promise.

mod acts;
mod conn;

use std::collections::BTreeMap;
use std::mem;
use std::sync::Arc;

use protocol::frame::{Decoder, Incoming, Opcode, Role};
use protocol::handshake::{self, Response};
use protocol::{Command, Dialect, ErrorCode, Page, Start};

use self::conn::{Asked, Conn, Name, Place};
use crate::env::Env;
use crate::speech::{self, Heard, Line};

/// A message in a frame has at most so many bytes beside its body.
const MESSAGE_BYTES: usize = 100;
/// A lane that takes so few messages a turn may be full, and what the tail has lost meanwhile never arrives.
const SHORT_LANE: usize = 64;
/// A core keeps no frames for longer, milliseconds, give or take a second.
const KEEP_MS: u64 = 58_000;

/// A device that chats.
pub struct Client {
    pub index: usize,
    user: String,
    pub dialect: Dialect,
    pub conn: Option<Conn>,
    /// The last seq it has of each room, over all connections, with the epoch.
    places: BTreeMap<Arc<str>, (u64, u64)>,
    /// The highest seq of each room that it was told of in any way.
    known: BTreeMap<Arc<str>, u64>,
    /// Bodies of messages with a key, to be repeated.
    repeatable: Vec<Vec<u8>>,
    published: u32,
    stalled: bool,
    /// Everything it asked for has reached the relay and is answered before a stop.
    pub owed: bool,
    /// The last page of history that it asked for: its head and last seq.
    pub page: Option<(u64, u64)>,
}

impl Client {
    pub fn new(index: usize, users: usize, dialect: Dialect) -> Self {
        Self {
            index,
            user: format!("user-{}", index % users),
            dialect,
            conn: None,
            places: BTreeMap::new(),
            known: BTreeMap::new(),
            repeatable: Vec::new(),
            published: 0,
            stalled: false,
            owed: false,
            page: None,
        }
    }

    /// Reads some of what has arrived (all of it when calm) and answers what needs an answer.
    pub fn read(&mut self, env: &mut Env) {
        let Some(conn) = &self.conn else { return };
        let socket = env.sockets.get_mut(&conn.id).expect("the client keeps its socket");
        if socket.down.is_empty() && !socket.server_closed {
            return;
        }
        let Some(mut conn) = self.conn.take() else { return };
        let count = if env.calm { socket.down.len() } else { env.rng.usize(..=socket.down.len()) };
        let mut bytes: Vec<u8> = socket.down.drain(..count).collect();
        let is_refused = socket.refused;
        let over = socket.server_closed && socket.down.is_empty();
        if let Some(mut head) = conn.head.take() {
            head.append(&mut bytes);
            match handshake::read_response(&head, conn.key, conn.offers_deflate) {
                Response::Accepted { used, deflate } => {
                    assert!(deflate == conn.offers_deflate, "client {} offered deflate: {deflate}", self.index);
                    if deflate {
                        conn.decoder = Decoder::new(Role::Client, 1 << 30).with_deflate();
                        conn.deflates = true;
                    }
                    bytes = head.split_off(used);
                }
                Response::Partial => conn.head = Some(head),
                Response::Refused(why) => {
                    let is_late = why.contains("408");
                    assert!(conn.misbehaved || is_refused || is_late, "the handshake was refused: {why}");
                    env.meet(if is_late { "a handshake that took too long" } else { "a refused handshake" });
                    conn.head = Some(head);
                    conn.misbehaved = true;
                }
            }
        }
        if conn.head.is_none() {
            self.decode(&mut conn, &mut bytes, env);
        }
        if over {
            env.trace.add(|| format!("client {} lost {:?}", self.index, conn.id));
            env.sockets.remove(&conn.id);
        } else {
            self.conn = Some(conn);
        }
    }

    fn decode(&mut self, conn: &mut Conn, bytes: &mut [u8], env: &mut Env) {
        let mut decoder = mem::replace(&mut conn.decoder, Decoder::new(Role::Client, 0));
        let mut at = 0;
        loop {
            let (used, incoming) = match decoder.next(&mut bytes[at..]) {
                Ok(next) => next,
                Err(error) => panic!("invariant 6, streams stay whole: client {} got {error}", self.index),
            };
            at += used;
            let Some(incoming) = incoming else { break };
            assert!(!conn.heard_close, "invariant 6: {incoming:?} follows a close frame");
            self.take(conn, &incoming, env);
        }
        conn.decoder = decoder;
    }

    fn take(&mut self, conn: &mut Conn, incoming: &Incoming<'_>, env: &mut Env) {
        match incoming {
            Incoming::Ping(payload) => {
                if !conn.said_close {
                    conn.frame(Opcode::Pong, payload, env);
                }
            }
            Incoming::Pong(_) => assert!(conn.misbehaved, "invariant 8: a pong without a ping"),
            Incoming::Close { code, reason } => {
                env.trace.add(|| format!("client {} hears close {code:?} {reason}", self.index));
                self.heard_close(conn, code.unwrap_or(1005), env);
            }
            Incoming::Deflated { opcode, payload } => {
                let mut inflater = env.inflater.take().unwrap_or_default();
                let inflated = inflater.inflate(*opcode, payload, 1 << 30);
                self.take(conn, &inflated.expect("invariant 6: what is deflated can be inflated"), env);
                env.inflater = Some(inflater);
                env.meet("a deflated message");
            }
            message => {
                let dialect = self.dialect;
                speech::hear(dialect, message, |tag, heard| self.hear(conn, tag, heard, env));
            }
        }
    }

    fn heard_close(&mut self, conn: &mut Conn, code: u16, env: &mut Env) {
        let is_known = match code {
            1000 => conn.said_close,
            1001 => true,
            4000 | 3012 => {
                env.meet("closed as idle");
                true
            }
            4001 | 3008 => {
                env.meet("closed as a slow consumer");
                true
            }
            4004 | 3013 => {
                env.meet("closed as a flood");
                conn.misbehaved
            }
            1013 | 3011 => {
                env.meet("closed half-way");
                true
            }
            4005 | 3502 => {
                env.meet("closed before it connected");
                conn.waiting.contains_key(&1)
            }
            1002 | 1007 | 1009 | 3501 | 4002 => conn.misbehaved,
            _ => false,
        };
        assert!(is_known, "client {} was closed with {code} and did nothing wrong", self.index);
        conn.heard_close = true;
        let is_answered = conn.waiting.is_empty() || conn.misbehaved || code != 1001;
        assert!(is_answered || !self.owed, "client {}: a stop left {:?} unanswered", self.index, conn.waiting);
        conn.waiting.clear();
        conn.joined.clear();
        if !conn.said_close && !conn.rude {
            conn.said_close = true;
            conn.frame(Opcode::Close, &code.to_be_bytes(), env);
        }
    }

    fn hear(&mut self, conn: &mut Conn, tag: u32, heard: Heard<'_>, env: &mut Env) {
        env.trace.add(|| format!("client {} hears {tag} {}", self.index, heard.brief()));
        match heard {
            Heard::Batch { room, lines } => return self.batch(conn, &room, &lines, env),
            Heard::Gap { room, from, to } => return self.gap(conn, room, from, to, env),
            Heard::Unsubscribed { room, code } => {
                assert!(code == 2500, "unsubscribed with {code}");
                let was = conn.joined.remove(&*room);
                assert!(was.is_some(), "invariant 5: unsubscribed from {room}, which it is not in");
                return env.meet("a gap that ends a membership");
            }
            Heard::Ping => return conn.request(self.dialect, 0, Command::Pong, env),
            Heard::GoingAway => return env.meet("going away"),
            Heard::Refused { code } if tag == 0 => {
                assert!(code == ErrorCode::BadRequest && conn.misbehaved, "refused without a request: {code:?}");
                return;
            }
            _ => {}
        }
        let Some(asked) = conn.waiting.remove(&tag) else {
            panic!("invariant 8, one reply for a request: client {} hears {tag} {heard:?}", self.index)
        };
        if !conn.is_refused_at_the_door(&asked, &heard, &env.plan.limits) {
            let overtaken = conn.overtaken(tag, &asked, &env.oracle);
            assert!(
                overtaken.is_none(),
                "invariant 12, commands on a room take effect in order: client {} hears of {tag} {asked:?} before {overtaken:?}",
                self.index
            );
        }
        match (asked, heard) {
            (asked, Heard::Refused { code }) => self.refused(conn, asked, code, env),
            (Asked::Connect, Heard::Connected { user, client }) => {
                assert!(user == self.user && client == conn.client.to_string(), "taken for {user}, client {client}");
            }
            (
                Asked::Join { room, start, real },
                Heard::Joined { room: named, epoch, from, head, recovering, recovered },
            ) => {
                assert!(named.is_none_or(|named| named == &*room), "joined {named:?} instead of {room}");
                assert!(epoch == env.oracle.epoch, "invariant 3: the epoch of {room} is {epoch:x}");
                assert!(recovering == matches!(start, Start::Since { .. }), "recovering is {recovering} for {start:?}");
                check_start(start, real, (from, head, recovered), &room, env);
                self.places.insert(room.clone(), (epoch, from));
                self.know(&room, head.unwrap_or(from));
                conn.told_head(&room, head.unwrap_or(from));
                let place = Place { last: from, promised: head.unwrap_or(from) };
                assert!(conn.joined.insert(room.clone(), place).is_none(), "joined {room} twice");
            }
            (Asked::Leave { room }, Heard::Left) => {
                let was_in_it = conn.joined.remove(&room).is_some();
                assert!(was_in_it || self.dialect.leaves_twice(), "left {room} without being in it");
                if conn.waiting.values().any(|other| other.room(&env.oracle) == Some(&room)) {
                    env.meet("a leave with something behind it");
                }
            }
            (Asked::Publish(Name(body)), Heard::Acked { seq, id }) => {
                env.oracle.acked(&body, seq, id);
                let sent = env.oracle.sent(&body);
                self.know(&sent.room, seq);
                if sent.is_first_attempt() {
                    conn.told_ack(&sent.room, (tag, seq));
                }
            }
            (Asked::Publish(Name(body)), Heard::KeyTaken { seq, id }) => {
                env.meet("a key of another message");
                env.oracle.key_taken(&body, seq, id);
                self.know(&env.oracle.sent(&body).room, seq);
            }
            (Asked::Info { room }, Heard::Info { epoch, head, members, people }) => {
                assert!(epoch == env.oracle.epoch, "invariant 3: the epoch of {room} is {epoch:x}");
                let acked = conn.told.get(&room).map_or(0, |told| told.acked.1);
                assert!(head >= acked, "invariant 12: info of {room} ends at {head}, before {acked}");
                let is_member = u32::from(conn.joined.contains_key(&room));
                assert!(
                    people >= is_member && people <= members,
                    "invariant 12: {members} members and {people} people are in {room}, where this client is {is_member}"
                );
                conn.told_head(&room, head);
                env.meet("what goes on in a room");
            }
            (Asked::History { room, page, limit }, Heard::History { epoch, head, mut lines }) => {
                if self.dialect == Dialect::Centrifuge && page == Page::Newest {
                    lines.reverse();
                }
                assert!(epoch == env.oracle.epoch, "invariant 3: the epoch of {room} is {epoch:x}");
                let limit = u64::from(limit.min(env.plan.limits.history_messages_max));
                env.oracle.check_page(&room, page, (limit, env.plan.limits.history_bytes_max), head, &lines);
                if let (Page::After(seq), Some(line)) = (page, lines.first())
                    && line.seq > seq + 1
                {
                    env.meet("a page that begins with what is kept");
                }
                self.know(&room, head);
                let acked = conn.told.get(&room).map_or(0, |told| told.acked.1);
                assert!(
                    head >= acked,
                    "invariant 12, commands on a room take effect in order: history of {room} ends at {head}, before {acked}"
                );
                conn.told_head(&room, head);
                self.page = Some((head, lines.last().map_or(head, |line| line.seq)));
            }
            (Asked::Ping, Heard::Pong) => {}
            (asked, heard) => panic!("invariant 8: {asked:?} is answered by {heard:?}"),
        }
    }

    fn know(&mut self, room: &Arc<str>, seq: u64) {
        let known = self.known.entry(room.clone()).or_default();
        *known = seq.max(*known);
    }

    fn batch(&mut self, conn: &mut Conn, room: &str, lines: &[Line<'_>], env: &mut Env) {
        assert!(!lines.is_empty(), "a batch of nothing");
        for line in lines {
            let Some(Place { last, .. }) = conn.joined.get_mut(room) else {
                panic!("invariant 5: client {} hears {line:?} of {room}, which it is not in", self.index)
            };
            let next = *last + 1;
            assert!(
                line.seq == next,
                "invariant 5, no silent gap: client {} waits for {next} of {room} and hears {}",
                self.index,
                line.seq
            );
            *last = line.seq;
            env.oracle.delivered(room, line);
            if line.client.as_ref().is_some_and(|client| !client.is_empty()) {
                env.meet("a message that names its client");
            }
            self.places.insert(room.into(), (env.oracle.epoch, line.seq));
        }
        *env.met.entry("a delivery").or_default() += lines.len() as u64;
    }

    fn gap(&mut self, conn: &mut Conn, room: &str, from: u64, to: u64, env: &mut Env) {
        env.meet("a gap");
        let durable = env.oracle.head(room);
        let Some(place) = conn.joined.get_mut(room) else { panic!("invariant 5: a gap of {room}, which it is not in") };
        let is_exact = from == place.last + 1 && to >= from && to <= durable;
        assert!(is_exact, "invariant 5: a gap {from}..={to} of {room} after {place:?}, {durable} being durable");
        place.last = to;
        if from <= place.promised {
            let dropped = may_be_dropped(room, from, env);
            env.meet(if dropped { "a gap in what was promised" } else { "a gap in what was promised and kept" });
        }
        self.places.insert(room.into(), (env.oracle.epoch, to));
    }

    fn refused(&mut self, conn: &mut Conn, asked: Asked, code: ErrorCode, env: &mut Env) {
        use ErrorCode as E;
        let overloaded =
            matches!(code, E::Busy | E::Unavailable) || (self.dialect == Dialect::Centrifuge && code == E::Unknown);
        let limits = &env.plan.limits;
        let is_known = match &asked {
            Asked::Publish(Name(body)) => match code {
                E::RateLimited | E::Unknown => true,
                E::TooLarge => body.len() > limits.body_bytes_max,
                _ => overloaded,
            },
            Asked::Join { room, .. } => match code {
                E::RateLimited => true,
                E::Already => conn.joined.contains_key(room),
                E::TooManyRooms | E::TooLarge => {
                    conn.joined.len() + conn.waiting.len() + 1 >= limits.rooms_per_session_max
                }
                _ => overloaded,
            },
            Asked::Leave { room } if code == E::NotJoined => !conn.joined.contains_key(room),
            Asked::Leave { .. } => code == E::Busy && conn.may_be_at_its_share(&asked, limits),
            Asked::History { .. } | Asked::Info { .. } => overloaded || code == E::RateLimited,
            Asked::Connect | Asked::Ping => false,
        };
        assert!(is_known, "client {}: {asked:?} was refused with {code:?}", self.index);
        env.meet(match code {
            E::Busy => "busy",
            E::RateLimited => "rate limited",
            E::Unknown => "outcome unknown",
            E::Unavailable => "storage unavailable",
            E::TooLarge => "too large",
            E::TooManyRooms => "too many rooms",
            _ => "another refusal",
        });
        if let Asked::Publish(Name(body)) = asked
            && code != E::Unknown
        {
            env.oracle.refused(&body);
        }
    }

    /// Its connection may never answer the relay's close frame.
    pub fn is_rude(&self) -> bool {
        self.conn.as_ref().is_some_and(|conn| conn.rude)
    }

    /// Invariants 7 and 8, when everything has arrived that will.
    pub fn check_calm(&self, env: &mut Env) {
        let Some(conn) = &self.conn else { return };
        assert!(!conn.heard_close, "client {} was told that it is closed, and is not", self.index);
        let is_over = conn.is_mute() && env.plan.limits.connect_timeout_ms <= 1000;
        assert!(!is_over, "client {} is still in its handshake", self.index);
        assert!(
            conn.waiting.is_empty() || conn.said_close || conn.misbehaved,
            "invariant 8: client {} still waits for {:?}",
            self.index,
            conn.waiting
        );
        for (room, Place { last, .. }) in &conn.joined {
            let head = env.oracle.head(room);
            assert!(*last == head, "invariant 7: client {} is at {last} of {room}, which ends at {head}", self.index);
        }
    }
}

/// Frames of message `from` and all after it are more than a core keeps, or too old, or the core never got them.
fn may_be_dropped(room: &str, from: u64, env: &mut Env) -> bool {
    let head = env.oracle.head(room);
    let messages = (head + 1 - from) as usize;
    let frames_bytes = env.oracle.bodies_bytes(room, from, head) + messages * MESSAGE_BYTES;
    let time_ms = env.oracle.log(room)[from as usize - 1].time_ms;
    let limits = &env.plan.limits;
    let was_cut_off = limits.lane_messages_max <= SHORT_LANE && messages > limits.tail_messages_max;
    let is_short = limits.memory_bytes_max < 4 * limits.replies_bytes_max + (1 << 20);
    is_short || was_cut_off || frames_bytes >= limits.feed_bytes_max / 4 || env.clock.age_ms_max(time_ms) >= KEEP_MS
}

/// What a join reply may say to what was asked.
fn check_start(start: Start, real: bool, joined: (u64, Option<u64>, bool), room: &str, env: &mut Env) {
    let (from, head, recovered) = joined;
    let durable = env.oracle.head(room);
    let limits = env.plan.limits.clone();
    let bytes_max = limits.replies_bytes_max / 2;
    assert!(from <= durable && head.is_none_or(|head| head <= durable), "invariant 2: {room} is joined past its end");
    match start {
        Start::Recent(n) => {
            let n = u64::from(n.min(limits.history_messages_max));
            let Some(head) = head else { return assert!(!recovered, "{room}: {start:?} recovered") };
            let asked = head.saturating_sub(n);
            let is_short = from > asked && env.oracle.sent_bytes(room, from, head) > bytes_max;
            assert!(!recovered, "{room}: {start:?} recovered");
            assert!(
                from <= asked || is_short || from < env.oracle.kept_from(room),
                "invariant 11, what has not expired is found: {room}: {start:?} from {from} to {head}"
            );
        }
        Start::Since { seq, epoch } => {
            let known = epoch.is_none_or(|epoch| epoch == env.oracle.epoch);
            if recovered {
                assert!(known && from == seq, "{room}: recovered from {from}, asked {start:?}");
                env.meet("a recovery");
            } else {
                assert!(head.is_none_or(|head| head == from), "{room}: not recovered, from {from} to {head:?}");
                let too_far = from.saturating_sub(seq) > limits.recovery_messages_max;
                let too_much = real && env.oracle.sent_bytes(room, seq + 1, from) > bytes_max;
                let is_expired = seq + 1 < env.oracle.kept_from(room) && seq < from;
                let is_right = !known || !real || too_far || too_much || is_expired;
                assert!(is_right, "invariant 11: {room}: {start:?} was not recovered at {from}");
                env.meet(if is_expired { "a recovery of what has expired" } else { "a recovery that was refused" });
            }
        }
    }
}
