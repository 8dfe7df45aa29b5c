//! The controller against a synthetic kernel, in which a turn, a visit, a byte and a publish cost what it is told: no
//! rate waits longer than a higher one, a step settles, and the core is used before people wait.

use std::collections::VecDeque;

use super::{CHUNK_VISITS, Load, MessageRate, PERIOD_US_MIN, RATES_US, SENDS_MIN, SHARE, Tempo};

/// What things cost one thread, microseconds, and what other threads leave it of its core.
#[derive(Debug, Clone, Copy)]
struct Costs {
    turn_us: f64,
    visit_us: f64,
    byte_us: f64,
    publish_us: f64,
    /// 1 when the thread has its core to itself.
    free: f64,
}

/// Bytes of a line.
const LINE_BYTES: f64 = 100.0;
/// Entering the kernel, microseconds; part of what sends are measured to cost.
const ENTER_US: f64 = 3.0;
/// A message is durable so long after it was sent, microseconds.
const DURABLE_US: f64 = 4_000.0;
/// Neighbouring members of a room are visited together, to save the test's time.
const NEIGHBOURS: usize = 16;

#[derive(Debug, Default)]
struct Room {
    members: usize,
    slots: Vec<u32>,
    /// When its messages were sent, and how many of them are visible.
    sent_us: Vec<f64>,
    visible: usize,
    uncut_since_us: f64,
    recent: u32,
    rate: MessageRate,
    paced: bool,
    unvisited: usize,
    visited: usize,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    room: u32,
    members: u32,
    seen: u32,
}

/// When messages come, and to which room.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Arrivals {
    /// In equal distances, so that what people wait for is the controller's doing alone.
    Even,
    /// By chance.
    Poisson,
}

struct Core {
    costs: Costs,
    tempo: Tempo,
    now_us: f64,
    cpu_us: f64,
    visits: u64,
    rooms: Vec<Room>,
    /// Each room's share of the messages, summed up.
    shares: Vec<f64>,
    slots: Vec<Slot>,
    at: usize,
    sweep_wanted: bool,
    large: VecDeque<usize>,
    uncut: Vec<usize>,
    /// Messages on their way to the disk: when sent, and by which room.
    flying: VecDeque<(f64, usize)>,
    per_s: f64,
    arrivals: Arrivals,
    next_us: f64,
    looked_us: f64,
    came: f64,
    random: fastrand::Rng,
    /// Deliveries by their wait in milliseconds, of messages sent since this time.
    waits: Vec<u64>,
    since_us: f64,
}

impl Core {
    fn new(costs: Costs, sizes: &[usize], arrivals: Arrivals) -> Self {
        let mut slots: Vec<Slot> = Vec::new();
        for (room, &size) in sizes.iter().enumerate() {
            for first in (0..size).step_by(NEIGHBOURS) {
                let members = NEIGHBOURS.min(size - first) as u32;
                slots.push(Slot { room: room as u32, members, seen: 0 });
            }
        }
        let mut random = fastrand::Rng::with_seed(7);
        random.shuffle(&mut slots);
        let mut rooms: Vec<Room> = sizes.iter().map(|&members| Room { members, ..Room::default() }).collect();
        for (index, slot) in slots.iter().enumerate() {
            rooms[slot.room as usize].slots.push(index as u32);
        }
        let mut sum = 0.0;
        let shares = sizes.iter().map(|&size| {
            sum += size as f64;
            sum
        });
        Self {
            costs,
            tempo: Tempo::new(),
            now_us: 0.0,
            cpu_us: 0.0,
            visits: 0,
            shares: shares.collect(),
            rooms,
            slots,
            at: 0,
            sweep_wanted: false,
            large: VecDeque::new(),
            uncut: Vec::new(),
            flying: VecDeque::new(),
            per_s: 0.0,
            arrivals,
            next_us: f64::INFINITY,
            looked_us: 0.0,
            came: 0.0,
            random,
            waits: vec![0; 60_000],
            since_us: 0.0,
        }
    }

    /// Runs for so many seconds at so many messages a second.
    fn run(&mut self, seconds: f64, per_s: f64) {
        if self.per_s.to_bits() != per_s.to_bits() {
            self.per_s = per_s;
            self.next_us = self.now_us + self.gap_us();
        }
        let until_us = self.now_us + seconds * 1e6;
        while self.now_us < until_us {
            self.turn();
        }
    }

