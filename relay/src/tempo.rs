//! How often a core visits the members of its larger rooms.
//!
//! Rooms whose visits are cheap go out at once. All others share one period per core, so that a large room never
//! waits longer than a small one for being large. The period is the shortest at which the core keeps to its share,
//! as long as waiting saves anything: it follows from the rooms' rates and from what a visit costs, which is measured.
//! Nothing else lengthens it. A sweep that the core has no time for takes longer by itself, and the next one follows.

#[cfg(test)]
mod model;

/// Longest period, microseconds.
pub const PERIOD_US_MAX: u64 = 2_000_000;
/// A shorter period than this is none: rooms go out at once.
const PERIOD_US_MIN: u64 = 20_000;
/// Share of the core that its thread may take, the visits of rooms served at once apart. At half of it relay and clients
/// together filled two cores (run 9a605b1-demo); a core of tens of thousands of members needs the rest for the day they
/// all come back at once (run 7bdca03-storm); at 0.36 people waited less than before periods followed from the
/// load alone, and a delivery cost a tenth more; at 0.32 it is the other way round (measurements/period.txt).
const SHARE: f64 = 0.34;
/// Visits get this part of the share, however much else the thread does: what does not become less by waiting must not
/// make people wait for ever.
const VISITS_PART: f64 = 0.5;
/// A second of period must save this many cores. In many small rooms waiting saves next to nothing, for a visit seldom
/// brings more than one message: in a thousand of 70 users each (run b8b9c5b-demo-equal) a quarter of a core at most.
const PAYS: f64 = 1.0;
/// Share of the core that the visits of rooms served at once may cost together, however short the period.
const AT_ONCE_SHARE: f64 = 0.1;
/// A room whose frames cost fewer visits per second than this on any core is cut without delay.
const CUT_AT_ONCE_VISITS_PER_S: f64 = 1_000.0;
/// A larger room is cut this often in a period…
const CUTS_PER_PERIOD: u64 = 16;
/// …or this often, if a frame then has at least so many messages: such frames deflate much better than shorter ones,
/// while each adds its length to a delivery (measurements/compression.txt).
const LONG_CUTS_PER_PERIOD: u64 = 4;
const LONG_FRAME_MESSAGES: f64 = 128.0;
/// Members visited in one chunk; between two chunks the core does other work (measurements/sending.txt, "Chunk?").
pub const CHUNK_VISITS: u64 = 128;

/// What a visit is taken to cost before it was measured, seconds, and the bounds of what a measurement may say.
const VISIT_S: f64 = 5e-6;
const VISIT_S_BOUNDS: (f64, f64) = (2e-6, 20e-6);
/// Copying so many bytes costs the sender as much as a visit does without them (measurements/sending.txt: 5.9 µs with
/// 1 KB, 8.4 µs with 48 KB). Waiting saves visits; the bytes stay.
const VISIT_BYTES: f64 = 110_000.0;
/// Fewer visits than this since the last look say nothing about their cost.
const VISITS_MIN: u64 = 1_000;
/// The smallest batch of sends whose cost is measured: of smaller ones, most of the cost is entering the kernel.
pub const SENDS_MIN: usize = 32;
/// Rates of rooms and feeds, and with them the period, are looked at this often, microseconds.
pub const RATES_US: u64 = 500_000;
/// A busy core need not look around more often than this, microseconds, and may not look less often: each look costs
/// ten microseconds or more, and adds its distance to an ack.
const REST_US: (u64, u64) = (1_000, 4_000);
/// A core that spends this share on visits counts as busy.
const BUSY_SHARE: f64 = 0.1;

/// How many messages a second a room has: over its last eight messages, so that a lively room's rate is known at once,
/// or over eight seconds if they took longer: a room with a message now and then is as expensive in the seconds without a
/// message as in the one with it.
#[derive(Debug, Clone, Copy, Default)]
pub struct MessageRate {
    per_s: f64,
    /// Messages in each look, the newest first.
    looks: [u16; Self::LOOKS],
}

