//! Whether an attack did any harm.

use std::fmt;
use std::time::Duration;

use crate::crowd::{Healthy, Noticed};
use crate::server::Ended;

/// The relay may need so much memory at its peak.
const MEMORY_BYTES_MAX: u64 = 512 << 20;
/// The p99 of the healthy may grow by half or by so much, whichever is more: the attacker shares the cores.
const P99_SLACK_US: u64 = 20_000;
/// Figures are to be had within this time, whoever else asks for them.
const SCRAPE_MAX: Duration = Duration::from_secs(1);

/// What one attack did.
pub struct Verdict {
    pub name: &'static str,
    pub healthy: Healthy,
    pub ended: Ended,
    /// What the relay answered wrongly to the attack itself.
    pub wrong: Option<String>,
    /// How long `/metrics` took in the middle of the attack; None when it gave nothing.
    pub scrape: Option<Duration>,
}

pub const HEADING: &str =
    "attack               p50/p99 ms before     during      after   acked  newcomers    MiB  verdict";

impl Verdict {
    pub fn holds(&self) -> bool {
        self.failures().is_empty()
    }

    /// Every bar that was missed, in words.
    fn failures(&self) -> Vec<String> {
        let mut failures = Vec::new();
        let [before, during, after] = &self.healthy.phases;
        let quiet = p99(before);
        let bar = (quiet * 3 / 2).max(quiet + P99_SLACK_US);
        for (name, phase) in [("during", during), ("after", after)] {
            if p99(phase) > bar {
                failures.push(format!("p99 {name} {} ms, bar {} ms", p99(phase) / 1000, bar / 1000));
            }
            if phase.acked < phase.sent {
                failures.push(format!("{} of {} lines {name} not acked", phase.sent - phase.acked, phase.sent));
            }
            if phase.newcomers_failed > 0 {
                let Noticed { newcomers, newcomers_failed, .. } = phase;
                failures.push(format!("{newcomers_failed} of {newcomers} newcomers {name} not served"));
            }
        }
        if self.healthy.lost > 0 {
            failures.push(format!("{} deliveries of acked lines lost", self.healthy.lost));
        }
        if self.healthy.cut > 0 {
            failures.push(format!("{} healthy connections ended", self.healthy.cut));
        }
        if self.ended.peak_bytes > MEMORY_BYTES_MAX {
            failures.push(format!("{} MiB of memory, bar {} MiB", self.ended.peak_bytes >> 20, MEMORY_BYTES_MAX >> 20));
        }
        if self.scrape.is_none_or(|took| took > SCRAPE_MAX) {
            failures.push(format!("/metrics not answered within {} s", SCRAPE_MAX.as_secs()));
        }
        failures.extend(self.wrong.clone());
        failures.extend(self.ended.wrong.clone());
        if !failures.is_empty() {
            failures.extend(self.healthy.trouble.iter().take(3).cloned());
        }
        failures
    }
}

fn p99(noticed: &Noticed) -> u64 {
    noticed.deliveries.value_at_quantile(0.99)
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:20}", self.name)?;
        for phase in &self.healthy.phases {
            let ms = |quantile| phase.deliveries.value_at_quantile(quantile) as f64 / 1000.0;
            write!(f, " {:>10}", format!("{:.0}/{:.0}", ms(0.5), ms(0.99)))?;
        }
        let during = &self.healthy.phases[1];
        let acked = 100.0 * during.acked as f64 / during.sent.max(1) as f64;
        let served = during.newcomers - during.newcomers_failed;
        write!(
            f,
            " {acked:>6.1}% {:>10} {:>6}  ",
            format!("{served}/{}", during.newcomers),
            self.ended.peak_bytes >> 20
        )?;
        let failures = self.failures();
        if failures.is_empty() { f.write_str("pass") } else { write!(f, "FAIL: {}", failures.join("; ")) }
    }
}
