//! The native dialect: one binary WebSocket message is a header and one rkyv archive ([`wire`]), checked on receipt.
//!
//! Messages travel packed by hand (plain rkyv structs cost 49 bytes a line): see `protocol/README.md` for the layout.

mod packed;
mod wire;

#[cfg(test)]
mod tests;

use std::{borrow::Cow, ops::ControlFlow};

use rkyv::{boxed::ArchivedBox, option::ArchivedOption, primitive::ArchivedU64};

pub use packed::Packed;
use wire::{Header, down, up};

use crate::{
    ClientId, Command, Content, Event, Malformed, Page, Request, Start,
    event::{Close, ErrorCode},
    frame::{self, Incoming, Opcode},
};

/// Where the relay serves it.
pub const PATH: &str = "/native";
/// The versioned sub-protocol.
pub const SUBPROTOCOL: &str = "relay.native.v2";
/// The same with the optional parts of messages. It goes before the other when both are offered.
pub const SUBPROTOCOL_PARTS: &str = "relay.native.v2.parts";

/// Whether a client that offers these sub-protocols gets the parts of messages, and the sub-protocol to answer with.
pub(crate) fn negotiate(offered: &[String]) -> Result<(bool, Option<&'static str>), Malformed> {
    if offered.is_empty() {
        return Ok((false, None));
    }
    for (with_parts, known) in [(true, SUBPROTOCOL_PARTS), (false, SUBPROTOCOL)] {
        if offered.iter().any(|name| name == known) {
            return Ok((with_parts, Some(known)));
        }
    }
    Err(Malformed(format!("none of the sub-protocols {offered:?} is known here; {PATH} speaks {SUBPROTOCOL}")))
}

/// Status codes of the close frame.
pub(crate) fn close(why: Close) -> (u16, &'static str) {
    match why {
        Close::GoingAway => (1001, "going away"),
        Close::Internal => (1011, "internal error"),
        Close::Idle => (4000, "idle"),
        Close::SlowConsumer => (4001, "slow consumer"),
        Close::BadRequest => (4002, "bad request"),
        Close::Ended => (4003, "ended"),
        Close::Stale => (4005, "no connect command"),
        Close::Flood => (4004, "too many requests"),
        // No client of this dialect can ask for either.
        Close::WrongEncoding => (4006, "unknown encoding"),
        Close::NotAvailable => (4007, "not available"),
        Close::Overloaded => (1013, "try again later"),
    }
}

pub(crate) fn decode<'a>(
    message: &Incoming<'a>,
    each: &mut dyn FnMut(Request<'a>) -> ControlFlow<()>,
) -> Result<usize, Malformed> {
    match message {
        Incoming::Binary(payload) => {
            // There is nothing after its one command to break off.
            let _ = each(decode_request(payload)?);
            Ok(payload.len())
        }
        Incoming::Text(_) => Err(Malformed(format!("{SUBPROTOCOL} takes binary messages only"))),
        Incoming::Deflated { .. } => Err(Malformed("the message is still compressed".to_owned())),
        Incoming::Ping(_) | Incoming::Pong(_) | Incoming::Close { .. } => Ok(0),
    }
}

fn decode_request(payload: &[u8]) -> Result<Request<'_>, Malformed> {
    match wire::complete(payload, up::root_bytes) {
        Cow::Borrowed(payload) => read_request(payload),
        Cow::Owned(payload) => read_request(&payload).map(Request::into_owned),
    }
    .ok_or_else(unreadable)
}

fn read_request(payload: &[u8]) -> Option<Request<'_>> {
    let header = Header::read(payload)?;
    let command = match header.kind {
        up::CONNECT => {
            let wire::ArchivedConnect { user, device } = header.root(payload)?;
            Command::Connect { user: text(user), device: text(device) }
        }
        up::JOIN => {
            let wire::ArchivedJoin { room, start, position, epoch } = header.root(payload)?;
            match read_start(*start, position.to_native(), number(epoch)) {
                Some(start) => Command::Join { room: Cow::Borrowed(room), start },
                None => unknown("start", *start),
            }
        }
        up::LEAVE => {
            let wire::ArchivedLeave { room } = header.root(payload)?;
            Command::Leave { room: Cow::Borrowed(room) }
        }
        up::PUBLISH => {
            let wire::ArchivedPublish { room, content, body, key } = header.root(payload)?;
            match Content::from_u8(*content) {
                Some(content) => {
                    Command::Publish { room: Cow::Borrowed(room), content, body: Cow::Borrowed(body), key: text(key) }
                }
                None => unknown("content type", *content),
            }
        }
        up::HISTORY => {
            let wire::ArchivedHistory { room, page, position, limit, epoch } = header.root(payload)?;
            match read_page(*page, position.to_native()) {
                Some(page) => Command::History {
                    room: Cow::Borrowed(room),
                    page,
                    limit: limit.to_native(),
                    epoch: number(epoch),
                    newest_first: false,
                },
                None => unknown("page", *page),
            }
        }
        up::INFO => {
            let wire::ArchivedAskInfo { room } = header.root(payload)?;
            Command::Info { room: Cow::Borrowed(room) }
        }
        up::PING => Command::Ping,
        up::PONG => Command::Pong,
        _ => Command::Unsupported,
    };
    Some(Request { tag: header.tag, command })
}

