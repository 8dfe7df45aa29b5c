//! The native dialect: one binary WebSocket message is one rkyv archive of [`wire::Up`] or [`wire::Down`], checked on
//! receipt.
//!
//! Messages travel packed by hand (plain rkyv structs cost 49 bytes a line): see `protocol/README.md` for the layout.

mod packed;
mod wire;

#[cfg(test)]
mod tests;

use std::{borrow::Cow, ops::ControlFlow};

use rkyv::{api::high::to_bytes_in, boxed::ArchivedBox, option::ArchivedOption, rancor};

pub use packed::Packed;

use crate::{
    ClientId, Command, Content, Event, Request,
    dialect::{Dialect, Malformed},
    event::{Close, ErrorCode},
    frame::{self, Incoming, Opcode},
};

/// Where the relay serves it.
pub const PATH: &str = "/native";
/// The versioned sub-protocol.
pub const SUBPROTOCOL: &str = "relay.native.v1";
/// The same with the optional parts of messages. It goes before the other when both are offered.
pub const SUBPROTOCOL_PARTS: &str = "relay.native.v1.parts";

pub(crate) fn choose_subprotocol(offered: &[String]) -> Result<(Dialect, Option<&'static str>), Malformed> {
    if offered.is_empty() {
        return Ok((Dialect::Native, None));
    }
    for (dialect, known) in [(Dialect::NativeParts, SUBPROTOCOL_PARTS), (Dialect::Native, SUBPROTOCOL)] {
        if offered.iter().any(|name| name == known) {
            return Ok((dialect, Some(known)));
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
    let up = rkyv::access::<wire::ArchivedUp<'_>, rancor::Failure>(payload).map_err(unreadable)?;
    let command = match &up.command {
        wire::ArchivedCommand::Connect { user, device } => Command::Connect { user: text(user), device: text(device) },
        wire::ArchivedCommand::Join { room, start } => Command::Join { room: Cow::Borrowed(room), start: start.into() },
        wire::ArchivedCommand::Leave { room } => Command::Leave { room: Cow::Borrowed(room) },
        wire::ArchivedCommand::Publish { room, content, body, key } => match Content::from_u8(*content) {
            Some(content) => {
                Command::Publish { room: Cow::Borrowed(room), content, body: Cow::Borrowed(body), key: text(key) }
            }
            None => Command::Refused {
                code: ErrorCode::BadRequest,
                why: format!("content type {content} is unknown").into(),
            },
        },
        wire::ArchivedCommand::History { room, page, limit } => Command::History {
            room: Cow::Borrowed(room),
            page: page.into(),
            limit: limit.to_native(),
            epoch: None,
            newest_first: false,
        },
        wire::ArchivedCommand::Ping => Command::Ping,
        wire::ArchivedCommand::Pong => Command::Pong,
        wire::ArchivedCommand::Unsupported => Command::Unsupported,
    };
    Ok(Request { tag: up.tag.to_native(), command })
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
    let event = match *event {
        Event::Connected { user, session, client, ping_s } => {
            wire::Event::Connected { user, session, ping_s, client: client.0 }
        }
        Event::Joined { room, epoch, from, head, recovering, recovered } => {
            wire::Event::Joined { room, epoch, from, head, recovering, recovered }
        }
        Event::Left { room } => wire::Event::Left { room },
        Event::Acked { room, seq, id } => wire::Event::Acked { room, seq, id },
        Event::History { room, epoch, head, messages } => {
            wire::Event::History { room, epoch, head, messages: packed(messages) }
        }
        Event::Batch { room, messages } => wire::Event::Batch { room, messages: packed(messages) },
        Event::Gap { room, from, to } => wire::Event::Gap { room, from, to },
        Event::Error { code, message, retry_after_ms } => {
            wire::Event::Error { code: code as u16, message, retry_after_ms, seq: 0, id: 0 }
        }
        Event::KeyTaken { seq, id } => {
            return encode_key_taken(tag, &ErrorCode::KeyTaken.to_string(), (seq, id), out);
        }
        Event::GoingAway { reason, reconnect_after_ms } => wire::Event::GoingAway { reason, reconnect_after_ms },
        Event::Pong => wire::Event::Pong,
        Event::Ping => return,
    };
    write(&wire::Down { tag, event }, out);
}

/// The error that says where the message with the key is.
fn encode_key_taken(tag: u32, message: &str, (seq, id): (u64, u64), out: &mut Vec<u8>) {
    let code = ErrorCode::KeyTaken as u16;
    write(&wire::Down { tag, event: wire::Event::Error { code, message, retry_after_ms: 0, seq, id } }, out);
}

fn write(down: &wire::Down<'_>, out: &mut Vec<u8>) {
    to_bytes_in::<_, rancor::Error>(down, out).expect("a Vec takes every byte");
}

/// A client's side: appends the payload of one command (not framed; the client masks it, `frame::write_masked`).
pub fn encode_request(request: &Request<'_>, out: &mut Vec<u8>) {
    let command = match &request.command {
        Command::Connect { user, device } => {
            wire::Command::Connect { user: user.as_deref(), device: device.as_deref() }
        }
        Command::Join { room, start } => wire::Command::Join { room, start: (*start).into() },
        Command::Leave { room } => wire::Command::Leave { room },
        Command::Publish { room, content, body, key } => {
            wire::Command::Publish { room, content: *content as u8, body, key: key.as_deref() }
        }
        Command::History { room, page, limit, .. } => {
            wire::Command::History { room, page: (*page).into(), limit: *limit }
        }
        Command::Ping => wire::Command::Ping,
        Command::Pong => wire::Command::Pong,
        Command::Unsupported | Command::Refused { .. } => wire::Command::Unsupported,
    };
    to_bytes_in::<_, rancor::Error>(&wire::Up { tag: request.tag, command }, out).expect("a Vec takes every byte");
}

/// A client's side: one event from the relay, borrowed from the frame. Messages stay packed until they are iterated.
/// The fields are those of [`Event`].
#[derive(Debug)]
#[expect(missing_docs, reason = "documented at Event")]
pub enum Received<'a> {
    Connected { user: &'a str, session: u64, client: ClientId, ping_s: u32 },
    Joined { room: &'a str, epoch: u64, from: u64, head: u64, recovering: bool, recovered: bool },
    Left { room: &'a str },
    Acked { room: &'a str, seq: u64, id: u64 },
    History { room: &'a str, epoch: u64, head: u64, messages: Packed<'a> },
    Batch { room: &'a str, messages: Packed<'a> },
    Gap { room: &'a str, from: u64, to: u64 },
    Error { code: ErrorCode, message: &'a str, retry_after_ms: u32 },
    KeyTaken { seq: u64, id: u64 },
    GoingAway { reason: &'a str, reconnect_after_ms: u32 },
    Pong,
}

/// A client's side: reads one binary message of the relay. Gives `(tag, event)`.
pub fn decode_event(payload: &[u8]) -> Result<(u32, Received<'_>), Malformed> {
    let down = rkyv::access::<wire::ArchivedDown<'_>, rancor::Failure>(payload).map_err(unreadable)?;
    let event = match &down.event {
        wire::ArchivedEvent::Connected { user, session, ping_s, client } => Received::Connected {
            user,
            session: session.to_native(),
            client: ClientId(client.to_native()),
            ping_s: ping_s.to_native(),
        },
        wire::ArchivedEvent::Joined { room, epoch, from, head, recovering, recovered } => Received::Joined {
            room,
            epoch: epoch.to_native(),
            from: from.to_native(),
            head: head.to_native(),
            recovering: *recovering,
            recovered: *recovered,
        },
        wire::ArchivedEvent::Left { room } => Received::Left { room },
        wire::ArchivedEvent::Acked { room, seq, id } => {
            Received::Acked { room, seq: seq.to_native(), id: id.to_native() }
        }
        wire::ArchivedEvent::History { room, epoch, head, messages } => {
            Received::History { room, epoch: epoch.to_native(), head: head.to_native(), messages: messages.into() }
        }
        wire::ArchivedEvent::Batch { room, messages } => Received::Batch { room, messages: messages.into() },
        wire::ArchivedEvent::Gap { room, from, to } => {
            Received::Gap { room, from: from.to_native(), to: to.to_native() }
        }
        wire::ArchivedEvent::Error { code, seq, id, .. } if *code == ErrorCode::KeyTaken as u16 => {
            Received::KeyTaken { seq: seq.to_native(), id: id.to_native() }
        }
        wire::ArchivedEvent::Error { code, message, retry_after_ms, .. } => Received::Error {
            code: ErrorCode::from_u16(code.to_native())
                .ok_or_else(|| Malformed(format!("error code {code} is unknown")))?,
            message,
            retry_after_ms: retry_after_ms.to_native(),
        },
        wire::ArchivedEvent::GoingAway { reason, reconnect_after_ms } => {
            Received::GoingAway { reason, reconnect_after_ms: reconnect_after_ms.to_native() }
        }
        wire::ArchivedEvent::Pong => Received::Pong,
    };
    Ok((down.tag.to_native(), event))
}

impl<'a> From<&'a wire::ArchivedPacked<'_>> for Packed<'a> {
    fn from(packed: &'a wire::ArchivedPacked<'_>) -> Self {
        Self { first_seq: packed.first_seq.to_native(), count: packed.count.to_native(), bytes: &packed.bytes }
    }
}

fn text(text: &ArchivedOption<ArchivedBox<str>>) -> Option<Cow<'_, str>> {
    text.as_ref().map(|text| Cow::Borrowed(&**text))
}

/// What the archive's own error says without a debug build is how to make one.
fn unreadable(_: rancor::Failure) -> Malformed {
    Malformed(format!("not an archive of {SUBPROTOCOL}"))
}
