//! Rings of one thread, driven until something happens, with the rules that every event must keep.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use uring::{Config, Event, Ring, Segment, Socket, Wake};

pub const CONFIG: Config = Config { sockets: 64, recv_buffers: 64, recv_buffer_bytes: 2048, queue_entries: 64 };

/// An [`Event`] that owns its bytes.
#[derive(Debug)]
pub enum Happening {
    Accepted(OwnedFd),
    AcceptFailed,
    Connected(Socket, io::Result<()>),
    Received(Socket, Vec<u8>),
    Sent(Socket, io::Result<usize>),
    Writable(Socket),
    Ended(Socket, Option<io::Error>),
    Closed(Socket),
}

impl Happening {
    fn socket(&self) -> Option<Socket> {
        match self {
            Self::Accepted(_) | Self::AcceptFailed => None,
            Self::Connected(socket, _)
            | Self::Received(socket, _)
            | Self::Sent(socket, _)
            | Self::Writable(socket)
            | Self::Ended(socket, _)
            | Self::Closed(socket) => Some(*socket),
        }
    }
}

impl From<Event<'_>> for Happening {
    fn from(event: Event<'_>) -> Self {
        match event {
            Event::Accepted(fd) => Self::Accepted(fd),
            Event::AcceptFailed(_) => Self::AcceptFailed,
            Event::Connected(socket, result) => Self::Connected(socket, result),
            Event::Received(socket, bytes) => Self::Received(socket, bytes.to_vec()),
            Event::Sent(socket, result) => Self::Sent(socket, result),
            Event::Writable(socket) => Self::Writable(socket),
            Event::Ended(socket, error) => Self::Ended(socket, error),
            Event::Closed(socket) => Self::Closed(socket),
        }
    }
}

/// Rings that share a wake. Waits end only by a wake-up, so that a lost one fails the test.
pub struct Rig {
    pub wake: Wake,
    pub rings: Vec<Ring>,
    /// Sockets of each ring that must not be heard of any more.
    closed: HashSet<(usize, Socket)>,
    deadline: Instant,
}

impl Rig {
    pub fn new(configs: &[Config]) -> Self {
        let wake = Wake::new().unwrap();
        let rings = configs.iter().map(|config| Ring::new(*config, &wake).unwrap()).collect();
        Self { wake, rings, closed: HashSet::new(), deadline: Instant::now() + Duration::from_secs(60) }
    }

    /// One turn of every ring.
    pub fn turn(&mut self) -> Vec<(usize, Happening)> {
        let mut happened = Vec::new();
        self.wake.clear();
        for (index, ring) in self.rings.iter_mut().enumerate() {
            let before = happened.len();
            let events = ring.turn(|event| happened.push((index, Happening::from(event))));
            assert_eq!(events, happened.len() - before, "the count of events");
        }
        for (ring, happening) in &happened {
            let Some(socket) = happening.socket() else {
                continue;
            };
            assert!(!self.closed.contains(&(*ring, socket)), "{happening:?} after Closed");
            if matches!(happening, Happening::Closed(_)) {
                self.closed.insert((*ring, socket));
            }
        }
        happened
    }

    /// Turns until something happens.
    pub fn next(&mut self, what: &str) -> Vec<(usize, Happening)> {
        loop {
            let happened = self.turn();
            if !happened.is_empty() {
                return happened;
            }
            self.wait(what);
        }
    }

    /// Waits until woken, then turns: for what must happen without another call.
    pub fn woken(&mut self, what: &str) -> Vec<(usize, Happening)> {
        self.wait(what);
        self.turn()
    }

    fn wait(&mut self, what: &str) {
        let left = self.deadline.saturating_duration_since(Instant::now());
        self.wake.wait(left);
        assert!(Instant::now() < self.deadline, "waited too long for {what}");
    }

    /// A std client of the ring, and its socket there.
    pub fn client(&mut self, ring: usize) -> (TcpStream, Socket) {
        let (listener, address) = local_listener();
        let client = TcpStream::connect(address).unwrap();
        let (server, _) = listener.accept().unwrap();
        let socket = self.rings[ring].register(server.into()).unwrap();
        (client, socket)
    }

    /// Closes the socket and waits for the event, the only one that may come now.
    pub fn close(&mut self, ring: usize, socket: Socket) {
        self.rings[ring].close(socket);
        while !self.closed.contains(&(ring, socket)) {
            for (index, happening) in self.next("Closed") {
                let other = happening.socket() != Some(socket) || index != ring;
                assert!(other || matches!(happening, Happening::Closed(_)), "{happening:?} after close");
            }
        }
    }
}

pub fn local_listener() -> (TcpListener, SocketAddr) {
    let listener = uring::listener("127.0.0.1:0".parse().unwrap(), 1024, false, None).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// `len` bytes that differ by seed and position.
pub fn pattern(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|i| (seed * 131 + i * 7 + i / 251) as u8).collect()
}

/// Sends streams of bytes, one SEND in flight per socket, going on after short sends and full buffers.
#[derive(Default)]
pub struct Sender {
    waiting: HashMap<(usize, Socket), Vec<u8>>,
    in_flight: HashMap<(usize, Socket), Segment>,
    pub short: usize,
    pub blocked: usize,
}

impl Sender {
    pub fn add(&mut self, rig: &mut Rig, ring: usize, socket: Socket, bytes: &[u8]) {
        self.waiting.entry((ring, socket)).or_default().extend_from_slice(bytes);
        self.send(rig, ring, socket);
    }

    fn send(&mut self, rig: &mut Rig, ring: usize, socket: Socket) {
        if self.in_flight.contains_key(&(ring, socket)) {
            return;
        }
        if let Some(bytes) = self.waiting.remove(&(ring, socket)) {
            let segment = Segment::from(bytes);
            self.in_flight.insert((ring, socket), segment.clone());
            rig.rings[ring].send(socket, segment);
        }
    }

    /// Takes what concerns sending, gives back the rest.
    pub fn on(&mut self, rig: &mut Rig, ring: usize, happening: Happening) -> Option<Happening> {
        match happening {
            Happening::Sent(socket, Ok(n)) => {
                let left = self.in_flight.remove(&(ring, socket)).unwrap().skip(n);
                if left.is_empty() {
                    self.send(rig, ring, socket);
                } else {
                    self.short += 1;
                    self.in_flight.insert((ring, socket), left.clone());
                    rig.rings[ring].send(socket, left);
                }
            }
            Happening::Sent(socket, Err(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                self.blocked += 1;
                rig.rings[ring].wait_writable(socket);
            }
            Happening::Writable(socket) => rig.rings[ring].send(socket, self.in_flight[&(ring, socket)].clone()),
            other => return Some(other),
        }
        None
    }

    pub fn is_done(&self) -> bool {
        self.waiting.is_empty() && self.in_flight.is_empty()
    }
}
