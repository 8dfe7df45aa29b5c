//! Who is in which room and who sends when: a pure function of the seed, the same for every thread and every run.
//!
//! Open model: each user has one message in every slot of `1/rate`, at a random time in it. What the server does
//! never moves a message, so latency can be counted from the intended time.

use crate::dice::{Dice, mix, scale};
use crate::scenario::Scenario;

pub use roles::Role;

mod agenda;
mod roles;

pub use agenda::{Agenda, Due};

/// How users spread over rooms.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Distribution {
    /// Rooms of equal size.
    Uniform,
    /// The room of rank r has a share of `r^-s`.
    Zipf(f64),
}

impl std::fmt::Display for Distribution {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Uniform => f.write_str("uniform"),
            Self::Zipf(s) => write!(f, "zipf:{s:?}"),
        }
    }
}

/// What a plan is made from. Times are nanoseconds.
#[derive(Debug, Clone, PartialEq)]
pub struct Shape {
    pub seed: u64,
    pub users: u32,
    pub rooms: u32,
    pub distribution: Distribution,
    /// One message per user in each slot of this length.
    pub slot_ns: u64,
    /// Traffic before the measured window.
    pub warm_up_ns: u64,
    /// The measured window.
    pub duration_ns: u64,
    pub scenario: Scenario,
}

/// The whole schedule. Times count from the start of traffic.
#[derive(Debug)]
pub struct Plan {
    pub shape: Shape,
    /// Members by room: those that the distribution makes, largest first, then the pairs.
    pub sizes: Vec<u32>,
    /// Messages a user can have at most; `k` is below it, but for those that make a room's history.
    pub per_user: u32,
    /// Who publishes the largest room's history before the others come, ascending.
    pub historians: Vec<u32>,
    room_of: Vec<u32>,
    role_of: Vec<Role>,
}

/// The fan-out arithmetic of a plan.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Load {
    pub sends_per_s: f64,
    pub deliveries_per_s: f64,
    /// Messages whose intended time lies in the measured window, and their deliveries.
    pub window_sends: u64,
    pub window_deliveries: u64,
}

impl Plan {
    /// Lays out rooms and members.
    pub fn new(shape: Shape) -> Self {
        let pairs = shape.scenario.pairs;
        let mut sizes = room_sizes(shape.users - 2 * pairs, shape.rooms, shape.distribution);
        sizes.extend(std::iter::repeat_n(2, pairs as usize));
        let mut room_of = Vec::with_capacity(shape.users as usize);
        for (room, &size) in sizes.iter().enumerate() {
            room_of.extend(std::iter::repeat_n(room as u32, size as usize));
        }
        let mut dice = Dice::new(shape.seed, u64::MAX, 0);
        for last in (1..room_of.len()).rev() {
            room_of.swap(last, dice.below(last as u64 + 1) as usize);
        }
        let per_user = (shape.warm_up_ns + shape.duration_ns).div_ceil(shape.slot_ns) as u32;
        let mut plan = Self { shape, sizes, per_user, historians: Vec::new(), room_of, role_of: Vec::new() };
        plan.role_of = roles::assign(&plan);
        plan.historians = roles::historians(&plan);
        plan
    }

    /// The room of a user.
    pub fn room_of(&self, user: u32) -> u32 {
        self.room_of[user as usize]
    }

    /// What is special about a user.
    pub fn role_of(&self, user: u32) -> Role {
        self.role_of[user as usize]
    }

    /// Whether this is one of the rooms of two beside the others.
    pub fn is_pair(&self, room: u32) -> bool {
        room >= self.shape.rooms
    }

    /// The numbers of the messages that `user` publishes before the others come.
    pub fn history_of(&self, user: u32) -> std::ops::Range<u32> {
        let (lines, writers) = (self.shape.scenario.history, self.historians.len() as u32);
        let lines =
            self.historians.binary_search(&user).map_or(0, |rank| lines.saturating_sub(rank as u32).div_ceil(writers));
        self.per_user..self.per_user + lines
    }

    /// When traffic ends, nanoseconds.
    pub fn end_ns(&self) -> u64 {
        self.shape.warm_up_ns + self.shape.duration_ns
    }

    /// When message `k` of `user` is to be sent: a random time in slot `k`. Never, for one of the history.
    pub fn intended_ns(&self, user: u32, k: u32) -> u64 {
        if k >= self.per_user {
            return u64::MAX;
        }
        let within = scale(mix(self.shape.seed, u64::from(user), u64::from(k)), self.shape.slot_ns);
        u64::from(k) * self.shape.slot_ns + within
    }

    /// Whether a message counts for latency: it was intended inside the measured window.
    pub fn is_measured(&self, intended_ns: u64) -> bool {
        (self.shape.warm_up_ns..self.end_ns()).contains(&intended_ns)
    }

