//! What drives the shards: threads, rings, lanes, signals. The only place that knows a runtime.

mod admission;
mod core;
mod machine;
mod signals;
mod supervise;
mod watchdog;

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use glommio::{ExecutorJoinHandle, LocalExecutorBuilder, Placement};
use protocol::{centrifuge, native};
use storage::Store;
use tracing::{info, warn};
use uring::Wake;

use self::admission::Capacity;
use self::core::{Core, Links, Parts, Stop};
use self::supervise::{Outcome, Report, Running, Vital, await_ready, supervise};
pub use self::watchdog::Turns;
use crate::budget::Budget;
use crate::config::Limits;
use crate::control::{self, Phase, View};
use crate::deflation;
use crate::log;
use crate::persist::{self, ReplyTo};
use crate::room::Most;
use crate::shard::Setup;
use crate::store::Opened;

/// What a relay is started with.
pub struct Plan {
    pub listen: SocketAddr,
    pub shards: usize,
    pub node: u16,
    pub limits: Limits,
    /// Serve only `/echo`.
    pub echo: bool,
    /// Where the control thread serves HTTP.
    pub control: Option<SocketAddr>,
}

/// Batches that a lane between two shards holds; more wait in the sender's outbox.
const LANE_BATCHES: usize = 256;
/// Connections that may wait to be handed to another shard.
const HANDOVERS_MAX: usize = 1024;

/// When an executor's only task, a shard that never yields, would be asked to. glommio's default is 100 ms: an executor
/// whose thread loses its CPU for so long before it first ran its task takes itself for idle, and sleeps for ever.
const PREEMPT: Duration = Duration::from_hours(24);
/// How long a start waits for an address that is in use.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(3);
/// The storage threads have at least so long to end after the shards, and the store to be closed.
const STORE_GRACE: Duration = Duration::from_millis(500);

/// Runs a relay with the store that `open` opens, until SIGTERM or SIGINT, or until it cannot go on. What would keep it
/// from starting is looked for before the store is opened.
pub fn run(plan: &Plan, open: impl FnOnce() -> anyhow::Result<Opened>) -> anyhow::Result<()> {
    let (reports, reported) = flume::unbounded();
    let on_panic = reports.clone();
    log::on_panic(move |thread| drop(on_panic.send(Report::Panicked(thread))));
    let opening = Arc::new(AtomicBool::new(true));
    signals::watch(reports.clone(), opening.clone())?;

    let capacity = Capacity::new(&plan.limits, plan.shards)?;
    drop(probe(plan.listen)?);
    let view = Arc::new(View::new(plan.shards));
    let control = bind_control(plan.control)?;
    let wakes =
        (0..plan.shards).map(|_| Wake::new()).collect::<Result<Vec<_>, _>>().context("cannot make an eventfd")?;
    machine::check(&capacity, &wakes[0])?;
    control::start(control, view.clone()).context("cannot start the control thread")?;
    let Opened { store, kept, warnings } = open()?;
    opening.store(false, Ordering::Release);

    let (reply_to, replies): (Vec<_>, Vec<_>) = wakes
        .iter()
        .map(|wake| {
            let (replies, incoming) = flume::unbounded();
            (ReplyTo { replies, wake: wake.clone() }, incoming)
        })
        .unzip();
    let on_lost = reports.clone();
    let on_lost = move |error| drop(on_lost.send(Report::StoreLost(error)));
    let tail_max = Most { messages: plan.limits.tail_messages_max, bytes: plan.limits.tail_bytes_max };
    let (persist, threads, ids_after_ms) = persist::start(&store, tail_max, &reply_to, on_lost)?;
    view.opened(&store, threads.counts());
    let stop = Arc::new(Stop::default());
    let (address, listeners) = listen(plan)?;
    let links = Links::mesh(&wakes, LANE_BATCHES, HANDOVERS_MAX);
    let nonce = fastrand::u64(..);
    let budget = Budget::new(&plan.limits, plan.shards);
    let mut handles = Vec::new();
    for (shard, (((listener, links), replies), running)) in
        listeners.into_iter().zip(links).zip(replies).zip(Running::all(plan.shards)).enumerate()
    {
        let setup = Setup {
            shard,
            shards: plan.shards,
            node: plan.node,
            ids_after_ms,
            limits: plan.limits.clone(),
            budget: budget.clone(),
            echo: plan.echo,
            period_us: None,
            deflate_members_min: deflation::MEMBERS_MIN,
            nonce,
            seed: fastrand::u64(..),
        };
        let (persist, stop) = (persist.clone(), stop.clone());
        let (figures, turns) = (view.figures.of(shard), view.turns.clone());
        let parts = Parts { setup, listener, capacity, links, persist, replies, stop, running, figures, turns };
        handles.push(Some(spawn(parts, reports.clone())?));
    }
    drop(persist);
    let gone = |shard: usize| match handles[shard].take().map(ExecutorJoinHandle::join) {
        Some(Err(error)) => format!("shard {shard} did not start: {error}"),
        _ => format!("shard {shard} did not start"),
    };
    let early = await_ready(&reported, plan.shards, gone)?;
    view.enter(Phase::Serving);
    watchdog::watch(&view.turns)?;
    tell(plan, address, capacity, &kept, &warnings);
    let Outcome { stats, until, failed } = supervise(&reported, early, &plan.limits, &stop, &wakes, &view)?;
    let until = until.max(Instant::now() + STORE_GRACE);
    threads.stop(until);
    close(store, until);
    info!("stopped; {stats:?}");
    failed.map_or(Ok(()), Err)
}

