//! One generator thread: its rings, and the loop that moves bytes between them and its crowd.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Duration;

use uring::{Config, Event, Ring, Segment, SetupError, Socket, Wake};

use crate::buffers;
use crate::crowd::{Action, Crowd};
use crate::machine::{self, Cores};
use crate::outcome::Outcome;
use crate::ramp::Ramp;
use crate::user::User;
use crate::world::{Gauges, Phase, World};

/// Users of one thread that drop out in one turn.
const DROPS_MAX: usize = 512;
/// How long the loop rests when there is nothing to submit. Meanwhile what arrives wakes nobody: a wake-up for every
/// few frames would cost the machine more than the frames, on the server's side too. It adds at most this to a time.
const REST_MAX: Duration = Duration::from_micros(500);
/// How often the p99 that progress shows is worked out.
const P99_EVERY_NS: u64 = 1_000_000_000;
/// How often the members that are still behind are counted while the run settles.
const BEHIND_EVERY_NS: u64 = 10_000_000;
/// The weight of one sample of loop lag, nanoseconds of the run.
const LAG_SAMPLE_NS: u64 = 10_000;

/// Runs the users of thread `index` until the run stops.
pub fn run(world: &World, index: u32) -> Result<Outcome, SetupError> {
    let mut worker = Worker::new(world, index)?;
    while worker.world.phase() < Phase::Stop {
        worker.turn();
    }
    worker.record_cores();
    if world.phase() == Phase::Stop {
        worker.crowd.settle();
    }
    Ok(Outcome::of(worker.crowd))
}

struct Worker<'w> {
    world: &'w World,
    gauges: &'w Gauges,
    rings: Vec<Ring>,
    /// By ring and slot: the user's place.
    seats: Vec<Vec<u32>>,
    crowd: Crowd<'w>,
    /// Sends under way or waiting, by user's place; empty most of the time.
    outgoing: HashMap<u32, Outgoing, foldhash::fast::FixedState>,
    /// By ring: something was queued since the kernel was last entered for it.
    unsubmitted: Vec<bool>,
    /// Completions of sends in the present turn.
    sent: Vec<(u32, io::Result<usize>)>,
    writable: Vec<u32>,
    ramp: Ramp,
    has_written: bool,
    /// When the measured window began.
    cores_from: Option<Cores>,
    p99_due_ns: u64,
    behind_due_ns: u64,
}

struct Outgoing {
    under_way: Segment,
    waiting: Vec<u8>,
}

impl<'w> Worker<'w> {
    fn new(world: &'w World, index: u32) -> Result<Self, SetupError> {
        let crowd = Crowd::new(world, world.users_of(index as usize));
        let wake = Wake::new()?;
        let rings_needed = crowd.users.len().div_ceil(usize::from(world.ring_sockets)).max(1);
        let (recv_buffers, recv_buffer_bytes) = buffers::of_ring(&world.plan, world.deflate, rings_needed);
        let config = Config {
            sockets: usize::from(world.ring_sockets).min(crowd.users.len().max(1)) as u16,
            recv_buffers,
            recv_buffer_bytes,
            queue_entries: 1_024,
        };
        let mut rings = (0..rings_needed).map(|_| Ring::new(config, &wake)).collect::<Result<Vec<_>, _>>()?;
        for ring in &mut rings {
            ring.set_quiet(true);
        }
        Ok(Self {
            world,
            gauges: &world.gauges[index as usize],
            seats: rings.iter().map(|_| vec![u32::MAX; usize::from(config.sockets)]).collect(),
            unsubmitted: vec![false; rings.len()],
            rings,
            ramp: Ramp::new(&crowd, world),
            has_written: false,
            cores_from: None,
            crowd,
            outgoing: HashMap::default(),
            sent: Vec::new(),
            writable: Vec::new(),
            p99_due_ns: 0,
            behind_due_ns: 0,
        })
    }

