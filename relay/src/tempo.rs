//! How often a core visits the members of its larger rooms.
//!
//! Rooms whose visits are cheap go out at once. All others share one period per core, so that a large room never
//! waits longer than a small one for being large. The period is as short as it pays: it grows while another second
//! of it would save a good part of a core, and when sweeps run late.

/// Longest period, microseconds.
pub const PERIOD_US_MAX: u64 = 2_000_000;
/// A shorter period than this is none: rooms go out at once.
const PERIOD_US_MIN: u64 = 20_000;
/// A period grows while sweeps take more than this share of the core, as long as it is no longer than
/// [`PERIOD_S_SHORT`]. From [`PERIOD_S_LONG`] on it grows until they take [`SWEEPS_SHARE_LONG`]: such a core has tens of
/// thousands of members, and needs the rest for the day they all come back at once.
const SWEEPS_SHARE: f64 = 0.42;
const SWEEPS_SHARE_LONG: f64 = 0.36;
const PERIOD_S_SHORT: f64 = 0.45;
const PERIOD_S_LONG: f64 = 0.7;
/// It also grows only while twice the period would save about this share of the core: in many small rooms waiting saves
/// next to nothing, for a visit seldom brings more than one message.
const WORTH: f64 = 0.1;
/// Share of the core that the visits of rooms served at once may cost together, however short the period.
const AT_ONCE_SHARE: f64 = 0.1;
/// A room whose frames cost fewer visits per second than this on any core is cut without delay.
const CUT_AT_ONCE_VISITS_PER_S: f64 = 1_000.0;
/// A larger room is cut this often in a period…
const CUTS_PER_PERIOD: u64 = 16;
/// …or this often, if a frame then has at least so many messages: such frames deflate much better than shorter ones,
/// while each adds its length to a delivery.
const LONG_CUTS_PER_PERIOD: u64 = 4;
const LONG_FRAME_MESSAGES: f64 = 128.0;
/// Members visited in one chunk; between two chunks the core does other work.
pub const CHUNK_VISITS: u64 = 128;

/// What a visit is taken to cost before it was measured, seconds, and the bounds of what a measurement may say.
const VISIT_S: f64 = 5e-6;
const VISIT_S_BOUNDS: (f64, f64) = (2e-6, 20e-6);
/// Fewer visits than this since the last look say nothing about their cost.
const VISITS_MIN: u64 = 2_000;
/// Lateness stretches the period at most so often.
const STRETCH_MAX: f64 = 8.0;
/// Rates of rooms and feeds, and with them the period, are looked at this often, microseconds.
pub const RATES_US: u64 = 1_000_000;
/// A busy core need not look around more often than this, microseconds, and may not look less often: each look costs
/// ten microseconds or more, and adds its distance to an ack.
const REST_US: (u64, u64) = (1_000, 4_000);
/// A core that spends this share on visits counts as busy.
const BUSY_SHARE: f64 = 0.1;

/// How many messages a second a room has, averaged over about eight looks: a room with a message now and then is as
/// dear in the seconds between as in the one with the message.
#[derive(Debug, Clone, Copy, Default)]
pub struct MessageRate(f64);

impl MessageRate {
    /// So many messages came in so many microseconds. A rate of 0 takes the first look as it is.
    pub fn measure(&mut self, messages: u32, elapsed_us: u64) {
        let now = f64::from(messages) * 1e6 / elapsed_us.max(1) as f64;
        self.0 = if self.0 == 0.0 { now } else { (self.0 * 7.0 + now) / 8.0 };
        if self.0 < 1e-3 {
            self.0 = 0.0;
        }
    }

    /// Visits per second that so many members cost when each message is a visit.
    pub fn visits_per_s(self, members: usize) -> f64 {
        self.0 * members as f64
    }
}

/// What one feed asks of a core.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    pub feed: u32,
    pub members: usize,
    pub rate: MessageRate,
}

impl Load {
    fn at_once(&self) -> f64 {
        self.rate.visits_per_s(self.members)
    }

    /// Visits per second at this period: a member is visited in it if its room had a message,
    /// `V(P) = members · (1 − e^(−rate·P)) / P`.
    fn visits_per_s(&self, period_s: f64) -> f64 {
        self.members as f64 * -(-self.rate.0 * period_s).exp_m1() / period_s
    }

