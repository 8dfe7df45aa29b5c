//! A store for simulations that fails where its caller says, and loses in a crash what was never promised.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{Append, LogState, MemoryStore, Record, Store, StoreError};

/// What a failing append leaves behind. The caller of `append` sees the same error each time: outcome unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing was stored.
    Lost,
    /// All of it is durable; only the answer got lost.
    Stored,
    /// The first so many of the call's [`Append`]s are durable, the others are lost.
    Partial(usize),
    /// Written but not synced: unseen by readers until repeated; [`FaultyStore::crash`] decides what remains.
    Unsynced,
}

/// A [`MemoryStore`] with faults. It has no randomness of its own: a seeded caller makes seeded faults.
///
/// An append that returned Ok is durable and survives every [`crash`](Self::crash).
#[derive(Debug)]
pub struct FaultyStore {
    durable: MemoryStore,
    plan: Mutex<Plan>,
}

#[derive(Debug, Default)]
struct Plan {
    appends: VecDeque<Option<Fault>>,
    reads: usize,
    down: bool,
    unsynced: Vec<Append>,
}

impl FaultyStore {
    /// An empty store without planned faults whose logs get this epoch.
    pub fn new(epoch: u64) -> Self {
        Self { durable: MemoryStore::new(epoch), plan: Mutex::default() }
    }

    /// Plans the outcome of the append after those already planned: `None` lets one succeed.
    pub fn plan_append(&self, fault: Option<Fault>) {
        self.plan().appends.push_back(fault);
    }

    /// Lets the next `count` calls of `open_log`, `read` and `reserved_ids` fail.
    pub fn fail_reads(&self, count: usize) {
        self.plan().reads = count;
    }

    /// While down, everything fails and nothing is stored.
    pub fn set_down(&self, down: bool) {
        self.plan().down = down;
    }

    /// Forgets these durable records of a log, as if their time had passed.
    pub fn expire(&self, room: &str, seqs: Range<u64>) {
        self.durable.expire(room, seqs);
    }

    /// The process died and comes back: planned faults are forgotten, unsynced appends remain only where `keep` says
    /// so (and only if they still continue their log). Returns how many remained.
    pub fn crash(&self, mut keep: impl FnMut(&Append) -> bool) -> usize {
        let unsynced = std::mem::take(&mut *self.plan()).unsynced;
        unsynced
            .iter()
            .filter(|append| keep(append) && self.durable.append(std::slice::from_ref(append)).is_ok())
            .count()
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_read(&self) -> Result<(), StoreError> {
        let mut plan = self.plan();
        if plan.down || plan.reads > 0 {
            plan.reads = plan.reads.saturating_sub(1);
            return Err(injected());
        }
        Ok(())
    }
}

fn injected() -> StoreError {
    StoreError::Io(std::io::Error::other("injected by the simulation"))
}

impl Store for FaultyStore {
    fn open_log(&self, room: &str) -> Result<LogState, StoreError> {
        self.check_read()?;
        self.durable.open_log(room)
    }

    fn append(&self, appends: &[Append]) -> Result<(), StoreError> {
        let mut plan = self.plan();
        if plan.down {
            return Err(injected());
        }
        let fault = plan.appends.pop_front().flatten();
        let durable = match fault {
            None | Some(Fault::Stored) => appends,
            Some(Fault::Partial(count)) => &appends[..count.min(appends.len())],
            Some(Fault::Lost | Fault::Unsynced) => &[],
        };
        self.durable.append(durable)?;
        plan.unsynced.retain(|old| durable.iter().all(|new| new.room != old.room));
        if fault == Some(Fault::Unsynced) {
            plan.unsynced.retain(|old| appends.iter().all(|new| new.room != old.room));
            plan.unsynced.extend_from_slice(appends);
        }
        if fault.is_some() { Err(injected()) } else { Ok(()) }
    }

    fn read(&self, room: &str, first: u64, last: u64, limit: usize) -> Result<Vec<Record>, StoreError> {
        self.check_read()?;
        self.durable.read(room, first, last, limit)
    }

    fn reserved_ids(&self) -> Result<u64, StoreError> {
        self.check_read()?;
        self.durable.reserved_ids()
    }

    fn reserve_ids(&self, until_ms: u64) -> Result<(), StoreError> {
        if self.plan().down {
            return Err(injected());
        }
        self.durable.reserve_ids(until_ms)
    }

    fn release_ids(&self, used_ms: u64) -> Result<(), StoreError> {
        if self.plan().down {
            return Err(injected());
        }
        self.durable.release_ids(used_ms)
    }

    fn rooms(&self, after: Option<&str>, limit: usize) -> Result<Vec<Arc<str>>, StoreError> {
        self.check_read()?;
        self.durable.rooms(after, limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;

    fn append(room: &str, seq: u64) -> Append {
        let record = Record {
            kind: Kind::Message,
            seq,
            id: seq * 10,
            time_ms: 0,
            sender: "s".into(),
            content: protocol::Content::Text,
            body: Box::default(),
            key: None,
            parts: protocol::OwnedParts::default(),
        };
        Append { room: room.into(), epoch: 1, records: vec![Arc::new(record)] }
    }

    fn last_seq(store: &FaultyStore, room: &str) -> u64 {
        store.open_log(room).unwrap().last_seq
    }

    #[test]
    fn every_fault_leaves_what_it_says_and_a_repeat_completes_it() {
        let call = [append("a", 1), append("b", 1)];
        for (fault, before) in
            [(Fault::Lost, [0, 0]), (Fault::Stored, [1, 1]), (Fault::Partial(1), [1, 0]), (Fault::Unsynced, [0, 0])]
        {
            let store = FaultyStore::new(1);
            store.plan_append(Some(fault));
            assert!(store.append(&call).is_err());
            assert_eq!([last_seq(&store, "a"), last_seq(&store, "b")], before, "{fault:?}");
            store.append(&call).unwrap();
            assert_eq!(store.crash(|_| true), 0, "{fault:?}: nothing undecided is left");
            assert_eq!([last_seq(&store, "a"), last_seq(&store, "b")], [1, 1], "{fault:?}");
        }
    }

    #[test]
    fn a_crash_keeps_what_was_acked_and_of_the_rest_what_the_caller_says() {
        let store = FaultyStore::new(1);
        store.append(&[append("a", 1), append("b", 1)]).unwrap();
        store.plan_append(Some(Fault::Unsynced));
        assert!(store.append(&[append("a", 2), append("b", 2)]).is_err());
        assert_eq!(store.crash(|append| &*append.room == "b"), 1);
        assert_eq!((last_seq(&store, "a"), last_seq(&store, "b")), (1, 2));
    }

    #[test]
    fn failing_reads_and_downtime_end() {
        let store = FaultyStore::new(1);
        store.fail_reads(2);
        assert!(store.open_log("a").is_err() && store.read("a", 1, 9, 9).is_err());
        store.set_down(true);
        assert!(store.append(&[append("a", 1)]).is_err() && store.reserve_ids(5).is_err());
        store.set_down(false);
        store.append(&[append("a", 1)]).unwrap();
        assert_eq!(last_seq(&store, "a"), 1);
    }
}
