//! Sockets on io_uring for one thread: direct descriptors, multishot receive over provided buffers, batched sends.
//!
//! A [`Ring`] owns up to `sockets` connections in its fixed-file table (itself limited to RLIMIT_NOFILE, so a thread
//! with more connections owns several rings). Nothing here knows about WebSocket, rooms or a runtime: the caller
//! calls [`Ring::turn`] in its own loop and parks on a [`Wake`] that all rings of the thread notify.
//!
//! This is the only crate of the workspace that may use `unsafe`.

mod event;
mod limits;
mod listen;
mod ring;
mod segment;
mod setup;
mod wake;

mod acceptor;
mod arrivals;
mod buffers;
mod dial;
mod queue;
mod slots;
mod token;

pub use event::{Event, Socket};
pub use limits::{open_files_max, raise_limits};
pub use listen::{listener, peer};
pub use ring::{ACCEPTS_MAX, Ring};
pub use segment::{Chunk, Segment};
pub use setup::{Config, SetupError};
pub use wake::Wake;