fn unknown(what: &str, number: u8) -> Command<'static> {
    Command::Refused { code: ErrorCode::BadRequest, why: format!("{what} {number} is unknown").into() }
}

fn read_start(start: u8, position: u64, epoch: Option<u64>) -> Option<Start> {
    match start {
        0 => Some(Start::Recent(u32::try_from(position).unwrap_or(u32::MAX))),
        1 => Some(Start::Since { seq: position, epoch }),
        _ => None,
    }
}

fn read_page(page: u8, position: u64) -> Option<Page> {
    match page {
        0 => Some(Page::Newest),
        1 => Some(Page::Before(position)),
        2 => Some(Page::After(position)),
        3 => Some(Page::Around(position)),
        _ => None,
    }
}

pub(crate) fn encode(tag: u32, event: &Event<'_>, with_parts: bool, out: &mut Vec<u8>) {
    match event {
        Event::Ping => frame::write(Opcode::Ping, b"", out),
        _ => frame::write_with(Opcode::Binary, out, |out| encode_event(tag, event, with_parts, out)),
    }
}

/// The payload of [`encode`]; [`Event::Ping`] has none.
fn encode_event(tag: u32, event: &Event<'_>, with_parts: bool, out: &mut Vec<u8>) {
    let bytes = match event {
        Event::History { messages, .. } | Event::Batch { messages, .. } => packed::pack(messages, with_parts),
        _ => Vec::new(),
    };
    let packed = |messages: &[crate::Message<'_>]| wire::Packed {
        first_seq: messages.first().map_or(0, |first| first.seq),
        count: messages.len() as u32,
        bytes: &bytes,
    };
    match *event {
        Event::Connected { user, session, client, ping_s } => {
            wire::write(tag, down::CONNECTED, &wire::Connected { user, session, ping_s, client: client.0 }, out);
        }
        Event::Joined { room, epoch, from, head, recovering, recovered } => {
            wire::write(tag, down::JOINED, &wire::Joined { room, epoch, from, head, recovering, recovered }, out);
        }
        Event::Left { room } => wire::write(tag, down::LEFT, &wire::Left { room }, out),
        Event::Acked { room, seq, id } => wire::write(tag, down::ACKED, &wire::Acked { room, seq, id }, out),
        Event::History { room, epoch, head, messages } => {
            wire::write(tag, down::PAGE, &wire::Page { room, epoch, head, messages: packed(messages) }, out);
        }
        Event::Batch { room, messages } => {
            wire::write(tag, down::BATCH, &wire::Batch { room, messages: packed(messages) }, out);
        }
        Event::Gap { room, from, to } => wire::write(tag, down::GAP, &wire::Gap { room, from, to }, out),
        Event::Error { code, message, retry_after_ms } => {
            let code = code as u16;
            wire::write(tag, down::ERROR, &wire::Error { code, message, retry_after_ms, seq: 0, id: 0 }, out);
        }
        Event::KeyTaken { seq, id } => {
            let (code, message) = (ErrorCode::KeyTaken as u16, &*ErrorCode::KeyTaken.to_string());
            wire::write(tag, down::ERROR, &wire::Error { code, message, retry_after_ms: 0, seq, id }, out);
        }
        Event::GoingAway { reason, reconnect_after_ms } => {
            wire::write(tag, down::GOING_AWAY, &wire::GoingAway { reason, reconnect_after_ms }, out);
        }
        Event::Info { room, epoch, head, members, people, per_minute } => {
            wire::write(tag, down::INFO, &wire::Info { room, epoch, head, members, people, per_minute }, out);
        }
        Event::Pong => wire::write(tag, down::PONG, &(), out),
        Event::Ping => {}
    }
}

/// A client's side: appends the payload of one command (not framed; the client masks it, `frame::write_masked`).
pub fn encode_request(request: &Request<'_>, out: &mut Vec<u8>) {
    let tag = request.tag;
    match &request.command {
        Command::Connect { user, device } => {
            let root = wire::Connect { user: user.as_deref(), device: device.as_deref() };
            wire::write(tag, up::CONNECT, &root, out);
        }
        Command::Join { room, start } => {
            let (start, position, epoch) = match *start {
                Start::Recent(count) => (0, u64::from(count), None),
                Start::Since { seq, epoch } => (1, seq, epoch),
            };
            wire::write(tag, up::JOIN, &wire::Join { room, start, position, epoch }, out);
        }
        Command::Leave { room } => wire::write(tag, up::LEAVE, &wire::Leave { room }, out),
        Command::Publish { room, content, body, key } => {
            let root = wire::Publish { room, content: *content as u8, body, key: key.as_deref() };
            wire::write(tag, up::PUBLISH, &root, out);
        }
        Command::History { room, page, limit, epoch, .. } => {
            let (page, position) = match *page {
                Page::Newest => (0, 0),
                Page::Before(seq) => (1, seq),
                Page::After(seq) => (2, seq),
                Page::Around(seq) => (3, seq),
            };
            wire::write(tag, up::HISTORY, &wire::History { room, page, position, limit: *limit, epoch: *epoch }, out);
        }
        Command::Info { room } => wire::write(tag, up::INFO, &wire::AskInfo { room }, out),
        Command::Ping => wire::write(tag, up::PING, &(), out),
        Command::Pong => wire::write(tag, up::PONG, &(), out),
        Command::Unsupported | Command::Refused { .. } => wire::write(tag, up::NONE, &(), out),
    }
}

