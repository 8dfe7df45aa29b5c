//! What a visit costs a shard without sockets: a room of members who take everything, swept at a fixed period, on a clock
//! that counts turns. Run twice under an instruction counter, the difference is visits alone:
//! `valgrind --tool=callgrind target/release/examples/visits MEMBERS SECONDS`.
#![allow(clippy::unwrap_used, reason = "an example ends by panicking")]

use protocol::frame::{self, Opcode};
use protocol::{Command, Content, Request, Start, handshake, native};
use relay::config::Limits;
use relay::ids::SessionId;
use relay::room::Log;
use relay::shard::{Now, Setup, Shard, StoreReply, StoreRequest};
use storage::LogState;

const MASK: [u8; 4] = [1, 2, 3, 4];
const ROOM: &str = "room";
/// A turn, a sweep, and how often somebody says something, microseconds.
const TURN_US: u64 = 2_000;
const PERIOD_US: u64 = 100_000;
const PUBLISH_US: u64 = 20_000;

struct Rig {
    shard: Shard,
    us: u64,
    /// What storage and sockets say at the next turn.
    stored: Vec<StoreReply>,
    sent: Vec<(SessionId, usize)>,
}

impl Rig {
    fn new() -> Self {
        let setup = Setup { period_us: Some(PERIOD_US), ..Setup::first_of(1, Limits::defaults()) };
        Self { shard: Shard::new(setup), us: 0, stored: Vec::new(), sent: Vec::new() }
    }

    /// One turn, in which one connection sends these bytes, if any.
    fn turn(&mut self, id: SessionId, bytes: &mut [u8]) {
        self.us += TURN_US;
        self.shard.begin(Now { us: self.us, wall_ms: 1_800_000_000_000 + self.us / 1000, cpu_us: self.us / 2 });
        for (id, len) in self.sent.drain(..) {
            self.shard.on_sent(id, Ok(len));
        }
        for reply in self.stored.drain(..) {
            self.shard.on_stored(reply);
        }
        if !bytes.is_empty() {
            self.shard.on_bytes(id, bytes);
        }
        self.shard.flush();
        let outbox = &mut self.shard.turn.outbox;
        self.sent.extend(outbox.sends.drain(..).map(|(id, segment)| (id, segment.len())));
        for request in outbox.store.drain(..) {
            match request {
                StoreRequest::Open { room } => {
                    let state = LogState { epoch: 1, last_seq: 0, last_id: 0 };
                    self.stored.push(StoreReply::Opened {
                        room,
                        log: Some(Log { state, tail: Vec::new(), keys: Vec::new() }),
                    });
                }
                StoreRequest::Append(append) => self.stored.push(StoreReply::Appended { room: append.room }),
                StoreRequest::Read { .. } | StoreRequest::Forget { .. } => {}
            }
        }
        outbox.receives.clear();
    }

    fn join(&mut self, slot: u16) {
        let id = SessionId::new(0, 0, slot, 0);
        self.shard.on_open(id, None, true);
        let mut hello = Vec::new();
        handshake::request("relay", native::PATH, None, false, [0; 16], &mut hello);
        say(1, Command::Connect { user: Some(format!("user {slot}").into()), device: None }, &mut hello);
        say(2, Command::Join { room: ROOM.into(), start: Start::Recent(0) }, &mut hello);
        self.turn(id, &mut hello);
    }
}

fn say(tag: u32, command: Command<'_>, out: &mut Vec<u8>) {
    let mut payload = Vec::new();
    native::encode_request(&Request { tag, command }, &mut payload);
    frame::write_masked(Opcode::Binary, &payload, MASK, out);
}

fn main() {
    let mut numbers = std::env::args().skip(1).map(|number| number.parse::<u64>().unwrap());
    let (members, seconds) = (numbers.next().unwrap_or(5_000), numbers.next().unwrap_or(2));
    let mut rig = Rig::new();
    for slot in 0..members as u16 {
        rig.join(slot);
    }
    let start = rig.us;
    let before = rig.shard.turn.stats.visits;
    while rig.us < start + seconds * 1_000_000 {
        let mut publish = Vec::new();
        if rig.us.is_multiple_of(PUBLISH_US) {
            let (body, room) = (b"something that somebody says in a chat".as_slice().into(), ROOM.into());
            say(3, Command::Publish { room, content: Content::Text, body, key: None }, &mut publish);
        }
        // Everybody says something now and then, as nobody may say much.
        let slot = (rig.us / PUBLISH_US % members) as u16;
        rig.turn(SessionId::new(0, 0, slot, 0), &mut publish);
    }
    println!("{} visits", rig.shard.turn.stats.visits - before);
}
