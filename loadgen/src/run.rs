//! The coordinator: moves a run through its phases, looks at the server and the machine meanwhile, and adds up what the
//! threads bring home.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{self, ScopedJoinHandle};
use std::time::Duration;

use uring::SetupError;

use crate::Error;
use crate::audit::{self, Messages};
use crate::crowd::Counts;
use crate::faults::Faults;
use crate::gaps::{self, Gaps};
use crate::latency::Latencies;
use crate::outcome::Outcome;
use crate::progress::Progress;
use crate::slow::{self, Slow};
use crate::unreached::{self, Reached, Waiting};
use crate::verify::Deliveries;
use crate::worker;
use crate::world::{Gauges, Phase, World};

mod watch;

pub use watch::Window;
use watch::{Watch, window};

/// How often the coordinator looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// A ramp in which nobody joined for so long has failed, nanoseconds.
const RAMP_STALL_NS: u64 = 20_000_000_000;
/// Between the last join and the first message, nanoseconds.
const LEAD_NS: u64 = 100_000_000;

/// What a run is besides its world.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    pub drain: Duration,
    /// When nobody has been connected for so long the run ends.
    pub give_up: Duration,
    pub server_pid: Option<u32>,
}

/// Everything measured and verified.
#[derive(Debug)]
pub struct Measured {
    /// Stopped by a signal: tails are not checked.
    pub interrupted: bool,
    /// Stopped because nobody was connected for too long.
    pub gave_up: bool,
    pub deliveries: Deliveries,
    pub messages: Messages,
    pub examples: Vec<String>,
    pub times: Latencies,
    pub counts: Counts,
    pub faults: Faults,
    /// Why attempts to come back failed.
    pub attempts: Faults,
    /// What became of the slow readers, if there are any.
    pub slow: Option<Slow>,
    /// Whether history has what announced gaps left out.
    pub gaps: Gaps,
    /// How long the storm was, seconds; `None` without one, or when not everybody came back.
    pub storm_s: Option<f64>,
    /// From the start of the measured window to its end, as far as it came.
    pub window: Option<Window>,
    /// Growth of the server's memory per joined connection, bytes.
    pub server_bytes_per_connection: Option<f64>,
    pub server_rss_max_bytes: Option<u64>,
    /// Of the kernel's memory: TCP's buffers, and how much the slab grew since before the ramp.
    pub tcp_memory_max_bytes: u64,
    pub slab_growth_max_bytes: u64,
    pub ramp_s: f64,
    pub drain_s: f64,
}

/// Runs to the end, or until `interrupted`.
pub fn run(
    world: &World,
    settings: Settings,
    interrupted: &AtomicBool,
    progress: &mut Progress,
) -> Result<Measured, Error> {
    let watch = Watch::new(settings.server_pid);
    thread::scope(|scope| {
        let threads = 0..world.threads as u32;
        let mut workers: Vec<_> = threads.map(|index| scope.spawn(move || worker::run(world, index))).collect();
        if world.plan.shape.scenario.has_slow_readers() {
            workers.push(scope.spawn(|| Ok(slow::run(world))));
        }
        let mut run = Run {
            world,
            settings,
            interrupted,
            progress,
            workers,
            watch,
            has_seen: false,
            deserted_ns: None,
            gave_up: false,
        };
        let outcome = run.phases();
        run.progress.finish();
        world.enter(match outcome {
            Ok(ref course) if course.complete || run.gave_up => Phase::Stop,
            _ => Phase::Abort,
        });
        run.bring_home(outcome)
    })
}

struct Run<'s, 'w> {
    world: &'w World,
    settings: Settings,
    interrupted: &'w AtomicBool,
    progress: &'w mut Progress,
    workers: Vec<ScopedJoinHandle<'s, Result<Outcome, SetupError>>>,
    watch: Watch,
    /// Somebody was connected, and since when nobody is, nanoseconds of the run's clock.
    has_seen: bool,
    deserted_ns: Option<u64>,
    gave_up: bool,
}

/// Not everybody came so far.
struct Stuck {
    done: u64,
    wanted: u64,
    what: &'static str,
}

