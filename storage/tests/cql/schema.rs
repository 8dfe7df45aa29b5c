//! The tables: made, checked, refused, aged, and how large their partitions get.

use storage::scylla::{Options, ScyllaStore, schema};
use storage::{Store, StoreError};

use crate::common::{assert_whole, fill, keyspace, open_keyspace};
use crate::driver::Driver;
use crate::node::Node;

fn refusal(name: &str) -> String {
    refusal_of(keyspace(Node::shared().address(), name))
}

fn refusal_of(options: Options) -> String {
    match ScyllaStore::open(options) {
        Err(error @ StoreError::Unusable { .. }) => error.to_string(),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("it was opened"),
    }
}

#[test]
fn a_keyspace_made_by_hand_or_by_the_first_relay_is_opened_again() {
    let node = Node::shared().address();
    let driver = Driver::connect(node);
    // As `relay schema` prints it, but for what only ScyllaDB knows.
    let script =
        schema::script("by_hand", &"1".parse().unwrap(), None).replace(" AND tablets = {'enabled': false}", "");
    script.split_terminator(";\n").for_each(|statement| driver.run(statement));
    for name in ["by_hand", "by_relay"] {
        for last in [3, 6] {
            let store = open_keyspace(node, name);
            fill(&store, "room", last - 2, last);
            assert_whole(&store, "room", last);
        }
        assert_eq!(driver.count(&format!("{name}.migrations")), schema::MIGRATIONS.len() as u64);
    }
}

#[test]
fn a_keyspace_without_keys_gets_them_even_if_a_start_was_killed_in_the_middle_of_that() {
    let node = Node::shared().address();
    let driver = Driver::connect(node);
    for (name, is_half_done) in [("without_keys", false), ("half_done", true)] {
        fill(&open_keyspace(node, name), "room", 1, 6);
        driver.run(&format!("DELETE FROM {name}.migrations WHERE number = 2"));
        if !is_half_done {
            driver.run(&format!("ALTER TABLE {name}.messages DROP idempotency_key"));
            driver.run(&format!("DELETE FROM {name}.settings WHERE name = 'keys since'"));
        }
        let store = open_keyspace(node, name);
        fill(&store, "room", 7, 12);
        assert_whole(&store, "room", 12);
        let seqs: Vec<_> = store.keys("room", 1, 0).unwrap().iter().map(|stored| stored.seq).collect();
        assert_eq!(seqs, [2, 4, 6, 8, 10, 12], "{name}");
        assert_eq!(driver.count(&format!("{name}.migrations")), schema::MIGRATIONS.len() as u64);
    }
}

#[test]
fn a_keyspace_without_a_store_is_refused_and_left_as_it_is_where_none_may_be_made() {
    let node = Node::shared().address();
    let driver = Driver::connect(node);
    driver.run("CREATE KEYSPACE of_others WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}");
    drop(open_keyspace(node, "there"));
    for name in ["of_others", "mistyped"] {
        let why = refusal_of(Options { create: false, ..keyspace(node, name) });
        assert!(why.contains(name) && why.contains("no relay has a store"), "{why}");
    }
    let keyspaces = driver.rows::<(String,)>("SELECT keyspace_name FROM system_schema.keyspaces");
    assert!(keyspaces.iter().all(|(name,)| name != "mistyped"), "{keyspaces:?}");
    assert_eq!(driver.count("system_schema.tables WHERE keyspace_name = 'of_others'"), 0);
    ScyllaStore::open(Options { create: false, ..keyspace(node, "there") }).unwrap();
}

#[test]
fn a_schema_of_a_newer_relay_is_refused() {
    let node = Node::shared().address();
    drop(open_keyspace(node, "newer"));
    let driver = Driver::connect(node);
    driver.run("INSERT INTO newer.migrations (number, name, checksum) VALUES (1000, 'later', 1)");
    let why = refusal("newer");
    assert!(why.contains("1000") && why.contains("newer"), "{why}");
}

#[test]
fn a_schema_whose_migration_was_changed_is_refused() {
    let node = Node::shared().address();
    drop(open_keyspace(node, "changed"));
    Driver::connect(node).run("UPDATE changed.migrations SET checksum = 1 WHERE number = 1");
    let why = refusal("changed");
    assert!(why.contains("migration 1"), "{why}");
}

#[test]
fn retention_ages_messages_and_compacts_them_by_time() {
    let node = Node::shared().address();
    let driver = Driver::connect(node);
    let ages = || -> Vec<(String, i32, String)> {
        let query = "SELECT table_name, default_time_to_live, compaction['class'] FROM system_schema.tables WHERE keyspace_name = 'aged'";
        let rows = driver.rows::<(String, i32, String)>(query);
        rows.into_iter().filter(|(_, ttl, _)| *ttl > 0).collect()
    };
    for (retention_s, expected) in [(Some(86_400), 86_400), (None, 86_400), (Some(3_600), 3_600), (Some(0), 0)] {
        let mut options = keyspace(node, "aged");
        options.retention_s = retention_s;
        let store = ScyllaStore::open(options).unwrap();
        fill(&store, "room", 1, 3);
        let [blocks, messages] = ["blocks", "messages"].map(|table| {
            let class = "org.apache.cassandra.db.compaction.TimeWindowCompactionStrategy";
            (table.to_owned(), expected, class.to_owned())
        });
        assert_eq!(ages(), if expected > 0 { vec![blocks, messages] } else { Vec::new() }, "{retention_s:?}");
    }
}

#[test]
fn no_partition_of_messages_passes_65_536_rows() {
    const LAST: u64 = 70_000;
    let node = Node::shared().address();
    let store = open_keyspace(node, "large");
    for first in (1..=LAST).step_by(5_000) {
        fill(&store, "room", first, first + 4_999);
    }
    let query = "SELECT bucket, count(*) FROM large.messages GROUP BY room, bucket";
    let mut buckets = Driver::connect(node).rows::<(i64, i64)>(query);
    buckets.sort_unstable();
    assert_eq!(buckets, [(0, 65_535), (1, 4_465)]);
    assert_eq!(store.read("room", 65_530, 65_540, 99).unwrap().len(), 11);
}
