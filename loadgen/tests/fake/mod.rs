//! A small relay on threads that can be told to misbehave, and counts how often it did. For a few dozen users.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use protocol::frame::{Decoder, Role, write_close};
use protocol::handshake::{self, Request as Upgrading};
use protocol::{Command, Content, Dialect, Event, Message, native};

/// What the server does wrong. "Nth" counts publishes from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// One delivery of so many never leaves.
    DropOneDeliveryIn(u64),
    /// One member gets the nth message twice.
    DuplicateDelivery(u64),
    /// One member gets the nth message after the next one.
    SwapDeliveries(u64),
    /// Everybody gets the nth message with another body.
    AlterBody(u64),
    /// The nth message is acked and thrown away.
    AckWithoutStoring(u64),
    /// The nth message is stored, and delivered, twice.
    StoreTwice(u64),
    /// The publisher of the nth message is thrown out after its ack.
    ClosePublisher(u64),
    /// Everything stands still for so long at the nth message.
    Freeze(u64, Duration),
}

/// A running server; it ends with the test's process.
pub struct FakeRelay {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    fault: Fault,
    state: Mutex<State>,
    published: Condvar,
}

#[derive(Default)]
struct State {
    rooms: HashMap<String, Room>,
    published: u64,
    deliveries: u64,
    injected: u64,
}

#[derive(Default)]
struct Room {
    last_seq: u64,
    members: Vec<TcpStream>,
    /// A delivery that the first member gets after the next one.
    held_back: Option<Vec<u8>>,
}

impl FakeRelay {
    /// Serves on a free port.
    pub fn start(fault: Fault) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared { fault, state: Mutex::default(), published: Condvar::new() });
        let server = Self { address, shared: Arc::clone(&shared) };
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                thread::spawn(move || serve(stream, &shared));
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
}

/// One connection, until either end is done with it.
fn serve(mut stream: TcpStream, shared: &Shared) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut pending = open(&mut stream)?;
    let mut decoder = Decoder::new(Role::Server, 1 << 20);
    let mut user = String::new();
    let mut buffer = vec![0; 16 << 10];
    loop {
        let mut at = 0;
        while let (used, Some(message)) = decoder.next(&mut pending[at..]).ok()? {
            at += used;
            let mut alive = true;
            Dialect::Native
                .decode(&message, &mut |request| alive &= answer(&stream, shared, &mut user, request).is_some())
                .ok()?;
            alive.then_some(())?;
        }
        let received = stream.read(&mut buffer).ok().filter(|&received| received > 0)?;
        pending.clear();
        pending.extend_from_slice(&buffer[..received]);
    }
}

/// The handshake; gives the bytes that came behind it.
fn open(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    let mut buffer = [0; 2_048];
    loop {
        let received = stream.read(&mut buffer).ok().filter(|&received| received > 0)?;
        head.extend_from_slice(&buffer[..received]);
        match handshake::read_request(&head, 8_192) {
            Upgrading::Partial => {}
            Upgrading::Upgrade { upgrade, used } => {
                let mut answer = Vec::new();
                handshake::accept(&upgrade, Some(native::SUBPROTOCOL), false, &mut answer);
                stream.write_all(&answer).ok()?;
                return Some(head.split_off(used));
            }
            Upgrading::Refused { .. } => return None,
        }
    }
}

fn answer(mut stream: &TcpStream, shared: &Shared, user: &mut String, request: protocol::Request<'_>) -> Option<()> {
    let mut bytes = Vec::new();
    let mut reply = |event: &Event<'_>| Dialect::Native.encode(request.tag, event, &mut bytes);
    match request.command {
        Command::Connect { user: name, .. } => {
            *user = name?.into_owned();
            reply(&Event::Connected { user, session: 1, ping_s: 25 });
            stream.write_all(&bytes).ok()
        }
        Command::Join { room, .. } => {
            let mut state = shared.lock();
            let log = state.rooms.entry(room.to_string()).or_default();
            let head = log.last_seq;
            reply(&Event::Joined { room: &room, epoch: 1, from: head, head, recovering: false, recovered: false });
            stream.write_all(&bytes).ok()?;
            log.members.push(stream.try_clone().ok()?);
            Some(())
        }
        Command::Publish { room, body, .. } => {
            let nth = publish(stream, shared, user, request.tag, &room, &body)?;
            shared.published.notify_all();
            (shared.fault != Fault::ClosePublisher(nth)).then_some(())
        }
        _ => None,
    }
}

/// Stores, acks and delivers one message, in that order, with the fault where it belongs. Gives its number.
fn publish(stream: &TcpStream, shared: &Shared, user: &str, tag: u32, room: &str, body: &[u8]) -> Option<u64> {
    let state = &mut *shared.lock();
    state.published += 1;
    let nth = state.published;
    let log = state.rooms.get_mut(room)?;
    let seq = log.last_seq + 1;
    let mut ack = Vec::new();
    Dialect::Native.encode(tag, &Event::Acked { room, seq, id: seq }, &mut ack);
    (&*stream).write_all(&ack).ok()?;

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
            log.members.retain(|member| member.peer_addr().ok() != stream.peer_addr().ok());
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
    let State { rooms, deliveries, injected, .. } = state;
    let log = rooms.get_mut(room)?;
    for _ in 0..copies {
        log.last_seq += 1;
        let seq = log.last_seq;
        let message = Message { seq, id: seq, time_ms: 1, user, content: Content::Text, body };
        let mut batch = Vec::new();
        Dialect::Native.encode(0, &Event::Batch { room, messages: &[message] }, &mut batch);
        let late = log.held_back.take();
        for (member, stream) in log.members.iter_mut().enumerate() {
            *deliveries += 1;
            let times = match fault {
                Fault::DropOneDeliveryIn(n) => u64::from(!deliveries.is_multiple_of(n)),
                Fault::DuplicateDelivery(n) if n == nth && member == 0 => 2,
                Fault::SwapDeliveries(n) if n == nth && member == 0 => {
                    log.held_back = Some(batch.clone());
                    0
                }
                _ => 1,
            };
            *injected += u64::from(times != 1);
            (0..times).try_for_each(|_| stream.write_all(&batch)).ok()?;
        }
        if let Some(late) = late {
            log.members.first_mut()?.write_all(&late).ok()?;
        }
    }
    Some(nth)
}