/// How far a run came.
struct Course {
    complete: bool,
    window: Option<Window>,
    ramp_s: f64,
    drain_s: f64,
}

impl Run<'_, '_> {
    fn phases(&mut self) -> Result<Course, Stuck> {
        let mut course = Course { complete: false, window: None, ramp_s: 0.0, drain_s: 0.0 };
        if !self.history()? {
            return Ok(course);
        }
        let ramp_ns = self.world.now_ns();
        let joined = self.gather("ramp", "joined", u64::from(self.world.plan.shape.users), |gauges| &gauges.joined);
        course.ramp_s = (self.world.now_ns() - ramp_ns) as f64 / 1e9;
        if !joined? {
            return Ok(course);
        }
        let t0_ns = self.world.now_ns() + LEAD_NS;
        self.world.start_traffic(t0_ns);
        let warm_ns = t0_ns + self.world.plan.shape.warm_up_ns;
        if !self.wait_until("warm-up", t0_ns, warm_ns) {
            return Ok(course);
        }
        let start = self.watch.totals(self.world);
        let end_ns = t0_ns + self.world.plan.end_ns();
        let reached = self.wait_until("measure", warm_ns, end_ns);
        course.window = Some(window(&start, &self.watch.totals(self.world)));
        if reached {
            course.complete = self.drain(end_ns);
            course.drain_s = (self.world.now_ns() - end_ns) as f64 / 1e9;
        }
        Ok(course)
    }

    /// Lets the history be written, if there is to be one. False: interrupted.
    fn history(&mut self) -> Result<bool, Stuck> {
        let (writers, lines) = (self.world.plan.historians.len() as u64, self.world.plan.shape.scenario.history);
        if writers == 0 {
            return Ok(true);
        }
        if !self.gather("history", "writers of history joined", writers, |gauges| &gauges.joined)? {
            return Ok(false);
        }
        self.world.enter(Phase::History);
        let written = self.gather("history", "lines of history acked", lines.into(), |gauges| &gauges.acked)?;
        if written {
            self.world.start_ramp();
        }
        Ok(written)
    }

    /// Waits until a gauge shows `wanted`. False: interrupted.
    fn gather(
        &mut self,
        stage: &'static str,
        what: &'static str,
        wanted: u64,
        gauge: fn(&Gauges) -> &AtomicU64,
    ) -> Result<bool, Stuck> {
        let (mut before, mut since_ns) = (0, self.world.now_ns());
        loop {
            let (done, failed) = (self.world.total(gauge), self.world.total(|gauges| &gauges.failed));
            self.watch.at_joined(self.world.total(|gauges| &gauges.joined));
            self.progress.show(self.world, stage, done, wanted);
            if done == wanted && failed == 0 {
                return Ok(true);
            }
            if done > before {
                (before, since_ns) = (done, self.world.now_ns());
            }
            let stalled = self.world.now_ns() - since_ns > RAMP_STALL_NS;
            if failed > 0 || stalled || self.workers.iter().any(ScopedJoinHandle::is_finished) {
                return Err(Stuck { done, wanted, what });
            }
            if !self.look() {
                return Ok(false);
            }
        }
    }

    /// Waits for a time of the run's clock. False: interrupted, or deserted.
    fn wait_until(&mut self, stage: &'static str, from_ns: u64, to_ns: u64) -> bool {
        loop {
            let now_ns = self.world.now_ns();
            if now_ns >= to_ns {
                return true;
            }
            self.progress.show(self.world, stage, now_ns.saturating_sub(from_ns), to_ns - from_ns);
            if !self.look() {
                return false;
            }
        }
    }

    /// Waits until everything is answered and every member has reached its room's end, or the time is over. False:
    /// interrupted.
    fn drain(&mut self, end_ns: u64) -> bool {
        let over_ns = end_ns + self.settings.drain.as_nanos() as u64;
        let total = self.world.total(|gauges| &gauges.sent);
        while self.world.total(|gauges| &gauges.outstanding) > 0 && self.world.now_ns() < over_ns {
            self.progress.show(self.world, "drain", self.world.total(|gauges| &gauges.acked), total);
            if !self.look() {
                return false;
            }
        }
        self.world.enter(Phase::Settle);
        // At least one look, so that what is on its way although nothing is owed any more still arrives.
        loop {
            self.progress.show(self.world, "drain", total, total);
            if !self.look() {
                return false;
            }
            if self.world.total(|gauges| &gauges.behind) == 0 || self.world.now_ns() >= over_ns {
                return true;
            }
        }
    }

