//! What went wrong, by kind: connections refused or closed, replies that were errors, bytes nobody could read.

use std::collections::BTreeMap;

/// More kinds than this are counted together, so that a server's inventive texts cannot fill the report.
const KINDS_MAX: usize = 50;

/// A count for each kind of fault, in words for a person.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
#[serde(transparent)]
pub struct Faults(BTreeMap<String, u64>);

impl Faults {
    /// Counts a fault.
    pub fn count(&mut self, kind: String) {
        self.count_n(kind, 1);
    }

    /// Counts a fault so many times.
    pub fn count_n(&mut self, kind: String, n: u64) {
        if n > 0 {
            self.add_n(kind, n);
        }
    }

    /// Takes out all faults whose words begin like this, because they were to be expected, and returns how many.
    pub fn take(&mut self, beginning: &str) -> u64 {
        let before = self.total();
        self.0.retain(|kind, _| !kind.starts_with(beginning));
        before - self.total()
    }

    /// Adds another thread's faults.
    pub fn add(&mut self, other: Self) {
        other.0.into_iter().for_each(|(kind, n)| self.add_n(kind, n));
    }

    /// All faults together.
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// Kinds and counts, the most frequent first.
    pub fn by_frequency(&self) -> Vec<(&str, u64)> {
        let mut all: Vec<_> = self.0.iter().map(|(kind, &n)| (kind.as_str(), n)).collect();
        all.sort_by_key(|&(_, n)| std::cmp::Reverse(n));
        all
    }

    fn add_n(&mut self, kind: String, n: u64) {
        let full = self.0.len() >= KINDS_MAX && !self.0.contains_key(&kind);
        *self.0.entry(if full { "other".to_owned() } else { kind }).or_default() += n;
    }
}
