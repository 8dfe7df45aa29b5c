//! The store on ScyllaDB, against a real CQL server (`conformance/cql`) and with faults between the two.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod frame;
mod node;
mod proxy;
mod shim;

mod recipe;
