//! The result as one value: serialized it is the JSON, displayed it is the text.

mod absence;
mod scenario;
mod targets;
mod text;
mod throughput;

pub use absence::Absences;
pub use scenario::Returned;
pub use targets::Targets;
pub use text::Findings;
pub use throughput::{Deflate, Throughput};

use crate::audit::Messages;
use crate::cli::RunArgs;
use crate::crowd::Counts;
use crate::faults::Faults;
use crate::gaps::Gaps;
use crate::latency::Summary;
use crate::machine::Machine;
use crate::output;
use crate::plan::Plan;
use crate::run::{Measured, Window};
use crate::scenario::Scenario;
use crate::slow::Slow;
use crate::verify::Deliveries;

/// Raised when a field changes its meaning or goes away.
const SCHEMA_VERSION: u32 = 3;
/// A generator whose sends were later, or whose loop was busy longer, than this at p99 was the bottleneck.
const GENERATOR_LAG_MAX_NS: u64 = 100_000_000;

/// What was asked for.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Run {
    pub name: String,
    /// In the names of its rooms and users.
    pub run_id: String,
    pub begun_unix_s: u64,
    /// The server's commit or version, as it was named on the command line.
    pub commit: Option<String>,
    pub url: String,
    pub seed: u64,
    pub users: u32,
    pub rate: String,
    pub rooms: u32,
    pub distribution: String,
    pub largest_room: u32,
    /// Rooms that have no user.
    pub empty_rooms: u32,
    pub ramp_per_s: u32,
    pub warm_up_s: f64,
    pub duration_s: f64,
    pub threads: u16,
    /// Whether permessage-deflate was offered.
    pub deflate_offered: bool,
    pub offered_sends_per_s: f64,
    pub offered_deliveries_per_s: f64,
    /// Messages intended for the measured window, and their deliveries.
    pub window_sends: u64,
    pub window_deliveries: u64,
    /// Of the recipe that the run was made by; absent for a run that has none.
    pub targets: Option<Targets>,
    pub scenario: Scenario,
}

/// One thing that must hold.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Check {
    pub name: &'static str,
    pub holds: bool,
    pub detail: String,
}

/// One histogram.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Series {
    pub name: &'static str,
    pub count: u64,
    pub clamped: u64,
    #[serde(flatten)]
    pub summary: Option<Summary>,
    pub encoding: &'static str,
    pub histogram: String,
}

/// The server's cost; absent where it was not measured.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Server {
    pub cpu_cores: Option<f64>,
    pub cpu_us_per_delivery: Option<f64>,
    /// Pieces received stand for the server's sends.
    pub cpu_us_per_send: Option<f64>,
    pub rss_max_bytes: Option<u64>,
    pub bytes_per_connection: Option<f64>,
    /// Of the kernel, for this whole machine: TCP's buffers, and how much its slab grew since before the ramp.
    pub tcp_memory_max_bytes: u64,
    pub slab_growth_max_bytes: u64,
}

/// Everything there is to say about a run.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Report {
    pub schema_version: u32,
    pub version: &'static str,
    pub run: Run,
    pub machine: Machine,
    pub interrupted: bool,
    pub exit_code: u8,
    pub checks: Vec<Check>,
    /// Why the rate was not offered in time, if it was not.
    pub generator_bottleneck: Option<String>,
    /// By how much times of receipt may be too long because of the generator, when that is much.
    pub generator_reads_late: Option<String>,
    /// Part of the measured window in which its threads could have run and had no core.
    pub generator_waited: f64,
    pub deliveries: Deliveries,
    pub messages: Messages,
    pub counts: Counts,
    pub faults: Faults,
    pub slow: Option<Slow>,
    pub gaps: Gaps,
    pub returned: Option<Returned>,
    pub absences: Absences,
    /// Cases of what went wrong, in words.
    pub examples: Vec<String>,
    pub window: Option<Window>,
    pub throughput: Option<Throughput>,
    pub deflate: Deflate,
    pub server: Server,
    pub generator_cpu_cores: Option<f64>,
    pub ramp_s: f64,
    pub drain_s: f64,
    pub latencies: Vec<Series>,
}