impl MessageRate {
    const LOOKS: usize = 8_000_000 / RATES_US as usize;
    const ENOUGH: u32 = 8;

    /// So many messages came in so many microseconds.
    pub fn measure(&mut self, messages: u32, elapsed_us: u64) {
        if messages == 0 && self.per_s <= 0.0 {
            return;
        }
        self.looks.copy_within(..Self::LOOKS - 1, 1);
        // A look that came late saw more than its share.
        self.looks[0] = (f64::from(messages) * RATES_US as f64 / elapsed_us.max(1) as f64).round() as u16;
        let (messages, looks) = self.recent();
        self.per_s = messages * 1e6 / (looks * RATES_US as f64);
    }

    /// The last few messages, and how many looks they took.
    fn recent(&self) -> (f64, f64) {
        let mut sum = 0;
        for (&look, before) in self.looks.iter().zip(0..) {
            let missing = Self::ENOUGH.saturating_sub(sum);
            if before > 0 && u32::from(look) >= missing {
                // Of an older look only the end, or what was long ago would count as much as what is now.
                return (f64::from(Self::ENOUGH), f64::from(before) + f64::from(missing) / f64::from(look));
            }
            sum += u32::from(look);
            if sum >= Self::ENOUGH {
                return (f64::from(sum), 1.0);
            }
        }
        (f64::from(sum), Self::LOOKS as f64)
    }

    /// Messages a minute, as the last of them came.
    pub fn per_minute(&self) -> u32 {
        (60.0 * self.per_s).round() as u32
    }

    /// Visits per second that so many members cost when each message is a visit.
    pub fn visits_per_s(&self, members: usize) -> f64 {
        self.per_s * members as f64
    }
}

/// What one feed asks of a core.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    pub feed: u32,
    pub members: usize,
    pub per_s: f64,
}

impl Load {
    pub fn new(feed: u32, members: usize, rate: &MessageRate) -> Self {
        Self { feed, members, per_s: rate.per_s }
    }

    /// Visits per second when each message is a visit.
    fn at_once(&self) -> f64 {
        self.per_s * self.members as f64
    }

    /// Visits per second at this period: a member is visited in it if its room had a message,
    /// `V(P) = members · (1 − e^(−rate·P)) / P`.
    fn visits_per_s(&self, period_s: f64) -> f64 {
        self.members as f64 * -(-self.per_s * period_s).exp_m1() / period_s
    }
}

/// The period of a core and where its sweep is. A plain value.
#[derive(Debug, Clone)]
pub struct Tempo {
    /// 0 while everything goes out at once.
    period_us: u64,
    /// Everything is swept at `period_us`.
    is_fixed: bool,
    /// What a visit costs, without its bytes.
    visit_s: f64,
    /// Of all feeds together.
    all: MessageRate,
    /// Share of the core that the thread spent on everything but visits.
    other_share: f64,
    /// Sends since the last look whose cost was measured, in visits, and the CPU they took, seconds.
    sent: (f64, f64),
    /// Totals at the last look: time, CPU time, visits.
    looked: (u64, u64, u64),
    is_busy: bool,
    sweep: Sweep,
}

/// One pass over a core's slots: evenly spread over the period.
#[derive(Debug, Clone, Default)]
struct Sweep {
    began_us: u64,
    total: u64,
    done: u64,
}

impl Tempo {
    pub fn new() -> Self {
        Self {
            period_us: 0,
            is_fixed: false,
            visit_s: VISIT_S,
            all: MessageRate::default(),
            other_share: 0.0,
            sent: (0.0, 0.0),
            looked: (0, 0, 0),
            is_busy: false,
            sweep: Sweep::default(),
        }
    }

    /// Sweeps everything at one period, whatever the load.
    pub fn fixed(period_us: u64) -> Self {
        Self { period_us, is_fixed: true, ..Self::new() }
    }

