//! What the control thread knows of the relay.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use storage::{Metric, Store};

use crate::figures::All;
use crate::log;
use crate::metrics::{self, Family};
use crate::persist::Counts;
use crate::serve::Turns;

/// A shard that did not turn for so long serves nobody; it turns ten times a second when nothing happens.
const TURN_AGE_MAX: Duration = Duration::from_secs(2);
/// One that did not turn for so long will not by itself.
const TURN_AGE_DEAD: Duration = Duration::from_secs(30);
/// An append that waits longer says that the store does not answer.
const APPEND_AGE_MAX: Duration = Duration::from_secs(3);

/// What the relay is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    Starting,
    Serving,
    Stopping,
}

/// Everything that others may see of the relay, while it runs.
pub struct View {
    pub turns: Arc<Turns>,
    pub figures: All,
    phase: AtomicU8,
    store: OnceLock<(Weak<dyn Store>, Arc<Counts>)>,
}

impl View {
    pub fn new(shards: usize) -> Self {
        Self {
            turns: Arc::new(Turns::new(shards)),
            figures: All::new(shards),
            phase: AtomicU8::new(Phase::Starting as u8),
            store: OnceLock::new(),
        }
    }

    pub fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    /// The store is open. It is closed when the relay ends, whoever looks at it.
    pub fn opened(&self, store: &Arc<dyn Store>, counts: Arc<Counts>) {
        let _ = self.store.set((Arc::downgrade(store), counts));
    }

    fn is_in(&self, phase: Phase) -> bool {
        self.phase.load(Ordering::Relaxed) == phase as u8
    }

    /// Whether the process does what it is there for, or is on its way to it.
    pub fn health(&self) -> Result<(), String> {
        self.stuck(TURN_AGE_DEAD).map_or(Ok(()), Err)
    }

    /// Whether clients should be sent here.
    pub fn ready(&self) -> Result<(), String> {
        if !self.is_in(Phase::Serving) {
            return Err(if self.is_in(Phase::Starting) { "starting" } else { "stopping" }.into());
        }
        if let Some(why) = self.stuck(TURN_AGE_MAX) {
            return Err(why);
        }
        let waits = self.store.get().and_then(|(_, counts)| counts.oldest()).filter(|age| *age > APPEND_AGE_MAX);
        waits.map_or(Ok(()), |age| Err(format!("the store has not answered for {:.1} s", age.as_secs_f64())))
    }

    fn stuck(&self, age_max: Duration) -> Option<String> {
        let (shard, age) = self.turns.stillest().filter(|(_, age)| *age > age_max)?;
        Some(format!("shard {shard} has not turned for {:.1} s", age.as_secs_f64()))
    }

    /// Everything, for `/metrics`.
    pub fn families(&self) -> Vec<Family> {
        let mut families = self.figures.families();
        for figure in self.turns.metrics() {
            metrics::add(&mut families, figure.into());
        }
        if let Some((store, counts)) = self.store.get() {
            families.extend(counts.metrics().into_iter().map(Family::from));
            families.extend(store.upgrade().iter().flat_map(|store| store.metrics()).map(Family::from));
        }
        let (name, help) = ("relay_log_lines_lost_total", "Lines of the log that nobody took.");
        families.push(Metric::counter(name, help, log::lost()).into());
        families
    }
}

#[cfg(test)]
mod tests {
    use storage::MemoryStore;

    use super::*;

    #[test]
    fn ready_is_who_serves_and_turns_and_whose_store_answers() {
        let view = View::new(2);
        assert_eq!(view.ready(), Err("starting".into()));
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let counts = Arc::new(Counts::default());
        view.opened(&store, counts.clone());
        view.enter(Phase::Serving);
        assert_eq!(view.ready(), Ok(()));
        assert!(counts.oldest().is_none());
        view.enter(Phase::Stopping);
        assert_eq!((view.ready(), view.health()), (Err("stopping".into()), Ok(())));
    }
}
