//! A small relay on threads that can be told to misbehave, and counts how often it did. For a few dozen users.

use std::collections::{HashMap, HashSet};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;

use protocol::frame::{Decoder, Deflater, Role, write_close};
use protocol::handshake::{self, Request as Upgrading};
use protocol::{ClientId, Command, Content, Dialect, ErrorCode, Event, Kind, Message, Page, Parts, Start, native};

use crate::deflate::alter;
pub use crate::fault::Fault;

/// Messages of an announced gap.
const GAP: u64 = 5;

/// A running server; it ends with the test's process.
pub struct FakeRelay {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    fault: Fault,
    deflates: bool,
    state: Mutex<State>,
    published: Condvar,
}

#[derive(Default)]
struct State {
    rooms: HashMap<String, Room>,
    /// Seqs by key.
    keys: HashMap<String, u64>,
    /// Keys that were refused once.
    refused: HashSet<String>,
    has_vanished: bool,
    published: u64,
    deliveries: u64,
    injected: u64,
    /// A seq that no page of history has.
    history_lacks: Option<u64>,
}

#[derive(Default)]
struct Room {
    /// User and body, from seq 1 on.
    log: Vec<(String, Vec<u8>)>,
    members: Vec<Member>,
    /// A delivery that the first member gets after the next one.
    held_back: Option<Vec<u8>>,
}

struct Member {
    name: String,
    stream: TcpStream,
    deflater: Option<Deflater>,
}

impl Member {
    fn is(&self, user: u32) -> bool {
        self.name == format!("test-{user}")
    }

    /// Whoever is gone by now gets nothing.
    fn send(&mut self, frames: &[u8]) {
        let bytes = self.packed(frames);
        let _ = self.stream.write_all(&bytes);
    }

    /// Frames as this member agreed to get them.
    fn packed(&mut self, frames: &[u8]) -> Vec<u8> {
        let Some(deflater) = &mut self.deflater else { return frames.to_vec() };
        let mut out = Vec::new();
        deflater.deflate(frames, 0, &mut out);
        out
    }

    /// Sends a compressed frame with a byte that is wrong. False: it has none that would do.
    fn send_wrong(&mut self, frame: &[u8], fault: Fault) -> bool {
        let mut packed = self.packed(frame);
        assert_eq!(packed[0] & 0x40, 0x40, "it is compressed");
        if let Fault::CorruptByte(..) = fault {
            *packed.last_mut().expect("it has bytes") = 0xff;
        } else {
            match alter(&packed) {
                Some(altered) => packed = altered,
                None => return false,
            }
        }
        let _ = self.stream.write_all(&packed);
        true
    }
}

impl Room {
    /// Messages `first..` of the log as one batch; none, when there is none.
    fn batch(&self, room: &str, first: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        let messages = self.messages(first);
        if !messages.is_empty() {
            Dialect::Native.encode(0, &Event::Batch { room, messages: &messages }, &mut bytes);
        }
        bytes
    }

    fn messages(&self, first: u64) -> Vec<Message<'_>> {
        let all = (1..).zip(&self.log).skip(first as usize - 1);
        all.map(|(seq, (user, body))| Message {
            seq,
            id: seq,
            time_ms: 1,
            user,
            content: Content::Text,
            body,
            kind: Kind::Message,
            parts: Parts::NONE,
        })
        .collect()
    }
}

impl State {
    /// Ends the connections that the fault is about.
    fn interrupt(&mut self, fault: Fault, at: u64) {
        let (Fault::GoAway(n) | Fault::CutAll(n) | Fault::CutOne(n, _) | Fault::Vanish(n)) = fault else { return };
        if n != at {
            return;
        }
        self.has_vanished = matches!(fault, Fault::Vanish(_));
        let only = if let Fault::CutOne(_, user) = fault { Some(user) } else { None };
        for room in self.rooms.values_mut() {
            for (nth, member) in room.members.iter_mut().enumerate() {
                if only.is_some_and(|user| !member.is(user)) {
                    continue;
                }
                if let Fault::GoAway(_) = fault {
                    let mut bytes = Vec::new();
                    let reconnect_after_ms = 100 + nth as u32;
                    Dialect::Native.encode(0, &Event::GoingAway { reason: "restart", reconnect_after_ms }, &mut bytes);
                    write_close(1_001, &format!("going away; reconnect after {reconnect_after_ms} ms"), &mut bytes);
                    member.send(&bytes);
                }
                let _ = member.stream.shutdown(Shutdown::Both);
                self.injected += 1;
            }
            room.members.retain(|member| only.is_some_and(|user| !member.is(user)));
        }
    }
}

