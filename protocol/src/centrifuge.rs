//! The Centrifuge client protocol in JSON, so that its public SDKs are our clients. Channel = room, offset = seq.
//!
//! <https://centrifugal.dev/docs/transports/client_protocol>, version 2, bidirectional. What differs and what is added
//! stands in `protocol/README.md`.

mod command;
mod publication;
mod reply;

#[cfg(test)]
mod tests;

use std::ops::ControlFlow;

use serde::de::IgnoredAny;

use crate::{
    Event, Request,
    dialect::Malformed,
    event::Close,
    frame::{self, Incoming, Opcode},
};

/// Where Centrifuge servers serve it.
pub const PATH: &str = "/connection/websocket";
/// The name some clients offer for JSON; most offer none. A client that offers only Protobuf's gets no answer to that
/// and gives up, which is right.
const SUBPROTOCOL: &str = "centrifuge-json";

pub(crate) fn choose_subprotocol(offered: &[String]) -> Option<&'static str> {
    offered.iter().any(|name| name == SUBPROTOCOL).then_some(SUBPROTOCOL)
}

/// Status codes of the close frame. SDKs come back by themselves, but for 3500 to 3999.
pub(crate) fn close(why: Close) -> (u16, &'static str) {
    match why {
        Close::GoingAway => (1001, "going away"),
        Close::Internal => (3004, "internal server error"),
        Close::SlowConsumer => (3008, "slow"),
        Close::Idle => (3012, "no pong"),
        Close::Flood => (3013, "too many requests"),
        Close::BadRequest => (3501, "bad request"),
        Close::Stale => (3502, "stale"),
        Close::Ended => (3503, "force disconnect"),
    }
}

pub(crate) fn decode<'a>(
    message: &Incoming<'a>,
    each: &mut dyn FnMut(Request<'a>) -> ControlFlow<()>,
) -> Result<usize, Malformed> {
    match message {
        Incoming::Text(text) => command::read(text, each),
        Incoming::Binary(_) => Err(Malformed("JSON travels in text messages; this one is binary".to_owned())),
        Incoming::Deflated { .. } => Err(Malformed("the message is still compressed".to_owned())),
        Incoming::Ping(_) | Incoming::Pong(_) | Incoming::Close { .. } => Ok(0),
    }
}

pub(crate) fn encode(tag: u32, event: &Event<'_>, out: &mut Vec<u8>) {
    if reply::is_said(tag, event) {
        frame::write_with(Opcode::Text, out, |out| reply::write(tag, event, out));
    }
}

/// Whether bytes are one JSON value, which a body of [`crate::Content::Json`] must be before it is stored: it is sent
/// to this dialect's clients as it is.
pub fn is_json(body: &[u8]) -> bool {
    simdutf8::basic::from_utf8(body).is_ok_and(|body| serde_json::from_str::<IgnoredAny>(body).is_ok())
}