    /// The sweep period, microseconds; 0 while everything goes out at once.
    pub fn period_us(&self) -> u64 {
        self.period_us
    }
    /// How old the oldest message of a room with so many members on one core may get before it is cut, microseconds.
    pub fn cut_us(&self, rate: &MessageRate, members: usize) -> u64 {
        let long_us = self.period_us / LONG_CUTS_PER_PERIOD;
        if rate.visits_per_s(members) < CUT_AT_ONCE_VISITS_PER_S {
            0
        } else if rate.per_s * long_us as f64 / 1e6 >= LONG_FRAME_MESSAGES {
            long_us
        } else {
            self.period_us / CUTS_PER_PERIOD
        }
    }
    /// How long a busy core rests between two looks: a hundredth of the period.
    pub fn rest_us(&self) -> u64 {
        (self.period_us / 100).clamp(REST_US.0, REST_US.1)
    }
    /// So much is to be done that wake-ups would cost more than what they announce.
    pub fn is_busy(&self) -> bool {
        self.is_busy
    }

    /// So many sends of so many bytes in all took the thread so much CPU time, nanoseconds.
    pub fn sent(&mut self, sends: usize, bytes: usize, cpu_ns: u64) {
        self.sent.0 += sends as f64 + bytes as f64 / VISIT_BYTES;
        self.sent.1 += cpu_ns as f64 / 1e9;
    }

    /// Learns what a visit costs, and what everything else, from the thread's CPU time (microseconds) and its visits,
    /// totals that only rise.
    pub fn measure(&mut self, now_us: u64, cpu_us: u64, visits: u64) {
        let (then_us, then_cpu_us, then_visits) = self.looked;
        self.looked = (now_us, cpu_us, visits);
        let (sends, sends_s) = self.sent;
        if sends >= VISITS_MIN as f64 {
            self.sent = (0.0, 0.0);
            let cost_s = (sends_s / sends).clamp(VISIT_S_BOUNDS.0, VISIT_S_BOUNDS.1);
            self.visit_s = (self.visit_s * 3.0 + cost_s) / 4.0;
        }
        let elapsed_s = (now_us - then_us).max(1) as f64 / 1e6;
        let visits_s = (visits - then_visits) as f64 * self.visit_s;
        self.is_busy = visits_s > BUSY_SHARE * elapsed_s;
        let other_s = (cpu_us - then_cpu_us) as f64 / 1e6 - visits_s;
        self.other_share = self.other_share.midpoint((other_s / elapsed_s).clamp(0.0, 1.0));
    }

    /// Sets the period and returns the feeds to serve in sweeps: all but the cheapest, which go out at once. All feeds
    /// together had so many messages in so many microseconds.
    pub fn plan(&mut self, mut loads: Vec<Load>, messages: u32, elapsed_us: u64) -> Vec<Load> {
        if self.is_fixed {
            return loads;
        }
        // A thousand slow rooms know together what each of them learns only after seconds: that less is said now.
        self.all.measure(messages, elapsed_us);
        let fewer = (self.all.per_s / loads.iter().map(|load| load.per_s).sum::<f64>()).min(1.0);
        for load in &mut loads {
            load.per_s *= fewer;
        }
        loads.sort_unstable_by(|a, b| a.at_once().total_cmp(&b.at_once()));
        let mut share = 0.0;
        let cheap = loads.iter().take_while(|load| {
            share += load.at_once() * self.visit_s;
            share <= AT_ONCE_SHARE
        });
        let paced = loads.split_off(cheap.count());
        let needed_us = (self.needed_s(&paced) * 1e6) as u64;
        // It grows by half of the way each time: rates are those of a few messages, and who is visited just before a
        // leap waits longest.
        self.period_us = needed_us.min(self.period_us.midpoint(needed_us).max(PERIOD_US_MIN));
        if self.period_us == 0 { Vec::new() } else { paced }
    }

