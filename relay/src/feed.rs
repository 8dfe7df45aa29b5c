//! A room as one core serves it to its members there: frames encoded once, and cursors over them.
//!
//! A feed has one [`Chain`] per dialect in use. A member owns a [`Cursor`] and nothing else; a visit sends the bytes
//! from the cursor to the end of its chunk, shared by everybody.

use std::collections::VecDeque;
use std::sync::Arc;

use protocol::Dialect;
use uring::{Chunk, Segment};

use crate::ids::SessionId;
use crate::tempo::MessageRate;

/// Chunks grow up to this, bytes: also the most that one visit sends.
const CHUNK_BYTES_MAX: usize = 64 * 1024;
const CHUNK_BYTES_MIN: usize = 1024;

/// A member's place in a chain: everything before `position` was sent, up to and including `seq`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    pub position: u64,
    pub seq: u64,
}

/// What a member gets next.
pub enum Next {
    /// Nothing: it has everything.
    Head,
    /// One send, and where the cursor is afterwards.
    Visit { segment: Segment, to: Cursor },
    /// It fell behind what the chain keeps: the messages `from..=to` are skipped, the cursor goes on at the head.
    Gap { from: u64, to: u64, cursor: Cursor },
}

struct Span {
    start: u64,
    chunk: Chunk,
    last_seq: u64,
    touched_s: u32,
}

/// Finished WebSocket frames of one dialect, in order, addressed by byte position since the chain began.
pub struct Chain {
    spans: VecDeque<Span>,
    head: Cursor,
    bytes: usize,
}

impl Chain {
    /// An empty chain after `seq`. Owns no buffer until the first frame.
    pub fn new(seq: u64) -> Self {
        Self { spans: VecDeque::new(), head: Cursor { position: 0, seq }, bytes: 0 }
    }

    /// Where a member that has everything is.
    pub fn head(&self) -> Cursor {
        self.head
    }

    /// Appends a frame that ends with message `last_seq`; drops the oldest chunks past `bytes_max`.
    pub fn append(&mut self, frame: &[u8], last_seq: u64, now_s: u32, bytes_max: usize) {
        let fits = self.spans.back().is_some_and(|span| span.chunk.append(frame));
        if !fits {
            let last = self.spans.back().map_or(0, |span| span.chunk.capacity());
            let capacity = (2 * last).clamp(CHUNK_BYTES_MIN, CHUNK_BYTES_MAX).max(frame.len());
            let chunk = Chunk::with_capacity(capacity);
            assert!(chunk.append(frame), "a chunk takes what it was made for");
            self.bytes += capacity;
            self.spans.push_back(Span { start: self.head.position, chunk, last_seq, touched_s: now_s });
        }
        if let Some(span) = self.spans.back_mut() {
            (span.last_seq, span.touched_s) = (last_seq, now_s);
        }
        self.head = Cursor { position: self.head.position + frame.len() as u64, seq: last_seq };
        while self.bytes > bytes_max && self.spans.len() > 1 {
            self.drop_oldest();
        }
    }

    /// Frees chunks that were finished before `before_s`, the last one too.
    pub fn trim(&mut self, before_s: u32) {
        while self.spans.front().is_some_and(|span| span.touched_s < before_s) {
            self.drop_oldest();
        }
    }

    /// Forgets all frames: the next one starts after `seq`, and every cursor has a gap.
    pub fn reset(&mut self, seq: u64) {
        while !self.spans.is_empty() {
            self.drop_oldest();
        }
        self.head = Cursor { position: self.head.position + 1, seq };
    }

    fn drop_oldest(&mut self) {
        if let Some(span) = self.spans.pop_front() {
            self.bytes -= span.chunk.capacity();
        }
    }

    /// The last visit stopped at the end of a chunk and more waits in the next one.
    pub fn is_chunk_behind(&self, cursor: Cursor) -> bool {
        cursor != self.head && self.spans.back().is_some_and(|span| cursor.position <= span.start)
    }

    /// What a member with this cursor gets next.
    pub fn next(&self, cursor: Cursor) -> Next {
        if cursor.position == self.head.position {
            return Next::Head;
        }
        let span = self.spans.iter().rev().find(|span| span.start <= cursor.position);
        let Some(span) = span else {
            return Next::Gap { from: cursor.seq + 1, to: self.head.seq, cursor: self.head };
        };
        let from = (cursor.position - span.start) as usize;
        let end = span.chunk.len();
        let to = Cursor { position: span.start + end as u64, seq: span.last_seq };
        Next::Visit { segment: span.chunk.segment(from, end), to }
    }
}

/// A room's members on one core and what they are sent.
pub struct Feed {
    pub room: Arc<str>,
    pub members: Vec<SessionId>,
    /// Joins that were sent to the owner and not answered yet.
    pub joining: u32,
    /// Last seq that arrived from the owner.
    pub head: u64,
    chains: [Option<Box<Chain>>; Dialect::COUNT],
    speakers: [u32; Dialect::COUNT],
    /// Served by sweeps; otherwise every frame goes out at once.
    pub paced: bool,
    /// Members still to be visited since the last frame, and the index of the one visited last.
    pub unvisited: usize,
    visited: usize,
    /// Messages since the rate was last looked at, and that rate.
    pub recent: u32,
    pub rate: MessageRate,
    pub touched_s: u32,
}

impl Feed {
    pub fn new(room: Arc<str>) -> Self {
        Self {
            room,
            members: Vec::new(),
            joining: 0,
            head: 0,
            chains: [const { None }; Dialect::COUNT],
            speakers: [0; Dialect::COUNT],
            paced: false,
            unvisited: 0,
            visited: 0,
            recent: 0,
            rate: MessageRate::default(),
            touched_s: 0,
        }
    }

