//! What runs came to, their medians, and the table.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use loadgen::report::group;
use serde::{Deserialize, Serialize};

use crate::stage::Dialect;

/// No rate may wait longer than a higher one by more than this.
const MONOTONE: f64 = 1.5;

/// One run, or the medians of several.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Measured {
    pub dialect: Dialect,
    pub users: u32,
    pub rooms: u32,
    pub machine: String,
    pub rows: Vec<Row>,
    pub runs: usize,
}

/// One step, without its first three seconds.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Row {
    pub lines_per_s: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    /// Of the first of these seconds.
    pub first_p99_ms: f64,
    /// Between two visits of a viewer, the median.
    pub apart_ms: f64,
    pub cores: f64,
}

impl Measured {
    /// Reads what a run wrote.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
        serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", path.display()))
    }

    pub fn name(&self) -> String {
        let users = group(u64::from(self.users));
        let dialect = if self.dialect == Dialect::Json { "Centrifuge JSON" } else { "native" };
        match self.rooms {
            1 => format!("one room of {users}, {dialect}"),
            rooms => format!("{users} in {} rooms by Zipf's law, {dialect}", group(u64::from(rooms))),
        }
    }

    /// By how much a step waits longer than one with a higher rate, at most.
    fn excess(&self, row: &Row) -> f64 {
        let higher = self.rows.iter().filter(|higher| higher.lines_per_s > row.lines_per_s);
        let shortest_ms = higher.map(|higher| higher.p99_ms).fold(f64::INFINITY, f64::min);
        row.p99_ms / shortest_ms
    }
}

/// Runs of the same, step by step.
pub fn medians(runs: Vec<Measured>) -> Vec<Measured> {
    let mut groups: Vec<Vec<Measured>> = Vec::new();
    for run in runs {
        match groups.iter_mut().find(|group| group[0].name() == run.name() && group[0].rows.len() == run.rows.len()) {
            Some(group) => group.push(run),
            None => groups.push(vec![run]),
        }
    }
    groups
        .into_iter()
        .map(|group| {
            let row = |at: usize| {
                let median = |value: fn(&Row) -> f64| {
                    let mut values: Vec<f64> = group.iter().map(|run| value(&run.rows[at])).collect();
                    values.sort_by(f64::total_cmp);
                    values[values.len() / 2]
                };
                Row {
                    lines_per_s: median(|row| row.lines_per_s),
                    p50_ms: median(|row| row.p50_ms),
                    p99_ms: median(|row| row.p99_ms),
                    first_p99_ms: median(|row| row.first_p99_ms),
                    apart_ms: median(|row| row.apart_ms),
                    cores: median(|row| row.cores),
                }
            };
            let rows = (0..group[0].rows.len()).map(row).collect();
            Measured { rows, runs: group.len(), ..group[0].clone() }
        })
        .collect()
}

/// All of them as text.
pub fn table(all: &[Measured]) -> String {
    let mut out = String::new();
    for measured in all {
        let Measured { machine, runs, .. } = measured;
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{}; {runs} run(s), medians; {machine}", measured.name());
        let _ = writeln!(
            out,
            "lines/s   p50 ms   p99 ms   in 4th s   visits apart ms   relay cores   longer than a higher rate"
        );
        for row in &measured.rows {
            let Row { lines_per_s, p50_ms, p99_ms, first_p99_ms, apart_ms, cores } = row;
            let excess = measured.excess(row);
            let verdict = match excess {
                ..1.0 => String::new(),
                ..MONOTONE => format!("{excess:.2}"),
                _ => format!("{excess:.2} !"),
            };
            let _ = writeln!(
                out,
                "{lines_per_s:>7} {p50_ms:>8.1} {p99_ms:>8.1} {first_p99_ms:>10.1} {apart_ms:>17.1} {cores:>13.2}   {verdict}"
            );
        }
        let _ = writeln!(out);
    }
    out
}