/// Starts the thread of a shard, on a core of its own if there are enough.
fn spawn(parts: Parts, reports: flume::Sender<Report>) -> anyhow::Result<ExecutorJoinHandle<()>> {
    let shard = parts.setup.shard;
    let core = core_ids(parts.setup.shards).get(shard).copied();
    let vital = Vital::new(shard, reports);
    LocalExecutorBuilder::new(core.map_or(Placement::Unbound, Placement::Fixed))
        .name(&format!("shard-{shard}"))
        .io_memory(64 * 1024)
        .preempt_timer(PREEMPT)
        .spawn(move || async move {
            let report = match Core::new(parts) {
                Ok(core) => {
                    vital.tell(Report::Ready);
                    Report::Ended(core.run().into())
                }
                Err(error) => Report::Failed(error.to_string()),
            };
            vital.end(report);
        })
        .map_err(|error| anyhow::anyhow!("cannot start a shard: {error}"))
}

/// Says where the relay is and what it has, once it serves.
fn tell(plan: &Plan, address: SocketAddr, capacity: Capacity, kept: &str, warnings: &[String]) {
    info!("relay {}: {} shards, {kept}", env!("CARGO_PKG_VERSION"), plan.shards);
    for warning in warnings {
        warn!("{warning}");
    }
    let cores = std::thread::available_parallelism().map_or(plan.shards, NonZero::get);
    if plan.shards > cores {
        warn!("{} shards share {cores} cores; each should have one of its own (--shards)", plan.shards);
    }
    if plan.echo {
        return info!("listening on {address}, ws://{address}/echo");
    }
    info!("capacity: {capacity}");
    info!("native ws://{address}{} · Centrifuge ws://{address}{}", native::PATH, centrifuge::PATH);
    info!("listening on {address}");
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

fn bind_control(address: Option<SocketAddr>) -> anyhow::Result<Option<TcpListener>> {
    let Some(address) = address else { return Ok(None) };
    let bound = control::bind(address).and_then(|listener| Ok((listener.local_addr()?, listener)));
    let (taken, listener) = bound.with_context(|| format!("--control {address}: cannot listen there"))?;
    info!("control on http://{taken} (/metrics, /healthz, /readyz)");
    Ok(Some(listener))
}

/// One listener a shard, on one address: the kernel spreads connections over them.
fn listen(plan: &Plan) -> anyhow::Result<(SocketAddr, Vec<TcpListener>)> {
    let probe = probe(plan.listen)?;
    let address = probe.local_addr()?;
    drop(probe);
    let listeners = (0..plan.shards)
        .map(|_| uring::listener(address, 65_535, true, Some(plan.limits.send_buffer_bytes)))
        .collect::<Result<_, _>>()
        .with_context(|| cannot_listen(plan.listen))?;
    Ok((address, listeners))
}

/// Binds without `SO_REUSEPORT`, so that a second relay on this address is refused instead of sharing it. A relay that
/// was killed a moment ago may still hold it: the kernel takes its rings apart after the process has ended.
fn probe(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let until = Instant::now() + ADDRESS_TIMEOUT;
    loop {
        match uring::listener(address, 1, false, None) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(20));
            }
            done => return done.with_context(|| cannot_listen(address)),
        }
    }
}

fn cannot_listen(address: SocketAddr) -> String {
    format!("--listen {address}: cannot listen there")
}

/// The cores this process may use, if there is one for each shard.
fn core_ids(shards: usize) -> Vec<usize> {
    let Ok(set) = rustix::thread::sched_getaffinity(None) else { return Vec::new() };
    let cores: Vec<usize> = (0..rustix::thread::CpuSet::MAX_CPU).filter(|&core| set.is_set(core)).collect();
    if cores.len() < shards { Vec::new() } else { cores }
}
