//! The relay as a process, over real sockets: what a simulation cannot see.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod admission;
mod chat;
mod client;
mod control;
mod crash;
mod crowd;
mod damage;
mod deflate;
mod durability;
mod event;
mod expiry;
mod flood;
mod history;
mod ids;
mod keys;
mod limits;
mod log;
#[path = "../../../storage/tests/cql/node.rs"]
mod node;
mod order;
mod parts;
mod pause;
mod process;
mod recovery;
mod refusals;
mod restart;
mod rooms;
mod scylla;
mod shutdown;
mod signals;
mod slow;
mod start;
mod stops;
mod storm;
mod timeouts;
