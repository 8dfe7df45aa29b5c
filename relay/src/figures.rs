//! What each shard lets others see of it: written by its thread with plain stores, read by the control thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use protocol::ErrorCode;

use crate::histogram::{BOUNDS_US, Histogram};
use crate::metrics::{self, Family, Kind, Sample};
use crate::shard::{Shard, Stats};

/// How old counts may be.
const PUBLISH_EVERY_US: u64 = 1_000_000;

/// One shard's figures. Only its own thread writes them.
pub struct Figures {
    published_us: AtomicU64,
    connections: AtomicU64,
    rooms: AtomicU64,
    feeds: AtomicU64,
    period_us: AtomicU64,
    counts: Vec<AtomicU64>,
    refusals: Vec<AtomicU64>,
    /// Histograms, one after the other.
    times: Vec<AtomicU64>,
}

/// Those of all shards.
#[derive(Clone)]
pub struct All(Arc<[Arc<Figures>]>);

impl Figures {
    fn new() -> Self {
        let zeros = |count: usize| (0..count).map(|_| AtomicU64::new(0)).collect();
        Self {
            published_us: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            rooms: AtomicU64::new(0),
            feeds: AtomicU64::new(0),
            period_us: AtomicU64::new(0),
            counts: zeros(Stats::COUNTS.len()),
            refusals: zeros(ErrorCode::ALL.len()),
            times: zeros(Stats::TIMES.len() * Histogram::FIGURES),
        }
    }

    /// Asked at every turn: true once a second, when everything is to be published.
    pub fn is_due(&self, now_us: u64) -> bool {
        let is_due = now_us >= self.published_us.load(Ordering::Relaxed) + PUBLISH_EVERY_US;
        if is_due {
            self.published_us.store(now_us, Ordering::Relaxed);
        }
        is_due
    }

    /// Everything as it is now.
    pub fn publish(&self, shard: &Shard) {
        let set = |figure: &AtomicU64, value: u64| figure.store(value, Ordering::Relaxed);
        set(&self.connections, shard.connections() as u64);
        set(&self.rooms, shard.rooms() as u64);
        set(&self.feeds, shard.feeds() as u64);
        set(&self.period_us, shard.tempo().period_us());
        self.count(&shard.turn.stats);
    }

    /// What was counted.
    pub fn count(&self, stats: &Stats) {
        let set = |(figure, value): (&AtomicU64, u64)| figure.store(value, Ordering::Relaxed);
        self.counts.iter().zip(stats.values()).for_each(set);
        self.refusals.iter().zip(stats.refusals.0).for_each(set);
        self.times.iter().zip(Stats::TIMES.iter().flat_map(|times| (times.of)(stats).figures())).for_each(set);
    }
}

impl All {
    /// Of so many shards, before their first turn.
    pub fn new(shards: usize) -> Self {
        Self((0..shards).map(|_| Arc::new(Figures::new())).collect())
    }