impl FakeRelay {
    /// Serves on a free port.
    pub fn start(fault: Fault) -> Self {
        Self::serve(fault, false)
    }

    /// The same, and compresses for those who offer it.
    pub fn start_deflating(fault: Fault) -> Self {
        Self::serve(fault, true)
    }

    fn serve(fault: Fault, deflates: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared { fault, deflates, state: Mutex::default(), published: Condvar::new() });
        let server = Self { address, shared: Arc::clone(&shared) };
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if shared.lock().has_vanished {
                    return;
                }
                let shared = Arc::clone(&shared);
                thread::spawn(move || {
                    let address = stream.peer_addr().ok();
                    serve(stream, &shared);
                    let is_it = |member: &Member| member.stream.peer_addr().is_ok_and(|of| Some(of) == address);
                    shared.lock().rooms.values_mut().for_each(|room| room.members.retain(|member| !is_it(member)));
                });
            }
        });
        server
    }

    /// How often it misbehaved.
    pub fn injected(&self) -> u64 {
        self.shared.lock().injected
    }

    /// Blocks until so many messages were published.
    pub fn wait_for_publishes(&self, n: u64) {
        let state = self.shared.lock();
        drop(self.shared.published.wait_while(state, |state| state.published < n).expect("no thread panics"));
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread panics with the lock")
    }

    /// Whether this message is refused: the first time.
    fn refuses(&self, key: &str) -> bool {
        let state = &mut *self.lock();
        let is_first = matches!(self.fault, Fault::RateLimited | Fault::Busy) && state.refused.insert(key.to_owned());
        state.injected += u64::from(is_first);
        is_first
    }
}

/// One connection, until either end is done with it.
fn serve(mut stream: TcpStream, shared: &Shared) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let (mut pending, deflate) = open(&mut stream, shared.deflates)?;
    let mut decoder = Decoder::new(Role::Server, 1 << 20);
    let mut user = String::new();
    let mut buffer = vec![0; 16 << 10];
    loop {
        let mut at = 0;
        while let (used, Some(message)) = decoder.next(&mut pending[at..]).ok()? {
            at += used;
            let mut alive = true;
            Dialect::Native
                .decode(&message, &mut |request| {
                    alive &= answer(&stream, shared, &mut user, deflate, request).is_some();
                })
                .ok()?;
            alive.then_some(())?;
        }
        let received = stream.read(&mut buffer).ok().filter(|&received| received > 0)?;
        pending.clear();
        pending.extend_from_slice(&buffer[..received]);
    }
}

/// The handshake; gives the bytes that came behind it, and whether compression was agreed on.
fn open(stream: &mut TcpStream, deflates: bool) -> Option<(Vec<u8>, bool)> {
    let mut head = Vec::new();
    let mut buffer = [0; 2_048];
    loop {
        let received = stream.read(&mut buffer).ok().filter(|&received| received > 0)?;
        head.extend_from_slice(&buffer[..received]);
        match handshake::read_request(&head, 8_192) {
            Upgrading::Partial => {}
            Upgrading::Upgrade { upgrade, used } => {
                let mut answer = Vec::new();
                let deflate = deflates && upgrade.deflate;
                handshake::accept(&upgrade, Some(native::SUBPROTOCOL), deflate, &mut answer);
                stream.write_all(&answer).ok()?;
                return Some((head.split_off(used), deflate));
            }
            Upgrading::Refused { .. } => return None,
        }
    }
}

