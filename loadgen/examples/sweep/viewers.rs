//! One thread of viewers: opens their connections, lets them say what is due, and times what a few of them receive.

use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Duration;

use loadgen::latency::Latency;
use protocol::frame::{Opcode, write_masked};
use protocol::native::encode_request;
use protocol::{Command, Content, Request, Start, handshake};
use uring::{Config, Event, Ring, Segment, SetupError, Socket, Wake};

use crate::stage::{Dialect, Line, Stage};

/// What the timed viewers of a thread heard, by second.
#[derive(Clone, Default)]
pub struct Heard {
    /// From the time a line was due to its receipt, by the second in which it was due.
    pub waits: Latency,
    /// Between two visits of a viewer, by the second of the later one.
    pub apart: Latency,
}

/// A message's body begins with this and its intended time in 16 hexadecimal digits, nanoseconds.
const MARK: &[u8] = b"~at~";
const MARKED: usize = MARK.len() + 16;
const MASK: [u8; 4] = [0x5a, 0x17, 0xc3, 0x2e];
/// What arrives wakes nobody; the thread looks this often.
const REST: Duration = Duration::from_micros(500);
/// Connections that one thread has under way.
const OPENING_MAX: usize = 256;
/// Nearer to each other than this, two receipts are of one visit, nanoseconds.
const PIECES_NS: u64 = 2_000_000;
const JOIN: u32 = 2;
const PUBLISH: u32 = 3;

/// Plays one thread's part.
pub fn run(stage: &Stage, thread: u32) -> Result<Vec<Heard>, SetupError> {
    let mut viewers = Viewers::new(stage, thread)?;
    viewers.open();
    while stage.begun_ns.load(Relaxed) == 0 && stage.failed.get().is_none() {
        viewers.turn(0);
    }
    let begun_ns = stage.begun_ns.load(Relaxed);
    let lines = stage.lines_of(thread);
    let mut lines = lines.iter().peekable();
    loop {
        let now_ns = stage.now_ns().saturating_sub(begun_ns);
        while let Some(line) = lines.next_if(|line| line.due_ns <= now_ns) {
            viewers.say(*line);
        }
        if now_ns > stage.end_ns() || stage.failed.get().is_some() {
            return Ok(viewers.heard);
        }
        viewers.turn(begun_ns);
    }
}

struct Viewers<'s> {
    stage: &'s Stage,
    thread: u32,
    rings: Vec<Ring>,
    crowd: Vec<Viewer>,
    /// By ring and slot: the viewer's place.
    seats: Vec<Vec<u32>>,
    outgoing: HashMap<u32, Outgoing>,
    heard: Vec<Heard>,
}

struct Viewer {
    number: u32,
    at: (u16, Socket),
    /// Bytes received until it is joined, and of one whose deliveries are timed the end of what was looked at.
    seen: Vec<u8>,
    phase: Phase,
    is_timed: bool,
    visited_ns: u64,
}

#[derive(Clone, Copy, PartialEq)]
enum Phase {
    New,
    Handshake,
    Joining,
    Joined,
}

struct Outgoing {
    under_way: Segment,
    waiting: Vec<u8>,
}

impl<'s> Viewers<'s> {
    fn new(stage: &'s Stage, thread: u32) -> Result<Self, SetupError> {
        let numbers = (thread..stage.users()).step_by(stage.threads as usize);
        let crowd: Vec<_> = numbers
            .map(|number| Viewer {
                number,
                at: (0, Socket { slot: 0, generation: 0 }),
                seen: Vec::new(),
                phase: Phase::New,
                is_timed: stage.is_timed(number),
                visited_ns: 0,
            })
            .collect();
        let per_ring = usize::from(stage.fit.ring_sockets);
        let count = crowd.len().div_ceil(per_ring).max(1);
        let sockets = per_ring.min(crowd.len().max(1)) as u16;
        let config = Config { sockets, recv_buffers: 128, recv_buffer_bytes: 32 << 10, queue_entries: 1_024 };
        let wake = Wake::new()?;
        let mut rings = (0..count).map(|_| Ring::new(config, &wake)).collect::<Result<Vec<_>, _>>()?;
        for ring in &mut rings {
            ring.set_quiet(true);
        }
        let seats = rings.iter().map(|_| vec![u32::MAX; usize::from(sockets)]).collect();
        let heard = vec![Heard::default(); stage.seconds()];
        Ok(Self { stage, thread, rings, crowd, seats, outgoing: HashMap::new(), heard })
    }

