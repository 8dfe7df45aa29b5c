//! Dropping a ring while operations are in flight.

use std::time::{Duration, Instant};

use crate::ring::Ring;

/// How long the kernel gets to end everything; it takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(2);

impl Drop for Ring {
    /// The kernel reads sent segments and writes to receive buffers until their operations have completed, and closing
    /// the ring's descriptor does not wait for that. So everything is closed the usual way first, and memory is
    /// released only when no operation is pending; should the kernel not get there in time, it is leaked instead.
    fn drop(&mut self) {
        self.stop_listening();
        let sockets: Vec<_> = self.slots.taken().collect();
        sockets.into_iter().for_each(|socket| self.close(socket));
        let deadline = Instant::now() + PATIENCE;
        while !self.is_at_rest() {
            if Instant::now() > deadline {
                self.leak();
                return;
            }
            self.turn(|_| {});
            if !self.is_at_rest() {
                self.queue.submit_and_wait(Duration::from_millis(10));
            }
        }
    }
}

impl Ring {
    /// No socket is left, and no accept.
    fn is_at_rest(&self) -> bool {
        self.slots.taken().next().is_none() && self.acceptors.iter().all(|acceptor| acceptor.pending == 0)
    }
}
