//! The thread of the slow readers: ordinary sockets with small receive buffers, read as slowly as asked for. What
//! they hear is checked by a crowd of their own, with the same code as everybody's.

mod socket;

use std::io;
use std::thread;
use std::time::Duration;

use crate::crowd::{Action, Crowd};
use crate::latency::Latencies;
use crate::outcome::Outcome;
use crate::plan::Role;
use crate::ramp::Ramp;
use crate::user;
use crate::world::{Phase, World};
use socket::Socket;

/// How long the loop rests: a message may be sent this much late.
const REST: Duration = Duration::from_millis(5);
/// How often everybody is read, nanoseconds.
const READ_EVERY_NS: u64 = 100_000_000;
/// Bytes of one read.
const READ_BYTES: usize = 64 << 10;
/// A connection that takes nothing may outlive the server's timeout by so much, nanoseconds.
const PATIENCE_NS: u64 = 10_000_000_000;
/// A stalled reader that reads on at the end has heard everything when nothing comes for so long.
const QUIET: Duration = Duration::from_secs(1);
/// What a crowd calls the closing of a reader that is too slow, and of one that answers nothing, not even pings.
const CLOSED_AS_SLOW: &str = "closed by the server: 4001 ";
const CLOSED_AS_IDLE: &str = "closed by the server: 4000 ";

/// What became of the slow readers. None of it is a fault.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Slow {
    pub slow: u64,
    pub stalled: u64,
    pub gaps: u64,
    /// Messages that gaps left out.
    pub skipped: u64,
    /// Messages not read at the end.
    pub unread: u64,
    /// Closed by the server with a reason: slow consumer (or idle, when stalled).
    pub closed: u64,
    /// Stalled for as long as the server waits, and closed with a socket too full for the reason.
    pub cut_off: u64,
    /// Due after that.
    pub unsent: u64,
}

/// Runs the slow readers, the thread after the last of those with rings, until the run stops.
pub fn run(world: &World) -> Outcome {
    let mut readers = Readers::new(world);
    while world.phase() < Phase::Stop {
        readers.turn();
        thread::sleep(REST);
    }
    if world.phase() == Phase::Stop {
        readers.hear_out();
    }
    readers.bring_home()
}

struct Readers<'w> {
    world: &'w World,
    crowd: Crowd<'w>,
    ramp: Ramp,
    sockets: Vec<Option<Socket>>,
    buffer: Vec<u8>,
    read_ns: u64,
    found: Slow,
}

impl<'w> Readers<'w> {
    fn new(world: &'w World) -> Self {
        let crowd = Crowd::new(world, world.users_of(world.threads));
        Self {
            world,
            ramp: Ramp::new(&crowd, world),
            sockets: crowd.users.iter().map(|_| None).collect(),
            crowd,
            buffer: vec![0; READ_BYTES],
            read_ns: 0,
            found: Slow::default(),
        }
    }

    fn turn(&mut self) {
        let now_ns = self.world.now_ns();
        self.crowd.see_outages();
        self.connect_due(now_ns);
        self.crowd.retry_due(now_ns);
        if self.world.phase() >= Phase::Traffic {
            self.crowd.send_due(now_ns);
        }
        self.perform();
        self.read_all(now_ns);
        self.perform();
        self.show();
    }

    fn connect_due(&mut self, now_ns: u64) {
        while let Some(place) = self.ramp.take_due(&self.crowd, self.world, now_ns) {
            let number = self.crowd.number(place);
            self.crowd.begin(place, self.world.now_ns());
            let opened = Socket::open(self.world.source_of(number), self.world.address);
            let outcome = opened.map(|socket| self.sockets[place as usize] = Some(socket));
            self.crowd.on_connected(place, outcome);
        }
    }

    /// Reads from everybody now and then; until they have joined, whenever something may have come.
    fn read_all(&mut self, now_ns: u64) {
        let elapsed_ns = now_ns - self.read_ns;
        let is_time = elapsed_ns >= READ_EVERY_NS;
        if is_time {
            self.read_ns = now_ns;
        }
        let has_traffic = self.world.phase() >= Phase::Traffic;
        let rate = self.world.plan.shape.scenario.slow_bytes_per_s;
        let share = (elapsed_ns.min(1_000_000_000) * rate).div_ceil(1_000_000_000) as usize;
        for place in 0..self.sockets.len() as u32 {
            let has_joined = self.crowd.users[place as usize].phase == user::Phase::Joined;
            if !is_time && has_joined {
                continue;
            }
            match self.role(place) {
                _ if !has_traffic || !has_joined => self.read(place, usize::MAX, now_ns),
                Role::Stalled => {
                    if let Some(socket) = &mut self.sockets[place as usize] {
                        socket.watch(&mut self.buffer, now_ns);
                    }
                }
                _ => self.read(place, share, now_ns),
            }
        }
    }

