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

use crate::{
    Event, Malformed, Request,
    event::Close,
    frame::{self, Incoming, Opcode},
};

/// Where Centrifuge servers serve it.
pub const PATH: &str = "/connection/websocket";
/// The names some clients offer for JSON and for Protobuf; most offer none. Protobuf is answered, too: a client can only
/// be told that it is not served, and to stay away, by closing a connection that it takes for one.
const SUBPROTOCOLS: [&str; 2] = ["centrifuge-json", PROTOBUF];
const PROTOBUF: &str = "centrifuge-protobuf";
/// What asks for Protobuf in a request's query.
const PROTOBUF_QUERIES: [&str; 2] = ["format=protobuf", "cf_protocol=protobuf"];

/// The sub-protocol to answer with, and why the connection is closed as soon as it is open, if so.
pub(crate) fn negotiate(offered: &[String], query: &str) -> (Option<&'static str>, Option<&'static str>) {
    let subprotocol = SUBPROTOCOLS.into_iter().find(|name| offered.iter().any(|offered| offered == name));
    let asks = |parameter: &str| PROTOBUF_QUERIES.contains(&parameter);
    let is_protobuf = subprotocol == Some(PROTOBUF) || (subprotocol.is_none() && query.split('&').any(asks));
    (subprotocol, is_protobuf.then_some("Protobuf is not served here, only JSON"))
}

/// Status codes of the close frame. SDKs come back by themselves, but for 3500 to 3999.
pub(crate) fn close(why: Close) -> (u16, &'static str) {
    match why {
        Close::GoingAway => (1001, "going away"),
        Close::Internal => (3004, "internal server error"),
        Close::SlowConsumer => (3008, "slow"),
        Close::Overloaded => (3011, "force reconnect"),
        Close::Idle => (3012, "no pong"),
        Close::Flood => (3013, "too many requests"),
        Close::BadRequest => (3501, "bad request"),
        Close::Stale => (3502, "stale"),
        Close::Ended => (3503, "force disconnect"),
        Close::WrongEncoding => (3506, "inappropriate protocol"),
        Close::NotAvailable => (3508, "not available"),
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
