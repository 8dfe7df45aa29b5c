//! What cores tell each other: plain data, fire and forget, over bounded lanes. No core ever waits for another.
//!
//! A lane is one direction between two shards, in order. The run loop moves an outbox's batches into it; what does
//! not fit stays in the outbox, whose length is what "full" means below.

use std::sync::Arc;

use protocol::{Content, ErrorCode, OwnedParts, Page, Start};
use storage::{Key, Record};

use crate::feed::Shared;
use crate::ids::{Principal, SessionId};
use crate::room::Waiter;
use crate::sizes::records_bytes;

/// One message between cores. `waiter` names the connection and its command.
#[derive(Debug)]
pub enum Mesh {
    /// To the owner. Lane full: the client hears `busy`.
    Join {
        waiter: Waiter,
        room: Arc<str>,
        principal: Principal,
        start: Start,
        /// What the member's core has in its own frames.
        shared: Option<Shared>,
    },
    /// To the owner; one fewer member on the sender's core. Lane full: waits in the outbox (there are no more of them
    /// than members).
    Leave { room: Arc<str>, shard: usize },
    /// To the owner. Lane full: the client hears `busy`, no seq was given.
    Publish {
        waiter: Waiter,
        room: Arc<str>,
        principal: Principal,
        content: Content,
        body: Box<[u8]>,
        key: Option<Key>,
        parts: OwnedParts,
    },
    /// To the owner. Lane full: the client hears `busy`.
    History {
        waiter: Waiter,
        room: Arc<str>,
        principal: Principal,
        page: Page,
        limit: u32,
        epoch: Option<u64>,
        newest_first: bool,
    },
    /// From the owner: the join's outcome. Every later [`Mesh::Deliver`] of this lane continues at `head + 1`.
    /// Lane full: waits in the outbox (as all replies: there are no more than admitted commands).
    Joined {
        waiter: Waiter,
        room: Arc<str>,
        epoch: u64,
        from: u64,
        head: u64,
        recovering: bool,
        recovered: bool,
        /// The core's own frames continue after this seq: `head`, or what the join named as shared.
        resume: u64,
        /// The messages `from + 1 ..= resume`.
        backlog: Vec<Arc<Record>>,
    },
    /// From the owner: messages that became visible, for all members on this core. Lane full: not sent, and made
    /// again from the owner's tail at a later turn.
    Deliver { room: Arc<str>, records: Arc<[Arc<Record>]> },
    /// From the owner: stored.
    Acked { waiter: Waiter, room: Arc<str>, seq: u64, id: u64 },
    /// From the owner: nothing was stored, for the message stored as this one has the key and another body.
    KeyTaken { waiter: Waiter, room: Arc<str>, seq: u64, id: u64 },
    /// From the owner: a page of history, ascending unless the newest was to be first.
    Page {
        waiter: Waiter,
        room: Arc<str>,
        epoch: u64,
        head: u64,
        /// So many messages fewer than were asked for.
        spare: u32,
        records: Vec<Arc<Record>>,
    },
    /// From the owner: a command was refused. After a refused join the member is forgotten.
    Refused { waiter: Waiter, room: Arc<str>, code: ErrorCode, retry_after_ms: u32, is_join: bool },
}

impl Mesh {
    /// What it holds in memory, bytes, as far as it is not counted elsewhere.
    pub fn bytes(&self) -> usize {
        let more = match self {
            Self::Publish { body, .. } => body.len(),
            Self::Deliver { records, .. } => records_bytes(records),
            Self::Joined { backlog: records, .. } | Self::Page { records, .. } => records_bytes(records),
            _ => 0,
        };
        size_of::<Self>() + more
    }

    /// Who waits for the reply, if it is a command that has one.
    pub fn asker(&self) -> Option<SessionId> {
        match self {
            Self::Join { waiter, .. } | Self::Publish { waiter, .. } | Self::History { waiter, .. } => {
                Some(waiter.session)
            }
            _ => None,
        }
    }

    /// Whose command on which room this answers, if it is a reply.
    pub fn answers(&self) -> Option<(SessionId, Arc<str>)> {
        match self {
            Self::Joined { waiter, room, .. }
            | Self::Acked { waiter, room, .. }
            | Self::KeyTaken { waiter, room, .. }
            | Self::Page { waiter, room, .. }
            | Self::Refused { waiter, room, .. } => Some((waiter.session, room.clone())),
            Self::Join { .. }
            | Self::Leave { .. }
            | Self::Publish { .. }
            | Self::History { .. }
            | Self::Deliver { .. } => None,
        }
    }
}