    /// Forgets the waits so far, runs, and says the p99 of those since, milliseconds.
    fn p99_ms(&mut self, seconds: f64) -> f64 {
        (self.since_us, self.waits) = (self.now_us, vec![0; 60_000]);
        let per_s = self.per_s;
        self.run(seconds, per_s);
        let total: u64 = self.waits.iter().sum();
        let mut left = total / 100;
        for (ms, &count) in self.waits.iter().enumerate().rev() {
            if count > left {
                return ms as f64 + 1.0;
            }
            left -= count;
        }
        0.0
    }

    fn gap_us(&mut self) -> f64 {
        let gap = if self.arrivals == Arrivals::Even { 1.0 } else { -(1.0 - self.random.f64()).ln() };
        gap * 1e6 / self.per_s
    }

    fn turn(&mut self) {
        let mut cpu_us = self.costs.turn_us + self.arrive() * self.costs.publish_us;
        if self.now_us - self.looked_us >= RATES_US as f64 {
            self.look();
        }
        self.cut();
        let (before, mut bytes) = (self.visits, 0.0);
        while self.visits < before + CHUNK_VISITS
            && let Some(&room) = self.large.front()
        {
            if let Some(slot) = self.rooms[room].next_unvisited() {
                bytes += self.visit(slot);
            } else {
                self.large.pop_front();
            }
        }
        bytes += self.sweep();
        let visits = self.visits - before;
        let sends_us = visits as f64 * self.costs.visit_us + bytes * self.costs.byte_us;
        cpu_us += sends_us;
        if visits as usize >= SENDS_MIN {
            self.tempo.sent(visits as usize, bytes as usize, ((sends_us + ENTER_US) * 1e3) as u64);
        }
        self.cpu_us += cpu_us;
        self.now_us += cpu_us / self.costs.free;
        self.park();
    }

    /// Takes the publishes that came and those that became durable; returns how many came.
    fn arrive(&mut self) -> f64 {
        let mut came = 0.0;
        while self.next_us <= self.now_us {
            // Multiples of the golden section meet every part of the rooms as often as its share says.
            self.came += 1.0;
            let part =
                if self.arrivals == Arrivals::Even { (self.came * 0.618_034).fract() } else { self.random.f64() };
            let at = part * self.shares[self.shares.len() - 1];
            let room = self.shares.partition_point(|&sum| sum < at);
            self.flying.push_back((self.next_us, room));
            self.next_us += self.gap_us();
            came += 1.0;
        }
        while let Some(&(sent_us, room)) = self.flying.front()
            && sent_us + DURABLE_US <= self.now_us
        {
            self.flying.pop_front();
            let owned = &mut self.rooms[room];
            if owned.visible == owned.sent_us.len() {
                owned.uncut_since_us = self.now_us;
                self.uncut.push(room);
            }
            owned.sent_us.push(sent_us);
        }
        came
    }

    fn cut(&mut self) {
        let (rooms, tempo, now_us) = (&mut self.rooms, &self.tempo, self.now_us);
        let mut cut = Vec::new();
        self.uncut.retain(|&index| {
            let room = &mut rooms[index];
            let is_due = now_us >= room.uncut_since_us + tempo.cut_us(&room.rate, room.members) as f64;
            if is_due {
                room.recent += (room.sent_us.len() - room.visible) as u32;
                room.visible = room.sent_us.len();
                cut.push(index);
            }
            !is_due
        });
        for room in cut {
            if self.rooms[room].paced {
                self.sweep_wanted = true;
            } else {
                self.serve_at_once(room);
            }
        }
    }

    fn serve_at_once(&mut self, index: usize) {
        let room = &mut self.rooms[index];
        if std::mem::replace(&mut room.unvisited, room.slots.len()) == 0 {
            self.large.push_back(index);
        }
    }

