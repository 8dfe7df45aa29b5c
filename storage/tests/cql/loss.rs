//! Messages that were acked and are gone from the tables: refused, never silently left out.

use storage::scylla::ScyllaStore;
use storage::{Store, StoreError};

use crate::common::{assert_whole, fill, id, keyspace, open_keyspace};
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
