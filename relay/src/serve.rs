//! What drives the shards: threads, rings, lanes, signals. The only place that knows a runtime.

mod admission;
mod core;
mod watchdog;

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use flume::Receiver;
use glommio::{LocalExecutorBuilder, Placement};
use storage::{Store, StoreError};
use uring::{Config, Ring, Wake};

pub use self::admission::Capacity;
use self::core::{Core, Links, Stop};
use self::watchdog::Turns;
use crate::config::Limits;
use crate::deflation;
use crate::metrics;
use crate::persist::{self, Counts, ReplyTo};
use crate::shard::{Setup, Stats};

/// What a relay is started with.
pub struct Plan {
    pub listen: SocketAddr,
    pub store: Arc<dyn Store>,
    pub shards: usize,
    pub node: u16,
    pub limits: Limits,
    /// Serve only `/echo`.
    pub echo: bool,
    /// Where `/metrics` is served.
    pub metrics: Option<SocketAddr>,
}

/// Batches that a lane between two shards holds; more wait in the sender's outbox.
const LANE_BATCHES: usize = 256;
/// Connections that may wait to be handed to another shard.
const HANDOVERS_MAX: usize = 1024;

/// A ring to see whether the kernel gives any.
const PROBE: Config = Config { sockets: 8, recv_buffers: 8, recv_buffer_bytes: 64, queue_entries: 8 };
/// When an executor's only task, a shard that never yields, would be asked to. glommio's default is 100 ms: an executor
/// whose thread loses its CPU for so long before it first ran its task takes itself for idle, and sleeps for ever.
const PREEMPT: Duration = Duration::from_hours(24);
/// How long a start waits for an address that is in use.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(3);
/// How long shards may take to start.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// A shard that does not end within the limit counts as hanging after so much longer.
const SHARD_GRACE: Duration = Duration::from_secs(5);
/// The storage threads have at least so long to end after the shards, and the store to be closed.
const STORE_GRACE: Duration = Duration::from_millis(500);

/// What the shards' threads tell the main one.
enum Report {
    Ready,
    Failed(String),
    Ended(Stats),
    Signal,
    /// This process may never write to the store again.
    StoreLost(StoreError),
}

/// How the shards ended.
struct Outcome {
    stats: Stats,
    /// When stopping has taken as long as it may.
    until: Instant,
    lost: Option<StoreError>,
}

/// Runs a relay until SIGTERM or SIGINT, or until it loses its store; `ready` is called with its address once it accepts.
pub fn run(plan: Plan, ready: impl FnOnce(SocketAddr, &Capacity)) -> anyhow::Result<()> {
    let capacity = Capacity::new(&plan.limits, plan.shards)?;
    let (address, listeners) = listen(&plan)?;
    let wakes =
        (0..plan.shards).map(|_| Wake::new()).collect::<Result<Vec<_>, _>>().context("cannot make an eventfd")?;
    let (reply_to, mut replies): (Vec<_>, Vec<_>) = wakes
        .iter()
        .map(|wake| {
            let (replies, incoming) = flume::unbounded();
            (ReplyTo { replies, wake: wake.clone() }, Some(incoming))
        })
        .unzip();
    let (reports, reported) = flume::unbounded();
    let on_lost = reports.clone();
    let on_lost = move |error| drop(on_lost.send(Report::StoreLost(error)));
    let (persist, threads, ids_after_ms) =
        persist::start(&plan.store, plan.limits.tail_messages_max, &reply_to, on_lost)?;
    let turns = Arc::new(Turns::new(plan.shards));
    serve_metrics(&plan, threads.counts(), turns.clone())?;
    // Here, where a refusal can be told: the executors' threads would die of it silently.
    Ring::new(PROBE, &wakes[0])?;
    let stop = Arc::new(Stop::default());
    let running = Arc::new(AtomicUsize::new(plan.shards));
    let mut links = Links::mesh(&wakes, LANE_BATCHES, HANDOVERS_MAX);
    let cores = core_ids(plan.shards);
    let nonce = fastrand::u64(..);
    for (shard, listener) in listeners.into_iter().enumerate() {
        let setup = Setup {
            shard,
            shards: plan.shards,
            node: plan.node,
            ids_after_ms,
            limits: plan.limits.clone(),
            echo: plan.echo,
            period_us: None,
            deflate_members_min: deflation::MEMBERS_MIN,
            nonce,
            seed: fastrand::u64(..),
        };
        let parts = core::Parts {
            setup,
            listener,
            capacity,
            links: links.remove(0),
            persist: persist.clone(),
            replies: replies[shard].take().expect("each shard has its replies"),
            stop: stop.clone(),
            running: running.clone(),
            turns: turns.clone(),
        };
        let reports = reports.clone();
        LocalExecutorBuilder::new(cores.get(shard).map_or(Placement::Unbound, |&core| Placement::Fixed(core)))
            .name(&format!("shard-{shard}"))
            .io_memory(64 * 1024)
            .preempt_timer(PREEMPT)
            .spawn(move || async move {
                let report = match Core::new(parts) {
                    Ok(core) => {
                        let _ = reports.send(Report::Ready);
                        Report::Ended(core.run())
                    }
                    Err(error) => Report::Failed(error.to_string()),
                };
                let _ = reports.send(report);
            })
            .map_err(|error| anyhow::anyhow!("cannot start a shard: {error}; {IO_URING_HINT}"))?;
    }
    drop(persist);
    signals(reports)?;
    await_ready(&reported, plan.shards)?;
    ready(address, &capacity);
    watchdog::watch(&turns)?;
    let Outcome { stats, until, lost } = supervise(&reported, &plan, &stop, &wakes)?;
    let until = until.max(Instant::now() + STORE_GRACE);
    threads.stop(until);
    close(plan.store, until);
    eprintln!("relay: stopped; {stats:?}");
    lost.map_or(Ok(()), |error| Err(error.into()))
}

