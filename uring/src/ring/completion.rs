//! From a completion to the caller's event, and to what the socket needs next.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use io_uring::cqueue;

use crate::acceptor::needs_pause;
use crate::event::{Event, Socket};
use crate::ring::Ring;
use crate::token::{Op, Token};

impl Ring {
    /// Returns whether the caller got an event.
    pub(super) fn complete(&mut self, completion: &cqueue::Entry, each: &mut impl FnMut(Event<'_>)) -> bool {
        let Token { op, cancels, socket } = Token::decode(completion.user_data());
        if cancels {
            self.cancel_again(op, socket);
            return false;
        }
        let result = outcome(completion.result());
        match op {
            Op::Receive => self.received(socket, result, completion.flags(), each),
            Op::Send => self.sent(socket, result, each),
            Op::Writable => self.writable(socket, each),
            Op::Connect => self.connected(socket, result, each),
            Op::Close => self.closed(socket, each),
            Op::Accept => self.accepted(socket.slot, result, each),
            Op::AcceptPause => {
                self.acceptors[usize::from(socket.slot)].pausing = false;
                false
            }
        }
    }

    fn received(
        &mut self,
        socket: Socket,
        result: io::Result<usize>,
        flags: u32,
        each: &mut impl FnMut(Event<'_>),
    ) -> bool {
        let buffer = cqueue::buffer_select(flags);
        let Some(slot) = self.slots.get(socket) else {
            unreachable!("a slot is released only after its receive has ended")
        };
        let starved = matches!(&result, Err(error) if error.raw_os_error() == Some(libc::ENOBUFS));
        let cancelled = matches!(&result, Err(error) if error.raw_os_error() == Some(libc::ECANCELED));
        let tell = !slot.is_closing() && !slot.has_ended() && !starved && !cancelled;
        if !cqueue::more(flags) {
            slot.finish(Op::Receive);
        }
        if tell {
            match (result, buffer) {
                (Ok(len @ 1..), Some(id)) => {
                    self.received += 1;
                    each(Event::Received(socket, self.buffers.filled(id, len)));
                }
                (result, _) => {
                    slot.set_ended();
                    each(Event::Ended(socket, result.err()));
                }
            }
        }
        if let Some(id) = buffer {
            self.buffers.recycle(id);
        }
        if starved {
            self.starved.push_back(socket);
        } else {
            self.receive_if_wanted(socket);
        }
        self.close_if_idle(socket);
        tell
    }

    fn sent(&mut self, socket: Socket, result: io::Result<usize>, each: &mut impl FnMut(Event<'_>)) -> bool {
        if let Some(slot) = self.slots.get(socket) {
            slot.sending = None;
        }
        let tell = self.finish(Op::Send, socket);
        if tell {
            each(Event::Sent(socket, result));
        }
        tell
    }

    fn writable(&mut self, socket: Socket, each: &mut impl FnMut(Event<'_>)) -> bool {
        let tell = self.finish(Op::Writable, socket);
        if tell {
            each(Event::Writable(socket));
        }
        tell
    }

    fn connected(&mut self, socket: Socket, result: io::Result<usize>, each: &mut impl FnMut(Event<'_>)) -> bool {
        self.targets.remove(&socket.slot);
        let tell = self.finish(Op::Connect, socket);
        if tell {
            if result.is_err() {
                self.slots.get(socket).expect("it is open").set_ended();
            }
            self.receive_if_wanted(socket);
            each(Event::Connected(socket, result.map(drop)));
        }
        tell
    }

    fn closed(&mut self, socket: Socket, each: &mut impl FnMut(Event<'_>)) -> bool {
        // An error means that the slot held no descriptor: it is free either way.
        self.finish(Op::Close, socket);
        self.slots.release(socket);
        each(Event::Closed(socket));
        true
    }

    /// Notes the end of an operation; returns whether the caller still wants to hear of this socket.
    fn finish(&mut self, op: Op, socket: Socket) -> bool {
        let slot = self.slots.get(socket).expect("a slot is released only after its operations have ended");
        slot.finish(op);
        let open = !slot.is_closing();
        if op != Op::Close {
            self.close_if_idle(socket);
        }
        open
    }

    fn accepted(&mut self, index: u16, result: io::Result<usize>, each: &mut impl FnMut(Event<'_>)) -> bool {
        let acceptor = &mut self.acceptors[usize::from(index)];
        acceptor.pending -= 1;
        if acceptor.stopping && acceptor.pending == 0 {
            acceptor.listener = None;
        }
        let pause = matches!(&result, Err(error) if needs_pause(error)) && !acceptor.pausing;
        if pause {
            acceptor.pausing = true;
            self.queue.pause_accept(index);
        }
        match result {
            // SAFETY: a good result of accept is a new descriptor of this process that nobody owns yet.
            Ok(fd) => each(Event::Accepted(unsafe { OwnedFd::from_raw_fd(fd as i32) })),
            Err(error) if pause => each(Event::AcceptFailed(error)),
            Err(_) => return false,
        }
        true
    }

    /// A cancel that did not find its operation, which may have been between two waits in the kernel: as long as it is
    /// pending and unwanted, it is cancelled again.
    fn cancel_again(&mut self, op: Op, socket: Socket) {
        if op == Op::Accept {
            let acceptor = &self.acceptors[usize::from(socket.slot)];
            if acceptor.pending > 0 && acceptor.stopping {
                self.queue.cancel_accepts(socket.slot);
            }
        } else if self.slots.get(socket).is_some_and(|slot| slot.is_closing() || slot.is_paused()) {
            self.cancel(op, socket);
        }
    }
}

fn outcome(result: i32) -> io::Result<usize> {
    if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(result as usize) }
}
