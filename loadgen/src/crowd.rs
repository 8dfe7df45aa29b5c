//! The users of one thread and all they say and hear. No I/O: it takes events and leaves actions.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::io;

use protocol::ErrorCode;
use protocol::frame::{Incoming, Opcode, write_masked};
use protocol::handshake::{self, Response};
use protocol::native::{Packed, Received};

use crate::faults::Faults;
use crate::latency::Latencies;
use crate::plan::{Agenda, Due};
use crate::room::{Reference, Room};
use crate::sends::Answer;
use crate::target::{CONNECT, FIRST_PUBLISH, JOIN, Publish};
use crate::text;
use crate::user::{Phase, User};
use crate::verify::Ledger;
use crate::world::World;

/// A server that asks for a retry without naming a time gets it after this long.
const RETRY_NS: u64 = 10_000_000;
/// Any mask is as good as another for a load tool's own traffic.
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// What the caller has to do for a user (by its place).
#[derive(Debug)]
pub enum Action {
    Send(u32, Vec<u8>),
    Close(u32),
}

/// Totals over the whole run.
#[derive(Debug, Clone, Copy, Default, serde::Serialize)]
pub struct Counts {
    pub joined: u64,
    /// Users whose connection failed or ended, and those of them that had not joined.
    pub failed: u64,
    pub never_joined: u64,
    pub sent: u64,
    pub acked: u64,
    /// Sent again because the server said it was busy or did not know the outcome.
    pub retried: u64,
    /// Due when their user's connection was gone.
    pub unsent: u64,
    /// Batches received, pieces of bytes received (about one for each send of the server), bytes.
    pub frames: u64,
    pub chunks: u64,
    pub bytes: u64,
}

/// Users `first`, `first + step`, `first + 2 step`… of the plan.
pub struct Crowd<'w> {
    world: &'w World,
    first: u32,
    step: u32,
    pub users: Vec<User>,
    pub rooms: Vec<Room>,
    pub ledger: Ledger,
    pub times: Latencies,
    pub counts: Counts,
    pub faults: Faults,
    pub agenda: Agenda,
    pub actions: Vec<Action>,
    /// Messages sent and not answered, over all users.
    in_flight: u64,
    /// Bytes of answers to a handshake that have not all come.
    heads: HashMap<u32, Vec<u8>, foldhash::fast::FixedState>,
    /// Messages to be sent again: (when, user's place, k).
    retries: BinaryHeap<Reverse<(u64, u32, u32)>>,
    /// Frames received in this turn whose times are not recorded yet: (room, first seq).
    frames_heard: Vec<(u32, u64)>,
    body: String,
}

impl Counts {
    /// Adds another thread's counts.
    pub fn add(&mut self, other: &Self) {
        self.joined += other.joined;
        self.failed += other.failed;
        self.never_joined += other.never_joined;
        self.sent += other.sent;
        self.acked += other.acked;
        self.retried += other.retried;
        self.unsent += other.unsent;
        self.frames += other.frames;
        self.chunks += other.chunks;
        self.bytes += other.bytes;
    }
}

impl<'w> Crowd<'w> {
    /// The users of thread `first` of `step` threads.
    pub fn new(world: &'w World, first: u32, step: u32) -> Self {
        let numbers: Vec<u32> = (first..world.plan.shape.users).step_by(step as usize).collect();
        let users = numbers.iter().map(|&number| User::new(world.plan.room_of(number))).collect();
        Self {
            world,
            first,
            step,
            users,
            rooms: (0..world.plan.sizes.len()).map(|room| Room::new(room as u32)).collect(),
            ledger: Ledger::default(),
            times: Latencies::default(),
            counts: Counts::default(),
            faults: Faults::default(),
            agenda: Agenda::new(&world.plan, numbers),
            actions: Vec::new(),
            in_flight: 0,
            heads: HashMap::default(),
            retries: BinaryHeap::new(),
            frames_heard: Vec::new(),
            body: String::new(),
        }
    }

    /// The plan's number of the user at this place.
    pub fn number(&self, place: u32) -> u32 {
        place * self.step + self.first
    }

    /// Messages not sent yet, or sent and not answered.
    pub fn outstanding(&self) -> u64 {
        self.agenda.left() + self.in_flight
    }

