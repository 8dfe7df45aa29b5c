//! Frames that a thread has checked, as they stand on the wire: whoever gets the same bytes has got the same messages.
//!
//! A room's frames go to many members. The first copy is read, inflated, unpacked and checked message by message; after
//! that a copy costs one comparison of bytes with the first one. Nothing is taken on trust: what differs in a single
//! byte, or comes at another place in the order, is read in full as a first copy is.

use std::collections::VecDeque;
use std::num::NonZeroU32;

use protocol::frame::{Opcode, write};

/// Older frames are forgotten, nanoseconds. For a member that is so far behind they are first copies again.
const AGE_MAX_NS: u64 = 120_000_000_000;
/// The oldest frames are forgotten earlier when all together take more than this, bytes.
const BYTES_MAX: usize = 64 << 20;
/// So many frames that start with the same message are known at a time (compressed or not, cut here or there).
const VARIANTS_MAX: usize = 4;
/// The first reserved bit of a frame's head: compressed (RFC 7692).
const DEFLATED: u8 = 0x40;

/// The number of a frame, given once.
pub type Number = NonZeroU32;

/// The known frames of one thread's rooms, oldest first.
#[derive(Debug)]
pub struct Frames {
    known: VecDeque<Frame>,
    /// The number of the oldest.
    oldest: u32,
    bytes: usize,
    /// Those that somebody received since [`Frames::drain_heard`].
    heard: Vec<Number>,
}

/// One frame that holds a batch.
#[derive(Debug)]
pub struct Frame {
    pub batch: Batch,
    pub bytes: Bytes,
    /// Head and payload.
    wire: Box<[u8]>,
    deflated: bool,
    /// Members that received it since [`Frames::drain_heard`] and whose times count.
    receivers: u32,
    /// An older frame that starts with the same message.
    other: Option<Number>,
    born_ns: u64,
}

/// The messages of a frame.
#[derive(Debug, Clone, Copy)]
pub struct Batch {
    pub room: u32,
    pub first_seq: u64,
    pub count: u32,
}

/// Sizes of a frame's payload: as sent, and when it is not compressed.
#[derive(Debug, Clone, Copy)]
pub struct Bytes {
    pub wire: u32,
    pub inflated: u32,
}

/// The payload of a frame as it was received.
#[derive(Debug, Clone, Copy)]
pub struct Payload<'a> {
    pub bytes: &'a [u8],
    pub deflated: bool,
}

impl Default for Frames {
    fn default() -> Self {
        Self { known: VecDeque::new(), oldest: 1, bytes: 0, heard: Vec::new() }
    }
}

impl Frame {
    /// Size on the wire.
    pub fn wire_bytes(&self) -> usize {
        self.wire.len()
    }

    fn payload(&self) -> &[u8] {
        &self.wire[self.wire.len() - self.bytes.wire as usize..]
    }

    fn memory(&self) -> usize {
        self.wire.len() + size_of::<Self>()
    }
}

impl Frames {
    /// The one of `number` and its variants that `input` begins with. Its receiver must be at the end of a message, and
    /// `inflates` if it may be sent what is compressed.
    pub fn at_front(&self, number: Option<Number>, input: &[u8], inflates: bool) -> Option<Number> {
        self.find(number, |frame| (inflates || !frame.deflated) && input.starts_with(&frame.wire))
    }

    /// The one of `number` and its variants that has this payload.
    pub fn with_payload(&self, number: Option<Number>, payload: Payload<'_>) -> Option<Number> {
        self.find(number, |frame| frame.deflated == payload.deflated && frame.payload() == payload.bytes)
    }

    /// Keeps a frame that was checked; `other` is the last one that starts with the same message. `None` when there are
    /// enough of those.
    pub fn keep(
        &mut self,
        other: Option<Number>,
        batch: Batch,
        payload: Payload<'_>,
        inflated_bytes: usize,
        now_ns: u64,
    ) -> Option<Number> {
        let variants = std::iter::successors(other.and_then(|other| self.get(other)), |frame| self.get(frame.other?));
        if variants.count() >= VARIANTS_MAX {
            return None;
        }
        let mut wire = Vec::with_capacity(payload.bytes.len() + 10);
        write(Opcode::Binary, payload.bytes, &mut wire);
        wire[0] |= if payload.deflated { DEFLATED } else { 0 };
        let bytes = Bytes { wire: payload.bytes.len() as u32, inflated: inflated_bytes as u32 };
        let (wire, deflated) = (wire.into(), payload.deflated);
        let frame = Frame { batch, bytes, wire, deflated, receivers: 0, other, born_ns: now_ns };
        self.bytes += frame.memory();
        self.known.push_back(frame);
        Number::new(self.oldest + self.known.len() as u32 - 1)
    }

    /// A known frame that somebody received, noted if its times count.
    pub fn hear(&mut self, number: Number, is_timed: bool) -> &Frame {
        let frame = &mut self.known[(number.get() - self.oldest) as usize];
        if is_timed && frame.receivers == 0 {
            self.heard.push(number);
        }
        frame.receivers += u32::from(is_timed);
        frame
    }

