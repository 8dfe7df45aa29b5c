//! The Centrifuge client protocol in JSON, so that its public SDKs are our clients. Channel = room, offset = seq.

use crate::{Event, Request, dialect::Malformed, event::Close, frame::Incoming};

/// Where Centrifuge servers serve it.
pub const PATH: &str = "/connection/websocket";

pub(crate) fn choose_subprotocol(_offered: &[String]) -> Option<&'static str> {
    unimplemented!()
}

/// Status codes of the close frame.
pub(crate) fn close(_why: Close) -> (u16, &'static str) {
    unimplemented!()
}

pub(crate) fn decode<'a>(_message: &Incoming<'a>, _each: &mut dyn FnMut(Request<'a>)) -> Result<(), Malformed> {
    unimplemented!()
}

pub(crate) fn encode(_tag: u32, _event: &Event<'_>, _out: &mut Vec<u8>) {
    unimplemented!()
}
