//! The two queues shared with the kernel: typed operations in, completions out.

use std::collections::VecDeque;
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use io_uring::squeue::Flags;
use io_uring::types::{CancelBuilder, Fd, Fixed, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use socket2::SockAddr;

use crate::arrivals::Arrivals;
use crate::buffers::GROUP;
use crate::event::Socket;
use crate::segment::Segment;
use crate::token::{Op, Token};

/// How long accepting rests after descriptors or memory ran out.
static ACCEPT_PAUSE: Timespec = Timespec::new().nsec(10_000_000);

/// Completions copied out at a time, so that the queue is not borrowed while the caller looks at them.
pub const BATCH: usize = 128;

/// An io_uring with what waits to be submitted.
pub struct Queue {
    ring: IoUring,
    arrivals: Arrivals,
    /// Entries for which the submission queue had no room and the kernel took none; oldest first.
    backlog: VecDeque<squeue::Entry>,
}

impl Queue {
    pub fn new(ring: IoUring) -> Self {
        Self { ring, arrivals: Arrivals::default(), backlog: VecDeque::new() }
    }

    /// Puts the descriptor into the table before anything pushed from now on is submitted.
    pub fn place(&mut self, slot: u16, fd: OwnedFd) {
        self.arrivals.add(slot, fd);
        if self.arrivals.is_full() {
            self.arrivals.place(&self.ring.submitter());
        }
    }

    pub fn receive(&mut self, socket: Socket) {
        let entry = opcode::RecvMulti::new(Fixed(socket.slot.into()), GROUP).build();
        self.push(entry, Token::of(Op::Receive, socket));
    }

    /// # Safety
    /// The segment's bytes must stay allocated until the send has completed.
    pub unsafe fn send(&mut self, socket: Socket, segment: &Segment) {
        let bytes = segment.bytes();
        let entry = opcode::Send::new(Fixed(socket.slot.into()), bytes.as_ptr(), bytes.len() as u32)
            .flags(libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
            .build();
        self.push(entry, Token::of(Op::Send, socket));
    }

    pub fn writable(&mut self, socket: Socket) {
        let entry = opcode::PollAdd::new(Fixed(socket.slot.into()), libc::POLLOUT as u32).build();
        self.push(entry, Token::of(Op::Writable, socket));
    }

    /// # Safety
    /// The address must stay where it is until the connect has completed.
    pub unsafe fn connect(&mut self, socket: Socket, target: &SockAddr) {
        let entry = opcode::Connect::new(Fixed(socket.slot.into()), target.as_ptr().cast(), target.len()).build();
        self.push(entry, Token::of(Op::Connect, socket));
    }

    pub fn close(&mut self, socket: Socket) {
        self.push(opcode::Close::new(Fixed(socket.slot.into())).build(), Token::of(Op::Close, socket));
    }

    pub fn accept(&mut self, listener: &TcpListener, index: u16) {
        let (address, length) = (std::ptr::null_mut(), std::ptr::null_mut());
        let entry = opcode::Accept::new(Fd(listener.as_raw_fd()), address, length).flags(libc::SOCK_CLOEXEC).build();
        self.push(entry, Token::of(Op::Accept, listener_token(index)));
    }

    pub fn pause_accept(&mut self, index: u16) {
        let entry = opcode::Timeout::new(&raw const ACCEPT_PAUSE).build();
        self.push(entry, Token::of(Op::AcceptPause, listener_token(index)));
    }

    /// Cancels one operation; only a cancel that found nothing is heard of again.
    pub fn cancel(&mut self, op: Op, socket: Socket) {
        self.cancel_by(CancelBuilder::user_data, Token::of(op, socket));
    }

    /// Cancels all accepts of a listener.
    pub fn cancel_accepts(&mut self, index: u16) {
        self.cancel_by(|data| CancelBuilder::user_data(data).all(), Token::of(Op::Accept, listener_token(index)));
    }

    fn cancel_by(&mut self, which: impl Fn(u64) -> CancelBuilder, target: Token) {
        let entry = opcode::AsyncCancel2::new(which(target.encode())).build();
        self.push(entry.flags(Flags::SKIP_SUCCESS), Token { cancels: true, ..target });
    }

    fn push(&mut self, entry: squeue::Entry, token: Token) {
        let entry = entry.user_data(token.encode());
        if self.backlog.is_empty() && self.try_push(&entry) {
            return;
        }
        self.backlog.push_back(entry);
        // While the kernel takes nothing, only the next turn asks it again.
        if self.backlog.len() == 1 {
            self.submit();
        }
    }

    fn try_push(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: entries are made only by the methods above. Their pointers are to a static (the timeout), or stay
        // valid by the contracts of `send` and `connect`; receive buffers outlive the ring's receives (see Buffers).
        unsafe { self.ring.submission().push(entry) }.is_ok()
    }

    /// Hands everything to the kernel; what it does not take now stays queued.
    pub fn submit(&mut self) {
        self.arrivals.place(&self.ring.submitter());
        loop {
            while let Some(entry) = self.backlog.pop_front() {
                if !self.try_push(&entry) {
                    self.backlog.push_front(entry);
                    break;
                }
            }
            // An error means: no memory, or too many completions unread. Neither loses an entry.
            if self.ring.submit().unwrap_or(0) == 0 || self.backlog.is_empty() {
                return;
            }
        }
    }

    /// Like [`Queue::submit`], then waits until something has completed or the time is over.
    pub fn submit_and_wait(&mut self, timeout: Duration) {
        self.submit();
        let timeout = Timespec::from(timeout);
        // An error is the end of the time or a signal; either way the caller looks at the completions next.
        let _ = self.ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&timeout));
    }

    /// Whether entries wait for [`Queue::submit`].
    pub fn has_unsubmitted(&mut self) -> bool {
        !self.backlog.is_empty() || !self.ring.submission().is_empty()
    }

    /// Whether the kernel has completions that it adds to the queue only when it is entered.
    pub fn kernel_holds_completions(&mut self) -> bool {
        let submission = self.ring.submission();
        submission.taskrun() || submission.cq_overflow()
    }

    /// Copies out the next completions.
    pub fn take<'a>(&mut self, batch: &'a mut [MaybeUninit<cqueue::Entry>; BATCH]) -> &'a [cqueue::Entry] {
        self.ring.completion().fill(batch)
    }

    /// While a turn reads the completions, they need not notify anyone.
    pub fn mute(&mut self) {
        self.ring.completion().disable_eventfd();
    }

    /// Completions notify again; false when some came in before that and nobody was told.
    pub fn unmute(&mut self) -> bool {
        self.ring.completion().enable_eventfd();
        // Between the store above and the load below, against the kernel's store of a completion and its load of the
        // flag: one side sees the other.
        fence(Ordering::SeqCst);
        self.ring.completion().is_empty() && !self.kernel_holds_completions()
    }

    /// Completions the queue can hold.
    pub fn capacity(&self) -> usize {
        self.ring.params().cq_entries() as usize
    }
}

fn listener_token(index: u16) -> Socket {
    Socket { slot: index, generation: 0 }
}
