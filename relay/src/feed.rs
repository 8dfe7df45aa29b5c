//! A room as one core serves it to its members there: frames encoded once, and cursors over them.
//!
//! A feed has one [`Chain`] per encoding in use. A member owns a [`Cursor`] and nothing else; a visit sends the bytes
//! from the cursor towards the head of the chain, shared by everybody.

use std::collections::VecDeque;
use std::sync::Arc;

use protocol::Dialect;

use crate::chain::{Chain, Cursor};
use crate::ids::SessionId;
use crate::tempo::MessageRate;

/// How a member takes its frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Encoding {
    pub dialect: Dialect,
    /// It negotiated permessage-deflate.
    pub deflate: bool,
}

/// What a core can serve a joining member from its own chain, so that the room's owner need not send it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shared {
    /// The member starts after this seq…
    pub from: u64,
    /// …and the core's frames continue after this one, the first place between two frames.
    pub boundary: u64,
}

/// So many deliveries to members that sweeps visit are noted with their times: more than come in one period.
const DELIVERIES_NOTED: usize = 16;

/// The frames of one encoding.
struct Line {
    encoding: Encoding,
    chain: Chain,
    /// Members that take them.
    members: u32,
}

/// A room's members on one core and what they are sent.
pub struct Feed {
    pub room: Arc<str>,
    pub members: Vec<SessionId>,
    /// Joins that were sent to the owner and not answered yet.
    pub joining: u32,
    /// Last seq that arrived from the owner.
    pub head: u64,
    /// The encodings in use here: few, so that looking through them costs nothing.
    lines: Vec<Line>,
    /// Served by sweeps; otherwise every frame goes out at once.
    pub paced: bool,
    /// Members still to be visited since the last frame, and the index of the one visited last.
    pub unvisited: usize,
    visited: usize,
    /// Messages since the rate was last looked at, and that rate.
    pub recent: u32,
    pub rate: MessageRate,
    /// Bytes of frames that are counted in the relay's memory.
    pub counted: usize,
    /// The last deliveries: the seq each ends with, and since when its messages are durable, milliseconds since 1970.
    durable_ms: VecDeque<(u64, u64)>,
}

impl Feed {
    pub fn new(room: Arc<str>) -> Self {
        Self {
            room,
            members: Vec::new(),
            joining: 0,
            head: 0,
            lines: Vec::new(),
            paced: false,
            unvisited: 0,
            visited: 0,
            recent: 0,
            rate: MessageRate::default(),
            counted: 0,
            durable_ms: VecDeque::new(),
        }
    }

    /// Adds a member that has everything up to `seq`, where the frames of its encoding go on; where they do not (any
    /// more), it has a gap. Returns its index and cursor.
    pub fn add(&mut self, id: SessionId, encoding: Encoding, seq: u64) -> (u32, Cursor) {
        self.members.push(id);
        // The round in progress visits this place, too: with one visit fewer it would miss its last member.
        self.unvisited += usize::from(self.unvisited > 0);
        let line = self.line(encoding);
        line.members += 1;
        let cursor = line.chain.boundary(seq).filter(|boundary| boundary.seq == seq);
        (self.members.len() as u32 - 1, cursor.unwrap_or(Cursor::lost(seq)))
    }

    fn line(&mut self, encoding: Encoding) -> &mut Line {
        let at = self.lines.iter().position(|line| line.encoding == encoding).unwrap_or_else(|| {
            // Most rooms have one.
            self.lines.reserve_exact(1);
            self.lines.push(Line { encoding, chain: Chain::new(self.head), members: 0 });
            self.lines.len() - 1
        });
        &mut self.lines[at]
    }

    /// Removes the member at this index; another one may move there, which is returned.
    pub fn remove(&mut self, at: u32, encoding: Encoding) -> Option<SessionId> {
        self.members.swap_remove(at as usize);
        if self.unvisited > 0 {
            // The last member took this one's place, maybe on the other side of the round.
            self.unvisited = self.members.len();
        }
        if let Some(line) = self.lines.iter_mut().find(|line| line.encoding == encoding) {
            line.members -= 1;
        }
        self.drop_unused_chains();
        self.members.get(at as usize).copied()
    }

    /// Forgets the frames that nobody takes. Those that a join under way may count on stay.
    pub fn drop_unused_chains(&mut self) {
        if self.joining == 0 {
            self.lines.retain(|line| line.members > 0);
        }
    }

    /// What of a join from `seq` on need not come from the owner, which counts this core's members: without one here,
    /// it does not send what would continue the chain.
    pub fn shared(&self, encoding: Encoding, from: u64) -> Option<Shared> {
        let chain = self.chain(encoding).filter(|_| !self.members.is_empty())?;
        Some(Shared { from, boundary: chain.boundary(from)?.seq })
    }

    /// The next member to visit, around and around from the last to the first; None when all were visited.
    pub fn next_unvisited(&mut self) -> Option<SessionId> {
        self.unvisited = self.unvisited.checked_sub(1)?;
        self.visited = self.visited.checked_sub(1).unwrap_or(usize::MAX).min(self.members.len().checked_sub(1)?);
        Some(self.members[self.visited])
    }

    /// The messages up to the head that came last are durable since then. Where members are visited at once, only the last
    /// delivery matters.
    pub fn note_durable(&mut self, durable_ms: u64) {
        let most = if self.paced { DELIVERIES_NOTED } else { 1 };
        while self.durable_ms.len() >= most {
            self.durable_ms.pop_front();
        }
        self.durable_ms.push_back((self.head, durable_ms));
    }

