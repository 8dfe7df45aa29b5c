//! The decoder: frames taken from bytes in place, what is half-way gathered in one box.

use tungstenite::protocol::frame::coding::CloseCode;

use super::header::{Fragmented, HEADER_BYTES_MAX, Header, Rules};
use super::mask::apply_mask;
use super::{FrameError, Incoming, Opcode, Role, text};

/// Empty fragments of one message. They say nothing; without a limit a message of them would never end.
const EMPTY_FRAGMENTS_MAX: u16 = 1000;

/// Takes a connection's bytes apart. Owns no buffer while no message is half-way (idle: at most 48 bytes, no heap).
#[derive(Debug)]
pub struct Decoder {
    /// `None` while the bytes so far end at the end of a message.
    partial: Option<Box<Partial>>,
    rules: Rules,
}

/// What a connection is in the middle of. Boxed, because nearly all connections are in the middle of nothing.
#[derive(Debug, Default)]
struct Partial {
    /// The bytes of a header that is not complete.
    head: Vec<u8>,
    /// Empty fragments of the message so far.
    empty_fragments: u16,
    /// A frame whose payload is not complete: its header, less what has arrived.
    frame: Option<Header>,
    /// A fragment of a message whose final one has not been seen.
    fragmented: Option<Header>,
    /// The payload of a message so far, and how much of it is known to be UTF-8.
    message: Vec<u8>,
    utf8_bytes: usize,
    /// The payload so far of a control frame, which may stand between fragments.
    control: Vec<u8>,
}

impl Decoder {
    /// `message_bytes_max` bounds a whole message and so the decoder's buffer; at most 4 GiB - 1.
    pub fn new(role: Role, message_bytes_max: usize) -> Self {
        let message_bytes_max = u32::try_from(message_bytes_max).unwrap_or(u32::MAX);
        Self { partial: None, rules: Rules { message_bytes_max, role, deflate: false } }
    }

    /// Once permessage-deflate is agreed: messages may be compressed, and are given so. The limit is for what arrives,
    /// not for what it inflates to, and a compressed text is not checked.
    #[must_use]
    pub fn with_deflate(mut self) -> Self {
        self.rules.deflate = true;
        self
    }

    /// Decodes from the front of `input`, which it unmasks in place. Returns how many bytes it used up and, if one is
    /// complete, what they were; call again with the rest, even an empty one, until it returns
    /// `(input.len(), None)`: that frees the buffer of what was returned before.
    /// A message that lies whole in `input` is returned without a copy.
    ///
    /// After an error the connection is to be closed, and the decoder is of no further use.
    pub fn next<'a>(&'a mut self, input: &'a mut [u8]) -> Result<(usize, Option<Incoming<'a>>), FrameError> {
        self.free_delivered();
        let mut used = 0;
        while used < input.len() {
            let Some((header_bytes, frame)) = self.header(&input[used..])? else {
                break;
            };
            let start = used + header_bytes;
            used = start + frame.left.min(input.len() - start);
            let payload = &mut input[start..used];
            if let Some(mask) = frame.mask {
                apply_mask(payload, mask);
            }
            let starts_here = header_bytes > 0;
            if frame.is_alone && starts_here && payload.len() == frame.left {
                return Ok((used, Some(incoming(frame, &input[start..used])?)));
            }
            let message_bytes_max = self.rules.message_bytes_max as usize;
            if self.partial.get_or_insert_default().gather(frame, payload, message_bytes_max)? {
                return Ok((used, Some(incoming(frame, self.gathered(frame.opcode))?)));
            }
        }
        Ok((input.len(), None))
    }

    /// Frees what the last call returned from a buffer, and the box when nothing else is half-way.
    fn free_delivered(&mut self) {
        if let Some(partial) = &mut self.partial
            && partial.frame.is_none()
        {
            partial.control = Vec::new();
            if partial.fragmented.is_none() && partial.head.is_empty() {
                self.partial = None;
            }
        }
    }

    /// The header that `rest` starts with or continues, and how many bytes of `rest` belong to it: 0 when `rest`
    /// continues the frame's payload. `None` when all of `rest` was kept, as a part of a header.
    fn header(&mut self, rest: &[u8]) -> Result<Option<(usize, Header)>, FrameError> {
        if let Some(partial) = &mut self.partial {
            if let Some(frame) = partial.frame.take() {
                return Ok(Some((0, frame)));
            }
            if !partial.head.is_empty() {
                return partial.resume_header(rest, self.rules);
            }
        }
        let fragmented = self.partial.as_ref().and_then(|partial| partial.fragmented());
        let header = Header::parse(rest, self.rules, fragmented)?;
        if header.is_none() {
            self.partial.get_or_insert_default().head.extend_from_slice(rest);
        }
        Ok(header)
    }

    /// What the decoder holds on the heap of what is half-way, without the box itself.
    pub fn buffer_bytes(&self) -> usize {
        self.partial
            .as_ref()
            .map_or(0, |partial| partial.head.capacity() + partial.message.capacity() + partial.control.capacity())
    }

    /// Whether nothing is half-way, so that the next byte begins a frame and a message. Owns nothing on the heap then.
    pub fn is_idle(&self) -> bool {
        self.partial.is_none()
    }

    fn gathered(&self, opcode: Opcode) -> &[u8] {
        match &self.partial {
            Some(partial) if opcode.is_control() => &partial.control,
            Some(partial) => &partial.message,
            None => &[],
        }
    }
}

