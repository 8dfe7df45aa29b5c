//! What the relay tells a client, whatever dialect it speaks.

use crate::parts::{ClientId, Parts};

/// What a message body is. The number is stored and sent; never reuse one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Content {
    /// UTF-8 text.
    Text = 0,
    /// One JSON value as the publisher wrote it.
    Json = 1,
    /// Bytes; JSON dialects show them as `{"base64":"…"}`.
    Binary = 2,
}

impl Content {
    /// The content type with this stored number.
    pub fn from_u8(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Text),
            1 => Some(Self::Json),
            2 => Some(Self::Binary),
            _ => None,
        }
    }
}

/// What an entry of a log is. Numbers that this version does not know pass through, so that it can carry a later one's
/// entries; whoever reads one of them does not show it as something that was said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Something a user said. Number 0.
    Message,
    /// A kind this version does not know (edit, delete, pin, mode, membership… of a later one).
    Other(u8),
}

impl Kind {
    const MESSAGE: u8 = 0;

    /// The stored number.
    pub fn to_u8(self) -> u8 {
        match self {
            Self::Message => Self::MESSAGE,
            Self::Other(number) => number,
        }
    }

    /// The kind with this stored number.
    pub fn from_u8(number: u8) -> Self {
        if number == Self::MESSAGE { Self::Message } else { Self::Other(number) }
    }
}

/// One stored message as a reader sees it. Borrowed: the relay encodes it from its record, a client from the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the rest is what its name says")]
pub struct Message<'a> {
    /// Position in the room's log: 1, 2, 3… without holes.
    pub seq: u64,
    /// Snowflake, unique per deployment and ordered by time.
    pub id: u64,
    /// When the relay took it, milliseconds since 1970.
    pub time_ms: u64,
    pub user: &'a str,
    pub content: Content,
    pub body: &'a [u8],
    pub kind: Kind,
    pub parts: Parts<'a>,
}

/// One set of events for all dialects. A client may have the messages in another form, `M`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "a field is what its name says, the rest stands at its variant")]
pub enum Event<'a, M = &'a [Message<'a>]> {
    /// Reply to connect: who the relay takes the client for; `session` is unique per relay process, `client` for ever.
    Connected {
        user: &'a str,
        session: u64,
        client: ClientId,
        ping_s: u32,
    },
    /// Reply to join. The first message that follows has seq `from + 1`; `head` is the room's last visible seq.
    /// `from` is what the client asked from when `recovered`, else `head` (less the recent messages asked for).
    Joined {
        room: &'a str,
        epoch: u64,
        from: u64,
        head: u64,
        recovering: bool,
        recovered: bool,
    },
    Left {
        room: &'a str,
    },
    /// Reply to publish: stored durably. A repeat of a key gets the first one's seq and id.
    Acked {
        room: &'a str,
        seq: u64,
        id: u64,
    },
    /// Reply to a publish whose key is that of another message, stored under this seq and id. Nothing was stored.
    KeyTaken {
        seq: u64,
        id: u64,
    },
    /// Reply to history, ascending.
    History {
        room: &'a str,
        epoch: u64,
        head: u64,
        messages: M,
    },
    /// Reply to info: connections in the room, users among them, and messages a minute, as the last seconds were.
    Info {
        room: &'a str,
        epoch: u64,
        head: u64,
        members: u32,
        people: u32,
        per_minute: u32,
    },
    /// Messages of a room, ascending and without holes. The same bytes for every member.
    Batch {
        room: &'a str,
        messages: M,
    },
    /// The messages `from..=to` will not be sent to this slow member; history has them.
    Gap {
        room: &'a str,
        from: u64,
        to: u64,
    },
    /// A command was refused, or (tag 0) something is wrong with the connection.
    Error {
        code: ErrorCode,
        message: &'a str,
        retry_after_ms: u32,
    },
    /// The relay closes this connection; come back after so many milliseconds.
    GoingAway {
        reason: &'a str,
        reconnect_after_ms: u32,
    },
    Pong,
    /// The relay asks for a sign of life, where the dialect has its own pings.
    Ping,
}

/// Why a command was refused. Numbers are stable: they are part of the native dialect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[repr(u16)]
#[expect(missing_docs, reason = "each code's text says it")]
pub enum ErrorCode {
    #[error("bad request")]
    BadRequest = 1,
    #[error("connect first")]
    NotConnected = 2,
    #[error("already connected or joined")]
    Already = 3,
    #[error("not a member of this room")]
    NotJoined = 4,
    #[error("permission denied")]
    Denied = 5,
    #[error("larger than the limit")]
    TooLarge = 6,
    #[error("too many rooms")]
    TooManyRooms = 7,
    #[error("too fast")]
    RateLimited = 8,
    /// Nothing was stored and no seq was given: try again later.
    #[error("busy")]
    Busy = 9,
    /// The outcome of a publish is not known: repeat it with the same key.
    #[error("outcome unknown, repeat with the same key")]
    Unknown = 10,
    /// Storage does not answer.
    #[error("storage unavailable")]
    Unavailable = 11,
    #[error("internal error")]
    Internal = 12,
    /// The connection takes its data too slowly.
    #[error("slow consumer")]
    SlowConsumer = 13,
    #[error("the relay has no such command")]
    Unsupported = 14,
    /// Told with the seq and id of the message that has the key.
    #[error("this key belongs to another message")]
    KeyTaken = 15,
    /// A position of another epoch.
    #[error("unrecoverable position")]
    Unrecoverable = 16,
    /// The dialect has it, and it is off.
    #[error("not available")]
    NotAvailable = 17,
}

impl ErrorCode {
    /// All codes, in order of their numbers from 1.
    pub const ALL: [Self; 17] = [
        Self::BadRequest,
        Self::NotConnected,
        Self::Already,
        Self::NotJoined,
        Self::Denied,
        Self::TooLarge,
        Self::TooManyRooms,
        Self::RateLimited,
        Self::Busy,
        Self::Unknown,
        Self::Unavailable,
        Self::Internal,
        Self::SlowConsumer,
        Self::Unsupported,
        Self::KeyTaken,
        Self::Unrecoverable,
        Self::NotAvailable,
    ];

    /// The code with this number.
    pub fn from_u16(number: u16) -> Option<Self> {
        Self::ALL.get(usize::from(number).checked_sub(1)?).copied()
    }
}

/// Why the relay closes a connection; each dialect has its own status code for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Close {
    /// The relay stops or restarts: come back, spread over time.
    GoingAway,
    /// Nothing was heard from the client for the idle timeout, not even an answer to a ping.
    Idle,
    /// The client took nothing for the slow-consumer timeout, or let its replies pile up past their limit.
    SlowConsumer,
    /// A message that the dialect cannot read.
    BadRequest,
    /// No connect command came in time.
    Stale,
    /// The client goes on sending what has no effect: pings, pongs, commands that are refused.
    Flood,
    /// The client asked for an encoding that is not served here.
    WrongEncoding,
    /// The client uses what is not available, and cannot be told in a reply.
    NotAvailable,
    /// The relay has no memory for what the client is in the middle of sending.
    Overloaded,
    /// The connection was replaced or ended on purpose and should not come back by itself.
    Ended,
    /// The relay failed.
    Internal,
}
