//! Bytes that may be handed to the kernel: written once, then immutable, reference-counted, of one thread.

/// An append-only buffer of fixed capacity. Bytes below its length never change, so [`Segment`]s of them can be in
/// flight while more is appended behind them.
#[derive(Clone)]
pub struct Chunk {}

impl Chunk {
    /// An empty chunk that can take `capacity` bytes.
    pub fn with_capacity(_capacity: usize) -> Self {
        unimplemented!()
    }
    pub fn len(&self) -> usize {
        unimplemented!()
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    pub fn capacity(&self) -> usize {
        unimplemented!()
    }
    /// Appends all of `bytes`, or nothing and returns false when they do not fit.
    #[must_use]
    pub fn append(&self, _bytes: &[u8]) -> bool {
        unimplemented!()
    }
    /// The bytes `start..end`, sharing the chunk. Panics when they are not written yet.
    pub fn segment(&self, _start: usize, _end: usize) -> Segment {
        unimplemented!()
    }
}

/// A range of a [`Chunk`], cheap to clone (a non-atomic count), safe to hand to the kernel.
#[derive(Clone)]
pub struct Segment {}

impl Segment {
    pub fn len(&self) -> usize {
        unimplemented!()
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    pub fn bytes(&self) -> &[u8] {
        unimplemented!()
    }
    /// The same segment without its first `n` bytes.
    pub fn skip(self, _n: usize) -> Segment {
        unimplemented!()
    }
}

impl From<Vec<u8>> for Segment {
    /// Takes the vector as it is, without a copy.
    fn from(_bytes: Vec<u8>) -> Self {
        unimplemented!()
    }
}