impl Partial {
    fn fragmented(&self) -> Option<Fragmented> {
        let Header { opcode, is_deflated, .. } = self.fragmented?;
        Some(Fragmented { opcode, is_deflated, bytes: self.message.len() })
    }

    fn resume_header(&mut self, rest: &[u8], rules: Rules) -> Result<Option<(usize, Header)>, FrameError> {
        let had = self.head.len();
        self.head.extend_from_slice(&rest[..rest.len().min(HEADER_BYTES_MAX - had)]);
        let Some((size, header)) = Header::parse(&self.head, rules, self.fragmented())? else {
            return Ok(None);
        };
        self.head = Vec::new();
        Ok(Some((size - had, header)))
    }

    /// Adds unmasked payload to what `frame` belongs to. Returns whether that is complete now.
    fn gather(&mut self, frame: Header, payload: &[u8], message_bytes_max: usize) -> Result<bool, FrameError> {
        let is_control = frame.opcode.is_control();
        if payload.is_empty() && frame.left == 0 && !is_control {
            self.empty_fragments += 1;
            if self.empty_fragments > EMPTY_FRAGMENTS_MAX {
                return Err(FrameError::Protocol("a message of empty fragments"));
            }
        }
        let buffer = if is_control { &mut self.control } else { &mut self.message };
        let bytes_max = if frame.is_final { buffer.len() + frame.left } else { message_bytes_max };
        append(buffer, payload, bytes_max);
        if frame.opcode == Opcode::Text && !frame.is_deflated {
            self.refuse_non_utf8()?;
        }
        let left = frame.left - payload.len();
        if left > 0 {
            let mask = frame.mask.map(|mut mask| {
                mask.rotate_left(payload.len() % 4);
                mask
            });
            self.frame = Some(Header { mask, left, ..frame });
        } else if !is_control {
            self.fragmented = (!frame.is_final).then_some(frame);
        }
        Ok(left == 0 && frame.is_final)
    }

    /// Fails at the first byte that no further byte can make UTF-8; an unfinished code point at the end may stay.
    fn refuse_non_utf8(&mut self) -> Result<(), FrameError> {
        self.utf8_bytes += match simdutf8::compat::from_utf8(&self.message[self.utf8_bytes..]) {
            Ok(text) => text.len(),
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            Err(_) => return Err(FrameError::NotUtf8),
        };
        Ok(())
    }
}

/// Appends to a buffer that will never hold more than `bytes_max`. Its capacity follows what has arrived, at most
/// doubled, and not the length that a header announced, so that memory costs a peer as many bytes sent.
fn append(buffer: &mut Vec<u8>, bytes: &[u8], bytes_max: usize) {
    let needed = buffer.len() + bytes.len();
    if needed > buffer.capacity() {
        let capacity = needed.max((2 * buffer.capacity()).min(bytes_max));
        buffer.reserve_exact(capacity - buffer.len());
    }
    buffer.extend_from_slice(bytes);
}

/// Gathered text is checked a second time here, whole: that finds an unfinished end, needs no unsafe code, and costs
/// next to nothing beside the copy it was gathered by.
fn incoming(frame: Header, payload: &[u8]) -> Result<Incoming<'_>, FrameError> {
    Ok(match frame.opcode {
        opcode if frame.is_deflated => Incoming::Deflated { opcode, payload },
        Opcode::Text => Incoming::Text(text(payload)?),
        Opcode::Binary => Incoming::Binary(payload),
        Opcode::Ping => Incoming::Ping(payload),
        Opcode::Pong => Incoming::Pong(payload),
        Opcode::Close => close(payload)?,
    })
}

/// RFC 6455 sections 5.5.1 and 7.4.
fn close(payload: &[u8]) -> Result<Incoming<'_>, FrameError> {
    match payload {
        [] => Ok(Incoming::Close { code: None, reason: "" }),
        [_] => Err(FrameError::Protocol("a close frame with half a status code")),
        [high, low, reason @ ..] => {
            let code = u16::from_be_bytes([*high, *low]);
            if !may_be_sent(code) {
                return Err(FrameError::Protocol("a close frame with a status code that must not be sent"));
            }
            Ok(Incoming::Close { code: Some(code), reason: text(reason)? })
        }
    }
}

/// 1014 (bad gateway) was registered with IANA after tungstenite's list was made.
fn may_be_sent(code: u16) -> bool {
    code == 1014 || CloseCode::from(code).is_allowed()
}