    /// The shortest period, in seconds, at which the core keeps to its share, or until which waiting pays; by bisection,
    /// for both are the more the case the longer the period is. 0 when waiting is not needed, or never pays.
    fn needed_s(&self, paced: &[Load]) -> f64 {
        let sum = |part: &dyn Fn(&Load) -> f64| paced.iter().map(part).sum::<f64>() * self.visit_s;
        let at_once = sum(&|load| load.at_once());
        let budget = (SHARE - self.other_share).max(SHARE * VISITS_PART);
        let is_short = |period_s: f64| {
            let visits = sum(&|load| load.visits_per_s(period_s));
            (visits > budget, at_once - visits > PAYS * period_s)
        };
        let (mut short, mut long) = (PERIOD_US_MIN as f64 / 1e6, PERIOD_US_MAX as f64 / 1e6);
        if at_once <= budget || !is_short(short).1 {
            return 0.0;
        }
        for _ in 0..16 {
            let middle = (short * long).sqrt();
            if is_short(middle) == (true, true) { short = middle } else { long = middle }
        }
        short
    }

    /// A new sweep may begin.
    pub fn sweep_is_due(&self, now_us: u64) -> bool {
        self.period_us > 0 && !self.is_sweeping() && now_us >= self.next_sweep_us()
    }
    /// When it may.
    fn next_sweep_us(&self) -> u64 {
        self.sweep.began_us + self.period_us
    }
    /// When members are to be visited in sweeps next, microseconds; `wanted` when there is something for a new one.
    pub fn next_visits_us(&self, now_us: u64, wanted: bool) -> u64 {
        if self.is_sweeping() {
            if self.due(now_us) > 0 { now_us } else { now_us + self.rest_us() }
        } else if wanted {
            self.next_sweep_us()
        } else {
            u64::MAX
        }
    }
    pub fn is_sweeping(&self) -> bool {
        self.sweep.done < self.sweep.total
    }

    /// A sweep over so many slots begins.
    pub fn begin(&mut self, now_us: u64, total: u64) {
        // On time, the next one begins where this one's period ended, so that members keep their phase.
        let planned = self.next_sweep_us();
        let began_us = if now_us < planned + self.period_us / 4 { planned } else { now_us };
        self.sweep = Sweep { began_us, total, done: 0 };
    }

    /// How many slots are due now: the evenly spaced share of the sweep less what is done.
    pub fn due(&self, now_us: u64) -> u64 {
        let Sweep { began_us, total, done } = self.sweep;
        if self.period_us == 0 {
            return total - done;
        }
        let elapsed = now_us.saturating_sub(began_us).min(self.period_us);
        let target = total * elapsed / (self.period_us * 19 / 20).max(1);
        target.min(total).saturating_sub(done)
    }

    /// So many slots were looked at.
    pub fn advance(&mut self, slots: u64) {
        self.sweep.done = (self.sweep.done + slots).min(self.sweep.total);
    }
}

impl Default for Tempo {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tempo() -> Tempo {
        Tempo { visit_s: 1e-5, ..Tempo::new() }
    }

    /// Plans until the period is what it is to be; returns how many feeds are served in sweeps.
    fn settle(tempo: &mut Tempo, loads: &[Load]) -> usize {
        let messages = loads.iter().map(|load| load.per_s).sum::<f64>().ceil() as u32;
        (0..20).map(|_| tempo.plan(loads.to_vec(), messages, 1_000_000).len()).last().unwrap_or(0)
    }

    /// Feeds of so many members each, everybody sending once a minute; a visit costs 10 µs.
    fn plan(members: impl Iterator<Item = usize>) -> (f64, usize) {
        let mut tempo = tempo();
        let load = |(feed, members)| Load { feed: feed as u32, members, per_s: 2.0 * members as f64 / 60.0 };
        let loads: Vec<Load> = members.enumerate().map(load).collect();
        let paced = settle(&mut tempo, &loads);
        (tempo.period_us as f64 / 1e6, paced)
    }