    /// Members that have not reached their room's highest acked seq.
    pub fn behind(&self) -> u64 {
        let waits = |user: &&User| user.phase == Phase::Joined && user.next_seq <= self.world.sends.highest(user.room);
        self.users.iter().filter(waits).count() as u64
    }

    /// When something has to be sent next, nanoseconds of the run's clock.
    pub fn next_send_ns(&self) -> Option<u64> {
        let due = self.agenda.peek().map(|due| self.world.t0_ns() + due.intended_ns);
        let again = self.retries.peek().map(|Reverse((at_ns, ..))| *at_ns);
        due.into_iter().chain(again).min()
    }

    /// The TCP connection stands, or not.
    pub fn on_connected(&mut self, place: u32, outcome: io::Result<()>) {
        if let Err(error) = outcome {
            return self.fail(place, format!("connect: {error}"));
        }
        let World { authority, path, target, .. } = self.world;
        let mut head = Vec::with_capacity(256);
        let key = self.world.handshake_key(self.number(place));
        handshake::request(authority, path, target.subprotocol(), false, key, &mut head);
        self.users[place as usize].phase = Phase::Handshaking;
        self.actions.push(Action::Send(place, head));
    }

    /// Bytes came. `now_ns` is the time of this turn.
    pub fn on_received(&mut self, place: u32, input: &mut [u8], now_ns: u64) {
        self.counts.chunks += 1;
        self.counts.bytes += input.len() as u64;
        match self.users[place as usize].phase {
            Phase::Handshaking => self.on_head(place, input, now_ns),
            Phase::Joining | Phase::Joined => self.decode(place, input, now_ns),
            Phase::Idle | Phase::Connecting | Phase::Ended => {}
        }
    }

    /// The connection is over.
    pub fn on_ended(&mut self, place: u32, error: Option<io::Error>) {
        let why = error.map_or_else(|| "without a close frame".to_owned(), |error| error.to_string());
        self.fail(place, format!("connection ended: {why}"));
    }

    /// Records the times of what was received in the turn that ends.
    pub fn end_turn(&mut self, now_ns: u64) {
        let t0_ns = self.world.t0_ns();
        for (room, first) in self.frames_heard.drain(..) {
            self.rooms[room as usize].record_frame(first, now_ns, &self.world.plan, t0_ns, &mut self.times);
        }
    }

    /// Sends everything that is due. Late messages are sent late, none is skipped.
    pub fn send_due(&mut self, now_ns: u64) {
        while let Some(&Reverse((at_ns, place, k))) = self.retries.peek()
            && at_ns <= now_ns
        {
            self.retries.pop();
            if self.users[place as usize].phase == Phase::Joined {
                self.counts.retried += 1;
                self.publish(place, k);
            }
        }
        let t0_ns = self.world.t0_ns();
        while let Some(due) = self.agenda.take_due(&self.world.plan, now_ns.saturating_sub(t0_ns)) {
            self.send(due, t0_ns);
        }
    }

    fn send(&mut self, due: Due, t0_ns: u64) {
        let place = (due.user - self.first) / self.step;
        let user = &mut self.users[place as usize];
        if user.phase != Phase::Joined {
            self.counts.unsent += 1;
            return;
        }
        user.in_flight += 1;
        self.in_flight += 1;
        self.counts.sent += 1;
        let now_ns = self.world.now_ns();
        self.world.sends.sent(due.user, due.k, now_ns);
        if self.world.plan.is_measured(due.intended_ns) {
            self.times.send_delay.record(now_ns.saturating_sub(t0_ns + due.intended_ns));
        }
        self.publish(place, due.k);
    }

    fn publish(&mut self, place: u32, k: u32) {
        let number = self.number(place);
        self.body.clear();
        text::write_body(self.world.plan.shape.seed, number, k, &mut self.body);
        let key = format!("{}.{number}.{k}", self.world.run_id);
        let room = &self.world.room_names[self.users[place as usize].room as usize];
        let mut bytes = Vec::with_capacity(self.body.len() + 128);
        self.world.target.publish(&Publish { k, room, body: &self.body, key: &key }, MASK, &mut bytes);
        self.actions.push(Action::Send(place, bytes));
    }

    fn on_head(&mut self, place: u32, input: &mut [u8], now_ns: u64) {
        let key = self.world.handshake_key(self.number(place));
        if let Some(mut head) = self.heads.remove(&place) {
            head.extend_from_slice(input);
            return self.read_head(place, key, &mut head, now_ns);
        }
        self.read_head(place, key, input, now_ns);
    }

