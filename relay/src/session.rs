//! One connection: from bytes to commands, and what waits to be sent to it alone.
//!
//! Lives on its shard's core. Millions of them are idle, so a field here costs memory a million times.

use std::sync::Arc;

use protocol::frame::{Decoder, Role};
use protocol::{Close, Dialect};
use uring::Segment;

use crate::allowance::Allowance;
use crate::chain::Cursor;
use crate::config::Limits;
use crate::feed::Encoding;
use crate::ids::SessionId;
use crate::pipeline::Pipeline;

/// What the connection's bytes mean now.
pub enum Phase {
    /// HTTP until the request head is complete; the bytes so far.
    Handshake(Vec<u8>),
    /// WebSocket.
    Open,
    /// A close frame is queued or sent; only the peer's own close frame, its end or a timeout matters now.
    Closing,
}

/// What its messages mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    Dialect(Dialect),
    /// Every message comes back as it is: for conformance suites.
    Echo,
}

/// The one send that may be in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sending {
    Nothing,
    /// Private bytes: replies, or the rest of what was sent in part.
    Private,
    /// Bytes of a feed; `from` is the member's cursor before.
    Feed {
        feed: u32,
        from: Cursor,
    },
    /// The kernel took no more; waiting until the socket is writable.
    Blocked,
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
    pub sending: Sending,
    /// Its messages may be deflated, in both directions.
    pub deflate: bool,
    /// The last visit left something of its feed to send, or a join is to be followed by one: no sweep is waited for.
    pub more: bool,
    /// In the shard's list of sessions to look at before the turn ends.
    pub dirty: bool,
    /// One connection too many: its handshake is answered 503.
    pub refused: bool,
    /// The shard keeps replies of it that are to be encoded.
    pub has_backlog: bool,
    /// The socket is closed once everything queued is sent.
    pub close_when_sent: bool,
    /// Tenths of a second since the shard began: when it was last heard, last due to be pinged, and pinged for the first
    /// time since it was heard.
    pub heard_ds: u32,
    pub pinged_ds: u32,
    pub asked_ds: u32,
    /// Bytes that its kernel buffer took since it was last due to be pinged.
    pub taken: u32,
    /// Since when it has taken nothing of what waits for it, or too little of what waits for it alone; 0 while nothing
    /// waits.
    pub blocked_ds: u32,
    pub decoder: Decoder,
    /// Stands for the peer's address.
    pub address: u32,
    /// None until the connect command.
    pub user: Option<Arc<str>>,
    pub rooms: Vec<Membership>,
    /// Its commands on rooms that are under way, if there are any.
    pub pipeline: Option<Box<Pipeline>>,
    /// Whole frames for this connection alone, in front of feed visits.
    pub replies: Vec<u8>,
    /// The bytes in flight, and after a send that was taken in part the rest of them, which goes first.
    pub rest: Option<Segment>,
    /// None while nothing of it is missing.
    pub allowance: Option<Box<Allowance>>,
    pub reading: Reading,
}

impl Session {
    pub fn new(id: SessionId, message_bytes_max: usize, now_ds: u32) -> Self {
        Self {
            id,
            phase: Phase::Handshake(Vec::new()),
            speaks: Speaks::Echo,
            sending: Sending::Nothing,
            deflate: false,
            more: false,
            dirty: false,
            refused: false,
            has_backlog: false,
            close_when_sent: false,
            heard_ds: now_ds,
            pinged_ds: now_ds,
            asked_ds: now_ds,
            taken: 0,
            blocked_ds: 0,
            decoder: Decoder::new(Role::Server, message_bytes_max),
            address: 0,
            user: None,
            rooms: Vec::new(),
            pipeline: None,
            replies: Vec::new(),
            rest: None,
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

    /// Bytes that wait for it alone or are being sent to it alone.
    pub fn owed_bytes(&self) -> usize {
        let rest = match self.sending {
            Sending::Private | Sending::Blocked => self.rest.as_ref().map_or(0, Segment::len),
            Sending::Nothing | Sending::Feed { .. } => 0,
        };
        self.replies.len() + rest
    }

    /// Bytes that it holds for itself, as far as they are counted in the relay's memory.
    pub fn counted_bytes(&self) -> usize {
        self.allowance.as_ref().map_or(0, |allowance| allowance.counted_bytes)
    }

    /// Bytes of a message or of its request that have come, where that is not whole.
    pub fn halfway_bytes(&self) -> usize {
        match &self.phase {
            Phase::Handshake(head) => head.len(),
            Phase::Open | Phase::Closing => self.decoder.buffer_bytes(),
        }
    }

    /// It speaks a dialect and has not said `connect`.
    pub fn is_nobody(&self) -> bool {
        self.user.is_none() && self.speaks != Speaks::Echo
    }

    pub fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open)
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
    fn an_idle_session_stays_small() {
        assert!(size_of::<Session>() <= 208, "a session grew to {} bytes", size_of::<Session>());
        assert!(size_of::<Membership>() <= 24);
    }
}
