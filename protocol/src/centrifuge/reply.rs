//! What the relay sends: replies with the command's id, pushes without one, and `{}` as its ping.

use std::fmt::Display;

use serde::{Serialize, Serializer};

use super::publication::{is_shown, json, put, write_list, write_pushes};
use crate::{ClientId, ErrorCode, Event};

/// A reply needs an id: without one, an SDK would take it for a ping.
pub(super) fn is_said(tag: u32, event: &Event<'_>) -> bool {
    match event {
        Event::Batch { messages, .. } => messages.iter().any(is_shown),
        Event::Gap { .. } | Event::GoingAway { .. } | Event::Ping => true,
        // An error without a command is what the close frame says; as a push it would reach the application.
        _ => tag != 0,
    }
}

/// Appends the payload of one text frame.
pub(super) fn write(tag: u32, event: &Event<'_>, out: &mut Vec<u8>) {
    let result = match *event {
        Event::Batch { room, messages } => return write_pushes(room, messages, out),
        Event::History { epoch, head, messages, .. } => {
            put(out, r#"{"id":"#);
            json(out, &tag);
            put(out, r#","history":{"publications":["#);
            write_list(messages, out);
            return put(out, &format!(r#"],"offset":{head},"epoch":"{epoch:x}"}}}}"#));
        }
        Event::Ping => return put(out, "{}"),
        Event::Gap { room, .. } => {
            let unsubscribe = Ending { code: 2500, reason: "insufficient state", reconnect: None };
            return json(out, &Push { push: Pushed { channel: Some(room), what: What::Unsubscribe(unsubscribe) } });
        }
        Event::GoingAway { reason, .. } => {
            let disconnect = Ending { code: 3001, reason, reconnect: Some(true) };
            return json(out, &Push { push: Pushed { channel: None, what: What::Disconnect(disconnect) } });
        }
        Event::Error { code, message, retry_after_ms } => Answer::Error(error(code, message, retry_after_ms)),
        Event::KeyTaken { seq, id } => {
            let message = format!("{}, stored at offset {seq}", ErrorCode::KeyTaken);
            let stored = Some(Stored { offset: seq, id });
            let error = Failure { stored, ..error(ErrorCode::KeyTaken, &message, 0) };
            return json(out, &Reply { id: tag, answer: Answer::Error(error) });
        }
        Event::Connected { user, client, ping_s, .. } => Answer::Connect {
            client,
            version: concat!("relay ", env!("CARGO_PKG_VERSION")),
            data: User { user },
            ping: ping_s,
            pong: true,
        },
        Event::Joined { epoch, from, recovering, recovered, .. } => Answer::Subscribe {
            recoverable: true,
            positioned: true,
            epoch: format!("{epoch:x}"),
            offset: from,
            recovered,
            was_recovering: recovering,
        },
        Event::Left { .. } => Answer::Unsubscribe {},
        Event::Acked { seq, id, .. } => Answer::Publish(Stored { offset: seq, id }),
        Event::Info { epoch, head, members, people, per_minute, .. } => Answer::Info {
            epoch: format!("{epoch:x}"),
            offset: head,
            num_clients: members,
            num_users: people,
            per_minute,
        },
        Event::Pong => Answer::Ping {},
    };
    json(out, &Reply { id: tag, answer: result });
}

/// Centrifuge's code of ours. SDKs repeat a refused connect or subscribe by themselves when it is temporary.
fn error(code: ErrorCode, message: &str, retry_after_ms: u32) -> Failure<'_> {
    let (code, temporary) = match code {
        ErrorCode::Unavailable | ErrorCode::Unknown | ErrorCode::Internal => (100, true),
        ErrorCode::NotConnected => (101, false),
        ErrorCode::NotJoined | ErrorCode::Denied => (103, false),
        ErrorCode::Unsupported => (104, false),
        ErrorCode::Already => (105, false),
        ErrorCode::TooLarge | ErrorCode::TooManyRooms => (106, false),
        ErrorCode::BadRequest => (107, false),
        ErrorCode::NotAvailable => (108, false),
        ErrorCode::Unrecoverable => (112, false),
        ErrorCode::RateLimited | ErrorCode::Busy | ErrorCode::SlowConsumer => (111, true),
        // From 400 on codes are the application's, for whom this one is.
        ErrorCode::KeyTaken => (409, false),
    };
    Failure { code, message, temporary, retry_after_ms, stored: None }
}

#[derive(Serialize)]
struct Reply<'a> {
    id: u32,
    #[serde(flatten)]
    answer: Answer<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Answer<'a> {
    Connect {
        #[serde(serialize_with = "as_string")]
        client: ClientId,
        version: &'static str,
        data: User<'a>,
        ping: u32,
        pong: bool,
    },
    Subscribe {
        recoverable: bool,
        positioned: bool,
        epoch: String,
        offset: u64,
        recovered: bool,
        was_recovering: bool,
    },
    Unsubscribe {},
    Publish(Stored),
    Info {
        epoch: String,
        offset: u64,
        num_clients: u32,
        num_users: u32,
        per_minute: u32,
    },
    Ping {},
    Error(Failure<'a>),
}

#[derive(Serialize)]
struct User<'a> {
    user: &'a str,
}

#[derive(Serialize)]
struct Failure<'a> {
    code: u16,
    message: &'a str,
    temporary: bool,
    #[serde(skip_serializing_if = "is_zero")]
    retry_after_ms: u32,
    #[serde(flatten)]
    stored: Option<Stored>,
}

/// Where a message is stored.
#[derive(Serialize)]
struct Stored {
    offset: u64,
    #[serde(serialize_with = "as_string")]
    id: u64,
}

#[derive(Serialize)]
struct Push<'a> {
    push: Pushed<'a>,
}

#[derive(Serialize)]
struct Pushed<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<&'a str>,
    #[serde(flatten)]
    what: What<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum What<'a> {
    Unsubscribe(Ending<'a>),
    Disconnect(Ending<'a>),
}

#[derive(Serialize)]
struct Ending<'a> {
    code: u16,
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reconnect: Option<bool>,
}

/// JavaScript's numbers end at 53 bits.
fn as_string<S: Serializer>(value: &impl Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the shape serde calls")]
fn is_zero(value: &u32) -> bool {
    *value == 0
}
