//! What a turn of a shard causes outside of it.

use std::sync::Arc;

use storage::{Append, Record};
use uring::Segment;

use crate::ids::SessionId;
use crate::mesh::Mesh;
use crate::room::Log;

/// Effects, in the order they are to be carried out within each list.
pub struct Outbox {
    pub sends: Vec<(SessionId, Segment)>,
    /// Tell when the socket is writable again.
    pub polls: Vec<SessionId>,
    pub closes: Vec<SessionId>,
    /// Whether to receive from now on.
    pub receives: Vec<(SessionId, bool)>,
    /// By shard. What the lane does not take stays here.
    pub mesh: Vec<Vec<Mesh>>,
    pub store: Vec<StoreRequest>,
}

impl Outbox {
    pub fn new(shards: usize) -> Self {
        let mesh = (0..shards).map(|_| Vec::new()).collect();
        Self { sends: Vec::new(), polls: Vec::new(), closes: Vec::new(), receives: Vec::new(), mesh, store: Vec::new() }
    }
}

/// Something for storage to do. At most one append per room is under way, so that their number is bounded by rooms.
#[derive(Debug)]
pub enum StoreRequest {
    /// The state of a log and its newest records.
    Open {
        room: Arc<str>,
    },
    Append(Append),
    /// The records `first..=last`.
    Read {
        room: Arc<str>,
        first: u64,
        last: u64,
    },
}

/// What storage did.
#[derive(Debug)]
pub enum StoreReply {
    /// None when storage failed.
    Opened { room: Arc<str>, log: Option<Log> },
    /// The room's append is durable. Until it is, storage retries it unchanged and nothing is said.
    Appended { room: Arc<str> },
    /// The first seq from `first` on that has not expired, and the records from it on: those asked for, or where nothing
    /// of them is left, the next ones. None when storage failed.
    Read { room: Arc<str>, first: u64, last: u64, found: Option<(u64, Vec<Arc<Record>>)> },
}
