//! Bytes that may be handed to the kernel: written once, then immutable, reference-counted, of one thread.

use std::cell::Cell;
use std::fmt;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::rc::Rc;
use std::slice;

/// The memory of a vector. Only `len` bytes are initialised; those never change again. The raw pointer keeps it on
/// one thread and lets the tail be written while slices of the front are borrowed.
struct Memory {
    start: NonNull<u8>,
    capacity: usize,
    len: Cell<u32>,
}

impl Memory {
    fn new(bytes: Vec<u8>) -> Self {
        let len = u32::try_from(bytes.len()).expect("a segment is shorter than 4 GiB");
        assert!(u32::try_from(bytes.capacity()).is_ok(), "a chunk is smaller than 4 GiB");
        let mut bytes = ManuallyDrop::new(bytes);
        let start = NonNull::new(bytes.as_mut_ptr()).expect("a vector's pointer is never null");
        Self { start, capacity: bytes.capacity(), len: Cell::new(len) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: these are the parts of the vector given to `new`, whose own destructor never ran; this is the last
        // reference, and `len` bytes are initialised.
        drop(unsafe { Vec::from_raw_parts(self.start.as_ptr(), self.len.get() as usize, self.capacity) });
    }
}

/// An append-only buffer of fixed capacity. Bytes below its length never change, so [`Segment`]s of them can be in
/// flight while more is appended behind them.
#[derive(Clone)]
pub struct Chunk {
    memory: Rc<Memory>,
}

impl Chunk {
    /// An empty chunk that can take `capacity` bytes (less than 4 GiB).
    pub fn with_capacity(capacity: usize) -> Self {
        Self { memory: Rc::new(Memory::new(Vec::with_capacity(capacity))) }
    }

    /// Bytes written so far.
    pub fn len(&self) -> usize {
        self.memory.len.get() as usize
    }

    /// Whether nothing is written yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes it can take in all.
    pub fn capacity(&self) -> usize {
        self.memory.capacity
    }

    /// Appends all of `bytes`, or nothing and returns false when they do not fit.
    #[must_use]
    pub fn append(&self, bytes: &[u8]) -> bool {
        let len = self.len();
        if bytes.len() > self.capacity() - len {
            return false;
        }
        // SAFETY: len + bytes.len() <= capacity, so the target lies inside the allocation. No reference to it exists:
        // segments cover only bytes below `len`, and `bytes` can therefore not overlap it either. Memory is not Sync,
        // so nobody else appends meanwhile.
        unsafe { self.memory.start.add(len).copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len()) };
        self.memory.len.set((len + bytes.len()) as u32);
        true
    }

    /// The bytes `start..end`, sharing the chunk. Panics when they are not written yet.
    pub fn segment(&self, start: usize, end: usize) -> Segment {
        assert!(start <= end && end <= self.len(), "segment {start}..{end} of a chunk of {} bytes", self.len());
        Segment { memory: Rc::clone(&self.memory), start: start as u32, len: (end - start) as u32 }
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chunk({} of {} bytes)", self.len(), self.capacity())
    }
}

/// A range of a [`Chunk`], cheap to clone (a non-atomic count), safe to hand to the kernel. 16 bytes.
#[derive(Clone)]
pub struct Segment {
    memory: Rc<Memory>,
    start: u32,
    len: u32,
}

const _: () = assert!(size_of::<Option<Segment>>() == 16);

impl Segment {
    /// Bytes in it.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes themselves.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: `start + len` was within the initialised length when the segment was made and that length never
        // shrinks; those bytes are never written again, and the Rc keeps them allocated as long as `self` is borrowed.
        unsafe { slice::from_raw_parts(self.memory.start.add(self.start as usize).as_ptr(), self.len()) }
    }

    /// The same segment without its first `n` bytes. Panics when it has fewer.
    #[must_use]
    pub fn skip(self, n: usize) -> Segment {
        assert!(n <= self.len(), "skip {n} of a segment of {} bytes", self.len());
        Segment { start: self.start + n as u32, len: self.len - n as u32, memory: self.memory }
    }
}

impl From<Vec<u8>> for Segment {
    /// Takes the vector as it is, without a copy. Panics at 4 GiB and more.
    fn from(bytes: Vec<u8>) -> Self {
        let len = bytes.len() as u32;
        Segment { memory: Rc::new(Memory::new(bytes)), start: 0, len }
    }
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Segment({} bytes)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::{Chunk, Segment};

    #[test]
    fn a_segment_keeps_its_bytes_while_more_is_appended_and_after_the_chunk_is_gone() {
        let chunk = Chunk::with_capacity(8);
        assert!(chunk.append(b"abcd"));
        let front = chunk.segment(1, 4);
        let borrowed = front.bytes();
        assert!(chunk.append(b"efg"));
        assert_eq!(borrowed, b"bcd");
        let all = chunk.segment(0, 7);
        drop(chunk);
        assert_eq!(front.bytes(), b"bcd");
        assert_eq!(all.clone().skip(2).bytes(), b"cdefg");
        assert!(all.skip(7).is_empty());
    }

    #[test]
    fn what_does_not_fit_is_refused_whole() {
        let chunk = Chunk::with_capacity(4);
        assert!(chunk.append(b"abc"));
        assert!(!chunk.append(b"de"));
        assert_eq!((chunk.len(), chunk.capacity()), (3, 4));
        assert!(chunk.append(b"d"));
        assert_eq!(chunk.segment(0, 4).bytes(), b"abcd");
    }

    #[test]
    fn a_vector_becomes_a_segment_without_a_copy() {
        let mut bytes = Vec::with_capacity(100);
        bytes.extend_from_slice(b"xyz");
        let address = bytes.as_ptr();
        let segment = Segment::from(bytes);
        assert_eq!(segment.bytes().as_ptr(), address);
        assert_eq!(segment.bytes(), b"xyz");
        assert!(Segment::from(Vec::new()).is_empty());
    }

    #[test]
    #[should_panic(expected = "segment 2..5 of a chunk of 4 bytes")]
    fn bytes_that_are_not_written_yet_cannot_be_taken() {
        let chunk = Chunk::with_capacity(8);
        assert!(chunk.append(b"abcd"));
        let _ = chunk.segment(2, 5);
    }
}