    /// Connects everybody and returns when all are in their rooms.
    fn open(&mut self) {
        let per_ring = usize::from(self.stage.fit.ring_sockets);
        let mut opened = 0;
        loop {
            let joined = self.crowd.iter().filter(|viewer| viewer.phase == Phase::Joined).count();
            self.stage.joined[self.thread as usize].store(joined as u32, Relaxed);
            if joined == self.crowd.len() || self.stage.failed.get().is_some() {
                return;
            }
            while opened < self.crowd.len() && opened - joined < OPENING_MAX {
                let (viewer, ring) = (&mut self.crowd[opened], opened / per_ring);
                let source = self.stage.source_of(viewer.number);
                match self.rings[ring].connect(source, self.stage.address) {
                    Ok(socket) => {
                        self.seats[ring][usize::from(socket.slot)] = opened as u32;
                        (viewer.at, viewer.phase) = ((ring as u16, socket), Phase::Handshake);
                    }
                    Err(error) => return self.stage.fail(format!("cannot connect: {error}")),
                }
                opened += 1;
            }
            for _ in 0..16 {
                self.turn(0);
            }
        }
    }

    /// Takes what came, and rests when there is nothing to submit.
    fn turn(&mut self, begun_ns: u64) {
        let mut events = Vec::new();
        let mut connected = Vec::new();
        for (ring, seats) in self.rings.iter_mut().zip(&self.seats) {
            let (viewers, stage, heard) = (&mut self.crowd, self.stage, &mut self.heard);
            ring.turn(|event| match event {
                Event::Received(socket, bytes) => {
                    let place = seats[usize::from(socket.slot)];
                    let viewer = &mut viewers[place as usize];
                    match viewer.phase {
                        Phase::Joined if !viewer.is_timed => {}
                        Phase::Joined => viewer.hear(bytes, stage.now_ns() - begun_ns, heard),
                        _ => {
                            viewer.seen.extend_from_slice(bytes);
                            connected.push(place);
                        }
                    }
                }
                Event::Connected(socket, outcome) => match outcome {
                    Ok(()) => connected.push(seats[usize::from(socket.slot)]),
                    Err(error) => stage.fail(format!("cannot connect: {error}")),
                },
                Event::Sent(socket, outcome) => events.push((seats[usize::from(socket.slot)], outcome)),
                Event::Writable(socket) => events.push((seats[usize::from(socket.slot)], Ok(0))),
                Event::Ended(_, why) => stage.fail(format!("a connection ended: {why:?}")),
                Event::Closed(_) | Event::Accepted(_) | Event::AcceptFailed(_) => {}
            });
        }
        let is_idle = events.is_empty() && connected.is_empty();
        for place in connected {
            self.go_on(place);
        }
        for (place, outcome) in events {
            self.sent(place, outcome);
        }
        if is_idle {
            thread::sleep(REST);
        }
    }

    /// The next step of a viewer on its way into its room.
    fn go_on(&mut self, place: u32) {
        let viewer = &mut self.crowd[place as usize];
        let stage = self.stage;
        let mut out = Vec::new();
        match viewer.phase {
            Phase::Handshake if viewer.seen.is_empty() => {
                let mut key = [0; 16];
                key[..4].copy_from_slice(&viewer.number.to_le_bytes());
                let (host, path) = (stage.address.to_string(), stage.dialect.path());
                handshake::request(&host, path, None, false, key, &mut out);
            }
            Phase::Handshake => {
                let Some(end) = find(&viewer.seen, b"\r\n\r\n") else { return };
                if !viewer.seen.starts_with(b"HTTP/1.1 101") {
                    return stage.fail(String::from_utf8_lossy(&viewer.seen[..end]).into_owned());
                }
                viewer.seen.clear();
                viewer.phase = Phase::Joining;
                stage.dialect.enter(viewer.number, &stage.room_of(viewer.number), &mut out);
            }
            Phase::Joining if stage.dialect.has_joined(&viewer.seen) => {
                viewer.phase = Phase::Joined;
                viewer.seen = Vec::new();
            }
            _ => {}
        }
        if !out.is_empty() {
            self.send(place, out);
        }
    }

    fn say(&mut self, line: Line) {
        let mark = String::from_utf8_lossy(MARK);
        let body = format!("{mark}{:016x} {}", line.due_ns, &FILLER[..line.filler]);
        let mut out = Vec::new();
        self.stage.dialect.publish(&self.stage.room_of(line.user), &body, &mut out);
        self.send(line.user / self.stage.threads, out);
    }

    fn send(&mut self, place: u32, bytes: Vec<u8>) {
        if let Some(outgoing) = self.outgoing.get_mut(&place) {
            outgoing.waiting.extend_from_slice(&bytes);
            return;
        }
        self.start(place, Segment::from(bytes), Vec::new());
    }

