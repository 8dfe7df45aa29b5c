//! The coordinator: moves a run through its phases, looks at the server and the machine meanwhile, and adds up what the
//! threads bring home.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, ScopedJoinHandle};
use std::time::Duration;

use uring::SetupError;

use crate::Error;
use crate::audit::{self, Messages, Missing};
use crate::crowd::Counts;
use crate::faults::Faults;
use crate::latency::Latencies;
use crate::machine::{self, Usage};
use crate::progress::Progress;
use crate::verify::Deliveries;
use crate::worker::{self, Outcome};
use crate::world::{Phase, World};

/// How often the coordinator looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// A ramp in which nobody joined for so long has failed, nanoseconds.
const RAMP_STALL_NS: u64 = 20_000_000_000;
/// Between the last join and the first message, nanoseconds.
const LEAD_NS: u64 = 100_000_000;
/// The two numbers of joined users between which the server's memory per connection is measured.
const MEMORY_FROM_USERS: u64 = 10_000;
const MEMORY_TO_USERS: u64 = 60_000;

/// What a run is besides its world.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    pub drain: Duration,
    pub server_pid: Option<u32>,
}

/// Everything measured and verified.
#[derive(Debug)]
pub struct Measured {
    /// Stopped by a signal: tails are not checked.
    pub interrupted: bool,
    pub deliveries: Deliveries,
    pub messages: Messages,
    pub missing: Vec<Missing>,
    pub examples: Vec<String>,
    pub times: Latencies,
    pub counts: Counts,
    pub faults: Faults,
    /// From the start of the measured window to its end, as far as it came.
    pub window: Option<Window>,
    /// Growth of the server's memory per joined connection, bytes.
    pub server_bytes_per_connection: Option<f64>,
    pub server_rss_max_bytes: Option<u64>,
    pub tcp_memory_max_bytes: u64,
    pub ramp_s: f64,
    pub drain_s: f64,
}

/// What happened between two moments.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub struct Window {
    pub seconds: f64,
    pub sent: u64,
    pub delivered: u64,
    pub frames: u64,
    pub chunks: u64,
    pub bytes: u64,
    pub generator_cpu_s: f64,
    pub server_cpu_s: Option<f64>,
    /// At the end of the window.
    pub server_rss_bytes: Option<u64>,
}

