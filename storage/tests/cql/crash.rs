//! The server is killed or stands still while many rooms append.

use std::thread;
use std::time::{Duration, Instant};

use storage::{ScyllaStore, Store, StoreError};

use crate::common::open_keyspace;
use crate::driver::Driver;
use crate::load::{Load, name};
use crate::node::{CommitLog, Node};

const ROOMS: usize = 64;
/// Longest the store may take to go on once the server is ready. What it takes is printed.
const RECOVERY_MAX: Duration = Duration::from_secs(20);

fn retries(store: &ScyllaStore) -> f64 {
    store.metrics().iter().find(|metric| metric.name == "relay_store_retries_total").unwrap().value
}

#[test]
fn kill_9_of_the_server_loses_nothing_that_was_acked_and_the_store_goes_on() {
    let mut node = Node::start(CommitLog::Batch);
    let store = open_keyspace(node.address(), "killed");
    let mut load = Load::new(&store, ROOMS);
    for acks_before_kill in [1_000, 100] {
        load.run_beside(|acks| {
            assert_eq!(acks.iter().take(acks_before_kill).count(), acks_before_kill);
            let (killed, retries_before) = (Instant::now(), retries(&store));
            node.kill();
            node.restart();
            let ready = Instant::now();
            let recovery = acks.iter().find(|&at| at >= ready).unwrap() - ready;
            let retries = retries(&store) - retries_before;
            println!("acks again {} ms after the server was ready, {retries} retries", recovery.as_millis());
            assert!(recovery < RECOVERY_MAX);
            // A connection that is refused fails at once: each room must wait before it tries again.
            let waits = killed.elapsed().as_millis() as f64 / 200.0 + 10.0;
            assert!(retries < waits * ROOMS as f64, "{retries} retries");
        });
    }
    let acked = load.acked;
    drop(store);
    Load::assert_stored(&acked, &open_keyspace(node.address(), "killed"));
    assert_eq!(Driver::connect(node.address()).count("killed.messages"), acked.iter().sum::<u64>());
}

#[test]
fn while_the_server_stands_still_appends_wait_and_reads_say_so() {
    let node = Node::start(CommitLog::Periodic);
    let store = open_keyspace(node.address(), "paused");
    let mut load = Load::new(&store, ROOMS);
    load.run_beside(|acks| {
        // The second time, longer than the lease lasts; nobody else takes it.
        for pause_s in [5, 12] {
            assert_eq!(acks.iter().take(500).count(), 500);
            node.pause();
            let paused = Instant::now();
            // It returns while the server still stands still, or never.
            let read = store.read(&name(0), 1, 10, 10);
            assert!(matches!(read, Err(StoreError::Unavailable { .. })), "{read:?}");
            thread::sleep(Duration::from_secs(pause_s).saturating_sub(paused.elapsed()));
            node.resume();
            let resumed = Instant::now();
            acks.iter().find(|&at| at >= resumed).unwrap();
            assert!(!store.read(&name(0), 1, 10, 10).unwrap().is_empty());
        }
    });
    let acked = load.acked;
    drop(store);
    Load::assert_stored(&acked, &open_keyspace(node.address(), "paused"));
    assert_eq!(Driver::connect(node.address()).count("paused.messages"), acked.iter().sum::<u64>());
}