    /// Adds a member at the head. Returns its index and cursor.
    pub fn add(&mut self, id: SessionId, dialect: Dialect) -> (u32, Cursor) {
        self.members.push(id);
        // The round under way comes by here, too; without one more visit it would end before its last member.
        self.unvisited += usize::from(self.unvisited > 0);
        self.speakers[dialect as usize] += 1;
        let head = self.head;
        let chain = self.chains[dialect as usize].get_or_insert_with(|| Box::new(Chain::new(head)));
        (self.members.len() as u32 - 1, chain.head())
    }

    /// Removes the member at this index; another one may move there, which is returned.
    pub fn remove(&mut self, at: u32, dialect: Dialect) -> Option<SessionId> {
        self.members.swap_remove(at as usize);
        if self.unvisited > 0 {
            // The last member took this one's place, maybe on the other side of the round.
            self.unvisited = self.members.len();
        }
        self.speakers[dialect as usize] -= 1;
        if self.speakers[dialect as usize] == 0 {
            self.chains[dialect as usize] = None;
        }
        self.members.get(at as usize).copied()
    }

    /// The next member to visit, around and around from the last to the first; None when all were visited.
    pub fn next_unvisited(&mut self) -> Option<SessionId> {
        self.unvisited = self.unvisited.checked_sub(1)?;
        self.visited = self.visited.checked_sub(1).unwrap_or(usize::MAX).min(self.members.len().checked_sub(1)?);
        Some(self.members[self.visited])
    }

    pub fn chain(&self, dialect: Dialect) -> Option<&Chain> {
        self.chains[dialect as usize].as_deref()
    }

    /// The chains in use, with their dialects.
    pub fn chains(&mut self) -> impl Iterator<Item = (Dialect, &mut Chain)> {
        let dialects = [Dialect::Native, Dialect::Centrifuge];
        dialects.into_iter().zip(&mut self.chains).filter_map(|(dialect, chain)| Some((dialect, chain.as_deref_mut()?)))
    }

    /// Nobody here is in the room or about to be.
    pub fn is_unused(&self) -> bool {
        self.members.is_empty() && self.joining == 0
    }

    /// Moves to `head` without frames in between; members that are not there yet have a gap.
    pub fn reset(&mut self, head: u64) {
        self.head = head;
        for chain in self.chains.iter_mut().flatten() {
            chain.reset(head);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn follow(chain: &Chain, mut cursor: Cursor) -> (Vec<u8>, Vec<(u64, u64)>, Cursor) {
        let (mut bytes, mut gaps) = (Vec::new(), Vec::new());
        loop {
            match chain.next(cursor) {
                Next::Head => return (bytes, gaps, cursor),
                Next::Visit { segment, to } => {
                    bytes.extend_from_slice(segment.bytes());
                    cursor = to;
                }
                Next::Gap { from, to, cursor: at } => {
                    gaps.push((from, to));
                    cursor = at;
                }
            }
        }
    }

    #[test]
    fn every_cursor_gets_every_byte_once_whenever_it_is_visited() {
        let mut chain = Chain::new(0);
        let mut members = vec![(chain.head(), Vec::new()); 20];
        let mut all = Vec::new();
        for seq in 1..=500u64 {
            let frame = vec![seq as u8; 1 + (seq as usize * 37) % 900];
            all.extend_from_slice(&frame);
            chain.append(&frame, seq, 0, usize::MAX);
            for (n, (cursor, got)) in members.iter_mut().enumerate() {
                if (seq as usize).is_multiple_of(n + 1) {
                    let (bytes, gaps, at) = follow(&chain, *cursor);
                    assert!(gaps.is_empty() && at.seq == seq);
                    got.extend(bytes);
                    *cursor = at;
                }
            }
        }
        for (cursor, mut got) in members {
            got.extend(follow(&chain, cursor).0);
            assert!(got == all);
        }
    }

    #[test]
    fn a_cursor_that_fell_off_the_chain_gets_an_exact_gap_and_goes_on_at_the_head() {
        let mut chain = Chain::new(10);
        let slow = chain.head();
        for seq in 11..=100 {
            chain.append(&[0; 1000], seq, 0, 8 * 1024);
        }
        let (bytes, gaps, at) = follow(&chain, slow);
        assert_eq!((bytes.len(), gaps, at.seq), (0, vec![(11, 100)], 100));
        chain.append(b"next", 101, 0, 8 * 1024);
        assert_eq!(follow(&chain, at).0, b"next");
    }

    #[test]
    fn who_joins_during_a_round_makes_nobody_miss_it() {
        let id = |n| SessionId::new(0, 0, n, 0);
        for before in 0..4 {
            let mut feed = Feed::new("lobby".into());
            for n in 0..4 {
                feed.add(id(n), Dialect::Native);
            }
            feed.unvisited = before;
            while feed.next_unvisited().is_some() {}
            feed.unvisited = 4;
            let mut visited: Vec<_> = feed.next_unvisited().into_iter().collect();
            feed.add(id(4), Dialect::Native);
            visited.extend(std::iter::from_fn(|| feed.next_unvisited()));
            assert!((0..4).all(|n| visited.contains(&id(n))), "{visited:?}");
        }
    }

    #[test]
    fn a_reset_and_a_trim_leave_no_silent_hole() {
        let mut chain = Chain::new(0);
        chain.append(b"a", 1, 5, 1 << 20);
        let (old, current) = (Chain::new(0).head(), chain.head());
        chain.trim(6);
        assert_eq!(follow(&chain, old).1, [(1, 1)]);
        assert!(follow(&chain, current).1.is_empty());
        chain.reset(9);
        assert_eq!(follow(&chain, current).1, [(2, 9)]);
    }
}
