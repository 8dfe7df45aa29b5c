//! One shard on its core: rings, lanes and the store around a [`Shard`], turn by turn.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use flume::{Receiver, Sender, TrySendError};
use rustix::time::{ClockId, clock_gettime};
use tracing::warn;
use uring::{ACCEPTS_MAX, Config, Event, Ring, SetupError, Socket, Wake};

use super::admission::{Capacity, Handover, turn_away};
use super::supervise::Running;
use super::watchdog::Turns;
use crate::figures::Figures;
use crate::ids::SessionId;
use crate::log::{Throttle, and_more};
use crate::mesh::Mesh;
use crate::persist::{Persist, wall_ms};
use crate::shard::{Now, Setup, Shard, Stats, StoreReply};
use crate::tempo::SENDS_MIN;

/// Receive buffers of each ring; idle connections own none.
const RECV_BUFFERS: u16 = 512;
const RECV_BUFFER_BYTES: u32 = 2048;
const QUEUE_ENTRIES: u32 = 2048;
/// A busy shard takes so many connections a turn, so that those who come (back) all at once do not hold up those who are
/// there; the others wait in the listener's backlog.
const BUSY_ACCEPTS_MAX: u16 = 8;
/// The thread's CPU time is read this often: it takes a system call, unlike the other clocks.
const CPU_EVERY_US: u64 = 20_000;
/// Longest sleep, so that a lost wake-up could never hang a shard; the kernel itself keeps this time.
const PARK_US_MAX: u64 = 100_000;

/// A shard's ends of the lanes.
pub struct Links {
    pub wake: Wake,
    wakes: Vec<Wake>,
    to: Vec<Sender<Vec<Mesh>>>,
    from: Vec<Receiver<Vec<Mesh>>>,
    handover_to: Vec<Sender<Handover>>,
    handovers: Receiver<Handover>,
}

impl Links {
    /// One bounded lane for each direction between any two shards.
    pub fn mesh(wakes: &[Wake], batches: usize, handovers: usize) -> Vec<Self> {
        let shards = wakes.len();
        let lanes: Vec<Vec<_>> =
            (0..shards).map(|_| (0..shards).map(|_| flume::bounded::<Vec<Mesh>>(batches)).collect()).collect();
        let doors: Vec<_> = (0..shards).map(|_| flume::bounded(handovers)).collect();
        (0..shards)
            .map(|me| Self {
                wake: wakes[me].clone(),
                wakes: wakes.to_vec(),
                to: lanes[me].iter().map(|(to, _)| to.clone()).collect(),
                from: lanes.iter().map(|row| row[me].1.clone()).collect(),
                handover_to: doors.iter().map(|(to, _)| to.clone()).collect(),
                handovers: doors[me].1.clone(),
            })
            .collect()
    }

    /// Hands a batch to a shard and wakes it; gives the batch back when the lane is full.
    fn send(&self, shard: usize, batch: Vec<Mesh>) -> Result<(), Vec<Mesh>> {
        match self.to[shard].try_send(batch) {
            Ok(()) => self.wakes[shard].wake(),
            Err(TrySendError::Full(back) | TrySendError::Disconnected(back)) => return Err(back),
        }
        Ok(())
    }

    /// Hands a connection to a shard and wakes it; gives the connection back when as many wait as may.
    fn hand_over(&self, shard: usize, handover: Handover) -> Result<(), Handover> {
        match self.handover_to[shard].try_send(handover) {
            Ok(()) => self.wakes[shard].wake(),
            Err(TrySendError::Full(back) | TrySendError::Disconnected(back)) => return Err(back),
        }
        Ok(())
    }
}

/// What all cores are told about their end.
#[derive(Default)]
pub struct Stop {
    pub asked: AtomicBool,
    /// The store will never answer again; set before `asked`, or after it.
    pub without_store: AtomicBool,
}

/// What a core is made from; everything may be sent to its thread.
pub struct Parts {
    pub setup: Setup,
    pub listener: std::net::TcpListener,
    pub capacity: Capacity,
    pub links: Links,
    pub persist: Persist,
    pub replies: Receiver<Vec<StoreReply>>,
    pub stop: Arc<Stop>,
    pub running: Running,
    pub figures: Arc<Figures>,
    pub turns: Arc<Turns>,
}

/// One shard and its rings, on the thread of one core.
pub struct Core {
    shard: Shard,
    rings: Vec<Ring>,
    me: usize,
    share: usize,
    shutdown: Duration,
    links: Links,
    persist: Persist,
    replies: Receiver<Vec<StoreReply>>,
    stop: Arc<Stop>,
    running: Running,
    figures: Arc<Figures>,
    accept_trouble: Throttle,
    turns: Arc<Turns>,
    accepted: Vec<Handover>,
    /// Rings are quiet and the shard looks at them at its own pace.
    busy: bool,
    /// When the thread's CPU time was read, and what it was, microseconds.
    cpu: (u64, u64),
    /// Sends that wait for the rings' next turn, and their bytes.
    queued: (usize, usize),
}

