//! The users of one thread and all they say and hear. No I/O: it takes events and leaves actions.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::io;
use std::sync::atomic::Ordering::Relaxed;

use protocol::frame::{Incoming, Opcode, write_masked};
use protocol::handshake::{self, Response};
use protocol::native::{Packed, Received};

use crate::faults::Faults;
use crate::latency::Latencies;
use crate::plan::{Agenda, Plan, Role};
use crate::room::{Reference, Room};
use crate::user::{Phase, User};
use crate::verify::Ledger;
use crate::world::{Gauges, World};

mod absence;
mod chat;

/// Any mask is as good as another for a load tool's own traffic.
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// What the caller has to do for a user (by its place).
#[derive(Debug)]
pub enum Action {
    Send(u32, Vec<u8>),
    Close(u32),
}

/// What a join's reply says.
#[derive(Debug, Clone, Copy)]
struct Joined {
    epoch: u64,
    from: u64,
    head: u64,
    recovered: bool,
}

/// Totals over the whole run.
#[derive(Debug, Clone, Copy, Default, serde::Serialize)]
pub struct Counts {
    pub joined: u64,
    /// Users whose connection failed or ended.
    pub failed: u64,
    pub sent: u64,
    pub acked: u64,
    /// Sent again because the server said it was busy or did not know the outcome.
    pub retried: u64,
    /// Due when their user's connection was gone for good.
    pub unsent: u64,
    /// Users that dropped out in the storm, and those of them that came back and have everything again.
    pub dropped_out: u64,
    pub caught_up: u64,
    /// Messages due while their users were away and sent when they were back, and sent before and again.
    pub sent_late: u64,
    pub republished: u64,
    /// Lines that joins asked for, and what those who came back had missed.
    pub backlog: u64,
    /// Batches received, pieces of bytes received (about one for each send of the server), bytes.
    pub frames: u64,
    pub chunks: u64,
    pub bytes: u64,
}

/// Some users of the plan.
pub struct Crowd<'w> {
    world: &'w World,
    /// Their numbers, ascending. A user's place is its index here.
    numbers: Vec<u32>,
    pub users: Vec<User>,
    pub rooms: Vec<Room>,
    pub ledger: Ledger,
    pub times: Latencies,
    pub counts: Counts,
    pub faults: Faults,
    pub agenda: Agenda,
    pub actions: Vec<Action>,
    /// Users that have begun to connect and not joined yet.
    pub connecting: u64,
    /// Messages sent, or late, and not answered, over all users.
    in_flight: u64,
    /// Up to here the agenda was worked off, nanoseconds since traffic began.
    sent_until_ns: u64,
    /// Places of users that are to drop out.
    leavers: Vec<u32>,
    /// Users that are to drop out, or have and do not have everything again.
    away: u64,
    /// By place: the seq with which a user that came back has caught up.
    catching_up: HashMap<u32, u64, foldhash::fast::FixedState>,
    /// By room, from the first join's reply; 0 before.
    epochs: Vec<u64>,
    /// Bytes of answers to a handshake that have not all come.
    heads: HashMap<u32, Vec<u8>, foldhash::fast::FixedState>,
    /// Messages (or joins) to be sent again: (when, user's place, k).
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
        self.sent += other.sent;
        self.acked += other.acked;
        self.retried += other.retried;
        self.unsent += other.unsent;
        self.dropped_out += other.dropped_out;
        self.caught_up += other.caught_up;
        self.sent_late += other.sent_late;
        self.republished += other.republished;
        self.backlog += other.backlog;
        self.frames += other.frames;
        self.chunks += other.chunks;
        self.bytes += other.bytes;
    }
}

impl<'w> Crowd<'w> {
    /// The users with these numbers, which ascend.
    pub fn new(world: &'w World, numbers: Vec<u32>) -> Self {
        let users = numbers.iter().map(|&number| User::new(world.plan.room_of(number))).collect();
        let leaves = |&place: &u32| world.plan.role_of(numbers[place as usize]) == Role::Leaver;
        let leavers: Vec<u32> = (0..numbers.len() as u32).filter(leaves).collect();
        Self {
            world,
            users,
            away: leavers.len() as u64,
            leavers,
            catching_up: HashMap::default(),
            epochs: vec![0; world.plan.sizes.len()],
            rooms: (0..world.plan.sizes.len()).map(|room| Room::new(room as u32)).collect(),
            ledger: Ledger::default(),
            times: Latencies::default(),
            counts: Counts::default(),
            faults: Faults::default(),
            agenda: Agenda::new(&world.plan, numbers.clone()),
            numbers,
            actions: Vec::new(),
            connecting: 0,
            in_flight: 0,
            sent_until_ns: 0,
            heads: HashMap::default(),
            retries: BinaryHeap::new(),
            frames_heard: Vec::new(),
            body: String::new(),
        }
    }

