//! Rooms that append, each its next records as soon as it hears of the last ones.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use storage::{Append, ScyllaStore, Store, StoreError};

use crate::common::{assert_whole, record};

/// Nothing here takes so long, except what hangs.
const PATIENCE: Duration = Duration::from_mins(1);

/// What was acked to each room of a load.
pub struct Load<'a> {
    store: &'a ScyllaStore,
    epochs: Vec<u64>,
    pub acked: Vec<u64>,
    outcomes: (Sender<Heard>, Receiver<Heard>),
}

/// What became of a room's append.
struct Heard {
    room: usize,
    last: u64,
    outcome: Result<(), StoreError>,
}

/// The name of a load's room.
pub fn name(room: usize) -> String {
    format!("room {room}")
}

impl<'a> Load<'a> {
    pub fn new(store: &'a ScyllaStore, rooms: usize) -> Self {
        // All at the same time: through a proxy each takes long.
        let epochs = thread::scope(|scope| {
            let open = |room: usize| store.open_log(&name(room)).unwrap().epoch;
            let opening: Vec<_> = (0..rooms).map(|room| scope.spawn(move || open(room))).collect();
            opening.into_iter().map(|epoch| epoch.join().unwrap()).collect()
        });
        Self { store, epochs, acked: vec![0; rooms], outcomes: channel() }
    }

    /// Lets all rooms append. `each` hears a room, its last seq and the outcome of each append, and says whether to go on;
    /// returns when all that was under way then is decided.
    pub fn run(&mut self, mut each: impl FnMut(usize, u64, Result<(), StoreError>) -> bool) {
        let mut under_way = self.acked.len();
        let mut goes_on = true;
        (0..under_way).for_each(|room| self.submit(room));
        while under_way > 0 {
            let Heard { room, last, outcome } = self.outcomes.1.recv_timeout(PATIENCE).unwrap();
            if outcome.is_ok() {
                self.acked[room] = last;
            }
            goes_on &= each(room, last, outcome);
            if goes_on {
                self.submit(room);
            } else {
                under_way -= 1;
            }
        }
    }

    /// The same until `enough`, asked after each ack; nothing may fail.
    pub fn run_until(&mut self, mut enough: impl FnMut() -> bool) {
        self.run(|_, _, outcome| {
            outcome.unwrap();
            !enough()
        });
    }

    /// The same on a thread of its own for as long as `work` lasts, which hears when each ack came.
    pub fn run_beside(&mut self, work: impl FnOnce(&Receiver<Instant>)) {
        let is_over = AtomicBool::new(false);
        let (acked, acks) = channel();
        thread::scope(|scope| {
            scope.spawn(|| {
                self.run_until(|| {
                    acked.send(Instant::now()).unwrap();
                    is_over.load(Ordering::Acquire)
                });
            });
            work(&acks);
            is_over.store(true, Ordering::Release);
        });
    }

    fn submit(&self, room: usize) {
        let first = self.acked[room] + 1;
        let last = first + (first * 7 + room as u64) % 5;
        let append = Append {
            room: name(room).into(),
            epoch: self.epochs[room],
            records: (first..=last).map(|seq| Arc::new(record(seq))).collect(),
        };
        let outcomes = self.outcomes.0.clone();
        let done = Box::new(move |outcome| {
            // The load may have ended by a panic.
            let _ = outcomes.send(Heard { room, last, outcome });
        });
        self.store.concurrent().unwrap().submit(append, done);
    }

    /// Checks that another opening finds just what was acked: nothing lost, nothing twice, in order.
    pub fn assert_stored(acked: &[u64], store: &ScyllaStore) {
        for (room, &last) in acked.iter().enumerate() {
            assert_whole(store, &name(room), last);
        }
    }
}
