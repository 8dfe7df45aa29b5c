//! The figures of one run that two versions are compared by. Reads results of every version of the format.

use std::fs;
use std::path::Path;

use serde::Deserialize;

/// The part of a result.json that matters here.
#[derive(Debug, Deserialize)]
pub struct Measured {
    pub exit_code: i32,
    window: Option<Window>,
    server: Server,
    latencies: Vec<Latency>,
}

#[derive(Debug, Deserialize)]
struct Window {
    delivered: u64,
    bytes: u64,
    server_cpu_s: Option<f64>,
}

#[derive(Debug, Deserialize)]
struct Server {
    rss_max_bytes: Option<u64>,
    bytes_per_connection: Option<f64>,
}

#[derive(Debug, Deserialize)]
struct Latency {
    name: String,
    p50_ns: Option<u64>,
    p99_ns: Option<u64>,
}

/// A figure to be compared. Less is better.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// As a bar names it.
    pub name: &'static str,
    pub unit: &'static str,
    /// The highest ratio B : A that is allowed, unless asked for otherwise; `None`: printed and not judged.
    pub bar: Option<f64>,
    pub of: fn(&Measured) -> Option<f64>,
}

/// What is judged on a shared machine: CPU and bytes before times.
pub const METRICS: &[Metric] = &[
    Metric { name: "cpu", unit: "µs of CPU a delivery", bar: Some(1.05), of: Measured::cpu_us },
    Metric { name: "bytes", unit: "bytes a delivery", bar: None, of: Measured::bytes },
    Metric { name: "memory", unit: "bytes of memory a connection", bar: None, of: Measured::memory },
    Metric { name: "rss", unit: "MiB of memory at most", bar: None, of: Measured::rss_mib },
    Metric { name: "p50", unit: "ms, delivery p50", bar: None, of: |run| run.ms("delivery", |l| l.p50_ns) },
    Metric { name: "p99", unit: "ms, delivery p99", bar: Some(1.0), of: |run| run.ms("delivery", |l| l.p99_ns) },
    Metric {
        name: "pairs",
        unit: "ms, p99 in rooms of two",
        bar: Some(1.0),
        of: |run| run.ms("delivery_pairs", |l| l.p99_ns),
    },
    Metric { name: "ack", unit: "ms, ack p99", bar: Some(1.0), of: |run| run.ms("ack", |l| l.p99_ns) },
];

impl Measured {
    /// Reads a run's directory.
    pub fn read(directory: &Path) -> Result<Self, String> {
        let path = directory.join("result.json");
        let named = |what: String| format!("{}: {what}", path.display());
        let text = fs::read_to_string(&path).map_err(|error| named(error.to_string()))?;
        serde_json::from_str(&text).map_err(|error| named(error.to_string()))
    }

    fn cpu_us(&self) -> Option<f64> {
        let window = self.window.as_ref().filter(|window| window.delivered > 0)?;
        Some(window.server_cpu_s? * 1e6 / window.delivered as f64)
    }

    fn bytes(&self) -> Option<f64> {
        let window = self.window.as_ref().filter(|window| window.delivered > 0)?;
        Some(window.bytes as f64 / window.delivered as f64)
    }

    fn memory(&self) -> Option<f64> {
        self.server.bytes_per_connection
    }

    fn rss_mib(&self) -> Option<f64> {
        self.server.rss_max_bytes.map(|bytes| bytes as f64 / f64::from(1 << 20))
    }

    fn ms(&self, series: &str, value: fn(&Latency) -> Option<u64>) -> Option<f64> {
        let series = self.latencies.iter().find(|latency| latency.name == series)?;
        value(series).map(|ns| ns as f64 / 1e6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_the_format_before_are_read_too() {
        let runs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../bench-results/runs");
        let mut read = 0;
        for entry in fs::read_dir(&runs).expect("results are kept there") {
            let run = Measured::read(&entry.expect("it is readable").path()).expect("every kept result is readable");
            let missing: Vec<_> = METRICS.iter().filter(|metric| (metric.of)(&run).is_none()).collect();
            assert!(missing.iter().all(|metric| ["pairs", "memory"].contains(&metric.name)), "{missing:?}");
            read += 1;
        }
        assert!(read > 10);
    }
}
