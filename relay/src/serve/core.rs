//! One shard on its core: rings, lanes and the store around a [`Shard`], turn by turn.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use flume::{Receiver, Sender, TrySendError};
use futures_lite::{AsyncReadExt, future};
use rustix::time::{ClockId, clock_gettime};
use uring::{ACCEPTS_MAX, Config, Event, Ring, SetupError, Socket, Wake};

use super::admission::{Capacity, Handover, turn_away};
use crate::ids::SessionId;
use crate::mesh::Mesh;
use crate::persist::{Persist, wall_ms};
use crate::shard::{Now, Setup, Shard, Stats, StoreReply};

/// Receive buffers of each ring; idle connections own none.
const RECV_BUFFERS: u16 = 512;
const RECV_BUFFER_BYTES: u32 = 2048;
const QUEUE_ENTRIES: u32 = 2048;
/// A busy shard takes so many connections a turn, so that those who come (back) all at once do not hold up those who are
/// there; the others wait in the listener's backlog.
const BUSY_ACCEPTS_MAX: u16 = 8;
/// The thread's CPU time is read this often: it takes a system call, unlike the other clocks.
const CPU_EVERY_US: u64 = 20_000;
/// Longest sleep, so that a lost wake-up could never hang a shard.
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
    /// Shards that are not done yet.
    pub running: Arc<AtomicUsize>,
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
    running: Arc<AtomicUsize>,
    /// This shard does not count as running any more.
    counted: bool,
    began: Instant,
    accepted: Vec<Handover>,
    /// Rings are quiet and the shard looks at them at its own pace.
    busy: bool,
    /// When the thread's CPU time was read, and what it was, microseconds.
    cpu: (u64, u64),
}

