//! Copying a history: whole, restartable at any point, and never over another one.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::io::{BufRead, BufReader};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use common::{append, assert_whole, child, child_dir, fill, open, record};
use proptest::prelude::*;
use storage::copy::{CopyError, Progress, copy, verify};
use storage::{
    Append, Concurrent, Done, EmbeddedStore, Fault, FaultyStore, LogState, MemoryStore, Options, Record, Store,
    StoreError,
};

fn copied(from: &dyn Store, to: &dyn Store) -> Result<Progress, CopyError> {
    copy(from, to, &mut |_| ControlFlow::Continue(()))
}

fn verified(from: &dyn Store, to: &dyn Store) -> Result<Progress, CopyError> {
    verify(from, to, &mut |_| ControlFlow::Continue(()))
}

/// Every room's state and records.
fn everything(store: &dyn Store) -> Vec<(Arc<str>, LogState, Vec<Record>)> {
    let mut rooms = store.rooms(None, usize::MAX).unwrap();
    rooms.sort_unstable();
    let log = |room: Arc<str>| {
        let records = store.read(&room, 1, u64::MAX, usize::MAX).unwrap();
        (room.clone(), store.open_log(&room).unwrap(), records)
    };
    rooms.into_iter().map(log).collect()
}

fn assert_same(from: &dyn Store, to: &dyn Store) {
    assert_eq!(everything(from), everything(to));
    assert_eq!(from.reserved_ids().unwrap(), to.reserved_ids().unwrap());
}

/// Rooms of these lengths, named by their number.
fn filled(store: &dyn Store, lengths: &[u64]) {
    for (room, &length) in lengths.iter().enumerate().filter(|(_, length)| **length > 0) {
        fill(store, &format!("room{room}"), 1, length);
    }
    store.reserve_ids(77_000).unwrap();
}

fn embedded(dir: &Path) -> EmbeddedStore {
    EmbeddedStore::open(dir, Options::default()).unwrap()
}

#[test]
fn a_copy_has_the_same_rooms_seqs_ids_epochs_records_and_reserved_ids() {
    let (from, dir) = (MemoryStore::new(5), tempfile::tempdir().unwrap());
    filled(&from, &[1, 10_000, 1_023, 1_024, 0, 2_047, 2_048, 3]);
    let to = embedded(dir.path());
    let progress = copied(&from, &to).unwrap();
    assert_same(&from, &to);
    let total = 16_146;
    let expected = Progress { rooms_total: 7, rooms: 7, messages_total: total, messages: total, already: 0 };
    assert_eq!(progress, expected);
    assert_eq!(verified(&from, &to).unwrap(), expected);
    drop(to);
    assert_same(&from, &open(dir.path()).unwrap());
}

#[test]
fn thousands_of_small_rooms_share_calls() {
    let (from, to) = (MemoryStore::new(5), FaultyStore::new(6));
    let calls: Vec<_> = (0..3_000).map(|room| append(&from, &format!("r{room}"), 1, 1 + room % 3)).collect();
    from.append(&calls).unwrap();
    // The fifth call and later ones fail.
    (0..4).for_each(|_| to.plan_append(None));
    (0..100).for_each(|_| to.plan_append(Some(Fault::Lost)));
    assert_eq!(copied(&from, &to).unwrap().rooms, 3_000);
    assert_same(&from, &to);
}

#[test]
fn an_empty_source_is_copied() {
    let (from, to) = (MemoryStore::new(5), MemoryStore::new(6));
    assert_eq!(copied(&from, &to).unwrap(), Progress::default());
    assert_eq!(verified(&from, &to).unwrap(), Progress::default());
}

