//! The users of one thread and all they say and hear. No I/O: it takes events and leaves actions.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::io;
use std::sync::atomic::Ordering::Relaxed;

use protocol::ErrorCode;
use protocol::frame::Inflater;
use protocol::handshake::{self, Response};
use protocol::native::Received;

use crate::faults::Faults;
use crate::frames::{Bytes, Frames};
use crate::latency::Latencies;
use crate::plan::{Agenda, Plan, Role};
use crate::room::Room;
use crate::unreached::{HANDSHAKE, class_of_connect};
use crate::user::{Phase, User};
use crate::verify::Ledger;
use crate::world::{Gauges, World};

mod absence;
mod chat;
mod receive;

use absence::{Absence, End};
use receive::Moment;

/// Any mask is as good as another for a load tool's own traffic.
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// What the caller has to do for a user (by its place).
#[derive(Debug)]
pub enum Action {
    Send(u32, Vec<u8>),
    Close(u32),
    /// It connects again at this time, nanoseconds of the run's clock.
    ComeBack(u32, u64),
}

/// Something that is to be sent again. The moment at which its connection began to join tells it from a later one's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Again {
    at_ns: u64,
    place: u32,
    k: u32,
    step_ns: u64,
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
    /// Answers that a message was not stored because the server was busy, or may be: each is sent again.
    pub busy: u64,
    pub unknown: u64,
    /// Answers that a user publishes too fast: of those that were there all along, and of those that came back and had
    /// much to say.
    pub rate_limited: u64,
    pub rate_limited_late: u64,
    /// Answers that the server is too busy for a join, which is sent again.
    pub joins_busy: u64,
    /// Due when their user's connection was gone for good, or for the rest of the run.
    pub unsent: u64,
    /// Users that dropped out in the storm.
    pub dropped_out: u64,
    /// Connections lost otherwise: after the server had said that it goes away, and without that; and those of the
    /// latter that ended when all did.
    pub lost_announced: u64,
    pub lost: u64,
    pub outage: u64,
    /// How many came back and had everything again, and how many users had not when the run ended.
    pub caught_up: u64,
    pub gone: u64,
    /// How long threads had a core in the measured window, and waited for one.
    pub ran_ns: u64,
    pub waited_ns: u64,
    /// Time that users were away or did not have everything again, in the measured window.
    pub absent_ns: u64,
    /// Messages due while their users were away and sent when they were back, and sent before and again.
    pub sent_late: u64,
    pub republished: u64,
    /// Lines that joins asked for, and what those who came back had missed.
    pub backlog: u64,
    /// Handshakes that agreed on permessage-deflate.
    pub deflated: u64,
    /// Batches received, pieces of bytes received (about one for each send of the server), bytes.
    pub frames: u64,
    pub chunks: u64,
    pub bytes: u64,
    /// Payloads of batches as sent and when they are not compressed, bytes.
    pub batch_bytes: u64,
    pub inflated_bytes: u64,
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
    /// Members at present.
    connected: u64,
    /// By place: who is away, or does not have everything again.
    absences: HashMap<u32, Absence, foldhash::fast::FixedState>,
    /// Why attempts to come back failed. None of it is a fault.
    pub attempts: Faults,
    /// By place: after how long the server that goes away wants to be asked again, milliseconds.
    advice: HashMap<u32, u64, foldhash::fast::FixedState>,
    /// How often the whole server had gone, as far as it was seen here.
    outages: u64,
    /// By room, from the first join's reply; 0 before.
    epochs: Vec<u64>,
    /// Bytes of answers to a handshake that have not all come.
    heads: HashMap<u32, Vec<u8>, foldhash::fast::FixedState>,
    /// Messages (or joins) to be sent again.
    retries: BinaryHeap<Reverse<Again>>,
    frames: Frames,
    moment: Moment,
    inflater: Option<Inflater>,
    body: String,
}

impl Counts {
    /// Adds another thread's counts.
    pub fn add(&mut self, other: &Self) {
        self.joined += other.joined;
        self.failed += other.failed;
        self.sent += other.sent;
        self.acked += other.acked;
        self.busy += other.busy;
        self.unknown += other.unknown;
        self.rate_limited += other.rate_limited;
        self.rate_limited_late += other.rate_limited_late;
        self.joins_busy += other.joins_busy;
        self.unsent += other.unsent;
        self.dropped_out += other.dropped_out;
        self.lost_announced += other.lost_announced;
        self.lost += other.lost;
        self.outage += other.outage;
        self.caught_up += other.caught_up;
        self.gone += other.gone;
        self.absent_ns += other.absent_ns;
        self.ran_ns += other.ran_ns;
        self.waited_ns += other.waited_ns;
        self.sent_late += other.sent_late;
        self.republished += other.republished;
        self.backlog += other.backlog;
        self.deflated += other.deflated;
        self.frames += other.frames;
        self.chunks += other.chunks;
        self.bytes += other.bytes;
        self.batch_bytes += other.batch_bytes;
        self.inflated_bytes += other.inflated_bytes;
    }

