//! One entry of a room's log as it is stored, in memory and as versioned bytes.
//!
//! Version 2, the one that is written. `n` is a number as [`protocol::varint`] writes it; the rest is little-endian.
//!
//! | field | |
//! |---|---|
//! | version, kind | a byte each |
//! | flags | bits 0–1 content type; 2 time follows; 3 key follows; 4 hash of the body as sent follows; 5 parts follow |
//! | seq | n |
//! | id | 8 bytes |
//! | time | only with bit 2: n = zigzag of (time − the id's time) in ms. Else the time is the id's |
//! | sender | n = length, UTF-8 |
//! | key | only with bit 3: 16 bytes, and with bit 4 8 bytes |
//! | parts | only with bit 5: n = length, [`protocol::parts`] |
//! | body | n = length, bytes, and nothing behind them |
//!
//! Version 1 had neither parts nor the hash of a body, and stays readable.

mod v1;

use protocol::snowflake::time_ms;
use protocol::{Content, Message, OwnedParts, Parts, varint};

pub use protocol::Kind;

use crate::StoreError;

/// The first byte of every record that is written. A later format gets the next number, and all before stay readable.
pub const FORMAT_VERSION: u8 = 2;

const HEADER_BYTES: usize = 2;

const CONTENT: u8 = 0b0000_0011;
const TIME: u8 = 0b0000_0100;
const KEY: u8 = 0b0000_1000;
const BODY_HASH: u8 = 0b0001_0000;
const PARTS: u8 = 0b0010_0000;
const UNKNOWN: u8 = 0b1100_0000;

/// The idempotency key of a message, as it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// Hash of (user, key).
    pub hash: u128,
    /// Hash of the body as it was sent. None where nobody asks for it: in records of version 1.
    pub body: Option<u64>,
}

impl Key {
    /// A publish with this key repeats the one with the other: both bodies are the same, as far as is known.
    pub fn repeats(self, stored: Option<u64>) -> bool {
        self.body.zip(stored).is_none_or(|(body, stored)| body == stored)
    }
}

/// One entry of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// What this entry is.
    pub kind: Kind,
    /// Position in the log, from 1.
    pub seq: u64,
    /// Snowflake.
    pub id: u64,
    /// When the relay took it, milliseconds since 1970.
    pub time_ms: u64,
    /// The user who sent it.
    pub sender: Box<str>,
    /// What the body is.
    pub content: Content,
    /// The message itself.
    pub body: Box<[u8]>,
    /// What the publisher gave a repeat to be known by.
    pub key: Option<Key>,
    /// What else there is to it.
    pub parts: OwnedParts,
}

impl Record {
    /// As a reader sees it.
    pub fn message(&self) -> Message<'_> {
        Message {
            seq: self.seq,
            id: self.id,
            time_ms: self.time_ms,
            user: &self.sender,
            content: self.content,
            body: &self.body,
            kind: self.kind,
            parts: self.parts.get(),
        }
    }

    /// Appends the stored form, of the newest version.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let flags_at = out.len() + HEADER_BYTES;
        out.extend_from_slice(&[FORMAT_VERSION, self.kind.to_u8(), self.content as u8]);
        let mut flags = 0;
        varint::write(self.seq, out);
        out.extend_from_slice(&self.id.to_le_bytes());
        let late = self.time_ms.wrapping_sub(time_ms(self.id)).cast_signed();
        if late != 0 {
            flags |= TIME;
            varint::write(varint::zigzag(late), out);
        }
        varint::write_bytes(self.sender.as_bytes(), out);
        if let Some(Key { hash, body }) = self.key {
            flags |= KEY;
            out.extend_from_slice(&hash.to_le_bytes());
            if let Some(body) = body {
                flags |= BODY_HASH;
                out.extend_from_slice(&body.to_le_bytes());
            }
        }
        let parts = self.parts.get();
        if !parts.is_empty() {
            flags |= PARTS;
            varint::write_bytes(parts.bytes(), out);
        }
        varint::write_bytes(&self.body, out);
        out[flags_at] |= flags;
    }

    /// Reads a stored form of any version, checking every byte that could mislead.
    ///
    /// # Errors
    /// [`StoreError::BadRecord`] for damaged bytes, and for versions and content types this relay is too old for.
    pub fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        let Some((&[version, kind], rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
            return Err(bad(format!("{} bytes are too few for a record", bytes.len())));
        };
        let kind = Kind::from_u8(kind);
        match version {
            1 => v1::decode(kind, rest),
            FORMAT_VERSION => decode(kind, rest).map_err(|what| bad(format!("its bytes are damaged ({what})"))),
            _ => Err(bad(format!(
                "its format version is {version}, this relay reads 1 to {FORMAT_VERSION}; use the relay that wrote it or a newer one"
            ))),
        }
    }
}

fn bad(message: String) -> StoreError {
    StoreError::BadRecord { message }
}

/// Reads version 2 behind its header.
fn decode(kind: Kind, mut rest: &[u8]) -> Result<Record, &'static str> {
    let rest = &mut rest;
    let flags = varint::take(rest, 1)?[0];
    if flags & UNKNOWN != 0 || (flags & BODY_HASH != 0 && flags & KEY == 0) {
        return Err("an unknown flag");
    }
    let content = Content::from_u8(flags & CONTENT).ok_or("a content type that is newer than this relay")?;
    let seq = varint::read(rest)?;
    let id = u64::from_le_bytes(number(rest)?);
    let late = if flags & TIME == 0 { 0 } else { varint::unzigzag(varint::read(rest)?) };
    let sender = std::str::from_utf8(varint::read_bytes(rest)?).map_err(|_| "a sender that is not UTF-8")?;
    let key = if flags & KEY == 0 {
        None
    } else {
        let hash = u128::from_le_bytes(number(rest)?);
        let body = if flags & BODY_HASH == 0 { None } else { Some(u64::from_le_bytes(number(rest)?)) };
        Some(Key { hash, body })
    };
    let parts = if flags & PARTS == 0 { Parts::NONE } else { Parts::read(varint::read_bytes(rest)?)? };
    let body = varint::read_bytes(rest)?;
    if !rest.is_empty() {
        return Err("bytes behind its end");
    }
    let time_ms = time_ms(id).wrapping_add_signed(late);
    let (sender, body, parts) = (sender.into(), body.into(), parts.to_owned());
    Ok(Record { kind, seq, id, time_ms, sender, content, body, key, parts })
}

/// Takes the bytes of a number of fixed size.
pub(crate) fn number<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], &'static str> {
    let (number, behind) = rest.split_first_chunk().ok_or(varint::CUT_OFF)?;
    *rest = behind;
    Ok(*number)
}

#[cfg(test)]
mod tests;
