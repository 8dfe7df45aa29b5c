//! The server is killed or stands still while many rooms append.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use storage::{Store, StoreError};

use crate::common::open_keyspace;
use crate::driver::Driver;
use crate::load::{Load, name};
use crate::node::{CommitLog, Node};

/// Longest the store may take to go on once the server is ready. What it takes is printed.
const RECOVERY_MAX: Duration = Duration::from_secs(20);

#[test]
fn kill_9_of_the_server_loses_nothing_that_was_acked_and_the_store_goes_on() {
    let mut node = Node::start(CommitLog::Batch);
    let store = open_keyspace(node.address(), "killed");
    let mut load = Load::new(&store, 64);
    for acks_before_kill in [1_000, 100] {
        let is_over = AtomicBool::new(false);
        let (acked, acks) = channel();
        thread::scope(|scope| {
            scope.spawn(|| {
                load.run_until(|| {
                    acked.send(Instant::now()).unwrap();
                    is_over.load(Ordering::Acquire)
                });
            });
            assert_eq!(acks.iter().take(acks_before_kill).count(), acks_before_kill);
            node.kill();
            node.restart();
            let ready = Instant::now();
            let recovery = acks.iter().find(|&at| at >= ready).unwrap() - ready;
            println!("acks again {} ms after the server was ready", recovery.as_millis());
            assert!(recovery < RECOVERY_MAX);
            is_over.store(true, Ordering::Release);
        });
    }
    let acked = load.acked;
    drop(store);
    Load::assert_stored(&acked, &open_keyspace(node.address(), "killed"));
    assert_eq!(Driver::connect(node.address()).count("killed.messages"), acked.iter().sum::<u64>());
}

#[test]
fn while_the_server_stands_still_appends_wait_and_reads_say_so() {
    const PAUSE: Duration = Duration::from_secs(5);
    let node = Node::start(CommitLog::Periodic);
    let store = open_keyspace(node.address(), "paused");
    let mut load = Load::new(&store, 64);
    let is_over = AtomicBool::new(false);
    let (acked, acks) = channel();
    thread::scope(|scope| {
        scope.spawn(|| {
            load.run_until(|| {
                acked.send(Instant::now()).unwrap();
                is_over.load(Ordering::Acquire)
            });
        });
        assert_eq!(acks.iter().take(500).count(), 500);
        node.pause();
        let paused = Instant::now();
        // It returns while the server still stands still, or never.
        let read = store.read(&name(0), 1, 10, 10);
        assert!(matches!(read, Err(StoreError::Unavailable { .. })), "{read:?}");
        thread::sleep(PAUSE.saturating_sub(paused.elapsed()));
        node.resume();
        let resumed = Instant::now();
        acks.iter().find(|&at| at >= resumed).unwrap();
        assert!(!store.read(&name(0), 1, 10, 10).unwrap().is_empty());
        is_over.store(true, Ordering::Release);
    });
    let acked = load.acked;
    drop(store);
    Load::assert_stored(&acked, &open_keyspace(node.address(), "paused"));
    assert_eq!(Driver::connect(node.address()).count("paused.messages"), acked.iter().sum::<u64>());
}