    fn read_head(&mut self, place: u32, key: [u8; 16], input: &mut [u8], now_ns: u64) {
        match handshake::read_response(input, key, false) {
            Response::Partial => {
                self.heads.insert(place, input.to_vec());
            }
            Response::Refused(why) => self.fail(place, format!("handshake: {why}")),
            Response::Accepted { used, .. } => {
                let name = format!("u{}", self.number(place));
                let user = &mut self.users[place as usize];
                self.times.connect.record(now_ns.saturating_sub(user.step_ns));
                (user.phase, user.step_ns) = (Phase::Joining, now_ns);
                let mut bytes = Vec::with_capacity(256);
                self.world.target.hello(&name, &self.world.room_names[user.room as usize], MASK, &mut bytes);
                self.actions.push(Action::Send(place, bytes));
                self.decode(place, &mut input[used..], now_ns);
            }
        }
    }

    fn decode(&mut self, place: u32, input: &mut [u8], now_ns: u64) {
        let mut decoder = self.users[place as usize].take_decoder();
        let mut at = 0;
        let outcome = loop {
            match decoder.next(&mut input[at..]) {
                Ok((_, None)) => break Ok(()),
                Ok((used, Some(message))) => {
                    at += used;
                    self.on_message(place, &message, now_ns);
                }
                Err(error) => break Err(error),
            }
        };
        self.users[place as usize].decoder = decoder;
        if let Err(error) = outcome {
            self.fail(place, format!("the server broke the WebSocket protocol: {error}"));
        }
    }

    fn on_message(&mut self, place: u32, message: &Incoming<'_>, now_ns: u64) {
        match message {
            Incoming::Binary(payload) => match self.world.target.read(payload) {
                Ok((tag, event)) => self.on_event(place, tag, &event, now_ns),
                Err(error) => self.fail(place, format!("unreadable event: {error}")),
            },
            Incoming::Ping(payload) => {
                let mut pong = Vec::with_capacity(payload.len() + 14);
                write_masked(Opcode::Pong, payload, MASK, &mut pong);
                self.actions.push(Action::Send(place, pong));
            }
            Incoming::Pong(_) => {}
            Incoming::Text(_) => self.fail(place, "a text message from a binary dialect".to_owned()),
            Incoming::Deflated { .. } => self.fail(place, "a compressed message that was not agreed".to_owned()),
            Incoming::Close { code, reason } => {
                let code = code.map_or_else(|| "no code".to_owned(), |code| code.to_string());
                self.fail(place, format!("closed by the server: {code} {reason}"));
            }
        }
    }

    fn on_event(&mut self, place: u32, tag: u32, event: &Received<'_>, now_ns: u64) {
        match *event {
            Received::Batch { room, ref messages } => self.on_batch(place, room, messages, now_ns),
            Received::Acked { seq, .. } => self.on_acked(place, tag, seq, now_ns),
            Received::Joined { from, .. } => self.on_joined(place, from, now_ns),
            Received::Gap { from, to, .. } => {
                let number = self.number(place);
                self.ledger.on_gap(number, &mut self.users[place as usize].next_seq, from, to);
            }
            Received::Error { code, message, retry_after_ms } => {
                self.on_error(place, tag, code, message, u64::from(retry_after_ms), now_ns);
            }
            Received::GoingAway { reason, .. } => self.faults.count(format!("the server goes away: {reason}")),
            Received::Connected { .. } | Received::Pong => {}
            Received::History { .. } | Received::Left { .. } => {
                self.faults.count("a reply to a command that was not sent".to_owned());
            }
        }
    }

    fn on_joined(&mut self, place: u32, from: u64, now_ns: u64) {
        let user = &mut self.users[place as usize];
        if user.phase != Phase::Joining {
            return self.faults.count("joined twice".to_owned());
        }
        self.times.join.record(now_ns.saturating_sub(user.step_ns));
        (user.phase, user.next_seq) = (Phase::Joined, from + 1);
        self.rooms[user.room as usize].on_join(from);
        self.counts.joined += 1;
    }

