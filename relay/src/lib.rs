//! The relay: a room is an ordered log, everything else is a cursor over it.
//!
//! Modules in reading order: what may be set, what a message meets on its way (session, shard, room, persist, feed),
//! and what drives it all (serve). Everything up to `mesh` is pure: no I/O, no clock, no runtime.

pub mod allowance;
pub mod audience;
pub mod budget;
pub mod chain;
pub mod config;
pub mod control;
pub mod dedupe;
pub mod deflation;
pub mod feed;
pub mod figures;
pub mod histogram;
pub mod ids;
pub mod invalid;
pub mod log;
pub mod mesh;
pub mod metrics;
pub mod name;
pub mod persist;
pub mod pipeline;
pub mod rate;
pub mod room;
pub mod serve;
pub mod session;
pub mod shard;
pub mod sizes;
pub mod store;
pub mod tempo;