#[test]
fn a_second_copy_brings_what_came_meanwhile_and_passes_over_the_rest() {
    let (from, to) = (MemoryStore::new(5), MemoryStore::new(6));
    filled(&from, &[2_500, 7]);
    copied(&from, &to).unwrap();
    fill(&from, "room0", 2_501, 2_600);
    fill(&from, "new", 1, 2);
    let progress = copied(&from, &to).unwrap();
    assert_eq!((progress.already, progress.messages, progress.rooms), (2_507, 2_609, 3));
    assert_same(&from, &to);
    fill(&to, "room of the destination alone", 1, 1);
    assert_eq!(verified(&from, &to).unwrap().messages, 2_609, "what only the destination has is its own affair");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_fails_a_repeated_copy_ends_with_the_same_history(
        lengths in proptest::collection::vec(prop_oneof![0u64..40, 1_000u64..1_050, 4_000u64..20_000], 1..12),
        there in proptest::collection::vec(0u64..3_000, 12),
        faults in proptest::collection::vec(proptest::option::of(0usize..4), 0..8),
        stop_after in proptest::collection::vec(1usize..4, 0..4),
    ) {
        let (from, to) = (MemoryStore::new(5), FaultyStore::new(5));
        filled(&from, &lengths);
        // The destination has a beginning of some rooms already.
        for (room, (&there, &length)) in there.iter().zip(&lengths).enumerate() {
            if there.min(length) > 0 {
                fill(&to, &format!("room{room}"), 1, there.min(length));
            }
        }
        for fault in &faults {
            to.plan_append(fault.map(|n| [Fault::Lost, Fault::Stored, Fault::Partial(1), Fault::Partial(3)][n]));
        }
        let mut attempts = 0;
        let mut stops = stop_after.into_iter();
        let progress = loop {
            attempts += 1;
            prop_assert!(attempts < 20, "each attempt uses up a fault or a stop");
            let mut left = stops.next().unwrap_or(usize::MAX);
            let ended = copy(&from, &to, &mut |_| {
                left -= 1;
                if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            match ended {
                Ok(progress) => break progress,
                Err(CopyError::Stopped | CopyError::Destination(_)) => {}
                Err(other) => return Err(TestCaseError::fail(other.to_string())),
            }
        };
        assert_same(&from, &to);
        prop_assert_eq!(progress.messages, lengths.iter().sum::<u64>());
        prop_assert_eq!((progress.rooms, progress.messages), (progress.rooms_total, progress.messages_total));
        verified(&from, &to).unwrap();
    }
}

proptest! {
    // Opening a directory takes some fsyncs.
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn between_embedded_stores_a_history_is_the_same_after_any_number_of_stops(
        lengths in proptest::collection::vec(prop_oneof![0u64..9, 1_000u64..5_000], 1..6),
        stops in 0usize..5,
    ) {
        let (source_dir, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let from = embedded(source_dir.path());
        filled(&from, &lengths);
        for _ in 0..stops {
            let mut left = 2;
            let ended = copy(&from, &embedded(dir.path()), &mut |_| {
                left -= 1;
                if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            prop_assert!(matches!(ended, Ok(_) | Err(CopyError::Stopped)), "{:?}", ended);
        }
        let to = embedded(dir.path());
        copied(&from, &to).unwrap();
        assert_same(&from, &to);
    }
}

/// A store that makes each append durable on a thread of its own, unless something happens `instead`.
struct Concurrently {
    store: Arc<MemoryStore>,
    instead: Option<fn() -> Result<(), StoreError>>,
    /// Appends that are never answered.
    forgotten: Mutex<Vec<Done>>,
    forgets: bool,
}

impl Concurrently {
    fn new() -> Self {
        Self { store: Arc::new(MemoryStore::new(6)), instead: None, forgotten: Mutex::default(), forgets: false }
    }
}

impl Store for Concurrently {
    fn open_log(&self, room: &str) -> Result<LogState, StoreError> {
        self.store.open_log(room)
    }
    fn append(&self, _: &[Append]) -> Result<(), StoreError> {
        panic!("appends are submitted")
    }
    fn read(&self, room: &str, first: u64, last: u64, limit: usize) -> Result<Vec<Record>, StoreError> {
        self.store.read(room, first, last, limit)
    }
    fn reserved_ids(&self) -> Result<u64, StoreError> {
        self.store.reserved_ids()
    }
    fn reserve_ids(&self, until_ms: u64) -> Result<(), StoreError> {
        self.store.reserve_ids(until_ms)
    }
    fn release_ids(&self, used_ms: u64) -> Result<(), StoreError> {
        self.store.release_ids(used_ms)
    }
    fn rooms(&self, after: Option<&str>, limit: usize) -> Result<Vec<Arc<str>>, StoreError> {
        self.store.rooms(after, limit)
    }
    fn concurrent(&self) -> Option<&dyn Concurrent> {
        Some(self)
    }
}

impl Concurrent for Concurrently {
    fn submit(&self, append: Append, done: Done) {
        if self.forgets {
            return self.forgotten.lock().unwrap().push(done);
        }
        let (store, instead) = (self.store.clone(), self.instead);
        std::thread::spawn(move || done(instead.map_or_else(|| store.append(&[append]), |outcome| outcome())));
    }
    fn reserve_ahead(&self, until_ms: u64, done: Done) {
        done(self.store.reserve_ids(until_ms));
    }
    fn on_lost(&self, _: Box<dyn FnOnce(StoreError) + Send>) {}
}

#[test]
fn a_destination_that_takes_many_appends_at_once_is_given_them() {
    let (from, to) = (MemoryStore::new(5), Concurrently::new());
    filled(&from, &[1, 20_000, 0, 3, 2_047, 18_000]);
    copied(&from, &to).unwrap();
    assert_same(&from, &to);
}

#[test]
fn an_append_that_will_never_be_durable_ends_the_copy() {
    let from = MemoryStore::new(5);
    filled(&from, &[1, 2]);
    let to = Concurrently { instead: Some(|| Err(StoreError::Closed)), ..Concurrently::new() };
    assert!(matches!(copied(&from, &to), Err(CopyError::Destination(StoreError::Closed))));
}

#[test]
fn a_copy_can_be_stopped_while_the_destination_does_not_answer() {
    let from = MemoryStore::new(5);
    filled(&from, &[1, 2]);
    let to = Concurrently { forgets: true, ..Concurrently::new() };
    let ended = copy(&from, &to, &mut |_| match to.forgotten.lock().unwrap().len() {
        0 => ControlFlow::Continue(()),
        _ => ControlFlow::Break(()),
    });
    assert!(matches!(ended, Err(CopyError::Stopped)), "{ended:?}");
}

#[test]
fn a_source_or_a_destination_that_fails_is_named() {
    let (from, to) = (FaultyStore::new(5), FaultyStore::new(6));
    filled(&from, &[5]);
    from.fail_reads(1);
    assert!(matches!(copied(&from, &to), Err(CopyError::Source(StoreError::Io(_)))));
    to.set_down(true);
    let error = copied(&from, &to).unwrap_err();
    assert!(error.to_string().starts_with("the destination: "), "{error}");
}

fn conflict(from: &dyn Store, to: &dyn Store) -> String {
    let before = everything(to);
    let error = copied(from, to).unwrap_err();
    assert!(matches!(error, CopyError::Conflict { .. }), "{error}");
    assert_eq!(everything(to), before, "nothing was written");
    error.to_string()
}

#[test]
fn another_epoch_at_the_destination_is_a_conflict() {
    let (from, to) = (MemoryStore::new(5), MemoryStore::new(6));
    fill(&from, "room", 1, 9);
    fill(&to, "room", 1, 4);
    let message = conflict(&from, &to);
    assert!(message.contains("\"room\"") && message.contains("epoch 5") && message.contains("epoch 6"), "{message}");
}

#[test]
fn another_message_at_the_destination_is_a_conflict() {
    let (from, to) = (MemoryStore::new(5), MemoryStore::new(5));
    fill(&from, "room", 1, 9);
    let mut other = append(&to, "room", 1, 4);
    Arc::make_mut(&mut other.records[3]).id += 1;
    to.append(&[other]).unwrap();
    let message = conflict(&from, &to);
    let (id, other) = (common::id(4), common::id(4) + 1);
    assert!(message.contains("message 4") && message.contains(&id.to_string()), "{message}");
    assert!(message.contains(&other.to_string()), "{message}");
}

#[test]
fn a_destination_that_has_gone_on_is_a_conflict() {
    let (from, to) = (MemoryStore::new(5), MemoryStore::new(5));
    fill(&from, "room", 1, 4);
    fill(&to, "room", 1, 6);
    let message = conflict(&from, &to);
    assert!(message.contains("message 6") && message.contains("message 4"), "{message}");
}

#[test]
fn verify_finds_a_record_that_differs_before_the_end_and_a_missing_one() {
    let (from, to) = (MemoryStore::new(5), MemoryStore::new(5));
    fill(&from, "room", 1, 3_000);
    let mut other = append(&to, "room", 1, 3_000);
    Arc::make_mut(&mut other.records[1_499]).sender = "somebody else".into();
    to.append(&[other]).unwrap();
    copied(&from, &to).unwrap();
    assert!(matches!(verified(&from, &to), Err(CopyError::Different { seq: 1_500, .. })));
    fill(&from, "room", 3_001, 3_002);
    assert!(matches!(verified(&from, &MemoryStore::new(5)), Err(CopyError::Different { seq: 1, .. })));
    to.append(&[Append { room: "room".into(), epoch: 5, records: vec![Arc::new(record(3_001))] }]).unwrap();
    assert!(verified(&from, &to).is_err());
}

#[test]
fn verify_wants_the_source_s_ids_reserved() {
    let (from, to) = (MemoryStore::new(5), MemoryStore::new(5));
    from.reserve_ids(90).unwrap();
    to.reserve_ids(80).unwrap();
    assert!(matches!(verified(&from, &to), Err(CopyError::Ids { source_side: 90, destination: 80 })));
    copied(&from, &to).unwrap();
    verified(&from, &to).unwrap();
}

/// A store whose first messages of each room have expired.
struct Expired(MemoryStore, u64);

impl Store for Expired {
    fn open_log(&self, room: &str) -> Result<LogState, StoreError> {
        self.0.open_log(room)
    }
    fn append(&self, appends: &[Append]) -> Result<(), StoreError> {
        self.0.append(appends)
    }
    fn read(&self, room: &str, first: u64, last: u64, limit: usize) -> Result<Vec<Record>, StoreError> {
        self.0.read(room, first.max(self.1 + 1), last, limit)
    }
    fn reserved_ids(&self) -> Result<u64, StoreError> {
        self.0.reserved_ids()
    }
    fn reserve_ids(&self, until_ms: u64) -> Result<(), StoreError> {
        self.0.reserve_ids(until_ms)
    }
    fn release_ids(&self, used_ms: u64) -> Result<(), StoreError> {
        self.0.release_ids(used_ms)
    }
    fn rooms(&self, after: Option<&str>, limit: usize) -> Result<Vec<Arc<str>>, StoreError> {
        self.0.rooms(after, limit)
    }
}

#[test]
fn a_source_whose_old_records_have_expired_is_refused_before_anything_is_copied() {
    for (expired, first) in [(4, 5), (10, 11)] {
        let (from, to) = (Expired(MemoryStore::new(5), expired), MemoryStore::new(6));
        filled(&from, &[0, 10, 10]);
        let error = copied(&from, &to).unwrap_err();
        assert!(error.to_string().contains("expired"), "{error}");
        assert!(matches!(error, CopyError::Expired { first: found, .. } if found == first), "{error}");
        assert_eq!(everything(&to), []);
    }
}

/// Lengths of the rooms that are copied while the process is killed.
const KILLED: [u64; 60] = [1_500; 60];

#[test]
fn a_copy_that_was_killed_goes_on_and_ends_whole() {
    let name = "a_copy_that_was_killed_goes_on_and_ends_whole";
    if let Some(dir) = child_dir() {
        let (from, to) = (embedded(&dir.join("from")), embedded(&dir.join("to")));
        let ended = copy(&from, &to, &mut |progress| {
            println!("\nat {}", progress.messages);
            ControlFlow::Continue(())
        });
        ended.unwrap();
        // Its parent kills it in any case.
        loop {
            std::thread::park();
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let from = embedded(&dir.path().join("from"));
    filled(&from, &KILLED);
    drop(from);
    for at_least in [1, 30_000, 60_000] {
        let mut process = child(name, dir.path()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut copied = lines.filter_map(|line| line.strip_prefix("at ")?.parse::<u64>().ok());
        assert!(copied.any(|at| at >= at_least), "the child ended before it had copied {at_least} messages");
        process.kill().unwrap();
        process.wait().unwrap();
    }
    let (from, to) = (embedded(&dir.path().join("from")), embedded(&dir.path().join("to")));
    let progress = copied(&from, &to).unwrap();
    assert!(progress.already >= 60_000, "{progress:?}");
    assert_eq!(progress.messages, KILLED.iter().sum::<u64>());
    assert_same(&from, &to);
    for (room, &length) in KILLED.iter().enumerate() {
        assert_whole(&to, &format!("room{room}"), length);
    }
}