    /// Waits a little and looks at server and machine. False: interrupted, or deserted.
    fn look(&mut self) -> bool {
        thread::sleep(LOOK_EVERY);
        self.watch.look();
        let rages = self.world.storm_ns().is_some_and(|(at_ns, _)| at_ns <= self.world.now_ns())
            && self.world.storm().is_some_and(|storm| storm.end == u64::MAX);
        if rages && self.world.total(|gauges| &gauges.away) == 0 {
            self.world.end_storm();
        }
        self.gave_up = self.is_deserted();
        !self.gave_up && !self.interrupted.load(Relaxed)
    }

    /// Whether nobody has been connected for too long. Notes when it begins.
    fn is_deserted(&mut self) -> bool {
        if self.world.phase() < Phase::Traffic || self.world.connected() > 0 {
            (self.has_seen, self.deserted_ns) = (self.world.connected() > 0, None);
            return false;
        }
        let now_ns = self.world.now_ns();
        if self.has_seen && self.deserted_ns.is_none() {
            self.deserted_ns = Some(now_ns);
            self.world.note_outage();
        }
        self.deserted_ns.is_some_and(|since_ns| now_ns - since_ns > self.settings.give_up.as_nanos() as u64)
    }

    /// Joins the threads and adds up.
    fn bring_home(self, course: Result<Course, Stuck>) -> Result<Measured, Error> {
        let outcomes = self.workers.into_iter().map(|worker| worker.join().expect("a generator thread panicked"));
        let outcomes = outcomes.collect::<Result<Vec<Outcome>, SetupError>>()?;
        let (mut deliveries, mut counts) = (Deliveries::default(), Counts::default());
        let (mut times, mut faults, mut waiting) = (Latencies::default(), Faults::default(), Waiting::default());
        let (mut logs, mut missing, mut left_out, mut slow) = (Vec::new(), Vec::new(), Vec::new(), None);
        let mut attempts = Faults::default();
        for outcome in outcomes {
            deliveries.add(&outcome.deliveries);
            counts.add(&outcome.counts);
            times.add(&outcome.times);
            faults.add(outcome.faults);
            waiting.add(&outcome.waiting);
            attempts.add(outcome.attempts);
            missing.extend(outcome.missing);
            left_out.extend(outcome.gaps);
            slow = slow.or(outcome.slow);
            logs.push(outcome.rooms);
        }
        let course = course.map_err(|Stuck { done, wanted, what }| {
            let (server, waited_s) = (&self.world.authority, RAMP_STALL_NS / 1_000_000_000);
            unreached::error(&Reached { done, wanted, what, server, waited_s }, &faults, &waiting)
        })?;
        let (gaps, log) = gaps::fetch(self.world, &left_out, course.complete);
        logs.extend(log);
        let storm = self.world.storm().filter(|storm| storm.end < u64::MAX);
        let mut audit = audit::audit(self.world, &logs);
        audit.examples.extend(missing.iter().map(|missing| missing.in_words(self.world)));
        Ok(Measured {
            interrupted: !course.complete && !self.gave_up,
            gave_up: self.gave_up,
            deliveries,
            messages: audit.messages,
            examples: audit.examples,
            times,
            counts,
            faults,
            attempts,
            slow,
            gaps,
            storm_s: storm.map(|storm| storm.end.saturating_sub(storm.start) as f64 / 1e9),
            window: course.window,
            server_bytes_per_connection: self.watch.bytes_per_connection(),
            server_rss_max_bytes: self.watch.server_rss_max_bytes,
            tcp_memory_max_bytes: self.watch.tcp_memory_max_bytes,
            slab_growth_max_bytes: self.watch.slab_growth_max_bytes,
            ramp_s: course.ramp_s,
            drain_s: course.drain_s,
        })
    }
}