    fn count_frame(&mut self, bytes: Bytes) {
        self.frames += 1;
        self.batch_bytes += u64::from(bytes.wire);
        self.inflated_bytes += u64::from(bytes.inflated);
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
            leavers,
            connected: 0,
            absences: HashMap::default(),
            attempts: Faults::default(),
            advice: HashMap::default(),
            outages: 0,
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
            frames: Frames::default(),
            moment: Moment::default(),
            inflater: None,
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
            (&gauges.batch_bytes, self.counts.batch_bytes),
            (&gauges.inflated_bytes, self.counts.inflated_bytes),
            (&gauges.outstanding, self.outstanding()),
            (&gauges.away, self.away()),
            (&gauges.connected, self.connected),
            (&gauges.lost, self.counts.lost + self.counts.lost_announced),
            (&gauges.rate_limited, self.counts.rate_limited),
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
            return self.lose(place, End::Final(class_of_connect(&error)));
        }
        let World { authority, path, target, .. } = self.world;
        let mut head = Vec::with_capacity(256);
        let key = self.world.handshake_key(self.number(place));
        handshake::request(authority, path, target.subprotocol(), self.world.deflate, key, &mut head);
        self.users[place as usize].phase = Phase::Handshaking;
        self.actions.push(Action::Send(place, head));
    }

    /// The connection is over.
    pub fn on_ended(&mut self, place: u32, error: Option<io::Error>) {
        let why = error.map_or_else(|| "without a close frame".to_owned(), |error| error.to_string());
        let end = match self.advice.remove(&place) {
            Some(after_ms) => End::Announced { after_ms: Some(after_ms) },
            None => End::Broken(format!("connection ended: {why}")),
        };
        self.lose(place, end);
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
        match handshake::read_response(input, key, self.world.deflate) {
            Response::Partial => {
                self.heads.insert(place, input.to_vec());
            }
            Response::Refused(why) => self.lose(place, End::Final(format!("{HANDSHAKE}{why}"))),
            Response::Accepted { used, deflate } => {
                let user = &mut self.users[place as usize];
                self.times.connect.record(now_ns.saturating_sub(user.step_ns));
                user.accept(deflate);
                self.counts.deflated += u64::from(deflate);
                self.say_hello(place, now_ns);
                self.decode(place, &mut input[used..], now_ns);
            }
        }
    }

    fn on_event(&mut self, place: u32, tag: u32, event: &Received<'_>, now_ns: u64) {
        match *event {
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
            Received::KeyTaken { seq, .. } => {
                let why = ErrorCode::KeyTaken.to_string();
                self.on_error(place, tag, ErrorCode::KeyTaken, &format!("{why}, seq {seq}"), 0, now_ns);
            }
            Received::GoingAway { reconnect_after_ms, .. } => {
                self.advice.insert(place, reconnect_after_ms.into());
            }
            Received::Connected { .. } | Received::Pong | Received::Ping => {}
            Received::Batch { .. } | Received::History { .. } | Received::Left { .. } | Received::Info { .. } => {
                self.fault(place, "a reply to a command that was not sent");
            }
        }
    }

    fn on_joined(&mut self, place: u32, joined: Joined, now_ns: u64) {
        let user = &mut self.users[place as usize];
        if user.phase != Phase::Joining {
            return self.fault(place, "joined twice");
        }
        user.phase = Phase::Joined;
        self.connecting -= 1;
        self.connected += 1;
        self.counts.backlog += joined.head.saturating_sub(joined.from);
        let returns = user.returns;
        let epoch = &mut self.epochs[user.room as usize];
        if !matches!(std::mem::replace(epoch, joined.epoch), before if before == 0 || before == joined.epoch) {
            self.fault(place, "a room changed its epoch");
        }
        if returns {
            return self.on_rejoined(place, joined, now_ns);
        }
        let user = &mut self.users[place as usize];
        self.times.join.record(now_ns.saturating_sub(user.step_ns));
        user.next_seq = joined.from + 1;
        self.rooms[user.room as usize].on_join(joined.from);
        self.counts.joined += 1;
    }

    /// Counts a fault that the user at this place met.
    fn fault(&mut self, place: u32, class: impl Into<String>) {
        self.faults.count(self.numbers[place as usize], class.into());
    }

    /// Ends a user for good, for a reason that is a fault.
    pub fn fail(&mut self, place: u32, why: String) {
        if self.end(place) {
            self.counts.failed += 1;
            self.fault(place, why);
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
        self.connecting -= u64::from(before.has_connection() && before != Phase::Joined);
        self.connected -= u64::from(before == Phase::Joined);
        self.close_absence(place, self.world.now_ns());
        self.heads.remove(&place);
        if before.has_connection() {
            self.actions.push(Action::Close(place));
        }
        true
    }

    /// Nothing more will come: closes what is still open, at a whole run's end and before.
    pub fn finish(&mut self) {
        self.record_heard();
        self.close_absences(self.world.now_ns());
    }

    /// Closes the books: what a member never got, up to its room's highest acked seq, is lost.
    pub fn settle(&mut self) {
        for place in 0..self.users.len() as u32 {
            let number = self.number(place);
            let user = &mut self.users[place as usize];
            let highest = self.world.sends.highest(user.room);
            if user.returns && !matches!(user.phase, Phase::Joined | Phase::Ended) {
                // It was not there to be told.
                self.ledger.deliveries.unknown += (highest + 1).saturating_sub(user.next_seq);
            } else {
                self.ledger.on_end(number, &mut user.next_seq, highest);
            }
        }
    }
}

#[cfg(test)]
mod tests;
