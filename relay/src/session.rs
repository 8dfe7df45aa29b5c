//! What a shard knows of one connection: what its bytes mean, what is sent to it, and its rooms.
//!
//! Lives on its shard's core. Millions of them are idle, so a field here costs memory a million times.

use std::mem;
use std::net::IpAddr;
use std::sync::Arc;

use protocol::frame::{Decoder, Role};
use protocol::{Close, Dialect};
use uring::Segment;

use crate::allowance::Allowance;
use crate::chain::Cursor;
use crate::config::Limits;
use crate::feed::Encoding;
use crate::ids::{SessionId, address_number};
use crate::pipeline::Pipeline;

/// What the connection's bytes mean now.
pub enum Phase {
    /// HTTP until the request head is complete; what has come of it.
    Handshake(Box<Arrival>),
    /// WebSocket. Until the connect command, what decides who this is.
    Open(Option<Box<Arrival>>),
    /// A close frame is queued or sent; only the peer's own close frame, its end or a timeout matters now.
    Closing,
}

/// What a connection came with.
#[derive(Debug)]
pub struct Arrival {
    /// The peer's address; none when it was gone before it was asked for.
    pub peer: Option<IpAddr>,
    /// The request head: path, query, Origin, Authorization, forwarded addresses ([`protocol::handshake::header`]).
    pub head: Vec<u8>,
}

/// What its messages mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    Dialect(Dialect),
    /// Every message comes back as it is: for conformance suites.
    Echo,
}

/// The one send that may be in flight.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Sending {
    #[default]
    Nothing,
    /// Private bytes: replies, or the rest of what was sent in part.
    Private,
    /// Bytes of a feed; `from` is the member's cursor before.
    Feed { feed: u32, from: Cursor },
    /// The kernel took no more; waiting until the socket is writable.
    Blocked,
}

/// What is sent to a connection: what is on its way, and what waits for it alone.
#[derive(Default)]
pub struct Outgoing {
    pub sending: Sending,
    /// Whole frames for this connection alone, in front of feed visits.
    pub replies: Vec<u8>,
    /// The bytes in flight, and after a send that was taken in part the rest of them, which goes first.
    pub rest: Option<Segment>,
    /// Since when it has taken nothing of what waits for it, or too little of what waits for it alone, tenths of a second
    /// since the shard began; 0 while nothing waits.
    pub blocked_ds: u32,
    /// More of a feed is to be sent as soon as the last send ends, without waiting for a sweep: the last visit did not reach the
    /// head, or the member has just joined behind it.
    pub more: bool,
    /// The front keeps replies of it that are to be encoded.
    pub has_backlog: bool,
    /// The socket is closed once everything queued is sent.
    pub close_when_sent: bool,
}

impl Outgoing {
    /// Bytes that wait for it alone or are being sent to it alone.
    pub fn owed_bytes(&self) -> usize {
        let rest = match self.sending {
            Sending::Private | Sending::Blocked => self.rest.as_ref().map_or(0, Segment::len),
            Sending::Nothing | Sending::Feed { .. } => 0,
        };
        self.replies.len() + rest
    }

    /// What is to be sent next of what waits for it alone: first the rest of what was taken in part.
    pub fn next_private(&mut self) -> Option<Segment> {
        let segment = match self.rest.take() {
            Some(rest) => rest,
            None if self.replies.is_empty() => return None,
            None => Segment::from(mem::take(&mut self.replies)),
        };
        self.sending = Sending::Private;
        self.rest = Some(segment.clone());
        Some(segment)
    }

    /// Something waits for it alone.
    pub fn has_private(&self) -> bool {
        !self.replies.is_empty() || self.has_backlog || self.close_when_sent
    }
}

/// When a connection gave signs of life and was asked for them, tenths of a second since the shard began.
#[derive(Debug, Clone, Copy)]
pub struct Liveness {
    /// When it was last heard.
    pub heard_ds: u32,
    /// When it was last due to be pinged.
    pub pinged_ds: u32,
    /// When it was pinged for the first time since it was heard.
    asked_ds: u32,
    /// Bytes that its kernel buffer took since it was last due to be pinged.
    taken: u32,
}

impl Liveness {
    pub fn new(now_ds: u32) -> Self {
        Self { heard_ds: now_ds, pinged_ds: now_ds, asked_ds: now_ds, taken: 0 }
    }

    /// It is there.
    pub fn hear(&mut self, now_ds: u32) {
        self.heard_ds = now_ds;
    }

    /// Its kernel buffer took so many bytes.
    pub fn take(&mut self, bytes: usize) {
        self.taken = self.taken.saturating_add(bytes as u32);
    }

    /// What its kernel buffer took since this was asked last, bytes.
    pub fn taken(&mut self) -> usize {
        mem::take(&mut self.taken) as usize
    }

    /// It is due to be pinged; somebody whose silence means nothing is not asked.
    pub fn ping(&mut self, now_ds: u32, asks: bool) {
        self.pinged_ds = now_ds;
        if asks && self.asked_ds <= self.heard_ds {
            self.asked_ds = now_ds;
        }
    }

