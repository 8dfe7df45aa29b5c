//! The native dialect's words for what a user does.

use protocol::frame::{Opcode, write_masked};
use protocol::native::encode_request;
use protocol::{Command, Content, Request, Start};

use super::{CONNECT, FIRST_PUBLISH, JOIN, Publish};

/// Appends connect and join as two frames, to be sent together.
pub fn hello(user: &str, room: &str, mask: [u8; 4], out: &mut Vec<u8>) {
    let connect = Command::Connect { user: Some(user.into()), device: None };
    let join = Command::Join { room: room.into(), start: Start::Recent(0) };
    append(CONNECT, connect, mask, out);
    append(JOIN, join, mask, out);
}

/// Appends one publish as a frame.
pub fn publish(publish: &Publish<'_>, mask: [u8; 4], out: &mut Vec<u8>) {
    let command = Command::Publish {
        room: publish.room.into(),
        content: Content::Text,
        body: publish.body.as_bytes().into(),
        key: Some(publish.key.into()),
    };
    append(FIRST_PUBLISH + publish.k, command, mask, out);
}

fn append(tag: u32, command: Command<'_>, mask: [u8; 4], out: &mut Vec<u8>) {
    let mut payload = Vec::with_capacity(256);
    encode_request(&Request { tag, command }, &mut payload);
    write_masked(Opcode::Binary, &payload, mask, out);
}