    pub fn of(&self, shard: usize) -> Arc<Figures> {
        self.0[shard].clone()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Figures> {
        self.0.iter().map(|figures| &**figures)
    }

    /// A count of all shards together, by its name in [`Stats`].
    pub fn count(&self, name: &str) -> u64 {
        let index = Stats::COUNTS.iter().position(|count| count.name == name).expect("a count of this name");
        self.iter().map(|figures| figures.counts[index].load(Ordering::Relaxed)).sum()
    }

    /// Commands that all shards refused with this code.
    pub fn refusals(&self, code: ErrorCode) -> u64 {
        self.iter().map(|figures| figures.refusals[code as usize - 1].load(Ordering::Relaxed)).sum()
    }

    /// Everything, for `/metrics`.
    pub fn families(&self) -> Vec<Family> {
        let mut families = vec![
            self.gauge("relay_connections", "Open connections.", |figures| value(&figures.connections)),
            self.gauge("relay_rooms", "Rooms in memory, by the shard that owns them.", |figures| value(&figures.rooms)),
            self.gauge("relay_feeds", "Rooms with members connected to a shard.", |figures| value(&figures.feeds)),
            self.gauge("relay_sweep_period_seconds", "How often members of large rooms are visited.", |figures| {
                value(&figures.period_us) / 1e6
            }),
        ];
        for (index, count) in Stats::COUNTS.iter().enumerate() {
            let samples = self.samples(count.label, |figures| value(&figures.counts[index]));
            let family = Family { name: count.family, help: count.help, kind: Kind::Counter, samples };
            metrics::add(&mut families, family);
        }
        let name = "relay_refusals_total";
        let help = "Commands that were answered with an error, by its code.";
        let samples = ErrorCode::ALL.iter().enumerate().flat_map(|(index, code)| {
            self.samples(&format!("reason=\"{}\"", snake(&format!("{code:?}"))), |figures| {
                value(&figures.refusals[index])
            })
        });
        families.push(Family { name, help, kind: Kind::Counter, samples: samples.collect() });
        families.extend(Stats::TIMES.iter().enumerate().map(|(index, times)| {
            let samples = self.iter().enumerate().flat_map(|(shard, figures)| {
                let start = index * Histogram::FIGURES;
                histogram(shard, &figures.times[start..start + Histogram::FIGURES])
            });
            Family { name: times.family, help: times.help, kind: Kind::Histogram, samples: samples.collect() }
        }));
        families
    }

    fn gauge(&self, name: &'static str, help: &'static str, value: impl Fn(&Figures) -> f64) -> Family {
        Family { name, help, kind: Kind::Gauge, samples: self.samples("", value) }
    }

    fn samples(&self, label: &str, value: impl Fn(&Figures) -> f64) -> Vec<Sample> {
        let sample = |(shard, figures): (usize, &Figures)| {
            let comma = if label.is_empty() { "" } else { "," };
            Sample { suffix: "", labels: format!("{{shard=\"{shard}\"{comma}{label}}}"), value: value(figures) }
        };
        self.iter().enumerate().map(sample).collect()
    }
}

/// The samples of one histogram: buckets with all that were no longer, their count and their sum.
fn histogram(shard: usize, figures: &[AtomicU64]) -> Vec<Sample> {
    let (sum, buckets) = figures.split_last().expect("a histogram has a sum");
    let bounds = BOUNDS_US.map(|us| (us as f64 / 1e6).to_string()).into_iter().chain(["+Inf".to_owned()]);
    let mut count = 0.0;
    let mut samples: Vec<_> = bounds
        .zip(buckets)
        .map(|(bound, bucket)| {
            count += value(bucket);
            Sample { suffix: "_bucket", labels: format!("{{shard=\"{shard}\",le=\"{bound}\"}}"), value: count }
        })
        .collect();
    let labels = format!("{{shard=\"{shard}\"}}");
    samples.push(Sample { suffix: "_sum", labels: labels.clone(), value: value(sum) / 1e6 });
    samples.push(Sample { suffix: "_count", labels, value: count });
    samples
}

fn value(figure: &AtomicU64) -> f64 {
    figure.load(Ordering::Relaxed) as f64
}

/// `TooLarge` as `too_large`.
fn snake(name: &str) -> String {
    let mut text = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !text.is_empty() {
            text.push('_');
        }
        text.push(c.to_ascii_lowercase());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_have_all_that_was_no_longer() {
        let all = All::new(1);
        let mut stats = Stats::default();
        for us in [50, 700, 20_000_000] {
            stats.turn.record(us);
        }
        all.of(0).count(&stats);
        let text = metrics::text(&all.families());
        for line in [
            "# TYPE relay_turn_seconds histogram",
            r#"relay_turn_seconds_bucket{shard="0",le="0.0001"} 1"#,
            r#"relay_turn_seconds_bucket{shard="0",le="0.001"} 2"#,
            r#"relay_turn_seconds_bucket{shard="0",le="10"} 2"#,
            r#"relay_turn_seconds_bucket{shard="0",le="+Inf"} 3"#,
            r#"relay_turn_seconds_sum{shard="0"} 20.00075"#,
            r#"relay_turn_seconds_count{shard="0"} 3"#,
            r#"relay_publish_durable_seconds_count{shard="0"} 0"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }

    #[test]
    fn names_of_codes_become_labels() {
        assert_eq!(snake("TooManyRooms"), "too_many_rooms");
    }
}
