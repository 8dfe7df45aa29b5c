//! The relay: a room is an ordered log, everything else is a cursor over it.
//!
//! Modules in reading order: what may be set, what a message meets on its way (session, shard, room, persist, feed),
//! and what drives it all (serve). Everything up to `mesh` is pure: no I/O, no clock, no runtime.

pub mod config;
pub mod ids;
pub mod session;
pub mod dedupe;
pub mod room;
pub mod feed;
pub mod tempo;
pub mod mesh;
pub mod shard;
pub mod persist;
pub mod serve;
