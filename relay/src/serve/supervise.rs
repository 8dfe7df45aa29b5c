//! What the threads tell the main one, and what it does about it: wait for the end, and see that it comes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use flume::{Receiver, Sender};
use storage::StoreError;
use tracing::{error, info};
use uring::Wake;

use super::core::Stop;
use crate::config::Limits;
use crate::control::{Phase, View};
use crate::shard::Stats;

/// How long shards may take to start.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// A shard that does not end within the limit counts as hanging after so much longer.
const SHARD_GRACE: Duration = Duration::from_secs(5);

/// What the other threads tell the main one.
pub enum Report {
    Ready,
    Failed(String),
    Ended(Box<Stats>),
    /// The thread of a shard ended without a word.
    Gone(usize),
    /// A thread of this name panicked.
    Panicked(String),
    Signal,
    /// This process may never write to the store again.
    StoreLost(StoreError),
}

/// How the shards ended.
pub struct Outcome {
    pub stats: Stats,
    /// When stopping has taken as long as it may.
    pub until: Instant,
    /// Why it had to be, if not by a signal.
    pub failed: Option<anyhow::Error>,
}

/// Held by a shard's thread: tells if that ends in any way but the proper one.
pub struct Vital {
    shard: usize,
    reports: Sender<Report>,
    is_over: bool,
}

impl Vital {
    pub fn new(shard: usize, reports: Sender<Report>) -> Self {
        Self { shard, reports, is_over: false }
    }

    pub fn tell(&self, report: Report) {
        // Nobody asks any more when the relay could not start.
        let _ = self.reports.send(report);
    }

    /// It ends, and says how.
    pub fn end(mut self, report: Report) {
        self.tell(report);
        self.is_over = true;
    }
}

impl Drop for Vital {
    fn drop(&mut self) {
        if !self.is_over {
            self.tell(Report::Gone(self.shard));
        }
    }
}

/// A shard's part in the number of those that are not done yet. Dropped, it is done too, whatever ended it.
pub struct Running {
    count: Arc<AtomicUsize>,
    is_done: bool,
}

impl Running {
    /// For so many shards.
    pub fn all(shards: usize) -> Vec<Self> {
        let count = Arc::new(AtomicUsize::new(shards));
        (0..shards).map(|_| Self { count: count.clone(), is_done: false }).collect()
    }

