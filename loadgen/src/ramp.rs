//! In which order and when a thread's users connect.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::crowd::Crowd;
use crate::world::World;

/// The users that are to connect: those who write the history, the others, and those who come back.
#[derive(Debug)]
pub struct Ramp {
    places: Vec<u32>,
    next: usize,
    historians: usize,
    /// When, and who. Also who found no free socket.
    returning: BinaryHeap<Reverse<(u64, u32)>>,
}

impl Ramp {
    /// All users of a crowd.
    pub fn new(crowd: &Crowd<'_>, world: &World) -> Self {
        let writes = |&place: &u32| !world.plan.history_of(crowd.number(place)).is_empty();
        let all = 0..crowd.users.len() as u32;
        let (mut places, others): (Vec<u32>, Vec<u32>) = all.partition(writes);
        let historians = places.len();
        places.extend(others);
        Self { places, next: 0, historians, returning: BinaryHeap::new() }
    }

    /// Adds a user that may connect from then on, nanoseconds of the run's clock.
    pub fn come_back(&mut self, place: u32, due_ns: u64) {
        self.returning.push(Reverse((due_ns, place)));
    }

    /// Takes the next user if it may connect now.
    pub fn take_due(&mut self, crowd: &Crowd<'_>, world: &World, now_ns: u64) -> Option<u32> {
        self.next_ns(crowd, world).filter(|&due_ns| due_ns <= now_ns)?;
        if let Some(&Reverse((due_ns, place))) = self.returning.peek()
            && due_ns <= now_ns
        {
            self.returning.pop();
            return Some(place);
        }
        self.next += 1;
        Some(self.places[self.next - 1])
    }

    /// When the next user may connect, nanoseconds of the run's clock.
    pub fn next_ns(&self, crowd: &Crowd<'_>, world: &World) -> Option<u64> {
        if crowd.connecting >= world.dials {
            return None;
        }
        let returning = self.returning.peek().map(|Reverse((due_ns, _))| *due_ns);
        self.first_ns(crowd, world).into_iter().chain(returning).min()
    }

    /// When the next one may connect that has not connected before.
    fn first_ns(&self, crowd: &Crowd<'_>, world: &World) -> Option<u64> {
        let place = *self.places.get(self.next)?;
        if self.next < self.historians {
            return Some(0);
        }
        let nth = u64::from(crowd.number(place));
        world.ramp_ns().map(|from_ns| from_ns + nth * 1_000_000_000 / u64::from(world.ramp))
    }
}
