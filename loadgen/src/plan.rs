//! Who is in which room and who sends when: a pure function of the seed, the same for every thread and every run.
//!
//! Open model: each user has one message in every slot of `1/rate`, at a random time in it. What the server does
//! never moves a message, so latency can be counted from the intended time.

use crate::dice::{Dice, mix, scale};

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
}

/// The whole schedule. Times count from the start of traffic.
#[derive(Debug)]
pub struct Plan {
    pub shape: Shape,
    /// Members by room, largest first.
    pub sizes: Vec<u32>,
    /// Messages a user can have at most; `k` is below it.
    pub per_user: u32,
    room_of: Vec<u32>,
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
        let sizes = room_sizes(shape.users, shape.rooms, shape.distribution);
        let mut room_of = Vec::with_capacity(shape.users as usize);
        for (room, &size) in sizes.iter().enumerate() {
            room_of.extend(std::iter::repeat_n(room as u32, size as usize));
        }
        let mut dice = Dice::new(shape.seed, u64::MAX, 0);
        for last in (1..room_of.len()).rev() {
            room_of.swap(last, dice.below(last as u64 + 1) as usize);
        }
        let per_user = (shape.warm_up_ns + shape.duration_ns).div_ceil(shape.slot_ns) as u32;
        Self { shape, sizes, per_user, room_of }
    }

    /// The room of a user.
    pub fn room_of(&self, user: u32) -> u32 {
        self.room_of[user as usize]
    }

    /// When traffic ends, nanoseconds.
    pub fn end_ns(&self) -> u64 {
        self.shape.warm_up_ns + self.shape.duration_ns
    }

    /// When message `k` of `user` is to be sent: a random time in slot `k`.
    pub fn intended_ns(&self, user: u32, k: u32) -> u64 {
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

/// A message that is to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Due {
    pub intended_ns: u64,
    pub user: u32,
    pub k: u32,
}

/// The schedule of some users in order of time, worked out one slot at a time so that its size is that of the users.
#[derive(Debug)]
pub struct Agenda {
    users: Vec<u32>,
    slot: Vec<Due>,
    at: usize,
    next_k: u32,
    left: u64,
}

impl Agenda {
    /// The schedule of `users`.
    pub fn new(plan: &Plan, users: Vec<u32>) -> Self {
        let left = plan.sends(users.iter().copied());
        let mut agenda = Self { slot: Vec::with_capacity(users.len()), users, at: 0, next_k: 0, left };
        agenda.fill(plan);
        agenda
    }

    /// Messages not yet taken.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// The next message, without taking it.
    pub fn peek(&self) -> Option<Due> {
        self.slot.get(self.at).copied()
    }

    /// Takes the next message if it is due at `now_ns`.
    pub fn take_due(&mut self, plan: &Plan, now_ns: u64) -> Option<Due> {
        let due = self.peek().filter(|due| due.intended_ns <= now_ns)?;
        self.at += 1;
        self.left -= 1;
        if self.at == self.slot.len() {
            self.fill(plan);
        }
        Some(due)
    }

    /// Works out the next slot that has a message.
    fn fill(&mut self, plan: &Plan) {
        self.slot.clear();
        self.at = 0;
        while self.slot.is_empty() && self.next_k < plan.per_user {
            let k = self.next_k;
            self.next_k += 1;
            let all = self.users.iter().map(|&user| Due { intended_ns: plan.intended_ns(user, k), user, k });
            self.slot.extend(all.filter(|due| due.intended_ns < plan.end_ns()));
            self.slot.sort_unstable();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn shape(users: u32, rooms: u32, distribution: Distribution) -> Shape {
        let slot_ns = 60 * SECOND;
        Shape { seed: 1, users, rooms, distribution, slot_ns, warm_up_ns: 15 * SECOND, duration_ns: 60 * SECOND }
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

    #[test]
    fn an_agenda_gives_every_message_once_in_order_of_time_and_skips_none_when_late() {
        let plan = Plan::new(shape(101, 5, Distribution::Uniform));
        let users: Vec<u32> = (0..101).filter(|user| user % 2 == 1).collect();
        let mut agenda = Agenda::new(&plan, users.clone());
        let total = agenda.left();
        assert_eq!(agenda.take_due(&plan, 0), None, "nothing is due before its time");
        let mut taken = Vec::new();
        while let Some(due) = agenda.take_due(&plan, u64::MAX) {
            taken.push(due);
        }
        assert!(taken.is_sorted());
        assert_eq!(taken.len() as u64, total);
        assert_eq!(agenda.left(), 0);
        let all = users.iter().flat_map(|&user| (0..plan.per_user).map(move |k| (user, k)));
        let mut expected: Vec<Due> = all
            .map(|(user, k)| Due { intended_ns: plan.intended_ns(user, k), user, k })
            .filter(|due| due.intended_ns < plan.end_ns())
            .collect();
        expected.sort_unstable();
        assert_eq!(taken, expected);
    }
}