fn answer(
    mut stream: &TcpStream,
    shared: &Shared,
    user: &mut String,
    deflate: bool,
    request: protocol::Request<'_>,
) -> Option<()> {
    let mut bytes = Vec::new();
    let mut reply = |event: &Event<'_>| Dialect::Native.encode(request.tag, event, &mut bytes);
    match request.command {
        Command::Connect { user: name, .. } => {
            *user = name?.into_owned();
            reply(&Event::Connected { user, session: 1, client: ClientId(1), ping_s: 25 });
            stream.write_all(&bytes).ok()
        }
        Command::Join { room, start } => {
            let deflater = deflate.then(|| Deflater::new(6));
            let member = Member { name: user.clone(), stream: stream.try_clone().ok()?, deflater };
            join(member, shared, request.tag, &room, start);
            Some(())
        }
        Command::History { room, page: Page::After(seq), limit, .. } => {
            let state = &*shared.lock();
            let log = &state.rooms[&*room];
            let head = log.log.len() as u64;
            let mut messages = log.messages(seq + 1);
            messages.truncate(limit as usize);
            // A page is without holes: it ends where one begins, or begins behind it.
            if let Some(at) = state.history_lacks.and_then(|lacks| messages.iter().position(|m| m.seq == lacks)) {
                messages = if at == 0 { messages.split_off(1) } else { messages[..at].to_vec() };
            }
            reply(&Event::History { room: &room, epoch: 1, head, messages: &messages });
            stream.write_all(&bytes).ok()
        }
        Command::Publish { key, .. } if shared.refuses(key.as_deref()?) => {
            let code = if shared.fault == Fault::Busy { ErrorCode::Busy } else { ErrorCode::RateLimited };
            reply(&Event::Error { code, message: "not yet", retry_after_ms: 20 });
            stream.write_all(&bytes).ok()
        }
        Command::Publish { room, body, key, .. } => {
            if let Some(&seq) = shared.lock().keys.get(&*key.clone()?) {
                reply(&Event::Acked { room: &room, seq, id: seq });
                return stream.write_all(&bytes).ok();
            }
            let nth = publish(stream, shared, user, request.tag, (&room, &key?), &body)?;
            shared.published.notify_all();
            shared.lock().interrupt(shared.fault, nth);
            (shared.fault != Fault::ClosePublisher(nth)).then_some(())
        }
        _ => None,
    }
}

/// Makes the user a member: what it asks for, then what follows.
fn join(mut member: Member, shared: &Shared, tag: u32, room: &str, start: Start) {
    let State { rooms, injected, .. } = &mut *shared.lock();
    let log = rooms.entry(room.to_owned()).or_default();
    let head = log.log.len() as u64;
    let (mut from, recovering) = match start {
        Start::Recent(n) => (head - head.min(u64::from(n)), false),
        Start::Since { seq, .. } => (seq, true),
    };
    let inject = recovering && head > from && *injected == 0;
    let refused = inject && shared.fault == Fault::NotRecovered;
    if refused {
        from = head;
    }
    let joined = Event::Joined { room, epoch: 1, from, head, recovering, recovered: recovering && !refused };
    let (mut bytes, mut first) = (Vec::new(), from + 1);
    Dialect::Native.encode(tag, &joined, &mut bytes);
    match shared.fault {
        Fault::ResumeWithout if inject => first += 1,
        Fault::ResumeTwice if inject => {
            let twice = &log.messages(first)[..1];
            Dialect::Native.encode(0, &Event::Batch { room, messages: twice }, &mut bytes);
        }
        _ => {}
    }
    *injected +=
        u64::from(inject && matches!(shared.fault, Fault::ResumeWithout | Fault::ResumeTwice | Fault::NotRecovered));
    bytes.extend(log.batch(room, first));
    member.send(&bytes);
    log.members.push(member);
}

