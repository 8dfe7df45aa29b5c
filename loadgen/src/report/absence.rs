//! Users that lost their connection and came back, or did not.

use std::fmt::{self, Formatter};

use super::{Report, count, group, time};
use crate::faults::Faults;
use crate::run::Measured;

/// Connections lost, but for those that a storm drops, and what became of their users.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Absences {
    /// After the server had said that it goes away.
    pub announced: u64,
    /// When every connection ended: the server had gone.
    pub with_all: u64,
    /// By themselves: each is an error.
    pub alone: u64,
    /// Back with everything; those of a storm too.
    pub caught_up: u64,
    /// Users that were not back when the run ended.
    pub gone: u64,
    /// Why attempts to come back failed: users and times by reason.
    pub attempts: Faults,
    /// Part of the users' time in the measured window that is in no time of the report.
    pub unmeasured: f64,
    /// Nobody came back for so long that the run was ended early.
    pub gave_up: bool,
}

impl Absences {
    /// What was seen.
    pub fn new(users: u32, duration_s: f64, measured: &Measured) -> Self {
        let counts = &measured.counts;
        Self {
            announced: counts.lost_announced,
            with_all: counts.outage,
            alone: counts.lost - counts.outage,
            caught_up: counts.caught_up,
            gone: counts.gone,
            attempts: measured.attempts.clone(),
            unmeasured: counts.absent_ns as f64 / 1e9 / (f64::from(users) * duration_s),
            gave_up: measured.gave_up,
        }
    }

    /// Connections lost in any way.
    pub fn lost(&self) -> u64 {
        self.announced + self.with_all + self.alone
    }
}

impl Report {
    pub(super) fn write_absences(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let absences = &self.absences;
        if absences.unmeasured > 0.0 {
            let percent = 100.0 * absences.unmeasured;
            writeln!(f, "  unmeasured: {percent:.1} % of the users' time, when they were away or caught up")?;
        }
        if absences.lost() == 0 {
            return Ok(());
        }
        let ways = [
            (absences.announced, "after the server's goodbye"),
            (absences.with_all, "when every connection ended"),
            (absences.alone, "alone"),
        ];
        let ways = ways.iter().filter(|(n, _)| *n > 0).map(|(n, how)| format!("{} {how}", group(*n)));
        let ways = ways.collect::<Vec<_>>().join(", ");
        writeln!(f, "away     {} lost: {ways}", count(absences.lost(), "connection"))?;
        if let Some(longest) = self.latencies.iter().find(|series| series.name == "absence").and_then(|s| s.summary) {
            let (median, longest) = (time(longest.p50_ns), time(longest.max_ns));
            writeln!(f, "         back with everything after {median} (half of them), {longest} (the last)")?;
        }
        for (reason, users) in absences.attempts.by_frequency().iter().take(5) {
            writeln!(f, "         {} could not come back at first: {reason}", count(*users, "user"))?;
        }
        Ok(())
    }
}