/// Closes the store: it may have something to tell a database that does not answer.
fn close(store: Arc<dyn Store>, until: Instant) {
    let (open, closed) = flume::bounded::<()>(0);
    std::thread::spawn(move || {
        drop(store);
        drop(open);
    });
    // Disconnected when it is closed; whatever is left to do at the time limit ends with the process.
    let _ = closed.recv_deadline(until);
}

/// What to do where the kernel has no `io_uring` for us.
const IO_URING_HINT: &str = "the relay needs Linux 6.1 or newer with io_uring allowed (sysctl kernel.io_uring_disabled=0, and a container profile that permits io_uring_setup, io_uring_enter and io_uring_register) and 1 MiB of locked memory a shard (ulimit -l)";

fn serve_metrics(plan: &Plan, counts: Arc<Counts>, turns: Arc<Turns>) -> anyhow::Result<()> {
    let Some(address) = plan.metrics else { return Ok(()) };
    // The store is closed when the relay ends, whatever this thread does.
    let store = Arc::downgrade(&plan.store);
    let figures = move || {
        let mut figures = counts.metrics();
        figures.extend(turns.metrics());
        figures.extend(store.upgrade().iter().flat_map(|store| store.metrics()));
        figures
    };
    let taken =
        metrics::serve(address, figures).with_context(|| format!("--metrics {address}: cannot listen there"))?;
    eprintln!("metrics on http://{taken}/metrics");
    Ok(())
}

/// One listener a shard, on one address: the kernel spreads connections over them.
fn listen(plan: &Plan) -> anyhow::Result<(SocketAddr, Vec<TcpListener>)> {
    let taken = || format!("--listen {}: cannot listen there", plan.listen);
    let probe = probe(plan.listen).with_context(taken)?;
    let address = probe.local_addr()?;
    drop(probe);
    let listeners = (0..plan.shards)
        .map(|_| uring::listener(address, 65_535, true, Some(plan.limits.send_buffer_bytes)))
        .collect::<Result<_, _>>()
        .with_context(taken)?;
    Ok((address, listeners))
}

/// Binds without `SO_REUSEPORT`, so that a second relay on this address is refused instead of sharing it. A relay that
/// was killed a moment ago may still hold it: the kernel takes its rings apart after the process has ended.
fn probe(address: SocketAddr) -> std::io::Result<TcpListener> {
    let until = Instant::now() + ADDRESS_TIMEOUT;
    loop {
        match uring::listener(address, 1, false, None) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(20));
            }
            done => return done,
        }
    }
}

/// The cores this process may use, if there is one for each shard.
fn core_ids(shards: usize) -> Vec<usize> {
    let Ok(set) = rustix::thread::sched_getaffinity(None) else { return Vec::new() };
    let cores: Vec<usize> = (0..rustix::thread::CpuSet::MAX_CPU).filter(|&core| set.is_set(core)).collect();
    if cores.len() < shards { Vec::new() } else { cores }
}