    fn look(&mut self) {
        let elapsed_us = (self.now_us - self.looked_us) as u64;
        self.looked_us = self.now_us;
        self.tempo.measure(self.now_us as u64, self.cpu_us as u64, self.visits);
        let (mut loads, mut messages) = (Vec::new(), 0);
        for (room, index) in self.rooms.iter_mut().zip(0..) {
            messages += room.recent;
            room.rate.measure(std::mem::take(&mut room.recent), elapsed_us);
            loads.push(Load::new(index, room.members, &room.rate));
        }
        let mut paced = vec![false; self.rooms.len()];
        for load in self.tempo.plan(loads, messages, elapsed_us) {
            paced[load.feed as usize] = true;
        }
        for (index, is_paced) in paced.into_iter().enumerate() {
            let was_paced = std::mem::replace(&mut self.rooms[index].paced, is_paced);
            self.sweep_wanted |= is_paced;
            if was_paced && !is_paced {
                self.serve_at_once(index);
            }
        }
    }

    fn sweep(&mut self) -> f64 {
        let now_us = self.now_us as u64;
        if self.sweep_wanted && self.tempo.sweep_is_due(now_us) {
            self.sweep_wanted = false;
            self.at = 0;
            self.tempo.begin(now_us, self.slots.len() as u64);
        }
        let (due, before, mut looked_at, mut bytes) = (self.tempo.due(now_us), self.visits, 0, 0.0);
        while looked_at < due && self.visits - before < CHUNK_VISITS {
            bytes += self.visit(self.at);
            self.at += 1;
            looked_at += 1;
        }
        self.tempo.advance(looked_at);
        bytes
    }

    /// Returns the bytes sent.
    fn visit(&mut self, slot: usize) -> f64 {
        let Slot { room, members, seen } = &mut self.slots[slot];
        let room = &self.rooms[*room as usize];
        let new = &room.sent_us[*seen as usize..room.visible];
        if new.is_empty() {
            return 0.0;
        }
        *seen = room.visible as u32;
        self.visits += u64::from(*members);
        for sent_us in new.iter().filter(|&&sent_us| sent_us >= self.since_us) {
            let ms = ((self.now_us - sent_us) / 1e3) as usize;
            let last = self.waits.len() - 1;
            self.waits[ms.min(last)] += u64::from(*members);
        }
        new.len() as f64 * f64::from(*members) * LINE_BYTES
    }

    /// Sleeps until something is due or, where wake-ups are not muted, comes.
    fn park(&mut self) {
        let now_us = self.now_us as u64;
        let tempo = &self.tempo;
        let fan_out_us = if self.large.is_empty() { tempo.next_visits_us(now_us, self.sweep_wanted) } else { now_us };
        let cut_us = self.uncut.iter().map(|&index| {
            let room = &self.rooms[index];
            room.uncut_since_us + tempo.cut_us(&room.rate, room.members) as f64
        });
        let durable_us = self.flying.front().map_or(f64::INFINITY, |(sent_us, _)| sent_us + DURABLE_US);
        let due_us = cut_us.fold((fan_out_us as f64).min(self.looked_us + RATES_US as f64), f64::min);
        let wake_us = if tempo.is_busy() {
            due_us.min(self.now_us + tempo.rest_us() as f64)
        } else {
            due_us.min(self.next_us).min(durable_us)
        };
        self.now_us = self.now_us.max(wake_us);
    }
}

impl Room {
    fn next_unvisited(&mut self) -> Option<usize> {
        self.unvisited = self.unvisited.checked_sub(1)?;
        self.visited = self.visited.checked_sub(1).unwrap_or(self.slots.len() - 1);
        Some(self.slots[self.visited] as usize)
    }
}

/// From what sends cost at best (measurements/sending.txt) to twice the cost of a slow hour, and with another thread on
/// the core.
const COSTS: [Costs; 4] = [
    Costs { turn_us: 10.0, visit_us: 5.0, byte_us: 5e-5, publish_us: 40.0, free: 1.0 },
    Costs { turn_us: 12.0, visit_us: 8.0, byte_us: 1e-4, publish_us: 80.0, free: 1.0 },
    Costs { turn_us: 12.0, visit_us: 8.0, byte_us: 1e-4, publish_us: 80.0, free: 0.5 },
    Costs { turn_us: 20.0, visit_us: 15.0, byte_us: 2e-4, publish_us: 120.0, free: 1.0 },
];
/// Messages a second of one step after the other; and back.
const RATES: [f64; 13] = [1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0, 2_000.0, 5_000.0];
/// A step is to settle in so many seconds.
const SETTLE_S: f64 = 3.0;
const SETTLED_S: f64 = 4.0;
/// So many messages, at least, make a p99.
const MESSAGES: f64 = 200.0;
/// What the first second after that may wait longer than those that follow.
const SETTLED: f64 = 1.5;
/// A few turns of the core, milliseconds.
const TURNS_MS: f64 = 10.0;