    /// One round: send what is due, take what came, then wait if there was nothing to submit.
    fn turn(&mut self) {
        let start_ns = self.world.now_ns();
        self.follow(start_ns);
        self.connect_due(start_ns);
        for ring in 0..self.rings.len() {
            self.crowd.retry_due(self.world.now_ns());
            if self.world.phase() >= Phase::Traffic {
                self.crowd.send_due(self.world.now_ns());
            }
            self.perform();
            self.reap(ring);
        }
        self.finish_sends();
        self.perform();
        self.show(start_ns);
        let busy_until_ns = self.world.now_ns();
        if !self.unsubmitted.contains(&true) {
            self.wait(busy_until_ns);
        }
        self.record_lag(start_ns, busy_until_ns);
    }

    /// Does what the run's phase asks for.
    fn follow(&mut self, now_ns: u64) {
        if self.world.phase() == Phase::History && !self.has_written {
            self.has_written = true;
            self.crowd.write_history();
        }
        if let Some((at_ns, ramp)) = self.world.storm_ns().filter(|&(at_ns, _)| at_ns <= now_ns) {
            self.crowd.drop_out(DROPS_MAX, at_ns, ramp);
            // Their connections are closed before they may have new ones.
            self.perform();
        }
        self.crowd.see_outages();
        self.crowd.times.storm = self.world.storm();
    }

    /// Opens the connections whose turn it is.
    fn connect_due(&mut self, now_ns: u64) {
        while let Some(place) = self.ramp.take_due(&self.crowd, self.world, now_ns) {
            let number = self.crowd.number(place);
            let ring = place as usize / usize::from(self.world.ring_sockets);
            match self.rings[ring].connect(self.world.source_of(number), self.world.address) {
                Ok(socket) => {
                    self.seats[ring][usize::from(socket.slot)] = place;
                    let user = &mut self.crowd.users[place as usize];
                    (user.socket, user.ring) = (socket, ring as u16);
                    self.crowd.begin(place, self.world.now_ns());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return self.ramp.come_back(place, now_ns),
                Err(error) => {
                    self.crowd.begin(place, now_ns);
                    self.crowd.on_connected(place, Err(error));
                }
            }
        }
    }

    /// Enters the kernel for one ring and takes what completed. The time of a receipt is read after the kernel gave it
    /// away: before that nobody here could have seen the bytes.
    fn reap(&mut self, ring: usize) {
        let Self { world, rings, seats, crowd, sent, writable, unsubmitted, .. } = self;
        let seats = &seats[ring];
        unsubmitted[ring] = false;
        rings[ring].turn(|event| {
            let seat = |users: &[User], socket: Socket| {
                let place = seats[usize::from(socket.slot)];
                users.get(place as usize).is_some_and(|user| user.socket == socket).then_some(place)
            };
            match event {
                Event::Received(socket, bytes) => {
                    if let Some(place) = seat(&crowd.users, socket) {
                        crowd.on_received(place, bytes, world.now_ns());
                    }
                }
                Event::Sent(socket, outcome) => sent.extend(seat(&crowd.users, socket).map(|place| (place, outcome))),
                Event::Writable(socket) => writable.extend(seat(&crowd.users, socket)),
                Event::Connected(socket, outcome) => {
                    if let Some(place) = seat(&crowd.users, socket) {
                        crowd.on_connected(place, outcome);
                    }
                }
                Event::Ended(socket, error) => {
                    if let Some(place) = seat(&crowd.users, socket) {
                        crowd.on_ended(place, error);
                    }
                }
                Event::Closed(_) | Event::Accepted(_) | Event::AcceptFailed(_) => {}
            }
        });
    }

    /// Goes on with the sends that completed.
    fn finish_sends(&mut self) {
        for (place, outcome) in std::mem::take(&mut self.sent) {
            match outcome {
                Ok(taken) => self.send_rest(place, taken),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let (ring, socket) = self.queue(place);
                    ring.wait_writable(socket);
                }
                Err(error) => self.crowd.on_ended(place, Some(error)),
            }
        }
        for place in std::mem::take(&mut self.writable) {
            self.send_rest(place, 0);
        }
    }

    /// Sends what is left after the server's kernel took so many bytes.
    fn send_rest(&mut self, place: u32, taken: usize) {
        let Some(Outgoing { under_way, waiting }) = self.outgoing.remove(&place) else { return };
        if taken < under_way.len() {
            self.start_send(place, under_way.skip(taken), waiting);
        } else if !waiting.is_empty() {
            self.start_send(place, Segment::from(waiting), Vec::new());
        }
    }

