//! What is shown while a run goes on: a bar on a terminal, else a line now and then. On standard error.

use std::fmt::Write;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::cli;
use crate::report::count;
use crate::world::World;

/// Time between two lines without a terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Shows how a run goes.
pub struct Progress {
    shown: Shown,
    stage: &'static str,
    before: Snapshot,
}

enum Shown {
    Bar(ProgressBar),
    Lines { next: Instant },
    Nothing,
}

/// Totals at a moment, for rates between two.
#[derive(Clone, Copy)]
struct Snapshot {
    at: Instant,
    sent: u64,
    delivered: u64,
    lost: u64,
}

impl Progress {
    /// Progress as asked for on the command line.
    pub fn new(mode: cli::Progress) -> Self {
        let shown = match mode {
            cli::Progress::None => Shown::Nothing,
            cli::Progress::Auto if std::io::stderr().is_terminal() => Shown::Bar(bar()),
            cli::Progress::Auto | cli::Progress::Plain => Shown::Lines { next: Instant::now() },
        };
        Self { shown, stage: "", before: Snapshot { at: Instant::now(), sent: 0, delivered: 0, lost: 0 } }
    }

    /// Shows that `done` of `of` (any unit) of a stage are done. Cheap to call often.
    pub fn show(&mut self, world: &World, stage: &'static str, done: u64, of: u64) {
        let entered = std::mem::replace(&mut self.stage, stage) != stage;
        let since = self.before.at.elapsed();
        let due = match &self.shown {
            Shown::Nothing => return,
            Shown::Bar(_) => since >= Duration::from_millis(500),
            // Bad news is shown within a second.
            Shown::Lines { next } => {
                let lost = world.total(|gauges| &gauges.lost);
                Instant::now() >= *next || lost > self.before.lost && since >= Duration::from_secs(1)
            }
        };
        if !due && !entered {
            return;
        }
        let text = self.line(world, since);
        match &mut self.shown {
            Shown::Bar(bar) => {
                bar.set_length(of);
                bar.set_position(done.min(of));
                bar.set_prefix(stage);
                bar.set_message(text);
            }
            Shown::Lines { next } => {
                *next = Instant::now() + LINE_EVERY;
                let percent = (done.min(of) * 100).checked_div(of).unwrap_or(100);
                eprintln!("{stage:<8} {percent:>3} %  {text}");
            }
            Shown::Nothing => {}
        }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Shown::Bar(bar) = &self.shown {
            bar.finish_and_clear();
        }
    }

    fn line(&mut self, world: &World, since: Duration) -> String {
        let now = Snapshot {
            at: Instant::now(),
            sent: world.total(|gauges| &gauges.sent),
            delivered: world.total(|gauges| &gauges.delivered),
            lost: world.total(|gauges| &gauges.lost),
        };
        let before = std::mem::replace(&mut self.before, now);
        let per_s = |now: u64, before: u64| (now - before) as f64 / since.as_secs_f64().max(1e-3);
        let p99_ms = world.highest(|gauges| &gauges.p99_ns) as f64 / 1e6;
        let (joined, connected) = (world.total(|gauges| &gauges.joined), world.total(|gauges| &gauges.connected));
        let mut text = count(connected, "user");
        if now.lost > 0 {
            let _ = write!(text, ", {}", count(now.lost, "lost connection"));
        }
        if now.sent > 0 && connected < joined {
            let _ = write!(text, ", {} away or reconnecting", joined - connected);
        }
        if world.total(|gauges| &gauges.rate_limited) > 0 {
            text.push_str(", rate limited by the server");
        }
        if now.sent > 0 {
            let (sent, delivered) = (per_s(now.sent, before.sent), per_s(now.delivered, before.delivered));
            let _ = write!(text, ", {sent:.0} sent/s, {delivered:.0} deliveries/s");
        }
        // Of those who are gone it says nothing.
        if p99_ms > 0.0 && connected > 0 {
            let _ = write!(text, ", p99 so far {p99_ms:.1} ms");
        }
        text
    }
}

fn bar() -> ProgressBar {
    let bar = ProgressBar::new(1);
    let style = ProgressStyle::with_template("{prefix:<8} [{bar:30}] {percent:>3} %  {msg}");
    bar.set_style(style.expect("the template is a constant").progress_chars("=> "));
    bar
}
