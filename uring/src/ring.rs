//! One io_uring with its table of sockets.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::mem::{self, MaybeUninit};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd};

use socket2::SockAddr;

use crate::acceptor::Acceptor;
use crate::buffers::Buffers;
use crate::event::{Event, Socket};
use crate::queue::{BATCH, Queue};
use crate::setup::{self, Config, SetupError};
use crate::slots::Slots;
use crate::token::Op;
use crate::{Segment, Wake, dial};

mod completion;
mod teardown;

/// Accepts of a listener under way at most: as many connections come in a turn.
pub const ACCEPTS_MAX: u16 = 32;

/// An io_uring of one thread, its fixed-file table and its receive buffers.
///
/// Every operation is queued only; [`Ring::turn`] hands them to the kernel. Dropping the ring closes its sockets.
pub struct Ring {
    queue: Queue,
    slots: Slots,
    buffers: Buffers,
    acceptors: Vec<Acceptor>,
    /// Target addresses, kept in place while their connects are pending.
    targets: HashMap<u16, Box<SockAddr>>,
    /// Sockets whose receive ended because no buffer was left, in order.
    starved: VecDeque<Socket>,
    accepts_max: u16,
    /// Receives given in this turn, and how many may be.
    received: usize,
    receives_max: usize,
    quiet: bool,
    wake: Wake,
}

impl Ring {
    /// `wake` is notified when completions arrive, unless [`Ring::set_quiet`].
    pub fn new(config: Config, wake: &Wake) -> Result<Self, SetupError> {
        let ring = setup::build(&config)?;
        let buffers =
            Buffers::register(&ring, config.recv_buffers, config.recv_buffer_bytes).map_err(setup::explain)?;
        ring.submitter().register_eventfd(wake.fd().as_raw_fd()).map_err(setup::explain)?;
        Ok(Self {
            queue: Queue::new(ring),
            slots: Slots::new(config.sockets),
            buffers,
            acceptors: Vec::new(),
            targets: HashMap::new(),
            starved: VecDeque::new(),
            accepts_max: ACCEPTS_MAX,
            received: 0,
            receives_max: usize::MAX,
            quiet: false,
            wake: wake.clone(),
        })
    }

    /// Free slots.
    pub fn free(&self) -> usize {
        self.slots.free()
    }

    /// Accepts from this listener until [`Ring::stop_listening`].
    pub fn listen(&mut self, listener: TcpListener) {
        self.acceptors.push(Acceptor { listener: Some(listener), stopping: false, pending: 0, pausing: false });
        self.arm_accepts(self.acceptors.len() - 1);
    }

    /// From the next turn on so many connections of each listener are accepted in a turn, [`ACCEPTS_MAX`] at most;
    /// further ones wait in the listener's backlog.
    pub fn set_accepts(&mut self, max: u16) {
        self.accepts_max = max.min(ACCEPTS_MAX);
    }

    /// In a turn so many [`Event::Received`] are given, and a batch of completions more; the others come with the next
    /// turns, which the wake announces. Without it a peer that sends without end could make a turn as long.
    pub fn set_receives(&mut self, max: usize) {
        self.receives_max = max;
    }

    /// Stops accepting and closes the listener(s), within the next turns; until then connections may still come.
    pub fn stop_listening(&mut self) {
        for (acceptor, index) in self.acceptors.iter_mut().zip(0..) {
            acceptor.stopping = true;
            if acceptor.pending > 0 {
                self.queue.cancel_accepts(index);
            } else {
                acceptor.listener = None;
            }
        }
    }

    /// Moves an accepted connection into a slot and starts to receive. Gives the descriptor back when no slot is free.
    pub fn register(&mut self, fd: OwnedFd) -> Result<Socket, OwnedFd> {
        let Some(socket) = self.slots.take() else {
            return Err(fd);
        };
        self.queue.place(socket.slot, fd);
        self.receive_if_wanted(socket);
        Ok(socket)
    }

    /// Opens a connection from `source` (port 0 with IP_BIND_ADDRESS_NO_PORT); [`Event::Connected`] tells the outcome
    /// and, when it is good, receiving has started. `WouldBlock` when no slot is free.
    pub fn connect(&mut self, source: Option<SocketAddr>, target: SocketAddr) -> io::Result<Socket> {
        if self.free() == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let fd = dial::socket(source, target)?;
        let socket = self.slots.take().expect("a slot is free");
        self.queue.place(socket.slot, fd.into());
        self.slots.get(socket).expect("just taken").start(Op::Connect);
        let target = self.targets.entry(socket.slot).insert_entry(Box::new(target.into()));
        // SAFETY: the boxed address stays in `targets` until the connect has completed (see `completion`) and the slot
        // is not taken again before.
        unsafe { self.queue.connect(socket, target.get()) };
        Ok(socket)
    }

    /// Queues one SEND (MSG_DONTWAIT | MSG_NOSIGNAL). At most one may be in flight per socket (asserted).
    pub fn send(&mut self, socket: Socket, segment: Segment) {
        let Some(slot) = self.slots.open(socket) else {
            return;
        };
        slot.start(Op::Send);
        let segment = slot.sending.insert(segment);
        // SAFETY: the slot keeps the segment, and with it its bytes, until the send has completed; a ring that is
        // dropped before that forgets its slots (see `teardown`).
        unsafe { self.queue.send(socket, segment) };
    }