impl Core {
    pub fn new(parts: Parts) -> Result<Self, SetupError> {
        let Parts { setup, listener, capacity, links, persist, replies, stop, running, figures, turns } = parts;
        let config = Config {
            sockets: capacity.slots,
            recv_buffers: RECV_BUFFERS,
            recv_buffer_bytes: RECV_BUFFER_BYTES,
            queue_entries: QUEUE_ENTRIES,
        };
        let mut rings = (0..capacity.rings).map(|_| Ring::new(config, &links.wake)).collect::<Result<Vec<_>, _>>()?;
        // Each buffer once a turn.
        for ring in &mut rings {
            ring.set_receives(RECV_BUFFERS.into());
        }
        rings[0].listen(listener);
        let shutdown = Duration::from_millis(setup.limits.shutdown_timeout_ms);
        Ok(Self {
            me: setup.shard,
            share: capacity.share(setup.shard),
            shard: Shard::new(setup),
            rings,
            shutdown,
            links,
            persist,
            replies,
            stop,
            running,
            accept_trouble: Throttle::default(),
            figures,
            turns,
            accepted: Vec::new(),
            busy: false,
            cpu: (0, 0),
            queued: (0, 0),
        })
    }

    /// Turns until the relay is told to stop and everybody is gone, or stopping takes too long.
    pub fn run(mut self) -> Stats {
        let mut stopping: Option<Instant> = None;
        let mut cleared = false;
        loop {
            let now = self.now();
            self.shard.begin(now);
            if self.figures.is_due(now.us) {
                self.figures.publish(&self.shard);
            }
            let happened = self.take_in();
            if stopping.is_none() && self.stop.asked.load(Ordering::Acquire) {
                stopping = Some(Instant::now());
                self.rings[0].stop_listening();
                self.shard.stop();
            }
            if stopping.is_some() && self.stop.without_store.load(Ordering::Acquire) {
                self.shard.await_nothing();
            }
            self.shard.flush();
            let caused = self.carry_out();
            let took_us = self.turns.now_us() - now.us;
            self.shard.turn.stats.turn.record(took_us);
            if let Some(since) = stopping
                && (self.is_over() || since.elapsed() > self.shutdown)
            {
                self.turns.end(self.me);
                return self.shard.turn.stats;
            }
            if happened || caused {
                cleared = false;
            } else if cleared || self.busy {
                self.park();
                cleared = false;
            } else {
                // Forget old wake-ups, then look once more before sleeping.
                self.links.wake.clear();
                cleared = true;
            }
        }
    }

    /// This shard and all others are done: until then, others may wait for its rooms' replies.
    fn is_over(&mut self) -> bool {
        if self.shard.is_stopped() {
            self.running.done();
        }
        self.running.is_over()
    }

    fn now(&mut self) -> Now {
        let us = self.turns.now_us();
        self.turns.note(self.me, us);
        if us >= self.cpu.0 + CPU_EVERY_US {
            self.cpu = (us, thread_cpu_ns() / 1000);
        }
        Now { us, wall_ms: wall_ms(), cpu_us: self.cpu.1 }
    }

    /// Everything that happened since the last turn. False when nothing did.
    fn take_in(&mut self) -> bool {
        let mut happened = false;
        let (sends, bytes) = std::mem::take(&mut self.queued);
        let began_ns = (sends >= SENDS_MIN).then(thread_cpu_ns);
        for index in 0..self.rings.len() {
            let (shard, accepted, me, trouble) = (&mut self.shard, &mut self.accepted, self.me, &self.accept_trouble);
            let id = |socket: Socket| SessionId::new(me, index, socket.slot, socket.generation);
            happened |= self.rings[index].turn(|event| match event {
                Event::Received(socket, bytes) => shard.on_bytes(id(socket), bytes),
                Event::Sent(socket, result) => shard.on_sent(id(socket), result),
                Event::Writable(socket) => shard.on_writable(id(socket)),
                Event::Ended(socket, error) => shard.on_ended(id(socket), error.as_ref()),
                Event::Accepted(fd) => accepted.push(Handover { fd, refused: 0 }),
                Event::AcceptFailed(error) => {
                    if let Some(held) = trouble.pass() {
                        warn!("cannot accept a connection: {error}{}", and_more(held));
                    }
                }
                Event::Connected(..) | Event::Closed(_) => {}
            }) > 0;
        }
        if let Some(began_ns) = began_ns {
            self.shard.on_spent(sends, bytes, thread_cpu_ns() - began_ns);
        }
        for lane in &self.links.from {
            for message in lane.try_iter().flatten() {
                happened = true;
                self.shard.on_mesh(message);
            }
        }
        for reply in self.replies.try_iter().flatten() {
            happened = true;
            self.shard.on_stored(reply);
        }
        self.accepted.extend(self.links.handovers.try_iter());
        for handover in std::mem::take(&mut self.accepted) {
            happened = true;
            self.admit(handover);
        }
        happened
    }

