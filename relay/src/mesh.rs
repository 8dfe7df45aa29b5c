//! What cores tell each other: plain data, fire and forget, over bounded lanes. No core ever waits for another.
//!
//! A lane is one direction between two shards, in order. The run loop moves an outbox's batches into it; what does
//! not fit stays in the outbox, whose length is what "full" means below.

use std::sync::Arc;

use protocol::{Content, ErrorCode, OwnedParts, Page, Start};
use storage::{Key, Record};

use crate::budget::Use;
use crate::feed::Shared;
use crate::ids::{Origin, Principal, Rights};
use crate::sizes::records_bytes;

/// One message between cores.
#[derive(Debug)]
pub enum Mesh {
    /// To the owner of a room, which answers once. Lane full: not sent, the client gets `busy`.
    Ask(Asked),
    /// From the owner. Lane full: waits in the outbox (there are no more of them than admitted asks).
    Answer(Answered),
    /// To the owner: one member fewer on this core, a connection of the user with this hash. Lane full: waits in the
    /// outbox (there are no more of them than members).
    Leave { room: Arc<str>, core: usize, user: u64 },
    /// From the owner: messages that became visible, for all members on this core. Lane full: not sent, and made
    /// again from the owner's tail at a later turn. The first of them was durable since then, milliseconds since 1970.
    Deliver { room: Arc<str>, records: Arc<[Arc<Record>]>, durable_ms: u64 },
}

/// What somebody asks of the owner of a room.
#[derive(Debug)]
pub struct Asked {
    /// Where the answer goes.
    pub origin: Origin,
    pub principal: Principal,
    pub room: Arc<str>,
    pub ask: Ask,
}

/// A command for the owner of a room, checked.
#[derive(Debug)]
#[expect(missing_docs, reason = "the fields are those of protocol::Command")]
pub enum Ask {
    /// `shared` is what the member's core has in its own frames.
    Join {
        start: Start,
        shared: Option<Shared>,
    },
    /// Where the lane is full, no seq was given.
    Publish {
        content: Content,
        body: Box<[u8]>,
        key: Option<Key>,
        parts: OwnedParts,
    },
    History {
        page: Page,
        limit: u32,
        epoch: Option<u64>,
        newest_first: bool,
    },
    Info,
}

/// What the owner of a room answers.
#[derive(Debug)]
pub struct Answered {
    /// Who asked.
    pub origin: Origin,
    pub room: Arc<str>,
    pub answer: Answer,
}

/// The outcome of an [`Ask`].
#[derive(Debug)]
pub enum Answer {
    /// Every later [`Mesh::Deliver`] of this lane continues at `head + 1`.
    Joined {
        epoch: u64,
        from: u64,
        head: u64,
        recovering: bool,
        recovered: bool,
        /// The core's own frames continue after this seq: `head`, or what the join named as shared.
        resume: u64,
        /// The messages `from + 1 ..= resume`.
        backlog: Vec<Arc<Record>>,
        /// The hash of the user that the owner counts as a member.
        user: u64,
    },
    /// Stored.
    Acked { seq: u64, id: u64 },
    /// Nothing was stored, for the message stored as this one has the key and another body.
    KeyTaken { seq: u64, id: u64 },
    /// A page of history, ascending unless the newest was to be first.
    Page {
        epoch: u64,
        head: u64,
        /// So many messages fewer than were asked for.
        spare: u32,
        records: Vec<Arc<Record>>,
    },
    /// What goes on in the room; the fields are those of `protocol::Event`.
    Info { epoch: u64, head: u64, members: u32, people: u32, per_minute: u32 },
    /// The command was refused. After a refused join the member is forgotten.
    Refused { code: ErrorCode, retry_after_ms: u32, is_join: bool },
}

impl Mesh {
    /// What it holds in memory, bytes, as far as it is not counted elsewhere.
    pub fn bytes(&self) -> usize {
        size_of::<Self>()
            + match self {
                Self::Ask(asked) => asked.ask.body_bytes(),
                Self::Answer(answered) => answered.answer.records_bytes(),
                Self::Deliver { records, .. } => records_bytes(records),
                Self::Leave { .. } => 0,
            }
    }
}

impl Asked {
    /// What it holds in memory while it waits, bytes.
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + self.ask.body_bytes()
    }
}

impl Ask {
    /// Those of one connection on one room follow each other at once.
    pub fn is_publish(&self) -> bool {
        matches!(self, Self::Publish { .. })
    }

    /// Somebody with these rights may ask for it.
    pub fn is_allowed(&self, rights: Rights) -> bool {
        match self {
            Self::Publish { .. } => rights.publish,
            Self::Join { .. } | Self::History { .. } | Self::Info => rights.read,
        }
    }

    /// What there must be memory for before it is sent to the owner: what kind of work it is, and bytes.
    pub fn needs(&self) -> Option<(Use, usize)> {
        match self {
            Self::Publish { body, .. } => Some((Use::Work, body.len())),
            Self::History { .. } => Some((Use::Answer, 0)),
            Self::Join { .. } | Self::Info => None,
        }
    }

    /// The body of a message that is to be stored, bytes.
    pub fn body_bytes(&self) -> usize {
        match self {
            Self::Publish { body, .. } => body.len(),
            Self::Join { .. } | Self::History { .. } | Self::Info => 0,
        }
    }
}

impl Answer {
    fn records_bytes(&self) -> usize {
        match self {
            Self::Joined { backlog: records, .. } | Self::Page { records, .. } => records_bytes(records),
            Self::Acked { .. } | Self::KeyTaken { .. } | Self::Info { .. } | Self::Refused { .. } => 0,
        }
    }
}
