//! A ring of its own with accepted sockets in its table: `uring` itself only knows SEND, and that is to be compared.

use std::io;
use std::net::TcpListener;
use std::os::fd::AsRawFd;

use io_uring::types::Fixed;
use io_uring::{IoUring, cqueue, opcode, squeue};

const QUEUE_ENTRIES: u32 = 1024;
/// The most that one visit sends.
pub const BYTES_MAX: usize = 64 << 10;
/// Completions of SEND_ZC say whether the bytes were copied after all (from the kernel's io_uring.h).
const REPORT_USAGE: u16 = 8;
const COPIED: u32 = 1 << 31;

/// How bytes are given to a socket.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Operation {
    Send,
    /// A write from registered memory.
    WriteFixed,
    SendZc,
    /// Zero-copy from registered memory.
    SendZcFixed,
}

/// What became of some sends.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sent {
    pub whole: u64,
    pub short: u64,
    /// Nothing was taken.
    pub refused: u64,
    /// Zero-copy sends whose bytes were copied.
    pub copied: u64,
    pub bytes: u64,
}

pub struct Sender {
    /// Before the bytes, so that it is gone before they are.
    ring: IoUring,
    bytes: Box<[u8]>,
    /// Slots taken so far.
    taken: u32,
    /// Notices of zero-copy sends that have not come yet.
    notices: u64,
}

impl Sender {
    pub fn new(sockets: usize) -> io::Result<Self> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(QUEUE_ENTRIES * 8)
            .build(QUEUE_ENTRIES)?;
        ring.submitter().register_files_sparse(sockets as u32)?;
        let bytes = vec![7; BYTES_MAX].into_boxed_slice();
        let memory = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        // SAFETY: the memory is never written, and it is freed after the ring, which takes back the registration.
        unsafe { ring.submitter().register_buffers(&[memory])? };
        Ok(Self { ring, bytes, taken: 0, notices: 0 })
    }

    /// Accepts so many connections into the next slots.
    pub fn accept(&mut self, listener: &TcpListener, count: usize) -> io::Result<Vec<u32>> {
        let first = self.taken;
        for _ in 0..count {
            let (stream, _) = listener.accept()?;
            self.ring.submitter().register_files_update(self.taken, &[stream.as_raw_fd()])?;
            self.taken += 1;
        }
        Ok((first..self.taken).collect())
    }

    /// One visit to each slot; returns when all are through.
    pub fn sweep(&mut self, slots: &[u32], operation: Operation, bytes: usize) -> io::Result<Sent> {
        let mut sent = Sent::default();
        let (mut given, mut done) = (0, 0);
        while done < slots.len() {
            let room = QUEUE_ENTRIES as usize - self.ring.submission().len();
            for &slot in slots[given..].iter().take(room) {
                let entry = self.entry(slot, operation, bytes);
                // SAFETY: the bytes live as long as the ring and are never written.
                unsafe { self.ring.submission().push(&entry).map_err(io::Error::other)? };
                given += 1;
            }
            self.ring.submit_and_wait(1)?;
            done += self.take(bytes, &mut sent);
        }
        Ok(sent)
    }

    /// Waits for the notices of zero-copy sends: until then the kernel may read the bytes.
    pub fn settle(&mut self, sent: &mut Sent) -> io::Result<()> {
        while self.notices > 0 {
            self.ring.submit_and_wait(1)?;
            self.take(0, sent);
        }
        Ok(())
    }

    /// Reads what has completed and returns how many sends that were.
    fn take(&mut self, bytes: usize, sent: &mut Sent) -> usize {
        let mut sends = 0;
        for completion in self.ring.completion() {
            let (result, flags) = (completion.result(), completion.flags());
            if cqueue::notif(flags) {
                self.notices -= 1;
                sent.copied += u64::from(result.cast_unsigned() & COPIED != 0);
                continue;
            }
            self.notices += u64::from(cqueue::more(flags));
            sends += 1;
            match usize::try_from(result) {
                Ok(taken) if taken == bytes => sent.whole += 1,
                Ok(_) => sent.short += 1,
                Err(_) => sent.refused += 1,
            }
            sent.bytes += u64::try_from(result).unwrap_or(0);
        }
        sends
    }

    fn entry(&self, slot: u32, operation: Operation, bytes: usize) -> squeue::Entry {
        let (socket, start, length) = (Fixed(slot), self.bytes[..bytes].as_ptr(), bytes as u32);
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        let zero_copy = |buffer| {
            let entry = opcode::SendZc::new(socket, start, length).flags(flags);
            entry.zc_flags(REPORT_USAGE).buf_index(buffer).build()
        };
        match operation {
            Operation::Send => opcode::Send::new(socket, start, length).flags(flags).build(),
            Operation::WriteFixed => {
                opcode::WriteFixed::new(socket, start, length, 0).rw_flags(libc::RWF_NOWAIT).build()
            }
            Operation::SendZc => zero_copy(None),
            Operation::SendZcFixed => zero_copy(Some(0)),
        }
    }
}

impl Sent {
    /// Adds what became of others.
    pub fn add(&mut self, other: Self) {
        self.whole += other.whole;
        self.short += other.short;
        self.refused += other.refused;
        self.copied += other.copied;
        self.bytes += other.bytes;
    }
}
