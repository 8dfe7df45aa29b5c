//! The native dialect: one binary WebSocket message is one rkyv archive of [`Up`] or [`Down`], checked on receipt.
//!
//! Messages travel packed by hand (plain rkyv structs cost 49 bytes a line): see `protocol/README.md` for the layout.

use crate::{Event, Message, Request, dialect::Malformed, event::{Close, ErrorCode}, frame::Incoming};

/// Where the relay serves it.
pub const PATH: &str = "/native";
/// The versioned sub-protocol.
pub const SUBPROTOCOL: &str = "relay.native.v1";

pub(crate) fn choose_subprotocol(_offered: &[String]) -> Result<Option<&'static str>, Malformed> {
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

/// A client's side: appends the payload of one command (not framed; the client masks it, `frame::write_masked`).
pub fn encode_request(_request: &Request<'_>, _out: &mut Vec<u8>) {
    unimplemented!()
}

/// A client's side: one event from the relay, borrowed from the frame. Messages stay packed until they are iterated.
#[derive(Debug)]
pub enum Received<'a> {
    Connected { user: &'a str, session: u64, ping_s: u32 },
    Joined { room: &'a str, epoch: u64, from: u64, head: u64, recovering: bool, recovered: bool },
    Left { room: &'a str },
    Acked { room: &'a str, seq: u64, id: u64 },
    History { room: &'a str, epoch: u64, head: u64, messages: Packed<'a> },
    Batch { room: &'a str, messages: Packed<'a> },
    Gap { room: &'a str, from: u64, to: u64 },
    Error { code: ErrorCode, message: &'a str, retry_after_ms: u32 },
    GoingAway { reason: &'a str, reconnect_after_ms: u32 },
    Pong,
}

/// Packed messages of one room, dense: `first_seq .. first_seq + count`. The counts are O(1), the contents an iterator.
#[derive(Debug, Clone, Copy)]
pub struct Packed<'a> {
    pub first_seq: u64,
    pub count: u32,
    pub bytes: &'a [u8],
}

impl<'a> Packed<'a> {
    /// Unpacks one by one; ends with an error where the bytes are malformed.
    pub fn iter(&self) -> impl Iterator<Item = Result<Message<'a>, Malformed>> + use<'a> {
        std::iter::empty()
    }
}

/// A client's side: reads one binary message of the relay. Gives `(tag, event)`.
pub fn decode_event(_payload: &[u8]) -> Result<(u32, Received<'_>), Malformed> {
    unimplemented!()
}
