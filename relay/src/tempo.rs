//! How often a core visits the members of its larger rooms.
//!
//! Rooms whose visits are cheap go out at once. All others share one period per core, so that a large room never
//! waits longer than a small one for being large. The period grows while sweeps run late or take more than their share
//! of the core, and shrinks while they do neither.

/// Shortest period, microseconds: where it starts and what an unloaded core returns to.
pub const PERIOD_US_MIN: u64 = 4_000;
/// Longest period, microseconds.
pub const PERIOD_US_MAX: u64 = 2_000_000;
/// Share of the core that the visits of rooms served at once may cost together, percent.
const AT_ONCE_PERCENT: u64 = 10;
/// What a visit is taken to cost before it was measured, nanoseconds, and the bounds of what a measurement may say.
const VISIT_NS: u64 = 4_000;
const VISIT_NS_MIN: u64 = 2_000;
const VISIT_NS_MAX: u64 = 20_000;
/// Fewer visits than this since the last look say nothing about their cost.
const VISITS_MIN: u64 = 2_000;
/// A room whose frames cost fewer visits per second than this on any core is cut without delay.
pub const CUT_AT_ONCE_VISITS_PER_S: u64 = 1_000;
/// A larger room is cut this often in a period.
pub const CUTS_PER_PERIOD: u64 = 16;
/// Members visited in one chunk of a sweep; between two chunks the core does other work.
pub const CHUNK_VISITS: usize = 128;

/// Above this share of the core the period grows, below the other it shrinks, in percent.
const BUSY_PERCENT: u64 = 34;
const IDLE_PERCENT: u64 = 30;
/// The period is looked at this often at most, microseconds.
const ADAPT_US: u64 = 100_000;
/// A core that paces its rooms need not look around more often than this, microseconds, and may not look less often:
/// each look costs ten microseconds or more, and adds its distance to an ack.
const REST_US: (u64, u64) = (1_000, 4_000);
/// From this period on a core rests for a fixed time instead of being woken by whatever comes, microseconds.
const BUSY_PERIOD_US: u64 = 20_000;
/// Rates of rooms and feeds are looked at this often, microseconds.
pub const RATES_US: u64 = 1_000_000;

/// The period of a core and where its sweep is. A plain value.
#[derive(Debug, Clone)]
pub struct Tempo {
    period_us: u64,
    adapted_us: u64,
    adapted_cpu_us: u64,
    adapted_visits: u64,
    visit_ns: u64,
    late: bool,
    sweep: Sweep,
}

/// One pass over the members of paced rooms: evenly spread over the period.
#[derive(Debug, Clone, Default)]
struct Sweep {
    began_us: u64,
    total: u64,
    done: u64,
}

impl Tempo {
    pub fn new() -> Self {
        Self {
            period_us: PERIOD_US_MIN,
            adapted_us: 0,
            adapted_cpu_us: 0,
            adapted_visits: 0,
            visit_ns: VISIT_NS,
            late: false,
            sweep: Sweep::default(),
        }
    }

    pub fn period_us(&self) -> u64 {
        self.period_us
    }
    /// How old the oldest message of a large room may get before it is cut, microseconds.
    pub fn cut_us(&self) -> u64 {
        self.period_us / CUTS_PER_PERIOD
    }

    /// A hundredth of the period: how long the core rests between two looks.
    pub fn rest_us(&self) -> u64 {
        (self.period_us / 100).clamp(REST_US.0, REST_US.1)
    }

    /// So much is to be done that wake-ups would cost more than what they announce.
    pub fn is_busy(&self) -> bool {
        self.period_us >= BUSY_PERIOD_US
    }

    /// A new sweep may begin.
    pub fn sweep_is_due(&self, now_us: u64) -> bool {
        self.sweep.done >= self.sweep.total && now_us >= self.sweep.began_us + self.period_us
    }
    /// When it may, for parking; None while one is under way.
    pub fn next_sweep_us(&self) -> u64 {
        self.sweep.began_us + self.period_us
    }
    pub fn is_sweeping(&self) -> bool {
        self.sweep.done < self.sweep.total
    }

