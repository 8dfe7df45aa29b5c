//! What one run says about growth, and the table of several.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use loadgen::report::group;
use serde::Deserialize;

/// The part of a result.json that matters here.
#[derive(Deserialize)]
struct Report {
    run: Run,
    machine: Machine,
    exit_code: u8,
    window: Option<Window>,
    server: Server,
    latencies: Vec<Latency>,
}

#[derive(Deserialize)]
struct Run {
    users: u64,
    rate: String,
    commit: Option<String>,
}

#[derive(Deserialize)]
struct Machine {
    cpu: String,
    cores: usize,
    kernel: String,
    memory_bytes: u64,
}

#[derive(Deserialize)]
struct Window {
    seconds: f64,
    delivered: u64,
    frames: u64,
    bytes: u64,
    batch_bytes: u64,
    inflated_bytes: u64,
}

#[derive(Deserialize)]
struct Server {
    cpu_cores: Option<f64>,
    cpu_us_per_delivery: Option<f64>,
    rss_max_bytes: Option<u64>,
    tcp_memory_max_bytes: u64,
    slab_growth_max_bytes: u64,
}

#[derive(Deserialize)]
struct Latency {
    name: String,
    p50_ns: Option<u64>,
    p99_ns: Option<u64>,
}

/// One run of one room.
pub struct Measured {
    pub users: u64,
    pub p50_us: f64,
    pub p99_us: f64,
    pub cpu_us_per_delivery: f64,
    /// Cores, processor, memory and kernel.
    pub machine: String,
    cpu_cores: f64,
    deliveries_per_s: f64,
    bytes_per_s: f64,
    messages_per_frame: f64,
    rss_bytes: u64,
    /// By how much deflate made the batches smaller.
    compressed: f64,
    /// TCP's buffers and the growth of the slab, of the whole machine: the receivers' too.
    kernel_bytes: u64,
    exit_code: u8,
    /// Lines of each viewer.
    rate: String,
    commit: String,
}

impl Measured {
    /// Reads a run's directory. The error names what is missing.
    pub fn read(directory: &Path) -> Result<Self, String> {
        let path = directory.join("result.json");
        let named = |what: &str| format!("{}: {what}", path.display());
        let text = fs::read_to_string(&path).map_err(|error| named(&error.to_string()))?;
        let report: Report = serde_json::from_str(&text).map_err(|error| named(&error.to_string()))?;
        let window = report.window.as_ref().ok_or_else(|| named("the run ended before its window did"))?;
        let delivery = report.latencies.iter().find(|latency| latency.name == "delivery");
        let (p50, p99) = delivery
            .and_then(|delivery| delivery.p50_ns.zip(delivery.p99_ns))
            .ok_or_else(|| named("nothing was delivered"))?;
        let Server { cpu_cores, cpu_us_per_delivery, rss_max_bytes, tcp_memory_max_bytes, slab_growth_max_bytes } =
            report.server;
        let unmeasured = || named("the server's CPU and memory were not measured (--server-pid)");
        let Machine { cpu, cores, kernel, memory_bytes } = &report.machine;
        Ok(Self {
            users: report.run.users,
            p50_us: p50 as f64 / 1e3,
            p99_us: p99 as f64 / 1e3,
            cpu_us_per_delivery: cpu_us_per_delivery.ok_or_else(unmeasured)?,
            machine: format!("{cores} cores {cpu}, {} GiB, Linux {kernel}", memory_bytes >> 30),
            cpu_cores: cpu_cores.ok_or_else(unmeasured)?,
            deliveries_per_s: window.delivered as f64 / window.seconds,
            bytes_per_s: window.bytes as f64 / window.seconds,
            messages_per_frame: window.delivered as f64 / window.frames.max(1) as f64,
            rss_bytes: rss_max_bytes.ok_or_else(unmeasured)?,
            compressed: window.inflated_bytes as f64 / window.batch_bytes.max(1) as f64,
            kernel_bytes: tcp_memory_max_bytes + slab_growth_max_bytes,
            exit_code: report.exit_code,
            rate: report.run.rate,
            commit: report.run.commit.unwrap_or_else(|| "not named".to_owned()),
        })
    }
}

/// All runs as Markdown, and the machines they were made on.
pub fn table(runs: &[Measured]) -> String {
    let mut out = String::from(
        "| viewers | deliveries/s | delivery p50 / p99 | relay CPU | a delivery | sent | compressed | messages a frame | relay RSS | kernel memory | checks | commit |\n\
         |--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|---|\n",
    );
    for run in runs {
        let checks = if run.exit_code == 0 { "all hold".to_owned() } else { format!("exit code {}", run.exit_code) };
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "| {} | {} | {} / {} | {:.2} cores | {} | {:.1} MB/s | {:.1} : 1 | {:.1} | {} MiB | {} MiB | {checks} | {} |",
            group(run.users),
            group(run.deliveries_per_s.round() as u64),
            duration(run.p50_us, true),
            duration(run.p99_us, true),
            run.cpu_cores,
            duration(run.cpu_us_per_delivery, false),
            run.bytes_per_s / 1e6,
            run.compressed,
            run.messages_per_frame,
            run.rss_bytes >> 20,
            run.kernel_bytes >> 20,
            run.commit
        );
    }
    let mut circumstances: Vec<_> = runs.iter().map(|run| format!("{}; {}", run.rate, run.machine)).collect();
    circumstances.dedup();
    let _ = writeln!(out, "\nOne room; lines of each viewer: {}.", circumstances.join("; "));
    out
}

/// Microseconds, or with `larger_units` also ms and s, with three digits.
pub fn duration(us: f64, larger_units: bool) -> String {
    let (value, unit) = match us {
        1e6.. if larger_units => (us / 1e6, "s"),
        1e3.. if larger_units => (us / 1e3, "ms"),
        _ => (us, "µs"),
    };
    let places = (2 - value.log10().floor() as i32).clamp(0, 6) as usize;
    let text = format!("{value:.places$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text} {unit}")
}
