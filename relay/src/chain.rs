//! Finished frames of one room in one encoding, and cursors over them.
//!
//! Frames are appended to chunks of memory that never change again, and addressed by their byte position since the
//! chain began. A new chunk begins with a copy of the last one's end, so that a cursor a little behind the head finds
//! everything it lacks in one piece; and each chunk knows where its frames end, so that any seq can be found.

use std::collections::VecDeque;

use uring::{Chunk, Segment};

/// Chunks grow up to this, bytes.
const CHUNK_BYTES_MAX: usize = 256 * 1024;
const CHUNK_BYTES_MIN: usize = 1024;
/// A chain has at least so many full-grown chunks, so that dropping one leaves most of what it may keep.
const CHUNKS_MIN: usize = 8;
/// This part of a full-grown chunk is a copy of the one before.
const OVERLAP_PART: usize = 4;
/// Most bytes of one visit, unless a single frame is larger.
pub const VISIT_BYTES_MAX: usize = 64 * 1024;

/// A place in a chain: everything before `position` was sent, up to and including `seq`. Always between two frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    pub position: u64,
    pub seq: u64,
}

impl Cursor {
    /// After `seq`, in no chain: the messages up to the chain's head are a gap.
    pub fn lost(seq: u64) -> Self {
        Self { position: 0, seq }
    }
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

/// Where a frame ends: offset in its chunk, and last seq relative to the span's.
struct FrameEnd {
    offset: u32,
    seqs: u32,
}

/// One chunk and its frames.
struct Span {
    /// Position of the chunk's first byte, and the seq before its first frame.
    start: Cursor,
    chunk: Chunk,
    ends: Vec<FrameEnd>,
    touched_s: u32,
}

impl Span {
    fn new(start: Cursor, capacity: usize) -> Self {
        Self { start, chunk: Chunk::with_capacity(capacity), ends: Vec::new(), touched_s: 0 }
    }

    /// Appends a frame, or returns false when it does not fit.
    fn append(&mut self, frame: &[u8], last_seq: u64, now_s: u32) -> bool {
        if !self.chunk.append(frame) {
            return false;
        }
        self.ends.push(FrameEnd { offset: self.chunk.len() as u32, seqs: (last_seq - self.start.seq) as u32 });
        self.touched_s = now_s;
        true
    }

    /// Where the frame with this index ends.
    fn end(&self, index: usize) -> Cursor {
        let FrameEnd { offset, seqs } = self.ends[index];
        Cursor { position: self.start.position + u64::from(offset), seq: self.start.seq + u64::from(seqs) }
    }

    /// The end of the last frame within `VISIT_BYTES_MAX` of `from`, or of the first one after it.
    fn visit_end(&self, from: usize) -> Cursor {
        let within = self.ends.partition_point(|end| end.offset as usize <= from + VISIT_BYTES_MAX);
        let first = self.ends.partition_point(|end| end.offset as usize <= from);
        self.end(first.max(within.saturating_sub(1)))
    }

    /// The first place between two frames that is not before `seq`.
    fn boundary(&self, seq: u64) -> Cursor {
        let seqs = (seq - self.start.seq) as u32;
        if seqs == 0 { self.start } else { self.end(self.ends.partition_point(|end| end.seqs < seqs)) }
    }

    /// A span that follows this one and begins with a copy of its last frames, `overlap` bytes at most.
    fn successor(&self, overlap: usize, capacity: usize) -> Self {
        let first = self.chunk.len().saturating_sub(overlap);
        let index = self.ends.partition_point(|end| (end.offset as usize) < first);
        let start = self.end(index);
        let mut next = Self::new(start, capacity);
        let offset = (start.position - self.start.position) as usize;
        let copied = self.chunk.segment(offset, self.chunk.len());
        assert!(next.chunk.append(copied.bytes()), "the overlap is a part of a chunk");
        let skipped = (start.seq - self.start.seq) as u32;
        let ends = self.ends[index + 1..].iter();
        next.ends.extend(ends.map(|end| FrameEnd { offset: end.offset - offset as u32, seqs: end.seqs - skipped }));
        next
    }
}

/// Finished WebSocket frames of one room in one encoding, in order.
pub struct Chain {
    spans: VecDeque<Span>,
    head: Cursor,
    bytes: usize,
}

impl Chain {
    /// An empty chain after `seq`. Owns no buffer until the first frame.
    pub fn new(seq: u64) -> Self {
        Self { spans: VecDeque::new(), head: Cursor { position: 1, seq }, bytes: 0 }
    }

    /// Where a member that has everything is.
    pub fn head(&self) -> Cursor {
        self.head
    }

    /// Appends a frame that ends with message `last_seq`; drops the oldest chunks past `bytes_max`.
    pub fn append(&mut self, frame: &[u8], last_seq: u64, now_s: u32, bytes_max: usize) {
        let fits = self.spans.back_mut().is_some_and(|span| span.append(frame, last_seq, now_s));
        if !fits {
            let mut span = self.next_span(frame.len(), bytes_max);
            assert!(span.append(frame, last_seq, now_s), "a chunk takes what it was made for");
            self.bytes += span.chunk.capacity();
            self.spans.push_back(span);
        }
        self.head = Cursor { position: self.head.position + frame.len() as u64, seq: last_seq };
        self.shorten(bytes_max);
    }

    /// Drops the oldest chunks past `bytes_max`, except the last one.
    pub fn shorten(&mut self, bytes_max: usize) {
        while self.bytes > bytes_max && self.spans.len() > 1 {
            self.drop_oldest();
        }
    }

