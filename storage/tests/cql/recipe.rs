//! The proxy and the shim of these tests do what the tests rely on.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use scylla::errors::{DbError, ExecutionError, RequestAttemptError};
use scylla::policies::retry::FallthroughRetryPolicy;
use scylla::statement::batch::{Batch, BatchType};
use scylla::statement::prepared::PreparedStatement;

use crate::driver::Driver;
use crate::node::Node;
use crate::proxy::{self, Proxy};
use crate::shim::{Routed, SHARDS, Shim};

/// A driver with a table of its own.
struct Table {
    driver: Driver,
    insert: PreparedStatement,
}

impl Table {
    fn make(keyspace: &str, node: SocketAddr) -> Self {
        let driver = Driver::connect(node);
        let replication = "{'class': 'SimpleStrategy', 'replication_factor': 1}";
        for statement in [
            format!("CREATE KEYSPACE {keyspace} WITH replication = {replication}"),
            format!(
                "CREATE TABLE {keyspace}.rows (room text, bucket bigint, id bigint, PRIMARY KEY ((room, bucket), id))"
            ),
        ] {
            driver.run(&statement);
        }
        let insert = format!("INSERT INTO {keyspace}.rows (id, bucket, room) VALUES (?, ?, ?)");
        let mut insert = driver.runtime.block_on(driver.session.prepare(insert)).unwrap();
        insert.set_retry_policy(Some(Arc::new(FallthroughRetryPolicy)));
        Self { driver, insert }
    }

    /// Fails with what the node said, if it said anything.
    fn insert(&self, room: &str, id: i64) -> Result<(), Option<DbError>> {
        let Self { driver: Driver { runtime, session }, insert } = self;
        match runtime.block_on(session.execute_unpaged(insert, (id, 7i64, room))) {
            Ok(_) => Ok(()),
            Err(ExecutionError::LastAttemptError(RequestAttemptError::DbError(error, _))) => Err(Some(error)),
            Err(_) => Err(None),
        }
    }
}

#[test]
fn the_proxy_refuses_denies_delays_and_cuts() {
    let proxy = Proxy::start(Node::shared().address());
    let table = Table::make("proxied", proxy.address());
    let count = || table.driver.count("proxied.rows");

    proxy.on_requests([(proxy::next(1), proxy::overloaded())]);
    assert_eq!(table.insert("a", 1), Err(Some(DbError::Overloaded)));
    assert_eq!(count(), 0, "it was refused");
    table.insert("a", 1).unwrap();

    proxy.on_responses([(proxy::results(), proxy::write_timeout())]);
    assert!(matches!(table.insert("a", 2), Err(Some(DbError::WriteTimeout { .. }))));
    proxy.calm();
    assert_eq!(count(), 2, "it was carried out");

    proxy.on_requests([(proxy::next(1), proxy::late(Duration::from_millis(300)))]);
    let before = Instant::now();
    table.insert("a", 3).unwrap();
    assert!(before.elapsed() >= Duration::from_millis(300), "a delay may be longer, never shorter");

    proxy.on_requests([(proxy::next(1), proxy::cut())]);
    assert_eq!(table.insert("a", 4), Err(None), "the connection was lost");
}

#[test]
fn through_the_shim_each_statement_comes_over_its_partitions_shard() {
    let shim = Shim::start(Node::shared().address());
    let table = Table::make("shimmed", shim.address());
    for room in 0..400 {
        table.insert(&room.to_string(), 1).unwrap();
    }
    let mut batch = Batch::new(BatchType::Unlogged);
    (0..4).for_each(|_| batch.append_statement(table.insert.clone()));
    for room in (0..400).map(|room| format!("batched {room}")) {
        let values: Vec<_> = (0..4i64).map(|id| (id, 7i64, &room)).collect();
        table.driver.runtime.block_on(table.driver.session.batch(&batch, values)).unwrap();
    }
    let Routed { right, wrong } = shim.routed()["shimmed.rows"];
    assert_eq!((right.iter().sum::<u64>(), wrong), (2_000, 0));
    assert!(right.iter().all(|&count| count > 0), "{SHARDS} shards, {right:?}");
}