    fn start_send(&mut self, place: u32, segment: Segment, waiting: Vec<u8>) {
        if !self.crowd.users[place as usize].phase.has_connection() {
            return;
        }
        let (ring, socket) = self.queue(place);
        ring.send(socket, segment.clone());
        self.outgoing.insert(place, Outgoing { under_way: segment, waiting });
    }

    /// A user's ring, which will have something to submit, and socket.
    fn queue(&mut self, place: u32) -> (&mut Ring, Socket) {
        let user = &self.crowd.users[place as usize];
        let ring = usize::from(user.ring);
        self.unsubmitted[ring] = true;
        (&mut self.rings[ring], user.socket)
    }

    /// Does what the crowd asks for.
    fn perform(&mut self) {
        let mut actions = std::mem::take(&mut self.crowd.actions);
        for action in actions.drain(..) {
            match action {
                Action::Send(place, bytes) => match self.outgoing.get_mut(&place) {
                    Some(outgoing) => outgoing.waiting.extend_from_slice(&bytes),
                    None => self.start_send(place, Segment::from(bytes), Vec::new()),
                },
                Action::Close(place) => {
                    // What was not sent is not owed: the next connection begins afresh.
                    self.outgoing.remove(&place);
                    let user = &self.crowd.users[place as usize];
                    // Not of one that could not even be opened: what it has may be somebody else's.
                    if self.seats[usize::from(user.ring)][usize::from(user.socket.slot)] == place {
                        let (ring, socket) = self.queue(place);
                        ring.close(socket);
                    }
                }
                Action::ComeBack(place, due_ns) => self.ramp.come_back(place, due_ns),
            }
        }
        self.crowd.actions = actions;
    }

    fn wait(&self, now_ns: u64) {
        let sending = self.crowd.next_send_ns(self.world.phase() >= Phase::Traffic);
        let ramping = self.ramp.next_ns(&self.crowd, self.world);
        let next_ns = sending.into_iter().chain(ramping).min();
        let rest = next_ns.map_or(REST_MAX, |at_ns| Duration::from_nanos(at_ns.saturating_sub(now_ns)));
        if !rest.is_zero() {
            thread::sleep(rest.min(REST_MAX));
        }
    }

    /// Whatever arrived while the loop was busy waited for it: so the busy time weighs as long as it lasted, and time
    /// spent waiting for something to arrive counts as no lag.
    fn record_lag(&mut self, start_ns: u64, busy_until_ns: u64) {
        let t0_ns = self.world.t0_ns();
        let is_measured = self.world.plan.is_measured(start_ns.saturating_sub(t0_ns));
        if self.world.phase() < Phase::Traffic || !is_measured {
            return self.record_cores();
        }
        self.cores_from.get_or_insert_with(machine::thread_cores);
        let (busy_ns, waited_ns) = (busy_until_ns - start_ns, self.world.now_ns() - busy_until_ns);
        self.crowd.times.loop_lag.record_n(busy_ns, (busy_ns / LAG_SAMPLE_NS).max(1));
        self.crowd.times.loop_lag.record_n(0, waited_ns / LAG_SAMPLE_NS);
    }

    /// The measured window is over: notes how long this thread had a core in it, and how long it waited for one.
    fn record_cores(&mut self) {
        if let Some(from) = self.cores_from.take() {
            let to = machine::thread_cores();
            self.crowd.counts.ran_ns = to.ran_ns - from.ran_ns;
            self.crowd.counts.waited_ns = to.waited_ns - from.waited_ns;
        }
    }

    /// Shows this thread's figures to the coordinator.
    fn show(&mut self, now_ns: u64) {
        let gauges = self.gauges;
        self.crowd.show(gauges);
        if self.world.phase() == Phase::Settle && now_ns >= self.behind_due_ns {
            self.behind_due_ns = now_ns + BEHIND_EVERY_NS;
            gauges.behind.store(self.crowd.behind(), Relaxed);
        }
        if now_ns >= self.p99_due_ns {
            self.p99_due_ns = now_ns + P99_EVERY_NS;
            gauges.p99_ns.store(self.crowd.times.delivery.p99_ns(), Relaxed);
        }
    }
}
