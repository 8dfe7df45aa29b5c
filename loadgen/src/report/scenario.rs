//! What a run had besides plain chat: pairs, slow readers, a storm.

use std::fmt::{self, Display, Formatter};

use super::text::met;
use super::{Check, Report, Series, count, group, none_of, time};
use crate::latency::Latencies;
use crate::run::Measured;
use crate::scenario::Scenario;

/// How much worse the p99 of those who stay may get in a storm.
const STORM_FACTOR: u64 = 2;

/// What became of those who dropped out.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Returned {
    pub dropped_out: u64,
    pub caught_up: u64,
    /// From the drop until all had everything again; absent when some did not come back.
    pub seconds: Option<f64>,
    /// The p99 of delivery of messages intended before the storm, and to those who stayed, of those intended in it.
    pub p99_before_ns: u64,
    pub p99_during_ns: u64,
}

impl Returned {
    /// What the storm did, if there was one.
    pub fn new(scenario: &Scenario, measured: &Measured) -> Option<Self> {
        let Latencies { delivery, delivery_storm, .. } = &measured.times;
        scenario.storm.map(|_| Self {
            dropped_out: measured.counts.dropped_out,
            caught_up: measured.counts.caught_up,
            seconds: measured.storm_s,
            p99_before_ns: delivery.p99_ns(),
            p99_during_ns: delivery_storm.p99_ns(),
        })
    }
}

/// The checks that only such a run has.
pub fn checks(scenario: &Scenario, measured: &Measured) -> Vec<Check> {
    let mut checks = Vec::new();
    let gaps = &measured.gaps;
    if gaps.announced > 0 || scenario.has_slow_readers() {
        let filled =
            format!("{} announced, {} messages, all in the history", group(gaps.announced), group(gaps.messages));
        let unfilled =
            [("gaps that the history does not fill", gaps.unfilled), ("messages missing in it", gaps.missing)];
        let found = none_of("gaps", &unfilled);
        let detail = match &gaps.failure {
            Some(why) => format!("the history could not be fetched: {why}"),
            None if gaps.announced == 0 || !found.holds => found.detail,
            None if measured.interrupted => format!("{} announced, the history was not asked", group(gaps.announced)),
            None => filled,
        };
        checks.push(Check { name: "gaps", holds: found.holds && gaps.failure.is_none(), detail });
    }
    let counts = &measured.counts;
    if scenario.storm.is_some() || counts.lost + counts.lost_announced > 0 {
        let (left, back) = (counts.dropped_out + counts.lost + counts.lost_announced, counts.caught_up);
        let detail = format!("{} lost, {} back and have everything", count(left, "connection"), group(back));
        checks.push(Check { name: "return", holds: measured.interrupted || left > 0 && left == back, detail });
    }
    checks
}

impl Display for Scenario {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let percent = |share: f64| format!("{} %", (share * 1e6).round() / 1e4);
        if self.pairs > 0 {
            writeln!(f, "pairs    {} rooms of two beside the others", group(self.pairs.into()))?;
        }
        if self.history > 0 || self.recent > 0 {
            let (history, recent) = (group(self.history.into()), self.recent);
            writeln!(f, "history  {history} lines before the others come; a join asks for the last {recent}")?;
        }
        if self.has_slow_readers() {
            let (slow, stalled, rate) = (percent(self.slow_share), percent(self.stalled_share), self.slow_bytes_per_s);
            writeln!(f, "slow     of the largest room {slow} read {} B/s, {stalled} stop reading", group(rate))?;
        }
        if let Some(storm) = &self.storm {
            let (share, at_s) = (percent(storm.share), storm.at_ns as f64 / 1e9);
            let ramp = storm.ramp.map_or("at once".to_owned(), |per_s| format!("at {}/s", group(per_s.into())));
            writeln!(f, "storm    {share} drop out {at_s} s into the measured window and come back {ramp}")?;
        }
        Ok(())
    }
}

impl Report {
    pub(super) fn write_scenario(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let pairs_target = self.run.targets.as_ref().and_then(|targets| targets.pairs_p99_ns);
        if let (Some(p99), Some(target)) = (p99_of(&self.latencies, "delivery_pairs"), pairs_target) {
            let met = met(p99 <= target);
            writeln!(f, "  pairs p99 {} (target {} beside a giant room) {met}", time(p99), time(target))?;
        }
        if let Some(slow) = &self.slow {
            let (gaps, skipped, unread) = (group(slow.gaps), group(slow.skipped), group(slow.unread));
            writeln!(
                f,
                "slow     {} slow and {} stalled readers: {gaps} gaps announced, {skipped} messages skipped",
                group(slow.slow),
                group(slow.stalled)
            )?;
            let (closed, cut_off) = (group(slow.closed), group(slow.cut_off));
            writeln!(
                f,
                "         {closed} closed by the server as too slow, {cut_off} more with no room left for the reason; {unread} messages unread"
            )?;
        }
        let Some(returned) = &self.returned else { return Ok(()) };
        let time_back = match returned.seconds {
            Some(seconds) => format!("all back and caught up after {seconds:.2} s"),
            None => format!("only {} came back and caught up", group(returned.caught_up)),
        };
        let (late, again) = (group(self.counts.sent_late), group(self.counts.republished));
        writeln!(
            f,
            "storm    {} dropped out, {time_back}; {late} messages sent late, {again} again",
            group(returned.dropped_out)
        )?;
        let (before, during) = (returned.p99_before_ns, returned.p99_during_ns);
        write!(f, "         p99 of those who stayed: {} before, {} during", time(before), time(during))?;
        match self.run.targets {
            Some(_) => writeln!(f, " (at most doubled) {}", met(during <= STORM_FACTOR * before)),
            None => writeln!(f),
        }
    }
}

fn p99_of(latencies: &[Series], name: &str) -> Option<u64> {
    Some(latencies.iter().find(|series| series.name == name)?.summary?.p99_ns)
}
