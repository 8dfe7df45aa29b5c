//! Damage in a data directory: noticed before anything is served, refused with the right range, accepted on demand.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{append, assert_whole, fill, id, open, record, sized};
use storage::{EmbeddedStore, Options, Store, StoreError};

const KEPT: u64 = 1_000;
const WRITTEN: u64 = 2_000;
/// Messages per append.
const STEP: usize = 20;

/// A closed directory with 2,000 messages in "room", twenty an append, after some in "before".
struct Fixture {
    dir: tempfile::TempDir,
    /// Where the journal's append of message 1,000 ends.
    kept_end: u64,
    epochs: [u64; 2],
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path()).unwrap();
        fill(&store, "before", 1, 5);
        for seq in (1..=KEPT).step_by(STEP) {
            fill(&store, "room", seq, seq + 19);
        }
        let kept_end = data_end(&journal(dir.path()));
        for seq in (KEPT + 1..=WRITTEN).step_by(STEP) {
            fill(&store, "room", seq, seq + 19);
        }
        let epochs = ["before", "room"].map(|room| store.open_log(room).unwrap().epoch);
        Self { dir, kept_end, epochs }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn journal(&self) -> std::fs::File {
        OpenOptions::new().write(true).open(journal(self.path())).unwrap()
    }

    fn zero_512_bytes(&self, at: u64) {
        self.journal().write_all_at(&[0; 512], at).unwrap();
    }
}

fn journal(dir: &Path) -> PathBuf {
    let mut journals: Vec<_> =
        std::fs::read_dir(dir.join("tree")).unwrap().map(|entry| entry.unwrap().path()).collect();
    journals.retain(|path| path.extension().is_some_and(|extension| extension == "jnl"));
    let [journal] = &journals[..] else { panic!("{journals:?}") };
    journal.clone()
}

/// The length without the zeros that fjall puts at the end in advance.
fn data_end(path: &Path) -> u64 {
    let bytes = std::fs::read(path).unwrap();
    bytes.iter().rposition(|&byte| byte != 0).unwrap() as u64 + 1
}

fn assert_refused(dir: &Path, room: &str, range: (u64, u64), rooms_affected: usize) {
    // Twice: being refused must change nothing.
    for _ in 0..2 {
        match open(dir) {
            Err(StoreError::Damaged { room: found, from, to, rooms, .. }) => {
                assert_eq!((&*found, (from, to), rooms), (room, range, rooms_affected));
            }
            Err(other) => panic!("refused otherwise: {other}"),
            Ok(_) => panic!("opened in spite of damage"),
        }
    }
}

fn open_accepting(dir: &Path) -> EmbeddedStore {
    EmbeddedStore::open(dir, Options { accept_loss: true, ..Options::default() }).unwrap()
}

/// Accepts the loss of everything after `kept`, goes on, and opens again as usual.
fn assert_goes_on(fixture: &Fixture, kept: u64) {
    let store = open_accepting(fixture.path());
    assert_whole(&store, "room", kept);
    assert_whole(&store, "before", 5);
    let state = store.open_log("room").unwrap();
    assert_ne!(state.epoch, fixture.epochs[1], "a log that lost messages gets a new epoch");
    assert_eq!(store.open_log("before").unwrap().epoch, fixture.epochs[0], "a whole log keeps its own");
    assert_eq!(state.last_id, id(WRITTEN), "ids of lost messages are not given out again");
    assert!(store.reserved_ids().unwrap() > protocol::snowflake::time_ms(id(WRITTEN)));
    let mut reused_id = append(&store, "room", kept + 1, kept + 1);
    assert!(store.append(std::slice::from_ref(&reused_id)).is_err());
    let reused = Arc::make_mut(&mut reused_id.records[0]);
    (reused.id, reused.key) = (id(WRITTEN + 1), None);
    store.append(std::slice::from_ref(&reused_id)).unwrap();
    let mut next = append(&store, "room", kept + 2, kept + 5);
    for record in &mut next.records {
        let record = Arc::make_mut(record);
        (record.id, record.key) = (id(WRITTEN + record.seq), None);
    }
    store.append(&[next]).unwrap();
    let seqs =
        |since_ms| -> Vec<u64> { store.keys("room", 1, since_ms).unwrap().iter().map(|stored| stored.seq).collect() };
    assert!(seqs(0).into_iter().eq((2..=kept).step_by(2)), "the keys of what is left are known");
    let later = seqs(record(1).time_ms - 1);
    assert!(later.iter().all(|&seq| seq <= kept), "and those of lost messages are free again: {later:?}");
    drop(store);
    let store = open(fixture.path()).unwrap();
    assert_eq!(store.open_log("room").unwrap().epoch, state.epoch);
    let records = store.read("room", 1, u64::MAX, usize::MAX).unwrap();
    assert_eq!(records.len() as u64, kept + 5);
    assert_eq!(records[kept as usize], *reused_id.records[0]);
}

