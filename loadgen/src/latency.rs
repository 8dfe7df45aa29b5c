//! HDR histograms of everything that is timed. One set per thread, added up at the end; never one per connection.

use std::ops::Range;

use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Serializer, V2DeflateSerializer};

/// Times below this are not told apart, nanoseconds.
const LOWEST_NS: u64 = 1_000;
/// Longer times are counted here and reported as clamped, nanoseconds.
const HIGHEST_NS: u64 = 3_600_000_000_000;
const SIGNIFICANT_DIGITS: u8 = 3;

/// One histogram of nanoseconds.
#[derive(Debug, Clone)]
pub struct Latency {
    histogram: Histogram<u64>,
    clamped: u64,
}

/// What is printed of a histogram, nanoseconds. `None` without samples.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Summary {
    pub p50_ns: u64,
    pub p90_ns: u64,
    pub p99_ns: u64,
    pub p99_9_ns: u64,
    pub max_ns: u64,
}

impl Default for Latency {
    fn default() -> Self {
        let histogram = Histogram::new_with_bounds(LOWEST_NS, HIGHEST_NS, SIGNIFICANT_DIGITS);
        Self { histogram: histogram.expect("the bounds are constants in their valid range"), clamped: 0 }
    }
}

impl Latency {
    /// Records one time.
    pub fn record(&mut self, ns: u64) {
        self.record_n(ns, 1);
    }

    /// Records the same time `n` times.
    pub fn record_n(&mut self, ns: u64, n: u64) {
        if ns > HIGHEST_NS {
            self.clamped += n;
        }
        self.histogram.saturating_record_n(ns, n);
    }

    /// Adds another thread's times.
    pub fn add(&mut self, other: &Self) {
        self.histogram.add(&other.histogram).expect("both have the same bounds");
        self.clamped += other.clamped;
    }

    /// Number of times recorded.
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// Times that were longer than the histogram holds.
    pub fn clamped(&self) -> u64 {
        self.clamped
    }

    /// The 99th percentile, nanoseconds; 0 without samples.
    pub fn p99_ns(&self) -> u64 {
        self.histogram.value_at_quantile(0.99)
    }

    /// Percentiles and maximum.
    pub fn summary(&self) -> Option<Summary> {
        let at = |quantile| self.histogram.value_at_quantile(quantile);
        (!self.histogram.is_empty()).then(|| Summary {
            p50_ns: at(0.5),
            p90_ns: at(0.9),
            p99_ns: at(0.99),
            p99_9_ns: at(0.999),
            max_ns: self.histogram.max(),
        })
    }

    /// The whole histogram as base64 of `HdrHistogram`'s V2 + DEFLATE encoding, which its tools in every language read.
    pub fn to_base64(&self) -> String {
        use base64::Engine as _;
        let mut bytes = Vec::new();
        let written = V2DeflateSerializer::new().serialize(&self.histogram, &mut bytes);
        written.expect("a vector takes every write and counts fit 64 bits");
        base64::engine::general_purpose::STANDARD.encode(bytes)
    }
}

/// All times of a run or of one thread. Those of messages only hold messages of the measured window.
#[derive(Debug, Clone, Default)]
pub struct Latencies {
    /// From the intended time to each member's receipt: what users feel. Of messages intended before the storm, if
    /// there is one.
    pub delivery: Latency,
    /// The same in the rooms of two.
    pub delivery_pairs: Latency,
    /// The same for those who stayed: of messages intended in the storm, and after it.
    pub delivery_storm: Latency,
    pub delivery_after: Latency,
    /// From the actual sending to each member's receipt: what tools with coordinated omission report.
    pub delivery_from_send: Latency,
    /// From the intended time to the actual sending: the generator's own lateness.
    pub send_delay: Latency,
    /// From the intended time to the ack.
    pub ack: Latency,
    /// From opening the connection to the accepted handshake.
    pub connect: Latency,
    /// From the connect and join commands to the join's reply.
    pub join: Latency,
    /// From the command to join again to having everything that the log had then.
    pub resume: Latency,
    /// From the loss of a connection to having everything again, for those who came back and those who had not yet.
    pub absence: Latency,
    /// How long a thread's loop was busy before it could look again, weighted by time: its p99 says that for 99 % of
    /// the window whatever arrived was looked at this soon.
    pub loop_lag: Latency,
    /// Intended times that lie in the storm, nanoseconds since traffic began.
    pub storm: Option<Range<u64>>,
}

