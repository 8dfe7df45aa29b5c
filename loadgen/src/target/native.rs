//! The native dialect's words for what a user does.

use protocol::frame::{Opcode, write_masked};
use protocol::native::encode_request;
use protocol::{Command, Content, Page, Request, Start};

use super::{CONNECT, FIRST_PUBLISH, HISTORY, JOIN, Publish};

/// Appends connect as a frame.
pub fn connect(user: &str, mask: [u8; 4], out: &mut Vec<u8>) {
    append(CONNECT, Command::Connect { user: Some(user.into()), device: None }, mask, out);
}

/// Appends one join as a frame.
pub fn join(room: &str, start: Start, mask: [u8; 4], out: &mut Vec<u8>) {
    append(JOIN, Command::Join { room: room.into(), start }, mask, out);
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

/// Appends one history command as a frame.
pub fn history(room: &str, after: u64, limit: u32, mask: [u8; 4], out: &mut Vec<u8>) {
    append(HISTORY, Command::history(room, Page::After(after), limit), mask, out);
}

fn append(tag: u32, command: Command<'_>, mask: [u8; 4], out: &mut Vec<u8>) {
    let mut payload = Vec::with_capacity(256);
    encode_request(&Request { tag, command }, &mut payload);
    write_masked(Opcode::Binary, &payload, mask, out);
}