#[test]
fn zeroed_bytes_in_the_middle_of_the_journal_are_refused_with_the_missing_range() {
    for within_the_append in [0, 30, 60] {
        let fixture = Fixture::new();
        fixture.zero_512_bytes(fixture.kept_end + within_the_append);
        assert_refused(fixture.path(), "room", (KEPT + 1, WRITTEN), 1);
        let salvage: Vec<_> = std::fs::read_dir(fixture.path().join("salvage")).unwrap().collect();
        assert_eq!(salvage.len(), 1, "what lies behind the damage is kept");
        assert_goes_on(&fixture, KEPT);
    }
}

#[test]
fn zeroed_bytes_inside_a_body_are_refused_with_the_missing_range() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    fill(&store, "room", 1, 3);
    let end = data_end(&journal(dir.path()));
    let mut large = append(&store, "room", 4, 4);
    large.records = vec![Arc::new(sized(4, 9_000))];
    store.append(&[large]).unwrap();
    fill(&store, "room", 5, 6);
    drop(store);
    OpenOptions::new().write(true).open(journal(dir.path())).unwrap().write_all_at(&[0; 512], end + 4_000).unwrap();
    assert_refused(dir.path(), "room", (4, 6), 1);
    assert_whole(&open_accepting(dir.path()), "room", 3);
}

#[test]
fn a_truncated_journal_is_refused_with_the_missing_range() {
    for beyond in [0, 1, 40] {
        let fixture = Fixture::new();
        fixture.journal().set_len(fixture.kept_end + beyond).unwrap();
        assert_refused(fixture.path(), "room", (KEPT + 1, WRITTEN), 1);
        assert_goes_on(&fixture, KEPT);
    }
}

#[test]
fn a_lost_journal_or_tree_is_refused_and_can_be_begun_anew() {
    for lost in ["tree", "tree/0.jnl"] {
        let fixture = Fixture::new();
        let path = fixture.path().join(lost);
        if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) }.unwrap();
        for _ in 0..2 {
            assert!(matches!(open(fixture.path()), Err(StoreError::Damaged { from: 1, rooms: 2, .. })), "{lost}");
        }
        let state = open_accepting(fixture.path()).open_log("room").unwrap();
        assert_eq!((state.last_seq, state.last_id), (0, id(WRITTEN)));
        assert!(!fixture.epochs.contains(&state.epoch));
        let store = open(fixture.path()).unwrap();
        assert_eq!(store.open_log("room").unwrap(), state);
        assert!(!fixture.epochs.contains(&store.open_log("never written").unwrap().epoch));
    }
}

#[test]
fn a_torn_append_at_the_end_is_normal() {
    let fixture = Fixture::new();
    let bytes = std::fs::read(journal(fixture.path())).unwrap();
    let whole = data_end(&journal(fixture.path()));
    let start = usize::try_from(fixture.kept_end).unwrap();
    for torn in [1, 20, 90] {
        fixture.journal().write_all_at(&bytes[start..start + torn], whole).unwrap();
        let store = open(fixture.path()).unwrap();
        assert_whole(&store, "room", WRITTEN);
        assert!(!fixture.path().join("salvage").exists());
    }
}

