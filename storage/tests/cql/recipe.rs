//! The server, the proxy and the shim of these tests do what the tests rely on.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::errors::{DbError, ExecutionError, RequestAttemptError};
use scylla::policies::retry::FallthroughRetryPolicy;
use scylla::statement::batch::{Batch, BatchType};
use scylla::statement::prepared::PreparedStatement;
use tokio::runtime::Runtime;

use crate::node::{CommitLog, Node};
use crate::proxy::{self, Proxy};
use crate::shim::{Routed, SHARDS, Shim};

/// A bare driver with a table of its own.
struct Driver {
    runtime: Runtime,
    session: Session,
    insert: PreparedStatement,
}

impl Driver {
    fn connect(keyspace: &str, address: SocketAddr) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (session, insert) = runtime.block_on(async {
            let mut builder = SessionBuilder::new().known_node_addr(address);
            builder.config.metadata_request_serverside_timeout = None;
            let session = builder.build().await.unwrap();
            let replication = "{'class': 'SimpleStrategy', 'replication_factor': 1}";
            for statement in [
                format!("CREATE KEYSPACE {keyspace} WITH replication = {replication}"),
                format!("CREATE TABLE {keyspace}.rows (room text, bucket bigint, id bigint, PRIMARY KEY ((room, bucket), id))"),
            ] {
                session.query_unpaged(statement, ()).await.unwrap();
            }
            let insert = format!("INSERT INTO {keyspace}.rows (id, bucket, room) VALUES (?, ?, ?)");
            let mut insert = session.prepare(insert).await.unwrap();
            insert.set_retry_policy(Some(Arc::new(FallthroughRetryPolicy)));
            (session, insert)
        });
        Self { runtime, session, insert }
    }

    fn insert(&self, room: &str, id: i64) -> Result<(), ExecutionError> {
        self.runtime.block_on(self.session.execute_unpaged(&self.insert, (id, 7i64, room))).map(|_| ())
    }

    fn count(&self, keyspace: &str) -> i64 {
        let count = self.session.query_unpaged(format!("SELECT count(*) FROM {keyspace}.rows"), ());
        self.runtime.block_on(count).unwrap().into_rows_result().unwrap().single_row::<(i64,)>().unwrap().0
    }
}

#[test]
fn a_killed_node_keeps_what_it_acked_and_a_paused_one_goes_on() {
    let mut node = Node::start(CommitLog::Batch);
    let driver = Driver::connect("killed", node.address());
    (0..100).for_each(|id| driver.insert("a", id).unwrap());
    node.kill();
    assert!(driver.insert("a", 100).is_err());
    node.restart();
    let driver = Driver::connect("again", node.address());
    assert_eq!(driver.count("killed"), 100);
    node.pause();
    assert!(driver.runtime.block_on(async {
        let insert = driver.session.execute_unpaged(&driver.insert, (1i64, 7i64, "b"));
        tokio::time::timeout(Duration::from_millis(300), insert).await.is_err()
    }));
    node.resume();
    driver.insert("b", 2).unwrap();
    assert_eq!(driver.count("again"), 2, "what was sent to a paused node is carried out later");
}

#[test]
fn the_proxy_refuses_loses_delays_and_denies() {
    let proxy = Proxy::start(Node::shared().address());
    let driver = Driver::connect("proxied", proxy.address());
    let error_of = |result: Result<(), ExecutionError>| match result {
        Err(ExecutionError::LastAttemptError(RequestAttemptError::DbError(error, _))) => Some(error),
        Err(_) => None,
        Ok(()) => panic!("a fault was expected"),
    };

    proxy.on_requests([(proxy::next(1), proxy::overloaded())]);
    assert_eq!(error_of(driver.insert("a", 1)), Some(DbError::Overloaded));
    assert_eq!(driver.count("proxied"), 0, "it was refused");
    driver.insert("a", 1).unwrap();

    proxy.on_responses([(proxy::results(), proxy::write_timeout())]);
    assert!(matches!(error_of(driver.insert("a", 2)), Some(DbError::WriteTimeout { .. })));
    proxy.calm();
    assert_eq!(driver.count("proxied"), 2, "it was carried out");

    proxy.on_requests([(proxy::next(1), proxy::late(Duration::from_millis(300)))]);
    let before = Instant::now();
    driver.insert("a", 3).unwrap();
    assert!(before.elapsed() >= Duration::from_millis(300), "a delay may be longer, never shorter");

    proxy.on_requests([(proxy::next(1), proxy::cut())]);
    assert_eq!(error_of(driver.insert("a", 4)), None, "the connection was lost");
}

#[test]
fn through_the_shim_each_statement_comes_over_its_partitions_shard() {
    let shim = Shim::start(Node::shared().address());
    let driver = Driver::connect("shimmed", shim.address());
    for room in 0..400 {
        driver.insert(&room.to_string(), 1).unwrap();
    }
    for room in (0..400).map(|room| format!("batched {room}")) {
        let mut batch = Batch::new(BatchType::Unlogged);
        (0..4).for_each(|_| batch.append_statement(driver.insert.clone()));
        let values: Vec<_> = (0..4i64).map(|id| (id, 7i64, &room)).collect();
        driver.runtime.block_on(driver.session.batch(&batch, values)).unwrap();
    }
    let Routed { right, wrong } = shim.routed()["shimmed.rows"];
    assert_eq!((right.iter().sum::<u64>(), wrong), (2_000, 0));
    assert!(right.iter().all(|&count| count > 0), "{SHARDS} shards, {right:?}");
}