    /// What a further second of period saves of them, −dV/dP.
    fn saved(&self, period_s: f64) -> f64 {
        let expected = self.rate.0 * period_s;
        let none = (-expected).exp();
        self.members as f64 * ((1.0 - none) - expected * none) / (period_s * period_s)
    }
}

/// The share of a core that sweeps may take at this period.
fn allowed(period_s: f64) -> f64 {
    let long = ((period_s - PERIOD_S_SHORT) / (PERIOD_S_LONG - PERIOD_S_SHORT)).clamp(0.0, 1.0);
    SWEEPS_SHARE + (SWEEPS_SHARE_LONG - SWEEPS_SHARE) * long
}

/// The period of a core and where its sweep is. A plain value.
#[derive(Debug, Clone)]
pub struct Tempo {
    /// 0 while everything goes out at once.
    period_us: u64,
    /// Everything is swept at `period_us`.
    is_fixed: bool,
    /// How much lateness has stretched the period.
    stretch: f64,
    visit_s: f64,
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
            stretch: 1.0,
            visit_s: VISIT_S,
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
    pub fn cut_us(&self, rate: MessageRate, members: usize) -> u64 {
        let long_us = self.period_us / LONG_CUTS_PER_PERIOD;
        if rate.visits_per_s(members) < CUT_AT_ONCE_VISITS_PER_S {
            0
        } else if rate.0 * long_us as f64 / 1e6 >= LONG_FRAME_MESSAGES {
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

    /// Learns what a visit costs from the thread's CPU time (microseconds) and its visits, totals that only rise.
    pub fn measure(&mut self, now_us: u64, cpu_us: u64, visits: u64) {
        let (then_us, then_cpu_us, then_visits) = self.looked;
        let (cpu_s, visited) = ((cpu_us - then_cpu_us) as f64 / 1e6, visits - then_visits);
        if visited >= VISITS_MIN {
            let cost_s = (cpu_s / visited as f64).clamp(VISIT_S_BOUNDS.0, VISIT_S_BOUNDS.1);
            self.visit_s = (self.visit_s * 3.0 + cost_s) / 4.0;
        }
        let elapsed_s = (now_us - then_us).max(1) as f64 / 1e6;
        self.is_busy = visited as f64 * self.visit_s > BUSY_SHARE * elapsed_s;
        self.looked = (now_us, cpu_us, visits);
    }

    /// Sets the period and returns the feeds to serve in sweeps: all but the cheapest, which go out at once.
    pub fn plan(&mut self, mut loads: Vec<Load>) -> Vec<Load> {
        if self.is_fixed {
            return loads;
        }
        loads.sort_unstable_by(|a, b| a.at_once().total_cmp(&b.at_once()));
        let mut share = 0.0;
        let cheap = loads.iter().take_while(|load| {
            share += load.at_once() * self.visit_s;
            share <= AT_ONCE_SHARE
        });
        let paced = loads.split_off(cheap.count());
        let period_us = (self.worthwhile_s(&paced) * self.stretch * 1e6) as u64;
        if period_us < PERIOD_US_MIN {
            self.period_us = 0;
            return Vec::new();
        }
        self.period_us = period_us.min(PERIOD_US_MAX);
        paced
    }

    /// The period, in seconds, from which on more of it is not needed or saves too little, by bisection.
    fn worthwhile_s(&self, paced: &[Load]) -> f64 {
        let sum = |part: &dyn Fn(&Load) -> f64| paced.iter().map(part).sum::<f64>() * self.visit_s;
        let saves = |period_s| sum(&|load| load.saved(period_s)) * period_s > WORTH;
        let is_worth = |period_s| sum(&|load| load.visits_per_s(period_s)) > allowed(period_s) && saves(period_s);
        let (mut short, mut long) = (PERIOD_US_MIN as f64 / 1e6, PERIOD_US_MAX as f64 / 1e6);
        if !is_worth(short) {
            let at_once = sum(&|load| load.at_once());
            let is_dear = at_once > SWEEPS_SHARE && at_once - sum(&|load| load.visits_per_s(short)) > WORTH;
            return if is_dear { short } else { 0.0 };
        }
        for _ in 0..16 {
            let middle = (short * long).sqrt();
            if is_worth(middle) { short = middle } else { long = middle }
        }
        short
    }

    /// A new sweep may begin.
    pub fn sweep_is_due(&self, now_us: u64) -> bool {
        self.period_us > 0 && !self.is_sweeping() && now_us >= self.next_sweep_us()
    }
    /// When it may, for parking.
    pub fn next_sweep_us(&self) -> u64 {
        self.sweep.began_us + self.period_us
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
    pub fn advance(&mut self, slots: u64, now_us: u64) {
        if !self.is_sweeping() {
            return;
        }
        self.sweep.done += slots;
        if !self.is_sweeping() {
            let is_late = now_us > self.next_sweep_us() + self.period_us / 8;
            let factor = if is_late { 1.25 } else { 0.97 };
            self.stretch = (self.stretch * factor).clamp(1.0, STRETCH_MAX);
        }
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

    /// Feeds of so many members each, everybody sending once a minute; a visit costs 10 µs.
    fn plan(members: impl Iterator<Item = usize>) -> (f64, usize) {
        let mut tempo = Tempo { visit_s: 1e-5, ..Tempo::new() };
        let loads = members.enumerate().map(|(feed, members)| {
            let rate = MessageRate(2.0 * members as f64 / 60.0);
            Load { feed: feed as u32, members, rate }
        });
        let paced = tempo.plan(loads.collect()).len();
        (tempo.period_us as f64 / 1e6, paced)
    }

    #[test]
    fn the_period_is_as_long_as_it_pays() {
        let (period, paced) = plan((1..=1000).map(|rank| 4676 / rank));
        assert!((0.45..0.6).contains(&period) && (50..150).contains(&paced), "Zipf: {period} s, {paced} feeds");
        let (period, paced) = plan([35_000].into_iter());
        assert!((0.9..1.1).contains(&period) && paced == 1, "one room: {period} s");
        let (period, _) = plan([5_000].into_iter());
        assert!((0.1..0.14).contains(&period), "one room of 10,000: {period} s");
        assert_eq!(plan(std::iter::repeat_n(35, 1000)), (0.0, 0), "equal small rooms gain nothing from waiting");
        assert_eq!(plan([2, 2, 2, 500].into_iter()), (0.0, 0), "an idle core has no period");
        let mut tempo = Tempo { visit_s: 1e-5, ..Tempo::new() };
        assert_eq!(tempo.plan(vec![Load { feed: 0, members: 100, rate: MessageRate(1e3) }]).len(), 1);
        assert_eq!(
            tempo.period_us, PERIOD_US_MIN,
            "a lively room that is dear at once and cheap at the shortest period"
        );
    }

    #[test]
    fn a_sweep_is_spread_evenly_and_visits_everybody() {
        let mut tempo = Tempo { period_us: 100_000, ..Tempo::new() };
        tempo.begin(1_000_000, 10_000);
        let (mut done, mut now) = (0, 1_000_000);
        while tempo.is_sweeping() {
            let due = tempo.due(now);
            done += due;
            tempo.advance(due, now);
            assert!(done <= 10_000 * (now - 1_000_000) / 95_000 + 1);
            now += 500;
        }
        assert_eq!(done, 10_000);
        assert!(now <= 1_100_000);
    }

    #[test]
    fn lateness_stretches_the_period_and_punctuality_takes_it_back() {
        let mut tempo = Tempo { period_us: 100_000, ..Tempo::new() };
        for n in 1..=20 {
            tempo.begin(n * 1_000_000, 10);
            tempo.advance(10, n * 1_000_000 + 150_000 * u64::from(n <= 10));
            assert!(tempo.stretch >= 1.0 && (n > 10 || tempo.stretch > 1.2));
        }
        assert!(tempo.stretch < STRETCH_MAX);
    }

    #[test]
    fn the_cost_of_a_visit_is_learned() {
        let mut tempo = Tempo::new();
        for n in 1..50 {
            tempo.measure(n * 3_000_000, n * 1_000_000, n * 100_000);
        }
        assert!((tempo.visit_s - 1e-5).abs() < 1e-7 && tempo.is_busy());
    }

    #[test]
    fn a_rate_outlasts_the_pauses_between_messages_and_fades() {
        let mut rate = MessageRate::default();
        for n in 0..40 {
            rate.measure(n % 2, 1_000_000);
        }
        assert!((40.0..60.0).contains(&rate.visits_per_s(100)), "{rate:?}");
        for _ in 0..200 {
            rate.measure(0, 1_000_000);
        }
        assert!(rate.visits_per_s(100) <= 0.0, "{rate:?}");
    }
}
