//! Messages that were acked and are gone from the tables: refused, never silently left out.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use protocol::snowflake::EPOCH_MS;
use storage::scylla::{Options, ScyllaStore};
use storage::{Append, Record, Store, StoreError};

use crate::common::{assert_whole, fill, id, keyspace, open_keyspace, record};
use crate::driver::Driver;
use crate::node::Node;

fn assert_missing<T: std::fmt::Debug>(result: Result<T, StoreError>, range: (u64, u64)) {
    match result {
        Err(StoreError::Damaged { room, from, to, .. }) => assert_eq!((room.as_str(), (from, to)), ("room", range)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_log_that_opens_shorter_is_refused_until_the_loss_is_accepted() {
    let node = Node::shared().address();
    let store = open_keyspace(node, "shortened");
    fill(&store, "room", 1, 10);
    fill(&store, "other", 1, 3);
    let before = store.open_log("room").unwrap();
    drop(store);
    let delete = format!("DELETE FROM shortened.messages WHERE room = 'room' AND bucket = 0 AND id > {}", id(7));
    Driver::connect(node).run(&delete);

    let store = open_keyspace(node, "shortened");
    for _ in 0..2 {
        assert_missing(store.open_log("room"), (8, 10));
        assert_missing(store.read("room", 1, 3, 3), (8, 10));
    }
    assert_whole(&store, "other", 3);
    drop(store);

    let mut options = keyspace(node, "shortened");
    options.accept_loss = true;
    let store = ScyllaStore::open(options).unwrap();
    let accepted = store.open_log("room").unwrap();
    assert_ne!(accepted.epoch, before.epoch, "whoever knows what is gone must see it");
    assert_whole(&store, "room", 7);
    assert_whole(&store, "other", 3);
    drop(store);
    assert_eq!(open_keyspace(node, "shortened").open_log("room").unwrap(), accepted, "it is accepted once");
}

#[test]
fn a_hole_in_a_log_is_named_by_whoever_reads_it() {
    let node = Node::shared().address();
    let store = open_keyspace(node, "hole");
    fill(&store, "room", 1, 10);
    let delete =
        format!("DELETE FROM hole.messages WHERE room = 'room' AND bucket = 0 AND id IN ({}, {})", id(4), id(5));
    Driver::connect(node).run(&delete);
    assert_missing(store.read("room", 1, 10, 100), (4, 5));
    assert_missing(store.read("room", 4, 10, 100), (4, 5));
    assert_eq!(store.read("room", 6, 10, 100).unwrap().len(), 5);
    assert_eq!(store.read("room", 1, 3, 100).unwrap().len(), 3);
}

/// A store on this keyspace, whose messages from now on are kept so long.
fn retaining(node: SocketAddr, name: &str, retention_s: u32) -> ScyllaStore {
    ScyllaStore::open(Options { retention_s: Some(retention_s), ..keyspace(node, name) }).unwrap()
}

#[test]
fn messages_that_expire_behind_older_ones_are_no_damage() {
    let node = Node::shared().address();
    let store = open_keyspace(node, "shorter");
    fill(&store, "room", 1, 10);
    fill(&store, "quiet", 1, 10);
    let before = store.open_log("room").unwrap();
    drop(store);
    let store = retaining(node, "shorter", 2);
    fill(&store, "room", 11, 15);
    let driver = Driver::connect(node);
    let late = format!("SELECT seq FROM shorter.messages WHERE room = 'room' AND bucket = 0 AND id > {}", id(10));
    while !driver.rows::<(i64,)>(&late).is_empty() {}
    let seqs = |store: &ScyllaStore, first, last| -> Vec<u64> {
        store.read("room", first, last, 100).unwrap().iter().map(|record| record.seq).collect()
    };
    assert_eq!(seqs(&store, 1, 15), [] as [u64; 0], "what lies before something that has expired counts as expired");
    drop(store);

    // Opened by others, now and later.
    for last in [15, 20] {
        let store = retaining(node, "shorter", 86_400);
        let opened = store.open_log("room").unwrap();
        assert_eq!(opened.last_seq, last);
        assert_ne!(opened.epoch, before.epoch, "whoever has a position in what is gone must see that");
        if last == 15 {
            fill(&store, "room", 16, 20);
        }
        assert_eq!(seqs(&store, 1, 20), [16, 17, 18, 19, 20]);
        assert_eq!(seqs(&store, 18, 19), [18, 19]);
        assert_whole(&store, "quiet", 10);
    }
}

#[test]
fn a_hole_of_messages_that_are_too_young_to_have_expired_is_damage() {
    let node = Node::shared().address();
    let store = retaining(node, "young", 86_400);
    let epoch = store.open_log("room").unwrap().epoch;
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    let id_of = |seq: u64| ((now_ms - EPOCH_MS + seq) << 22) | 3;
    let records = (1..=10).map(|seq| Arc::new(Record { id: id_of(seq), ..record(seq) })).collect();
    store.append(&[Append { room: "room".into(), epoch, records }]).unwrap();
    Driver::connect(node)
        .run(&format!("DELETE FROM young.messages WHERE room = 'room' AND bucket = 0 AND id = {}", id_of(5)));
    assert_missing(store.read("room", 1, 10, 100), (5, 5));
    assert_missing(store.read("room", 3, 10, 100), (5, 5));
    assert_eq!(store.read("room", 6, 10, 100).unwrap().len(), 5);
}