/// Stores, acks and delivers one message, in that order, with the fault where it belongs. Gives its number.
fn publish(
    stream: &TcpStream,
    shared: &Shared,
    user: &str,
    tag: u32,
    (room, key): (&str, &str),
    body: &[u8],
) -> Option<u64> {
    let state = &mut *shared.lock();
    state.published += 1;
    let nth = state.published;
    let log = state.rooms.get_mut(room)?;
    let seq = log.log.len() as u64 + 1;
    state.keys.insert(key.to_owned(), seq);
    let mut ack = Vec::new();
    Dialect::Native.encode(tag, &Event::Acked { room, seq, id: seq }, &mut ack);
    // Whoever has dropped out meanwhile publishes again and gets the same answer.
    let _ = (&*stream).write_all(&ack);

    let mut body = body.to_vec();
    let mut copies = 1;
    match shared.fault {
        Fault::AckWithoutStoring(n) if n == nth => copies = 0,
        Fault::StoreTwice(n) if n == nth => copies = 2,
        Fault::AlterBody(n) if n == nth => body.insert(0, b'!'),
        Fault::Freeze(n, time) if n == nth => thread::sleep(time),
        Fault::ClosePublisher(n) if n == nth => {
            let mut close = Vec::new();
            write_close(1_008, "out", &mut close);
            (&*stream).write_all(&close).ok()?;
            log.members.retain(|member| member.name != user);
        }
        Fault::ClosePublisher(_)
        | Fault::AckWithoutStoring(_)
        | Fault::StoreTwice(_)
        | Fault::AlterBody(_)
        | Fault::Freeze(..) => return deliver(state, Fault::None, nth, room, user, &body, 1),
        fault => return deliver(state, fault, nth, room, user, &body, 1),
    }
    state.injected += 1;
    deliver(state, Fault::None, nth, room, user, &body, copies)
}

fn deliver(state: &mut State, fault: Fault, nth: u64, room: &str, user: &str, body: &[u8], copies: u64) -> Option<u64> {
    let State { rooms, deliveries, injected, history_lacks, .. } = state;
    let log = rooms.get_mut(room)?;
    for _ in 0..copies {
        log.log.push((user.to_owned(), body.to_vec()));
        let seq = log.log.len() as u64;
        let batch = log.batch(room, seq);
        let late = log.held_back.take();
        for (at, member) in log.members.iter_mut().enumerate() {
            *deliveries += 1;
            let times = match fault {
                Fault::DropOneDeliveryIn(n) => u64::from(!deliveries.is_multiple_of(n)),
                Fault::DuplicateDelivery(n) if n == nth && at == 0 => 2,
                Fault::SwapDeliveries(n) if n == nth && at == 0 => {
                    log.held_back = Some(batch.clone());
                    0
                }
                Fault::SkipFor(n, user) if n == nth && member.is(user) => 0,
                Fault::AlterByte(n, user) if nth >= n && *injected == 0 && member.is(user) => {
                    u64::from(!member.send_wrong(&batch, fault))
                }
                Fault::CorruptByte(n, user) if n == nth && member.is(user) => {
                    u64::from(!member.send_wrong(&batch, fault))
                }
                Fault::GapFor(n, user) | Fault::LostGapFor(n, user)
                    if (n..n + GAP).contains(&nth) && member.is(user) =>
                {
                    if nth == n + GAP - 1 {
                        let mut gap = Vec::new();
                        Dialect::Native.encode(0, &Event::Gap { room, from: seq + 1 - GAP, to: seq }, &mut gap);
                        member.send(&gap);
                        *history_lacks = matches!(fault, Fault::LostGapFor(..)).then_some(seq + 2 - GAP);
                    }
                    0
                }
                Fault::CloseAsSlow(n, user) if n == nth && member.is(user) => {
                    let mut close = Vec::new();
                    write_close(4_001, "slow consumer", &mut close);
                    member.send(&close);
                    let _ = member.stream.shutdown(Shutdown::Write);
                    0
                }
                _ => 1,
            };
            *injected += u64::from(times != 1);
            (0..times).for_each(|_| member.send(&batch));
        }
        if let Some(late) = late {
            log.members.first_mut()?.send(&late);
        }
    }
    Some(nth)
}
