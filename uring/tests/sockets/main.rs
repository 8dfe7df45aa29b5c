//! Rings against real loopback sockets.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod accepting;
mod closing;
mod echo;
mod receiving;
mod rig;
mod sending;
