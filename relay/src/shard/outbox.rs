//! What a turn of a shard causes outside of it.

use std::sync::Arc;

use storage::{Append, Record};
use uring::Segment;

use crate::ids::SessionId;
use crate::mesh::Mesh;
use crate::room::{Log, Wanted};

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
    /// Records, for this connection first of all.
    Read {
        room: Arc<str>,
        wanted: Wanted,
        asker: SessionId,
    },
    /// This connection has ended: what it asked for need not be read.
    Forget {
        session: SessionId,
    },
}

/// What storage has of what was wanted.
#[derive(Debug)]
pub struct Found {
    /// Seq of the first of the records, or of what they would begin with.
    pub first: u64,
    /// Dense. Where nothing is left of what was wanted, those that are kept next.
    pub records: Vec<Arc<Record>>,
    /// What was wanted before them has expired.
    pub has_expired: bool,
    /// More was wanted before and after them, and would have been too many bytes.
    pub more_before: bool,
    pub more_after: bool,
}

/// Why nothing was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unread {
    Failed,
    /// The connection that asked has ended, and the read was not tried.
    Gone(SessionId),
}

/// What storage did.
#[derive(Debug)]
pub enum StoreReply {
    /// None when storage failed.
    Opened {
        room: Arc<str>,
        log: Option<Log>,
    },
    /// The room's append is durable. Until it is, storage retries it unchanged and nothing is said.
    Appended {
        room: Arc<str>,
    },
    Read {
        room: Arc<str>,
        wanted: Wanted,
        found: Result<Found, Unread>,
    },
}