/// A client's side: an event from the relay, borrowed from the frame. Messages stay packed until they are iterated.
pub type Received<'a> = Event<'a, Packed<'a>>;

/// A client's side: reads one binary message of the relay. Gives `(tag, event)`, and no event for a kind that a later
/// version has. A message of an earlier version goes through [`complete`] first.
pub fn decode_event(payload: &[u8]) -> Result<(u32, Option<Received<'_>>), Malformed> {
    read_event(payload).ok_or_else(unreadable)
}

/// A client's side: the message with zeros for the fields that the relay's version did not have.
pub fn complete(payload: &[u8]) -> Cow<'_, [u8]> {
    wire::complete(payload, down::root_bytes)
}

fn read_event(payload: &[u8]) -> Option<(u32, Option<Received<'_>>)> {
    let header = Header::read(payload)?;
    let event = match header.kind {
        down::CONNECTED => {
            let wire::ArchivedConnected { user, session, ping_s, client } = header.root(payload)?;
            let (session, client) = (session.to_native(), ClientId(client.to_native()));
            Event::Connected { user, session, client, ping_s: ping_s.to_native() }
        }
        down::JOINED => {
            let wire::ArchivedJoined { room, epoch, from, head, recovering, recovered } = header.root(payload)?;
            let (epoch, from, head) = (epoch.to_native(), from.to_native(), head.to_native());
            Event::Joined { room, epoch, from, head, recovering: *recovering, recovered: *recovered }
        }
        down::LEFT => {
            let wire::ArchivedLeft { room } = header.root(payload)?;
            Event::Left { room }
        }
        down::ACKED => {
            let wire::ArchivedAcked { room, seq, id } = header.root(payload)?;
            Event::Acked { room, seq: seq.to_native(), id: id.to_native() }
        }
        down::PAGE => {
            let wire::ArchivedPage { room, epoch, head, messages } = header.root(payload)?;
            Event::History { room, epoch: epoch.to_native(), head: head.to_native(), messages: messages.into() }
        }
        down::BATCH => {
            let wire::ArchivedBatch { room, messages } = header.root(payload)?;
            Event::Batch { room, messages: messages.into() }
        }
        down::GAP => {
            let wire::ArchivedGap { room, from, to } = header.root(payload)?;
            Event::Gap { room, from: from.to_native(), to: to.to_native() }
        }
        down::ERROR => {
            let wire::ArchivedError { code, message, retry_after_ms, seq, id } = header.root(payload)?;
            match ErrorCode::from_u16(code.to_native()) {
                Some(ErrorCode::KeyTaken) => Event::KeyTaken { seq: seq.to_native(), id: id.to_native() },
                // A code of a later version: its message says what it is.
                code => Event::Error {
                    code: code.unwrap_or(ErrorCode::Internal),
                    message,
                    retry_after_ms: retry_after_ms.to_native(),
                },
            }
        }
        down::GOING_AWAY => {
            let wire::ArchivedGoingAway { reason, reconnect_after_ms } = header.root(payload)?;
            Event::GoingAway { reason, reconnect_after_ms: reconnect_after_ms.to_native() }
        }
        down::INFO => {
            let wire::ArchivedInfo { room, epoch, head, members, people, per_minute } = header.root(payload)?;
            let (epoch, head, members) = (epoch.to_native(), head.to_native(), members.to_native());
            Event::Info { room, epoch, head, members, people: people.to_native(), per_minute: per_minute.to_native() }
        }
        down::PONG => Event::Pong,
        _ => return Some((header.tag, None)),
    };
    Some((header.tag, Some(event)))
}

impl<'a> From<&'a wire::ArchivedPacked<'_>> for Packed<'a> {
    fn from(packed: &'a wire::ArchivedPacked<'_>) -> Self {
        Self { first_seq: packed.first_seq.to_native(), count: packed.count.to_native(), bytes: &packed.bytes }
    }
}

fn text(text: &ArchivedOption<ArchivedBox<str>>) -> Option<Cow<'_, str>> {
    text.as_ref().map(|text| Cow::Borrowed(&**text))
}

fn number(number: &ArchivedOption<ArchivedU64>) -> Option<u64> {
    number.as_ref().map(|number| number.to_native())
}

fn unreadable() -> Malformed {
    Malformed(format!("not a message of {SUBPROTOCOL}"))
}
