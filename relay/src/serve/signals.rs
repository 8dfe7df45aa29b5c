//! Signals, from the first moment on: a thread of their own waits for them.

use std::process::exit;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use flume::Sender;
use signal_hook::consts::{SIGALRM, SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2, SIGXFSZ};
use signal_hook::iterator::Signals;
use signal_hook::low_level::signal_name;
use tracing::info;

use super::supervise::Report;
use crate::log::{self, Throttle};

/// Signals to stop that come so soon after one another are one wish: `timeout` sends two, a terminal and a shell may too.
const SAME_WISH: Duration = Duration::from_secs(1);

/// Reports each wish to stop. While `opening` is set nobody could act on it: the process ends at once, and well, for
/// nobody was served yet and a store that is being opened can be opened again.
pub fn watch(reports: Sender<Report>, opening: Arc<AtomicBool>) -> anyhow::Result<()> {
    // A file that may not grow is like a disk that is full: the write that meets the limit fails, and that is enough.
    let ignored = [SIGHUP, SIGUSR1, SIGUSR2, SIGALRM, SIGXFSZ];
    let mut signals = Signals::new([SIGTERM, SIGINT].iter().chain(&ignored)).context("cannot wait for signals")?;
    thread::Builder::new().name("signals".into()).spawn(move || {
        let mut wish: Option<Instant> = None;
        let ignored = Throttle::default();
        for signal in signals.forever() {
            match signal {
                SIGTERM | SIGINT if wish.is_some_and(|at| at.elapsed() < SAME_WISH) => {}
                SIGTERM | SIGINT => {
                    wish = Some(Instant::now());
                    if opening.load(Ordering::Acquire) {
                        info!("stopped while starting");
                        log::finish();
                        exit(0);
                    }
                    let _ = reports.send(Report::Signal);
                }
                other => {
                    if ignored.pass().is_some() {
                        info!("{}: nothing to do, the relay goes on", signal_name(other).unwrap_or("a signal"));
                    }
                }
            }
        }
    })?;
    Ok(())
}