/// Runs to the end, or until `interrupted`.
pub fn run(
    world: &World,
    settings: Settings,
    interrupted: &AtomicBool,
    progress: &mut Progress,
) -> Result<Measured, Error> {
    thread::scope(|scope| {
        let threads = 0..world.gauges.len() as u32;
        let workers = threads.map(|index| scope.spawn(move || worker::run(world, index))).collect();
        let mut run = Run { world, settings, interrupted, progress, workers, watch: Watch::default() };
        let outcome = run.phases();
        run.progress.finish();
        world.enter(match outcome {
            Ok(ref times) if times.complete => Phase::Stop,
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
}

/// How far a run came.
struct Course {
    complete: bool,
    window: Option<Window>,
    ramp_s: f64,
    drain_s: f64,
}

/// What is looked at while a run goes on.
#[derive(Default)]
struct Watch {
    memory_from: Option<(u64, u64)>,
    memory_to: Option<(u64, u64)>,
    server_rss_max_bytes: Option<u64>,
    tcp_memory_max_bytes: u64,
}

/// Totals at one moment.
struct Totals {
    at_ns: u64,
    counts: [u64; 5],
    generator: Usage,
    server: Option<Usage>,
}

impl Run<'_, '_> {
    fn phases(&mut self) -> Result<Course, Error> {
        let mut course = Course { complete: false, window: None, ramp_s: 0.0, drain_s: 0.0 };
        let users = u64::from(self.world.plan.shape.users);
        let ramped = self.ramp(users)?;
        course.ramp_s = self.world.now_ns() as f64 / 1e9;
        if !ramped {
            return Ok(course);
        }
        let t0_ns = self.world.now_ns() + LEAD_NS;
        self.world.start_traffic(t0_ns);
        let warm_ns = t0_ns + self.world.plan.shape.warm_up_ns;
        if !self.wait_until("warm-up", t0_ns, warm_ns) {
            return Ok(course);
        }
        let start = self.totals();
        let end_ns = t0_ns + self.world.plan.end_ns();
        let reached = self.wait_until("measure", warm_ns, end_ns);
        course.window = Some(window(&start, &self.totals()));
        if reached {
            course.complete = self.drain(end_ns);
            course.drain_s = (self.world.now_ns() - end_ns) as f64 / 1e9;
        }
        Ok(course)
    }

    /// Waits for all users to join. False: interrupted.
    fn ramp(&mut self, users: u64) -> Result<bool, Error> {
        let (mut joined_before, mut since_ns) = (0, 0);
        loop {
            let (joined, failed) =
                (self.world.total(|gauges| &gauges.joined), self.world.total(|gauges| &gauges.failed));
            self.watch.at_joined(joined, self.settings.server_pid);
            self.progress.show(self.world, "ramp", joined, users);
            if joined == users && failed == 0 {
                return Ok(true);
            }
            if joined > joined_before {
                (joined_before, since_ns) = (joined, self.world.now_ns());
            }
            let stalled = self.world.now_ns() - since_ns > RAMP_STALL_NS;
            if failed > 0 || stalled || self.workers.iter().any(ScopedJoinHandle::is_finished) {
                return Err(Error::Unreachable { joined, users, why: String::new() });
            }
            if !self.look() {
                return Ok(false);
            }
        }
    }

    /// Waits for a time of the run's clock. False: interrupted.
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

    /// Waits a little and looks at server and machine. False: interrupted.
    fn look(&mut self) -> bool {
        thread::sleep(LOOK_EVERY);
        self.watch.look(self.settings.server_pid);
        !self.interrupted.load(Relaxed)
    }

    fn totals(&self) -> Totals {
        let total = |gauge: fn(&crate::world::Gauges) -> &std::sync::atomic::AtomicU64| self.world.total(gauge);
        let counts = [
            total(|gauges| &gauges.sent),
            total(|gauges| &gauges.delivered),
            total(|gauges| &gauges.frames),
            total(|gauges| &gauges.chunks),
            total(|gauges| &gauges.bytes),
        ];
        let server = self.settings.server_pid.and_then(|pid| machine::usage(Some(pid)));
        Totals { at_ns: self.world.now_ns(), counts, generator: machine::usage(None).unwrap_or_default(), server }
    }

    /// Joins the threads and adds up.
    fn bring_home(self, course: Result<Course, Error>) -> Result<Measured, Error> {
        let outcomes = self.workers.into_iter().map(|worker| worker.join().expect("a generator thread panicked"));
        let outcomes = outcomes.collect::<Result<Vec<Outcome>, SetupError>>()?;
        let (mut deliveries, mut counts) = (Deliveries::default(), Counts::default());
        let (mut times, mut faults) = (Latencies::default(), Faults::default());
        let (mut logs, mut missing) = (Vec::new(), Vec::new());
        for outcome in outcomes {
            deliveries.add(&outcome.deliveries);
            counts.add(&outcome.counts);
            times.add(&outcome.times);
            faults.add(outcome.faults);
            missing.extend(outcome.missing);
            logs.push(outcome.rooms);
        }
        let course = course.map_err(|error| error.because(&faults))?;
        let audit = audit::audit(&self.world.plan, &self.world.sends, &logs);
        Ok(Measured {
            interrupted: !course.complete,
            deliveries,
            messages: audit.messages,
            missing,
            examples: audit.examples,
            times,
            counts,
            faults,
            window: course.window,
            server_bytes_per_connection: self.watch.bytes_per_connection(),
            server_rss_max_bytes: self.watch.server_rss_max_bytes,
            tcp_memory_max_bytes: self.watch.tcp_memory_max_bytes,
            ramp_s: course.ramp_s,
            drain_s: course.drain_s,
        })
    }
}

impl Watch {
    fn look(&mut self, server: Option<u32>) {
        self.tcp_memory_max_bytes = self.tcp_memory_max_bytes.max(machine::tcp_memory_bytes());
        let rss = server.and_then(|pid| machine::usage(Some(pid))).map(|usage| usage.rss_bytes);
        self.server_rss_max_bytes = self.server_rss_max_bytes.max(rss);
    }

    /// Notes the server's memory when the two marks are passed.
    fn at_joined(&mut self, joined: u64, server: Option<u32>) {
        for (mark, users) in [(&mut self.memory_from, MEMORY_FROM_USERS), (&mut self.memory_to, MEMORY_TO_USERS)] {
            if mark.is_none() && joined >= users {
                *mark = server.and_then(|pid| machine::usage(Some(pid))).map(|usage| (joined, usage.rss_bytes));
            }
        }
    }

    fn bytes_per_connection(&self) -> Option<f64> {
        let ((users_from, from), (users_to, to)) = (self.memory_from?, self.memory_to?);
        (users_to > users_from).then(|| (to as f64 - from as f64) / (users_to - users_from) as f64)
    }
}

fn window(start: &Totals, end: &Totals) -> Window {
    let [sent, delivered, frames, chunks, bytes] = std::array::from_fn(|nth| end.counts[nth] - start.counts[nth]);
    Window {
        seconds: (end.at_ns - start.at_ns) as f64 / 1e9,
        sent,
        delivered,
        frames,
        chunks,
        bytes,
        generator_cpu_s: end.generator.cpu_s - start.generator.cpu_s,
        server_cpu_s: end.server.zip(start.server).map(|(end, start)| end.cpu_s - start.cpu_s),
        server_rss_bytes: end.server.map(|usage| usage.rss_bytes),
    }
}