    /// Gives every batch that was received since the last time, and by how many members whose times count. Then forgets
    /// what is too old.
    pub fn drain_heard(&mut self, now_ns: u64, mut each: impl FnMut(Batch, u32)) {
        for number in self.heard.drain(..) {
            let frame = &mut self.known[(number.get() - self.oldest) as usize];
            each(frame.batch, std::mem::take(&mut frame.receivers));
        }
        while let Some(frame) = self.known.front()
            && (self.bytes > BYTES_MAX || frame.born_ns + AGE_MAX_NS < now_ns)
        {
            self.bytes -= frame.memory();
            self.known.pop_front();
            self.oldest += 1;
        }
    }

    fn find(&self, mut number: Option<Number>, is: impl Fn(&Frame) -> bool) -> Option<Number> {
        loop {
            let frame = self.get(number?)?;
            if is(frame) {
                return number;
            }
            number = frame.other;
        }
    }

    /// `None` when it is forgotten.
    fn get(&self, number: Number) -> Option<&Frame> {
        self.known.get(number.get().checked_sub(self.oldest)? as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BATCH: Batch = Batch { room: 0, first_seq: 7, count: 2 };

    fn plain(bytes: &[u8]) -> Payload<'_> {
        Payload { bytes, deflated: false }
    }

    fn framed(payload: &[u8]) -> Vec<u8> {
        let mut wire = Vec::new();
        write(Opcode::Binary, payload, &mut wire);
        wire
    }

    #[test]
    fn a_frame_is_found_by_all_its_bytes_and_by_nothing_less_or_else() {
        for size in [5, 300, 70_000] {
            let mut frames = Frames::default();
            let payload = vec![9; size];
            let number = frames.keep(None, BATCH, plain(&payload), size, 0);
            let mut input = framed(&payload);
            assert_eq!(frames.at_front(number, &input[..input.len() - 1], true), None, "it is not complete");
            assert_eq!(frames.at_front(number, &input, false), number);
            assert_eq!(frames.with_payload(number, plain(&payload)), number);
            assert_eq!(frames.with_payload(number, Payload { bytes: &payload, deflated: true }), None);
            assert_eq!(frames.with_payload(number, plain(&payload[1..])), None);
            input.push(0);
            assert_eq!(frames.at_front(number, &input, true), number, "more follows");
            for at in [0, 1, size / 2, input.len() - 2] {
                input[at] ^= 1;
                assert_eq!(frames.at_front(number, &input, true), None, "byte {at} of {size}");
                input[at] ^= 1;
            }
        }
    }

    #[test]
    fn a_compressed_frame_is_only_found_for_those_who_may_get_one() {
        let mut frames = Frames::default();
        let number = frames.keep(None, BATCH, Payload { bytes: b"packed", deflated: true }, 20, 0);
        let mut input = framed(b"packed");
        assert_eq!(frames.at_front(number, &input, true), None);
        input[0] |= DEFLATED;
        assert_eq!(frames.at_front(number, &input, true), number);
        assert_eq!(frames.at_front(number, &input, false), None);
    }

    #[test]
    fn frames_that_start_with_the_same_message_are_told_apart_and_their_number_is_bounded() {
        let mut frames = Frames::default();
        let mut last = None;
        for variant in 0..VARIANTS_MAX as u8 {
            last = frames.keep(last, BATCH, plain(&[variant]), 1, 0);
            assert!(last.is_some());
        }
        for variant in 0..VARIANTS_MAX as u8 {
            let found = frames.at_front(last, &framed(&[variant]), true).expect("it is known");
            assert_eq!(found.get(), u32::from(variant) + 1);
        }
        assert_eq!(frames.keep(last, BATCH, plain(&[99]), 1, 0), None);
    }

    #[test]
    fn receivers_are_counted_until_they_are_drained() {
        let mut frames = Frames::default();
        let (a, b) = (frames.keep(None, BATCH, plain(b"a"), 1, 0), frames.keep(None, BATCH, plain(b"b"), 1, 0));
        for number in [a, b, a, a] {
            frames.hear(number.expect("it was kept"), true);
        }
        let mut heard = Vec::new();
        frames.drain_heard(0, |batch, receivers| heard.push((batch.first_seq, receivers)));
        assert_eq!(heard, [(7, 3), (7, 1)]);
        frames.drain_heard(0, |_, _| panic!("nothing was heard since"));
    }

    #[test]
    fn what_is_too_old_or_too_much_is_forgotten_and_no_number_is_given_again() {
        let mut frames = Frames::default();
        let old = frames.keep(None, BATCH, plain(b"old"), 3, 0);
        let young = frames.keep(None, BATCH, plain(b"young"), 5, AGE_MAX_NS);
        frames.drain_heard(AGE_MAX_NS + 1, |_, _| {});
        assert_eq!(frames.at_front(old, &framed(b"old"), true), None);
        assert_eq!(frames.at_front(young, &framed(b"young"), true), young);

        let large = vec![0; BYTES_MAX];
        let last = frames.keep(old, BATCH, plain(&large), BYTES_MAX, AGE_MAX_NS);
        assert_eq!(last.map(Number::get), Some(3));
        frames.drain_heard(AGE_MAX_NS, |_, _| {});
        assert_eq!(frames.at_front(young, &framed(b"young"), true), None);
        assert_eq!((frames.bytes, frames.known.len()), (0, 0));
        assert_eq!(frames.keep(last, BATCH, plain(b"new"), 3, AGE_MAX_NS).map(Number::get), Some(4));
    }
}