fn signals(reports: flume::Sender<Report>) -> anyhow::Result<()> {
    let mut signals = signal_hook::iterator::Signals::new([signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT])?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        for _ in signals.forever() {
            if reports.send(Report::Signal).is_err() {
                return;
            }
        }
    })?;
    Ok(())
}

fn await_ready(reported: &Receiver<Report>, shards: usize) -> anyhow::Result<()> {
    for _ in 0..shards {
        let report = reported.recv_timeout(START_TIMEOUT);
        match report.map_err(|_| anyhow::anyhow!("a shard did not start; {IO_URING_HINT}"))? {
            Report::Ready => {}
            Report::Failed(why) => bail!("{why}"),
            Report::StoreLost(error) => return Err(error.into()),
            Report::Ended(_) | Report::Signal => bail!("stopped while starting"),
        }
    }
    Ok(())
}

/// Waits for a signal or the loss of the store, then for the shards to stop, within the limit.
fn supervise(reported: &Receiver<Report>, plan: &Plan, stop: &Stop, wakes: &[Wake]) -> anyhow::Result<Outcome> {
    let limit = Duration::from_millis(plan.limits.shutdown_timeout_ms);
    let mut ended = 0;
    let mut stats = Stats::default();
    let mut lost = None;
    let mut stopping: Option<Instant> = None;
    while ended < plan.shards {
        let report = match stopping {
            None => reported.recv().context("all shards are gone")?,
            // Shards enforce the limit themselves; the rest is for one that hangs.
            Some(since) => match reported.recv_deadline(since + limit + SHARD_GRACE) {
                Ok(report) => report,
                Err(_) => bail!("stopping took longer than --shutdown-timeout-ms {}", plan.limits.shutdown_timeout_ms),
            },
        };
        match report {
            Report::Signal if stopping.is_some() => bail!("stopped at once by a second signal"),
            Report::Signal => {
                eprintln!("relay: stopping");
                stop.asked.store(true, Ordering::Release);
            }
            Report::StoreLost(error) => {
                eprintln!("relay: stopping, for nothing can be stored any more");
                lost = Some(error);
                stop.without_store.store(true, Ordering::Release);
                stop.asked.store(true, Ordering::Release);
            }
            Report::Ended(part) => {
                ended += 1;
                stats = stats + part;
                continue;
            }
            Report::Failed(why) => bail!("{why}"),
            Report::Ready => continue,
        }
        stopping.get_or_insert_with(Instant::now);
        wakes.iter().for_each(Wake::wake);
    }
    Ok(Outcome { stats, until: stopping.unwrap_or_else(Instant::now) + limit, lost })
}

#[cfg(test)]
mod tests {
    use storage::MemoryStore;

    use super::*;

    /// Two shards that end when they are told to stop, after `first` was reported.
    fn supervised(first: Report) -> (anyhow::Result<Outcome>, Stop) {
        let plan = Plan {
            listen: ([127, 0, 0, 1], 0).into(),
            store: Arc::new(MemoryStore::default()),
            shards: 2,
            node: 0,
            limits: Limits::defaults(),
            echo: false,
            metrics: None,
        };
        let (reports, reported) = flume::unbounded();
        let stop = Stop::default();
        for report in [first, Report::Ended(Stats::default()), Report::Ended(Stats::default())] {
            reports.send(report).unwrap();
        }
        (supervise(&reported, &plan, &stop, &[Wake::new().unwrap()]), stop)
    }

    #[test]
    fn a_lost_store_stops_the_shards_without_waiting_for_it_and_is_what_the_relay_ends_with() {
        let (outcome, stop) = supervised(Report::StoreLost(StoreError::Closed));
        assert!(matches!(outcome.unwrap().lost, Some(StoreError::Closed)));
        assert!(stop.asked.load(Ordering::Acquire) && stop.without_store.load(Ordering::Acquire));
    }

    #[test]
    fn a_signal_stops_the_shards_and_lets_them_wait_for_storage() {
        let (outcome, stop) = supervised(Report::Signal);
        assert!(outcome.unwrap().lost.is_none());
        assert!(stop.asked.load(Ordering::Acquire) && !stop.without_store.load(Ordering::Acquire));
    }
}