impl Latencies {
    /// Name and histogram of each series, in the order of reports.
    pub fn series(&self) -> [(&'static str, &Latency); 12] {
        [
            ("delivery", &self.delivery),
            ("delivery_pairs", &self.delivery_pairs),
            ("delivery_storm", &self.delivery_storm),
            ("delivery_after", &self.delivery_after),
            ("delivery_from_send", &self.delivery_from_send),
            ("ack", &self.ack),
            ("connect", &self.connect),
            ("join", &self.join),
            ("resume", &self.resume),
            ("absence", &self.absence),
            ("send_delay", &self.send_delay),
            ("loop_lag", &self.loop_lag),
        ]
    }

    /// Where the delivery of a message is recorded, by its intended time and whether it is one of a pair's.
    pub fn of_delivery(&mut self, intended_ns: u64, is_pair: bool) -> &mut Latency {
        match &self.storm {
            _ if is_pair => &mut self.delivery_pairs,
            Some(storm) if intended_ns >= storm.end => &mut self.delivery_after,
            Some(storm) if intended_ns >= storm.start => &mut self.delivery_storm,
            _ => &mut self.delivery,
        }
    }

    /// Adds another thread's times.
    pub fn add(&mut self, other: &Self) {
        self.delivery.add(&other.delivery);
        self.delivery_pairs.add(&other.delivery_pairs);
        self.delivery_storm.add(&other.delivery_storm);
        self.delivery_after.add(&other.delivery_after);
        self.delivery_from_send.add(&other.delivery_from_send);
        self.send_delay.add(&other.send_delay);
        self.ack.add(&other.ack);
        self.connect.add(&other.connect);
        self.join.add(&other.join);
        self.resume.add(&other.resume);
        self.absence.add(&other.absence);
        self.loop_lag.add(&other.loop_lag);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_beyond_the_histogram_are_counted_as_clamped_and_not_lost() {
        let mut latency = Latency::default();
        latency.record(5_000_000);
        latency.record_n(HIGHEST_NS * 2, 3);
        assert_eq!((latency.count(), latency.clamped()), (4, 3));
    }

    #[test]
    fn deliveries_are_told_apart_by_the_time_they_were_intended_for() {
        let mut times = Latencies { storm: Some(10..20), ..Latencies::default() };
        for (intended_ns, is_pair) in [(9, false), (10, false), (19, false), (20, false), (20, false), (10, true)] {
            times.of_delivery(intended_ns, is_pair).record(1_000_000);
        }
        let counts = times.series().map(|(_, latency)| latency.count());
        assert_eq!(counts[..4], [1, 1, 2, 2]);
        times.storm = None;
        times.of_delivery(20, false).record(1_000_000);
        assert_eq!(times.delivery.count(), 2);
    }

    #[test]
    fn threads_add_up() {
        let (mut a, mut b) = (Latencies::default(), Latencies::default());
        a.ack.record(1_000_000);
        b.ack.record_n(9_000_000, 2);
        b.connect.record(3_000_000);
        a.add(&b);
        let summary = a.ack.summary().expect("it has samples");
        assert_eq!((a.ack.count(), a.connect.count()), (3, 1));
        assert!(summary.p50_ns.abs_diff(9_000_000) < 9_000_000 / 1_000, "{summary:?}");
    }

    #[test]
    fn an_empty_series_has_no_percentiles() {
        assert_eq!(Latency::default().summary(), None);
    }

    #[test]
    fn the_encoded_histogram_is_one_that_other_tools_recognise() {
        let mut latency = Latency::default();
        latency.record(42_000);
        assert!(latency.to_base64().starts_with("HISTFA"));
    }
}
