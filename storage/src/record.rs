//! One entry of a room's log as it is stored, in memory and as versioned bytes.

use protocol::{Content, Message};

/// What an entry is. Unknown numbers pass through, so that an older relay can carry a newer one's entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Message,
    /// A kind this version does not know (edit, delete, pin, mode, membership… of a later one).
    Other(u8),
}

/// One entry of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub kind: Kind,
    pub seq: u64,
    /// Snowflake.
    pub id: u64,
    /// When the relay took it, milliseconds since 1970.
    pub time_ms: u64,
    pub sender: Box<str>,
    pub content: Content,
    pub body: Box<[u8]>,
    /// Hash of (user, idempotency key) when the publisher gave a key.
    pub key: Option<u128>,
}

impl Record {
    /// As a reader sees it.
    pub fn message(&self) -> Message<'_> {
        Message {
            seq: self.seq,
            id: self.id,
            time_ms: self.time_ms,
            user: &self.sender,
            content: self.content,
            body: &self.body,
        }
    }
}