    /// Reads at most `left` bytes of what has come.
    fn read(&mut self, place: u32, mut left: usize, now_ns: u64) {
        while left > 0 && self.crowd.users[place as usize].phase != user::Phase::Ended {
            let Some(socket) = &self.sockets[place as usize] else { return };
            let most = left.min(self.buffer.len());
            match socket.read(&mut self.buffer[..most]) {
                Ok(0) => return self.ended(place, None),
                Ok(taken) => {
                    left -= taken;
                    self.crowd.on_received(place, &mut self.buffer[..taken], now_ns);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => return self.ended(place, Some(error)),
            }
        }
    }

    /// The connection is over without a close frame. The socket of a reader that has stalled for long was too full for
    /// one.
    fn ended(&mut self, place: u32, error: Option<io::Error>) {
        let grew_ns = self.sockets[place as usize].as_ref().map_or(0, |socket| socket.grew_ns);
        let stalled_ns = self.read_ns.saturating_sub(grew_ns);
        let timeout_ns = self.world.plan.shape.scenario.slow_timeout_ns;
        if self.role(place) == Role::Stalled && grew_ns > 0 && stalled_ns >= timeout_ns {
            self.found.cut_off += u64::from(self.crowd.end(place));
        } else {
            self.crowd.on_ended(place, error);
        }
    }

    fn perform(&mut self) {
        for action in std::mem::take(&mut self.crowd.actions) {
            match action {
                Action::Send(place, bytes) => {
                    if let Some(socket) = &mut self.sockets[place as usize] {
                        socket.write(&bytes);
                    }
                }
                Action::Close(place) => self.sockets[place as usize] = None,
                Action::ComeBack(place, due_ns) => self.ramp.come_back(place, due_ns),
            }
        }
        self.sockets.iter_mut().flatten().for_each(Socket::flush);
    }

    /// Nobody waits for what slow readers have not heard.
    fn show(&self) {
        let gauges = &self.world.gauges[self.world.threads];
        self.crowd.show(gauges);
        gauges.settle(self.crowd.agenda.left());
    }

    /// Lets the stalled ones read what is left: it must be in order, and tells whether they were closed.
    fn hear_out(&mut self) {
        let stalled: Vec<u32> = (0..self.sockets.len() as u32).filter(|&p| self.role(p) == Role::Stalled).collect();
        let was_behind: Vec<bool> = stalled.iter().map(|&place| self.is_behind(place)).collect();
        let other_idle = self.crowd.faults.split_off(CLOSED_AS_IDLE);
        self.found.closed += self.crowd.faults.split_off(CLOSED_AS_SLOW).total();
        let (mut heard, mut quiet) = (self.crowd.counts.bytes, 0);
        while Duration::from_millis(20) * quiet < QUIET {
            let now_ns = self.world.now_ns();
            for &place in &stalled {
                self.read(place, usize::MAX, now_ns);
            }
            self.perform();
            thread::sleep(Duration::from_millis(20));
            quiet = if self.crowd.counts.bytes == heard { quiet + 1 } else { 0 };
            heard = self.crowd.counts.bytes;
        }
        for (&place, was_behind) in stalled.iter().zip(was_behind) {
            let Some(socket) = &self.sockets[place as usize] else { continue };
            let kept_ns = self.read_ns.saturating_sub(socket.grew_ns);
            let timeout_ns = self.world.plan.shape.scenario.slow_timeout_ns;
            if was_behind && kept_ns > timeout_ns + PATIENCE_NS {
                let number = self.crowd.number(place);
                self.crowd.faults.count(number, "a stalled reader was kept past --slow-timeout".to_owned());
            }
        }
        for expected in [CLOSED_AS_SLOW, CLOSED_AS_IDLE] {
            self.found.closed += self.crowd.faults.split_off(expected).total();
        }
        self.crowd.faults.add(other_idle);
    }

    fn is_behind(&self, place: u32) -> bool {
        let user = &self.crowd.users[place as usize];
        user.phase == user::Phase::Joined && user.next_seq <= self.world.sends.highest(user.room)
    }

    fn bring_home(mut self) -> Outcome {
        for place in 0..self.sockets.len() as u32 {
            let user = &self.crowd.users[place as usize];
            self.found.slow += u64::from(self.role(place) == Role::Slow);
            self.found.stalled += u64::from(self.role(place) == Role::Stalled);
            if user.phase == user::Phase::Joined {
                self.found.unread += (self.world.sends.highest(user.room) + 1).saturating_sub(user.next_seq);
            }
        }
        let mut outcome = Outcome::of(self.crowd);
        self.found.closed += outcome.faults.split_off(CLOSED_AS_SLOW).total();
        self.found.gaps = outcome.gaps.len() as u64;
        self.found.skipped = std::mem::take(&mut outcome.deliveries.skipped);
        self.found.unsent = std::mem::take(&mut outcome.counts.unsent);
        // What they receive late is late by their own doing.
        let Latencies { send_delay, connect, join, .. } = outcome.times;
        Outcome {
            times: Latencies { send_delay, connect, join, ..Latencies::default() },
            slow: Some(self.found),
            ..outcome
        }
    }

    fn role(&self, place: u32) -> Role {
        self.world.plan.role_of(self.crowd.number(place))
    }
}