    /// For how long it has not been heard.
    pub fn silent_ds(&self, now_ds: u32) -> u32 {
        now_ds - self.heard_ds
    }

    /// For how long a ping was not answered; `None` when there is none. Whoever was not pinged in time, because this process
    /// stood still or enough else was sent, had nothing to answer.
    pub fn unanswered_ds(&self, now_ds: u32) -> Option<u32> {
        (self.asked_ds > self.heard_ds).then(|| now_ds - self.asked_ds)
    }
}

/// Membership in one room.
#[derive(Debug, Clone, Copy)]
pub struct Membership {
    /// Index of the feed on this core.
    pub feed: u32,
    /// Index in the feed's list of members; `u32::MAX` while the join is under way.
    pub at: u32,
    pub cursor: Cursor,
}

impl Membership {
    pub fn is_joined(&self) -> bool {
        self.at != u32::MAX
    }
}

/// How far its bytes are read.
#[derive(Debug, Clone, Copy, Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts, and a million of them")]
pub struct Reading {
    /// The shard's intake keeps bytes of it, or the rest of a message.
    pub has_left: bool,
    /// These wait for their turn.
    pub queued: bool,
    /// More bytes came while some were left.
    pub behind: bool,
    /// It owes work, and is read again when time has paid for it.
    pub resting: bool,
    /// The ring was told not to receive.
    pub paused: bool,
    /// The peer has said everything.
    pub ended: bool,
    /// It is in the middle of a message or request, of which more has come than its share.
    pub halfway: bool,
}

/// One connection.
pub struct Session {
    pub id: SessionId,
    pub phase: Phase,
    pub speaks: Speaks,
    /// Its messages may be deflated, in both directions.
    pub deflate: bool,
    /// In the shard's list of sessions to look at before the turn ends.
    pub dirty: bool,
    /// One connection too many: its handshake is answered 503.
    pub refused: bool,
    pub alive: Liveness,
    pub out: Outgoing,
    pub decoder: Decoder,
    /// Stands for the peer's address.
    pub address: u32,
    /// None until the connect command.
    pub user: Option<Arc<str>>,
    pub rooms: Vec<Membership>,
    /// Its commands on rooms that are under way, if there are any.
    pub pipeline: Option<Box<Pipeline>>,
    /// None while nothing of it is missing.
    pub allowance: Option<Box<Allowance>>,
    pub reading: Reading,
}

impl Session {
    pub fn new(id: SessionId, peer: Option<IpAddr>, message_bytes_max: usize, now_ds: u32) -> Self {
        Self {
            id,
            phase: Phase::Handshake(Box::new(Arrival { peer, head: Vec::new() })),
            speaks: Speaks::Echo,
            deflate: false,
            dirty: false,
            refused: false,
            alive: Liveness::new(now_ds),
            out: Outgoing::default(),
            decoder: Decoder::new(Role::Server, message_bytes_max),
            address: address_number(peer),
            user: None,
            rooms: Vec::new(),
            pipeline: None,
            allowance: None,
            reading: Reading::default(),
        }
    }

    /// Status code and reason for closing this connection.
    pub fn close_reason(&self, why: Close) -> (u16, &'static str) {
        match self.speaks {
            Speaks::Dialect(dialect) => dialect.close(why),
            Speaks::Echo => Dialect::Native.close(why),
        }
    }

    /// How it takes frames, if it speaks a dialect.
    pub fn encoding(&self) -> Option<Encoding> {
        match self.speaks {
            Speaks::Dialect(dialect) => Some(Encoding { dialect, deflate: self.deflate }),
            Speaks::Echo => None,
        }
    }

    /// It has as many commands under way as it may: no more are to be read.
    pub fn is_at_its_share(&self, limits: &Limits) -> bool {
        self.pipeline.as_ref().is_some_and(|pipeline| {
            pipeline.commands() >= limits.commands_per_session_max || pipeline.waiting_bytes() >= limits.frame_bytes_max
        })
    }

    /// What it may cost from now on.
    pub fn allowance(&mut self, limits: &Limits, now_us: u64) -> &mut Allowance {
        self.allowance.get_or_insert_with(|| Box::new(Allowance::full(limits, now_us)))
    }

    /// Bytes that it holds for itself, as far as they are counted in the relay's memory.
    pub fn counted_bytes(&self) -> usize {
        self.allowance.as_ref().map_or(0, |allowance| allowance.counted_bytes)
    }

    /// Bytes of a message or of its request that have come, where that is not whole.
    pub fn halfway_bytes(&self) -> usize {
        match &self.phase {
            Phase::Handshake(arrival) => arrival.head.len(),
            Phase::Open(_) | Phase::Closing => self.decoder.buffer_bytes(),
        }
    }

    /// Bytes of the request that are kept until it is known who this is.
    pub fn arrival_bytes(&self) -> usize {
        match &self.phase {
            Phase::Open(Some(arrival)) => arrival.head.capacity(),
            _ => 0,
        }
    }