    /// A sweep over so many members begins.
    pub fn begin(&mut self, now_us: u64, total: u64) {
        // On time, the next one begins where this one's period ended, so that members keep their phase.
        let planned = self.sweep.began_us + self.period_us;
        let began_us = if now_us < planned + self.period_us / 4 { planned } else { now_us };
        self.sweep = Sweep { began_us: began_us.max(now_us.saturating_sub(self.period_us)), total, done: 0 };
    }

    /// How many members are due now: the evenly spaced share of the sweep less what is done, at most one chunk.
    pub fn due(&self, now_us: u64) -> usize {
        let Sweep { began_us, total, done } = self.sweep;
        let elapsed = now_us.saturating_sub(began_us).min(self.period_us);
        let target = total * elapsed / (self.period_us * 19 / 20).max(1);
        (target.min(total).saturating_sub(done) as usize).min(CHUNK_VISITS)
    }

    /// When the next chunk of the sweep under way is worth a turn: at once when it is late, else a quarter chunk.
    pub fn next_chunk_us(&self, now_us: u64) -> u64 {
        let Sweep { began_us, total, done } = self.sweep;
        let ahead = (CHUNK_VISITS as u64 / 4).min(total - done);
        let at = began_us + (done + ahead) * (self.period_us * 19 / 20) / total.max(1);
        if at <= now_us { now_us } else { at.max(now_us + self.rest_us()) }
    }

    /// So many members were looked at.
    pub fn advance(&mut self, members: u64, now_us: u64) {
        if !self.is_sweeping() {
            return;
        }
        self.sweep.done += members;
        if !self.is_sweeping() && now_us > self.sweep.began_us + self.period_us + self.period_us / 8 {
            self.late = true;
        }
    }

    /// The sweep is over, though fewer members were there than planned.
    pub fn finish(&mut self, now_us: u64) {
        self.advance(self.sweep.total.saturating_sub(self.sweep.done), now_us);
    }

    /// Visits per second that rooms may cost together and still be served at once.
    pub fn at_once_visits_per_s(&self) -> u64 {
        1_000_000_000 * AT_ONCE_PERCENT / 100 / self.visit_ns
    }

    /// Adapts the period to how much CPU this core's thread has used and to lateness, and learns what a visit costs.
    /// `cpu_us` and `visits` are totals that only rise.
    pub fn adapt(&mut self, now_us: u64, cpu_us: u64, visits: u64) {
        let wall = now_us - self.adapted_us;
        if wall < ADAPT_US.max(self.period_us) {
            return;
        }
        let share = (cpu_us - self.adapted_cpu_us) * 100 / wall;
        if visits - self.adapted_visits >= VISITS_MIN {
            let cost = (cpu_us - self.adapted_cpu_us) * 1000 / (visits - self.adapted_visits);
            self.visit_ns = (self.visit_ns * 3 + cost.clamp(VISIT_NS_MIN, VISIT_NS_MAX)) / 4;
        }
        self.adapted_visits = visits;
        if self.late || share > BUSY_PERCENT {
            let factor = (share * 100 / BUSY_PERCENT).clamp(110, 150);
            self.period_us = (self.period_us * factor / 100).min(PERIOD_US_MAX);
        } else if share < IDLE_PERCENT {
            self.period_us = (self.period_us * 92 / 100).max(PERIOD_US_MIN);
        }
        (self.adapted_us, self.adapted_cpu_us, self.late) = (now_us, cpu_us, false);
    }
}

impl Default for Tempo {
    fn default() -> Self {
        Self::new()
    }
}

/// How many messages a second a room has, averaged over about eight looks: a room with a message now and then is as
/// dear in the seconds between as in the one with the message.
#[derive(Debug, Clone, Copy, Default)]
pub struct MessageRate {
    /// Messages in a million seconds.
    micro: u64,
}