    /// Messages that these users send in the whole run.
    pub fn sends(&self, users: impl Iterator<Item = u32>) -> u64 {
        let end = self.end_ns();
        let full = u64::from(self.per_user - 1);
        users.map(|user| full + u64::from(self.intended_ns(user, self.per_user - 1) < end)).sum()
    }

    /// What the plan asks of the server.
    pub fn load(&self) -> Load {
        let slots_per_s = 1e9 / self.shape.slot_ns as f64;
        let squares: f64 = self.sizes.iter().map(|&n| f64::from(n) * f64::from(n)).sum();
        let (mut window_sends, mut window_deliveries) = (0, 0);
        for user in 0..self.shape.users {
            let sends = (0..self.per_user).filter(|&k| self.is_measured(self.intended_ns(user, k))).count() as u64;
            window_sends += sends;
            window_deliveries += sends * u64::from(self.sizes[self.room_of(user) as usize]);
        }
        Load {
            sends_per_s: f64::from(self.shape.users) * slots_per_s,
            deliveries_per_s: squares * slots_per_s,
            window_sends,
            window_deliveries,
        }
    }
}

/// Members by room, largest first, summing to `users` (largest remainder).
fn room_sizes(users: u32, rooms: u32, distribution: Distribution) -> Vec<u32> {
    let weights: Vec<f64> = (1..=rooms)
        .map(|rank| match distribution {
            Distribution::Uniform => 1.0,
            Distribution::Zipf(s) => f64::from(rank).powf(-s),
        })
        .collect();
    let total: f64 = weights.iter().sum();
    let shares: Vec<f64> = weights.iter().map(|w| w / total * f64::from(users)).collect();
    let mut sizes: Vec<u32> = shares.iter().map(|share| share.floor() as u32).collect();
    let mut by_remainder: Vec<usize> = (0..sizes.len()).collect();
    by_remainder.sort_by(|&a, &b| shares[b].fract().total_cmp(&shares[a].fract()).then(a.cmp(&b)));
    let missing = users - sizes.iter().sum::<u32>();
    for &room in by_remainder.iter().take(missing as usize) {
        sizes[room] += 1;
    }
    sizes
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    pub fn shape(users: u32, rooms: u32, distribution: Distribution) -> Shape {
        let slot_ns = 60 * SECOND;
        let (warm_up_ns, duration_ns, scenario) = (15 * SECOND, 60 * SECOND, Scenario::default());
        Shape { seed: 1, users, rooms, distribution, slot_ns, warm_up_ns, duration_ns, scenario }
    }

    #[test]
    fn zipf_rooms_have_the_sizes_and_the_fan_out_of_the_arithmetic() {
        let plan = Plan::new(shape(70_000, 1_000, Distribution::Zipf(1.0)));
        assert!(plan.sizes[0].abs_diff(9_351) <= 1, "largest room {}", plan.sizes[0]);
        assert_eq!(plan.sizes.iter().sum::<u32>(), 70_000);
        let load = plan.load();
        assert!((load.deliveries_per_s / 2.40e6 - 1.0).abs() < 0.01, "{load:?}");
        assert!((load.sends_per_s - 1_166.67).abs() < 0.01, "{load:?}");
    }

    #[test]
    fn every_room_gets_the_members_its_size_says() {
        for distribution in [Distribution::Uniform, Distribution::Zipf(0.8)] {
            let plan = Plan::new(shape(1_003, 10, distribution));
            let mut members = vec![0; 10];
            (0..1_003).for_each(|user| members[plan.room_of(user) as usize] += 1);
            assert_eq!(members, plan.sizes);
        }
    }

    #[test]
    fn fewer_users_than_rooms_leave_rooms_empty() {
        let plan = Plan::new(shape(3, 10, Distribution::Uniform));
        assert_eq!(plan.sizes.iter().sum::<u32>(), 3);
    }

    #[test]
    fn the_rate_is_exact_in_every_slot() {
        let plan = Plan::new(shape(500, 10, Distribution::Uniform));
        for user in 0..500 {
            for k in 0..plan.per_user {
                assert_eq!(plan.intended_ns(user, k) / plan.shape.slot_ns, u64::from(k));
            }
        }
        let load = plan.load();
        let expected = 500.0;
        assert!((load.window_sends as f64 - expected).abs() < 60.0, "{load:?}");
    }

    #[test]
    fn the_schedule_is_a_function_of_the_seed() {
        let (a, b) = (Plan::new(shape(50, 5, Distribution::Uniform)), Plan::new(shape(50, 5, Distribution::Uniform)));
        let c = Plan::new(Shape { seed: 2, ..shape(50, 5, Distribution::Uniform) });
        let times =
            |plan: &Plan| (0..50).map(|user| (plan.room_of(user), plan.intended_ns(user, 1))).collect::<Vec<_>>();
        assert_eq!(times(&a), times(&b));
        assert_ne!(times(&a), times(&c));
    }
}
