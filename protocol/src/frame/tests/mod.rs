//! The decoder's rules, one table each, and its properties over random streams.

mod deflate;
mod memory;
mod refusals;
mod streams;
mod utf8;

use super::{Decoder, FrameError, Incoming, Opcode, Role};

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// An [`Incoming`] that owns its payload.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Owned {
    Text(String),
    Binary(Vec<u8>),
    Deflated(Opcode, Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, String),
}

impl From<Incoming<'_>> for Owned {
    fn from(incoming: Incoming<'_>) -> Self {
        match incoming {
            Incoming::Text(text) => Self::Text(text.to_owned()),
            Incoming::Binary(bytes) => Self::Binary(bytes.to_vec()),
            Incoming::Deflated { opcode, payload } => Self::Deflated(opcode, payload.to_vec()),
            Incoming::Ping(bytes) => Self::Ping(bytes.to_vec()),
            Incoming::Pong(bytes) => Self::Pong(bytes.to_vec()),
            Incoming::Close { code, reason } => Self::Close(code, reason.to_owned()),
        }
    }
}

/// One read of a connection, decoded as a caller does it.
fn feed(decoder: &mut Decoder, bytes: &[u8]) -> Result<Vec<Owned>, FrameError> {
    let mut bytes = bytes.to_vec();
    let mut found = Vec::new();
    let mut at = 0;
    loop {
        let (used, incoming) = decoder.next(&mut bytes[at..])?;
        at += used;
        let Some(incoming) = incoming else { break };
        found.push(incoming.into());
    }
    assert_eq!(at, bytes.len(), "nothing found, but bytes left");
    Ok(found)
}

/// A frame with any first byte, masked for a server with [`MASK`].
fn frame(role: Role, first: u8, payload: &[u8]) -> Vec<u8> {
    let masked = if role == Role::Server { 0x80 } else { 0 };
    let mut bytes = vec![first];
    match payload.len() {
        length @ 0..126 => bytes.push(masked | length as u8),
        length @ 126..0x1_0000 => {
            bytes.push(masked | 0x7e);
            bytes.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            bytes.push(masked | 0x7f);
            bytes.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    if role == Role::Server {
        bytes.extend_from_slice(&MASK);
        bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    } else {
        bytes.extend_from_slice(payload);
    }
    bytes
}
