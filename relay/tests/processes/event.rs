//! What a client was told, owned.

use protocol::frame::Incoming;
use protocol::native::{self, Packed, Received};
use protocol::{ClientId, Content, ErrorCode, Kind, OwnedParts};
use serde_json::Value;

/// One message of a room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub seq: u64,
    pub id: u64,
    pub user: String,
    pub content: Content,
    pub body: Vec<u8>,
    pub kind: Kind,
    pub parts: OwnedParts,
}

impl Line {
    pub fn text(&self) -> &str {
        str::from_utf8(&self.body).unwrap()
    }
}

/// Reply to a join.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Joined {
    pub epoch: u64,
    pub from: u64,
    pub head: u64,
    pub recovering: bool,
    pub recovered: bool,
}

/// One thing the relay sent.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    Connected {
        session: u64,
        client: ClientId,
    },
    Joined(Joined),
    Left,
    Acked {
        seq: u64,
        id: u64,
    },
    History {
        epoch: u64,
        head: u64,
        lines: Vec<Line>,
    },
    Info {
        head: u64,
        members: u32,
        people: u32,
    },
    Batch {
        room: String,
        lines: Vec<Line>,
    },
    Gap {
        room: String,
        from: u64,
        to: u64,
    },
    Error {
        code: ErrorCode,
        retry_after_ms: u32,
    },
    KeyTaken {
        seq: u64,
        id: u64,
    },
    GoingAway {
        reconnect_after_ms: u32,
    },
    Pong,
    /// A line of the Centrifuge dialect.
    Json(Value),
    Ping,
    /// The relay's close frame.
    Closed {
        code: Option<u16>,
        reason: String,
    },
    /// The end of the connection.
    Ended,
}

impl Event {
    /// Everything in one WebSocket message, with tags.
    pub fn read(incoming: &Incoming<'_>) -> Vec<(u32, Self)> {
        match incoming {
            Incoming::Binary(payload) => {
                let (tag, received) = native::decode_event(payload).unwrap();
                vec![(tag, Self::from(received.expect("the relay says what is known")))]
            }
            Incoming::Text(text) => text.lines().map(Self::from_json).collect(),
            Incoming::Ping(_) => vec![(0, Self::Ping)],
            Incoming::Pong(_) => Vec::new(),
            Incoming::Deflated { .. } => panic!("it is to be inflated"),
            Incoming::Close { code, reason } => vec![(0, Self::Closed { code: *code, reason: (*reason).to_owned() })],
        }
    }

    fn from_json(line: &str) -> (u32, Self) {
        let value: Value = serde_json::from_str(line).unwrap();
        let tag = value["id"].as_u64().unwrap_or(0) as u32;
        (tag, if line == "{}" { Self::Ping } else { Self::Json(value) })
    }

    /// The JSON of a Centrifuge client's reply or push.
    pub fn json(self) -> Value {
        match self {
            Self::Json(value) => value,
            other => panic!("not JSON: {other:?}"),
        }
    }

    /// The code of a refusal.
    pub fn error(&self) -> ErrorCode {
        match self {
            Self::Error { code, .. } => *code,
            other => panic!("not refused: {other:?}"),
        }
    }

    /// Seq and id of an ack.
    pub fn acked(&self) -> (u64, u64) {
        match self {
            Self::Acked { seq, id } => (*seq, *id),
            other => panic!("not acked: {other:?}"),
        }
    }
}

impl From<Received<'_>> for Event {
    fn from(received: Received<'_>) -> Self {
        match received {
            Received::Connected { session, client, .. } => Self::Connected { session, client },
            Received::Joined { epoch, from, head, recovering, recovered, .. } => {
                Self::Joined(Joined { epoch, from, head, recovering, recovered })
            }
            Received::Left { .. } => Self::Left,
            Received::Acked { seq, id, .. } => Self::Acked { seq, id },
            Received::History { epoch, head, messages, .. } => Self::History { epoch, head, lines: lines(&messages) },
            Received::Batch { room, messages } => Self::Batch { room: room.to_owned(), lines: lines(&messages) },
            Received::Gap { room, from, to } => Self::Gap { room: room.to_owned(), from, to },
            Received::Error { code, retry_after_ms, .. } => Self::Error { code, retry_after_ms },
            Received::KeyTaken { seq, id } => Self::KeyTaken { seq, id },
            Received::GoingAway { reconnect_after_ms, .. } => Self::GoingAway { reconnect_after_ms },
            Received::Info { head, members, people, .. } => Self::Info { head, members, people },
            Received::Pong => Self::Pong,
            Received::Ping => Self::Ping,
        }
    }
}

fn lines(messages: &Packed<'_>) -> Vec<Line> {
    let owned = messages.iter().map(|message| {
        let message = message.unwrap();
        Line {
            seq: message.seq,
            id: message.id,
            user: message.user.to_owned(),
            content: message.content,
            body: message.body.to_owned(),
            kind: message.kind,
            parts: message.parts.to_owned(),
        }
    });
    owned.collect()
}