impl Run {
    /// Describes a run before it begins.
    pub fn new(args: &RunArgs, plan: &Plan, threads: u16, begun_unix_s: u64) -> Self {
        let load = plan.load();
        let largest_room = plan.sizes.first().copied().unwrap_or(0);
        Self {
            name: args.name(),
            begun_unix_s,
            run_id: args.run_id.clone().unwrap_or_else(output::random_id),
            commit: args.commit.clone(),
            url: args.url.to_string(),
            seed: args.seed,
            users: args.users,
            rate: args.rate.to_string(),
            rooms: args.rooms,
            distribution: args.distribution.to_string(),
            largest_room,
            empty_rooms: plan.sizes.iter().filter(|&&size| size == 0).count() as u32,
            ramp_per_s: args.ramp,
            warm_up_s: args.warm_up.as_secs_f64(),
            duration_s: args.duration.as_secs_f64(),
            threads,
            deflate_offered: !args.no_deflate,
            offered_sends_per_s: load.sends_per_s,
            offered_deliveries_per_s: load.deliveries_per_s,
            window_sends: load.window_sends,
            window_deliveries: load.window_deliveries,
            targets: args.targets.then(|| Targets::of(&plan.shape)).flatten(),
            scenario: plan.shape.scenario,
        }
    }
}

impl Report {
    /// Judges what was measured.
    pub fn new(run: Run, machine: Machine, measured: &Measured) -> Self {
        let deflate_offered = run.deflate_offered;
        let (sends, lag) = (&measured.times.send_delay, &measured.times.loop_lag);
        let not_offered = sends.p99_ns() > GENERATOR_LAG_MAX_NS;
        let cause = cause(&measured.counts);
        let generator_bottleneck =
            not_offered.then(|| format!("messages were sent {} late (p99); {cause}", time(sends.p99_ns())));
        let generator_reads_late = (lag.p99_ns() > GENERATOR_LAG_MAX_NS)
            .then(|| format!("times may be {} too long (p99) because it read late; {cause}", time(lag.p99_ns())));
        let mut checks = checks(measured);
        checks.extend(scenario::checks(&run.scenario, measured));
        let verified = checks.iter().all(|check| check.holds);
        // Answers that came too late for a generator that was late itself accuse nobody.
        let accuses = checks.iter().any(|check| !check.holds && check.name != "rate") || blames_server(measured);
        let exit_code = match (measured.interrupted, verified, not_offered) {
            (true, ..) => 130,
            (_, true, false) => 0,
            (.., true) if !accuses => 5,
            _ => 1,
        };
        Self {
            schema_version: SCHEMA_VERSION,
            version: env!("CARGO_PKG_VERSION"),
            slow: measured.slow,
            gaps: measured.gaps.clone(),
            returned: Returned::new(&run.scenario, measured),
            absences: Absences::new(run.users, run.duration_s, measured),
            run,
            machine,
            interrupted: measured.interrupted,
            exit_code,
            checks,
            generator_bottleneck,
            generator_reads_late,
            generator_waited: waited(&measured.counts),
            deliveries: measured.deliveries,
            messages: measured.messages,
            counts: measured.counts,
            faults: measured.faults.clone(),
            examples: measured.examples.clone(),
            window: measured.window,
            throughput: measured.window.as_ref().map(Throughput::new),
            deflate: Deflate {
                offered: deflate_offered,
                agreed: measured.counts.deflated,
                connections: measured.times.connect.count(),
            },
            server: server(measured),
            generator_cpu_cores: measured.window.map(|window| window.generator_cpu_s / window.seconds),
            ramp_s: measured.ramp_s,
            drain_s: measured.drain_s,
            latencies: measured
                .times
                .series()
                .map(|(name, latency)| Series {
                    name,
                    count: latency.count(),
                    clamped: latency.clamped(),
                    summary: latency.summary(),
                    encoding: "base64 of HdrHistogram V2 DEFLATE, nanoseconds",
                    histogram: latency.to_base64(),
                })
                .into(),
        }
    }
}

/// Why a generator was late.
fn cause(counts: &Counts) -> String {
    let percent = 100.0 * waited(counts);
    if percent < 10.0 {
        return "its own threads were busy".to_owned();
    }
    format!("its threads waited {percent:.0} % of the time for a core that other programs had")
}