    fn on_batch(&mut self, place: u32, room: &str, batch: &Packed<'_>, now_ns: u64) {
        self.counts.frames += 1;
        let number = self.number(place);
        let user = &mut self.users[place as usize];
        if user.phase != Phase::Joined || room != self.world.room_names[user.room as usize] {
            return self.faults.count(format!("a batch of {room:?}, where the user is not"));
        }
        let World { plan, sends, .. } = self.world;
        let t0_ns = self.world.t0_ns();
        let log = &mut self.rooms[user.room as usize];
        let known = match log.check(batch, &Reference { plan, sends }) {
            Ok(known) => known,
            Err(error) => return self.faults.count(format!("unreadable batch: {error}")),
        };
        let fresh = self.ledger.on_batch(number, &mut user.next_seq, batch.first_seq, batch.count);
        if !known || fresh.end - fresh.start < u64::from(batch.count) {
            log.record(fresh, now_ns, plan, t0_ns, &mut self.times);
        } else if log.count_receiver(batch.first_seq) {
            self.frames_heard.push((user.room, batch.first_seq));
        }
    }

    fn on_acked(&mut self, place: u32, tag: u32, seq: u64, now_ns: u64) {
        let Some(k) = self.message_of(place, tag) else {
            return self.faults.count("an ack of nothing that was sent".to_owned());
        };
        let (number, room) = (self.number(place), self.users[place as usize].room);
        match self.world.sends.answer(number, k, room, Answer::Acked(seq)) {
            Answer::Open => {
                self.answered(place);
                self.counts.acked += 1;
                let intended_ns = self.world.plan.intended_ns(number, k);
                if self.world.plan.is_measured(intended_ns) {
                    self.times.ack.record(now_ns.saturating_sub(self.world.t0_ns() + intended_ns));
                }
            }
            Answer::Acked(before) if before == seq => self.faults.count("a message was acked twice".to_owned()),
            _ => self.faults.count("a message was answered twice, differently".to_owned()),
        }
    }

    fn on_error(&mut self, place: u32, tag: u32, code: ErrorCode, message: &str, retry_ms: u64, now_ns: u64) {
        if tag == CONNECT || tag == JOIN {
            return self.fail(place, format!("could not join: {code} ({message})"));
        }
        let Some(k) = self.message_of(place, tag) else {
            return self.faults.count(format!("error: {code} ({message})"));
        };
        let again = matches!(code, ErrorCode::Busy | ErrorCode::RateLimited | ErrorCode::Unknown) || retry_ms > 0;
        if again {
            let wait_ns = if retry_ms > 0 { retry_ms * 1_000_000 } else { RETRY_NS };
            return self.retries.push(Reverse((now_ns + wait_ns, place, k)));
        }
        self.faults.count(format!("publish refused: {code} ({message})"));
        let (number, room) = (self.number(place), self.users[place as usize].room);
        if self.world.sends.answer(number, k, room, Answer::Refused) == Answer::Open {
            self.answered(place);
        }
    }

    /// The k that a reply's tag names, if that message was sent.
    fn message_of(&self, place: u32, tag: u32) -> Option<u32> {
        let k = tag.checked_sub(FIRST_PUBLISH)?;
        self.world.sends.sent_ns(self.number(place), k).map(|_| k)
    }

    fn answered(&mut self, place: u32) {
        let user = &mut self.users[place as usize];
        user.in_flight = user.in_flight.saturating_sub(1);
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// Ends a user for good. Its unanswered messages stay open and are not waited for.
    pub fn fail(&mut self, place: u32, why: String) {
        let user = &mut self.users[place as usize];
        let before = std::mem::replace(&mut user.phase, Phase::Ended);
        if before == Phase::Ended {
            return;
        }
        self.in_flight -= u64::from(std::mem::take(&mut user.in_flight));
        self.counts.failed += 1;
        self.counts.never_joined += u64::from(before != Phase::Joined);
        self.heads.remove(&place);
        self.faults.count(why);
        if before != Phase::Idle {
            self.actions.push(Action::Close(place));
        }
    }

    /// Closes the books: what a member never got, up to its room's highest acked seq, is lost.
    pub fn settle(&mut self) {
        for place in 0..self.users.len() as u32 {
            let number = self.number(place);
            let user = &mut self.users[place as usize];
            let highest = self.world.sends.highest(user.room);
            self.ledger.on_end(number, &mut user.next_seq, highest);
        }
    }
}

#[cfg(test)]
mod tests;
