//! Figures as the text that Prometheus reads.

use std::fmt::Write as _;

use storage::Metric;

/// Figures of one name.
#[derive(Debug, Clone, PartialEq)]
pub struct Family {
    pub name: &'static str,
    /// What they say, in one line.
    pub help: &'static str,
    pub kind: Kind,
    pub samples: Vec<Sample>,
}

/// What Prometheus calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Gauge,
    /// It only rises.
    Counter,
    Histogram,
}

/// One figure.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// What follows the family's name: a part of a histogram.
    pub suffix: &'static str,
    /// Such as `{shard="0"}`, or nothing.
    pub labels: String,
    pub value: f64,
}

impl From<Metric> for Family {
    fn from(Metric { name, help, is_counter, label, value }: Metric) -> Self {
        let labels = label.map(|(label, number)| format!("{{{label}=\"{number}\"}}")).unwrap_or_default();
        let kind = if is_counter { Kind::Counter } else { Kind::Gauge };
        Self { name, help, kind, samples: vec![Sample { suffix: "", labels, value }] }
    }
}

/// Adds figures to those of the same name, which are one family.
pub fn add(families: &mut Vec<Family>, more: Family) {
    match families.iter_mut().find(|family| family.name == more.name) {
        Some(family) => family.samples.extend(more.samples),
        None => families.push(more),
    }
}

/// The exposition format of Prometheus, version 0.0.4.
pub fn text(families: &[Family]) -> String {
    let mut text = String::new();
    for Family { name, help, kind, samples } in families {
        let kind = match kind {
            Kind::Gauge => "gauge",
            Kind::Counter => "counter",
            Kind::Histogram => "histogram",
        };
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for Sample { suffix, labels, value } in samples {
            let value = match value {
                value if value.is_nan() => "NaN".to_owned(),
                value if value.is_infinite() => if *value > 0.0 { "+Inf" } else { "-Inf" }.to_owned(),
                value => value.to_string(),
            };
            let _ = writeln!(text, "{name}{suffix}{labels} {value}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_written_as_prometheus_reads_them() {
        let help = "What it says.";
        let sample = |label: &str, value| Sample { suffix: "", labels: format!("{{shard=\"{label}\"}}"), value };
        let mut figures: Vec<Family> = vec![
            Metric::counter("a_total", help, 12_345_678_901).into(),
            Metric::gauge("b_seconds", help, 0.25).into(),
            Metric::gauge("c", help, f64::INFINITY).into(),
            Metric { label: Some(("shard", 7)), ..Metric::gauge("d", help, 0.0) }.into(),
        ];
        figures[3].samples.push(sample("8", f64::NAN));
        let values: Vec<_> = text(&figures).lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect();
        assert_eq!(
            values,
            ["a_total 12345678901", "b_seconds 0.25", "c +Inf", "d{shard=\"7\"} 0", "d{shard=\"8\"} NaN"]
        );
        assert!(text(&figures).starts_with("# HELP a_total What it says.\n# TYPE a_total counter\na_total "));
    }
}