/// Part of the time in which the generator's threads could have run and had no core.
fn waited(counts: &Counts) -> f64 {
    let wanted_ns = counts.ran_ns + counts.waited_ns;
    if wanted_ns == 0 { 0.0 } else { counts.waited_ns as f64 / wanted_ns as f64 }
}

/// Whether messages failed in a way that no lateness of the generator explains.
fn blames_server(measured: &Measured) -> bool {
    measured.messages.refused + measured.counts.unsent + measured.counts.rate_limited > 0
}

/// What must hold for exit code 0. Of an interrupted run only what cannot be explained by the interruption.
fn checks(measured: &Measured) -> Vec<Check> {
    let Measured { deliveries: d, messages: m, counts: c, faults, .. } = measured;
    let never_received = if measured.interrupted { 0 } else { m.acked_missing };
    let loss = [
        ("deliveries lost, or later than the drain", d.lost),
        ("left out by announced gaps", d.skipped),
        ("messages acked and received by nobody", never_received),
        ("deliveries unknown, for their receivers did not come back", d.unknown),
        ("users did not come back, and what they missed is not known", c.gone),
    ];
    let disorder = [
        ("deliveries out of order", d.reordered),
        ("messages under another seq than acked", m.misplaced),
        ("seqs that members disagree about", m.disputed),
    ];
    let limited = if c.rate_limited > 0 { ", but not when they were due: the server limits a user's rate" } else { "" };
    let all = (m.acked, m.sent - m.unacked_slow + c.unsent);
    let not = format!("{} refused, {} unanswered, {} not sent", group(m.refused), group(m.unacked), group(c.unsent));
    vec![
        none_of("loss", &loss),
        none_of("duplicates", &[("deliveries twice", d.duplicated), ("messages stored twice", m.stored_twice)]),
        none_of("disorder", &disorder),
        none_of("alteration", &[("messages altered", m.altered), ("messages that nobody sent", m.unknown)]),
        none_of("errors", &[("errors, each user once for each kind", faults.total())]),
        Check {
            name: "rate",
            holds: c.rate_limited == 0
                && (all.1 > 0 && all.0 == all.1 || measured.interrupted && m.refused + c.unsent == 0),
            detail: format!("{} of {} messages acked ({not}){limited}", group(all.0), group(all.1)),
        },
    ]
}

/// Holds when all counts are 0.
fn none_of(name: &'static str, counts: &[(&str, u64)]) -> Check {
    let found = counts.iter().filter(|(_, n)| *n > 0).map(|(what, n)| format!("{} {what}", group(*n)));
    let found = found.collect::<Vec<_>>().join(", ");
    Check { name, holds: found.is_empty(), detail: if found.is_empty() { "none".to_owned() } else { found } }
}

fn server(measured: &Measured) -> Server {
    let window = measured.window.filter(|window| window.delivered > 0);
    let cpu_s = window.and_then(|window| window.server_cpu_s);
    let per = |n: fn(&Window) -> u64| Some(cpu_s? * 1e6 / n(&window?) as f64);
    Server {
        cpu_cores: cpu_s.zip(window).map(|(cpu_s, window)| cpu_s / window.seconds),
        cpu_us_per_delivery: per(|window| window.delivered),
        cpu_us_per_send: per(|window| window.chunks),
        rss_max_bytes: measured.server_rss_max_bytes,
        bytes_per_connection: measured.server_bytes_per_connection,
        tcp_memory_max_bytes: measured.tcp_memory_max_bytes,
        slab_growth_max_bytes: measured.slab_growth_max_bytes,
    }
}

/// Nanoseconds in the unit a person would choose.
pub fn time(ns: u64) -> String {
    match ns {
        0..1_000_000 => format!("{:.0} µs", ns as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} ms", ns as f64 / 1e6),
        _ => format!("{:.2} s", ns as f64 / 1e9),
    }
}

/// So many of something.
pub fn count(n: u64, what: &str) -> String {
    format!("{} {what}{}", group(n), if n == 1 { "" } else { "s" })
}

/// 1234567 as 1,234,567.
pub fn group(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}