    /// This shard is done.
    pub fn done(&mut self) {
        if !std::mem::replace(&mut self.is_done, true) {
            self.count.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// All are.
    pub fn is_over(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.done();
    }
}

/// Waits until all shards serve, and returns what [`supervise`] has to hear of first. `gone` says why a shard's thread
/// ended.
pub fn await_ready(
    reported: &Receiver<Report>,
    shards: usize,
    gone: impl FnOnce(usize) -> String,
) -> anyhow::Result<Option<Report>> {
    let mut ready = 0;
    let mut early = None;
    while ready < shards {
        match reported.recv_timeout(START_TIMEOUT) {
            Ok(Report::Ready) => ready += 1,
            Ok(Report::Failed(why)) => bail!("{why}"),
            Ok(Report::StoreLost(error)) => return Err(error.into()),
            Ok(Report::Gone(shard)) => bail!("{}", gone(shard)),
            Ok(report) => early = Some(report),
            Err(_) => bail!("a shard did not start within {} s", START_TIMEOUT.as_secs()),
        }
    }
    Ok(early)
}

/// Waits for a signal, the loss of the store or the end of a thread that must not end, then for the shards to stop,
/// within the limit.
pub fn supervise(
    reported: &Receiver<Report>,
    early: Option<Report>,
    limits: &Limits,
    stop: &Stop,
    wakes: &[Wake],
    view: &View,
) -> anyhow::Result<Outcome> {
    let limit = Duration::from_millis(limits.shutdown_timeout_ms);
    let mut early = early.into_iter();
    let mut ended = 0;
    let mut stats = Stats::default();
    let mut failed = None;
    let mut stopping: Option<Instant> = None;
    while ended < wakes.len() {
        let report = match (early.next(), stopping) {
            (Some(report), _) => report,
            (None, None) => reported.recv().context("all shards are gone")?,
            // Shards enforce the limit themselves; the rest is for one that hangs.
            (None, Some(since)) => match reported.recv_deadline(since + limit + SHARD_GRACE) {
                Ok(report) => report,
                Err(_) => bail!("stopping took longer than --shutdown-timeout-ms {}", limits.shutdown_timeout_ms),
            },
        };
        match report {
            Report::Ready => continue,
            Report::Ended(part) => {
                ended += 1;
                stats = stats + *part;
                continue;
            }
            Report::Failed(why) => bail!("{why}"),
            Report::Signal if stopping.is_some() => bail!("stopped at once by a second signal"),
            Report::Signal => info!("stopping"),
            Report::Gone(shard) => {
                ended += 1;
                failed.get_or_insert_with(|| cannot_go_on(&format!("shard-{shard}")));
            }
            Report::Panicked(thread) => {
                failed.get_or_insert_with(|| cannot_go_on(&thread));
                // The thread that would have said that something is stored.
                if ["append", "cql"].contains(&&*thread) {
                    stop.without_store.store(true, Ordering::Release);
                }
            }
            Report::StoreLost(error) => {
                failed.get_or_insert_with(|| error.into());
                stop.without_store.store(true, Ordering::Release);
            }
        }
        if let (Some(why), None) = (&failed, stopping) {
            error!("stopping: {why:#}");
        }
        view.enter(Phase::Stopping);
        stop.asked.store(true, Ordering::Release);
        stopping.get_or_insert_with(Instant::now);
        wakes.iter().for_each(Wake::wake);
    }
    Ok(Outcome { stats, until: stopping.unwrap_or_else(Instant::now) + limit, failed })
}

fn cannot_go_on(thread: &str) -> anyhow::Error {
    anyhow!("thread {thread} ended by itself, and the relay cannot go on without it")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of two shards that end when they are told to stop, after these reports.
    fn supervised(first: Vec<Report>, ended: usize) -> (anyhow::Result<Outcome>, Stop) {
        let (reports, reported) = flume::unbounded();
        let stop = Stop::default();
        let ends = (0..ended).map(|_| Report::Ended(Box::default()));
        for report in first.into_iter().chain(ends) {
            reports.send(report).unwrap();
        }
        let wakes = [Wake::new().unwrap(), Wake::new().unwrap()];
        (supervise(&reported, None, &Limits::defaults(), &stop, &wakes, &View::new(2)), stop)
    }

    fn flags(stop: &Stop) -> (bool, bool) {
        (stop.asked.load(Ordering::Acquire), stop.without_store.load(Ordering::Acquire))
    }

    #[test]
    fn a_lost_store_stops_the_shards_without_waiting_for_it_and_is_what_the_relay_ends_with() {
        let (outcome, stop) = supervised(vec![Report::StoreLost(StoreError::Closed)], 2);
        let failed = outcome.unwrap().failed.unwrap();
        assert!(matches!(failed.downcast(), Ok(StoreError::Closed)));
        assert_eq!(flags(&stop), (true, true));
    }

    #[test]
    fn a_signal_stops_the_shards_and_lets_them_wait_for_storage() {
        let (outcome, stop) = supervised(vec![Report::Signal], 2);
        assert!(outcome.unwrap().failed.is_none());
        assert_eq!(flags(&stop), (true, false));
    }

    #[test]
    fn a_thread_that_ends_by_itself_stops_the_relay_which_names_it() {
        let panicked = |name: &str| Report::Panicked(name.into());
        for (reports, ended, name, without_store) in [
            (vec![panicked("append")], 2, "append", true),
            (vec![panicked("read-1")], 2, "read-1", false),
            (vec![panicked("shard-0-1"), Report::Gone(0)], 1, "shard-0-1", false),
            (vec![Report::Gone(1)], 1, "shard-1", false),
        ] {
            let (outcome, stop) = supervised(reports, ended);
            let why = outcome.unwrap().failed.unwrap().to_string();
            assert!(why.contains(&format!("thread {name} ")), "{why}");
            assert_eq!(flags(&stop), (true, without_store), "{why}");
        }
    }
}