    /// Bytes of memory that it holds.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// A span that takes a frame of so many bytes. Chunks double until they are full-grown; from then on they overlap.
    fn next_span(&self, frame_bytes: usize, bytes_max: usize) -> Span {
        let grown = (bytes_max / CHUNKS_MIN).clamp(CHUNK_BYTES_MIN, CHUNK_BYTES_MAX);
        let last = self.spans.back().map_or(0, |span| span.chunk.capacity());
        match self.spans.back() {
            Some(back) if last >= grown => {
                let overlap = grown / OVERLAP_PART;
                back.successor(overlap, grown.max(overlap + frame_bytes))
            }
            _ => Span::new(self.head, (2 * last).clamp(CHUNK_BYTES_MIN, grown).max(frame_bytes)),
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

    /// Chunks of memory that it holds.
    pub fn chunks(&self) -> usize {
        self.spans.len()
    }

    /// The first place between two frames that is not before `seq`. None when the chain does not reach back so far, or
    /// not that far yet.
    pub fn boundary(&self, seq: u64) -> Option<Cursor> {
        if seq >= self.head.seq {
            return (seq == self.head.seq).then_some(self.head);
        }
        let span = self.spans.iter().rev().find(|span| span.start.seq <= seq)?;
        Some(span.boundary(seq))
    }

    /// What a member with this cursor gets next.
    pub fn next(&self, cursor: Cursor) -> Next {
        if cursor.position == self.head.position {
            return Next::Head;
        }
        let span = self.spans.iter().rev().find(|span| span.start.position <= cursor.position);
        let Some(span) = span else {
            return Next::Gap { from: cursor.seq + 1, to: self.head.seq, cursor: self.head };
        };
        let from = (cursor.position - span.start.position) as usize;
        let to = span.visit_end(from);
        let end = (to.position - span.start.position) as usize;
        Next::Visit { segment: span.chunk.segment(from, end), to }
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

    /// Frames of one message each, long enough in all for several full-grown chunks.
    fn frames() -> impl Iterator<Item = (u64, Vec<u8>)> {
        (1..=4_000u64).map(|seq| (seq, vec![seq as u8; 1 + (seq as usize * 37) % 900]))
    }

    #[test]
    fn every_cursor_gets_every_byte_once_whenever_it_is_visited() {
        let mut chain = Chain::new(0);
        let mut members = vec![(chain.head(), Vec::new()); 20];
        let mut all = Vec::new();
        for (seq, frame) in frames() {
            all.extend_from_slice(&frame);
            chain.append(&frame, seq, 0, usize::MAX);
            for (n, (cursor, got)) in members.iter_mut().enumerate() {
                if (seq as usize).is_multiple_of((n + 1) * (n + 1)) {
                    let (bytes, gaps, at) = follow(&chain, *cursor);
                    assert!(gaps.is_empty() && at.seq == seq);
                    got.extend(bytes);
                    *cursor = at;
                }
            }
        }
        assert!(chain.spans.len() > 5 && chain.bytes > 5 * CHUNK_BYTES_MAX);
        for (cursor, mut got) in members {
            got.extend(follow(&chain, cursor).0);
            assert!(got == all);
        }
    }

    #[test]
    fn a_cursor_a_little_behind_finds_everything_in_one_piece() {
        let mut chain = Chain::new(0);
        let mut behind = VecDeque::new();
        for (seq, frame) in frames() {
            chain.append(&frame, seq, 0, usize::MAX);
            behind.push_back(chain.head());
            if behind.len() <= 100 || chain.spans.back().is_some_and(|span| span.chunk.capacity() < CHUNK_BYTES_MAX) {
                continue;
            }
            let is_grown_after_grown =
                chain.spans.len() > 1 && chain.spans[chain.spans.len() - 2].chunk.capacity() == CHUNK_BYTES_MAX;
            let cursor = behind.pop_front().unwrap_or_else(|| chain.head());
            if is_grown_after_grown
                && chain.head().position - cursor.position < (CHUNK_BYTES_MAX / OVERLAP_PART / 2) as u64
            {
                let Next::Visit { to, .. } = chain.next(cursor) else { panic!("it is behind") };
                assert_eq!(to, chain.head());
            }
        }
    }

    #[test]
    fn a_visit_is_bounded_and_ends_between_two_frames() {
        let mut chain = Chain::new(0);
        let mut ends = vec![chain.head()];
        for (seq, frame) in frames() {
            chain.append(&frame, seq, 0, usize::MAX);
            ends.push(chain.head());
        }
        let mut cursor = ends[0];
        while let Next::Visit { segment, to } = chain.next(cursor) {
            assert!((1..=VISIT_BYTES_MAX).contains(&segment.len()) && ends.contains(&to));
            cursor = to;
        }
        assert_eq!(cursor, chain.head());
        let large = vec![0; 3 * VISIT_BYTES_MAX];
        chain.append(&large, 4_001, 0, usize::MAX);
        let Next::Visit { segment, .. } = chain.next(cursor) else { panic!("it is behind") };
        assert_eq!(segment.len(), large.len(), "a frame is never cut");
    }

    #[test]
    fn every_seq_has_its_boundary_as_long_as_the_chain_reaches_back() {
        let mut chain = Chain::new(10);
        let mut ends = vec![chain.head()];
        for seq in (13..=9_010).step_by(3) {
            chain.append(&[seq as u8; 300], seq, 0, 2 * CHUNK_BYTES_MAX);
            ends.push(chain.head());
        }
        let kept = chain.spans[0].start.seq;
        assert!(kept > 10, "old chunks are dropped");
        for seq in 10..=9_012 {
            let expected = ends.iter().find(|end| end.seq >= seq).filter(|_| seq >= kept);
            assert_eq!(chain.boundary(seq).as_ref(), expected, "seq {seq}");
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
