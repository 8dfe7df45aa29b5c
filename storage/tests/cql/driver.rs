//! A bare driver, to look at the tables and to try the faults.

use std::net::SocketAddr;

use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::deserialize::row::DeserializeRow;
use tokio::runtime::Runtime;

pub struct Driver {
    pub runtime: Runtime,
    pub session: Session,
}

impl Driver {
    pub fn connect(node: SocketAddr) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut builder = SessionBuilder::new().known_node_addr(node);
        // The shim plays a ScyllaDB node that does not know ScyllaDB's own extension of CQL.
        builder.config.metadata_request_serverside_timeout = None;
        let session = runtime.block_on(builder.build()).unwrap();
        Self { runtime, session }
    }

    pub fn run(&self, statement: &str) {
        self.runtime.block_on(self.session.query_unpaged(statement, ())).unwrap();
    }

    /// All rows that a query gives.
    pub fn rows<R>(&self, query: &str) -> Vec<R>
    where
        R: for<'f, 'm> DeserializeRow<'f, 'm>,
    {
        let result = self.runtime.block_on(self.session.query_unpaged(query, ())).unwrap();
        result.into_rows_result().unwrap().rows::<R>().unwrap().map(Result::unwrap).collect()
    }

    /// How many rows a table has.
    pub fn count(&self, table: &str) -> u64 {
        let [(count,)] = self.rows::<(i64,)>(&format!("SELECT count(*) FROM {table}"))[..] else { panic!() };
        count as u64
    }
}