    /// The plan they follow.
    pub fn plan(&self) -> &'w Plan {
        &self.world.plan
    }

    /// The plan's number of the user at this place.
    pub fn number(&self, place: u32) -> u32 {
        self.numbers[place as usize]
    }

    /// Messages not sent yet, or sent and not answered.
    pub fn outstanding(&self) -> u64 {
        self.agenda.left() + self.in_flight
    }

    /// Members that have not reached their room's highest acked seq.
    pub fn behind(&self) -> u64 {
        let waits = |user: &&User| match user.phase {
            Phase::Ended => false,
            Phase::Joined => user.next_seq <= self.world.sends.highest(user.room),
            _ => user.returns,
        };
        self.users.iter().filter(waits).count() as u64
    }

    /// Shows the figures so far to the coordinator.
    pub fn show(&self, gauges: &Gauges) {
        let delivered = self.ledger.deliveries.received + self.ledger.deliveries.duplicated;
        for (gauge, value) in [
            (&gauges.joined, self.counts.joined),
            (&gauges.failed, self.counts.failed),
            (&gauges.sent, self.counts.sent),
            (&gauges.acked, self.counts.acked),
            (&gauges.delivered, delivered),
            (&gauges.chunks, self.counts.chunks),
            (&gauges.frames, self.counts.frames),
            (&gauges.bytes, self.counts.bytes),
            (&gauges.outstanding, self.outstanding()),
            (&gauges.away, self.away),
        ] {
            gauge.store(value, Relaxed);
        }
    }

    /// The user's connection is being opened.
    pub fn begin(&mut self, place: u32, now_ns: u64) {
        let user = &mut self.users[place as usize];
        (user.phase, user.step_ns) = (Phase::Connecting, now_ns);
        self.connecting += 1;
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
            Phase::Idle | Phase::Away | Phase::Connecting | Phase::Ended => {}
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
                let user = &self.users[place as usize];
                self.times.connect.record(now_ns.saturating_sub(user.step_ns));
                self.say_hello(place, now_ns);
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
            Received::Joined { epoch, from, head, recovered, .. } => {
                self.on_joined(place, Joined { epoch, from, head, recovered }, now_ns);
            }
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

    fn on_joined(&mut self, place: u32, joined: Joined, now_ns: u64) {
        let user = &mut self.users[place as usize];
        if user.phase != Phase::Joining {
            return self.faults.count("joined twice".to_owned());
        }
        user.phase = Phase::Joined;
        self.connecting -= 1;
        self.counts.backlog += joined.head.saturating_sub(joined.from);
        let epoch = &mut self.epochs[user.room as usize];
        if !matches!(std::mem::replace(epoch, joined.epoch), before if before == 0 || before == joined.epoch) {
            self.faults.count("a room changed its epoch".to_owned());
        }
        if user.returns {
            return self.on_rejoined(place, joined, now_ns);
        }
        self.times.join.record(now_ns.saturating_sub(user.step_ns));
        user.next_seq = joined.from + 1;
        self.rooms[user.room as usize].on_join(joined.from);
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
        if user.returns {
            return self.on_progress(place, now_ns);
        }
        if !known || fresh.end - fresh.start < u64::from(batch.count) {
            log.record(fresh, now_ns, plan, t0_ns, &mut self.times);
        } else if log.count_receiver(batch.first_seq) {
            self.frames_heard.push((user.room, batch.first_seq));
        }
    }

    /// Ends a user for good, for a reason that is a fault.
    pub fn fail(&mut self, place: u32, why: String) {
        if self.end(place) {
            self.counts.failed += 1;
            self.faults.count(why);
        }
    }

    /// Ends a user for good. Its unanswered messages stay open and are not waited for. False: it had ended before.
    pub fn end(&mut self, place: u32) -> bool {
        let user = &mut self.users[place as usize];
        let before = std::mem::replace(&mut user.phase, Phase::Ended);
        if before == Phase::Ended {
            return false;
        }
        self.in_flight -= u64::from(std::mem::take(&mut user.in_flight));
        self.connecting -= u64::from(matches!(before, Phase::Connecting | Phase::Handshaking | Phase::Joining));
        let has_dropped_out = user.returns;
        if has_dropped_out && (self.catching_up.remove(&place).is_some() || before != Phase::Joined) {
            self.away -= 1;
        }
        self.heads.remove(&place);
        if !matches!(before, Phase::Idle | Phase::Away) {
            self.actions.push(Action::Close(place));
        }
        true
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