    /// Since when the first message after this seq is durable, milliseconds since 1970; `None` when it is too old to be
    /// known.
    pub fn durable_since(&self, seq: u64) -> Option<u64> {
        let oldest = self.durable_ms.front()?;
        let is_known = self.durable_ms.len() < DELIVERIES_NOTED || seq >= oldest.0;
        self.durable_ms.iter().find(|(last, _)| *last > seq).filter(|_| is_known).map(|(_, since)| *since)
    }

    /// The dialects in use here.
    pub fn dialects(&self) -> impl Iterator<Item = Dialect> + use<> {
        let is_used = |dialect: &Dialect| self.lines.iter().any(|line| line.encoding.dialect == *dialect);
        Dialect::ALL.map(|dialect| Some(dialect).filter(is_used)).into_iter().flatten()
    }

    pub fn chain(&self, encoding: Encoding) -> Option<&Chain> {
        self.lines.iter().find(|line| line.encoding == encoding).map(|line| &line.chain)
    }

    /// The chains of a dialect: how each is encoded, and how many members take it.
    pub fn chains_of(&mut self, dialect: Dialect) -> impl Iterator<Item = (Encoding, &mut Chain, u32)> {
        let lines = self.lines.iter_mut().filter(move |line| line.encoding.dialect == dialect);
        lines.map(|line| (line.encoding, &mut line.chain, line.members))
    }

    /// What the frames take in memory, bytes.
    pub fn bytes(&self) -> usize {
        self.lines.iter().map(|line| line.chain.bytes()).sum()
    }

    /// Forgets the oldest frames until each encoding has no more than this, or a single chunk.
    pub fn shorten(&mut self, bytes_max: usize) {
        self.lines.iter_mut().for_each(|line| line.chain.shorten(bytes_max));
    }

    /// Chunks of the chain that has most.
    pub fn chunks(&self) -> usize {
        self.lines.iter().map(|line| line.chain.chunks()).max().unwrap_or(0)
    }

    /// Frees frames that were finished before `before_s`.
    pub fn trim(&mut self, before_s: u32) {
        self.lines.iter_mut().for_each(|line| line.chain.trim(before_s));
        self.drop_unused_chains();
    }

    /// Nobody here is in the room or about to be.
    pub fn is_unused(&self) -> bool {
        self.members.is_empty() && self.joining == 0
    }

    /// Moves to `head` without frames in between; members that are not there yet have a gap.
    pub fn reset(&mut self, head: u64) {
        self.head = head;
        for line in &mut self.lines {
            line.chain.reset(head);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Encoding = Encoding { dialect: Dialect::Native, deflate: false };
    const DEFLATED: Encoding = Encoding { dialect: Dialect::Native, deflate: true };

    fn id(n: u16) -> SessionId {
        SessionId::new(0, 0, n, 0)
    }

    #[test]
    fn who_comes_back_continues_at_a_place_between_two_frames() {
        let mut feed = Feed::new("lobby".into());
        feed.add(id(0), PLAIN, 0);
        for seq in [3, 7, 9] {
            feed.line(PLAIN).chain.append(b"frame", seq, 0, 1 << 20);
            feed.head = seq;
        }
        assert_eq!(feed.shared(PLAIN, 3), Some(Shared { from: 3, boundary: 3 }));
        assert_eq!(feed.shared(PLAIN, 4), Some(Shared { from: 4, boundary: 7 }));
        assert_eq!(feed.shared(PLAIN, 10), None, "it has seen more than this core");
        assert_eq!(feed.shared(DEFLATED, 3), None, "nobody takes these frames here");
        let (_, cursor) = feed.add(id(1), PLAIN, 7);
        assert_eq!((cursor.position, cursor.seq), (11, 7));
        assert_eq!(feed.add(id(2), PLAIN, 8).1, Cursor::lost(8), "the middle of a frame is no place to go on");
    }

    #[test]
    fn the_wait_of_a_message_is_known_for_the_last_deliveries() {
        let mut feed = Feed::new("lobby".into());
        feed.paced = true;
        for seq in 1..=20 {
            feed.head = 10 * seq;
            feed.note_durable(1000 + seq);
        }
        assert_eq!(
            (feed.durable_since(200), feed.durable_since(195)),
            (None, Some(1020)),
            "nothing waits; the last one"
        );
        assert_eq!((feed.durable_since(50), feed.durable_since(49)), (Some(1006), None), "too long ago");
    }

    #[test]
    fn frames_outlive_their_last_member_while_a_join_may_count_on_them() {
        let mut feed = Feed::new("lobby".into());
        feed.add(id(0), DEFLATED, 0);
        feed.add(id(1), PLAIN, 0);
        feed.line(DEFLATED).chain.append(b"frame", 1, 0, 1 << 20);
        feed.joining = 1;
        feed.remove(0, DEFLATED);
        assert!(feed.chain(DEFLATED).is_some());
        feed.joining = 0;
        feed.trim(0);
        assert!(feed.chain(DEFLATED).is_none() && feed.chain(PLAIN).is_some());
    }

    #[test]
    fn who_joins_during_a_round_makes_nobody_miss_it() {
        for before in 0..4 {
            let mut feed = Feed::new("lobby".into());
            for n in 0..4 {
                feed.add(id(n), PLAIN, 0);
            }
            feed.unvisited = before;
            while feed.next_unvisited().is_some() {}
            feed.unvisited = 4;
            let mut visited: Vec<_> = feed.next_unvisited().into_iter().collect();
            feed.add(id(4), PLAIN, 0);
            visited.extend(std::iter::from_fn(|| feed.next_unvisited()));
            assert!((0..4).all(|n| visited.contains(&id(n))), "{visited:?}");
        }
    }
}
