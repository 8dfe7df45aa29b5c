//! In which order and when a thread's users connect.

use crate::crowd::Crowd;
use crate::world::World;

/// Users of one thread that may be connecting at the same time.
const CONNECTING_MAX: u64 = 512;

/// The queue of users that are to connect: those who write the history, the others, and those who come back.
#[derive(Debug)]
pub struct Ramp {
    places: Vec<u32>,
    next: usize,
    historians: usize,
    users: usize,
}

impl Ramp {
    /// All users of a crowd.
    pub fn new(crowd: &Crowd<'_>, world: &World) -> Self {
        let writes = |&place: &u32| !world.plan.history_of(crowd.number(place)).is_empty();
        let all = 0..crowd.users.len() as u32;
        let (mut places, others): (Vec<u32>, Vec<u32>) = all.partition(writes);
        let historians = places.len();
        places.extend(others);
        Self { users: places.len(), places, next: 0, historians }
    }

    /// Adds users that have dropped out.
    pub fn come_back(&mut self, places: &[u32]) {
        self.places.extend(places);
    }

    /// Takes the next user if it may connect now.
    pub fn take_due(&mut self, crowd: &Crowd<'_>, world: &World, now_ns: u64) -> Option<u32> {
        self.next_ns(crowd, world).filter(|&due_ns| due_ns <= now_ns)?;
        self.next += 1;
        Some(self.places[self.next - 1])
    }

    /// Puts back the user that was taken last.
    pub fn put_back(&mut self) {
        self.next -= 1;
    }

    /// When the next user may connect, nanoseconds of the run's clock.
    pub fn next_ns(&self, crowd: &Crowd<'_>, world: &World) -> Option<u64> {
        let place = *self.places.get(self.next).filter(|_| crowd.connecting < CONNECTING_MAX)?;
        let after = |nth: u64, per_s: u32| nth * 1_000_000_000 / u64::from(per_s);
        if self.next < self.historians {
            return Some(0);
        }
        if self.next < self.users {
            return world.ramp_ns().map(|from_ns| from_ns + after(crowd.number(place).into(), world.ramp));
        }
        let (from_ns, ramp) = world.storm_ns()?;
        let nth = ((self.next - self.users) * world.threads) as u64;
        Some(from_ns + ramp.map_or(0, |per_s| after(nth, per_s)))
    }
}
