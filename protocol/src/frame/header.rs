//! A frame's header, checked as far as it has arrived (RFC 6455 section 5.2).

use super::{CONTROL_BYTES_MAX, FrameError, Opcode, Role};

/// Marks a compressed message, in the first byte of its first frame.
pub(super) const RSV1: u8 = 0x40;
/// The longest header: two bytes, a 64-bit length, a mask.
pub(super) const HEADER_BYTES_MAX: usize = 14;

/// What a connection's frames are held to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    pub message_bytes_max: u32,
    pub role: Role,
    /// Messages may be compressed.
    pub deflate: bool,
}

/// A fragmented message whose last fragment has not been seen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fragmented {
    pub opcode: Opcode,
    pub is_deflated: bool,
    /// Bytes of the fragments so far.
    pub bytes: usize,
}

/// A valid header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// A continuation has the opcode of the message it continues.
    pub opcode: Opcode,
    pub is_final: bool,
    /// The frame is a whole message or a control frame, not a fragment.
    pub is_alone: bool,
    /// Of a message that is compressed; a continuation too, which does not say so itself.
    pub is_deflated: bool,
    /// `None` in a frame from a server. Its first byte belongs to the first of the `left` payload bytes.
    pub mask: Option<[u8; 4]>,
    /// Payload bytes still to come.
    pub left: usize,
}

impl Header {
    /// Reads the header at the front of `bytes`; returns its size in bytes too, or `None` while it is not complete.
    /// What can be refused is refused as soon as it is there, the first two bytes before the length.
    pub fn parse(
        bytes: &[u8],
        rules: Rules,
        fragmented: Option<Fragmented>,
    ) -> Result<Option<(usize, Self)>, FrameError> {
        let [first, second, ..] = *bytes else {
            return Ok(None);
        };
        let opcode = check_start(first, second, rules, fragmented)?;
        let Some((length, mask_at)) = length(second, &bytes[2..]) else {
            return Ok(None);
        };
        if length >> 63 != 0 {
            return Err(FrameError::Protocol("a 64-bit length has its top bit set"));
        }
        let before = fragmented.map_or(0, |message| message.bytes) as u64;
        if !opcode.is_control() && before + length > u64::from(rules.message_bytes_max) {
            return Err(FrameError::TooLarge(rules.message_bytes_max as usize));
        }
        let (mask, size) = match rules.role {
            Role::Client => (None, mask_at),
            Role::Server => match bytes[mask_at..].first_chunk() {
                Some(mask) => (Some(*mask), mask_at + 4),
                None => return Ok(None),
            },
        };
        let is_final = first & 0x80 != 0;
        let is_continuation = matches!(first & 0x0f, 0);
        let is_deflated =
            first & RSV1 != 0 || (is_continuation && fragmented.is_some_and(|message| message.is_deflated));
        let is_alone = is_final && !is_continuation;
        Ok(Some((size, Self { opcode, is_final, is_alone, is_deflated, mask, left: length as usize })))
    }
}

/// Everything the first two bytes tell.
fn check_start(first: u8, second: u8, rules: Rules, fragmented: Option<Fragmented>) -> Result<Opcode, FrameError> {
    let refused = |why| Err(FrameError::Protocol(why));
    let reserved = if rules.deflate { 0x70 & !RSV1 } else { 0x70 };
    if first & reserved != 0 {
        return refused("a reserved bit is set");
    }
    let opcode = match (first & 0x0f, fragmented) {
        (0, Some(message)) => message.opcode,
        (0, None) => return refused("a continuation without a message to continue"),
        (1 | 2, Some(_)) => return refused("a new message between the fragments of another"),
        (1, None) => Opcode::Text,
        (2, None) => Opcode::Binary,
        (8, _) => Opcode::Close,
        (9, _) => Opcode::Ping,
        (10, _) => Opcode::Pong,
        _ => return refused("a reserved opcode"),
    };
    if first & RSV1 != 0 && !matches!(first & 0x0f, 1 | 2) {
        return refused("a frame that begins no message is marked as compressed");
    }
    if opcode.is_control() {
        if first & 0x80 == 0 {
            return refused("a fragmented control frame");
        }
        if usize::from(second & 0x7f) > CONTROL_BYTES_MAX {
            return refused("a control frame longer than 125 bytes");
        }
    }
    match (rules.role, second & 0x80 != 0) {
        (Role::Server, false) => refused("a client's frame is not masked"),
        (Role::Client, true) => refused("a server's frame is masked"),
        _ => Ok(opcode),
    }
}

/// The payload's length and the offset of what follows it, if `rest`, the bytes from the third on, has all of it.
/// A length in more bytes than it needs is let through: the RFC forbids sending it, refusing it protects nobody.
fn length(second: u8, rest: &[u8]) -> Option<(u64, usize)> {
    match second & 0x7f {
        126 => rest.first_chunk().map(|length| (u64::from(u16::from_be_bytes(*length)), 4)),
        127 => rest.first_chunk().map(|length| (u64::from_be_bytes(*length), 10)),
        length => Some((u64::from(length), 2)),
    }
}