    /// Takes a connection, hands it to another shard, or takes it only to say that the relay is full.
    fn admit(&mut self, mut handover: Handover) {
        let is_full = self.shard.connections() >= self.share;
        if is_full {
            handover.refused += 1;
            if handover.refused < self.links.to.len() {
                let next = (self.me + 1) % self.links.to.len();
                if let Err(handover) = self.links.hand_over(next, handover) {
                    self.turn_away(handover.fd);
                }
                return;
            }
        }
        let peer = uring::peer(&handover.fd).map(|peer| peer.ip());
        match self.register(handover.fd) {
            Ok(id) => self.shard.on_open(id, peer, !is_full),
            Err(fd) => self.turn_away(fd),
        }
    }

    fn turn_away(&mut self, fd: OwnedFd) {
        self.shard.turn.stats.full += 1;
        turn_away(fd);
    }

    fn register(&mut self, fd: OwnedFd) -> Result<SessionId, OwnedFd> {
        let emptiest = (0..self.rings.len()).max_by_key(|&ring| self.rings[ring].free()).unwrap_or(0);
        let socket = self.rings[emptiest].register(fd)?;
        Ok(SessionId::new(self.me, emptiest, socket.slot, socket.generation))
    }

    /// Carries out the turn's effects. False when there were none.
    fn carry_out(&mut self) -> bool {
        let outbox = &mut self.shard.turn.outbox;
        let socket = |id: SessionId| Socket { slot: id.slot(), generation: id.generation() };
        let is_still = outbox.sends.is_empty() && outbox.polls.is_empty();
        let caused = !(is_still && outbox.receives.is_empty() && outbox.closes.is_empty());
        for (id, segment) in outbox.sends.drain(..) {
            self.queued = (self.queued.0 + 1, self.queued.1 + segment.len());
            self.rings[id.ring()].send(socket(id), segment);
        }
        for id in outbox.polls.drain(..) {
            self.rings[id.ring()].wait_writable(socket(id));
        }
        for (id, wanted) in outbox.receives.drain(..) {
            let ring = &mut self.rings[id.ring()];
            if wanted { ring.resume(socket(id)) } else { ring.pause(socket(id)) }
        }
        for id in outbox.closes.drain(..) {
            self.rings[id.ring()].close(socket(id));
        }
        for (shard, batch) in outbox.mesh.iter_mut().enumerate() {
            if batch.is_empty() {
                continue;
            }
            if let Err(back) = self.links.send(shard, std::mem::take(batch)) {
                *batch = back;
            }
        }
        if !outbox.store.is_empty() {
            self.persist.send(self.me, &mut outbox.store);
        }
        caused
    }

    /// Sleeps until the shard's eventfd is readable or something is due. A busy shard does not let itself be woken: it
    /// looks every few milliseconds.
    fn park(&mut self) {
        if self.busy != self.shard.tempo().is_busy() {
            // Rings notify, or cease to, from the end of their next turn on.
            self.busy = !self.busy;
            self.rings.iter_mut().for_each(|ring| ring.set_quiet(self.busy));
            self.rings[0].set_accepts(if self.busy { BUSY_ACCEPTS_MAX } else { ACCEPTS_MAX });
            return;
        }
        let sleep_us = self.shard.deadline_us().saturating_sub(self.turns.now_us()).min(PARK_US_MAX);
        if sleep_us == 0 {
            return;
        }
        if self.busy {
            thread::sleep(Duration::from_micros(sleep_us.min(self.shard.tempo().rest_us())));
        } else {
            self.links.wake.wait(Duration::from_micros(sleep_us));
        }
    }
}

/// CPU time of this thread.
fn thread_cpu_ns() -> u64 {
    let cpu = clock_gettime(ClockId::ThreadCPUTime);
    cpu.tv_sec as u64 * 1_000_000_000 + cpu.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// Links of two shards whose lanes hold one batch and one connection.
    fn two() -> Vec<Links> {
        Links::mesh(&[Wake::new().unwrap(), Wake::new().unwrap()], 1, 1)
    }

    fn woken(links: &[Links]) -> Vec<bool> {
        links.iter().map(|links| links.wake.clear()).collect()
    }

    #[test]
    fn a_batch_wakes_the_shard_it_goes_to() {
        let links = two();
        assert!(links[0].send(1, Vec::new()).is_ok());
        assert_eq!(woken(&links), [false, true]);
        assert_eq!(links[1].from[0].try_iter().count(), 1);
        assert!(links[1].send(0, Vec::new()).is_ok());
        assert_eq!(woken(&links), [true, false]);
        assert!(links[1].send(0, Vec::new()).is_err(), "the lane is full");
    }

    #[test]
    fn a_connection_that_is_handed_over_wakes_the_shard_it_goes_to() {
        let links = two();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connection = || {
            let fd = TcpStream::connect(listener.local_addr().unwrap()).unwrap().into();
            Handover { fd, refused: 1 }
        };
        assert!(links[0].hand_over(1, connection()).is_ok());
        assert_eq!(woken(&links), [false, true]);
        assert_eq!(links[1].handovers.try_iter().count(), 1);
    }
}
