//! One shard and its connections, turn by turn, for what whole simulations would take too long to meet.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use protocol::frame::{self, Decoder, Incoming, Opcode, Role};
use protocol::{Command, Content, Dialect, OwnedParts, Request, centrifuge, handshake};
use relay::budget::Budget;
use relay::config::Limits;
use relay::ids::SessionId;
use relay::room::Log;
use relay::shard::{Found, Now, Setup, Shard, StoreReply, StoreRequest};
use storage::{Kind, LogState, Record};

use crate::speech;

pub const MASK: [u8; 4] = [1, 2, 3, 4];
pub const TURN_US: u64 = 2_000;
/// Messages of every room.
const LINES: u64 = 1000;

pub fn text(payload: &str) -> Vec<u8> {
    let mut out = Vec::new();
    frame::write_masked(Opcode::Text, payload.as_bytes(), MASK, &mut out);
    out
}

pub fn said(tag: u32, command: Command<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    speech::say(Dialect::Centrifuge, &Request { tag, command }, (MASK, usize::MAX), None, &mut out);
    out
}

/// A shard, and what its connections are sent.
pub struct Rig {
    pub shard: Shard,
    pub budget: Arc<Budget>,
    pub us: u64,
    down: BTreeMap<SessionId, Vec<u8>>,
    sent: Vec<(SessionId, usize)>,
    pub paused: BTreeSet<SessionId>,
    pub open: BTreeSet<SessionId>,
    /// They take nothing of what they are sent.
    pub stalled: BTreeSet<SessionId>,
    records: Vec<Arc<Record>>,
    stored: Vec<StoreReply>,
}

/// What a room has in storage where everybody says the same.
pub fn records(body: &[u8]) -> Vec<Arc<Record>> {
    let record = |seq| Record {
        kind: Kind::Message,
        seq,
        id: seq,
        time_ms: 1_800_000_000_000,
        sender: "somebody".into(),
        content: Content::Text,
        body: body.into(),
        key: None,
        parts: OwnedParts::default(),
    };
    (1..=LINES).map(|seq| Arc::new(record(seq))).collect()
}

impl Rig {
    pub fn new(limits: Limits) -> Self {
        Self::first_of(1, limits)
    }

    /// The first of so many shards; what it tells the others stays in its outbox.
    pub fn first_of(shards: usize, limits: Limits) -> Self {
        let setup = Setup::first_of(shards, limits);
        let budget = setup.budget.clone();
        let (down, sent, paused, open, stalled, stored) = Default::default();
        Self {
            shard: Shard::new(setup),
            budget,
            us: 0,
            down,
            sent,
            paused,
            open,
            stalled,
            records: records(b"something"),
            stored,
        }
    }

    /// A connection that shakes hands in the next turn.
    pub fn open(&mut self, slot: u16) -> (SessionId, Vec<u8>) {
        let id = SessionId::new(0, 0, slot, 0);
        self.shard.on_open(id, None, true);
        self.open.insert(id);
        let mut head = Vec::new();
        handshake::request("relay", centrifuge::PATH, None, true, [0; 16], &mut head);
        (id, head)
    }

    /// One turn with these bytes. Everybody who is not stalled takes all that it is sent.
    pub fn turn(&mut self, inputs: &[(SessionId, &[u8])]) {
        self.us += TURN_US;
        self.shard.begin(Now { us: self.us, wall_ms: 1_800_000_000_000 + self.us / 1000, cpu_us: 0 });
        for (id, len) in std::mem::take(&mut self.sent) {
            let taken = if self.stalled.contains(&id) { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(len) };
            self.shard.on_sent(id, taken);
        }
        self.stored.drain(..).for_each(|reply| self.shard.on_stored(reply));
        for (id, bytes) in inputs {
            self.shard.on_bytes(*id, &mut bytes.to_vec());
        }
        self.shard.flush();
        let outbox = &mut self.shard.turn.outbox;
        for (id, segment) in outbox.sends.drain(..) {
            self.down.entry(id).or_default().extend_from_slice(segment.bytes());
            self.sent.push((id, segment.len()));
        }
        for (id, wanted) in outbox.receives.drain(..) {
            let changed = if wanted { self.paused.remove(&id) } else { self.paused.insert(id) };
            assert!(changed, "{id:?} is told twice whether to receive: {wanted}");
        }
        for id in outbox.closes.drain(..) {
            self.open.remove(&id);
            self.sent.retain(|(other, _)| *other != id);
        }
        for request in outbox.store.drain(..) {
            self.stored.extend(stored(request, &self.records));
        }
    }

    /// What a connection was sent since the last call, without the answer to its request.
    pub fn heard(&mut self, id: SessionId) -> Vec<u8> {
        self.down.remove(&id).unwrap_or_default()
    }
}

/// What storage did, where every room has these records.
fn stored(request: StoreRequest, records: &[Arc<Record>]) -> Option<StoreReply> {
    match request {
        StoreRequest::Open { room } => {
            let state = LogState { epoch: 1, last_seq: LINES, last_id: LINES };
            Some(StoreReply::Opened { room, log: Some(Log { state, tail: records.to_vec(), keys: Vec::new() }) })
        }
        StoreRequest::Append(append) => Some(StoreReply::Appended { room: append.room }),
        StoreRequest::Read { room, wanted, .. } => {
            let records = records[wanted.first as usize - 1..wanted.last as usize].to_vec();
            let found =
                Found { first: wanted.first, records, has_expired: false, more_before: false, more_after: false };
            Some(StoreReply::Read { room, wanted, found: Ok(found) })
        }
        StoreRequest::Forget { .. } => None,
    }
}

/// The status of the close frame among these bytes.
pub fn closed_with(bytes: &[u8]) -> Option<u16> {
    let end = bytes.windows(4).position(|part| part == b"\r\n\r\n")? + 4;
    let mut bytes = bytes[end..].to_vec();
    let mut decoder = Decoder::new(Role::Client, 1 << 30).with_deflate();
    let mut at = 0;
    while let Ok((used, Some(incoming))) = decoder.next(&mut bytes[at..]) {
        if let Incoming::Close { code, .. } = incoming {
            return code;
        }
        at += used;
    }
    None
}