impl Core {
    pub fn new(parts: Parts) -> Result<Self, SetupError> {
        let Parts { setup, listener, capacity, links, persist, replies, stop, running } = parts;
        let config = Config {
            sockets: capacity.slots,
            recv_buffers: RECV_BUFFERS,
            recv_buffer_bytes: RECV_BUFFER_BYTES,
            queue_entries: QUEUE_ENTRIES,
        };
        let mut rings = (0..capacity.rings).map(|_| Ring::new(config, &links.wake)).collect::<Result<Vec<_>, _>>()?;
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
            counted: false,
            began: Instant::now(),
            accepted: Vec::new(),
            busy: false,
            cpu: (0, 0),
        })
    }

    /// Turns until the relay is told to stop and everybody is gone, or stopping takes too long.
    pub async fn run(mut self) -> Stats {
        let mut stopping: Option<Instant> = None;
        let mut cleared = false;
        loop {
            let now = self.now();
            self.shard.begin(now);
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
            if let Some(since) = stopping
                && (self.is_over() || since.elapsed() > self.shutdown)
            {
                return self.shard.stats;
            }
            if happened || caused {
                cleared = false;
            } else if cleared || self.busy {
                self.park().await;
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
        if self.shard.is_stopped() && !self.counted {
            self.counted = true;
            self.running.fetch_sub(1, Ordering::AcqRel);
        }
        self.running.load(Ordering::Acquire) == 0
    }

    fn now(&mut self) -> Now {
        let us = self.began.elapsed().as_micros() as u64;
        if us >= self.cpu.0 + CPU_EVERY_US {
            let cpu = clock_gettime(ClockId::ThreadCPUTime);
            self.cpu = (us, cpu.tv_sec as u64 * 1_000_000 + cpu.tv_nsec as u64 / 1000);
        }
        Now { us, wall_ms: wall_ms(), cpu_us: self.cpu.1 }
    }

    /// Everything that happened since the last turn. False when nothing did.
    fn take_in(&mut self) -> bool {
        let mut happened = false;
        for index in 0..self.rings.len() {
            let (shard, accepted, me) = (&mut self.shard, &mut self.accepted, self.me);
            let id = |socket: Socket| SessionId::new(me, index, socket.slot, socket.generation);
            happened |= self.rings[index].turn(|event| match event {
                Event::Received(socket, bytes) => shard.on_bytes(id(socket), bytes),
                Event::Sent(socket, result) => shard.on_sent(id(socket), result),
                Event::Writable(socket) => shard.on_writable(id(socket)),
                Event::Ended(socket, _) => shard.on_ended(id(socket)),
                Event::Accepted(fd) => accepted.push(Handover { fd, refused: 0 }),
                Event::AcceptFailed(error) => eprintln!("relay: cannot accept: {error}"),
                Event::Connected(..) | Event::Closed(_) => {}
            }) > 0;
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
                match self.links.handover_to[next].try_send(handover) {
                    Ok(()) => self.links.wakes[next].wake(),
                    Err(TrySendError::Full(handover) | TrySendError::Disconnected(handover)) => turn_away(handover.fd),
                }
                return;
            }
        }
        match self.register(handover.fd) {
            Ok(id) => self.shard.on_open(id, !is_full),
            Err(fd) => turn_away(fd),
        }
    }

    fn register(&mut self, fd: OwnedFd) -> Result<SessionId, OwnedFd> {
        let emptiest = (0..self.rings.len()).max_by_key(|&ring| self.rings[ring].free()).unwrap_or(0);
        let socket = self.rings[emptiest].register(fd)?;
        Ok(SessionId::new(self.me, emptiest, socket.slot, socket.generation))
    }

    /// Carries out the turn's effects. False when there were none.
    fn carry_out(&mut self) -> bool {
        let outbox = &mut self.shard.outbox;
        let socket = |id: SessionId| Socket { slot: id.slot(), generation: id.generation() };
        let caused = !(outbox.sends.is_empty() && outbox.polls.is_empty() && outbox.closes.is_empty());
        for (id, segment) in outbox.sends.drain(..) {
            self.rings[id.ring()].send(socket(id), segment);
        }
        for id in outbox.polls.drain(..) {
            self.rings[id.ring()].wait_writable(socket(id));
        }
        for id in outbox.closes.drain(..) {
            self.rings[id.ring()].close(socket(id));
        }
        for (shard, batch) in outbox.mesh.iter_mut().enumerate() {
            if batch.is_empty() {
                continue;
            }
            match self.links.to[shard].try_send(std::mem::take(batch)) {
                Ok(()) => self.links.wakes[shard].wake(),
                Err(TrySendError::Full(back) | TrySendError::Disconnected(back)) => *batch = back,
            }
        }
        if !outbox.store.is_empty() {
            self.persist.send(self.me, &mut outbox.store);
        }
        caused
    }

    /// Sleeps in the executor until the shard's eventfd is readable or something is due. A busy shard does not let
    /// itself be woken: it looks every few milliseconds.
    async fn park(&mut self) {
        if self.busy != self.shard.tempo().is_busy() {
            // Rings notify, or cease to, from the end of their next turn on.
            self.busy = !self.busy;
            self.rings.iter_mut().for_each(|ring| ring.set_quiet(self.busy));
            self.rings[0].set_accepts(if self.busy { BUSY_ACCEPTS_MAX } else { ACCEPTS_MAX });
            return;
        }
        let now_us = self.began.elapsed().as_micros() as u64;
        let sleep_us = self.shard.deadline_us().saturating_sub(now_us).min(PARK_US_MAX);
        if sleep_us == 0 {
            return;
        }
        if self.busy {
            glommio::timer::sleep(Duration::from_micros(sleep_us.min(self.shard.tempo().rest_us()))).await;
        } else {
            let sleep = glommio::timer::sleep(Duration::from_micros(sleep_us));
            future::or(readable(&self.links.wake), sleep).await;
        }
    }
}

/// Ends when the eventfd is readable: glommio polls what it takes for a socket before it reads from it, and the read
/// then fails with ENOTSOCK.
async fn readable(wake: &Wake) {
    let Ok(fd) = wake.fd().as_fd().try_clone_to_owned() else { return };
    let socket = socket2_glommio::Socket::from(std::net::TcpStream::from(fd));
    let mut stream = glommio::net::TcpStream::from(socket);
    let mut byte = [0];
    let read = stream.read(&mut byte).await;
    debug_assert!(read.is_err(), "an eventfd is no socket");
}
