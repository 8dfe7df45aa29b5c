//! The receive buffers of a ring, lent to the kernel through a provided-buffer ring.

use std::io;
use std::ptr::NonNull;
use std::slice;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;

/// The only buffer group of a ring.
pub const GROUP: u16 = 0;

const PAGE: usize = 4096;

/// One mapping: the entries of the buffer ring (a power of two, page-aligned), then the buffers.
pub struct Buffers {
    mapping: NonNull<u8>,
    mapping_bytes: usize,
    entries_bytes: usize,
    count: u16,
    buffer_bytes: u32,
    /// How many buffers were ever given to the kernel (wraps, as the kernel's own counter does).
    tail: u16,
    leaked: bool,
}

impl Buffers {
    /// Maps `count` (a power of two) buffers and registers them. Drop it only after the ring's receives have ended.
    pub fn register(ring: &IoUring, count: u16, buffer_bytes: u32) -> io::Result<Self> {
        if !count.is_power_of_two() || buffer_bytes == 0 {
            let message = format!("receive buffers: {count} of {buffer_bytes} bytes; the count must be a power of two");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let entries_bytes = (usize::from(count) * size_of::<BufRingEntry>()).next_multiple_of(PAGE);
        let mapping_bytes = entries_bytes + usize::from(count) * buffer_bytes as usize;
        let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new anonymous mapping touches no memory in use.
        let mapping = unsafe { libc::mmap(std::ptr::null_mut(), mapping_bytes, access, kind, -1, 0) };
        if mapping == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let mapping = NonNull::new(mapping.cast()).expect("mmap does not return null");
        let mut buffers = Self { mapping, mapping_bytes, entries_bytes, count, buffer_bytes, tail: 0, leaked: false };
        // SAFETY: the address is the start of `count` page-aligned entries that stay mapped until `buffers` is
        // dropped, which the ring does after it has ended all receives (or never).
        unsafe { ring.submitter().register_buf_ring_with_flags(mapping.as_ptr() as u64, count, GROUP, 0)? };
        for id in 0..count {
            buffers.recycle(id);
        }
        Ok(buffers)
    }

    pub fn count(&self) -> usize {
        self.count.into()
    }

    /// The first `len` bytes of a buffer that the kernel has filled and not got back yet.
    pub fn filled(&mut self, id: u16, len: usize) -> &mut [u8] {
        assert!(id < self.count && len <= self.buffer_bytes as usize, "buffer {id} with {len} bytes");
        // SAFETY: the range is inside the mapping (asserted), initialised (zeroed by mmap, then written by the
        // kernel), and not in the buffer ring, so that the kernel does not write to it before `recycle`, which cannot
        // be called while `self` is borrowed.
        unsafe { slice::from_raw_parts_mut(self.buffer(id).as_ptr(), len) }
    }

    /// Gives a buffer (back) to the kernel.
    pub fn recycle(&mut self, id: u16) {
        assert!(id < self.count, "buffer {id}");
        let entries = self.mapping.cast::<BufRingEntry>();
        let address = self.buffer(id).as_ptr() as u64;
        // SAFETY: the index is below `count`, so the entry is inside the mapping. The kernel reads entries only below
        // the tail, which this one is not yet; the setters leave alone the bytes that hold the tail in entry 0.
        let entry = unsafe { &mut *entries.add(usize::from(self.tail & (self.count - 1))).as_ptr() };
        entry.set_addr(address);
        entry.set_len(self.buffer_bytes);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: `entries` is the first entry of the registered ring; the kernel shares its tail as an aligned u16
        // and reads it with acquire, so it sees the entry written above.
        unsafe {
            let tail = BufRingEntry::tail(entries.as_ptr()).cast_mut();
            AtomicU16::from_ptr(tail).store(self.tail, Ordering::Release);
        }
    }

    /// Keeps the mapping for ever: the kernel may still write to it.
    pub fn leak(&mut self) {
        self.leaked = true;
    }

    fn buffer(&self, id: u16) -> NonNull<u8> {
        // SAFETY: `id < count` is asserted by both callers, so the offset is inside the mapping.
        unsafe { self.mapping.add(self.entries_bytes + usize::from(id) * self.buffer_bytes as usize) }
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        if self.leaked {
            return;
        }
        // SAFETY: the mapping is ours, no slice of it is borrowed, and the kernel no longer writes to it: the ring
        // drops the buffers only when no receive is pending, and else has leaked them.
        unsafe { libc::munmap(self.mapping.as_ptr().cast(), self.mapping_bytes) };
    }
}