/// Removes the record `seq` of "room" behind the store's back.
fn remove_row(fixture: &Fixture, seq: u64) {
    let db = fjall::Database::builder(fixture.path().join("tree")).open().unwrap();
    let rows = db.keyspace("rows", fjall::KeyspaceCreateOptions::default).unwrap();
    let row = rows.prefix(b"r\x00\x04room").nth(usize::try_from(seq).unwrap() - 1).unwrap();
    rows.remove(row.key().unwrap()).unwrap();
}

#[test]
fn a_row_missing_in_the_middle_is_refused_and_never_read_over() {
    for missing in [WRITTEN - 5, KEPT + 500] {
        let fixture = Fixture::new();
        remove_row(&fixture, missing);
        assert_refused(fixture.path(), "room", (missing, WRITTEN), 1);
        assert_goes_on(&fixture, missing - 1);
    }
}

#[test]
fn a_hole_far_back_is_refused_by_every_read_that_meets_it() {
    let fixture = Fixture::new();
    remove_row(&fixture, 100);
    let store = open(fixture.path()).unwrap();
    for (first, last) in [(1, WRITTEN), (90, 110), (100, 100), (95, WRITTEN)] {
        assert!(
            matches!(store.read("room", first, last, usize::MAX), Err(StoreError::Damaged { .. })),
            "{first}..={last}"
        );
    }
    assert_eq!(store.read("room", 1_500, 1_500, 1).unwrap(), [record(1_500)]);
}

#[test]
fn a_damaged_older_journal_makes_the_check_look_at_every_message() {
    let fixture = Fixture::new();
    remove_row(&fixture, 100);
    let tree = fixture.path().join("tree");
    std::fs::rename(tree.join("0.jnl"), tree.join("1.jnl")).unwrap();
    std::fs::write(tree.join("0.jnl"), b"not a batch").unwrap();
    assert_refused(fixture.path(), "room", (100, WRITTEN), 1);
    assert_goes_on(&fixture, 99);
    let lost = std::fs::read_dir(fixture.path()).unwrap().map(|entry| entry.unwrap().path());
    let lost: Vec<_> = lost.filter(|path| path.to_string_lossy().contains("/lost-")).collect();
    assert_eq!(std::fs::read(lost[0].join("0.jnl-from-0")).unwrap(), b"not a batch");
}

fn mark_files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(dir.join("marks")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn damage_in_the_marks_is_refused_and_can_be_accepted() {
    let fixture = Fixture::new();
    let file = mark_files(fixture.path()).pop().unwrap();
    OpenOptions::new().write(true).open(&file).unwrap().write_all_at(&[0; 8], 500).unwrap();
    let refused = open(fixture.path()).err().unwrap().to_string();
    assert!(refused.contains("damaged at byte") && refused.contains("--accept-loss"), "{refused}");
    assert_whole(&open_accepting(fixture.path()), "room", WRITTEN);
    assert_whole(&open(fixture.path()).unwrap(), "room", WRITTEN);
}

#[test]
fn missing_marks_are_refused_and_a_torn_end_of_them_is_normal() {
    let fixture = Fixture::new();
    let file = mark_files(fixture.path()).pop().unwrap();
    let length = file.metadata().unwrap().len();
    OpenOptions::new().write(true).open(&file).unwrap().set_len(length - 20).unwrap();
    assert_whole(&open(fixture.path()).unwrap(), "room", WRITTEN);
    std::fs::remove_dir_all(fixture.path().join("marks")).unwrap();
    let refused = open(fixture.path()).err().unwrap().to_string();
    assert!(refused.contains("mark files are missing"), "{refused}");
    assert_whole(&open_accepting(fixture.path()), "room", WRITTEN);
    assert_whole(&open(fixture.path()).unwrap(), "room", WRITTEN);
}
