//! Rings against real loopback sockets.

mod accepting;
mod closing;
mod echo;
mod receiving;
mod rig;
mod sending;
