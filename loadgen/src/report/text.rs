//! The result for people: short, each figure beside its target where there is one.

use std::fmt::{self, Display, Formatter};

use super::{Report, Run, Series, count, group, time};
use crate::crowd::Counts;
use crate::latency::Summary;

/// A percentile with fewer samples above it is no more than a hint.
const SAMPLES_ABOVE_MIN: f64 = 10.0;

impl Display for Run {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { users, rate, rooms, distribution, largest_room, warm_up_s, duration_s, ramp_per_s, seed, .. } = self;
        let users = group((*users).into());
        writeln!(f, "run      {}, id {}, seed {seed}, against {}", self.name, self.run_id, self.url)?;
        writeln!(f, "users    {users}, each {rate} at a random time, one connection each, {} threads", self.threads)?;
        let empty = if self.empty_rooms > 0 {
            format!("; {} stay empty", group(self.empty_rooms.into()))
        } else {
            String::new()
        };
        let rooms = group((*rooms).into());
        writeln!(
            f,
            "rooms    {rooms}, sizes {distribution}, the largest has {}{empty}",
            count((*largest_room).into(), "user")
        )?;
        let (sends, deliveries) = (per_s(self.offered_sends_per_s), per_s(self.offered_deliveries_per_s));
        write!(f, "{}", self.scenario)?;
        writeln!(f, "offered  {sends} messages/s in, {deliveries} deliveries/s out (every member gets every message)")?;
        writeln!(f, "phases   ramp {ramp_per_s}/s, warm-up {warm_up_s} s, measured {duration_s} s")
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}machine  {}\n", self.run, self.machine)?;
        Findings(self).fmt(f)
    }
}

/// A report without the description of the run, which is printed before it begins.
pub struct Findings<'a>(pub &'a Report);

impl Display for Findings<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.0.write_findings(f)
    }
}

impl Report {
    fn write_findings(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.interrupted {
            writeln!(f, "PARTIAL  interrupted: what was under way then is not checked\n")?;
        }
        if self.absences.gave_up {
            writeln!(
                f,
                "PARTIAL  every connection was gone, and nobody came back for too long: the run ended early\n"
            )?;
        }
        self.write_checks(f)?;
        self.write_latencies(f)?;
        self.write_throughput(f)?;
        self.write_server(f)?;
        self.write_generator(f)?;
        writeln!(f, "\nresult   {} (exit code {})", self.verdict(), self.exit_code)
    }