#[derive(Debug, Clone, Copy)]
struct Step {
    per_s: f64,
    /// In the second after it has settled, and in those that follow.
    p99_ms: (f64, f64),
    period_ms: u64,
    /// Of the core, that the thread took.
    share: f64,
}

/// Half of the members of a room of 1,000, 10,000 and 70,000, and of the demo's 1,000 rooms.
fn cores() -> [Vec<usize>; 4] {
    [vec![500], vec![5_000], vec![35_000], (1..=1_000).map(|rank| 4_676 / rank).collect()]
}

/// The core can carry it: what no period makes less leaves room for a visit of everybody every second.
fn is_sustained(costs: Costs, sizes: &[usize], per_s: f64) -> bool {
    let members: f64 = sizes.iter().map(|&size| size as f64).sum();
    let delivered = sizes.iter().map(|&size| (size as f64).powi(2)).sum::<f64>() / members * per_s;
    let spent_us = per_s * costs.publish_us + delivered * LINE_BYTES * costs.byte_us + members * costs.visit_us;
    spent_us < 0.8e6 * costs.free
}

/// Every rate that the core can carry: up, down again, and in leaps.
fn steps(costs: Costs, sizes: &[usize], arrivals: Arrivals) -> Vec<Step> {
    let rates: Vec<f64> = RATES.into_iter().filter(|&per_s| is_sustained(costs, sizes, per_s)).collect();
    let leaps = rates.iter().zip(rates.iter().rev()).flat_map(|(&low, &high)| [low, high]).take(rates.len());
    let mut core = Core::new(costs, sizes, arrivals);
    let step = |per_s: f64| {
        core.run(SETTLE_S, per_s);
        let (cpu_us, now_us) = (core.cpu_us, core.now_us);
        let p99_ms = (core.p99_ms(1.0), core.p99_ms(SETTLED_S.max(MESSAGES / per_s)));
        let share = (core.cpu_us - cpu_us) / (core.now_us - now_us);
        Step { per_s, p99_ms, period_ms: core.tempo.period_us() / 1_000, share }
    };
    rates.iter().copied().chain(rates.iter().rev().copied()).chain(leaps).map(step).collect()
}

/// What of the steps with these costs does not hold.
fn broken(costs: Costs, arrivals: Arrivals, mut blame: impl FnMut(Step, f64) -> Option<String>) -> Vec<String> {
    let mut broken = Vec::new();
    for sizes in cores() {
        let members: usize = sizes.iter().sum();
        let steps = steps(costs, &sizes, arrivals);
        for &step in &steps {
            let higher = steps.iter().filter(|higher| higher.per_s > step.per_s);
            let shortest_ms = higher.map(|higher| higher.p99_ms.1).fold(f64::INFINITY, f64::min);
            broken
                .extend(blame(step, shortest_ms).map(|what| format!("{costs:?}, {members} members: {step:?} {what}")));
        }
    }
    broken
}

#[test]
fn no_rate_waits_longer_than_a_higher_one_and_each_settles_and_uses_the_core() {
    let broken = |costs: &Costs| {
        broken(*costs, Arrivals::Even, |step, shortest_ms| {
            let used = 0.9 * SHARE.min(costs.free);
            if step.p99_ms.1 > shortest_ms * 1.1 + TURNS_MS {
                Some(format!("waits longer than a higher rate, {shortest_ms} ms"))
            } else if step.p99_ms.0 > step.p99_ms.1 * SETTLED + TURNS_MS {
                Some("has not settled".to_owned())
            } else {
                let is_long = step.period_ms * 1_000 > PERIOD_US_MIN;
                (is_long && step.share < used).then(|| "waits while the core has time".to_owned())
            }
        })
    };
    let broken: Vec<String> = COSTS.iter().flat_map(broken).collect();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn no_rate_of_messages_by_chance_waits_half_as_long_again_as_a_higher_one() {
    let broken = broken(COSTS[1], Arrivals::Poisson, |step, shortest_ms| {
        let is_longer = step.p99_ms.1 > shortest_ms * 1.5 + TURNS_MS;
        is_longer.then(|| format!("waits longer than a higher rate, {shortest_ms} ms"))
    });
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}
