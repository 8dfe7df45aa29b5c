//! Records and appends for tests.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::net::SocketAddr;
use std::sync::Arc;

use protocol::{Content, OwnedParts};
use storage::scylla::{Options as ScyllaOptions, ScyllaStore};
use storage::{Append, Key, Kind, Record, Store};

/// A record whose id and body follow from its seq.
pub fn record(seq: u64) -> Record {
    sized(seq, 20)
}

/// The same with a body of `bytes`.
pub fn sized(seq: u64, bytes: usize) -> Record {
    Record {
        kind: Kind::Message,
        seq,
        id: id(seq),
        time_ms: 4_000_000_000_000 + seq,
        sender: format!("user{}", seq % 7).into(),
        content: Content::Text,
        body: (0..bytes).map(|at| (seq as usize * 31 + at * 7) as u8).collect(),
        key: seq
            .is_multiple_of(2)
            .then_some(Key { hash: u128::from(seq) << 64 | 5, body: (!seq.is_multiple_of(6)).then_some(seq * 7) }),
        parts: OwnedParts::default(),
    }
}

/// The id of the record `seq`.
pub fn id(seq: u64) -> u64 {
    (seq << 22) | 3
}

/// An append of the records `first..=last`.
pub fn append(store: &dyn Store, room: &str, first: u64, last: u64) -> Append {
    let epoch = store.open_log(room).unwrap().epoch;
    Append { room: room.into(), epoch, records: (first..=last).map(|seq| Arc::new(record(seq))).collect() }
}

/// Appends the records `first..=last`.
pub fn fill(store: &dyn Store, room: &str, first: u64, last: u64) {
    store.append(&[append(store, room, first, last)]).unwrap();
}

/// Checks that the log is exactly `1..=last`.
pub fn assert_whole(store: &dyn Store, room: &str, last: u64) {
    assert_eq!(store.open_log(room).unwrap().last_seq, last, "room {room:?}");
    let records = store.read(room, 1, u64::MAX, usize::MAX).unwrap();
    assert_eq!(records.len() as u64, last, "room {room:?}");
    for (found, seq) in records.iter().zip(1..) {
        assert_eq!(found, &record(seq), "room {room:?}");
    }
}

/// Runs the test `name` of this binary again as another process, which finds `dir` in the variable `CHILD_DIR`.
pub fn child(name: &str, dir: &std::path::Path) -> std::process::Command {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args([name, "--exact", "--nocapture", "--test-threads=1"]).env(CHILD_DIR, dir);
    command
}

/// The directory this process was started for by [`child`].
pub fn child_dir() -> Option<std::path::PathBuf> {
    std::env::var_os(CHILD_DIR).map(Into::into)
}

const CHILD_DIR: &str = "STORAGE_TEST_CHILD_DIR";

/// Opens the directory with the default options.
pub fn open(dir: &std::path::Path) -> Result<storage::EmbeddedStore, storage::StoreError> {
    storage::EmbeddedStore::open(dir, storage::Options::default())
}

/// How a keyspace on a node of one's own is opened; where it has to be made, each row is kept once.
pub fn keyspace(node: SocketAddr, name: &str) -> ScyllaOptions {
    let address = format!("scylla://{node}/{name}").parse().unwrap();
    ScyllaOptions { replication: Some("1".parse().unwrap()), ..ScyllaOptions::new(address) }
}

/// Opens it.
pub fn open_keyspace(node: SocketAddr, name: &str) -> ScyllaStore {
    ScyllaStore::open(keyspace(node, name)).unwrap()
}
