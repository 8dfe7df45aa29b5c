//! What is kept: [`Record`]s of rooms' logs, behind the blocking, batched [`Store`] interface, and its engines.
//!
//! No runtime appears in any signature; the relay's `persist` owns the threads. Every engine passes the same
//! conformance suite (`tests/conformance.rs`).

#![warn(missing_docs)]

mod continuation;
pub mod copy;
pub mod embedded;
pub mod faulty;
pub mod keys;
pub mod memory;
pub mod record;
pub mod scylla;
mod seqs;
mod slot;
mod states;
pub mod store;

pub use embedded::{EmbeddedStore, Options};
pub use faulty::{Fault, FaultyStore};
pub use keys::StoredKey;
pub use memory::MemoryStore;
pub use record::{Key, Kind, Record};
pub use scylla::ScyllaStore;
pub use slot::{SLOTS, room_slot};
pub use store::{Append, Concurrent, Done, LogState, Metric, Store, StoreError};
