//! What a client may ask for, whatever dialect it speaks.

use std::borrow::Cow;

use crate::event::{Content, ErrorCode};

/// A command with the client's own number for it. Replies carry the same `tag`; 0 asks for no reply.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the first line says both")]
pub struct Request<'a> {
    pub tag: u32,
    pub command: Command<'a>,
}

/// One set of commands for all dialects. Strings borrow from the received frame where the encoding allows it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "a field is what its name says, the rest stands at its variant")]
pub enum Command<'a> {
    /// First command of a connection. Without a user the relay generates a name.
    Connect {
        user: Option<Cow<'a, str>>,
        device: Option<Cow<'a, str>>,
    },
    /// Become a member of a room, from `start` on.
    Join {
        room: Cow<'a, str>,
        start: Start,
    },
    Leave {
        room: Cow<'a, str>,
    },
    /// Append a message. `key` makes a repeat harmless: same user, same key, stored once.
    Publish {
        room: Cow<'a, str>,
        content: Content,
        body: Cow<'a, [u8]>,
        key: Option<Cow<'a, str>>,
    },
    /// Read a part of the room's log; `limit` messages at most. With an `epoch` other than the room's it is refused.
    History {
        room: Cow<'a, str>,
        page: Page,
        limit: u32,
        epoch: Option<u64>,
        /// The reply is in descending order of seq, where the dialect has that.
        newest_first: bool,
    },
    /// Who is in a room, and how much is said in it.
    Info {
        room: Cow<'a, str>,
    },
    Ping,
    /// The answer to the relay's own ping; only proves life.
    Pong,
    /// Something the dialect can ask for and the relay does not have.
    Unsupported,
    /// A command that its dialect refuses: the reply is this error. Without a tag it ends the connection.
    Refused {
        code: ErrorCode,
        why: Cow<'a, str>,
    },
}

impl Request<'_> {
    /// The same without a borrow.
    pub fn into_owned(self) -> Request<'static> {
        Request { tag: self.tag, command: self.command.into_owned() }
    }
}

impl<'a> Command<'a> {
    /// A page of history in ascending order, of whatever epoch.
    pub fn history(room: impl Into<Cow<'a, str>>, page: Page, limit: u32) -> Self {
        Self::History { room: room.into(), page, limit, epoch: None, newest_first: false }
    }

    /// The same without a borrow.
    pub fn into_owned(self) -> Command<'static> {
        fn owned<T: ?Sized + ToOwned>(text: Cow<'_, T>) -> Cow<'static, T> {
            Cow::Owned(text.into_owned())
        }
        match self {
            Self::Connect { user, device } => Command::Connect { user: user.map(owned), device: device.map(owned) },
            Self::Join { room, start } => Command::Join { room: owned(room), start },
            Self::Leave { room } => Command::Leave { room: owned(room) },
            Self::Publish { room, content, body, key } => {
                Command::Publish { room: owned(room), content, body: owned(body), key: key.map(owned) }
            }
            Self::History { room, page, limit, epoch, newest_first } => {
                Command::History { room: owned(room), page, limit, epoch, newest_first }
            }
            Self::Info { room } => Command::Info { room: owned(room) },
            Self::Ping => Command::Ping,
            Self::Pong => Command::Pong,
            Self::Unsupported => Command::Unsupported,
            Self::Refused { code, why } => Command::Refused { code, why: owned(why) },
        }
    }

    /// The room it is about, if it is about one.
    pub fn room(&self) -> Option<&str> {
        match self {
            Self::Join { room, .. }
            | Self::Leave { room }
            | Self::Publish { room, .. }
            | Self::History { room, .. }
            | Self::Info { room } => Some(room),
            Self::Connect { .. } | Self::Ping | Self::Pong | Self::Unsupported | Self::Refused { .. } => None,
        }
    }
}

/// Where a member's cursor starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "a field is what its name says, the rest stands at its variant")]
pub enum Start {
    /// The last `n` messages, then what follows (0: only what follows).
    Recent(u32),
    /// Everything after `seq`. With an `epoch` other than the room's, or past the limit of a recovery, the reply
    /// says `recovered: false` and the member starts at the head.
    Since { seq: u64, epoch: Option<u64> },
}

/// Which part of a log a history command reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page {
    /// The newest messages.
    Newest,
    /// The newest messages with a seq below this one.
    Before(u64),
    /// The oldest messages with a seq above this one.
    After(u64),
    /// Half before, this one, half after.
    Around(u64),
}
