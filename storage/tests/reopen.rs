//! What the embedded engine keeps when its directory is opened again, and when it refuses to open it.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::{assert_whole, child, child_dir, fill, open};
use storage::{Store, StoreError};

#[test]
fn everything_is_there_after_reopening_and_epochs_are_constant() {
    let dir = tempfile::tempdir().unwrap();
    let mut states = Vec::new();
    for round in 1..=4u64 {
        let store = open(dir.path()).unwrap();
        let unwritten = store.open_log("never written").unwrap();
        fill(&store, "a", (round - 1) * 700 + 1, round * 700);
        fill(&store, "b", round, round);
        store.reserve_ids(round * 10).unwrap();
        assert_whole(&store, "a", round * 700);
        assert_whole(&store, "b", round);
        assert_eq!(store.reserved_ids().unwrap(), round * 10);
        states.push([unwritten.epoch, store.open_log("a").unwrap().epoch, store.open_log("b").unwrap().epoch]);
    }
    states.dedup();
    assert_eq!(states.len(), 1, "{states:?}");
    let store = open(dir.path()).unwrap();
    assert_whole(&store, "a", 2_800);
    assert_whole(&store, "b", 4);
    let other = tempfile::tempdir().unwrap();
    assert_ne!(open(other.path()).unwrap().open_log("a").unwrap().epoch, states[0][0], "epochs are random");
}

#[test]
fn a_second_opening_in_this_process_is_refused_until_the_first_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path()).unwrap();
    assert!(matches!(open(dir.path()), Err(StoreError::Locked { .. })));
    drop(first);
    open(dir.path()).unwrap();
}

#[test]
fn a_second_process_gets_a_clear_refusal() {
    if let Some(dir) = child_dir() {
        println!("child: {}", open(&dir).err().unwrap());
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let output = child("a_second_process_gets_a_clear_refusal", dir.path()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("another relay is using this data directory") && text.contains("name another one"), "{text}");
    fill(&store, "a", 1, 1);
}

fn refusal(dir: &std::path::Path) -> String {
    match open(dir) {
        Err(error @ StoreError::Unreadable { .. }) => error.to_string(),
        Err(error) => panic!("refused otherwise: {error}"),
        Ok(_) => panic!("opened"),
    }
}

#[test]
fn another_format_of_the_tree_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fill(&open(dir.path()).unwrap(), "a", 1, 1);
    let version = dir.path().join("tree/version");
    for other in [&b"FJL\x02"[..], b"FJL\x09", b"nonsense"] {
        std::fs::write(&version, other).unwrap();
        assert!(refusal(dir.path()).contains("format"));
    }
    std::fs::write(&version, b"FJL\x03").unwrap();
    assert_whole(&open(dir.path()).unwrap(), "a", 1);
}

#[test]
fn another_layout_of_the_rows_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()).unwrap());
    let db = fjall::Database::builder(dir.path().join("tree")).open().unwrap();
    let rows = db.keyspace("rows", fjall::KeyspaceCreateOptions::default).unwrap();
    rows.insert("mformat", 3u64.to_be_bytes()).unwrap();
    drop((rows, db));
    assert!(refusal(dir.path()).contains("layout version is 3"));
}

#[test]
fn a_directory_that_cannot_be_one_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, b"").unwrap();
    assert!(open(&file).is_err());
    assert!(refusal(&file.join("below")).contains("directory"));
}

#[test]
fn a_first_start_that_was_killed_half_way_is_begun_anew() {
    let dir = tempfile::tempdir().unwrap();
    let unfinished = dir.path().join("tree.unfinished");
    std::fs::create_dir_all(&unfinished).unwrap();
    std::fs::write(unfinished.join("0.jnl"), b"").unwrap();
    fill(&open(dir.path()).unwrap(), "a", 1, 1);
    assert_whole(&open(dir.path()).unwrap(), "a", 1);
}
