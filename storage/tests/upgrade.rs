//! Directories of the layout before this one: read for ever, taken over by the first append, and refused by older relays.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::path::Path;

use common::{assert_whole, fill, id, open, record};
use fjall::{Database, Keyspace, KeyspaceCreateOptions};
use protocol::OwnedParts;
use storage::{Key, Record, Store, StoredKey};

const EPOCH: u64 = 4_711;

/// The tree of a closed directory.
fn with_tree<T>(dir: &Path, work: impl FnOnce(&Keyspace) -> T) -> T {
    let db = Database::builder(dir.join("tree")).open().unwrap();
    work(&db.keyspace("rows", KeyspaceCreateOptions::default).unwrap())
}

fn format(dir: &Path) -> u64 {
    with_tree(dir, |rows| u64::from_be_bytes(rows.get("mformat").unwrap().unwrap().as_ref().try_into().unwrap()))
}

/// What version 1 could hold of a record.
fn old(seq: u64) -> Record {
    let record = record(seq);
    let key = record.key.map(|key| Key { body: None, ..key });
    Record { key, parts: OwnedParts::default(), ..record }
}

/// A record as version 1 wrote it: sender and body, then seq, id, time, the distance and length of both with the content
/// type between, and the key.
fn encode_v1(record: &Record) -> Vec<u8> {
    let Record { kind, seq, id, time_ms, sender, content, body, key, .. } = record;
    let (sender_bytes, body_bytes) = (sender.len() as i32, body.len() as i32);
    let mut bytes = vec![1, kind.to_u8()];
    bytes.extend_from_slice(sender.as_bytes());
    bytes.extend_from_slice(body);
    bytes.extend([seq, id, time_ms].into_iter().flat_map(|number| number.to_le_bytes()));
    bytes.extend([-(24 + sender_bytes + body_bytes), sender_bytes].into_iter().flat_map(i32::to_le_bytes));
    bytes.push(*content as u8);
    bytes.extend([-(33 + body_bytes), body_bytes].into_iter().flat_map(i32::to_le_bytes));
    bytes.push(u8::from(key.is_some()));
    bytes.extend(key.map_or(0, |key| key.hash).to_le_bytes());
    bytes
}

/// A key of the layout, as it always was: tag, length and name of the room, and what follows.
fn key(tag: u8, room: &str, tail: &[u8]) -> Vec<u8> {
    [&[tag][..], &(room.len() as u16).to_be_bytes(), room.as_bytes(), tail].concat()
}

/// A directory that an older relay left, with the records `1..=last` in "room".
fn directory_of_version_1(last: u64) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()).unwrap());
    with_tree(dir.path(), |rows| {
        rows.insert("mformat", 1u64.to_be_bytes()).unwrap();
        let facts = [EPOCH, 1, 0].map(u64::to_be_bytes).concat();
        rows.insert(key(b'f', "room", &[]), facts).unwrap();
        for seq in 1..=last {
            let tail = [&[0; 6][..], &id(seq).to_be_bytes()].concat();
            rows.insert(key(b'r', "room", &tail), encode_v1(&old(seq))).unwrap();
            if seq > 1 && seq.is_multiple_of(1024) {
                rows.insert(key(b's', "room", &(seq / 1024).to_be_bytes()), id(seq).to_be_bytes()).unwrap();
            }
        }
    });
    dir
}

#[test]
fn a_directory_of_version_1_is_read_and_stays_one_until_something_is_appended() {
    let dir = directory_of_version_1(3_000);
    let expected: Vec<_> = (1..=3_000).map(old).collect();
    let keys: Vec<_> = expected.iter().filter_map(StoredKey::of).collect();
    for _ in 0..2 {
        let store = open(dir.path()).unwrap();
        assert_eq!(store.open_log("room").unwrap().epoch, EPOCH);
        assert_eq!(store.read("room", 1, u64::MAX, usize::MAX).unwrap(), expected);
        assert_eq!(store.keys("room", 1, 0).unwrap(), keys, "without rows of keys they are found in the records");
        store.reserve_ids(5).unwrap();
        drop(store);
        assert_eq!(format(dir.path()), 1, "an older relay may go on with it");
    }

    let store = open(dir.path()).unwrap();
    fill(&store, "room", 3_001, 3_010);
    let found = store.read("room", 2_999, u64::MAX, usize::MAX).unwrap();
    let expected: Vec<_> = (2_999..=3_000).map(old).chain((3_001..=3_010).map(record)).collect();
    assert_eq!(found, expected, "old and new records side by side");
    let newer: Vec<_> = (3_001..=3_010).map(record).filter_map(|record| StoredKey::of(&record)).collect();
    assert_eq!(store.keys("room", 1, 0).unwrap(), [&keys[..], &newer[..]].concat());
    assert_eq!(store.keys("room", 1, old(3_000).time_ms).unwrap(), newer, "of later ones there are rows");
    drop(store);
    assert_eq!(format(dir.path()), 2, "an older relay refuses it");
    let store = open(dir.path()).unwrap();
    assert_eq!(store.keys("room", 1, 0).unwrap(), [keys, newer].concat(), "also after another start");
    fill(&store, "another", 1, 3);
    assert_whole(&store, "another", 3);
}

#[test]
fn a_message_with_a_key_has_one_row_beside_it_and_one_without_has_none() {
    let dir = tempfile::tempdir().unwrap();
    fill(&open(dir.path()).unwrap(), "room", 1, 101);
    let db = Database::builder(dir.path().join("tree")).open().unwrap();
    let keys = db.keyspace("keys", KeyspaceCreateOptions::default).unwrap();
    assert_eq!(keys.iter().count(), 50);
}

#[test]
fn a_directory_of_a_later_version_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()).unwrap());
    with_tree(dir.path(), |rows| rows.insert("mformat", 3u64.to_be_bytes()).unwrap());
    let refusal = open(dir.path()).err().unwrap().to_string();
    assert!(refusal.contains("layout version is 3") && refusal.contains("newer"), "{refusal}");
}