    fn start(&mut self, place: u32, segment: Segment, waiting: Vec<u8>) {
        let (ring, socket) = self.crowd[place as usize].at;
        self.rings[usize::from(ring)].send(socket, segment.clone());
        self.outgoing.insert(place, Outgoing { under_way: segment, waiting });
    }

    fn sent(&mut self, place: u32, outcome: std::io::Result<usize>) {
        let taken = match outcome {
            Ok(taken) => taken,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                let (ring, socket) = self.crowd[place as usize].at;
                return self.rings[usize::from(ring)].wait_writable(socket);
            }
            Err(error) => return self.stage.fail(format!("cannot send: {error}")),
        };
        let Some(Outgoing { under_way, waiting }) = self.outgoing.remove(&place) else { return };
        if taken < under_way.len() {
            self.start(place, under_way.skip(taken), waiting);
        } else if !waiting.is_empty() {
            self.start(place, Segment::from(waiting), Vec::new());
        }
    }
}

impl Viewer {
    /// Looks for lines in what was received, whose last bytes may be the beginning of one.
    fn hear(&mut self, bytes: &[u8], now_ns: u64, heard: &mut [Heard]) {
        let second = |ns: u64| (ns / 1_000_000_000) as usize;
        let apart_ns = now_ns.saturating_sub(std::mem::replace(&mut self.visited_ns, now_ns));
        // What a visit brings may come in pieces.
        if apart_ns > PIECES_NS
            && let Some(heard) = heard.get_mut(second(now_ns))
        {
            heard.apart.record(apart_ns);
        }
        self.seen.extend_from_slice(bytes);
        let mut at = 0;
        while let Some(found) = find(&self.seen[at..], MARK) {
            at += found;
            let Some(digits) = self.seen.get(at + MARK.len()..at + MARKED) else { break };
            let due_ns = std::str::from_utf8(digits).ok().and_then(|digits| u64::from_str_radix(digits, 16).ok());
            if let Some(due_ns) = due_ns
                && let Some(heard) = heard.get_mut(second(due_ns))
            {
                heard.waits.record(now_ns.saturating_sub(due_ns));
            }
            at += MARKED;
        }
        let kept = at.max(self.seen.len().saturating_sub(MARKED)).min(self.seen.len());
        self.seen.drain(..kept);
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    memchr::memmem::find(bytes, what)
}

/// Ordinary words to fill a line with.
const FILLER: &str = "that was the best play of the whole evening, who would have thought it after such a first half, \
                      and now everybody is writing at once about it";

impl Dialect {
    fn path(self) -> &'static str {
        match self {
            Self::Native => protocol::native::PATH,
            Self::Json => "/connection/websocket",
        }
    }

    /// Appends who a viewer is and which room it joins.
    fn enter(self, number: u32, room: &str, out: &mut Vec<u8>) {
        match self {
            Self::Native => {
                native(1, Command::Connect { user: Some(format!("viewer-{number}").into()), device: None }, out);
                native(JOIN, Command::Join { room: room.into(), start: Start::Recent(0) }, out);
            }
            Self::Json => {
                text(&format!("{{\"id\":1,\"connect\":{{\"data\":{{\"user\":\"viewer-{number}\"}}}}}}"), out);
                text(&format!("{{\"id\":{JOIN},\"subscribe\":{{\"channel\":\"{room}\"}}}}"), out);
            }
        }
    }

    /// Whether these bytes, from the first after the handshake, say so.
    fn has_joined(self, seen: &[u8]) -> bool {
        match self {
            // The reply names the room.
            Self::Native => find(seen, b"sweep-").is_some(),
            Self::Json => find(seen, b"\"id\":2").is_some(),
        }
    }

    fn publish(self, room: &str, body: &str, out: &mut Vec<u8>) {
        match self {
            Self::Native => {
                let command = Command::Publish {
                    room: room.into(),
                    content: Content::Text,
                    body: body.as_bytes().into(),
                    key: None,
                };
                native(PUBLISH, command, out);
            }
            Self::Json => {
                text(&format!("{{\"id\":{PUBLISH},\"publish\":{{\"channel\":\"{room}\",\"data\":\"{body}\"}}}}"), out);
            }
        }
    }
}

fn native(tag: u32, command: Command<'_>, out: &mut Vec<u8>) {
    let mut payload = Vec::new();
    encode_request(&Request { tag, command }, &mut payload);
    write_masked(Opcode::Binary, &payload, MASK, out);
}

fn text(json: &str, out: &mut Vec<u8>) {
    write_masked(Opcode::Text, json.as_bytes(), MASK, out);
}