    fn verdict(&self) -> &'static str {
        match self.exit_code {
            0 => "every check held",
            1 => "verification failed",
            5 => "the generator was the bottleneck: the rate was not offered in time",
            _ => "interrupted",
        }
    }

    fn write_checks(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for check in &self.checks {
            writeln!(f, "  {} {:<11} {}", if check.holds { '✓' } else { '✗' }, check.name, check.detail)?;
        }
        for (class, users) in self.faults.by_frequency().iter().take(10) {
            writeln!(f, "      {}: {class}", count(*users, "user"))?;
        }
        for example in self.examples.iter().take(20) {
            writeln!(f, "      {example}")?;
        }
        let Counts { busy, unknown, rate_limited, rate_limited_late, .. } = self.counts;
        for (answers, words) in [
            (busy, "`busy`: the server had no room for a message, which was sent again later"),
            (unknown, "`unknown`: the server could not say whether a message was stored, so it was sent again"),
            (rate_limited, "`rate limited`: the server takes fewer messages of a user than --rate sends"),
            (rate_limited_late, "`rate limited` to users who came back with much to say"),
        ] {
            if answers > 0 {
                writeln!(f, "    {}, {words}", count(answers, "answer"))?;
            }
        }
        writeln!(f)
    }

    fn write_latencies(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<20}{:>13}{:>11}{:>11}{:>11}{:>11}{:>11}",
            "time", "count", "p50", "p90", "p99", "p99.9", "max"
        )?;
        let mut has_rough = false;
        for series in &self.latencies {
            let Some(summary) = series.summary else { continue };
            write!(f, "{:<20}{:>13}", label(series.name), group(series.count))?;
            for (ns, above) in
                [(summary.p50_ns, 0.5), (summary.p90_ns, 0.1), (summary.p99_ns, 0.01), (summary.p99_9_ns, 0.001)]
            {
                let shown = percentile(ns, series.count as f64 * above);
                has_rough |= shown.starts_with('~');
                write!(f, "{shown:>11}")?;
            }
            write!(f, "{:>11}", time(summary.max_ns))?;
            let clamped = if series.clamped > 0 { format!("  {} over an hour", series.clamped) } else { String::new() };
            writeln!(f, "{clamped}")?;
        }
        if has_rough {
            writeln!(f, "  ~ rough: fewer than {SAMPLES_ABOVE_MIN} times are longer; - no time is expected to be")?;
        }
        let targets = self.run.targets.as_ref().filter(|_| self.absences.lost() == 0);
        if let (Some(delivery), Some(targets)) = (self.latencies.iter().find_map(delivery), targets) {
            let of =
                [("p50", delivery.p50_ns, targets.delivery_p50_ns), ("p99", delivery.p99_ns, targets.delivery_p99_ns)];
            for (name, ns, target) in of {
                let Some(target) = target else { continue };
                writeln!(f, "  delivery {name} {} (target {}) {}", time(ns), time(target), met(ns <= target))?;
            }
        }
        self.write_scenario(f)?;
        self.write_absences(f)?;
        writeln!(f)
    }

    fn write_server(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let server = &self.server;
        if let (Some(cores), Some(delivery), Some(send)) =
            (server.cpu_cores, server.cpu_us_per_delivery, server.cpu_us_per_send)
        {
            let target = self.run.targets.as_ref().and_then(|targets| targets.server_cpu_us_per_delivery);
            let target = against(target, |target| delivery <= target);
            writeln!(f, "server   {cores:.2} cores; {delivery:.4} µs a delivery{target}; {send:.2} µs a send")?;
        }
        if let Some(rss) = server.rss_max_bytes {
            write!(f, "         {:.1} MiB at most", rss as f64 / f64::from(1 << 20))?;
            if let Some(bytes) = server.bytes_per_connection {
                let target = self.run.targets.as_ref().map(|targets| targets.server_bytes_per_connection);
                write!(f, "; {bytes:.0} bytes a connection{}", against(target, |target| bytes <= target))?;
            }
            writeln!(f)?;
        }
        if let Some((start, end)) = self.window.and_then(|w| w.server_rss_start_bytes.zip(w.server_rss_bytes)) {
            let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
            let (from, to) = (mib(start), mib(end));
            writeln!(f, "         {from:.1} MiB when the window began, {to:.1} when it ended: {:+.1}", to - from)?;
        }
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let (buffers, slab) = (mib(server.tcp_memory_max_bytes), mib(server.slab_growth_max_bytes));
        writeln!(
            f,
            "kernel   {buffers:.0} MiB in TCP buffers and {slab:.0} MiB more slab than before at most, this whole machine"
        )
    }

    fn write_generator(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if let Some(cores) = self.generator_cpu_cores {
            let waited = 100.0 * self.generator_waited;
            writeln!(f, "loadgen  {cores:.2} cores; its threads waited {waited:.0} % of their time for one")?;
        }
        if let Some(why) = &self.generator_bottleneck {
            writeln!(f, "         the generator was the bottleneck: {why}")?;
        }
        self.generator_reads_late.iter().try_for_each(|why| writeln!(f, "         {why}"))
    }
}

fn delivery(series: &Series) -> Option<Summary> {
    series.summary.filter(|_| series.name == "delivery")
}

fn label(name: &str) -> &str {
    match name {
        "delivery_pairs" => "  in rooms of two",
        "delivery_storm" => "  in the storm",
        "delivery_after" => "  after the storm",
        "delivery_from_send" => "  from actual send",
        "send_delay" => "send delay",
        "loop_lag" => "loop lag",
        other => other,
    }
}

/// A target and whether it is met, if there is one.
fn against(target: Option<f64>, is_met: impl Fn(f64) -> bool) -> String {
    target.map(|target| format!(" (target {target}) {}", met(is_met(target)))).unwrap_or_default()
}

/// A percentile with so many samples above it: one that rests on few is marked, and one that would be the maximum is
/// left out.
fn percentile(ns: u64, above: f64) -> String {
    match above {
        ..1.0 => "-".to_owned(),
        ..SAMPLES_ABOVE_MIN => format!("~{}", time(ns)),
        _ => time(ns),
    }
}

/// A rate; small ones with their fraction.
fn per_s(n: f64) -> String {
    if n < 10.0 { format!("{n:.2}") } else { group(n.round() as u64) }
}

pub(super) fn met(is_met: bool) -> &'static str {
    if is_met { "✓" } else { "missed" }
}
