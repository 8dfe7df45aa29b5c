//! The store on ScyllaDB, against a real CQL server (`conformance/cql`) and with faults between the two.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "../common/mod.rs"]
mod common;
mod driver;
mod frame;
mod load;
mod node;
mod proxy;
mod shim;

mod crash;
mod faults;
mod lease;
mod loss;
mod recipe;
mod schema;
mod sharding;