    #[test]
    fn the_period_is_as_long_as_it_pays() {
        let (period, paced) = plan((1..=1000).map(|rank| 4676 / rank));
        assert!((0.55..0.75).contains(&period) && (50..150).contains(&paced), "Zipf: {period} s, {paced} feeds");
        let (period, paced) = plan([35_000].into_iter());
        assert!((0.9..1.1).contains(&period) && paced == 1, "one room: {period} s");
        let (period, _) = plan([5_000].into_iter());
        assert!((0.14..0.17).contains(&period), "one room of 10,000: {period} s");
        assert_eq!(plan(std::iter::repeat_n(35, 1000)), (0.0, 0), "equal small rooms gain nothing from waiting");
        assert_eq!(plan([2, 2, 2, 500].into_iter()), (0.0, 0), "an idle core has no period");
        let mut tempo = tempo();
        assert_eq!(settle(&mut tempo, &[Load { feed: 0, members: 100, per_s: 1e3 }]), 1);
        let shortest = tempo.period_us.abs_diff(PERIOD_US_MIN) <= 1;
        assert!(shortest, "a lively room that is dear at once and cheap at the shortest period");
    }

    #[test]
    fn what_else_the_thread_does_lengthens_the_period_within_bounds() {
        let period = |other_share| {
            let mut tempo = Tempo { other_share, ..tempo() };
            settle(&mut tempo, &[Load { feed: 0, members: 5_000, per_s: 200.0 }]);
            tempo.period_us as f64 / 1e6
        };
        // 5,000 visits of 10 µs each.
        for (other_share, visits_share) in [(0.0, SHARE), (0.1, SHARE - 0.1), (0.9, SHARE * VISITS_PART)] {
            let (period, expected) = (period(other_share), 0.05 / visits_share);
            assert!((period / expected - 1.0).abs() < 0.01, "{other_share}: {period} s, not {expected} s");
        }
    }

    #[test]
    fn a_sweep_is_spread_evenly_and_visits_everybody() {
        let mut tempo = Tempo { period_us: 100_000, ..Tempo::new() };
        tempo.begin(1_000_000, 10_000);
        let (mut done, mut now) = (0, 1_000_000);
        while tempo.is_sweeping() {
            let due = tempo.due(now);
            done += due;
            tempo.advance(due);
            assert!(done <= 10_000 * (now - 1_000_000) / 95_000 + 1);
            now += 500;
        }
        assert_eq!(done, 10_000);
        assert!(now <= 1_100_000);
    }

    #[test]
    fn the_cost_of_a_visit_is_learned_without_its_bytes_and_what_else_the_thread_does() {
        let mut tempo = Tempo::new();
        for n in 1..50 {
            // 10 µs a visit, of 11 kB each, a tenth of a visit; and as much again for other things.
            tempo.sent(100_000, 1_100_000_000, 1_100_000_000);
            tempo.measure(n * 10_000_000, n * 2_200_000, n * 100_000);
        }
        assert!((tempo.visit_s - 1e-5).abs() < 1e-7, "{tempo:?}");
        assert!((tempo.other_share - 0.12).abs() < 1e-3 && !tempo.is_busy(), "{tempo:?}");
    }

    #[test]
    fn a_rate_outlasts_the_pauses_between_messages_and_fades() {
        let mut rate = MessageRate::default();
        for n in 0..40 {
            rate.measure(u32::from(n % 4 == 0), RATES_US);
        }
        assert!((40.0..60.0).contains(&rate.visits_per_s(100)), "{rate:?}");
        for _ in 0..16 {
            rate.measure(0, RATES_US);
        }
        assert!(rate.visits_per_s(100) <= 0.0, "{rate:?}");
    }

    #[test]
    fn a_lively_rooms_rate_is_known_after_one_look() {
        let mut rate = MessageRate::default();
        for messages in [10, 500, 8, 500] {
            rate.measure(messages, RATES_US);
            assert!((rate.visits_per_s(1) - f64::from(messages) * 2.0).abs() < 1e-3, "{rate:?}");
        }
        rate.measure(1_000, 2 * RATES_US);
        assert!((rate.visits_per_s(1) - 1_000.0).abs() < 1e-3, "a look that came late: {rate:?}");
    }
}