impl MessageRate {
    /// So many messages came in so many microseconds. A rate of 0 takes the first look as it is.
    pub fn measure(&mut self, messages: u32, elapsed_us: u64) {
        let now = u64::from(messages) * 1_000_000_000_000 / elapsed_us.max(1);
        self.micro = if self.micro == 0 { now } else { (self.micro * 7 + now) / 8 };
    }

    /// Visits per second that so many members cost when each message is a visit.
    pub fn times(self, members: usize) -> u64 {
        (self.micro * members as u64).div_ceil(1_000_000)
    }
}

/// Which of `costs` (visits per second, by index) are served in sweeps: the dearest ones, so that the rest together
/// stays within `at_once`.
pub fn paced(mut costs: Vec<(u64, u32)>, at_once: u64) -> impl Iterator<Item = u32> {
    costs.sort_unstable();
    let mut sum = 0;
    costs.into_iter().filter_map(move |(cost, index)| {
        sum += cost;
        (sum > at_once).then_some(index)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sweep_is_spread_evenly_and_visits_everybody() {
        let mut tempo = Tempo::new();
        tempo.period_us = 100_000;
        tempo.begin(1_000_000, 10_000);
        let (mut done, mut now) = (0, 1_000_000);
        while tempo.is_sweeping() {
            let due = tempo.due(now);
            done += due as u64;
            tempo.advance(due as u64, now);
            assert!(done <= 10_000 * (now - 1_000_000) / 95_000 + 1);
            now += 500;
        }
        assert_eq!(done, 10_000);
        assert!(now <= 1_100_000 && !tempo.late);
    }

    #[test]
    fn the_period_grows_under_load_or_lateness_and_shrinks_back() {
        let mut tempo = Tempo::new();
        let (mut now, mut cpu) = (0, 0);
        let mut run = |tempo: &mut Tempo, percent: u64, times: u32| {
            for _ in 0..times {
                now += 3_000_000;
                cpu += 3_000_000 * percent / 100;
                tempo.adapt(now, cpu, 0);
            }
        };
        run(&mut tempo, 90, 40);
        assert_eq!(tempo.period_us(), PERIOD_US_MAX);
        run(&mut tempo, (BUSY_PERCENT + IDLE_PERCENT) / 2, 40);
        assert_eq!(tempo.period_us(), PERIOD_US_MAX);
        run(&mut tempo, 5, 100);
        assert_eq!(tempo.period_us(), PERIOD_US_MIN);
        tempo.late = true;
        run(&mut tempo, 5, 1);
        assert!(tempo.period_us() > PERIOD_US_MIN);
    }

    #[test]
    fn a_rate_outlasts_the_pauses_between_messages_and_fades() {
        let mut rate = MessageRate::default();
        let second = 1_000_000;
        for n in 0..40 {
            rate.measure(n % 2, second);
        }
        assert!((40..=60).contains(&rate.times(100)), "{}", rate.times(100));
        for _ in 0..200 {
            rate.measure(0, second);
        }
        assert_eq!(rate.times(100), 0);
    }

    #[test]
    fn dear_visits_leave_fewer_rooms_to_be_served_at_once() {
        let mut tempo = Tempo::new();
        assert_eq!(tempo.at_once_visits_per_s(), 25_000);
        for n in 1..50 {
            tempo.adapt(n * 3_000_000, n * 1_000_000, n * 100_000);
        }
        assert!((9_900..=10_200).contains(&tempo.at_once_visits_per_s()), "{}", tempo.at_once_visits_per_s());
    }

    #[test]
    fn the_cheapest_rooms_go_out_at_once() {
        let costs = vec![(30_000, 0), (10, 1), (20_000, 2), (4_000, 3), (2_000, 4)];
        assert_eq!(paced(costs, 25_000).collect::<Vec<_>>(), [2, 0]);
    }
}