    /// Arms one writability poll; answers with [`Event::Writable`]. At most one may be armed per socket (asserted).
    pub fn wait_writable(&mut self, socket: Socket) {
        if let Some(slot) = self.slots.open(socket) {
            slot.start(Op::Writable);
            self.queue.writable(socket);
        }
    }

    /// Stops receiving for now (a reader that is slow on purpose); bytes stay in the kernel. What was received before
    /// may still come in the next turns.
    pub fn pause(&mut self, socket: Socket) {
        if let Some(slot) = self.slots.open(socket) {
            slot.set_paused(true);
            self.cancel(Op::Receive, socket);
        }
    }

    /// Goes on after [`Ring::pause`].
    pub fn resume(&mut self, socket: Socket) {
        if let Some(slot) = self.slots.open(socket) {
            slot.set_paused(false);
            self.receive_if_wanted(socket);
        }
    }

    /// Ends the connection: pending operations end, the peer gets what was sent and a FIN (a reset, when bytes it sent
    /// are still unread); [`Event::Closed`] follows, and no other event of this socket.
    /// Calls for a socket that is closing or closed already are ignored.
    pub fn close(&mut self, socket: Socket) {
        if let Some(slot) = self.slots.open(socket) {
            slot.set_closing();
            for op in [Op::Receive, Op::Writable, Op::Connect] {
                self.cancel(op, socket);
            }
            self.close_if_idle(socket);
        }
    }

    /// Enters the kernel once: submits what is queued and takes what has completed, giving each event to `each` until
    /// no completion is left (or a whole queue of them was read, or as many receives as [`Ring::set_receives`] says:
    /// then the wake is notified). Returns how many events there were.
    pub fn turn(&mut self, mut each: impl FnMut(Event<'_>)) -> usize {
        self.queue.mute();
        if self.queue.has_unsubmitted() || self.queue.kernel_holds_completions() {
            self.queue.submit();
        }
        let mut events = 0;
        let mut batch = [const { MaybeUninit::uninit() }; BATCH];
        let mut left = self.queue.capacity();
        self.received = 0;
        while left > 0 && self.received < self.receives_max {
            let completions = self.queue.take(&mut batch);
            for completion in completions {
                events += usize::from(self.complete(completion, &mut each));
            }
            if completions.is_empty() {
                if !self.queue.kernel_holds_completions() {
                    break;
                }
                // Entering the kernel runs a few dozen deferred completions at a time, not all.
                self.queue.submit();
            }
            left = left.saturating_sub(completions.len().max(1));
        }
        self.feed_starved();
        (0..self.acceptors.len()).for_each(|index| self.arm_accepts(index));
        self.finish_turn();
        events
    }

    /// From the end of the next turn on, completions notify nobody and wait for the turn after it: for a thread that
    /// turns at its own pace, because under load wake-ups cost more than what they announce.
    pub fn set_quiet(&mut self, quiet: bool) {
        self.quiet = quiet;
    }

    /// Submits what the turn itself has queued, and sees to it that nothing waits unnoticed.
    fn finish_turn(&mut self) {
        let told = self.quiet || self.queue.unmute();
        if self.queue.has_unsubmitted() {
            self.queue.submit();
        }
        if !told || self.queue.has_unsubmitted() {
            self.wake.wake();
        }
    }

    /// Receives again on sockets that found no buffer, as many as there are buffers. Each has bytes waiting, so that
    /// its completion brings the next turn.
    fn feed_starved(&mut self) {
        let mut left = self.buffers.count();
        while left > 0
            && let Some(socket) = self.starved.pop_front()
        {
            left -= usize::from(self.receive_if_wanted(socket));
        }
    }

    /// Returns whether a receive was armed now.
    fn receive_if_wanted(&mut self, socket: Socket) -> bool {
        let Some(slot) = self.slots.get(socket).filter(|slot| slot.wants_receive()) else { return false };
        slot.start(Op::Receive);
        self.queue.receive(socket);
        true
    }

    /// Has the kernel accept as many connections as wanted. Each accept is for one connection: a multishot one would
    /// take as many as there are.
    fn arm_accepts(&mut self, index: usize) {
        let Acceptor { listener, stopping, pending, pausing } = &mut self.acceptors[index];
        if let Some(listener) = listener.as_ref().filter(|_| !*stopping && !*pausing) {
            while *pending < self.accepts_max {
                *pending += 1;
                self.queue.accept(listener, index as u16);
            }
        }
    }

    /// Cancels the operation if it is pending. The slot's wish (paused or closing) says that it is to stay ended.
    fn cancel(&mut self, op: Op, socket: Socket) {
        if self.slots.get(socket).is_some_and(|slot| slot.is_pending(op)) {
            self.queue.cancel(op, socket);
        }
    }

    /// The last step of closing, once every operation on the slot has ended.
    fn close_if_idle(&mut self, socket: Socket) {
        if let Some(slot) = self.slots.get(socket).filter(|slot| slot.is_closing() && slot.is_idle()) {
            slot.start(Op::Close);
            self.queue.close(socket);
        }
    }

    /// Leaks everything that the kernel may still read or write.
    fn leak(&mut self) {
        mem::forget(mem::replace(&mut self.slots, Slots::new(0)));
        mem::forget(mem::take(&mut self.targets));
        self.buffers.leak();
    }
}