    /// It is known who this is: what it came with is not needed any more.
    pub fn take_arrival(&mut self) -> Option<Box<Arrival>> {
        match &mut self.phase {
            Phase::Open(arrival) => arrival.take(),
            _ => None,
        }
    }

    /// It is pinged at the dialect's interval, whatever else it is sent or says.
    pub fn expects_pings(&self) -> bool {
        matches!(self.speaks, Speaks::Dialect(dialect) if dialect.has_pings())
    }

    /// It speaks a dialect and has not said `connect`.
    pub fn is_nobody(&self) -> bool {
        self.user.is_none() && self.speaks != Speaks::Echo
    }

    pub fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open(_))
    }
}

/// The sessions of one shard, by ring and slot.
#[derive(Default)]
pub struct Sessions {
    rings: Vec<Vec<Option<Box<Session>>>>,
    count: usize,
}

impl Sessions {
    pub fn len(&self) -> usize {
        self.count
    }
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds a connection.
    pub fn open(&mut self, session: Session) {
        let (ring, slot) = (session.id.ring(), usize::from(session.id.slot()));
        if self.rings.len() <= ring {
            self.rings.resize_with(ring + 1, Vec::new);
        }
        let slots = &mut self.rings[ring];
        if slots.len() <= slot {
            slots.resize_with(slot + 1, || None);
        }
        assert!(slots[slot].is_none(), "a slot is closed before it is taken again");
        slots[slot] = Some(Box::new(session));
        self.count += 1;
    }

    pub fn get(&mut self, id: SessionId) -> Option<&mut Session> {
        let session = self.rings.get_mut(id.ring())?.get_mut(usize::from(id.slot()))?.as_deref_mut()?;
        (session.id == id).then_some(session)
    }

    /// Takes a session out while commands of it run; [`Sessions::put`] brings it back.
    pub fn take(&mut self, id: SessionId) -> Option<Box<Session>> {
        self.get(id)?;
        self.rings[id.ring()][usize::from(id.slot())].take()
    }
    pub fn put(&mut self, session: Box<Session>) {
        let (ring, slot) = (session.id.ring(), usize::from(session.id.slot()));
        self.rings[ring][slot] = Some(session);
    }

    /// Removes a connection for good.
    pub fn remove(&mut self, id: SessionId) -> Option<Box<Session>> {
        let session = self.take(id)?;
        self.count -= 1;
        Some(session)
    }

    /// Slots that were ever taken.
    pub fn slots(&self) -> u64 {
        self.rings.iter().map(|slots| slots.len() as u64).sum()
    }

    /// The session in the slot at `place` (ring, slot), which moves on to the next slot.
    pub fn walk(&self, place: &mut (usize, usize)) -> Option<SessionId> {
        while self.rings.get(place.0)?.len() <= place.1 {
            *place = (place.0 + 1, 0);
        }
        let session = self.rings[place.0][place.1].as_ref();
        place.1 += 1;
        session.map(|session| session.id)
    }

    /// [`Sessions::slice`], to change them.
    pub fn slice_mut(&mut self, part: usize, parts: usize) -> impl Iterator<Item = &mut Session> {
        self.rings
            .iter_mut()
            .flat_map(move |slots| slots.iter_mut().skip(part).step_by(parts).flatten().map(|s| &mut **s))
    }

    /// The sessions among the slots `part` of `parts` of every ring: a slice for housekeeping.
    pub fn slice(&self, part: usize, parts: usize) -> impl Iterator<Item = &Session> {
        self.rings.iter().flat_map(move |slots| slots.iter().skip(part).step_by(parts).flatten().map(|s| &**s))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_ping_that_was_sent_and_not_answered_counts() {
        let mut alive = Liveness::new(1);
        assert_eq!((alive.silent_ds(100), alive.unanswered_ds(100)), (99, None), "nobody asked");
        alive.ping(100, false);
        assert_eq!(alive.unanswered_ds(200), None, "enough else was sent");
        alive.ping(200, true);
        alive.ping(300, true);
        assert_eq!(alive.unanswered_ds(350), Some(150), "since the first of them");
        alive.hear(360);
        assert_eq!((alive.silent_ds(400), alive.unanswered_ds(400)), (40, None));
    }

    #[test]
    fn the_rest_of_a_send_goes_before_what_came_later() {
        let mut out = Outgoing::default();
        assert!(out.next_private().is_none() && !out.has_private());
        out.replies.extend_from_slice(b"first");
        let sent = out.next_private().expect("something waits");
        assert_eq!((out.sending, out.owed_bytes()), (Sending::Private, 5));
        out.rest = Some(sent.skip(2));
        out.replies.extend_from_slice(b"second");
        assert_eq!(out.owed_bytes(), 9);
        assert_eq!(out.next_private().expect("the rest").len(), 3);
    }

    #[test]
    fn an_idle_session_stays_small() {
        assert!(size_of::<Session>() <= 208, "a session grew to {} bytes", size_of::<Session>());
        assert!(size_of::<Membership>() <= 24);
    }
}
